"""From a checkpoint file to a bundle on disk, with its provenance and its proof."""

import dataclasses
import functools
import json
import math
import os
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fer_jax import __version__
from fer_jax.atomic import atomic_file, check_free
from fer_jax.bundle import DOCUMENT_FILE, Bundle, View, save_bundle
from fer_jax.convert.checkpoint import Checkpoint, open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import (
    Conversion,
    Plan,
    carry_out,
    family_of,
    plan_conversion,
)
from fer_jax.convert.proof import Proof, prove
from fer_jax.convert.report import JSON_FILE, MARKDOWN_FILE, report_document, report_markdown
from fer_jax.errors import UsageError
from fer_jax.golden import compile_golden
from fer_jax.host_arrays import aligned_array, array_in_file
from fer_jax.labels import label_space
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import Empty, ModelConfig, layout, param_shapes
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.ops.resize import KERNELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """What the user says about a file; the fields are those of `fer-jax convert`."""

    normalize: str | None = None
    labels: str | None = None
    map_labels: str | None = None
    fresh_head: str | None = None
    family: str = "auto"
    decoder: bool = False
    num_heads: int | None = None
    decoder_heads: int | None = None
    norm_pix: bool | None = None
    norm_eps: float | None = None
    image_size: int | None = None
    pool: str | None = None
    position_resize: str = "bicubic"
    dtype: str = "float32"
    resize: str = "bicubic_antialias"
    template: str = "unknown"
    license: str = "not stated"
    prove: bool = True


@dataclasses.dataclass(frozen=True)
class Report:
    """What is made of a file, or would be.

    Attributes:
        source: the file.
        plan: where its tensors go.
        license: of the weights.
        proof: that the result computes the same; None if it was not asked for.
        failure: where the report of a proof that failed stands.
    """

    source: Path
    plan: Plan
    license: str
    proof: Proof | None = None
    failure: Path | None = None

    def lines(self, *, every_key: bool = False) -> list[str]:
        """The report, for people; with `every_key`, all that is left out and the bytes, too."""
        plan = self.plan
        lines = [
            f"{self.source.name}: family {plan.family.name}, {plan.reason}",
            f"{describe_model(plan.config)}; {plan.parameters:,} parameters from "
            f"{len(plan.sources)} tensors, {plan.config.param_dtype}",
        ]
        plain = ("copy", "joined")
        lines += [
            f"{name}: {source.transform}"
            for name, source in plan.sources.items()
            if source.transform not in plain
        ]
        if every_key:
            lines += [f"left out: {key}: {reason}" for key, reason in plan.dropped.items()]
            lines.append(
                f"bytes: {self.source.stat().st_size:,} in the file, {_bytes(plan.config):,} of "
                f"{plan.config.param_dtype} in the bundle"
            )
        else:
            lines += [
                f"left out: {_some(keys)}: {reason}"
                for reason, keys in by_reason(plan.dropped).items()
            ]
        labels = plan.labels
        what = f"labels {labels.name}: {', '.join(labels.classes)}" if labels else "no labels"
        lines.append(f"kind {plan.kind}, {what}; licence: {self.license}")
        if self.proof:
            lines.append(self.proof.summary())
        return lines


def describe_model(config: ModelConfig) -> str:
    """A model's size in a line."""
    if isinstance(config, EntryFusionConfig):
        main, aux = config.widths
        return f"fusion of {main} and {aux} features, {config.width} wide"
    if isinstance(config, MAEConfig):
        return (
            f"MAE, encoder {describe_model(config.encoder)}; decoder {config.decoder_width} wide, "
            f"{config.decoder_depth} blocks, {config.decoder_num_heads} heads"
        )
    return (
        f"ViT {config.width} wide, {config.depth} blocks, {config.num_heads} heads, patch "
        f"{config.patch_size}, {config.image_size} pixels, pool {config.pool}"
        f"{', LayerScale' if config.layer_scale else ''}, LayerNorm eps {config.norm_eps:g}"
    )


def _bytes(config: ModelConfig) -> int:
    return sum(dtype.itemsize * math.prod(shape) for shape, dtype in layout(config).values())


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f", ... ({len(keys)} in all)" if len(keys) > 3 else "")


def by_reason(dropped: dict[str, str]) -> dict[str, list[str]]:
    """The keys that were left out, for each reason."""
    keys = defaultdict(list)
    for key, reason in dropped.items():
        keys[reason].append(key)
    return dict(keys)


def plan_file(source: str | os.PathLike[str], options: ReleaseOptions) -> Report:
    """Says what `convert_file` would make of a file; reads no tensor and writes nothing.

    Raises:
        UsageError: something is missing on the command line.
        FerJaxError: the file is no checkpoint of a known family; see `plan_conversion`.
    """
    wishes = _options(options)
    checkpoint = open_checkpoint(source)
    _check_normalize(checkpoint, options)
    plan = plan_conversion(checkpoint, wishes)
    return Report(Path(source), plan, options.license)


