"""Turns a checkpoint's tensors into a ViT: sizes from shapes, every key accounted for."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.families import FAMILIES, Family, Sorted, recognise, sort_keys
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import LABEL_SPACES, LabelSpace
from fer_jax.models.torch_layout import from_torch_layout, targets
from fer_jax.models.vit import SIZES, Params, ViTConfig
from fer_jax.ops.resize import resize_position_embedding

MAX_DEPTH = 256  # blocks; the largest published ViT has 64


@dataclasses.dataclass(frozen=True)
class Options:
    """What a file cannot say, and what is wished to differ from it.

    Attributes:
        family: `mae` | `timm` | `auto`.
        labels: what the head's outputs mean; None leaves a head out.
        num_heads: attention heads; None takes them from the registered sizes.
        norm_eps: of every LayerNorm; None takes the family's.
        image_size: side of the input in pixels; None keeps the file's.
        pool: `cls` | `avg`; None goes by the norms that the file holds.
        position_resize: a name of `ops.resize.POSITION_KERNELS`.
    """

    family: str = "auto"
    labels: LabelSpace | None = None
    num_heads: int | None = None
    norm_eps: float | None = None
    image_size: int | None = None
    pool: str | None = None
    position_resize: str = "bicubic"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a file's tensors become; made from their names and shapes, before any is read.

    Attributes:
        config: the model.
        family: name of the family.
        reason: why it was taken.
        grid: patches along a side, in the file.
        names: target name -> the tensor's name in `Checkpoint.tensors`.
        sources: target name -> (key in the file, transform).
        dropped: key in the file -> why it is left out.
    """

    config: ViTConfig
    family: str
    reason: str
    grid: int
    names: dict[str, str]
    sources: dict[str, tuple[str, str]]
    dropped: dict[str, str]

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return sum(math.prod(target.torch_shape) for target in targets(self.config).values())


@dataclasses.dataclass(frozen=True)
class Conversion(Plan):
    """A plan that was carried out.

    Attributes:
        params: float32, on the host.
    """

    params: Params


def plan_vit(checkpoint: Checkpoint, options: Options) -> Plan:
    """Says where each tensor of a file goes, and reads none.

    Args:
        checkpoint: an open file.
        options: what the file does not say.

    Returns:
        The plan, with every key of the file used or dropped for a reason.

    Raises:
        UsageError: something must be said on the command line: heads, pool.
        FerJaxError: keys are left over, tensors are missing, shapes or dtypes do not fit: one error
            that lists all of them.
    """
    path = checkpoint.path
    family, reason = family_of(checkpoint, options.family)
    sorted_keys = sort_keys(family, checkpoint.tensors)
    dropped = dict(sorted_keys.dropped)
    names = {target: key for target, (key, _) in sorted_keys.used.items()}
    left_out = {"head": "no labels were given for it, so an encoder is made"}
    if options.labels is not None:
        left_out = {}
        _check_head(checkpoint, names, options.labels)
    if {"norm.weight", "fc_norm.weight"} <= names.keys() and options.pool:
        other = "fc_norm" if options.pool == "cls" else "norm"
        left_out[other] = f"it is not in use with --pool {options.pool}"
    for target in list(names):
        if target.split(".")[0] in left_out:
            dropped[names.pop(target)] = left_out[target.split(".")[0]]
    shapes = {target: tuple(checkpoint.tensors[key].shape) for target, key in names.items()}
    try:
        in_file = _infer(family, shapes, options)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except FerJaxError as error:
        raise _misfit(checkpoint, family, [str(error)], sorted_keys) from error
    faults = _faults(checkpoint, in_file, names, shapes)
    if faults or sorted_keys.unknown:
        raise _misfit(checkpoint, family, faults, sorted_keys)
    config = dataclasses.replace(in_file, image_size=options.image_size or in_file.image_size)
    sources = {
        target: (checkpoint.source_keys[key], sorted_keys.used[target][1].transform)
        for target, key in names.items()
    }
    for target, (key, transform) in sources.items():
        if transform == "positions":
            moved = f"{options.position_resize} {in_file.grid} -> {config.grid}"
            sources[target] = (key, "copy" if config.grid == in_file.grid else moved)
    dropped = {checkpoint.source_keys[key]: why for key, why in dropped.items()}
    return Plan(
        config=config,
        family=family.name,
        reason=reason,
        grid=in_file.grid,
        names=names,
        sources=sources,
        dropped=dropped | checkpoint.beside,
    )


def convert_vit(checkpoint: Checkpoint, options: Options) -> Conversion:
    """Converts a ViT of a known family; `plan_vit`, carried out.

    Raises:
        UsageError: as `plan_vit`.
        FerJaxError: as `plan_vit`, or a tensor holds NaN or infinity.
    """
    plan = plan_vit(checkpoint, options)
    tensors = {target: _float32(checkpoint, name) for target, name in plan.names.items()}
    if plan.grid != plan.config.grid:
        grid = (plan.config.grid, plan.config.grid)
        tensors["pos_embed"] = resize_position_embedding(
            tensors["pos_embed"], grid, options.position_resize
        )
    return Conversion(**vars(plan), params=from_torch_layout(tensors, plan.config))


def family_of(checkpoint: Checkpoint, name: str) -> tuple[Family, str]:
    """The family of a file, and why it is taken; `auto` goes by the keys."""
    if name != "auto":
        if name not in FAMILIES:
            raise UsageError(f"no family {name!r}; one of auto, {', '.join(FAMILIES)}")
        return FAMILIES[name], "it was asked for"
    try:
        return recognise(checkpoint.tensors)
    except FerJaxError as error:
        raise FerJaxError(f"{checkpoint.path}: {error}") from error


