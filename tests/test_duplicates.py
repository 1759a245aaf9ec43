import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data import duplicates
from fer_jax.data.duplicates import (
    DEFAULT_DISTANCE,
    MOST_GROUPS,
    is_flat,
    picture_hash,
    twins,
)
from fer_jax.errors import FerJaxError


def _apart(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.unpackbits(first ^ second).sum())


def _brute_force(hashes, groups, distance) -> list[tuple[int, int]]:
    """What `twins` promises, by comparing all with all."""
    pairs = set()
    for i in range(len(hashes)):
        best = {}
        for j in range(len(hashes)):
            if groups[i] == groups[j] or not hashes[i].any() or not hashes[j].any():
                continue
            apart = _apart(hashes[i], hashes[j])
            if apart <= distance:
                best[groups[j]] = min(best.get(groups[j], (999, 0)), (apart, j))
        ranked = sorted((apart, group, j) for group, (apart, j) in best.items())
        pairs |= {(min(i, j), max(i, j)) for _, _, j in ranked[:MOST_GROUPS]}
    return sorted(pairs)


def _near_copies(rng, number, looks, flips):
    """Random hashes about a few looks, each with up to `flips` bits changed."""
    hashes = rng.integers(0, 256, (looks, 32), np.uint8)[rng.integers(0, looks, number)]
    bits = np.unpackbits(hashes, axis=1)
    for row in bits:
        row[rng.choice(256, rng.integers(0, flips + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    number=st.integers(0, 60),
    looks=st.integers(1, 6),
    flips=st.integers(0, 16),
    group_count=st.integers(1, 14),
    distance=st.integers(0, 24),
    equal=st.booleans(),
)
def test_twins_are_those_of_a_comparison_of_all_with_all(
    seed, number, looks, flips, group_count, distance, equal
):
    rng = np.random.default_rng(seed)
    hashes = _near_copies(rng, number, looks, flips)
    if equal and number:  # many equal hashes, within groups and across
        hashes = hashes[rng.integers(0, max(1, number // 4), number)]
    hashes[rng.random(number) < 0.1] = 0
    groups = rng.integers(0, group_count, number) * 7 - 20
    found = twins(hashes, groups, distance=distance)
    assert found.dtype == np.int64
    assert [tuple(pair) for pair in found.tolist()] == _brute_force(hashes, groups, distance)


def test_a_pair_is_found_up_to_the_distance_wherever_its_bits_differ():
    """The worst case: the differing bits lie in all bands but one."""
    for distance in (0, 1, 2, 3, 5, 12, 24):
        width = 256 // (distance + 1)
        first = np.random.default_rng(distance).integers(0, 256, 32, np.uint8)
        for spared in range(distance + 1):
            bits = np.unpackbits(first)
            bits[[band * width for band in range(distance + 1) if band != spared]] ^= 1
            pair = np.stack([first, np.packbits(bits)])
            assert twins(pair, np.array([0, 1]), distance=distance).tolist() == [[0, 1]]
            if distance:
                assert len(twins(pair, np.array([0, 1]), distance=distance - 1)) == 0


@pytest.mark.parametrize("offset", [0, 5, 64, 100, 190, 200, 255])
def test_a_band_starts_at_any_bit(offset):
    hashes = np.random.default_rng(offset).integers(0, 256, (5, 32), np.uint8)
    words = hashes.view(">u8").astype(np.uint64)
    expected = np.roll(np.unpackbits(hashes, axis=1), -offset, axis=1)[:, :64]
    found = duplicates._bits_from(words, offset).astype(">u8")[:, None].view(np.uint8)
    np.testing.assert_array_equal(np.unpackbits(found, axis=1), expected)


def test_results_do_not_hang_on_chunks(monkeypatch):
    rng = np.random.default_rng(1)
    hashes, groups = _near_copies(rng, 200, 3, 8), rng.integers(0, 5, 200)
    expected = twins(hashes, groups)
    assert len(expected) > 100
    monkeypatch.setattr(duplicates, "_CHUNK", 7)
    monkeypatch.setattr(duplicates, "_PENDING", 11)
    np.testing.assert_array_equal(twins(hashes, groups), expected)


def test_a_still_video_and_its_copy_are_found_beyond_the_window():
    """2,000 nearly equal frames twice: far more agree in a band than are compared."""
    rng = np.random.default_rng(2)
    video = _near_copies(rng, 2000, 1, 6)
    bits = np.unpackbits(video, axis=1) ^ (rng.random((2000, 256)) < 2 / 256)
    other = rng.integers(0, 256, (500, 32), np.uint8)
    hashes = np.concatenate([video, np.packbits(bits, axis=1), other])
    groups = np.repeat([0, 1, 2], [2000, 2000, 500])
    found = twins(hashes, groups)
    assert found.max() < 4000
    assert len(np.unique(found[:, 0])) >= 1990
    assert len(np.unique(found[:, 1])) >= 1990


def test_a_picture_in_every_video_is_paired_with_a_few():
    hashes = np.tile(np.random.default_rng(3).integers(0, 256, 32, np.uint8), (20, 1))
    found = twins(hashes, np.arange(20))
    assert found[:MOST_GROUPS].tolist() == [[0, j] for j in range(1, MOST_GROUPS + 1)]


@pytest.mark.parametrize("groups", [[5, 5, 5], [0, 1, 2]])
def test_nothing_to_find(groups):
    hashes = np.random.default_rng(4).integers(0, 256, (3, 32), np.uint8)
    assert twins(hashes, np.array(groups)).shape == (0, 2)
    assert twins(hashes[:0], np.array(groups)[:0]).shape == (0, 2)


def test_a_distance_that_is_none():
    hashes = np.zeros((2, 32), np.uint8)
    with pytest.raises(FerJaxError, match="distance=25 is outside"):
        twins(hashes, np.array([0, 1]), distance=25)


@pytest.mark.parametrize("side", [64, 112])
def test_the_hash_is_the_signs_of_low_frequencies(side):
    """Against scipy's cosine transform in float64."""
    image = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    expected = scipy.fft.dctn(grey)[1:17, 1:17]
    bits = np.unpackbits(picture_hash(image)).reshape(16, 16).astype(bool)
    sure = np.abs(expected) > side  # rounding to grey levels moves a sum by about as much
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(bits[sure], (expected > 0)[sure])


def test_a_flat_picture_has_no_hash_and_no_twin():
    rng = np.random.default_rng(6)
    black = np.zeros((112, 112, 3), np.uint8)
    noisy = np.clip(rng.normal(40, 3, (112, 112, 3)), 0, 255).astype(np.uint8)
    grey = _recoded(noisy, 30)
    hashes = np.stack([picture_hash(image) for image in (black, black, noisy, grey)])
    assert is_flat(hashes).all()
    assert len(twins(hashes, np.arange(4))) == 0
    face = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (112, 112))
    assert not is_flat(picture_hash(face)[None]).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (16, 16), (2000, 3)])
def test_pictures_of_any_size_have_a_hash(shape):
    image = np.random.default_rng(7).integers(0, 256, (*shape, 3), np.uint8)
    assert picture_hash(image).shape == (32,)


def _recoded(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def _copies(image: np.ndarray):
    """The same picture at another quality or size; the second size there and back."""
    small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    yield _recoded(image, 60)
    yield small
    yield _recoded(small, 60)
    yield _recoded(cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC), 60)


def _drawn(number: int) -> list[np.ndarray]:
    """Pictures with structure at all sizes, as photographs have it."""
    pictures = []
    for seed in range(number):
        rng = np.random.default_rng(seed)
        image = np.full((112, 112, 3), 128.0)
        for side, strength in ((4, 60), (8, 30), (16, 18), (32, 10), (56, 6)):
            noise = rng.normal(0, strength, (side, side, 1)) * [0.9, 1, 1.1]
            image += cv2.resize(noise, (112, 112), interpolation=cv2.INTER_CUBIC)
        pictures.append(np.clip(image, 0, 255).astype(np.uint8))
    return pictures


def _check_copies(pictures: list[np.ndarray], misses: float, least: int) -> None:
    hashes = np.stack([picture_hash(image) for image in pictures])
    apart = [
        [_apart(picture_hash(copy), own) for copy in _copies(image)]
        for image, own in zip(pictures, hashes, strict=True)
    ]
    assert np.mean(np.array(apart) > DEFAULT_DISTANCE, axis=0).max() <= misses, apart
    signs = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    between = (256 - signs @ signs.T) / 2 + 256 * np.eye(len(signs))
    assert between.min() >= least


def test_copies_are_near_and_others_are_far():
    # Measured: copies at most 12 bits, different pictures at least 97.
    _check_copies(_drawn(60), misses=0.0, least=60)


@pytest.mark.shared_data
def test_copies_of_real_faces_are_near_and_other_faces_are_far():
    shared = os.environ.get("FER_JAX_SHARED_DATA")
    if not shared or not (Path(shared) / "effectnet").is_dir():
        pytest.skip("FER_JAX_SHARED_DATA names no folder with effectnet/")
    paths = sorted((Path(shared) / "effectnet" / "validation").rglob("*.jpg"))[::4]
    pictures = [cv2.imread(str(path)) for path in paths]
    assert len(pictures) > 100
    hashes = np.stack([picture_hash(image) for image in pictures])
    apart = np.array(
        [
            [_apart(picture_hash(copy), own) for copy in _copies(image)]
            for image, own in zip(pictures, hashes, strict=True)
        ]
    )
    assert (apart <= DEFAULT_DISTANCE).mean() >= 0.995  # 0.9994 of 3,000 faces
    signs = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    between = (256 - signs @ signs.T) / 2 + 256 * np.eye(len(signs))
    # Different faces begin near 36 bits; what is nearer is the same picture, listed twice.
    assert ((between > DEFAULT_DISTANCE) & (between < 24)).sum() <= 1e-5 * between.size
