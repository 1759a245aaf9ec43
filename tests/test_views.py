import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.ops.views import VIEWS, cut_view

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


def test_bad_input_is_named():
    with pytest.raises(FerJaxError, match="no view 'nose'; one of main, eyes_mouth"):
        cut_view(np.zeros((112, 112, 3)), "nose")
    with pytest.raises(FerJaxError, match="4x2 pixels is too small for the view 'mouth'"):
        cut_view(np.zeros((2, 4, 3)), "mouth")
