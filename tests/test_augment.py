"""`ops.augment` (mixing on the device) and `data.augment` (one face at a time on the host)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fer_jax.data.augment import Augmentation, augment, flips
from fer_jax.errors import FerJaxError
from fer_jax.ops.augment import mix

BATCH, SIZE, CLASSES = 8, 16, 8


@pytest.fixture
def batch() -> tuple[jax.Array, jax.Array]:
    """Noise images, each with a class of its own."""
    images = np.random.default_rng(0).uniform(1, 255, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    return jnp.asarray(images), jnp.eye(CLASSES)


def _lambda(targets: jax.Array) -> float:
    """The weight of an image's own class; all images share it."""
    own = np.diag(np.asarray(targets))
    np.testing.assert_allclose(own, own[0], atol=1e-6)
    return float(own[0])


def test_mixup_is_its_formula(batch):
    images, targets = batch
    for seed in range(5):
        mixed, mixed_targets = mix(jax.random.key(seed), images, targets, cutmix_alpha=0.0)
        weight = _lambda(mixed_targets)
        x = np.asarray(images, np.float64)
        np.testing.assert_allclose(mixed, weight * x + (1 - weight) * x[::-1], rtol=1e-5)
        expected = weight * np.eye(CLASSES) + (1 - weight) * np.eye(CLASSES)[::-1]
        np.testing.assert_allclose(mixed_targets, expected, atol=1e-6)


def test_cutmix_pastes_one_rectangle_and_counts_it(batch):
    images, targets = batch
    clipped = 0
    for seed in range(20):
        mixed, mixed_targets = mix(jax.random.key(seed), images, targets, mixup_alpha=0.0)
        own = (np.asarray(mixed) == np.asarray(images)).all(axis=(0, 3))
        pasted = (np.asarray(mixed) == np.asarray(images)[::-1]).all(axis=(0, 3))
        assert (own ^ pasted).all()
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
        for covered in (rows, columns):  # without a gap
            assert np.count_nonzero(np.diff(covered.astype(int))) <= 2
        assert _lambda(mixed_targets) == pytest.approx(own.mean(), abs=1e-6)
        clipped += rows.sum() != columns.sum()
    # The box is square before it is cut off at the border.
    assert 0 < clipped < 20


def test_one_image_has_nothing_to_be_mixed_with(batch, annotations_off):
    with pytest.raises(
        FerJaxError, match=r"images of \(16, 16, 3\) and targets of \(8,\): .* batch"
    ):
        mix(jax.random.key(0), *(x[0] for x in batch))


def test_lambda_follows_beta():
    stats = pytest.importorskip("scipy.stats")
    images, targets = jnp.zeros((2, 2, 2, 3)), jnp.eye(2)

    @jax.vmap
    def weights(key):
        return mix(key, images, targets, mixup_alpha=0.8, cutmix_alpha=0.0)[1][0, 0]

    drawn = weights(jax.random.split(jax.random.key(0), 2000))
    assert stats.kstest(drawn, stats.beta(0.8, 0.8).cdf).pvalue > 0.01


def test_switch_and_probability_are_shares(batch):
    images, targets = batch

    @functools.partial(jax.vmap, in_axes=0)
    def draw(key):
        mixed, mixed_targets = mix(key, images, targets, switch_probability=0.25, probability=0.6)
        cut = ((mixed == images) | (mixed == images[::-1])).all()
        return mixed_targets[0, 0] < 1.0, cut

    changed, cut = draw(jax.random.split(jax.random.key(1), 1000))
    # 600 +- 15; a CutMix box below 2 pixels leaves the batch as it is.
    assert abs(int(changed.sum()) - 600) < 60
    share = float((changed & cut).sum() / changed.sum())
    assert abs(share - 0.25) < 0.06


def test_mixing_jits_keeps_sums_and_takes_uint8(batch):
    images, targets = batch
    soft = targets * 0.9 + 0.1 / CLASSES
    key = jax.random.key(7)
    mixed, mixed_targets = mix(key, images.astype(jnp.uint8), soft)
    jitted, jitted_targets = jax.jit(mix)(key, images.astype(jnp.uint8), soft)
    assert mixed.dtype == jnp.float32
    np.testing.assert_allclose(mixed, jitted, rtol=1e-6)
    np.testing.assert_allclose(mixed_targets, jitted_targets, rtol=1e-6)
    np.testing.assert_allclose(mixed_targets.sum(axis=1), 1.0, atol=1e-6)


def test_off_means_untouched(batch):
    images, targets = batch
    for options in ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, {"probability": 0.0}):
        mixed, mixed_targets = mix(jax.random.key(0), images, targets, **options)
        np.testing.assert_array_equal(mixed, images)
        np.testing.assert_array_equal(mixed_targets, targets)


