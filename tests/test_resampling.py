"""Bootstrap and swaps of videos against plain loops; what intervals promise, in simulations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.evaluate.frame_scores import error_interval, film_numbers, of_films
from fer_jax.evaluate.intervals import (
    bootstrap,
    bootstrap_videos,
    compare_videos,
    draw_videos,
    interval,
)
from fer_jax.ops.metrics import accuracy, f1_by_class
from fer_jax.ops.resampling import bootstrap_sums, swapped_sums

KEY = jax.random.key(0)


def _paired(rng, number, *rights, classes=3, frames=80):
    """Confusion matrices of the same videos under predictors of several skills.

    Each video has a mixture of classes and a difficulty of its own.
    """
    tables = np.zeros((len(rights), number, classes, classes), np.int32)
    for video in range(number):
        labels = rng.choice(classes, frames, p=rng.dirichlet(np.full(classes, 2.0)))
        easy = rng.uniform(-0.25, 0.25)
        for table, right in zip(tables[:, video], rights, strict=True):
            wrong = (labels + rng.integers(1, classes, frames)) % classes
            hit = rng.random(frames) < right + easy + rng.uniform(-0.1, 0.1)
            np.add.at(table, (labels, np.where(hit, labels, wrong)), 1)
    return tables


def _videos(rng, number, **options):
    return _paired(rng, number, 0.6, **options)[0]


def test_a_resample_is_a_sum_of_drawn_videos():
    """The multiplicities, read off unit tables, give every other sum exactly."""
    tables = _videos(np.random.default_rng(0), 7) * 1_000_003  # beyond what float32 counts
    drawn = np.asarray(bootstrap_sums(KEY, np.eye(7, dtype=np.int32), 600))
    assert (drawn.sum(axis=1) == 7).all()
    assert len(np.unique(drawn, axis=0)) > 400
    # Each video is drawn Binomial(7, 1/7) times: mean 1, variance 6/7; 5 standard errors.
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=5 * (6 / 7 / 600) ** 0.5)
    expected = np.einsum("rv,vtp->rtp", drawn.astype(np.int64), tables.astype(np.int64))
    found = bootstrap_sums(KEY, tables, 600)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)


def test_a_resample_depends_on_its_own_number_alone():
    tables = _videos(np.random.default_rng(1), 5)
    many = np.asarray(bootstrap_sums(KEY, tables, 1030))
    assert many.shape == (1030, 3, 3)
    np.testing.assert_array_equal(bootstrap_sums(KEY, tables, 3), many[:3])
    both = jax.vmap(lambda one: bootstrap_sums(KEY, one, 20))(np.stack([tables, tables + 1]))
    np.testing.assert_array_equal(both[0], many[:20])


def test_sharded_over_eight_devices_is_the_same():
    tables = _videos(np.random.default_rng(2), 16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(bootstrap_sums, static_argnums=2)(KEY, jax.device_put(tables, rows), 100)
    np.testing.assert_array_equal(sharded, bootstrap_sums(KEY, tables, 100))


def test_few_videos_are_swapped_in_every_way():
    rng = np.random.default_rng(3)
    first, second = _videos(rng, 3), _videos(rng, 3)
    a, b = swapped_sums(KEY, first, second, 10_000)
    expected = {
        tuple((np.where(np.array(way)[:, None, None], second, first)).sum(axis=0).ravel())
        for way in itertools.product((0, 1), repeat=3)
    }
    assert {tuple(x.ravel()) for x in np.asarray(a)} == expected
    assert len(a) == 8
    np.testing.assert_array_equal(a[0], first.sum(axis=0))
    np.testing.assert_array_equal(a + b, np.broadcast_to(first.sum(0) + second.sum(0), a.shape))


def test_many_videos_are_swapped_at_random():
    unit = np.eye(20, dtype=np.int32)
    a, b = swapped_sums(KEY, unit, 0 * unit, 2000)
    assert set(np.unique(a)) == {0, 1}
    np.testing.assert_array_equal(a + b, np.ones_like(a))
    np.testing.assert_allclose(np.mean(a, axis=0), 0.5, atol=5 * 0.5 / 2000**0.5)


def test_intervals_equal_a_plain_loop():
    """Over the same draws, which unit tables tell."""
    tables = _videos(np.random.default_rng(4), 12)
    found = bootstrap_videos(tables, resamples=500, seed=3)
    macro, right = [], []
    for times in draw_videos(np.eye(12, dtype=np.int32), resamples=500, seed=3):
        total = sum(n * table for n, table in zip(times, tables, strict=True))
        f1 = [2 * total[i, i] / (total[i].sum() + total[:, i].sum()) for i in range(3)]
        macro.append(np.mean(f1))
        right.append(np.trace(total) / total.sum())
    for ours, theirs, score in (
        (found.macro_f1, macro, lambda table: f1_by_class(table).mean()),
        (found.accuracy, right, accuracy),
    ):
        everything = score(tables.sum(axis=0))
        less = np.array([score(np.delete(tables, i, axis=0).sum(axis=0)) for i in range(12)])
        freedom = min(11, 24 / (scipy.stats.kurtosis(less, fisher=False) - 1))
        reach = scipy.stats.t.ppf(0.975, freedom) * (12 / 11) ** 0.5
        bias = scipy.stats.norm.ppf(scipy.stats.percentileofscore(theirs, everything, "mean") / 100)
        skew = -scipy.stats.skew(less) / (6 * 12**0.5)
        ends = [bias + (bias + way) / (1 - skew * (bias + way)) for way in (-reach, reach)]
        expected = np.quantile(theirs, scipy.stats.norm.cdf(ends))
        np.testing.assert_allclose(ours, expected, rtol=1e-9)
    again = bootstrap_videos(tables, resamples=500, seed=3)
    np.testing.assert_array_equal(found.f1, again.f1)
    with pytest.raises(FerJaxError, match="no frame was scored"):
        bootstrap_videos(tables * 0)
    with pytest.raises(FerJaxError, match="1 video"):
        bootstrap_videos(tables[:1])


@pytest.mark.parametrize("number", [10, 70])  # Aff-Wild2's validation has 70
def test_intervals_cover_what_they_promise(number):
    """Of 300 samples of videos, 95 % hold the true scores; of 1,000, 94.6 to 96.5 % did."""
    rng, held = np.random.default_rng(6), np.zeros(2)
    # Of endless videos: classes alike in number, six of ten right, the others either way.
    true = np.full((3, 3), 2) + 4 * np.eye(3, dtype=int)
    truth = np.array([f1_by_class(true).mean(), accuracy(true)])
    for seed in range(300):
        found = bootstrap_videos(_videos(rng, number), resamples=500, seed=seed)
        ends = np.stack([found.macro_f1, found.accuracy])
        held += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    # Three standard errors of 0.0126 about 0.95.
    assert (np.abs(held / 300 - 0.95) < 0.038).all(), held / 300


def _rare(rng, number):
    """Confusion matrices of videos of 8 classes, three of which only 4 or 5 of 70 videos show."""
    tables = np.zeros((number, 8, 8), np.int64)
    share = [0.9, 0.06, 0.06, 0.08, 0.5, 0.35, 0.25, 0.6]
    for table in tables:
        shown = rng.random(8) < share
        shown[0] |= not shown.any()
        for own in np.flatnonzero(shown):
            right = np.clip(rng.beta(2, 2), 0.02, 0.98)
            chances = np.full(8, (1 - right) / 7)
            chances[own] = right
            table[own] = rng.multinomial(rng.integers(50, 300), chances)
    return tables


@pytest.mark.parametrize("samples", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_intervals_cover_where_classes_are_rare(samples):
    """As in Aff-Wild2: 94.4 % of 1,000 intervals held the true macro-F1; percentiles: 88.6 %."""
    rng = np.random.default_rng(11)
    truth = f1_by_class(_rare(np.random.default_rng(99), 10_000).sum(axis=0)).mean()
    missed = np.zeros(2)
    for seed in range(samples):
        low, high = bootstrap_videos(_rare(rng, 70), resamples=500, seed=seed).macro_f1
        missed += truth < low, truth > high
    # Three standard errors about 0.05, and about 0.025 at each end.
    assert missed.sum() / samples < 0.05 + 3 * (0.0475 / samples) ** 0.5, missed
    assert (missed / samples < 0.025 + 3 * (0.0244 / samples) ** 0.5).all(), missed


def test_an_interval_holds_its_own_figure():
    """However far from it the resamples are, and whatever one video pulls."""
    pull = np.zeros(50)
    pull[0] = 1
    for drawn in (np.linspace(0.6, 0.7, 100), np.linspace(0.1, 0.2, 100), np.full(100, 0.5)):
        for left_out in (0.5 - pull, 0.5 + pull, np.full(50, 0.5)):
            low, high = interval(0.5, drawn, left_out)
            assert low <= 0.5 <= high


def _reliability(rng, films, offset):
    """Frames, confidence and hits in 15 bins, of a model that is right `offset` less often."""
    frames, confidence = rng.integers(0, 200, (films, 15)), (np.arange(15) + 0.5) / 15
    hits = rng.binomial(frames, np.maximum(confidence - offset, 0))
    return np.stack([frames, frames * confidence, hits], axis=-1).astype(np.float64)


@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_intervals_of_the_calibration_error_cover(offset):
    """Percentiles held the truth of a calibrated model in none of 300, and missed themselves."""
    rng, held = np.random.default_rng(12), 0
    confidence = (np.arange(15) + 0.5) / 15
    truth = np.minimum(confidence, offset).mean()
    for seed in range(100):
        sums = _reliability(rng, 40, offset)
        low, high = error_interval(sums, resamples=400, seed=seed)
        frames, sure, right = sums.sum(axis=0).T
        assert 0 <= low <= np.abs(sure - right).sum() / frames.sum() <= high
        held += low <= truth <= high
    assert held >= 95 - 3 * 2.2  # three standard errors


def test_sums_are_not_rounded_to_fewer_bits():
    """An accelerator multiplies float32 in fewer bits, unless it is told not to."""
    draw = jax.jit(bootstrap_sums, static_argnums=2)
    text = draw.lower(KEY, jnp.ones((3, 2)), 4).as_text()
    assert "dot_general" in text
    assert "precision = [HIGHEST, HIGHEST]" in text


def test_people_of_one_film_are_one():
    names = ("a_left", "a_right", "b", "c_left")
    assert film_numbers(names).tolist() == [0, 0, 1, 2]
    tables = np.arange(8).reshape(4, 2)
    assert of_films(names, tables).tolist() == [[2, 4], [4, 5], [6, 7]]


def test_frames_taken_as_independent_would_promise_too_much():
    """The reason for drawing videos: with frames drawn, far fewer intervals hold the truth."""
    rng, held = np.random.default_rng(7), 0
    for seed in range(100):
        total = _videos(rng, 20, frames=400).sum(axis=0)
        low, high = bootstrap(total, resamples=300, seed=seed).accuracy
        held += low <= 0.6 <= high
    assert held < 50  # seen: 22


def test_comparison_of_two_predictors():
    rng = np.random.default_rng(8)
    strong, weak = _paired(rng, 40, 0.7, 0.5)
    found = compare_videos(strong, weak, resamples=2000)
    expected = f1_by_class(strong.sum(0)).mean() - f1_by_class(weak.sum(0)).mean()
    assert found.difference == pytest.approx(expected, abs=1e-12)
    assert 0 < found.low < found.difference < found.high
    assert found.p_value == pytest.approx(1 / 2001)
    same = compare_videos(strong, strong, resamples=200)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    few = compare_videos(strong[:3], weak[:3], resamples=2000)
    assert (
        few.p_value == 0.25
    )  # 2 of the 8 ways to swap are as far apart, the true one and its twin
    with pytest.raises(FerJaxError, match="other videos or labels"):
        compare_videos(strong, weak[:-1])


def test_p_values_are_even_where_nothing_differs():
    rng = np.random.default_rng(9)
    values = [
        compare_videos(*_paired(rng, 30, 0.6, 0.6, frames=40), resamples=300) for _ in range(150)
    ]
    below = np.mean([[one.p_value <= level for one in values] for level in (0.1, 0.5)], axis=1)
    # Three standard errors of 0.024 and 0.041.
    assert abs(below[0] - 0.1) < 0.073
    assert abs(below[1] - 0.5) < 0.123
