"""Aligned faces with a region covered, to see how much an expression hangs on it.

The boxes are made of the five-point template, with the distance d of its eyes (35.2 of 112 pixels)
as the measure:

    region  across                                    down
    eyes    0.45 d beyond either eye                  0.3 d above the eyes to 0.3 d below
    nose    0.4 d to either side of its tip           what lies between eyes and mouth
    mouth   0.3 d beyond either corner                0.3 d above the corners to 0.3 d below

At 112 pixels their edges are x 23 to 90, y 42 to 63; x 42 to 71, y 63 to 82; x 31 to 82, y 82 to
103. The fill is middle grey. The boxes are ours: no paper is followed.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import template

REGIONS = ("eyes", "nose", "mouth")
GREY = 128


def region_box(region: str, size: int) -> tuple[int, int, int, int]:
    """The box of a region in an aligned face.

    Args:
        region: one of `REGIONS`.
        size: side of the face, pixels.

    Returns:
        (left, top, right, bottom): its pixels are `face[top:bottom, left:right]`.

    Raises:
        FerJaxError: no such region.

    Example:
        >>> region_box("mouth", 112)
        (31, 82, 82, 103)
    """
    # A whole number is the middle of a pixel in the template, and its edge in a slice.
    left_eye, right_eye, nose, left_corner, right_corner = template(size) + 0.5
    unit = float(np.hypot(*(right_eye - left_eye)))
    eyes, corners = (left_eye + right_eye) / 2, (left_corner + right_corner) / 2
    above_mouth, below_eyes = corners[1] - 0.3 * unit, eyes[1] + 0.3 * unit
    boxes = {
        "eyes": (left_eye[0] - 0.45 * unit, eyes[1] - 0.3 * unit,
                 right_eye[0] + 0.45 * unit, below_eyes),
        "nose": (nose[0] - 0.4 * unit, below_eyes, nose[0] + 0.4 * unit, above_mouth),
        "mouth": (left_corner[0] - 0.3 * unit, above_mouth,
                  right_corner[0] + 0.3 * unit, corners[1] + 0.3 * unit),
    }  # fmt: skip
    if region not in boxes:
        raise FerJaxError(f"no region {region!r} to cover; one of {', '.join(REGIONS)}")
    left, top, right, bottom = (round(float(edge)) for edge in boxes[region])
    return left, top, right, bottom


def cover(
    face: UInt8[np.ndarray, "side side 3"], regions: Sequence[str]
) -> UInt8[np.ndarray, "side side 3"]:
    """An aligned face with regions filled with grey.

    Args:
        face: aligned to the five-point template, of any size.
        regions: of `REGIONS`.

    Returns:
        A copy.

    Raises:
        FerJaxError: no such region.

    Example:
        >>> black = np.zeros((112, 112, 3), np.uint8)
        >>> cover(black, ["eyes"])[[41, 42, 62, 63], 56, 0].tolist()
        [0, 128, 128, 0]
    """
    covered = face.copy()
    for region in regions:
        left, top, right, bottom = region_box(region, len(face))
        covered[top:bottom, left:right] = GREY
    return covered
