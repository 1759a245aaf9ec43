"""Against loops in float64, pandas and scipy; properties; gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from smoothing_reference import ragged, smooth_reference

from fer_jax.errors import FerJaxError
from fer_jax.ops import windows
from fer_jax.ops.gaps import FILL_METHODS, fill_gaps
from fer_jax.ops.smoothing import KERNELS, frames_of, smooth, smooth_probabilities
from fer_jax.predict.table import FILLS

OPTIONS = ("kernel", "window", "stride", "lookahead", "width")
_smooth = jax.jit(smooth, static_argnames=OPTIONS)
_fill = jax.jit(fill_gaps, static_argnames="method")

# Float32 against float64, numbers up to 1. Measured over these cases: 2.4e-7.
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Chunks of 32 rows, so that small arrays have several, with videos ending inside."""
    monkeypatch.setattr(windows, "_CHUNK", 128)


LENGTHS = [40, 1, 3, 90, 200, 2, 60]


@pytest.mark.parametrize(
    ("kernel", "window", "lookahead", "stride"),
    [(kernel, 24, 3, 4) for kernel in KERNELS]
    + [(kernel, 101, None, 1) for kernel in ("box", "triangular")],
)
def test_equals_the_definition(kernel, window, lookahead, stride):
    values, weights, segments = ragged(0, LENGTHS, fractions=True)
    options = {"kernel": kernel, "window": window, "lookahead": lookahead, "stride": stride}
    found = _smooth(values, weights=weights, segments=segments, **options)
    assert found.dtype == jnp.float32
    expected = smooth_reference(values, weights, segments, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
def test_width_of_a_kernel(kernel):
    values, weights, segments = ragged(1, [50])
    found = _smooth(values, weights=weights, kernel=kernel, window=21, width=2.5)
    expected = smooth_reference(values, weights, segments, kernel, 21, width=2.5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("window", [3, 51])
def test_median_equals_scipys_exactly(window):
    values, _, _ = ragged(2, [300])
    found = np.asarray(_smooth(values, kernel="median", window=window))
    expected = ndimage.median_filter(values, (window, 1))
    inner = slice(window // 2, -(window // 2))  # scipy invents frames beyond the ends
    np.testing.assert_array_equal(found[inner], expected[inner])


def test_median_of_many_equal_and_signed_numbers():
    rng = np.random.default_rng(3)
    values = rng.integers(-2, 3, (200, 3)).astype(np.float32) * np.float32(1e30)
    weights = (rng.random(200) > 0.5).astype(np.float32)
    segments = np.zeros(200, np.int32)
    found = _smooth(values, weights=weights, kernel="median", window=8, lookahead=2)
    expected = smooth_reference(values, weights, segments, "median", 8, 2)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("kernel", ["box", "median"])
def test_equals_pandas(kernel):
    pandas = pytest.importorskip("pandas")
    values, weights, segments = ragged(4, LENGTHS)
    seen = pandas.DataFrame(np.where(weights[:, None] > 0, values, np.nan))
    rolling = seen.groupby(segments).rolling(31, center=True, min_periods=1)
    expected = np.nan_to_num((rolling.mean() if kernel == "box" else rolling.median()).to_numpy())
    found = _smooth(values, weights=weights, segments=segments, kernel=kernel, window=31)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


# Properties. Few shapes, as each is compiled; what is drawn is where the videos end, which frames
# were seen, the numbers.

_cases = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 59), st.integers(1, 59), st.sampled_from(KERNELS)
)


def _three(seed, first, second, gaps=0.25):
    ends = sorted({first, second, 60})
    return ragged(seed, np.diff([0, *ends]).tolist(), gaps=gaps)


@functools.cache
def _filter(kernel):
    return jax.jit(lambda v, w, s: smooth(v, weights=w, segments=s, kernel=kernel, window=9))


@functools.cache
def _filled(kernel):
    fill = FILL_METHODS[KERNELS.index(kernel) % len(FILL_METHODS)]
    options = {"kernel": kernel, "window": 9, "fill": fill}
    return jax.jit(lambda v, w, s: smooth_probabilities(v, w, segments=s, **options))


@settings(deadline=None, max_examples=40)
@given(_cases)
def test_probabilities_stay_probabilities(case):
    *places, kernel = case
    values, weights, segments = _three(*places)
    if kernel != "median":
        found = np.asarray(_filter(kernel)(values, weights, segments))
        assert (found >= 0).all()
        covered = found.sum(1) > 0
        np.testing.assert_allclose(found[covered].sum(1), 1, rtol=0, atol=TOLERANCE)
        assert covered[weights > 0].all()
    found, how = _filled(kernel)(values, weights, segments)
    assert (np.asarray(found) >= 0).all()
    np.testing.assert_allclose(np.asarray(found).sum(1), 1, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(np.asarray(how) == 0, weights > 0)


@settings(deadline=None, max_examples=40)
@given(_cases, st.floats(-1e3, 1e3, width=32))
def test_constants_are_kept(case, constant):
    *places, kernel = case
    _, weights, segments = _three(*places)
    values = np.full((60, 4), constant, np.float32)
    found = np.asarray(
        _filter("box" if kernel == "majority" else kernel)(values, weights, segments)
    )
    covered = np.asarray(_filter("box")(np.ones_like(values), weights, segments)) > 0
    np.testing.assert_allclose(found[covered], constant, rtol=1e-6, atol=1e-30)
    assert (found[~covered] == 0).all()


@settings(deadline=None, max_examples=40)
@given(_cases, st.sampled_from([np.nan, np.inf, 1e30]))
def test_videos_do_not_leak(case, poison):
    *places, kernel = case
    values, weights, segments = _three(*places)
    clean = np.asarray(_filter(kernel)(values, weights, segments))
    stranger = segments == segments[places[0] % 60]
    values[stranger] = poison
    weights[stranger] = 1
    found = np.asarray(_filter(kernel)(values, weights, segments))
    np.testing.assert_array_equal(found[~stranger], clean[~stranger])


@settings(deadline=None, max_examples=40)
@given(_cases)
def test_permuting_videos_permutes_the_result(case):
    *places, kernel = case
    values, weights, segments = _three(*places)
    found = np.asarray(_filter(kernel)(values, weights, segments))
    order = np.argsort(-segments, kind="stable")
    turned = _filter(kernel)(values[order], weights[order], np.sort(segments.max() - segments))
    np.testing.assert_array_equal(turned, found[order])  # to the bit


@settings(deadline=None, max_examples=40)
@given(_cases)
def test_gaps_do_not_move_their_neighbours_weights(case):
    """Whatever stands in a row of weight 0, and however it got there."""
    *places, kernel = case
    values, weights, segments = _three(*places)
    found = np.asarray(_filter(kernel)(values, weights, segments))
    values[weights == 0] = np.nan
    np.testing.assert_array_equal(_filter(kernel)(values, weights, segments), found)


def test_every_frame_has_probabilities_though_nothing_may_stand_where_the_filter_is_evaluated():
    values = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 4, np.float32)
    seen = np.float32([0] * 5 + [1] * 7)
    for options in ({"stride": 4, "window": 1}, {"kernel": "median", "window": 3}):
        found, how = smooth_probabilities(values, seen, **options)
        np.testing.assert_allclose(found.sum(1), 1, atol=TOLERANCE)
        assert (np.asarray(how)[:5] > 0).all()


def test_a_frame_beside_a_gap_weighs_what_it_would_without():
    impulse = np.zeros((9, 1), np.float32)
    impulse[4] = 1
    seen = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0], np.float32)
    found = _smooth(impulse, weights=seen, kernel="triangular", window=5)[:, 0]
    # 1, 2/3 and 1/3 of those that were seen; held or repeated rows would weigh more.
    np.testing.assert_allclose(found[2:7], [1 / 9, 2 / 8, 3 / 6, 2 / 3, 1], atol=TOLERANCE)


