"""The engine of `ops.smoothing`: videos that end anywhere in a chunk, vmap, eight devices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from smoothing_reference import ragged, smooth_reference

from fer_jax.ops import windows
from fer_jax.ops.smoothing import smooth

OPTIONS = ("kernel", "window", "lookahead")
_smooth = jax.jit(smooth, static_argnames=OPTIONS)

# Float32 against float64, numbers up to 1. Measured over these cases: 1.5e-7.
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Chunks of 32 rows of four classes."""
    monkeypatch.setattr(windows, "_CHUNK", 128)


def _cut_at_random(seed, rows, videos):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.choice(np.arange(1, rows), videos - 1, replace=False))
    return ragged(seed, np.diff([0, *ends, rows]).tolist())


@pytest.mark.parametrize("lookahead", [0, 4, 8])
@pytest.mark.parametrize("kernel", ["box", "exponential", "median"])
def test_videos_may_end_anywhere(kernel, lookahead):
    options = {"kernel": kernel, "window": 9, "lookahead": lookahead}
    for seed, videos in enumerate((1, 2, 5, 20, 60, 240)):
        values, weights, segments = _cut_at_random(seed, 240, videos)
        found = _smooth(values, weights=weights, segments=segments, **options)
        expected = smooth_reference(values, weights, segments, **options)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("rows", [1, 31, 33, 40, 41, 72])
def test_arrays_about_as_long_as_a_chunk(rows):
    values, weights, segments = _cut_at_random(rows, rows, min(rows, 3))
    found = _smooth(values, weights=weights, segments=segments, window=9)
    expected = smooth_reference(values, weights, segments, "box", 9)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("window", "lookahead"), [(3, 1), (5, 0), (5, 2)])
def test_two_videos_shorter_than_a_chunk(window, lookahead):
    """Wherever the second begins: also where its windows reach back to the very first row."""
    options = {"kernel": "box", "window": window, "lookahead": lookahead}
    for total in (2, 6, 9):
        for first in range(1, total):
            values, weights, segments = ragged(first, [first, total - first])
            found = _smooth(values, weights=weights, segments=segments, **options)
            expected = smooth_reference(values, weights, segments, **options)
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_vmap_over_other_videos_each():
    cases = [_cut_at_random(seed, 90, 2 + 3 * seed) for seed in range(4)]
    together = jax.vmap(lambda v, w, s: smooth(v, weights=w, segments=s, window=9))
    found = jax.jit(together)(*(np.stack(arrays) for arrays in zip(*cases, strict=True)))
    for row, (values, weights, segments) in zip(found, cases, strict=True):
        expected = smooth_reference(values, weights, segments, "box", 9)
        np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kernel", ["gaussian", "median"])
def test_sharded_equals_one_device(kernel):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    values, weights, segments = ragged(9, [100, 40, 180])
    options = {"kernel": kernel, "window": 11}
    one = _smooth(values, weights=weights, segments=segments, **options)
    split = NamedSharding(mesh, PartitionSpec("data"))
    arrays = [jax.device_put(array, split) for array in (values, weights, segments)]
    found = _smooth(arrays[0], weights=arrays[1], segments=arrays[2], **options)
    np.testing.assert_allclose(found, one, rtol=0, atol=1e-6)

    videos, seen = values.reshape(8, 40, 4), weights.reshape(8, 40)
    function = jax.jit(lambda v, w: smooth(v, weights=w, **options), in_shardings=split)
    compiled = function.lower(videos, seen).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    found = compiled(jax.device_put(videos, split), jax.device_put(seen, split))
    np.testing.assert_allclose(found, _smooth(videos, weights=seen, **options), rtol=0, atol=1e-6)
