"""From a checkpoint file to a bundle on disk, with its provenance."""

import dataclasses
import os
from collections import defaultdict
from pathlib import Path

from fer_jax import __version__
from fer_jax.bundle import Bundle, View, save_bundle
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.vit import Options, Plan, convert_vit, plan_vit
from fer_jax.errors import UsageError
from fer_jax.labels import LabelSpace, label_space
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.ops.resize import KERNELS, POSITION_KERNELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """What the user says about a file; the fields are those of `fer-jax convert`."""

    normalize: str
    labels: str | None = None
    family: str = "auto"
    num_heads: int | None = None
    norm_eps: float | None = None
    image_size: int | None = None
    pool: str | None = None
    position_resize: str = "bicubic"
    resize: str = "bicubic_antialias"
    template: str = "unknown"
    license: str = "not stated"


@dataclasses.dataclass(frozen=True)
class Report:
    """What is made of a file, or would be.

    Attributes:
        source: the file.
        plan: where its tensors go.
        labels: of the head, if there is one.
        license: of the weights.
    """

    source: Path
    plan: Plan
    labels: LabelSpace | None
    license: str

    def lines(self, *, every_key: bool = False) -> list[str]:
        """The report, for people; with `every_key`, all that is left out and the bytes, too."""
        plan, config = self.plan, self.plan.config
        lines = [
            f"{self.source.name}: family {plan.family}, {plan.reason}",
            f"ViT {config.width} wide, {config.depth} blocks, {config.num_heads} heads, "
            f"patch {config.patch_size}, {config.image_size} pixels, pool {config.pool}"
            f"{', LayerScale' if config.layer_scale else ''}; {plan.parameters:,} "
            f"parameters from {len(plan.sources)} tensors",
        ]
        lines += [
            f"positions: {transform}"
            for name, (_, transform) in plan.sources.items()
            if name == "pos_embed" and transform != "copy"
        ]
        if every_key:
            lines += [f"left out: {key}: {reason}" for key, reason in plan.dropped.items()]
            lines.append(
                f"bytes: {self.source.stat().st_size:,} in the file, "
                f"{4 * plan.parameters:,} of float32 in the bundle"
            )
        else:
            lines += [
                f"left out: {_some(keys)}: {reason}"
                for reason, keys in by_reason(plan.dropped).items()
            ]
        labels = self.labels
        what = f"labels {labels.name}: {', '.join(labels.classes)}" if labels else "no labels"
        kind = "classifier" if labels else "encoder"
        lines.append(f"kind {kind}, {what}; licence: {self.license}")
        return lines


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
        FerJaxError: the file is no ViT checkpoint of a known family; see `plan_vit`.
    """
    labels = _check(options)
    plan = plan_vit(open_checkpoint(source), _vit_options(options, labels))
    return Report(Path(source), plan, labels, options.license)


def convert_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ReleaseOptions,
    *,
    overwrite: bool = False,
) -> Report:
    """Converts a checkpoint file to a bundle.

    Args:
        source: a `.pth` (zip format) or `.safetensors` file.
        out: the folder to make.
        options: what the file cannot say.
        overwrite: replace `out` if it exists.

    Returns:
        What was made.

    Raises:
        UsageError: something is missing on the command line.
        FerJaxError: the file is no ViT checkpoint of a known family; see `convert_vit`.
    """
    source = Path(source)
    labels = _check(options)
    checkpoint = open_checkpoint(source)
    conversion = convert_vit(checkpoint, _vit_options(options, labels))
    mean, std = NORMALIZATIONS[options.normalize]
    view = View(
        template=options.template,
        crop_source="unknown",
        image_size=conversion.config.image_size,
        resize=options.resize,
        mean=mean,
        std=std,
    )
    bundle = Bundle(
        kind="encoder" if labels is None else "classifier",
        models={"main": (conversion.config, conversion.params)},
        views={"main": view},
        labels=labels,
        provenance={
            "made_by": f"fer-jax convert {__version__}",
            "source": {
                "file": source.name,
                "bytes": source.stat().st_size,
                "sha256": checkpoint.sha256(),
                "format": checkpoint.format,
            },
            "family": conversion.family,
            "normalize": options.normalize,
            "tensors": {
                target: {"source": key, "transform": transform}
                for target, (key, transform) in conversion.sources.items()
            },
            "left_out": by_reason(conversion.dropped),
        },
        license=options.license,
    )
    save_bundle(bundle, out, overwrite=overwrite)
    return Report(source, conversion, labels, options.license)


def _vit_options(options: ReleaseOptions, labels: LabelSpace | None) -> Options:
    return Options(
        family=options.family,
        labels=labels,
        num_heads=options.num_heads,
        norm_eps=options.norm_eps,
        image_size=options.image_size,
        pool=options.pool,
        position_resize=options.position_resize,
    )


def _check(options: ReleaseOptions) -> LabelSpace | None:
    """The label space that is asked for, if one is."""
    for flag, value, known in (
        ("--normalize", options.normalize, NORMALIZATIONS),
        ("--resize", options.resize, KERNELS),
        ("--position-resize", options.position_resize, POSITION_KERNELS),
    ):
        if value not in known:
            raise UsageError(f"{flag} {value!r} must be one of {', '.join(known)}")
    if options.norm_eps is not None and not 0 < options.norm_eps < 1:
        raise UsageError(f"--eps {options.norm_eps} must lie between 0 and 1")
    if options.image_size is not None and not 0 < options.image_size <= 4096:
        raise UsageError(f"--image-size {options.image_size} must lie between 1 and 4096")
    return label_space(options.labels) if options.labels else None