def test_a_batch_over_eight_devices_is_mixed_as_one(batch):
    images, targets = batch
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    for seed in range(4):
        key = jax.random.key(seed)
        one = jax.jit(mix)(key, images, targets)
        eight = jax.jit(mix)(key, *jax.device_put((images, targets), sharding))
        for a, b in zip(one, eight, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_impossible_mixing_is_refused(batch):
    with pytest.raises(FerJaxError, match=r"mixup_alpha=-1\.0"):
        mix(jax.random.key(0), *batch, mixup_alpha=-1.0)
    with pytest.raises(FerJaxError, match=r"probability=1\.5"):
        mix(jax.random.key(0), *batch, probability=1.5)


# ---- one face on the host


def _run(view, seed=0, size=32, **options):
    rng, augmentation = np.random.default_rng(seed), Augmentation(**options)
    mirrored = flips(rng, augmentation)
    return augment(view, rng, image_size=size, augmentation=augmentation, mirrored=mirrored)


STILL = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": False}


@pytest.fixture
def ramp() -> np.ndarray:
    """Red says the column, green the row."""
    rows, columns = np.mgrid[0:100, 0:100]
    return np.stack([columns * 2, rows * 2, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_nothing_asked_for_is_a_plain_resize(ramp):
    assert np.array_equal(_run(ramp, size=100, **STILL), ramp)
    small = _run(ramp, size=50, **STILL)
    # Halving by areas is the mean of 2x2 pixels.
    expected = ramp.reshape(50, 2, 50, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).max() <= 0.5
    assert _run(ramp, size=130, **STILL).shape == (130, 130, 3)


def test_flip_mirrors_half_of_the_faces(ramp):
    mirrored = 0
    for seed in range(200):
        out = _run(ramp, seed, size=100, **{**STILL, "flip": True})
        if not np.array_equal(out, ramp):
            np.testing.assert_array_equal(out, ramp[:, ::-1])
            mirrored += 1
    assert 75 < mirrored < 125  # 100 +- 7


def test_crops_have_the_area_and_ratio_asked_for(ramp):
    areas, ratios, lefts = [], [], []
    for seed in range(300):
        # Upsampled, the smallest and largest levels are the crop's corners.
        out = _run(ramp, seed, size=200, crop_scale=(0.3, 0.6), flip=False).astype(float) / 2
        width = out[..., 0].max() - out[..., 0].min() + 1
        height = out[..., 1].max() - out[..., 1].min() + 1
        areas.append(width * height / 1e4)
        ratios.append(width / height)
        lefts.append(out[..., 0].min())
    # Sides are whole pixels, and read off to a pixel: 3 % of the area.
    assert 0.28 < min(areas) < 0.34
    assert 0.56 < max(areas) < 0.62
    assert 0.72 < min(ratios) < 0.80
    assert 1.25 < max(ratios) < 1.37
    assert abs(np.mean(np.log(ratios))) < 0.03
    assert min(lefts) == 0
    assert max(lefts) > 40


@pytest.mark.parametrize("size", [20, 33, 47, 59])
def test_shrinking_passes_over_no_pixel(size):
    """Each of 60x60 pixels has its effect: nothing is skipped, so that fine detail cannot alias."""
    seen = 0
    for row, column in np.random.default_rng(0).integers(0, 60, (100, 2)):
        view = np.zeros((60, 60, 3), np.uint8)
        view[row, column] = 255
        seen += bool(_run(view, size=size, **STILL).any())
    assert seen == 100


@pytest.mark.parametrize("size", [200, 80, 40])
def test_resizing_is_near_to_pillow(size):
    """Growing, shrinking a little, shrinking much: each has its kernel."""
    image = pytest.importorskip("PIL.Image")
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    view = np.asarray(image.fromarray(coarse).resize((100, 100), image.Resampling.BICUBIC))
    expected = image.fromarray(view).resize((size, size), image.Resampling.BICUBIC)
    difference = np.abs(_run(view, size=size, **STILL).astype(int) - np.asarray(expected, int))
    # Measured: 0.53, 0.32 and 0.87 levels, 4 at most; half a pixel off would be 3 at the mean.
    assert difference.mean() < 1.1
    assert difference.max() <= 5


def test_the_crop_of_a_wide_view_is_as_wide(ramp):
    wide = ramp[:40]
    out = _run(wide, size=40, **STILL)
    assert out.shape == (40, 40, 3)
    assert out[..., 0].max() > 190  # the whole width is there
    assert out[..., 1].max() >= 2 * 38


def test_erasing_fills_one_rectangle_with_noise():
    grey = np.full((64, 64, 3), 17, np.uint8)
    erased_count, shares, values = 0, [], []
    for seed in range(200):
        out = _run(grey, seed, size=64, erasing=0.5, **STILL)
        changed = (out != 17).any(axis=-1)
        if not changed.any():
            continue
        erased_count += 1
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        box = out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.99
        shares.append(box.shape[0] * box.shape[1] / 64**2)
        values.append(box.reshape(-1, 3))
    assert 75 < erased_count < 125
    assert 0.015 < min(shares) < 0.06
    assert 0.27 < max(shares) < 0.35
    values = np.concatenate(values)
    # ImageNet's mean and deviation, the latter a little less for the cut at 0 and 255.
    np.testing.assert_allclose(values.mean(axis=0), [124, 116, 104], atol=2)
    assert ((values.std(axis=0) > 50) & (values.std(axis=0) < 59)).all()
    # Channels and pixels vary apart from one another.
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.02


def test_the_view_is_never_written_to(ramp):
    before = ramp.copy()
    for seed in range(30):
        _run(ramp, seed, size=100, **STILL, randaugment_layers=3, erasing=1.0)
    np.testing.assert_array_equal(ramp, before)


def test_a_seed_repeats_itself(ramp):
    options = {"randaugment_layers": 2, "erasing": 0.5}
    np.testing.assert_array_equal(_run(ramp, 3, **options), _run(ramp, 3, **options))
    assert not np.array_equal(_run(ramp, 3, **options), _run(ramp, 4, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.8)},
        {"crop_ratio": (-1.0, 1.0)},
        {"randaugment_layers": -1},
        {"randaugment_magnitude": 11.0},
        {"erasing": 1.1},
    ],
)
def test_impossible_augmentation_is_named(options):
    with pytest.raises(FerJaxError, match=f"augmentation.{next(iter(options))}="):
        Augmentation(**options)