@settings(deadline=None, max_examples=20)
@given(_cases)
def test_a_window_of_one_is_the_identity(case):
    *places, kernel = case
    values, weights, segments = _three(*places)
    found = np.asarray(_smooth(values, weights=weights, segments=segments, kernel=kernel))
    seen = weights > 0
    if kernel == "majority":
        np.testing.assert_array_equal(found[seen].argmax(1), values[seen].argmax(1))
        values = np.eye(4, dtype=np.float32)[values.argmax(1)]
    np.testing.assert_array_equal(found[seen], values[seen])
    assert (found[~seen] == 0).all()


@settings(deadline=None, max_examples=30)
@given(_cases, st.sampled_from([0, 6]))
def test_lookahead_is_a_shift_of_the_centred_window(case, lookahead):
    """A box that looks L ahead is the centred box, half a window less L later."""
    *places, kernel = case
    values, weights, segments = _three(*places)
    kernel = kernel if kernel == "median" else "box"
    options = {"weights": weights, "segments": segments, "kernel": kernel, "window": 9}
    found = np.asarray(_smooth(values, lookahead=lookahead, **options))
    centred = np.asarray(_filter(kernel)(values, weights, segments))
    later = 4 - lookahead
    for row in range(max(later, 0), 60 + min(later, 0)):
        if segments[row] == segments[row - later]:
            np.testing.assert_array_equal(found[row], centred[row - later])


