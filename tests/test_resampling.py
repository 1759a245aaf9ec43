"""Bootstrap and swaps of videos against plain loops; what intervals promise, in simulations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.evaluate.intervals import bootstrap, bootstrap_videos, compare_videos, draw_videos
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
    reach = scipy.stats.t.ppf(0.975, 11) * (12 / 11) ** 0.5
    ends = scipy.stats.norm.cdf([-reach, reach])
    for ours, theirs in ((found.macro_f1, macro), (found.accuracy, right)):
        np.testing.assert_allclose(ours, np.quantile(theirs, ends), rtol=1e-12)
    again = bootstrap_videos(tables, resamples=500, seed=3)
    np.testing.assert_array_equal(found.f1, again.f1)
    with pytest.raises(FerJaxError, match="no frame was scored"):
        bootstrap_videos(tables * 0)
    with pytest.raises(FerJaxError, match="1 video"):
        bootstrap_videos(tables[:1])


@pytest.mark.parametrize("number", [10, 70])  # Aff-Wild2's validation has 70
def test_intervals_cover_what_they_promise(number):
    """Of 300 samples of videos, 95 % hold the true scores; of 1,000, 94.4 to 95.7 % did."""
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
