"""Aligning faces by five points: the similarity that brings them nearest to ArcFace's template.

Such faces are what Aff-Wild2 calls `cropped_aligned`, and what the boxes of the views refer to.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float64, Shaped, UInt8

from fer_jax.errors import FerJaxError

TEMPLATE_SIDE = 112
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],  # the eye at the picture's left
        [73.5318, 51.5014],
        [56.0252, 71.7366],  # nose
        [41.5493, 92.3655],  # the corner of the mouth at the picture's left
        [70.7299, 92.2041],
    ]
)
TEMPLATE.setflags(write=False)

# A face is warped at this many times its final size at most; larger pictures are shrunk before.
_MOST_SAMPLES = 8
_LEAST_LIKENESS = 1e-3
_LEAST_SPREAD = 1e-3
# OpenCV warps no picture of 2^15 pixels and more.
_MOST_SIDE = 32_000


def template_name(size: int) -> str:
    """The template as records and bundles name it."""
    return f"arcface_{size}"


def template(size: int) -> Float64[np.ndarray, "5 2"]:
    """The five points (x, y) in an aligned face of `size` x `size` pixels.

    A whole number is the middle of a pixel, as in OpenCV, so that the face at 224 pixels is the
    one at 112 pixels at twice the resolution, and not shifted by half a pixel.
    """
    return (TEMPLATE + 0.5) * (size / TEMPLATE_SIDE) - 0.5


def similarity(
    points: Float[np.ndarray, "n 2"], targets: Float[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "2 3"]:
    """The rotation, scale and shift that bring points nearest to targets, by least squares.

    With points as complex numbers, a rotation with scale is one factor a, so that
    sum |a p + b - q|^2 has its minimum at a = sum conj(p - mean) (q - mean) / sum |p - mean|^2.
    That is Umeyama's solution (IEEE PAMI 13, 1991) in the plane; a reflection is never taken.

    Args:
        points: (x, y) in pixels.
        targets: (x, y) in pixels, where they should come to lie.

    Returns:
        The matrix M of `target = M @ (x, y, 1)`.

    Raises:
        FerJaxError: the points are not finite, lie on one spot, or resemble the targets in no way.
    """
    if not np.isfinite(points).all():
        raise FerJaxError(f"the points {points.tolist()} cannot be aligned")
    p, q = (np.asarray(array, np.float64) @ (1, 1j) for array in (points, targets))
    spread, target_spread = p - p.mean(), q - q.mean()
    size = np.vdot(spread, spread).real
    reach = np.vdot(target_spread, target_spread).real
    factor = np.vdot(spread, target_spread) / size if size > _LEAST_SPREAD**2 else 0.0
    # A factor near zero would blow one pixel up to a face.
    if not abs(factor) * math.sqrt(size) > _LEAST_LIKENESS * math.sqrt(reach):
        raise FerJaxError(f"the points {np.round(points, 1).tolist()} cannot be aligned")
    shift = q.mean() - factor * p.mean()
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )


def align(
    image: UInt8[np.ndarray, "height width 3"],
    points: Float[np.ndarray, "5 2"],
    size: int = TEMPLATE_SIDE,
) -> UInt8[np.ndarray, "size size 3"]:
    """Cuts the aligned face out of a picture; what lies outside the picture is black.

    Where the face shrinks, each pixel is the mean of the area that it covers.

    Args:
        image: uint8, any colour order.
        points: (x, y) in pixels, as `Faces.points` has them.
        size: side of the aligned face in pixels.

    Returns:
        The face.

    Raises:
        FerJaxError: the points cannot be aligned.
    """
    matrix = similarity(points, template(size))
    samples = max(1, math.ceil(1 / _scale(matrix) - 1e-6))
    factor = min(_MOST_SAMPLES / samples, _MOST_SIDE / max(image.shape[:2]))
    if factor < 1:
        image, matrix = _shrunk(image, matrix, factor)
        samples = min(samples, _MOST_SAMPLES)
    # Pixel i of the face covers samples * i to samples * (i + 1) - 1.
    finer = matrix * samples
    finer[:, 2] += (samples - 1) / 2
    face = cv2.warpAffine(image, finer, (size * samples, size * samples), flags=cv2.INTER_LINEAR)
    if samples == 1:
        return face
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)


def aligned_side(points: Float[np.ndarray, "5 2"]) -> float:
    """How many pixels of the picture a side of the aligned face spans: its true resolution.

    Raises:
        FerJaxError: the points cannot be aligned.
    """
    return TEMPLATE_SIDE / _scale(similarity(points, TEMPLATE))


def alignment_error(points: Float[np.ndarray, "5 2"]) -> float:
    """How far the aligned points are from the template: root mean square over its eye distance.

    It grows as a face turns away; a mirrored or scrambled set of points has a large one.

    Raises:
        FerJaxError: the points cannot be aligned.
    """
    matrix = similarity(points, TEMPLATE)
    apart = transform(matrix, points) - TEMPLATE
    return float(np.sqrt((apart**2).sum(axis=1).mean()) / np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))


def transform(
    matrix: Float64[np.ndarray, "2 3"], points: Shaped[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "n 2"]:
    """The points after the matrix of `similarity`."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def _scale(matrix: Float64[np.ndarray, "2 3"]) -> float:
    return math.hypot(matrix[0, 0], matrix[1, 0])


def _shrunk(
    image: np.ndarray, matrix: Float64[np.ndarray, "2 3"], factor: float
) -> tuple[np.ndarray, Float64[np.ndarray, "2 3"]]:
    """The picture shrunk by area, and the matrix that does the same with the smaller one."""
    height, width = image.shape[:2]
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    back = np.array([width / small[0], height / small[1]])
    changed = np.empty_like(matrix)
    changed[:, :2] = matrix[:, :2] * back
    changed[:, 2] = matrix[:, 2] + matrix[:, :2] @ ((back - 1) / 2)
    return cv2.resize(image, small, interpolation=cv2.INTER_AREA), changed
