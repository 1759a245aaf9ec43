"""Views of an aligned face: the whole of it, or the regions that carry expression."""

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from fer_jax.errors import FerJaxError
from fer_jax.ops.resize import resize, resize_host

Face = TypeVar("Face")

# (left, top, right, bottom) in hundredths of the aligned face's width and height. They fit the
# five-point ArcFace template. Eyes and mouth are the ABAW6 entry's boxes; the nose box is ours,
# since none is known.
EYES = (20, 35, 80, 55)
NOSE = (20, 50, 80, 70)
MOUTH = (20, 70, 80, 90)

# A view is its regions, stacked from top to bottom.
VIEWS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "main": ((0, 0, 100, 100),),
    "eyes_mouth": (EYES, MOUTH),
    "eyes": (EYES,),
    "mouth": (MOUTH,),
    "eyes_nose_mouth": (EYES, NOSE, MOUTH),
}


def cut_view(face: Face, view: str) -> Face:
    r"""Cuts a view from aligned faces.

    A region's edges are $\lfloor f\,w \rfloor$ and $\lfloor f\,h \rfloor$ for its fractions f,
    computed exactly, in integers. Regions of one view have the same width and are stacked from top
    to bottom, so eyes over mouth is 0.6 w wide and 0.4 h high; nothing is resized.

    Args:
        face: aligned faces [..., height, width, channels] of any dtype, numpy or jax.
        view: a name of `VIEWS`.

    Returns:
        The view [..., view height, view width, channels]: numpy for numpy, jax for jax.

    Raises:
        FerJaxError: the view is not known, or the face is too small to hold it.

    Example:
        >>> cut_view(np.zeros((112, 112, 3), np.uint8), "eyes_mouth").shape
        (44, 67, 3)
    """
    if view not in VIEWS:
        raise FerJaxError(f"no view {view!r}; one of {', '.join(VIEWS)}")
    height, width = face.shape[-3:-1]
    parts = []
    for left, top, right, bottom in VIEWS[view]:
        rows = slice(top * height // 100, bottom * height // 100)
        columns = slice(left * width // 100, right * width // 100)
        if rows.start == rows.stop or columns.start == columns.stop:
            raise FerJaxError(
                f"a face of {width}x{height} pixels is too small for the view {view!r}; "
                "use larger faces, or the view 'main'"
            )
        parts.append(face[..., rows, columns, :])
    if len(parts) == 1:
        return parts[0]
    concatenate = np.concatenate if isinstance(face, np.ndarray) else jnp.concatenate
    return concatenate(parts, axis=-3)


def view_images(
    faces: Shaped[Array | np.ndarray, "*batch height width channels"],
    view: str,
    size: int | tuple[int, int],
    kernel: str,
) -> Float[Array, "*batch new_height new_width channels"]:
    """Cuts a view from aligned faces and resizes it on the device.

    The boxes are static, so it jits, vmaps and differentiates; it is linear in the faces. Values
    are neither rounded nor clamped.

    Args:
        faces: aligned faces of any number type.
        view: a name of `VIEWS`.
        size: side of the images, or (height, width), in pixels; the aspect ratio is not kept.
        kernel: a name of `ops.resize.KERNELS`.

    Returns:
        float32 images in the range of the faces.

    Raises:
        FerJaxError: an unknown view or kernel, a size below 1, or faces too small for the view.

    Example:
        >>> view_images(np.zeros((2, 112, 112, 3), np.uint8), "eyes_mouth", 224, "bicubic").shape
        (2, 224, 224, 3)
    """
    return resize(cut_view(faces, view), size, kernel)


def view_images_host(
    faces: Shaped[np.ndarray, "*batch height width channels"],
    view: str,
    size: int | tuple[int, int],
    kernel: str,
) -> Float[np.ndarray, "*batch new_height new_width channels"]:
    """`view_images` with numpy, for data pipelines: the same boxes, the same matrices."""
    return resize_host(cut_view(faces, view), size, kernel)
