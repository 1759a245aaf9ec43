"""Meshes and where arrays live on them, by rule from their shapes.

The batch is split over both axes (`data`, `fsdp`). A parameter is split over `fsdp` along its
largest dimension that divides, never along axis 0 of a stacked leaf (the scan walks that axis);
small ones are copied to every device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from fer_jax.errors import UsageError
from fer_jax.models.vit import Params
from fer_jax.train.config import MeshConfig

# Leaves below this size cost more to gather than to keep.
_SMALL = 2**12


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh (data, fsdp).

    Args:
        config: its axes.
        devices: all there are, of all processes, if left out. Where they are of several slices (of
            a TPU, or nodes of GPUs), each slice takes a part of the axis `data`.

    Raises:
        UsageError: the axes do not multiply to the number of devices, or `fsdp` does not fit into
            a slice.
    """
    devices = list(jax.devices() if devices is None else devices)
    count, fsdp = len(devices), config.fsdp
    data = count // fsdp if config.data == -1 else config.data
    if data * fsdp != count:
        raise UsageError(
            f"config.mesh: data={config.data} x fsdp={fsdp} does not cover {count} "
            f"devices; set config.mesh.data=-1 and an fsdp that divides {count}"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if data % slices:
        raise UsageError(
            f"config.mesh.fsdp={fsdp}: does not fit into one of {slices} slices of "
            f"{count // slices} devices; set one that divides {count // slices}"
        )
    names, kinds = ("data", "fsdp"), (AxisType.Auto,) * 2
    if slices == 1:
        return jax.make_mesh((data, fsdp), names, axis_types=kinds, devices=devices)
    arranged = mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp), (slices, 1), devices, allow_split_physical_axes=True
    )
    return Mesh(arranged, names, axis_types=kinds)


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


def local_places(mesh: Mesh, batch_size: int) -> Int[np.ndarray, "n"]:
    """The places of a batch that this process's devices hold, rising."""
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    return np.sort(np.concatenate([np.arange(batch_size)[where] for where in held.values()]))


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch, those of `local_places`, to one array of all for each key."""
    sharding = batch_sharding(mesh)
    share = mesh.size // len(mesh.local_devices)

    def whole(rows: np.ndarray) -> jax.Array:
        shape = (len(rows) * share, *rows.shape[1:])
        places = local_places(mesh, shape[0])
        return _of_parts(
            shape, sharding, lambda where: rows[np.isin(places, np.arange(shape[0])[where[0]])]
        )

    return {name: whole(rows) for name, rows in batch.items()}


def spread(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds whole, as one array over the mesh."""
    leaf = np.asarray(leaf)
    return _of_parts(leaf.shape, sharding, lambda where: leaf[where])


def _of_parts(
    shape: tuple[int, ...],
    sharding: NamedSharding,
    part: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
    """An array of the parts that this process's devices hold, moved explicitly."""
    held = sharding.addressable_devices_indices_map(shape)
    parts = jax.device_put([part(where) for where in held.values()], list(held))
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)
