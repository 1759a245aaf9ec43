"""The layers that the fusions share, as plain functions of a dict of arrays, in float32."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Params = dict[str, Any]


def linear(params: Params, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
    """Kernel (inputs, outputs) and bias over the last axis."""
    flat = x.reshape(-1, x.shape[-1]) @ params["kernel"] + params["bias"][None]
    return flat.reshape(*x.shape[:-1], -1)


def linear_init(key: Key[Array, ""], inputs: int, outputs: int) -> Params:
    r"""A kernel and a bias, uniform in :math:`\pm 1 / \sqrt{\text{inputs}}`, as PyTorch has it."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(inputs)
    return {
        "kernel": uniform(kernel_key, (inputs, outputs), bound),
        "bias": uniform(bias_key, (outputs,), bound),
    }


def uniform(key: Key[Array, ""], shape: tuple[int, ...], bound: float) -> Float[Array, "..."]:
    """Numbers in [-bound, bound)."""
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def layer_norm(params: Params, x: Float[Array, "*b d"], epsilon: float) -> Float[Array, "*b d"]:
    """LayerNorm over the last axis, with the biased variance."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    scale, bias = (params[name].reshape(*(1,) * (x.ndim - 1), -1) for name in ("scale", "bias"))
    return centred * jax.lax.rsqrt(variance + epsilon) * scale + bias


def layer_norm_init(width: int) -> Params:
    """The identity."""
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def dropout(
    x: Float[Array, "*b d"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "*b d"]:
    """Zeroes a share of the numbers and scales the rest to keep the mean; without a key, nothing.

    Args:
        x: features.
        rate: the share, in [0, 1), static.
        key: given when training.
    """
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def cast(params: Params, dtype: str) -> Params:
    """Params in another type."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
