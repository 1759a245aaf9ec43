"""Resampling of groups (videos): bootstrap draws and swaps of whole groups, as sums of counts.

Frames of one video are alike, so videos are what is drawn. A resample of videos is a sum of their
tables with whole-number weights: two matrix products, however many frames there are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Key, Num

# Host arrays are as welcome as device arrays.
_Array = Array | np.ndarray
_AT_ONCE = 512  # resamples drawn together; bounds the memory and changes no number


def bootstrap_sums(
    key: Key[Array, ""],
    tables: Num[_Array, "group *table"],
    resamples: int,
) -> Num[Array, "resamples *table"]:
    """Draws groups with replacement, as many as there are, and adds their tables.

    Args:
        key: a JAX random key.
        tables: what each group adds, such as its confusion matrix; int32 sums are exact.
        resamples: how many draws, a Python number.

    Returns:
        One sum for each resample, of the dtype of `tables`; a resample depends on the key and its
        own number alone. Two sets of tables under one key are drawn alike, which pairs them.

    Example:
        >>> one_each = jnp.eye(3, dtype=jnp.int32)
        >>> bootstrap_sums(jax.random.key(0), one_each, 2).sum(axis=1).tolist()
        [3, 3]

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, chapter 8.
    """
    tables = jnp.asarray(tables)
    groups = tables.shape[0]

    def draw(number: Int32[Array, ""]) -> Int32[Array, "group"]:
        drawn = jax.random.randint(jax.random.fold_in(key, number), (groups,), 0, groups)
        return jnp.zeros(groups, jnp.int32).at[drawn].add(1)

    return _weighted_sums(draw, tables, resamples)


def swapped_sums(
    key: Key[Array, ""],
    first: Num[_Array, "group *table"],
    second: Num[_Array, "group *table"],
    resamples: int,
) -> tuple[Num[Array, "resamples *table"], Num[Array, "resamples *table"]]:
    """Swaps the tables of two predictors in each group with probability 1/2, and adds them.

    Were the two predictors alike, nothing would tell the sums from those of the true assignment:
    the permutation test of a paired comparison.

    Args:
        key: a JAX random key.
        first: what each group adds under one predictor.
        second: under the other one.
        resamples: how many assignments, a Python number. Where there are no more than that in all
            (2 to the power of the groups), each of them is taken once instead, the true one first.

    Returns:
        Sums of both predictors for each assignment.

    Example:
        >>> a, b = swapped_sums(jax.random.key(0), jnp.array([1, 2]), jnp.array([10, 20]), 4)
        >>> a.tolist(), b.tolist()
        ([3, 12, 21, 30], [30, 21, 12, 3])
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    groups = first.shape[0]
    if groups < 31 and 2**groups <= resamples:
        resamples = 2**groups

        def draw(number: Int32[Array, ""]) -> Int32[Array, "group"]:
            return (number >> jnp.arange(groups)) & 1
    else:

        def draw(number: Int32[Array, ""]) -> Int32[Array, "group"]:
            own = jax.random.fold_in(key, number)
            return jax.random.bernoulli(own, 0.5, (groups,)).astype(jnp.int32)

    moved = _weighted_sums(draw, second - first, resamples)
    return first.sum(axis=0)[None] + moved, second.sum(axis=0)[None] - moved


def _weighted_sums(draw, tables: Array, resamples: int) -> Array:
    flat = tables.reshape(tables.shape[0], -1)

    def some(numbers: Int32[Array, "n"]) -> Array:
        times = jax.vmap(draw)(numbers).astype(flat.dtype)
        # Not rounded to fewer bits, as accelerators would.
        return jnp.matmul(times, flat, precision=jax.lax.Precision.HIGHEST)

    at_once = min(resamples, _AT_ONCE)
    numbers = jnp.arange(-(-resamples // at_once) * at_once).reshape(-1, at_once)
    sums = jax.lax.map(some, numbers)
    return sums.reshape(-1, *tables.shape[1:])[:resamples]
