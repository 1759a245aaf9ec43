"""What every training step ends with: gradients from parts of a batch, and the update by them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fer_jax.models.vit import Params
from fer_jax.train.state import TrainState

# (params, inputs, key) -> the sum of the losses, and what it is divided by.
Sums = Callable[[Params, Any, jax.Array], tuple[Array, Array]]


def gradients_of_parts(
    sums: Sums, params: Params, inputs: Any, key: jax.Array, parts: int
) -> tuple[Float[Array, ""], Params]:
    """The mean loss over a batch and its gradients, from parts of it in turn; pure.

    Part j is of the rows j, j + n, j + 2 n, ..., so that each device goes on with rows that it
    holds.

    Args:
        sums: of one part; what it divides by does not depend on the parameters.
        params: what the gradients are of.
        inputs: a tree of arrays, axis 0 the batch, a multiple of `parts`.
        key: each part gets one of its own.
        parts: how many.
    """
    scanned = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), inputs
    )

    def add(total: tuple, part: tuple) -> tuple[tuple, None]:
        found = jax.value_and_grad(sums, has_aux=True)(params, *part)
        return jax.tree.map(jnp.add, total, found), None

    nothing = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    ((loss_sum, denominator), gradients), _ = jax.lax.scan(
        add, nothing, (scanned, jax.random.split(key, parts))
    )
    return loss_sum / denominator, jax.tree.map(lambda g: g / denominator, gradients)


def update(
    state: TrainState,
    gradients: Params,
    learning_rate: Float[Array, ""],
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """The state after one step of the optimiser; pure.

    Args:
        state: before.
        gradients: of the loss.
        learning_rate: of this step.
        optimizer: without its learning rate.
        ema_decay: of the moving average, where the state has one; after n updates at most
            (1 + n) / (10 + n).
    """
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p + learning_rate * u, state.params, updates)
    step = state.step + 1
    ema = None
    if state.ema is not None:
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
    return TrainState(step, params, opt_state, ema)
