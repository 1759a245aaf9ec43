"""What keeps a file from being the model that it is taken for, said so that a person can act."""

from collections.abc import Iterator

from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.families import Family, Sorted
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import LABEL_SPACES, LabelSpace
from fer_jax.models.torch_layout import ModelConfig, targets

_FLOATS = ("float64", "float32", "float16", "bfloat16")


def check_head(
    checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]], head: str, labels: LabelSpace
) -> None:
    """Refuses labels that the file's head does not have.

    Raises:
        UsageError: there is no head.
        FerJaxError: it has another number of classes.
    """
    if f"{head}.weight" not in shapes:
        raise UsageError(
            f"{checkpoint.path}: has no head for the labels {labels.name}; leave --labels out and "
            "an encoder is made, or pass --fresh-head"
        )
    shape = shapes[f"{head}.weight"]
    if shape[:1] != (len(labels),):
        fitting = [name for name, space in LABEL_SPACES.items() if (len(space),) == shape[:1]]
        raise FerJaxError(
            f"{checkpoint.path}: its head has {shape[0] if shape else 'no'} classes, "
            f"{labels.name} has {len(labels)}; pass --labels with the space it was trained for "
            f"({', '.join(fitting) or 'none of that size is known'}), and --map-labels "
            f"{labels.name} to pick its classes, or none for an encoder"
        )


def faults_of(
    checkpoint: Checkpoint,
    config: ModelConfig,
    used: dict[str, dict[int, str]],
    shapes: dict[str, tuple[int, ...]],
    fresh: str | None,
) -> Iterator[str]:
    """What does not fit, a line each."""
    wanted = targets(config)
    for target in wanted:
        if target not in used and target.rpartition(".")[0] != fresh:
            yield f"missing: {target}"
    for target, shape in shapes.items():
        keys = list(used[target].values())
        name = " + ".join(keys)
        if target not in wanted:
            yield f"{name}: has no place in the model"
        elif shape != wanted[target].torch_shape:
            yield f"{name}: shape {shape}, the model has {wanted[target].torch_shape}"
        for key in keys:
            if target in wanted and checkpoint.tensors[key].dtype.name not in _FLOATS:
                yield f"{key}: {checkpoint.tensors[key].dtype}, not a float"


def misfit(checkpoint: Checkpoint, family: Family, faults: list[str], found: Sorted) -> FerJaxError:
    """The error that lists all faults, keys that the family does not know among them."""
    lines = [*faults, *(f"{key}: not known to the family {family.name}" for key in found.unknown)]
    what = "fusion" if family.model == "fusion" else "ViT"
    return FerJaxError(
        f"{checkpoint.path}: is no {what} of the family {family.name}, {len(lines)} faults; "
        "pass another --family, or another file:\n" + "\n".join(f"  {line}" for line in lines)
    )


def not_finite(checkpoint: Checkpoint, name: str) -> FerJaxError:
    """The error of a tensor that holds NaN or infinity."""
    return FerJaxError(
        f"{checkpoint.path}: {name} holds NaN or infinity; use a checkpoint from before the "
        "training diverged"
    )
