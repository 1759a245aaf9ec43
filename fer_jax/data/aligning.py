"""Faces of pictures that come unaligned: found, and aligned as those of videos are."""

import dataclasses
import functools

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.data.images import cut_square
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import align, aligned_side
from fer_jax.faces.boxes import areas, overlaps
from fer_jax.faces.detector import Detector, Faces

# There is a face in every picture that is listed, so less is asked for than in a video.
_MIN_SCORE = 0.3
_ABOUT_BOX = 2.0  # side of what is searched about a box, in sides of the box
_SAME_FACE = 0.2


@dataclasses.dataclass(frozen=True)
class AlignedPicture:
    """A face aligned by its five points.

    Attributes:
        face: uint8 `[size, size, 3]`.
        score: the detector's confidence; 0 where it found none, and the picture, or the square
            about its box, is taken as it is.
        side: pixels of the picture that a side of the face spans.
    """

    face: UInt8[np.ndarray, "size size 3"]
    score: float
    side: float


def align_picture(
    image: UInt8[np.ndarray, "h w 3"],
    box: tuple[float, float, float, float] | None,
    margin: float,
    size: int,
) -> AlignedPicture:
    """Finds the face of a picture and aligns it.

    Args:
        image: RGB.
        box: of the face that is meant, (left, top, right, bottom) in pixels; None: the largest.
        margin: of the square about the box, where no face is found.
        size: side of the aligned face in pixels.

    Returns:
        The face.

    Raises:
        ImageError: the box has nothing in it.
    """
    square = image if box is None else cut_square(image, box, margin)
    searched = image if box is None else cut_square(image, box, _ABOUT_BOX)
    found = _detector()(searched)
    row = _meant(found, None if box is None else searched.shape[0] / _ABOUT_BOX)
    if row is not None:
        points = found.points[row]
        try:
            face = align(searched, points, size)
        except FerJaxError:  # points that coincide
            row = None
    if row is None:
        way = cv2.INTER_AREA if min(square.shape[:2]) > size else cv2.INTER_LINEAR
        face = cv2.resize(square, (size, size), interpolation=way)
        return AlignedPicture(face, 0.0, float(min(square.shape[:2])))
    return AlignedPicture(face, float(found.scores[row]), aligned_side(points))


def _meant(found: Faces, side: float | None) -> int | None:
    """Which face is meant: the largest, or the one nearest to a square in the middle."""
    if not len(found):
        return None
    if side is None:
        return int(np.argmax(areas(found.boxes)))
    begin, end = side * (_ABOUT_BOX - 1) / 2, side * (_ABOUT_BOX + 1) / 2
    shared = overlaps(np.array([[begin, begin, end, end]]), found.boxes)[0]
    return int(shared.argmax()) if shared.max() >= _SAME_FACE else None


@functools.cache
def _detector() -> Detector:
    return Detector(min_score=_MIN_SCORE)
