"""Boxes (left, top, right, bottom): how much they share."""

import numpy as np
from jaxtyping import Float


def overlaps(
    first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each box of one list with each of another, float64 in [0, 1].

    Args:
        first: (left, top, right, bottom), in pixels.
        second: likewise.

    Returns:
        The shared area over the joint area; 0 where a box is empty.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    starts = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(ends - starts, 0.0), axis=-1)
    joint = areas(first)[:, None] + areas(second)[None, :] - shared
    return np.divide(shared, joint, out=np.zeros_like(shared), where=joint > 0)


def areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    """The boxes' areas in square pixels; an empty box has none."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1)
