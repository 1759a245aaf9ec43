"""A model card: what a bundle is, what it was made of, how well it does, what it is not for."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.bundle import PARAMS_FILE, Bundle, load_bundle
from fer_jax.errors import FerJaxError
from fer_jax.evaluate.report import markdown_table, percent, with_interval
from fer_jax.models.vit import ViTConfig
from fer_jax.predict.about import file_sha256
from fer_jax.predict.confidence import stored_calibration

_LIMITS = (
    "It names what a face shows, by the labels that people gave to pictures. What somebody feels "
    "cannot be read from it, and it must not decide, or help to decide, about people: not on "
    "hiring, schooling, credit, health, policing or the like.",
    "No action units, no valence or arousal.",
    "How well it does on people of one age, skin or culture was not measured apart, unless scores "
    "say so; the data are not balanced in that.",
)
# Of a training run's configuration: what a reader asks first.
_RECIPE = (
    ("view", "view"),
    ("epochs", "epochs"),
    ("batch", "batch_size"),
    ("peak rate for 256 faces", "optimizer.learning_rate"),
    ("loss", "loss.name"),
    ("class weights", "loss.class_weights"),
    ("soft labels", "loss.soft_labels"),
    ("data", "data"),
    ("sources", "sampling.source_weights"),
)


def model_card(
    path: str | os.PathLike[str],
    scores: Sequence[str | os.PathLike[str]] = (),
    notes: str = "",
) -> str:
    """The card of a bundle, as Markdown.

    Args:
        path: the bundle.
        scores: folders of `fer-jax evaluate`, of this bundle.
        notes: Markdown of one's own, such as known failures; stands before the limits.

    Returns:
        The text.

    Raises:
        FerJaxError: no bundle, or scores that are not of this bundle.
    """
    path = Path(path)
    bundle = load_bundle(path)
    digest = file_sha256(path / PARAMS_FILE)
    measured = [_metrics(Path(folder), digest) for folder in scores]
    lines = [f"# {path.resolve().name}", "", *_what(bundle, digest), ""]
    lines += ["## What it was made of", "", *_recipe(bundle.provenance), ""]
    lines += ["## Scores", "", *_scores(measured), ""]
    lines += ["## Confidence and time", "", *_confidence(bundle, measured), ""]
    lines += [notes.strip(), ""] if notes.strip() else []
    lines += ["## What it is not for", "", *(f"- {one}" for one in _limits(bundle)), ""]
    lines += ["## Use", "", "```python", "import fer_jax", ""]
    lines += [f'table = fer_jax.load("{path}").predict("photo.jpg")', "```", ""]
    return "\n".join(lines)


def _what(bundle: Bundle, digest: str) -> Iterator[str]:
    leaves = jax.tree.leaves(bundle.params)
    rows = [
        ("kind", bundle.kind),
        ("classes", ", ".join(bundle.labels.classes) if bundle.labels else "none"),
        ("parameters", f"{sum(leaf.size for leaf in leaves):,}, "
         + ", ".join(sorted({str(np.asarray(leaf).dtype) for leaf in leaves}))),
    ]  # fmt: skip
    for name, (config, _) in bundle.models.items():
        if isinstance(config, ViTConfig):
            view = bundle.views[name]
            rows.append(
                (
                    f"encoder `{name}`",
                    f"ViT, {config.depth} blocks of {config.width}, patches of "
                    f"{config.patch_size}; {view.view} of faces aligned as {view.template}, "
                    f"{view.image_size} pixels",
                )
            )
        else:
            rows.append((f"`{name}`", getattr(config, "variant", type(config).__name__)))
    rows += [("licence of the weights", bundle.license), ("SHA-256", f"`{digest}`")]
    yield from markdown_table(("", ""), rows, texts=(0, 1))


def _recipe(provenance: Mapping[str, Any]) -> Iterator[str]:
    """The way back from the bundle to what it began from, a line each."""
    steps = list(_steps(provenance))
    if not steps:
        yield "Its bundle does not say."
    for number, line in enumerate(steps, start=1):
        yield f"{number}. {line}"


def _steps(provenance: Mapping[str, Any] | None, what: str = "") -> Iterator[str]:
    if not provenance:
        return
    made = provenance.get("made_by", "not said")
    config = provenance.get("config", {})
    told = [f"{words} {value}" for words, field in _RECIPE if (value := _at(config, field))]
    source = provenance.get("source")
    if isinstance(source, Mapping):
        told.append(f"`{source.get('file')}`, SHA-256 `{source.get('sha256')}`")
    told += [f"{name} {provenance[name]}" for name in ("blocks", "dtype") if name in provenance]
    yield f"{what}`{made}`" + (f": {'; '.join(told)}" if told else "")
    for name, before in provenance.get("encoders", {}).items():
        yield from _steps(before, f"{name}: ")
    yield from _steps(provenance.get("backbone"), what)
    yield from _steps((provenance.get("bundle") or {}).get("provenance"), what)


def _at(config: Mapping[str, Any], field: str) -> Any:
    for name in field.split("."):
        config = config.get(name, {}) if isinstance(config, Mapping) else {}
    return config if config not in ({}, "none", "cross_entropy") else None


def _scores(measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not measured:
        yield "Not measured."
        return
    header = ("data", "images", "accuracy", "macro-F1", "calibration error", "surest half")
    rows = []
    for metrics in measured:
        confidence = metrics.get("confidence", {})
        half = [one for one in confidence.get("kept", ()) if 0.45 < one["coverage"] < 0.55]
        rows.append(
            (
                f"{Path(metrics['data']['path']).name}, {metrics['data']['split']}",
                f"{metrics['images']['scored']:,}",
                with_interval(metrics["accuracy"]),
                with_interval(metrics["macro_f1"]),
                f"{confidence['calibration_error']:.3f}" if confidence else "",
                with_interval(half[0] | {"value": half[0]["accuracy"]}) if half else "",
            )
        )
    yield from markdown_table(header, rows)
    level = percent(measured[0]["interval"]["level"])
    yield ""
    yield (
        f"Intervals: {level}, {measured[0]['interval']['method']}. `surest half`: accuracy of the "
        "half with the highest confidence."
    )
    yield ""
    names = [one["name"] for one in measured[0]["classes"]]
    rows = [
        (
            f"{Path(metrics['data']['path']).name}, {metrics['data']['split']}",
            *(f"{one['f1']:.2f}" for one in metrics["classes"]),
        )
        for metrics in measured
        if [one["name"] for one in metrics["classes"]] == names
    ]
    yield from markdown_table(("F1", *names), rows)


def _confidence(bundle: Bundle, measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"- {stored_calibration(bundle.calibration, bundle.smoothing)[2]}"
    if bundle.smoothing is None:
        yield (
            "- It has no filter over time of its own: no window was tuned on labelled video. Give "
            "one (`--smooth box --window 1s`), or find one (`fer-jax smooth --search`)."
        )
    else:
        yield f"- Frames are smoothed over time: {json.dumps(bundle.smoothing)}."


def _limits(bundle: Bundle) -> Iterator[str]:
    yield from _LIMITS
    if bundle.labels is not None and "Other" not in bundle.labels.classes:
        yield (
            "It knows no class `Other`: whatever it is shown becomes one of its classes. A "
            "submission to the ABAW challenge needs that class."
        )


def _metrics(folder: Path, digest: str) -> dict[str, Any]:
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        found = metrics["bundle"]["params_sha256"]
        _ = metrics["images"], metrics["confidence"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FerJaxError(
            f"{folder}: holds no scores of single images ({error!r}); make them with "
            "`fer-jax evaluate --bundle B --data DATA`"
        ) from None
    if found != digest:
        raise FerJaxError(f"{folder}: scores of another bundle, whose SHA-256 is {found}")
    return metrics
