"""Image and position-embedding resizing with torch's and Pillow's definitions, as two matrices.

A separable resize is `rows @ image @ columns.T`. The matrices are made once in float64 from sizes
that are known when tracing, so the same numbers serve numpy on the host and jit on the device.
`jax.image.resize` is not used: its cubic kernel and its antialiasing are neither torch's nor
Pillow's.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from fer_jax.errors import FerJaxError

if TYPE_CHECKING:
    import scipy.sparse


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


# name -> (filter, radius of its support in pixels, whether it widens when shrinking)
KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, bool]] = {
    "bilinear": (_triangle, 1, False),
    "bilinear_antialias": (_triangle, 1, True),
    "bicubic": (functools.partial(_cubic, a=-0.75), 2, False),
    "bicubic_antialias": (functools.partial(_cubic, a=-0.5), 2, True),
}

# How published ViTs resize their position embedding: name -> (kernel, offset of the output size).
POSITION_KERNELS: dict[str, tuple[str, float]] = {
    "bicubic": ("bicubic", 0.0),  # MAE; Hugging Face
    "bicubic_antialias": ("bicubic_antialias", 0.0),  # timm
    "bicubic_dinov2": ("bicubic", 0.1),  # facebookresearch/dinov2's interpolate_offset
}


@functools.lru_cache(maxsize=256)
def resize_matrix(
    in_size: int, out_size: int, kernel: str, offset: float = 0.0
) -> Float[np.ndarray, "out_size in_size"]:
    r"""The matrix that resizes one axis, with half-pixel centres (`align_corners=False`).

    Output pixel i looks at the input around $(i + 1/2)\, s$ with $s = in / (out + offset)$.
    Kernels without antialiasing repeat the border pixel, as torch does; those with it widen by
    $\max(s, 1)$, leave out what lies beyond the border and divide by the sum, as Pillow does.
    Every row sums to one.

    Args:
        in_size: pixels of the axis before.
        out_size: pixels of the axis after.
        kernel: `bilinear` or `bicubic` (torch: a = -0.75), or `bilinear_antialias` or
            `bicubic_antialias` (Pillow, and torch's `antialias=True`: a = -0.5).
        offset: added to the output size in the scale only; DINOv2 uses 0.1.

    Returns:
        A read-only float32 matrix, shared between calls.

    Raises:
        FerJaxError: the kernel is not known, or a size is below 1.

    Example:
        >>> resize_matrix(2, 4, "bilinear")[1]
        array([0.75, 0.25], dtype=float32)

    Source: torch `aten/src/ATen/native/UpSample.h`, Pillow `src/libImaging/Resample.c`.
    """
    if kernel not in KERNELS:
        raise FerJaxError(f"no resize kernel {kernel!r}; one of {', '.join(KERNELS)}")
    if in_size < 1 or out_size < 1:
        raise FerJaxError(f"cannot resize {in_size} to {out_size} pixels; sizes start at 1")
    filter_, radius, antialias = KERNELS[kernel]
    scale = in_size / (out_size + offset)
    width = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(out_size) + 0.5) * scale
    # Taps may lie beyond the border; how many there are on either side:
    margin = 0 if antialias else radius + 1
    taps = np.arange(-margin, in_size + margin)
    weights = filter_((taps[None, :] + 0.5 - centres[:, None]) / width)
    if antialias:
        matrix = weights / weights.sum(axis=1, keepdims=True)
    else:
        matrix = np.zeros((out_size, in_size))
        np.add.at(matrix.T, np.clip(taps, 0, in_size - 1), weights.T)
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def resize(
    images: Shaped[Array | np.ndarray, "*batch height width channels"],
    size: int | tuple[int, int],
    kernel: str,
) -> Float[Array, "*batch new_height new_width channels"]:
    """Resizes images on the device; jits, vmaps and differentiates.

    Values are neither rounded nor clamped, so a cubic kernel may leave the input's range a little.

    Args:
        images: of any number type; uint8 in [0, 255] stays in that range of float32.
        size: the new side, or (height, width), in pixels; the aspect ratio is not kept.
        kernel: a name of `KERNELS`.

    Returns:
        float32 images.

    Raises:
        FerJaxError: the kernel is not known, or a size is below 1.
    """
    images = jnp.asarray(images, jnp.float32)
    new_height, new_width = _pair(size)
    height, width = images.shape[-3:-1]
    # Without HIGHEST an accelerator would multiply in bfloat16 or TF32: whole grey levels off.
    multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    if new_height != height:
        rows = resize_matrix(height, new_height, kernel)
        images = multiply("oh,...hwc->...owc", rows, images)
    if new_width != width:
        columns = resize_matrix(width, new_width, kernel)
        images = multiply("ow,...hwc->...hoc", columns, images)
    return images


def resize_host(
    images: Shaped[np.ndarray, "*batch height width channels"],
    size: int | tuple[int, int],
    kernel: str,
) -> Float[np.ndarray, "*batch new_height new_width channels"]:
    """Resizes images on the host: the same matrices as `resize`, for data pipelines.

    Args:
        images: of any number type.
        size: the new side, or (height, width), in pixels.
        kernel: a name of `KERNELS`.

    Returns:
        float32 images.

    Raises:
        FerJaxError: the kernel is not known, or a size is below 1.
    """
    images = np.asarray(images, np.float32)
    new_height, new_width = _pair(size)
    *batch, height, width, channels = images.shape
    rows = None if new_height == height else _sparse(height, new_height, kernel)
    columns = None if new_width == width else _sparse(width, new_width, kernel)
    if rows is None and columns is None:
        return images
    resized = np.empty((*batch, new_height, new_width, channels), np.float32)
    for place in np.ndindex(*batch):
        image = images[place]
        if rows is not None:
            image = rows @ image.reshape(height, width * channels)
            image = image.reshape(new_height, width, channels)
        if columns is not None:
            image = columns @ image.swapaxes(0, 1).reshape(width, new_height * channels)
            image = image.reshape(new_width, new_height, channels).swapaxes(0, 1)
        resized[place] = image
    return resized


@functools.lru_cache(maxsize=256)
def _sparse(in_size: int, out_size: int, kernel: str) -> "scipy.sparse.csr_array":
    """`resize_matrix` without its zeros, which are most of it.

    Ten times as quick as a dense product, and it starts no threads of its own beside the model's.
    """
    import scipy.sparse

    return scipy.sparse.csr_array(resize_matrix(in_size, out_size, kernel))


def resize_position_embedding(
    pos_embed: Shaped[np.ndarray | Array, "1 tokens width"],
    grid: tuple[int, int],
    kernel: str = "bicubic",
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Resizes a ViT's position embedding to another patch grid; the CLS row is kept.

    Args:
        pos_embed: the CLS row, then a square grid of patch rows, row by row.
        grid: (rows, columns) of patches of the new image size.
        kernel: `bicubic` (MAE, Hugging Face), `bicubic_antialias` (timm), or `bicubic_dinov2`
            (DINOv2's own code: the scale is of a size 0.1 larger than the output).

    Returns:
        A float32 embedding of 1 + rows x columns tokens.

    Raises:
        FerJaxError: the kernel is not known, or the patch rows do not form a square.
    """
    if kernel not in POSITION_KERNELS:
        names = ", ".join(POSITION_KERNELS)
        raise FerJaxError(f"no position-embedding kernel {kernel!r}; one of {names}")
    pos_embed = np.asarray(pos_embed, np.float32)
    patches = pos_embed.shape[1] - 1
    side = round(patches**0.5)
    if side < 1 or side * side != patches:
        raise FerJaxError(
            f"pos_embed has {patches} patch rows, which is no square grid after one CLS row; "
            "convert it at its own image size"
        )
    if grid == (side, side):
        return pos_embed
    name, offset = POSITION_KERNELS[kernel]
    rows = resize_matrix(side, grid[0], name, offset)
    columns = resize_matrix(side, grid[1], name, offset)
    square = pos_embed[0, 1:].reshape(side, side, -1)
    square = np.einsum("oh,hwd->owd", rows, square, optimize=True)
    square = np.einsum("pw,owd->opd", columns, square, optimize=True)
    return np.concatenate([pos_embed[:, :1], square.reshape(1, grid[0] * grid[1], -1)], axis=1)
