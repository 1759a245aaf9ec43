"""The GELU and the attention of the blocks, against float64 and against jax's own."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from fer_jax.models.blocks import attend, gelu


def exact(x):
    return x * special.ndtr(x)


def exact_slope(x):
    return special.ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


X = np.concatenate([np.linspace(-8, 8, 4001), [-30.0, 30.0, 0.0, -1e-30]]).astype(np.float32)


def test_gelu_is_exact_in_float32_with_its_slope():
    """Measured 6.5e-7 at -6.7: x times the rounding of 1 + erf; the slope 3e-7."""
    wide = X.astype(np.float64)
    np.testing.assert_allclose(gelu(jnp.asarray(X)), exact(wide), rtol=2e-7, atol=1e-6)
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(X))
    np.testing.assert_allclose(slope, exact_slope(wide), atol=1e-6)
    _, forward = jax.jvp(gelu, (jnp.asarray(X),), (jnp.full(X.shape, 2.0),))
    np.testing.assert_allclose(forward, 2 * slope, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gelu_rounds_once(dtype):
    x = jnp.asarray(X, dtype)
    found = gelu(x)
    assert found.dtype == x.dtype
    expected = gelu(x.astype(jnp.float32)).astype(dtype)
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))
    assert jax.vmap(jax.grad(gelu))(x).dtype == x.dtype


def test_gelu_keeps_one_array_of_its_type_for_the_backward_pass():
    x = jnp.ones((16, 64), jnp.bfloat16)
    _, backward = jax.vjp(lambda x: gelu(x), x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if getattr(leaf, "size", 0) >= x.size]
    assert [(leaf.shape, leaf.dtype) for leaf in kept] == [(x.shape, x.dtype)]


def drawn(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((2, 7, 3, 8)), dtype) for _ in range(3)]


def test_attention_is_the_softmax_of_scaled_scores():
    query, key, value = (np.asarray(part, np.float64) for part in drawn(jnp.float32))
    scores = np.einsum("bthd,bshd->bhts", query, key) / math.sqrt(8)
    weights = special.softmax(scores, axis=-1)
    expected = np.einsum("bhts,bshd->bthd", weights, value)
    # Measured 3e-7: float32.
    np.testing.assert_allclose(attend(*drawn(jnp.float32)), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_attention_and_its_gradients_are_those_of_jax(dtype, tolerance):
    """Measured 4e-7, and of bfloat16 one or two of its roundings, 8e-3."""

    def loss(function, parts):
        return jnp.square(function(*parts).astype(jnp.float32)).sum()

    found = jax.grad(lambda parts: loss(attend, parts))(drawn(dtype))
    theirs = jax.grad(lambda parts: loss(jax.nn.dot_product_attention, parts))(drawn(dtype))
    for ours, other in zip(found, theirs, strict=True):
        assert ours.dtype == dtype
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), np.asarray(other, np.float32), atol=tolerance * scale
        )
