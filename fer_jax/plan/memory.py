"""What each chip must keep, by arithmetic: shapes and their shardings, no compiler."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.train import sharding
from fer_jax.train.state import TrainState, state_shardings


def arithmetic(state: TrainState, batch: Any, mesh: Mesh) -> dict[str, int]:
    """Bytes of one chip's part of the state and of a batch.

    Args:
        state: shapes of it.
        batch: shapes of a global batch.
        mesh: the devices.

    Returns:
        `params`, `optimizer` (all else that the step carries on) and `batch`. The compiler's own
        account is larger: it pads the last two dimensions to tiles.
    """
    shardings = state_shardings(state, mesh)
    whole = per_chip_bytes(state, shardings)
    params = per_chip_bytes(state.params, shardings.params)
    one = sharding.batch_sharding(mesh)
    return {
        "params": params,
        "optimizer": whole - params,
        "batch": per_chip_bytes(batch, jax.tree.map(lambda _: one, batch)),
    }


def per_chip_bytes(shapes: Any, shardings: Any) -> int:
    """Bytes of one device's part of a tree of shapes that is sharded so."""
    parts = jax.tree.map(
        lambda leaf, own: math.prod(own.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize,
        shapes,
        shardings,
    )
    return sum(jax.tree.leaves(parts))
