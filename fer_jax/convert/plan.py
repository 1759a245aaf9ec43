"""Turns a checkpoint's tensors into a model: sizes from shapes, every key accounted for."""

import dataclasses
import math

import numpy as np

from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.families import (
    DECODER_REASONS,
    Family,
    Sorted,
    recognise,
    sort_keys,
)
from fer_jax.convert.faults import check_head, faults_of, misfit, not_finite
from fer_jax.convert.options import Options
from fer_jax.convert.sizes import (
    check_stated,
    fusion_config,
    mae_config,
    stated,
    vit_config,
)
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.host_arrays import aligned_array
from fer_jax.labels import LabelSpace, label_map
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import Empty, ModelConfig, stacked, targets
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.resize import resize_position_embedding

HEADS = {"vit": "head", "fusion": "mlp.1"}
FRESH_HEAD_STD = 2e-5  # MAE's fine-tuning


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a tensor of the model comes from.

    Attributes:
        names: of its parts in `Checkpoint.tensors`, joined along axis 0; none for a fresh one.
        keys: the same as they stand in the file.
        transform: what is done to it, for people; `copy` if nothing is.
        rows: which rows are taken, in which order; None for all.
        grid: patches along a side that it is interpolated to; None for no change.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    transform: str = "copy"
    rows: tuple[int, ...] | None = None
    grid: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a file's tensors become; made from their names and shapes, before any is read.

    Attributes:
        config: the model.
        labels: what its outputs mean, if it has a head.
        head_labels: what the outputs of the file's head mean, if it is taken over.
        family: whose names the file has.
        reason: why it was taken.
        sources: target name -> where it comes from.
        dropped: key in the file -> why it is left out.
        position_resize: the kernel, for tensors that are interpolated.
    """

    config: ModelConfig
    labels: LabelSpace | None
    head_labels: LabelSpace | None
    family: Family
    reason: str
    sources: dict[str, Source]
    dropped: dict[str, str]
    position_resize: str

    @property
    def kind(self) -> str:
        """Of the bundle that is made."""
        if self.family.model == "fusion":
            return "fusion"
        if isinstance(self.config, MAEConfig):
            return "mae"
        return "classifier" if self.labels else "encoder"

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return sum(math.prod(target.torch_shape) for target in targets(self.config).values())

    def read(self, checkpoint: Checkpoint, target: str) -> np.ndarray:
        """A tensor of the model in PyTorch's layout, in the file's dtype, or float32 if computed.

        Raises:
            FerJaxError: it holds NaN or infinity.
        """
        source = self.sources[target]
        if not source.names:
            return _fresh(target, targets(self.config)[target].torch_shape)
        parts = [checkpoint.values(name) for name in source.names]
        with np.errstate(invalid="ignore"):  # a signalling NaN is one all the same
            for name, part in zip(source.names, parts, strict=True):
                if not np.isfinite(part).all():
                    raise not_finite(checkpoint, name)
        if len({part.dtype for part in parts}) > 1:
            parts = [part.astype(np.float32) for part in parts]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if source.rows is not None:
            values = values[list(source.rows)]
        if source.grid is not None:
            grid = (source.grid, source.grid)
            values = resize_position_embedding(values, grid, self.position_resize)
        return values


@dataclasses.dataclass(frozen=True)
class Conversion(Plan):
    """A plan that was carried out.

    Attributes:
        params: of `config.param_dtype`, on the host.
    """

    params: Params


def plan_conversion(checkpoint: Checkpoint, options: Options) -> Plan:
    """Says where each tensor of a file goes, and reads none.

    Args:
        checkpoint: an open file.
        options: what the file does not say.

    Returns:
        The plan, with every key of the file used or dropped for a reason.

    Raises:
        UsageError: something must be said on the command line: heads, pool, labels.
        FerJaxError: keys are left over, tensors are missing, shapes or dtypes do not fit: one error
            that lists all of them.
    """
    path = checkpoint.path
    family, reason = family_of(checkpoint, options.family)
    found = sort_keys(family, checkpoint.tensors)
    if not found.used:
        raise misfit(checkpoint, family, [], found)
    options = _completed(checkpoint, family, options)
    used = dict(found.used)
    dropped = dict(found.dropped)
    head = HEADS[family.model]
    for target in list(used):
        why = _left_out(target, found.used, head, options)
        if why:
            dropped |= dict.fromkeys(used.pop(target).values(), why)
    faults = []
    shapes: dict[str, tuple[int, ...]] = {}
    for target, parts in used.items():
        missing = found.parts[target] - len(parts)
        if missing:
            faults.append(f"{', '.join(parts.values())}: {missing} more of {target} are missing")
        shapes[target] = _joined([tuple(checkpoint.tensors[key].shape) for key in parts.values()])
    if options.labels is not None and not found.unknown:
        check_head(checkpoint, shapes, head, options.labels)
    try:
        in_file = _config(family, shapes, options)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except FerJaxError as error:
        raise misfit(checkpoint, family, [*faults, str(error)], found) from error
    faults += faults_of(checkpoint, in_file, used, shapes, head if options.fresh_head else None)
    if faults or found.unknown:
        raise misfit(checkpoint, family, faults, found)
    check_stated(path, family, in_file)
    names = {target: tuple(parts[i] for i in sorted(parts)) for target, parts in used.items()}
    try:
        config = _resized(in_file, options)
    except FerJaxError as error:
        raise UsageError(f"{path}: --image-size {options.image_size}: {error}") from error
    return Plan(
        config=_with_classes(config, options),
        labels=options.result_labels,
        head_labels=options.labels,
        family=family,
        reason=reason,
        sources=_sources(checkpoint, names, found, in_file, config, options, head),
        dropped={checkpoint.source_keys[key]: why for key, why in dropped.items()}
        | checkpoint.beside,
        position_resize=options.position_resize,
    )


def convert_checkpoint(checkpoint: Checkpoint, options: Options) -> Conversion:
    """Converts a model of a known family; `plan_conversion`, carried out.

    Raises:
        UsageError: as `plan_conversion`.
        FerJaxError: as `plan_conversion`, or a tensor holds NaN or infinity, or does when cast.
    """
    return carry_out(checkpoint, plan_conversion(checkpoint, options))


def carry_out(checkpoint: Checkpoint, plan: Plan, empty: Empty = aligned_array) -> Conversion:
    """Reads the tensors of a file one by one, into arrays that `empty` makes.

    Raises:
        FerJaxError: a tensor holds NaN or infinity, or does when cast.
    """
    dtype = np.dtype(plan.config.param_dtype)
    params = stacked(lambda name: cast(checkpoint, plan, name, dtype), plan.config, empty)
    return Conversion(**vars(plan), params=params)


def cast(checkpoint: Checkpoint, plan: Plan, target: str, dtype: np.dtype) -> np.ndarray:
    """A tensor of the model in the dtype of the bundle; a view of the file where that can be."""
    values = plan.read(checkpoint, target)
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):  # found below
        values = values.astype(dtype)
    if not np.isfinite(values).all():
        raise FerJaxError(
            f"{checkpoint.path}: {', '.join(plan.sources[target].names)} holds numbers too large "
            f"for {dtype}; pass another --dtype"
        )
    return values


def family_of(checkpoint: Checkpoint, name: str) -> tuple[Family, str]:
    """The family of a file, and why it is taken; `auto` goes by the keys."""
    try:
        return recognise(checkpoint.tensors, None if name == "auto" else name)
    except FerJaxError as error:
        raise FerJaxError(f"{checkpoint.path}: {error}") from error


def _completed(checkpoint: Checkpoint, family: Family, options: Options) -> Options:
    """The options with what stands beside the file; the command line goes first."""
    if family.model == "fusion":
        if options.result_labels is None:
            raise UsageError(
                f"{checkpoint.path}: is a fusion, whose outputs are classes; pass --labels with "
                "the space it was trained for (the entry: affwild2_expr)"
            )
        _refuse(checkpoint, options, _OF_IMAGES, "is a fusion, which takes no images")
    elif not options.decoder:
        _refuse(checkpoint, options, _OF_DECODERS, "its decoder is left out; pass --decoder")
    beside = stated(checkpoint.path, family)
    unsaid = {name: value for name, value in beside.items() if getattr(options, name) is None}
    return dataclasses.replace(options, **unsaid)


_OF_DECODERS = {"decoder_heads": "--decoder-heads", "norm_pix": "--norm-pix"}
_OF_IMAGES = _OF_DECODERS | {
    "image_size": "--image-size",
    "pool": "--pool",
    "num_heads": "--heads",
    "norm_eps": "--eps",
}


def _refuse(checkpoint: Checkpoint, options: Options, flags: dict[str, str], why: str) -> None:
    """Refuses wishes that would have no effect."""
    for field, flag in flags.items():
        if getattr(options, field) is not None:
            raise UsageError(f"{flag}: {checkpoint.path} {why}")


def _left_out(
    target: str, used: dict[str, dict[int, str]], head: str, options: Options
) -> str | None:
    """Why a tensor that the family knows is not taken over, if so."""
    part = target.rpartition(".")[0]
    if part == head and options.labels is None:
        if options.fresh_head:
            return "a fresh head was asked for"
        return "no labels were given for it, so an encoder is made"
    unused = {"cls": "fc_norm", "avg": "norm"}.get(options.pool or "")
    if part == unused and {"norm.weight", "fc_norm.weight"} <= used.keys():
        return f"it is not in use with --pool {options.pool}"
    if not options.decoder:
        return next((why for start, why in DECODER_REASONS if target.startswith(start)), None)
    return None


def _joined(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of parts joined along axis 0; as it stands if they cannot be."""
    if len(shapes) == 1 or not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
        return shapes[0]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _config(family: Family, shapes: dict[str, tuple[int, ...]], options: Options) -> ModelConfig:
    """The model as the file has it, its head as it is said to be."""
    classes = len(options.labels) if options.labels else 0
    if family.model == "fusion":
        return fusion_config(shapes, classes or len(options.result_labels), options.dtype)
    if options.decoder:
        return mae_config(family, shapes, options)
    return vit_config(family, shapes, options, classes)


