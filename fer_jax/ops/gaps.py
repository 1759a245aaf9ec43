"""Rows for frames that were not seen: held, from the nearest, between two, or from a prior."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from fer_jax.errors import FerJaxError

FILL_METHODS = ("hold", "nearest", "linear", "prior")

# Host arrays are as welcome as device arrays.
_Array = Array | np.ndarray


def fill_gaps(
    values: Float[_Array, "*video time class"],
    weights: Float[_Array, "*video time"],
    *,
    segments: Int[_Array, "time"] | None = None,
    method: str = "hold",
    prior: Float[_Array, "class"] | None = None,
) -> tuple[Float[Array, "*video time class"], Int8[Array, "*video time"]]:
    """Gives each frame of weight 0 a row from frames of its own video that have one.

    - `hold`: the last one seen; before the first, that one.
    - `nearest`: the nearest one seen, the earlier of two.
    - `linear`: between the last and the next one, by the distance; where there is only one, that.
    - `prior`: the same row for each.

    In a video of which nothing was seen, each method takes the prior.

    Args:
        values: rows; with a leading axis, one video for each of its indices. Rows of weight 0 may
            hold anything.
        weights: 0 for a frame that was not seen.
        segments: the number of the video of each row, never decreasing; None means one video.
        method: one of `FILL_METHODS`, a Python string.
        prior: None means 1 / C for each of C classes.

    Returns:
        `(values, how)`. How a row was found is an index to ("none", *FILL_METHODS), the names of
        the prediction table: 0 for a frame that was seen; `nearest` also where `hold` or `linear`
        found a row on one side only.

    Raises:
        FerJaxError: an unknown method, values that are no rows, or `segments` beside a leading
            axis.

    Example:
        >>> rows, how = fill_gaps(
        ...     jnp.array([[9.0], [1.0], [9.0], [9.0], [4.0]]),
        ...     jnp.array([0.0, 1.0, 0.0, 0.0, 1.0]),
        ...     method="linear",
        ... )
        >>> rows[:, 0].tolist(), [("none", *FILL_METHODS)[i] for i in how]
        ([1.0, 1.0, 2.0, 3.0, 4.0], ['nearest', 'none', 'linear', 'linear', 'none'])
    """
    if method not in FILL_METHODS:
        raise FerJaxError(f"no way {method!r} to fill gaps; one of {', '.join(FILL_METHODS)}")
    if values.ndim < 2:
        raise FerJaxError(
            f"values of shape {values.shape}; give [time, class], which is values[:, None] for "
            "one number a frame"
        )
    values, weights = jnp.asarray(values), jnp.asarray(weights)
    classes = values.shape[-1]
    if prior is None:
        prior = jnp.full(classes, 1 / classes, values.dtype)
    prior = jnp.asarray(prior, values.dtype)
    if values.ndim == 2:
        if segments is None:
            segments = jnp.zeros(len(values), jnp.int32)
        return _fill(values, weights > 0, jnp.asarray(segments), method, prior)
    if segments is not None:
        raise FerJaxError(
            "segments are for videos one after the other in one [T, C] array; leave them out, "
            f"or lay the {values.shape} values out flat"
        )
    leading, time = values.shape[:-2], values.shape[-2]
    one_video = jnp.zeros(time, jnp.int32)
    rows, how = jax.vmap(lambda rows, seen: _fill(rows, seen, one_video, method, prior))(
        values.reshape(-1, time, classes), weights.reshape(-1, time) > 0
    )
    return rows.reshape(values.shape), how.reshape(*leading, time)


def _fill(
    values: Array, seen: Array, segments: Array, method: str, prior: Array
) -> tuple[Array, Array]:
    none, hold, nearest, linear, from_prior = range(5)
    time = len(values)
    if time == 0:
        return values, jnp.zeros(0, jnp.int8)
    own = jnp.arange(time)
    # The nearest rows that were seen on either side; what lies in another video does not count.
    last = jax.lax.cummax(jnp.where(seen, own, -1))
    next_ = jax.lax.cummin(jnp.where(seen, own, time), reverse=True)
    has_last = (last >= 0) & (segments[jnp.maximum(last, 0)] == segments)
    has_next = (next_ < time) & (segments[jnp.minimum(next_, time - 1)] == segments)
    to_last, to_next = own - last, next_ - own
    earlier = has_last if method == "hold" else has_last & (~has_next | (to_last <= to_next))
    either = has_last | has_next
    rows = values[jnp.where(either, jnp.where(earlier, last, next_), own)]
    how = jnp.where(either, nearest, from_prior)
    if method == "hold":
        how = jnp.where(has_last, hold, how)
    elif method == "linear":
        share = (to_last / jnp.maximum(to_last + to_next, 1)).astype(values.dtype)[:, None]
        before, after = values[jnp.maximum(last, 0)], values[jnp.minimum(next_, time - 1)]
        both = has_last & has_next
        rows = jnp.where(both[:, None], before * (1 - share) + after * share, rows)
        how = jnp.where(both, linear, how)
    elif method == "prior":
        how = jnp.full(time, from_prior)
    rows = jnp.where((how == from_prior)[:, None], prior[None], rows)
    rows = jnp.where(seen[:, None], values, rows)
    return rows, jnp.where(seen, none, how).astype(jnp.int8)
