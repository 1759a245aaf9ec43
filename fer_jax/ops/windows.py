"""Means and medians over sliding windows of ragged videos: the engine of `ops.smoothing`.

Three things shape it. **One order**: each window is added up in an order that depends on its own
frames alone and not on where they lie in the array, so that a stream of frames and a whole file
give the same bits. **Zeros for strangers**: what is not of the video counts as zero, which an
addition leaves as it is. **Chunks**: some hundred rows of one video at a time, in the cache.

Inside, arrays are flat, a row of `C` numbers after the other: XLA vectorises loops over slices of
one axis, and hardly any others.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_CHUNK = 4096  # numbers in a chunk, where the window is not longer
_RADIX = 5  # of the tree of sums
_GROUP = 16  # rows of a window in one pass over a chunk

# Parts of back + rows + ahead rows, [rows, C] each -> flat results of as many rows as windows.
Rule = Callable[[Sequence[Array]], Sequence[Array]]
# Parts [rows, C], whether each row is of the video, [rows, 1] or True -> those, no other counting.
Before = Callable[[Sequence[Array], Array | bool], Sequence[Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def window_means(
    values: Array, weights: Array, segments: Array, taps: Array | None, back: int, ahead: int
) -> Array:
    """For each frame t: the mean over its window, weighted by `weights[s] * taps[s - t + back]`.

    Args:
        values: floats `[T, C]`; where the weight is 0, anything.
        weights: at least 0, `[T]`.
        segments: int32 `[T]`, the video of each row; never decreasing.
        taps: `[back + 1 + ahead]`; none means 1 for each, O(log window) and not O(window) a number.
        back: frames before t in a window, a Python number.
        ahead: frames after t.

    Returns:
        `[T, C]`; zeros where nothing has a weight. Reverse mode only, as every `jax.custom_vjp`.
    """
    return _means(values, weights, segments, taps, back, ahead, lambda means, _: [means])[0]


def _means(
    values: Array,
    weights: Array,
    segments: Array,
    taps: Array | None,
    back: int,
    ahead: int,
    wanted: Callable[[Array, Array], list[Array]],
) -> list[Array]:
    """What is wanted of the means and of one over the sum of the weights."""

    def before(parts: Sequence[Array], mine: Array | bool) -> Sequence[Array]:
        values, weights = parts[0], jnp.where(mine, parts[1], 0)
        return weighted(values, weights), weights

    return by_chunks(
        sums_rule(taps, back + 1 + ahead),
        (values, weights[:, None]),
        segments,
        back,
        ahead,
        before=before,
        after=lambda sums: wanted(sums[0] * inverse(sums[1]), inverse(sums[1])),
    )


def weighted(values: Array, weights: Array) -> Array:
    """`values * weights`, `[T, C]` and `[T, 1]`; 0 for what was not seen, which may be NaN."""
    product = values * weights
    # Not `where(weights > 0, ...)`: a branch for each row, which is not vectorised.
    return jnp.where(jnp.isnan(product), jnp.where(weights > 0, jnp.nan, 0), product)


def inverse(total: Array) -> Array:
    """1 / total, and 0 where it is 0."""
    return jnp.where(total > 0, 1 / total, 0)


def _forward(
    values: Array, weights: Array, segments: Array, taps: Array | None, back: int, ahead: int
) -> tuple[Array, tuple[Array | None, ...]]:
    means, share = _means(values, weights, segments, taps, back, ahead, lambda *both: list(both))
    return means, (values, weights, segments, taps, means, share)


def _backward(
    back: int, ahead: int, saved: tuple[Array | None, ...], gradient: Array
) -> tuple[Array, Array, None, None]:
    values, weights, segments, taps, means, share = saved
    # The windows that a frame is in are a window as well, turned around.
    turned = None if taps is None else taps[::-1]
    of_sums = gradient * share
    of_total = -(of_sums * means).sum(1, keepdims=True)
    rule = sums_rule(turned, back + 1 + ahead)
    rows, shift = by_chunks(rule, (of_sums, of_total), segments, ahead, back)
    seen = (weights > 0)[:, None]
    of_weights = (rows * jnp.where(seen, values, 0)).sum(1) + shift[:, 0]
    return rows * jnp.where(seen, weights[:, None], 0), of_weights, None, None


window_means.defvjp(_forward, _backward)


def sums_rule(taps: Array | None, length: int) -> Rule:
    """The sum over each window of `taps[d] * row[d]`; taps of none are 1."""
    add = functools.partial(_box, length=length)
    if taps is not None:
        add = functools.partial(_weighted, taps=taps)
    return lambda parts: [add(*_flat(part)) for part in parts]


def by_chunks(
    rule: Rule,
    parts: Sequence[Array],
    segments: Array,
    back: int,
    ahead: int,
    *,
    before: Before = lambda parts, mine: [jnp.where(mine, part, 0) for part in parts],
    after: Callable[[Sequence[Array]], Sequence[Array]] = lambda results: results,
) -> list[Array]:
    """Applies `after(rule(before(parts)))` to all rows, a chunk with its surroundings at a time.

    Args:
        rule: see `Rule`.
        parts: `[T, C]` each.
        segments: int32 `[T]`.
        back: rows before a window's own.
        ahead: rows after it.
        before: row by row, for what is not worth an array of all rows.
        after: likewise, of results `[rows, C]`.

    Returns:
        `[T, C]` for each result.
    """
    total, around = len(segments), back + ahead
    widest = max(1, *(part.shape[1] for part in parts))
    rows = max(1, min(total, max(_CHUNK // widest, around)))
    missing = max(0, rows + around - total)
    parts = [jnp.pad(part, ((0, missing), (0, 0))) for part in parts]
    padded = jnp.pad(segments, (0, missing), constant_values=_nobody(segments))

    def place(row: Array) -> tuple[Array, Array]:
        # What is read lies within the arrays, and therefore too early or late at their ends.
        start = jnp.minimum(row, total - rows)
        return start, jnp.clip(row - back, 0, total + missing - rows - around)

    def cut(array: Array, begin: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(array, begin, rows + around)

    def at_an_end(_: Sequence[Array], row: Array) -> Sequence[Array]:
        # The last chunk reaches back into those before it, and finds the same there.
        start, begin = place(row)
        own = before([cut(part, begin) for part in parts], True)
        return each_video(rule, own, cut(padded, begin), back, ahead, begin - start + back)

    def chunk(row: Array, first: Array, end: Array) -> Sequence[Array]:
        # Few steps, the others in `at_an_end`: XLA's CPU runs a body of up to eight in one thread,
        # and passes a longer one from thread to thread, with the chunk in another core's cache.
        start, begin = place(row)
        read = begin + jnp.arange(rows + around)[:, None]
        own = before([cut(part, begin) for part in parts], (read >= first) & (read < end))
        inside = (start == row) & (begin == row - back)
        found = jax.lax.cond(inside, lambda own, _: rule(own), at_an_end, own, row)
        return after([out.reshape(rows, -1) for out in found])

    def video(state: Any) -> Any:
        first, outs = state
        end = jnp.searchsorted(segments, segments[first], side="right").astype(first.dtype)

        def put(state: Any) -> Any:
            # What is written beyond the end, the next video writes anew.
            row, outs = state
            return row + rows, [
                jax.lax.dynamic_update_slice_in_dim(out, new, place(row)[0], 0)
                for out, new in zip(outs, chunk(row, first, end), strict=True)
            ]

        return end, jax.lax.while_loop(lambda state: state[0] < end, put, (first, outs))[1]

    results = jax.eval_shape(chunk, *[jnp.int32(0)] * 3)
    outs = [jnp.zeros((total, result.shape[1]), result.dtype) for result in results]
    return jax.lax.while_loop(lambda state: state[0] < total, video, (jnp.int32(0), outs))[1]


def each_video(
    rule: Rule,
    parts: Sequence[Array],
    segments: Array,
    back: int,
    ahead: int,
    moved: Array | int = 0,
) -> Sequence[Array]:
    """Applies `rule` to one chunk, for each video of its rows with all the others zeroed.

    The loop is a wall, as `lax.cond` is: XLA does not fuse over it. What goes in was rounded
    before, so that no product becomes part of a fused multiply-add here and not there, and lies
    in memory, where slices of it are read fast.

    Args:
        rule: see `Rule`.
        parts: `[back + rows + ahead, C]` each.
        segments: int32 `[back + rows + ahead]`.
        back: rows before the first.
        ahead: rows after the last.
        moved: how many rows too early all that stands, at an end of the arrays; where it is not 0,
            there is nothing before the first row or after the last.

    Returns:
        The results of the rule, flat.
    """
    count = len(segments)
    rows = count - back - ahead
    parts, segments = jax.tree.map(lambda x: jnp.roll(x, moved, axis=0), (list(parts), segments))
    place = jnp.arange(count) - moved
    segments = jnp.where((place >= 0) & (place < count), segments, _nobody(segments))
    mine, after = segments[back : back + rows], np.iinfo(segments.dtype).max
    outs = [jnp.zeros(r.shape, r.dtype) for r in jax.eval_shape(rule, parts)]
    owners = [jnp.broadcast_to(mine[:, None], (rows, len(out) // rows)) for out in outs]

    def of(video: Array) -> list[Array]:
        return [jnp.where((segments == video)[:, None], part, 0) for part in parts]

    def one(state: Any) -> Any:
        video, own, outs, owners = state
        outs = [
            jnp.where(owner.reshape(-1) == video, new, out)
            for out, new, owner in zip(outs, rule(own), owners, strict=True)
        ]
        video = jnp.where(mine > video, mine, after).min()
        return video, of(video), outs, owners

    state = (mine[0], of(mine[0]), outs, owners)
    return jax.lax.while_loop(lambda state: state[0] < after, one, state)[2]


def _nobody(segments: Array) -> int:
    """A number that no video has."""
    return int(np.iinfo(segments.dtype).min)


def _flat(part: Array) -> tuple[Array, int]:
    """One long vector, and how many numbers of it are a row."""
    return part.reshape(-1), part.shape[1]


def _box(flat: Array, unit: int, length: int) -> Array:
    """Sums of `length` rows, as a tree: from sums of 1, r, r^2, ... of them."""
    size = len(flat) - (length - 1) * unit
    pieces, begin, width = [], 0, 1
    while True:
        # Else XLA, from 0.12 on, slices before it flattens, and adds up again what is used twice.
        flat = jax.lax.optimization_barrier(flat)
        for _ in range(length // width % _RADIX):
            pieces.append(flat[begin * unit : begin * unit + size])
            begin += width
        if _RADIX * width > length:
            return functools.reduce(jnp.add, pieces)
        step = width * unit
        ends = len(flat) - (_RADIX - 1) * step
        flat = functools.reduce(jnp.add, [flat[i * step : i * step + ends] for i in range(_RADIX)])
        width *= _RADIX


def _weighted(flat: Array, unit: int, taps: Array) -> Array:
    """Sums of `len(taps)` rows, each times its tap, added one after the other."""
    # Zeros that the compiler does not know for such. With nothing to add the first product to,
    # it would round either of the first two before it adds the other, here one and there another.
    total = jnp.minimum(jnp.abs(flat[: len(flat) - (len(taps) - 1) * unit]), 0)
    return _fold(lambda total, row, tap: total + tap * row, total, flat, taps, unit)


def _fold(
    add: Callable[[Any, Array, Array], Any], state: Any, flat: Array, each: Array, unit: int
) -> Any:
    """`state = add(state, row d of every window, each[d])`, for all d in order."""
    size = len(flat) - (len(each) - 1) * unit

    def some(state: Any, flat: Array, each: Array) -> Any:
        for d in range(len(each)):
            state = add(state, flat[d * unit : d * unit + size], each[d])
        return state

    def group(carry: tuple[Any, Array], each: Array) -> tuple[tuple[Any, Array], None]:
        state, flat = carry
        # Moved along, not cut out at a traced place: only static slices make fast loops.
        moved = jnp.concatenate([flat[_GROUP * unit :], flat[: _GROUP * unit]])
        return (some(state, flat, each), moved), None

    whole = len(each) - len(each) % _GROUP
    if whole:
        groups = each[:whole].reshape(-1, _GROUP)
        (state, flat), _ = jax.lax.scan(group, (state, flat), groups)
    return some(state, flat, each[whole:])


def window_medians(
    values: Array, present: Array, segments: Array, back: int, ahead: int
) -> tuple[Array, Array, Array]:
    """Where the median of each window and column stands.

    Args:
        values: float32 (or float64) `[T, C]`.
        present: bool `[T]`; other frames are not looked at.
        segments: int32 `[T]`, never decreasing.
        back: frames before t in a window.
        ahead: frames after t.

    Returns:
        `(lower, upper, count)`: the rows of the two middle values, int32 `[T, C]`, the same one
        where the count of frames is odd; and that count, int32 `[T]`. Where it is 0 the rows
        mean nothing.
    """
    lower, upper, count = by_chunks(
        medians_rule(back + 1 + ahead),
        (values, present.astype(jnp.int32)[:, None]),
        segments,
        back,
        ahead,
        before=lambda parts, mine: (ordered_integers(parts[0]), jnp.where(mine, parts[1], 0)),
    )
    first = jnp.arange(len(values), dtype=jnp.int32)[:, None] - back
    return first + lower, first + upper, count[:, 0]


def ordered_integers(values: Array) -> Array:
    """Integers that sort as the floats do."""
    bits = 8 * values.dtype.itemsize
    raw = jax.lax.bitcast_convert_type(values, f"int{bits}")
    return raw ^ ((raw >> (bits - 1)) & np.iinfo(raw.dtype).max)


def medians_rule(length: int) -> Rule:
    """The rule of `window_medians`: offsets of the two middle keys, and the count of frames.

    The lower key is found bit by bit, from the highest: it is the largest number that no more
    keys are below than its rank.

    Args:
        length: rows in a window.

    Returns:
        What `by_chunks` and `each_video` take, for keys `[rows, C]` and whether each row is
        present, 0 or 1, `[rows, 1]`.
    """
    offsets = jnp.arange(length, dtype=jnp.int32)

    def rule(parts: Sequence[Array]) -> list[Array]:
        keys, present = parts
        unit = keys.shape[1]
        low, high = np.iinfo(keys.dtype).min, np.iinfo(keys.dtype).max
        count = _box(*_flat(present), length)
        keys = jnp.where(present > 0, keys, high).reshape(-1)
        rank, upper_rank = (
            jnp.broadcast_to(r[:, None], (len(count), unit)).reshape(-1)
            for r in ((count - 1) // 2, count // 2)
        )
        none = jnp.zeros(len(rank), jnp.int32)

        def fold(add: Callable[..., Any], state: Any) -> Any:
            return _fold(add, state, keys, offsets, unit)

        def narrow(i: Array, found: Array) -> Array:
            # Bits are set in an unsigned number, whose sign bit is the other way round.
            bit = jnp.left_shift(jnp.ones((), keys.dtype), bits - 1 - i)
            tried = found ^ bit
            below = fold(lambda n, key, _: n + (key < tried).astype(jnp.int32), none)
            return jnp.where(below <= rank, tried, found)

        bits = 8 * keys.dtype.itemsize
        lower = jax.lax.fori_loop(0, bits, narrow, jnp.full(len(rank), low, keys.dtype))

        def look(state: tuple[Array, Array, Array], key: Array, offset: Array) -> Any:
            not_above, next_, where = state
            above = key > lower
            return (
                not_above + (~above).astype(jnp.int32),
                jnp.where(above, jnp.minimum(next_, key), next_),
                jnp.where(key == lower, jnp.minimum(where, offset), where),
            )

        last = jnp.full(len(rank), length, jnp.int32)
        not_above, next_, lower_at = fold(look, (none, jnp.full_like(lower, high), last))
        upper = jnp.where(not_above > upper_rank, lower, next_)
        upper_at = fold(
            lambda at, key, offset: jnp.where(key == upper, jnp.minimum(at, offset), at), last
        )
        return [lower_at, upper_at, count]

    return rule
