"""Each operation against Pillow's, which timm's RandAugment is made of."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from fer_jax.data import randaugment as ra


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A public-domain portrait that comes with matplotlib, at a face pipeline's size."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image = Image.open(io.BytesIO(path.read_bytes())).crop((120, 20, 400, 300))
    return np.asarray(image.resize((112, 112)))


def _enhance(kind):
    return lambda image, factor: kind(image).enhance(factor)


def _affine(coefficients):
    return lambda image, value: image.transform(
        image.size, Image.AFFINE, coefficients(value, image.size), Image.BILINEAR, fillcolor=ra.FILL
    )


# operation -> (ours, Pillow's, arguments, largest difference in levels: 0 exact, 1 rounding)
POINTWISE = {
    "brightness": (ra.brightness, _enhance(ImageEnhance.Brightness), [0.1, 0.7, 1.0, 1.9], 0),
    # The mean grey level may round the other way: at factor 0.1 that is 0.9 of a level.
    "contrast": (ra.contrast, _enhance(ImageEnhance.Contrast), [0.1, 0.7, 1.0, 1.9], 1),
    "color": (ra.color, _enhance(ImageEnhance.Color), [0.1, 0.7, 1.0, 1.9], 2),
    "sharpness": (ra.sharpen, _enhance(ImageEnhance.Sharpness), [0.1, 0.7, 1.0, 1.9], 2),
    "auto_contrast": (
        lambda x, _: ra.auto_contrast(x),
        lambda x, _: ImageOps.autocontrast(x),
        [0],
        1,
    ),
    "equalize": (lambda x, _: ra.equalize(x), lambda x, _: ImageOps.equalize(x), [0], 0),
    "invert": (lambda x, _: ra.invert(x), lambda x, _: ImageOps.invert(x), [0], 0),
    "posterize": (ra.posterize, ImageOps.posterize, [1, 2, 4, 8], 0),
    "solarize": (ra.solarize, ImageOps.solarize, [0, 26, 200, 256], 0),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_point_operations_are_pillows(face, name):
    ours, pillows, arguments, tolerance = POINTWISE[name]
    for argument in arguments:
        expected = np.asarray(pillows(Image.fromarray(face), argument), int)
        before = face.copy()
        difference = np.abs(ours(face, argument).astype(int) - expected)
        assert difference.max() <= tolerance, (argument, difference.max())
        np.testing.assert_array_equal(face, before)


def test_solarize_add_is_its_definition(face):
    expected = np.where(face < 128, np.minimum(face.astype(int) + 99, 255), face)
    np.testing.assert_array_equal(ra.solarize_add(face, 99), expected)


# Pillow's own matrices, from output to input pixel corners; as timm calls them.
GEOMETRIC = {
    "shear_x": (ra.shear_x, lambda v, size: (1, v, 0, 0, 1, 0), [0.27, -0.1]),
    "shear_y": (ra.shear_y, lambda v, size: (1, 0, 0, v, 1, 0), [0.27, -0.1]),
    "translate_x": (ra.translate_x, lambda v, size: (1, 0, v * size[0], 0, 1, 0), [0.4, -0.13]),
    "translate_y": (ra.translate_y, lambda v, size: (1, 0, 0, 0, 1, v * size[1]), [0.4, -0.13]),
}


def _check_warp(ours: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding, and for the seam where Pillow does not blend with the filling."""
    difference = np.abs(ours.astype(int) - expected.astype(int)).max(axis=-1)
    # Measured: 3 levels inside (OpenCV interpolates in 1/32 of a pixel), 1.5 % of pixels in seams.
    assert np.mean(difference > 8) < 0.03
    assert np.median(difference) <= 1
    filled = (expected == np.array(ra.FILL)).all(axis=-1)
    assert filled.mean() > 0.01
    assert np.mean((ours == np.array(ra.FILL)).all(axis=-1) != filled) < 0.03


@pytest.mark.parametrize("name", GEOMETRIC)
def test_warps_are_pillows(face, name):
    ours, coefficients, values = GEOMETRIC[name]
    for value in values:
        expected = _affine(coefficients)(Image.fromarray(face), value)
        _check_warp(ours(face, value), np.asarray(expected))


@pytest.mark.parametrize("degrees", [27.0, -9.0])
@pytest.mark.parametrize("size", [(112, 112), (80, 112)])
def test_rotation_is_pillows(face, degrees, size):
    cut = np.ascontiguousarray(face[: size[0], : size[1]])
    expected = Image.fromarray(cut).rotate(degrees, Image.BILINEAR, fillcolor=ra.FILL)
    _check_warp(ra.rotate(cut, degrees), np.asarray(expected))


def test_flat_images_survive_every_operation():
    rng = np.random.default_rng(0)
    for level in (0, 128, 255):
        flat = np.full((24, 32, 3), level, np.uint8)
        for name, operation in ra.OPERATIONS.items():
            for strength in (0.0, 0.5, 1.0):
                out = operation(flat, rng, strength)
                assert out.shape == flat.shape, name
                assert out.dtype == np.uint8, name


def test_rand_augment_follows_its_generator(face):
    def run(seed, **options):
        return ra.rand_augment(face, np.random.default_rng(seed), **options)

    options = {"layers": 2, "magnitude": 9.0}
    np.testing.assert_array_equal(run(1, **options), run(1, **options))
    assert any(not np.array_equal(run(1, **options), run(seed, **options)) for seed in (2, 3, 4))
    np.testing.assert_array_equal(run(1, layers=0, magnitude=9.0), face)


def test_every_operation_is_drawn_equally_often_and_half_are_applied(face, monkeypatch):
    calls = []
    for name in ra.OPERATIONS:
        monkeypatch.setitem(
            ra.OPERATIONS, name, lambda image, rng, s, name=name: calls.append((name, s)) or image
        )
    rng = np.random.default_rng(0)
    for _ in range(1500):
        ra.rand_augment(face, rng, layers=2, magnitude=9.0)
    names = [name for name, _ in calls]
    strengths = np.array([strength for _, strength in calls])
    # 3000 draws, half applied: 1500 +- 27; 100 +- 10 of each operation.
    assert abs(len(calls) - 1500) < 110
    assert all(55 < names.count(name) < 145 for name in ra.OPERATIONS)
    assert len(ra.OPERATIONS) == 15
    # N(0.9, 0.05), cut off at 1.
    assert abs(np.median(strengths) - 0.9) < 0.01
    assert strengths.max() == 1.0