# Gaps.


def _fill_reference(values, weights, segments, method, prior):
    out, how = values.astype(np.float64), np.zeros(len(values), int)
    for row in np.flatnonzero(weights == 0):
        known = np.flatnonzero((weights > 0) & (segments == segments[row]))
        before, after = known[known < row], known[known > row]
        if method == "prior" or not len(known):
            out[row], how[row] = prior, FILLS.index("prior")
        elif method == "hold" and len(before):
            out[row], how[row] = values[before[-1]], FILLS.index("hold")
        elif method == "linear" and len(before) and len(after):
            out[row] = [
                np.interp(row, [before[-1], after[0]], values[[before[-1], after[0]], c])
                for c in range(values.shape[1])
            ]
            how[row] = FILLS.index("linear")
        else:
            out[row] = values[known[np.abs(known - row).argmin()]]
            how[row] = FILLS.index("nearest")
    return out, how


@pytest.mark.parametrize("method", FILL_METHODS)
def test_gaps_are_filled_as_defined(method):
    values, weights, segments = ragged(5, LENGTHS, gaps=0.7)
    weights[segments == 0] = 0  # a video of which nothing was seen
    prior = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    expected, expected_how = _fill_reference(values, weights, segments, method, prior)
    values[weights == 0] = np.nan
    found, how = _fill(values, weights, segments=segments, method=method, prior=prior)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(how, expected_how)
    without, _ = _fill(values, weights, segments=segments, method=method)
    np.testing.assert_array_equal(np.asarray(without)[segments == 0], np.float32(0.25))


def test_ways_to_fill_are_those_of_the_table():
    assert ("none", *FILL_METHODS) == FILLS


# Composition.


@pytest.mark.parametrize("kernel", ["gaussian"])
def test_a_leading_axis_is_videos_padded_with_weight_0(kernel):
    values, weights, segments = ragged(6, [30, 12, 30])
    flat = _smooth(values, weights=weights, segments=segments, kernel=kernel, window=7)
    padded, seen = np.full((3, 30, 4), np.nan, np.float32), np.zeros((3, 30), np.float32)
    for video in range(3):
        own = segments == video
        padded[video, : own.sum()], seen[video, : own.sum()] = values[own], weights[own]
    together = _smooth(padded, weights=seen, kernel=kernel, window=7)
    found = np.concatenate([together[video, : (segments == video).sum()] for video in range(3)])
    np.testing.assert_array_equal(found, flat)
    filled, how = fill_gaps(padded, seen, method="linear")
    one, one_how = fill_gaps(values, weights, segments=segments, method="linear")
    np.testing.assert_array_equal(filled[1, :12], one[segments == 1])
    np.testing.assert_array_equal(how[1, :12], one_how[segments == 1])