def _resized(config: ModelConfig, options: Options) -> ModelConfig:
    if options.image_size is None:
        return config
    if isinstance(config, MAEConfig):
        return dataclasses.replace(config, encoder=_resized(config.encoder, options))
    return dataclasses.replace(config, image_size=options.image_size)


def _with_classes(config: ModelConfig, options: Options) -> ModelConfig:
    labels = options.result_labels
    return config if labels is None else dataclasses.replace(config, num_classes=len(labels))


def _grid(config: ModelConfig) -> int | None:
    """Patches along a side of a model that takes images."""
    if isinstance(config, MAEConfig):
        return config.encoder.grid
    return config.grid if isinstance(config, ViTConfig) else None


def _sources(
    checkpoint: Checkpoint,
    names: dict[str, tuple[str, ...]],
    found: Sorted,
    in_file: ModelConfig,
    config: ModelConfig,
    options: Options,
    head: str,
) -> dict[str, Source]:
    """Where each tensor of the model comes from, and what is done to it."""
    rows = _mapped_rows(checkpoint, options)
    sources = {}
    for target, parts in names.items():
        keys = tuple(checkpoint.source_keys[name] for name in parts)
        source = Source(parts, keys, "copy" if len(parts) == 1 else "joined")
        if target in found.positions and _grid(config) != _grid(in_file):
            transform = f"{options.position_resize} {_grid(in_file)} -> {_grid(config)}"
            source = dataclasses.replace(source, transform=transform, grid=_grid(config))
        if target.rpartition(".")[0] == head and rows is not None:
            transform = f"rows by name, {options.labels.name} -> {options.map_to.name}"
            source = dataclasses.replace(source, transform=transform, rows=rows)
        sources[target] = source
    if options.fresh_head:
        made = f"fresh: normal cut at 2 sigma, standard deviation {FRESH_HEAD_STD:g}, bias 0"
        sources |= {f"{head}.{leaf}": Source((), (), made) for leaf in ("weight", "bias")}
    return {target: sources[target] for target in targets(_with_classes(config, options))}


def _mapped_rows(checkpoint: Checkpoint, options: Options) -> tuple[int, ...] | None:
    """For each class of the result its row in the file's head."""
    if options.map_to is None:
        return None
    mapping = label_map(options.labels, options.map_to)
    if mapping.unreached:
        raise FerJaxError(
            f"{checkpoint.path}: a head for {options.labels.name} has no row for "
            f"{', '.join(mapping.unreached)} of {options.map_to.name}; map to a space within it, "
            f"or pass --fresh-head {options.map_to.name} and train"
        )
    return tuple(mapping.indices.index(row) for row in range(len(options.map_to)))


def _fresh(target: str, shape: tuple[int, ...]) -> np.ndarray:
    """A new head's weights, the same for the same shape; zeros for its bias."""
    if target.endswith(".bias"):
        return np.zeros(shape, np.float32)
    values = np.random.Generator(np.random.PCG64(0)).standard_normal(shape)
    return (FRESH_HEAD_STD * values.clip(-2, 2)).astype(np.float32)
