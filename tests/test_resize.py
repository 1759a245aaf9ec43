"""Resizing against torch's interpolate (where installed), stored torch values, and Pillow."""

import jax
import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.ops.resize import (
    KERNELS,
    POSITION_KERNELS,
    resize,
    resize_host,
    resize_matrix,
    resize_position_embedding,
)

# torch.nn.functional.interpolate of [0, 10, 40, 20, 70] to 8 and to 3 values, in float64
TORCH = {
    "bilinear": (
        [0, 4.375, 11.875, 30.625, 33.75, 21.25, 48.125, 70],
        [3.333333, 40, 53.333333],
    ),
    "bilinear_antialias": (
        [0, 4.375, 11.875, 30.625, 33.75, 21.25, 48.125, 70],
        [4.285714, 28.888889, 48.571429],
    ),
    "bicubic": (
        [-0.928345, 1.87561, 11.957397, 33.948364, 34.958496, 19.016113, 46.894531, 74.641724],
        [1.481481, 40, 53.148148],
    ),
    "bicubic_antialias": (
        [-0.719557, 2.437493, 11.417236, 33.64624, 35.092773, 19.418945, 49.253339, 73.597786],
        [3.846154, 28.046512, 49.538462],
    ),
}
# On values up to 255, torch in float64 against this float32: up to 6.4e-5 was seen. (torch in
# float32 is up to 4e-3 from its own float64: it rounds the sampling positions.)
NOISE = 2e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_stored_torch(kernel):
    row = np.float32([0, 10, 40, 20, 70])
    for expected in TORCH[kernel]:
        own = resize_matrix(5, len(expected), kernel) @ row
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5)


def test_the_offset_of_dinov2_equals_stored_torch():
    """torch's interpolate with scale_factor = 3.1 / 5, which is how DINOv2 asks for 3 values."""
    kernel, offset = POSITION_KERNELS["bicubic_dinov2"]
    own = resize_matrix(5, 3, kernel, offset) @ np.float32([0, 10, 40, 20, 70])
    np.testing.assert_allclose(own, [1.393342, 39.114298, 45.066946], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("old", "new"), [(5, 8), (5, 3), (37, 16), (112, 224), (200, 48), (7, 7)])
def test_equals_live_torch(kernel, old, new):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(old * new).uniform(0, 255, (2, old, old + 3, 3))
    images = images.astype(np.float32)
    mode, _, antialias = kernel.partition("_")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).double().permute(0, 3, 1, 2),
        size=(new, new + 1),
        mode=mode,
        align_corners=False,
        antialias=bool(antialias),
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(resize(images, (new, new + 1), kernel), expected, rtol=0, atol=NOISE)
    host = np.stack([resize_host(image, (new, new + 1), kernel) for image in images])
    np.testing.assert_allclose(host, expected, rtol=0, atol=NOISE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_told_apart(kernel):
    """The check above would see one kernel taken for another, or a half-pixel slip."""
    image = np.random.default_rng(0).uniform(0, 255, (37, 37, 3)).astype(np.float32)
    own = resize_host(image, 16, kernel)
    for other in set(KERNELS) - {kernel}:
        assert np.abs(resize_host(image, 16, other) - own).max() > 1
    assert np.abs(resize_host(image[1:], 16, kernel) - own).max() > 1


def test_pillow_antialias():
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 255, (112, 90)).astype(np.float32)  # Pillow's "F" mode does not round
    for kernel, name in (("bicubic_antialias", "BICUBIC"), ("bilinear_antialias", "BILINEAR")):
        for size in ((224, 200), (40, 33)):
            pillow = image_module.fromarray(image).resize(
                size[::-1], getattr(image_module.Resampling, name)
            )
            own = resize_host(image[..., None], size, kernel)[..., 0]
            np.testing.assert_allclose(own, np.asarray(pillow), rtol=0, atol=NOISE)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("old", "new"), [(1, 9), (9, 1), (3, 2), (112, 224), (224, 14)])
def test_rows_sum_to_one(kernel, old, new):
    np.testing.assert_allclose(resize_matrix(old, new, kernel).sum(axis=1), 1, atol=1e-6)


def test_same_size_is_untouched():
    image = np.random.default_rng(1).uniform(0, 255, (5, 6, 3)).astype(np.float32)
    for kernel in KERNELS:
        np.testing.assert_array_equal(resize_matrix(6, 6, kernel), np.eye(6, dtype=np.float32))
        np.testing.assert_array_equal(resize_host(image, (5, 6), kernel), image)


def test_jit_and_host_agree_on_bytes():
    images = np.random.default_rng(2).integers(0, 256, (2, 3, 30, 20, 3), dtype=np.uint8)
    device = jax.jit(lambda x: resize(x, 44, "bicubic"))(images)
    assert device.shape == (2, 3, 44, 44, 3)
    np.testing.assert_allclose(
        device[1, 2], resize_host(images[1, 2], 44, "bicubic"), rtol=0, atol=NOISE
    )


@pytest.mark.parametrize("kernel", POSITION_KERNELS)
def test_position_embedding_equals_live_torch(kernel):
    torch = pytest.importorskip("torch")
    embedding = np.random.default_rng(5).normal(size=(1, 1 + 37 * 37, 8)).astype(np.float32)
    grid = torch.from_numpy(embedding[:, 1:]).reshape(1, 37, 37, 8).permute(0, 3, 1, 2)
    arguments = {
        "bicubic": {"size": (16, 12)},
        "bicubic_antialias": {"size": (16, 12), "antialias": True},
        "bicubic_dinov2": {"scale_factor": (16.1 / 37, 12.1 / 37)},
    }[kernel]
    expected = torch.nn.functional.interpolate(grid, mode="bicubic", **arguments)
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    own = resize_position_embedding(embedding, (16, 12), kernel)
    np.testing.assert_array_equal(own[:, 0], embedding[:, 0])
    # torch takes 37 / 16.1 in float32, which moves a sampling point by 1e-6: 6e-6 was seen
    np.testing.assert_allclose(own[:, 1:], expected, rtol=0, atol=3e-5)


def test_position_embedding_kernels_are_told_apart():
    embedding = np.random.default_rng(5).normal(size=(1, 1 + 37 * 37, 8)).astype(np.float32)
    seen = [resize_position_embedding(embedding, (16, 16), kernel) for kernel in POSITION_KERNELS]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(seen[i] - seen[j]).max() > 0.1


def test_bad_input_is_named():
    with pytest.raises(FerJaxError, match="'cubic'; one of bilinear"):
        resize_matrix(3, 4, "cubic")
    with pytest.raises(FerJaxError, match="3 to 0 pixels"):
        resize_matrix(3, 0, "bicubic")
    with pytest.raises(FerJaxError, match="10 patch rows"):
        resize_position_embedding(np.zeros((1, 11, 4), np.float32), (2, 2))
    with pytest.raises(FerJaxError, match="'bilinear'; one of bicubic"):
        resize_position_embedding(np.zeros((1, 10, 4), np.float32), (2, 2), "bilinear")
