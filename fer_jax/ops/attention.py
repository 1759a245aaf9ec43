"""Attention between scalars: one query, one key and one value a token, without the score matrix."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fer_jax.errors import FerJaxError

# Outputs (in the backward pass keys) that are worked on at a time: what a step holds is then a
# fraction of batch x n, and stays nearer to the processor.
_TILE = 256

# Host arrays are as welcome as device arrays.
_Array = Array | np.ndarray


def scalar_attention(
    query: Float[_Array, "*batch n"],
    key: Float[_Array, "*batch n"],
    value: Float[_Array, "*batch n"],
    *,
    block: int = 8,
) -> Float[Array, "*batch n"]:
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
        query: q, one number a token, for one item or with leading axes; any float type, computed in
            float32 (float64 stays so).
        key: k.
        value: v.
        block: keys (queries in the backward pass) in one step of the loop, a Python number. Changes
            the speed, but no result beyond rounding; n need not be a multiple of it.

    Returns:
        o, of the type that the inputs promote to.

    Raises:
        FerJaxError: `block` below 1, or arrays of different shapes.

    Example:
        >>> query = jnp.array([0.0, 1000.0])
        >>> scalar_attention(query, jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0])).tolist()
        [4.0, 5.0]

    Source:
        The fusion of the ABAW6 entry of arXiv:2403.13039, which is
        `torch.nn.MultiheadAttention(embed_dim=1, num_heads=1)` between its projections.
    """
    if block < 1:
        raise FerJaxError(f"{block=} must be at least 1; the default is 8")
    dtype = jnp.result_type(query, key, value)
    compute = jnp.promote_types(dtype, jnp.float32)
    shape = query.shape
    if not shape == key.shape == value.shape:
        raise FerJaxError(
            f"query, key and value are {shape}, {key.shape} and {value.shape}; give one shape"
        )
    query, key, value = (
        jnp.asarray(array, compute).reshape(-1, shape[-1]) for array in (query, key, value)
    )
    # Adding a number to all values adds it to the output: around their mean, less cancels.
    mean = value.mean(axis=-1, keepdims=True)
    return (mean + _attention(query, key, value - mean, block)).astype(dtype).reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query: Array, key: Array, value: Array, block: int) -> Array:
    ends = _ends(key)

    def rows(query: Array) -> tuple[Array]:
        largest = _key_of_largest_score(query, ends)

        def terms(k: Array, v: Array) -> tuple[Array, ...]:
            p = jnp.exp(query * (k - largest))
            return p, p * v

        total, weighted = _sum_over_tokens(terms, (key, value), block)
        return (weighted / total,)

    return _by_tile(rows, (query,))[0]


def _forward(query: Array, key: Array, value: Array, block: int) -> tuple[Array, tuple[Array, ...]]:
    """As `_attention`, with the two more sums that the gradient of the query is made of."""
    ends = _ends(key)

    def rows(query: Array) -> tuple[Array, ...]:
        largest = _key_of_largest_score(query, ends)

        def terms(k: Array, v: Array) -> tuple[Array, ...]:
            # The moments too are taken around the largest key: where the softmax is sharp, they
            # would otherwise be the small difference of large products.
            k = k - largest
            p = jnp.exp(query * k)
            return p, p * v, p * k, p * v * k

        total, *weighted = _sum_over_tokens(terms, (key, value), block)
        mean_v, mean_k, mean_vk = (each / total for each in weighted)
        return mean_v, total, mean_vk - mean_v * mean_k

    mean_v, total, covariance = _by_tile(rows, (query,))
    return mean_v, (query, key, value, mean_v, total, covariance)


def _backward(block: int, saved: tuple[Array, ...], gradient: _Array) -> tuple[Array, Array, Array]:
    query, key, value, output, total, covariance = saved
    ends = _ends(key)

    def rows(key: Array, value: Array) -> tuple[Array, ...]:
        def terms(q: Array, o: Array, g: Array) -> tuple[Array, ...]:
            p = g * jnp.exp(q * (key - _key_of_largest_score(q, ends)))
            return q * p * (value - o), p

        return _sum_over_tokens(terms, (query, output, gradient / total), block)

    key_gradient, value_gradient = _by_tile(rows, (key, value))
    return gradient * covariance, key_gradient, value_gradient


_attention.defvjp(_forward, _backward)


def _ends(key: Array) -> tuple[Array, Array]:
    return key.max(-1, keepdims=True), key.min(-1, keepdims=True)


def _key_of_largest_score(query: Array, ends: tuple[Array, Array]) -> Array:
    """The k_j for which q_i k_j is largest, for every i: the m_i of the formulas."""
    return jnp.where(query >= 0, *ends)


def _by_tile(
    function: Callable[..., tuple[Array, ...]], rows: tuple[Array, ...]
) -> tuple[Array, ...]:
    """The function of (batch, n) arrays, which treats all n alike, on a few of them at a time."""
    n = rows[0].shape[1]
    tile = min(n, _TILE)

    def step(i: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        start = jnp.minimum(i * tile, n - tile)  # the last one computes some again
        parts = function(*(jax.lax.dynamic_slice_in_dim(x, start, tile, 1) for x in rows))
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, part, start, 1)
            for whole, part in zip(found, parts, strict=True)
        )

    shapes = jax.eval_shape(function, *rows)
    return jax.lax.fori_loop(0, -(-n // tile), step, _zeros(shapes))


def _sum_over_tokens(
    terms: Callable[..., tuple[Array, ...]], tokens: tuple[Array, ...], block: int
) -> tuple[Array, ...]:
    """Sums `terms` of one token after the other; it is called with columns (batch, 1)."""
    n = tokens[0].shape[1]
    block = min(block, n)

    def add(sums: tuple[Array, ...], tokens: tuple[Array, ...]) -> tuple[Array, ...]:
        # A block is summed before it is added: half the rounding of one long chain, and faster.
        number = tokens[0].shape[1]
        parts = (terms(*(token[:, j : j + 1] for token in tokens)) for j in range(number))
        block_sums = functools.reduce(_add, parts)
        return _add(sums, block_sums)

    def step(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        parts = (jax.lax.dynamic_slice_in_dim(x, i * block, block, 1) for x in tokens)
        return add(sums, tuple(parts))

    shapes = jax.eval_shape(terms, *(array[:, :1] for array in tokens))
    sums = jax.lax.fori_loop(0, n // block, step, _zeros(shapes))
    if n % block:
        sums = add(sums, tuple(array[:, n - n % block :] for array in tokens))
    return sums


def _zeros(shapes: tuple[jax.ShapeDtypeStruct, ...]) -> tuple[Array, ...]:
    return tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)


def _add(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
