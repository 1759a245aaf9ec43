"""Attention between scalars: one query, one key and one value a token, without the score matrix."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fer_jax.errors import FerJaxError

# Host arrays are as welcome as device arrays.
_Array = Array | np.ndarray


def scalar_attention(
    query: Float[_Array, "batch n"],
    key: Float[_Array, "batch n"],
    value: Float[_Array, "batch n"],
    *,
    block: int = 4,
) -> Float[Array, "batch n"]:
    r"""Attention whose tokens are single numbers: the softmax of an outer product, never stored.

    .. math::
        o_i = \sum_j p_{ij} v_j, \qquad
        p_{ij} = \frac{e^{q_i (k_j - m_i)}}{\sum_l e^{q_i (k_l - m_i)}}, \qquad
        m_i = \begin{cases} \max_j k_j & q_i \ge 0 \\ \min_j k_j & q_i < 0 \end{cases}

    The largest score of a row is known before the scores are, so one pass over the keys suffices,
    and the exponent is never above 0. With :math:`g = \partial L / \partial o` the gradients are

    .. math::
        \frac{\partial L}{\partial q_i} = g_i \operatorname{Cov}_{p_i}(v, k), \qquad
        \frac{\partial L}{\partial v_j} = \sum_i g_i p_{ij}, \qquad
        \frac{\partial L}{\partial k_j} = \sum_i g_i q_i p_{ij} (v_j - o_i)

    The covariance comes from the pass over the keys, the other two from one pass over the queries.
    Memory is O(batch x n), in both directions; a matrix of scores would be 4 GiB at 1024 x 1024.
    Both passes are elementwise in the batch, which may therefore be sharded. Reverse mode only:
    `jax.jvp` is refused.

    Args:
        query: q, one number a token; any float type, computed in float32 (float64 stays so).
        key: k.
        value: v.
        block: keys (queries in the backward pass) in one step of the loop, a Python number. Changes
            the speed, and the memory by about 4 x batch x n bytes each, but no result beyond
            rounding; n need not be a multiple of it.

    Returns:
        o, of the type that the inputs promote to.

    Raises:
        FerJaxError: `block` below 1.

    Example:
        >>> query = jnp.array([[0.0, 1000.0]])
        >>> scalar_attention(query, jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]])).tolist()
        [[4.0, 5.0]]

    Source:
        The fusion of the ABAW6 entry of arXiv:2403.13039, which is
        `torch.nn.MultiheadAttention(embed_dim=1, num_heads=1)` between its projections.
    """
    if block < 1:
        raise FerJaxError(f"{block=} must be at least 1; the default is 4")
    dtype = jnp.result_type(query, key, value)
    compute = jnp.promote_types(dtype, jnp.float32)
    query, key, value = (jnp.asarray(array, compute) for array in (query, key, value))
    # Adding a number to all values adds it to the output: around their mean, less cancels.
    mean = value.mean(axis=-1, keepdims=True)
    return (mean + _attention(query, key, value - mean, block)).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query: Array, key: Array, value: Array, block: int) -> Array:
    largest = _key_of_largest_score(query, key)

    def terms(k: Array, v: Array) -> tuple[Array, ...]:
        p = jnp.exp(query * (k - largest))
        return p, p * v

    total, weighted = _sum_over_tokens(terms, (key, value), block)
    return weighted / total


def _forward(query: Array, key: Array, value: Array, block: int) -> tuple[Array, tuple[Array, ...]]:
    """As `_attention`, with the two more sums that the gradient of the query is made of."""
    largest = _key_of_largest_score(query, key)

    def terms(k: Array, v: Array) -> tuple[Array, ...]:
        # The moments too are taken around the largest key: where the softmax is sharp, they would
        # otherwise be the small difference of large products.
        k = k - largest
        p = jnp.exp(query * k)
        return p, p * v, p * k, p * v * k

    total, *weighted = _sum_over_tokens(terms, (key, value), block)
    mean_v, mean_k, mean_vk = (each / total for each in weighted)
    covariance = mean_vk - mean_v * mean_k
    return mean_v, (query, key, value, mean_v, total, covariance)


def _backward(block: int, saved: tuple[Array, ...], gradient: _Array) -> tuple[Array, Array, Array]:
    query, key, value, output, total, covariance = saved
    largest = _key_of_largest_score(query, key)

    def terms(q: Array, m: Array, o: Array, g: Array) -> tuple[Array, ...]:
        p = g * jnp.exp(q * (key - m))
        return q * p * (value - o), p

    tokens = (query, largest, output, gradient / total)
    key_gradient, value_gradient = _sum_over_tokens(terms, tokens, block)
    return gradient * covariance, key_gradient, value_gradient


_attention.defvjp(_forward, _backward)


def _key_of_largest_score(query: Array, key: Array) -> Array:
    """The k_j for which q_i k_j is largest, for every i: the m_i of the formulas."""
    return jnp.where(query >= 0, key.max(-1, keepdims=True), key.min(-1, keepdims=True))


def _sum_over_tokens(
    terms: Callable[..., tuple[Array, ...]], tokens: tuple[Array, ...], block: int
) -> tuple[Array, ...]:
    """Sums `terms` of one token after the other; it is called with columns (batch, 1)."""
    n = tokens[0].shape[-1]
    tokens = tuple(array.T for array in tokens)

    def add(sums: tuple[Array, ...], tokens: tuple[Array, ...]) -> tuple[Array, ...]:
        # A block is summed before it is added: half the rounding of one long chain, and faster.
        parts = (terms(*(part[:, None] for part in token)) for token in zip(*tokens, strict=True))
        block_sums = functools.reduce(_add, parts)
        return _add(sums, block_sums)

    def whole(array: Array) -> Array:
        return array[: n - n % block].reshape(n // block, block, array.shape[1])

    shapes = jax.eval_shape(terms, *(array[0][:, None] for array in tokens))
    sums = tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
    blocks = tuple(map(whole, tokens))
    sums, _ = jax.lax.scan(lambda sums, tokens: (add(sums, tokens), None), sums, blocks)
    if n % block:
        sums = add(sums, tuple(array[n - n % block :] for array in tokens))
    return sums


def _add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