def _check_head(checkpoint: Checkpoint, used: Mapping[str, str], labels: LabelSpace) -> None:
    if "head.weight" not in used:
        raise UsageError(
            f"{checkpoint.path}: has no head for the labels {labels.name}; leave --labels out and "
            "an encoder is made"
        )
    shape = checkpoint.tensors[used["head.weight"]].shape
    if shape[:1] != (len(labels),):
        fitting = [name for name, space in LABEL_SPACES.items() if (len(space),) == shape[:1]]
        raise FerJaxError(
            f"{checkpoint.path}: its head has {shape[0] if shape else 'no'} classes, "
            f"{labels.name} has {len(labels)}; pass --labels with the space it was trained for "
            f"({', '.join(fitting) or 'none of that size is known'}), or none for an encoder"
        )


def _infer(family: Family, shapes: Mapping[str, tuple[int, ...]], options: Options) -> ViTConfig:
    """The model's configuration, from the shapes of its tensors and the options."""
    patch = _shape(shapes, "patch_embed.proj.weight", 4)
    positions = _shape(shapes, "pos_embed", 3)
    hidden = _shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0]
    width, patch_size = patch[0], patch[2]
    if not hidden:
        raise FerJaxError("blocks.0.mlp.fc1.weight: has no rows")
    grid = math.isqrt(max(positions[1] - 1, 0))
    if not width or not patch_size or grid * grid + 1 != positions[1] or not grid:
        raise FerJaxError(
            f"pos_embed: {positions[1]} rows, not one CLS row and a square grid of patches"
        )
    blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
    depth = max(blocks) + 1
    if depth > MAX_DEPTH:
        raise FerJaxError(f"blocks.{depth - 1}: more than {MAX_DEPTH} blocks")
    return ViTConfig(
        image_size=grid * patch_size,
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=_heads(options.num_heads, width, depth),
        mlp_ratio=_ratio(hidden, width),
        num_classes=len(options.labels) if options.labels else 0,
        pool=_pool(shapes, options.pool),
        layer_scale="blocks.0.ls1.gamma" in shapes,
        norm_eps=family.norm_eps if options.norm_eps is None else options.norm_eps,
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, rank: int) -> tuple[int, ...]:
    if name not in shapes:
        raise FerJaxError(f"missing: {name}, without which the model's size is not known")
    if len(shapes[name]) != rank:
        raise FerJaxError(f"{name}: shape {shapes[name]}, {rank} dimensions are expected")
    return shapes[name]


def registered_size(width: int, depth: int) -> str | None:
    """The name of the size in `models.vit.SIZES`, if it is one."""
    return next((name for name, size in SIZES.items() if size[:2] == (width, depth)), None)


def _heads(asked: int | None, width: int, depth: int) -> int:
    if asked is not None:
        if asked < 1 or width % asked:
            raise UsageError(f"--heads {asked} does not divide its width of {width}")
        return asked
    size = registered_size(width, depth)
    if size is not None:
        return SIZES[size][2]
    raise UsageError(
        f"width {width} and depth {depth} are no registered size, and weights do not say how many "
        "attention heads there are; pass --heads N"
    )


def _ratio(hidden: int, width: int) -> float:
    ratio = hidden / width
    if int(width * ratio) != hidden:  # the model computes the hidden width from the ratio
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _pool(shapes: Mapping[str, tuple[int, ...]], asked: str | None) -> str:
    norms = {
        pool for pool, norm in (("cls", "norm"), ("avg", "fc_norm")) if f"{norm}.weight" in shapes
    }
    if asked is not None:
        return asked
    if len(norms) > 1:
        raise UsageError(
            "it holds both norm and fc_norm; pass --pool cls or --pool avg to say which is in use"
        )
    return norms.pop() if norms else "cls"


def _faults(
    checkpoint: Checkpoint,
    config: ViTConfig,
    used: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """What does not fit, a line each; empty if all does."""
    wanted = targets(config)
    faults = [f"missing: {name}" for name in wanted if name not in used]
    for name, shape in shapes.items():
        if name not in wanted:
            faults.append(f"{used[name]}: has no place in the model")
        elif shape != wanted[name].torch_shape:
            faults.append(f"{used[name]}: shape {shape}, the model has {wanted[name].torch_shape}")
        elif checkpoint.tensors[used[name]].dtype.name not in _FLOATS:
            faults.append(f"{used[name]}: {checkpoint.tensors[used[name]].dtype}, not a float")
    return faults


_FLOATS = ("float64", "float32", "float16", "bfloat16")


def _misfit(checkpoint: Checkpoint, family: Family, faults: list[str], keys: Sorted) -> FerJaxError:
    lines = [*faults, *(f"{key}: not known to the family {family.name}" for key in keys.unknown)]
    return FerJaxError(
        f"{checkpoint.path}: is no ViT of the family {family.name}, {len(lines)} faults; "
        "pass another --family, or another file:\n" + "\n".join(f"  {line}" for line in lines)
    )


def _float32(checkpoint: Checkpoint, key: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # of float64; found below
        values = np.asarray(checkpoint.values(key), np.float32)
    if not np.isfinite(values).all():
        raise FerJaxError(
            f"{checkpoint.path}: {key} holds NaN or infinity; use a checkpoint from before the "
            "training diverged"
        )
    return values
