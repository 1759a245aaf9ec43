"""Smoothing over time: sliding windows that know videos, gaps and a fixed look-ahead."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8

from fer_jax.errors import FerJaxError
from fer_jax.ops.gaps import fill_gaps
from fer_jax.ops.windows import window_means, window_medians

KERNELS = ("box", "gaussian", "triangular", "exponential", "median", "majority")

_SHAPED = ("gaussian", "exponential")  # kernels that have a width

# Host arrays are as welcome as device arrays.
_Array = Array | np.ndarray


def smooth(
    values: Float[_Array, "*video time class"],
    *,
    weights: Float[_Array, "*video time"] | None = None,
    segments: Int[_Array, "time"] | None = None,
    kernel: str = "box",
    window: int = 1,
    stride: int = 1,
    lookahead: int | None = None,
    width: float | None = None,
) -> Float[Array, "*video time class"]:
    r"""Smooths rows over the frames of their own video.

    With frames :math:`s` of the window of :math:`t`, weights :math:`w` and a kernel :math:`k`

    .. math::
        y_t = \frac{\sum_s k(s - t)\, w_s x_s}{\sum_s k(s - t)\, w_s}

    so what lies beyond the ends of a video or was never seen counts as nothing, and what is left
    is renormalised: a constant stays one, and rows of probabilities stay such. The window reaches
    from `t - (window - 1 - lookahead)` to `t + lookahead`. Kernels, with d = |s - t| and the reach
    R, the larger of those two distances:

    - `box`: 1.
    - `gaussian`: exp(-(d / width)^2 / 2); `triangular`: 1 - d / (R + 1); `exponential`:
      exp(-d / width).
    - `majority`: each frame votes for its largest class (the first of several), with its weight;
      the rows are shares of votes.
    - `median`: of each class by itself, of the frames with a weight above 0; with an even number
      of them the mean of the two in the middle. Such rows need not add to 1.

    A row depends on its window alone, to the bit: not on where the video lies among others, nor
    on whether it came as a stream (`ops.smoothing_stream`).

    Args:
        values: rows, any float type; computed in float32 (float64 stays so). With a leading axis,
            one video for each of its indices; pad those that are shorter with weight 0.
        weights: at least 0; 0 for a frame that was not seen, whose row may hold anything.
        segments: for ragged videos one after the other in one array: the number of the video of
            each row, never decreasing. None means one video. (`vmap` over them gives the same some
            ten times slower.)
        kernel: one of `KERNELS`, a Python string.
        window: frames, a Python number, odd for a centred window.
        stride: the filter is evaluated at frames 0, n, 2n, ... of each video, and held between; a
            Python number.
        lookahead: frames that a window reaches ahead of its own; None centres it.
        width: of a gaussian (its standard deviation) or an exponential kernel, in frames; R / 3
            where it is None.

    Returns:
        The smoothed rows; zeros where no frame of the window has a weight (`fill_gaps` fills).

    Raises:
        FerJaxError: an unknown kernel; a window, stride, look-ahead or width that cannot be;
            values that are no rows; `segments` beside a leading axis.

    Example:
        >>> rows = jnp.array([[0.0], [3.0], [6.0], [100.0], [1.0]])
        >>> videos = jnp.array([0, 0, 0, 1, 1])
        >>> smooth(rows, segments=videos, window=3)[:, 0].tolist()
        [1.5, 3.0, 4.5, 50.5, 50.5]
        >>> seen = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0])
        >>> smooth(rows, weights=seen, segments=videos, window=3)[:, 0].tolist()
        [0.0, 3.0, 6.0, 50.5, 50.5]
    """
    back, ahead = window_reach(window, lookahead)
    taps = kernel_taps(kernel, back, ahead, width)
    if stride < 1:
        raise FerJaxError(f"{stride=} must be at least 1; 1 evaluates every frame")
    if values.ndim < 2:
        raise FerJaxError(
            f"values of shape {values.shape}; give [time, class], which is values[:, None] for "
            "one number a frame"
        )
    dtype = values.dtype
    compute = jnp.promote_types(dtype, jnp.float32)
    values = jnp.asarray(values, compute)
    if weights is None:
        weights = jnp.ones(values.shape[:-1], compute)
    weights = jnp.asarray(weights, compute)
    if kernel == "majority":
        values = ballots(values)
    # Kernels of one window differ in an argument alone, so that they share a program.
    taps = None if taps is None else jnp.asarray(taps, compute)
    median = kernel == "median"
    smooth_one = functools.partial(
        _smooth, taps=taps, median=median, back=back, ahead=ahead, stride=stride
    )
    if values.ndim > 2:
        if segments is not None:
            raise FerJaxError(
                "segments are for videos one after the other in one [T, C] array; leave them out, "
                f"or lay the {values.shape} values out flat"
            )
        leading = values.shape[:-2]
        values = values.reshape(-1, *values.shape[-2:])
        weights = weights.reshape(-1, weights.shape[-1])
        segments = jnp.zeros(values.shape[1], jnp.int32)
        rows = jax.vmap(smooth_one, (0, 0, None))(values, weights, segments)
        return rows.reshape(*leading, *rows.shape[1:]).astype(dtype)
    if segments is None:
        segments = jnp.zeros(len(values), jnp.int32)
    return smooth_one(values, weights, jnp.asarray(segments)).astype(dtype)


def smooth_probabilities(
    probabilities: Float[_Array, "*video time class"],
    weights: Float[_Array, "*video time"],
    *,
    segments: Int[_Array, "time"] | None = None,
    fill: str = "hold",
    prior: Float[_Array, "class"] | None = None,
    **options,
) -> tuple[Float[Array, "*video time class"], Int8[Array, "*video time"]]:
    """Smooths the frames that were seen, then gives the others a row: probabilities for each.

    Args:
        probabilities: rows that add to 1; those of weight 0 may hold anything.
        weights: 0 for a frame that was not seen.
        segments: as for `smooth`.
        fill: how frames of weight 0 get a row from the smoothed ones; see `fill_gaps`.
        prior: as for `fill_gaps`.
        **options: kernel, window, stride, lookahead and width of `smooth`. Medians are divided by
            their sum. Rows of zeros are filled as if they had not been seen: medians of which
            each is 0, and rows held from a frame with nothing in its window.

    Returns:
        `(rows, how)`, as of `fill_gaps`.

    Raises:
        FerJaxError: what `smooth` and `fill_gaps` refuse.
    """
    rows = smooth(probabilities, weights=weights, segments=segments, **options)
    total = rows.sum(-1)
    if options.get("kernel") == "median":
        rows = rows / jnp.where(total > 0, total, 1)[..., None]
    weights = jnp.where(total > 0, weights, 0)
    return fill_gaps(rows, weights, segments=segments, method=fill, prior=prior)


def frames_of(seconds: float, frames_per_second: float) -> int:
    """The odd number of frames that comes nearest to a time, for a centred window.

    Args:
        seconds: the length of the window.
        frames_per_second: of the video.

    Returns:
        At least 1; the smaller of two that are as near.

    Raises:
        FerJaxError: a negative time, or a rate that is not above 0.

    Example:
        >>> frames_of(3.4, 30), frames_of(0, 30)
        (101, 1)
    """
    if not (0 <= seconds < math.inf and 0 < frames_per_second < math.inf):
        raise FerJaxError(
            f"a window of {seconds} s at {frames_per_second} frames a second is none; give "
            "seconds from 0, and a rate above 0"
        )
    return max(1, 2 * math.ceil(seconds * frames_per_second / 2 - 1) + 1)


def window_reach(window: int, lookahead: int | None) -> tuple[int, int]:
    """Frames of a window before and after its own."""
    if window < 1:
        raise FerJaxError(f"{window=} must be at least 1 frame; 1 changes nothing")
    if lookahead is None:
        if window % 2 == 0:
            raise FerJaxError(
                f"{window=} has no middle; give an odd number such as {window + 1}, or lookahead="
            )
        return window // 2, window // 2
    if not 0 <= lookahead < window:
        raise FerJaxError(f"{lookahead=} must be from 0 to {window - 1}, within {window=}")
    return window - 1 - lookahead, lookahead


def kernel_taps(kernel: str, back: int, ahead: int, width: float | None) -> np.ndarray | None:
    """The kernel at each frame of the window, float64; None where it is 1 at all."""
    if kernel not in KERNELS:
        raise FerJaxError(f"no kernel {kernel!r}; one of {', '.join(KERNELS)}")
    if width is not None and kernel not in _SHAPED:
        raise FerJaxError(f"{kernel!r} has no {width=}; leave it out, or use a gaussian kernel")
    distance = np.abs(np.arange(-back, ahead + 1, dtype=np.float64))
    reach = max(back, ahead)
    if width is None:
        width = max(reach, 1) / 3
    if not (width > 0 and math.isfinite(width)):
        raise FerJaxError(f"{width=} must be above 0 frames, and finite")
    if kernel == "gaussian":
        return np.exp(-0.5 * (distance / width) ** 2)
    if kernel == "triangular":
        return 1 - distance / (reach + 1)
    if kernel == "exponential":
        return np.exp(-distance / width)
    return None


# Jitted here, so that a call outside of jit does not compile its loops again.
@functools.partial(jax.jit, static_argnames=("median", "back", "ahead", "stride"))
def _smooth(
    values: Array,
    weights: Array,
    segments: Array,
    *,
    taps: Array | None,
    median: bool,
    back: int,
    ahead: int,
    stride: int,
) -> Array:
    """`smooth` for one flat array."""
    if len(values) == 0:
        return values
    if median:
        rows = _medians(values, weights, segments, back, ahead)
    else:
        rows = window_means(values, weights, segments, taps, back, ahead)
    if stride == 1:
        return rows
    frame = jnp.arange(len(values)) - _first_of_each(segments)
    return rows[jnp.arange(len(values)) - frame % stride]


def ballots(values: Array) -> Array:
    """1 for the largest class of each row, the first of several."""
    return jax.nn.one_hot(values.argmax(-1), values.shape[-1], dtype=values.dtype)


def _medians(values: Array, weights: Array, segments: Array, back: int, ahead: int) -> Array:
    lower, upper, count = window_medians(
        jax.lax.stop_gradient(values), weights > 0, segments, back, ahead
    )
    # Taken from the values by their place, through which the gradient finds its way.
    middle = [jnp.take_along_axis(values, row, 0, mode="clip") for row in (lower, upper)]
    return jnp.where((count > 0)[:, None], (middle[0] + middle[1]) / 2, 0)


def _first_of_each(segments: Array) -> Array:
    """The first row of each row's video."""
    own = jnp.arange(len(segments))
    begins = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])
    return jax.lax.cummax(jnp.where(begins, own, 0))
