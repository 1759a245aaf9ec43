"""Weights from a file straight onto a mesh: each device's part is cut from the mapped file.

No host copy of the model is made, and no device ever holds more than its own part. What the file
has in several parts (Hugging Face's query, key and value) or at another size (positions) is made
whole on the host, one tensor at a time.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding

from fer_jax.bundle import PARAMS_FILE, read_document
from fer_jax.convert.checkpoint import Checkpoint, open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import Plan, plan_conversion
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.torch_layout import (
    ModelConfig,
    Target,
    cut_from_torch_layout,
    param_shapes,
    targets,
)
from fer_jax.models.vit import Params
from fer_jax.safetensors_file import read_safetensors
from fer_jax.train.sharding import parameter_shardings

Read = Callable[[str], np.ndarray]


def load_sharded(
    path: str | os.PathLike[str],
    mesh: Mesh,
    options: Options | None = None,
    *,
    model: str | None = None,
) -> tuple[ModelConfig, Params]:
    """Loads a checkpoint or a bundle onto a mesh, leaf by leaf.

    Neither the golden sample nor the proof is computed: both need the whole model in one place.
    Convert once with the proof, then load the bundle as often as needed.

    Args:
        path: a `.pth` or `.safetensors` file, or a bundle's folder.
        mesh: from `make_mesh`; parameters are split over its axis `fsdp` by the rule of training.
        options: what a checkpoint cannot say; not for bundles.
        model: which model of a bundle, if it has several.

    Returns:
        The model's configuration, and its params as jax Arrays of `config.param_dtype`.

    Raises:
        UsageError: options for a bundle, or no choice between its models.
        FerJaxError: as `plan_conversion` or `read_document`; a tensor is missing, has the wrong
            shape, or holds NaN or infinity.
    """
    path = Path(path)
    if path.is_dir():
        if options is not None:
            raise UsageError(f"{path}: options are for a checkpoint, this is a bundle")
        config, read = _open_bundle(path, model)
    else:
        checkpoint = open_checkpoint(path)
        plan = plan_conversion(checkpoint, options or Options())
        config, read = plan.config, functools.partial(_read, checkpoint, plan)
    leaves: dict[str, list[Target]] = {}
    for target in targets(config).values():
        leaves.setdefault(target.path, []).append(target)
    wanted = param_shapes(config)
    shapes = traverse_util.flatten_dict(wanted, sep="/")
    shardings = traverse_util.flatten_dict(parameter_shardings(wanted, mesh), sep="/")
    params = {
        leaf: _place(path, parts, shapes[leaf], shardings[leaf], read)
        for leaf, parts in leaves.items()
    }
    return config, traverse_util.unflatten_dict(params, sep="/")


def _place(
    path: Path,
    parts: list[Target],
    leaf: jax.ShapeDtypeStruct,
    sharding: NamedSharding,
    read: Read,
) -> jax.Array:
    """One leaf: every device asks for its part."""

    def part(index: tuple[slice, ...]) -> np.ndarray:
        if parts[0].block is None:
            values = cut_from_torch_layout(read(parts[0].name), parts[0], index)
        else:
            blocks = parts[index[0]] if index else parts
            cuts = [cut_from_torch_layout(read(own.name), own, index[1:]) for own in blocks]
            values = np.stack(cuts)
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            values = np.asarray(values, leaf.dtype)
        if not np.isfinite(values).all():
            raise FerJaxError(
                f"{path}: {parts[0].name} (or another block's) holds NaN, infinity or numbers too "
                f"large for {leaf.dtype}"
            )
        return values

    return jax.make_array_from_callback(leaf.shape, sharding, part, dtype=leaf.dtype)


def _read(checkpoint: Checkpoint, plan: Plan, target: str) -> np.ndarray:
    """A tensor as a view of the file where that can be, else computed whole."""
    source = plan.sources[target]
    if len(source.names) == 1 and source.rows is None and source.grid is None:
        return checkpoint.values(source.names[0])
    return plan.read(checkpoint, target)


def _open_bundle(path: Path, model: str | None) -> tuple[ModelConfig, Read]:
    configs, _, _ = read_document(path)
    if model is None and len(configs) > 1:
        raise UsageError(f"{path}: holds the models {', '.join(configs)}; name one")
    model = model or next(iter(configs))
    if model not in configs:
        raise UsageError(f"{path}: has no model {model!r}; it holds {', '.join(configs)}")
    config = configs[model]
    tensors = read_safetensors(path / PARAMS_FILE)
    wanted = {f"{model}/{name}": target for name, target in targets(config).items()}
    wrong = [
        name
        for name, target in wanted.items()
        if name not in tensors
        or tuple(tensors[name].shape) != target.torch_shape
        or tensors[name].dtype != config.param_dtype
    ]
    if wrong:
        raise FerJaxError(
            f"{path}: {', '.join(wrong[:5])} ({len(wrong)} in all) are missing or of another shape "
            "or dtype than bundle.json says; convert or train again"
        )
    return config, lambda name: tensors[f"{model}/{name}"]