@pytest.mark.parametrize("kernel", ["box", "gaussian"])
def test_gradients_equal_those_of_the_matrix(kernel):
    values, weights, segments = ragged(7, [20, 35], fractions=True)
    weights += np.float32(0.1)
    target = np.random.default_rng(8).random(values.shape, np.float32)

    def loss(values, weights, filter_):
        return ((filter_(values, weights) - target) ** 2).sum()

    def matrix(values, weights):
        distance = jnp.arange(55)[None, :] - jnp.arange(55)[:, None]
        near = (distance >= -4) & (distance <= 1) & (segments[None, :] == segments[:, None])
        shape = jnp.exp(-((distance * 3 / 4) ** 2) / 2) if kernel == "gaussian" else 1.0
        share = jnp.where(near, shape, 0) * weights[None]
        return share @ values / share.sum(1, keepdims=True)

    def ours(values, weights):
        options = {"kernel": kernel, "window": 6, "lookahead": 1}  # not the same turned around
        return smooth(values, weights=weights, segments=segments, **options)

    gradient = functools.partial(jax.jit(jax.grad(loss, (0, 1)), static_argnums=2), values, weights)
    for found, expected in zip(gradient(ours), gradient(matrix), strict=True):
        # Measured 6e-7.
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_gradient_of_the_median_goes_to_the_middle():
    values = np.array([[5.0], [1.0], [3.0], [2.0]], np.float32)

    def median(values, weights):
        return smooth(values, weights=weights, kernel="median", window=7)[0, 0]

    def gradient(*weights):
        return jax.grad(median)(values, np.array(weights, np.float32))[:, 0].tolist()

    assert gradient(1, 1, 1, 1) == [0, 0, 0.5, 0.5]
    assert gradient(1, 1, 0, 1) == [0, 0, 0, 1]


def test_types():
    values, weights, segments = ragged(10, [50])
    half = smooth(values.astype(jnp.bfloat16), weights=weights, window=5)
    wide = smooth(values.astype(jnp.bfloat16).astype(np.float32), weights=weights, window=5)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, wide.astype(jnp.bfloat16))
    with jax.enable_x64(True):
        for kernel in ("gaussian", "median"):
            exact = smooth(values.astype(np.float64), weights=weights, kernel=kernel, window=5)
            assert exact.dtype == jnp.float64
            expected = smooth_reference(values, weights, segments, kernel, 5)
            np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-14)


def test_what_is_not_finite_shows_where_it_was_seen():
    values, weights = np.ones((9, 1), np.float32), np.ones(9, np.float32)
    values[2], values[6], weights[6] = np.nan, np.inf, 0
    found = smooth(values, weights=weights, kernel="triangular", window=3)[:, 0]
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [1, 2, 3]


def test_nothing_at_all():
    for kernel in ("box", "median"):
        assert smooth(np.zeros((0, 4), np.float32), kernel=kernel, window=5).shape == (0, 4)
    assert fill_gaps(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))[0].shape == (0, 4)


def test_seconds():
    assert [frames_of(s, 30) for s in (0, 0.03, 0.1, 0.99, 1, 1.01, 3.4)] == [
        1, 1, 3, 29, 29, 31, 101,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "mean"}, "no kernel 'mean'; one of box, gaussian"),
        ({"window": 0}, "window=0 must be at least 1 frame"),
        ({"window": 4}, "window=4 has no middle; give an odd number such as 5"),
        ({"window": 4, "lookahead": 4}, "lookahead=4 must be from 0 to 3"),
        ({"window": 4, "lookahead": -1}, "lookahead=-1 must be from 0 to 3"),
        ({"stride": 0}, "stride=0 must be at least 1"),
        ({"width": 2.0}, "'box' has no width=2.0"),
        ({"kernel": "gaussian", "width": 0.0}, "width=0.0 must be above 0 frames"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(FerJaxError, match=message.replace("[", r"\[")):
        smooth(np.zeros((9, 2), np.float32), **options)


def test_other_refusals():
    with pytest.raises(FerJaxError, match="no way 'last' to fill gaps; one of hold"):
        fill_gaps(np.zeros((9, 2), np.float32), np.zeros(9, np.float32), method="last")
    with pytest.raises(FerJaxError, match="a window of 1 s at 0 frames a second is none"):
        frames_of(1, 0)
    for function in (smooth, fill_gaps):
        arguments = {"weights": np.zeros((1, 9), np.float32), "segments": np.zeros(9, np.int32)}
        with pytest.raises(FerJaxError, match="segments are for videos one after the other"):
            function(np.zeros((1, 9, 2), np.float32), **arguments)


def test_values_that_are_no_rows_are_named(annotations_off):
    numbers = np.ones(5, np.float32)
    for function in (smooth, smooth_probabilities, fill_gaps):
        with pytest.raises(FerJaxError, match=r"values of shape \(5,\); give \[time, class\]"):
            function(numbers, weights=numbers)
