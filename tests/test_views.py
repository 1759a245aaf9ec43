import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.ops.views import VIEWS, cut_view, view_images, view_images_host

# The boxes as they are published (the nose is ours), apart from the module's own numbers.
PUBLISHED = {
    "eyes": ("0.20", "0.35", "0.80", "0.55"),
    "mouth": ("0.20", "0.70", "0.80", "0.90"),
    "nose": ("0.20", "0.50", "0.80", "0.70"),
}


def _coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixels say where they are."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)


def _box(region: str, height: int, width: int) -> np.ndarray:
    left, top, right, bottom = (Fraction(text) for text in PUBLISHED[region])
    rows = range(math.floor(top * height), math.floor(bottom * height))
    columns = range(math.floor(left * width), math.floor(right * width))
    return np.array([[(row, column) for column in columns] for row in rows])


@pytest.mark.parametrize("size", [(112, 112), (224, 224), (180, 180), (97, 131), (20, 10)])
@pytest.mark.parametrize(
    ("view", "regions"),
    [
        ("eyes", ["eyes"]),
        ("mouth", ["mouth"]),
        ("eyes_mouth", ["eyes", "mouth"]),
        ("eyes_nose_mouth", ["eyes", "nose", "mouth"]),
    ],
)
def test_regions_are_the_published_boxes(size, view, regions):
    expected = np.concatenate([_box(region, *size) for region in regions])
    np.testing.assert_array_equal(cut_view(_coordinates(*size), view), expected)


def test_the_arcface_template_lies_in_its_regions():
    # Eyes and mouth corners of the 112x112 template, (x, y).
    face = _coordinates(112, 112)
    for view, points in {
        "eyes": [(38.2946, 51.6963), (73.5318, 51.5014)],
        "mouth": [(41.5493, 92.3655), (70.7299, 92.2041)],
    }.items():
        cut = cut_view(face, view).reshape(-1, 2).tolist()
        for x, y in points:
            assert [int(y), int(x)] in cut


def test_main_is_the_whole_face_and_is_not_copied():
    face = np.zeros((5, 7, 3), np.uint8)
    assert np.shares_memory(cut_view(face, "main"), face)
    assert cut_view(face, "main").shape == face.shape


@pytest.mark.parametrize("view", VIEWS)
def test_numpy_jax_and_jit_agree_on_batches(view):
    faces = np.random.default_rng(0).integers(0, 256, (2, 3, 48, 40, 3), dtype=np.uint8)
    cut = cut_view(faces, view)
    on_device = cut_view(jnp.asarray(faces), view)
    jitted = jax.jit(cut_view, static_argnums=1)(faces, view)
    assert isinstance(cut, np.ndarray)
    assert isinstance(on_device, jax.Array)
    for other in (on_device, jitted):
        assert other.dtype == np.uint8
        np.testing.assert_array_equal(other, cut)
    np.testing.assert_array_equal(cut[1, 2], cut_view(faces[1, 2], view))


def _crop(faces: np.ndarray, view: str) -> np.ndarray:
    """A view of faces [..., h, w, 3] by the published boxes, apart from `cut_view`."""
    if view == "main":
        return faces
    boxes = [_box(region, *faces.shape[-3:-1]) for region in view.split("_")]
    return np.concatenate([faces[..., box[..., 0], box[..., 1], :] for box in boxes], axis=-3)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("kernel", "face", "size"),
    [
        ("bicubic_antialias", (112, 112), 224),
        ("bicubic_antialias", (97, 131), (48, 40)),
        ("bicubic", (112, 112), (33, 150)),
        ("bilinear", (97, 131), 64),
        ("bilinear_antialias", (112, 112), (24, 160)),
    ],
)
def test_images_of_views_equal_torch(kernel, face, size, view):
    """The crop by exact fractions, resized by torch in float64: on the host, by jit and vmap."""
    torch = pytest.importorskip("torch")
    faces = np.random.default_rng(0).integers(0, 256, (2, *face, 3), dtype=np.uint8)
    mode, _, antialias = kernel.partition("_")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(_crop(faces, view)).double().permute(0, 3, 1, 2),
        size=size,
        mode=mode,
        align_corners=False,
        antialias=bool(antialias),
    )
    expected = expected.permute(0, 2, 3, 1).numpy()

    def on_device(x):
        return view_images(x, view, size, kernel)

    found = {
        "jit": jax.jit(on_device)(faces),
        "jit and vmap": jax.jit(jax.vmap(on_device))(faces),
        "host": view_images_host(faces, view, size, kernel),
        "host, one by one": np.stack([view_images_host(f, view, size, kernel) for f in faces]),
    }
    for name, images in found.items():
        assert images.dtype == np.float32
        # Up to 6.8e-5 was seen, on values up to 255, before any rounding.
        np.testing.assert_allclose(images, expected, rtol=0, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("kernel", "name"), [("bicubic_antialias", "BICUBIC"), ("bilinear_antialias", "BILINEAR")]
)
def test_images_of_views_equal_pillow(view, kernel, name):
    image = pytest.importorskip("PIL.Image")
    faces = np.random.default_rng(1).uniform(0, 255, (2, 112, 90, 3)).astype(np.float32)
    for size in (224, (40, 60)):
        height, width = (size, size) if isinstance(size, int) else size
        expected = np.empty((2, height, width, 3), np.float32)
        for i, j in np.ndindex(2, 3):
            plane = image.fromarray(_crop(faces, view)[i, ..., j])  # mode F: is not rounded
            expected[i, ..., j] = plane.resize((width, height), getattr(image.Resampling, name))
        for images in (
            jax.jit(lambda x, size=size: view_images(x, view, size, kernel))(faces),
            view_images_host(faces, view, size, kernel),
        ):
            np.testing.assert_allclose(images, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("view", VIEWS)
def test_the_gradient_of_a_view_equals_finite_differences(view):
    rng = np.random.default_rng(2)
    face = rng.uniform(0, 255, (20, 24, 3)).astype(np.float32)
    weights = rng.normal(size=(9, 11, 3))

    def loss(x):
        images = view_images(x, view, (9, 11), "bicubic_antialias")
        return (jnp.asarray(weights, jnp.float32) * jnp.sin(images / 60)).sum()

    def loss_host(x):
        images = view_images_host(x, view, (9, 11), "bicubic_antialias")
        return (weights * np.sin(images.astype(np.float64) / 60)).sum()

    gradient = np.asarray(jax.jit(jax.grad(loss))(face))
    step = 2.0
    inside = np.unique(_crop(_coordinates(20, 24), view).reshape(-1, 2), axis=0)
    seen = 0
    for row, column in rng.choice(inside, 40):
        place = (row, column, rng.integers(3))
        above, below = face.copy(), face.copy()
        above[place] += step
        below[place] -= step
        slope = (loss_host(above) - loss_host(below)) / (2 * step)
        # The third order of the sine and float32: 3e-6 was seen, of slopes about 1e-2.
        assert abs(slope - gradient[place]) < 2e-5
        seen += abs(slope) > 2e-4
    assert seen > 20
    outside = np.ones((20, 24), bool)
    outside[tuple(inside.T)] = False
    assert not gradient[outside].any()


def test_bad_input_is_named():
    with pytest.raises(FerJaxError, match="no view 'nose'; one of main, eyes_mouth"):
        cut_view(np.zeros((112, 112, 3)), "nose")
    with pytest.raises(FerJaxError, match="4x2 pixels is too small for the view 'mouth'"):
        cut_view(np.zeros((2, 4, 3)), "mouth")
