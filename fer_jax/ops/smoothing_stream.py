"""Smoothing of frames as they come, with a fixed look-ahead: the rows of `smooth`, to the bit."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from fer_jax.errors import FerJaxError
from fer_jax.ops.smoothing import ballots, kernel_taps, window_reach
from fer_jax.ops.windows import (
    each_video,
    inverse,
    medians_rule,
    ordered_integers,
    sums_rule,
    weighted,
)

# What a stream remembers: a dict of arrays, whose size depends on the window alone.
State = dict[str, Array]

_Array = Array | np.ndarray
_NOBODY, _VIDEO = -1, 0


class Stream(NamedTuple):
    """Pure functions, to be jitted, vmapped over videos, scanned over frames.

    Attributes:
        init: `(classes, before = 0) -> state`, before the first frame of a video, or after so many
            frames of it that were not seen: as if each had come with weight 0.
        step: `(state, row [C], weight = 1) -> (state, row [C], frame)`: takes a frame, gives the
            smoothed row of the one that came `lookahead` frames before it, and its number from
            0; -1 as long as there is none.
        flush: `state -> (rows [lookahead, C], frames [lookahead])`: after the last frame, those
            that were waited for; -1 for one that never came.
    """

    init: Callable[..., State]
    step: Callable[..., tuple[State, Array, Array]]
    flush: Callable[[State], tuple[Array, Array]]


def smoothing_stream(
    *,
    kernel: str = "box",
    window: int = 1,
    stride: int = 1,
    lookahead: int | None = None,
    width: float | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Stream:
    """A stream whose rows are those of `smooth` with the same options, bit for bit.

    A step costs about what one row of `smooth` does, so the latency is that of the look-ahead.

    Args:
        kernel: as for `smooth`, as are the others.
        window: frames.
        stride: frames.
        lookahead: frames that come before a row does; None is half a (then odd) window, 0 none.
        width: frames.
        dtype: float32, or float64.

    Returns:
        The three functions.

    Raises:
        FerJaxError: options that `smooth` refuses.

    Example:
        >>> stream = smoothing_stream(window=3, lookahead=1)
        >>> state, rows = stream.init(classes=1), []
        >>> for value in (0.0, 3.0, 6.0):
        ...     state, row, frame = jax.jit(stream.step)(state, jnp.array([value]))
        ...     rows += [row] if frame >= 0 else []
        >>> rows += [row for row, frame in zip(*stream.flush(state)) if frame >= 0]
        >>> [row.item() for row in rows]
        [1.5, 3.0, 4.5]
    """
    back, ahead = window_reach(window, lookahead)
    taps = kernel_taps(kernel, back, ahead, width)
    if stride < 1:
        raise FerJaxError(f"{stride=} must be at least 1; 1 evaluates every frame")

    def init(classes: int, before: int | Int32[_Array, ""] = 0) -> State:
        before = jnp.asarray(before, jnp.int32)
        return {
            "rows": jnp.zeros((window, classes), dtype),
            "weights": jnp.zeros(window, dtype),
            "video": jnp.where(
                jnp.arange(window) < window - before, jnp.int32(_NOBODY), jnp.int32(_VIDEO)
            ),
            "frames": before,
            "held": jnp.zeros(classes, dtype),
        }

    def push(state: State, row: Array, weight: Array, video: int) -> State:
        new = {"rows": row, "weights": weight, "video": jnp.int32(video)}
        moved = {k: jnp.concatenate([state[k][1:], new[k][None]]) for k in new}
        state = state | moved | {"frames": state["frames"] + 1}
        frame = state["frames"] - 1 - ahead
        now = _window(state, kernel, taps, back, ahead)
        return state | {"held": jnp.where(frame % stride == 0, now, state["held"])}

    def step(
        state: State, row: Float[_Array, "class"], weight: Float[_Array, ""] | float = 1.0
    ) -> tuple[State, Float[Array, "class"], Int32[Array, ""]]:
        row, weight = jnp.asarray(row, dtype), jnp.asarray(weight, dtype)
        if kernel == "majority":
            row = ballots(row)
        state = push(state, row, weight, _VIDEO)
        return state, state["held"], jnp.maximum(state["frames"] - 1 - ahead, -1)

    def flush(
        state: State,
    ) -> tuple[Float[Array, "lookahead class"], Int32[Array, "lookahead"]]:
        nothing = jnp.zeros_like(state["held"]), jnp.zeros((), dtype)

        def after_the_end(state: State, _: None) -> tuple[State, tuple[Array, Array]]:
            state = push(state, *nothing, _NOBODY)
            return state, (state["held"], jnp.maximum(state["frames"] - 1 - ahead, -1))

        return jax.lax.scan(after_the_end, state, length=ahead)[1]

    return Stream(init, step, flush)


def _window(
    state: State, kernel: str, taps: np.ndarray | None, back: int, ahead: int
) -> Float[Array, "class"]:
    """The row in the middle of what is remembered."""
    rows, weights, video = state["rows"], state["weights"][:, None], state["video"]
    length = len(rows)
    if kernel == "median":
        parts = [ordered_integers(rows), (weights > 0).astype(jnp.int32)]
        lower, upper, count = each_video(medians_rule(length), parts, video, back, ahead)
        a, b = (jnp.take_along_axis(rows, at[None], 0, mode="clip")[0] for at in (lower, upper))
        return jnp.where(count > 0, (a + b) / 2, 0)
    taps = None if taps is None else jnp.asarray(taps, rows.dtype)
    parts = [weighted(rows, weights), weights]
    sums, total = each_video(sums_rule(taps, length), parts, video, back, ahead)
    return sums * inverse(total)
