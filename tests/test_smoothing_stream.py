"""A stream gives the bits of the whole file, `lookahead` frames later."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoothing_reference import ragged

from fer_jax.errors import FerJaxError
from fer_jax.ops.smoothing import KERNELS, smooth
from fer_jax.ops.smoothing_stream import smoothing_stream


def _run(stream, values, weights):
    def step(state, frame):
        state, row, number = stream.step(state, *frame)
        return state, (row, number)

    state, found = jax.lax.scan(step, stream.init(values.shape[1]), (values, weights))
    rows, frames = (jnp.concatenate(pair) for pair in zip(found, stream.flush(state), strict=True))
    return rows, frames


def _bits(array):
    return np.asarray(array).view(np.int32)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        *[(kernel, {"window": 37}) for kernel in KERNELS],
        *[(kernel, {"window": 3, "lookahead": 0}) for kernel in ("box", "gaussian")],
        *[(kernel, {"window": 8, "lookahead": 7, "stride": 4}) for kernel in ("box", "triangular")],
        ("exponential", {"window": 20, "lookahead": 5}),
        ("gaussian", {"window": 1}),
    ],
    ids=str,
)
def test_equals_the_offline_form_bit_for_bit(kernel, options):
    # The video stands among others, so that its place in a chunk is not that of a file alone.
    values, weights, segments = ragged(0, [700, 150, 333], fractions=True)
    own = segments == 1
    weights[segments == 1] *= np.arange(150) % 60 > 20  # and has gaps longer than a window
    offline = jax.jit(
        lambda *a: smooth(a[0], weights=a[1], segments=a[2], kernel=kernel, **options)
    )
    expected = np.asarray(offline(values, weights, segments))[own]
    stream = smoothing_stream(kernel=kernel, **options)
    rows, frames = jax.jit(lambda *a: _run(stream, *a))(values[own], weights[own])
    lookahead = options.get("lookahead", options["window"] // 2)
    # Delayed by the look-ahead, then each frame once.
    assert frames.tolist() == [-1] * lookahead + list(range(150))
    np.testing.assert_array_equal(_bits(rows[lookahead:]), _bits(expected))


def test_step_by_step_and_scanned_are_the_same():
    values, weights, _ = ragged(1, [12])
    stream = smoothing_stream(kernel="gaussian", window=5, lookahead=1)
    expected, _ = _run(stream, values, weights)
    state, step = stream.init(4), jax.jit(stream.step)
    for i in range(12):
        state, row, frame = step(state, values[i], weights[i])
        assert int(frame) == i - 1
        np.testing.assert_array_equal(_bits(row), _bits(expected[i]))


def test_a_video_shorter_than_the_lookahead():
    values, weights, _ = ragged(2, [2], gaps=0)
    stream = smoothing_stream(window=9)
    rows, frames = _run(stream, values, weights)
    assert frames.tolist() == [-1, -1, -1, -1, 0, 1]
    np.testing.assert_array_equal(rows[4:], smooth(values, window=9))


def test_many_videos_at_once():
    values = np.stack([ragged(seed, [30])[0] for seed in range(3)])
    weights = np.stack([ragged(seed, [30])[1] for seed in range(3)])
    stream = smoothing_stream(kernel="triangular", window=8, lookahead=2)
    rows, frames = jax.jit(jax.vmap(lambda v, w: _run(stream, v, w)))(values, weights)
    assert frames.shape == (3, 32)
    expected = smooth(values, weights=weights, kernel="triangular", window=8, lookahead=2)
    np.testing.assert_allclose(rows[:, 2:], expected, rtol=0, atol=1e-6)


def test_weights_default_to_one_and_rows_may_be_double():
    stream = smoothing_stream(window=2, lookahead=0)
    state, _, _ = stream.step(stream.init(1), np.array([1.0], np.float32))
    _, row, _ = stream.step(state, np.array([2.0], np.float32))
    assert row.tolist() == [1.5]
    with jax.enable_x64(True):
        stream = smoothing_stream(window=2, lookahead=0, dtype=jnp.float64)
        state, _, _ = stream.step(stream.init(1), np.array([1.0]))
        assert state["rows"].dtype == jnp.float64


def test_options_are_checked_before_the_first_frame():
    with pytest.raises(FerJaxError, match="window=4 has no middle"):
        smoothing_stream(window=4)
    with pytest.raises(FerJaxError, match="stride=0"):
        smoothing_stream(stride=0)