def convert_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ReleaseOptions,
    *,
    overwrite: bool = False,
) -> Report:
    """Converts a checkpoint file to a bundle, and proves that it computes the same.

    Args:
        source: a `.pth` (zip format) or `.safetensors` file.
        out: the folder to make. If the proof fails no bundle is written, and the report stands
            beside it, at `OUT.report.md` and `OUT.report.json`.
        options: what the file cannot say.
        overwrite: replace `out` if it exists.

    Returns:
        What was made; `Report.proof` says whether it passed.

    Raises:
        UsageError: something is missing on the command line.
        FerJaxError: the file is no checkpoint of a known family; see `convert_checkpoint`.
    """
    source, out = Path(source), Path(out)
    wishes = _options(options)
    check_free(out, marker=DOCUMENT_FILE, overwrite=overwrite)
    checkpoint = open_checkpoint(source)
    _check_normalize(checkpoint, options)
    plan = plan_conversion(checkpoint, wishes)
    view = _view(plan.config, options)
    name = "fusion" if view is None else "main"
    bundle = Bundle(
        kind=plan.kind,
        models={name: (plan.config, param_shapes(plan.config))},
        views={} if view is None else {name: view},
        labels=plan.labels,
        license=options.license,
    )
    # The hash and the golden sample's program need no parameter: both cores are at work.
    with ThreadPoolExecutor(2) as pool:
        compiling = pool.submit(compile_golden, bundle)
        hashing = pool.submit(checkpoint.sha256)
        conversion = carry_out(checkpoint, plan, _room(out, plan.config))
        bundle = dataclasses.replace(
            bundle,
            models={name: (conversion.config, conversion.params)},
            provenance=_provenance(checkpoint, hashing.result(), conversion, options),
        )
        proof = prove(checkpoint, conversion, view) if options.prove else None
        documents = {}
        if proof is not None:
            document = report_document(checkpoint, conversion, bundle.provenance["source"], proof)
            documents = {
                JSON_FILE: json.dumps(document, indent=2, allow_nan=False) + "\n",
                MARKDOWN_FILE: report_markdown(document),
            }
        if proof is None or proof.passed:
            save_bundle(
                bundle, out, overwrite=overwrite, documents=documents, program=compiling.result
            )
            for name in (JSON_FILE, MARKDOWN_FILE):  # of an attempt that failed
                _beside(out, name).unlink(missing_ok=True)
            return Report(source, conversion, options.license, proof)
    for name, content in documents.items():
        with atomic_file(_beside(out, name)) as partial:
            partial.write_text(content, encoding="utf-8")
    failure = _beside(out, MARKDOWN_FILE)
    return Report(source, conversion, options.license, proof, failure)


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


def _room(out: Path, config: ModelConfig) -> Empty:
    """Where parameters are kept: in unnamed files where `out` is to be, if it has room for them.

    The bundle must fit on the disk beside them; else they are kept in memory.
    """
    folders = out.absolute().parents
    folder = next(folder for folder in folders if folder.is_dir())
    if shutil.disk_usage(folder).free < 3 * _bytes(config):
        return aligned_array
    return functools.partial(array_in_file, folder)


def _view(config: ModelConfig, options: ReleaseOptions) -> View | None:
    if isinstance(config, EntryFusionConfig):
        return None
    mean, std = NORMALIZATIONS[options.normalize]
    return View(
        template=options.template,
        crop_source="unknown",
        image_size=config.image_size,
        resize=options.resize,
        mean=mean,
        std=std,
    )


def _provenance(
    checkpoint: Checkpoint, sha256: str, conversion: Conversion, options: ReleaseOptions
) -> dict[str, Any]:
    return {
        "made_by": f"fer-jax convert {__version__}",
        "source": {
            "file": checkpoint.path.name,
            "bytes": checkpoint.path.stat().st_size,
            "sha256": sha256,
            "format": checkpoint.format,
        },
        "family": conversion.family.name,
        "normalize": options.normalize,
        "tensors": {
            target: {"source": list(source.keys), "transform": source.transform}
            for target, source in conversion.sources.items()
        },
        "left_out": by_reason(conversion.dropped),
    }


def _options(options: ReleaseOptions) -> Options:
    """The wishes that concern the model, checked as far as no file is needed."""
    for flag, value, known in (
        ("--resize", options.resize, KERNELS),
        ("--normalize", options.normalize, (None, *NORMALIZATIONS)),
    ):
        if value not in known:
            names = ", ".join(name for name in known if name)
            raise UsageError(f"{flag} {value!r} must be one of {names}")
    spaces = {
        field: label_space(name) if (name := getattr(options, field)) else None
        for field in ("labels", "map_labels", "fresh_head")
    }
    same = ("family", "decoder", "num_heads", "decoder_heads", "norm_pix", "norm_eps")
    same += ("image_size", "pool", "position_resize", "dtype")
    return Options(
        labels=spaces["labels"],
        map_to=spaces["map_labels"],
        fresh_head=spaces["fresh_head"],
        **{name: getattr(options, name) for name in same},
    )


def _check_normalize(checkpoint: Checkpoint, options: ReleaseOptions) -> None:
    """A model of images needs a mean and a standard deviation, a fusion has no use for them."""
    family, _ = family_of(checkpoint, options.family)
    if family.model == "fusion" and options.normalize is not None:
        raise UsageError("--normalize is for models of images; a fusion takes features")
    if family.model != "fusion" and options.normalize is None:
        raise UsageError("--normalize is missing: imagenet or mae_face, as the model was trained")
