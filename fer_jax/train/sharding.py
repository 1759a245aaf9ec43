"""Meshes and where arrays live on them, by rule from their shapes.

The batch is split over both axes (`data`, `fsdp`). A parameter is split over `fsdp` along its
largest dimension that divides, never along axis 0 of a stacked leaf (the scan walks that axis);
small ones are copied to every device.
"""

from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import UsageError
from fer_jax.models.vit import Params
from fer_jax.train.config import MeshConfig

# Leaves below this size cost more to gather than to keep.
_SMALL = 2**12


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh (data, fsdp) over all devices.

    Raises:
        UsageError: the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    data = devices // config.fsdp if config.data == -1 else config.data
    if data * config.fsdp != devices:
        raise UsageError(
            f"config.mesh: data={config.data} x fsdp={config.fsdp} does not cover {devices} "
            f"devices; set config.mesh.data=-1 and an fsdp that divides {devices}"
        )
    return jax.make_mesh((data, config.fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of params, or of an optimiser state that mirrors them.

    Args:
        tree: arrays or shapes; a leaf below a key `blocks` is taken as stacked.
        mesh: from `make_mesh`.

    Returns:
        A tree of NamedSharding.
    """
    fsdp = mesh.shape["fsdp"]

    def rule(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        stacked = any(getattr(key, "key", None) == "blocks" for key in path)
        axes = range(1 if stacked else 0, len(leaf.shape))
        fitting = [axis for axis in axes if leaf.shape[axis] % fsdp == 0]
        if fsdp == 1 or np.prod(leaf.shape) < _SMALL or not fitting:
            return replicated(mesh)
        largest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * largest, "fsdp"))

    return jax.tree_util.tree_map_with_path(rule, tree)


def unsharded_leaves(params: Params, mesh: Mesh) -> list[str]:
    """Names of the large leaves that no rule could split, to be told to the user."""
    if mesh.shape["fsdp"] == 1:
        return []
    shardings = traverse_util.flatten_dict(parameter_shardings(params, mesh), sep="/")
    leaves = traverse_util.flatten_dict(params, sep="/")
    return [
        name
        for name, sharding in shardings.items()
        if sharding.is_fully_replicated and np.prod(leaves[name].shape) >= _SMALL
    ]


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch to one global, sharded array for each key."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
