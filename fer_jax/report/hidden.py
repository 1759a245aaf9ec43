"""Frames without the faces in them, for those who may not show any."""

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from fer_jax.predict.table import PredictionTable

_MARGIN = 0.35  # of the box's sides, on each side: hair, chin and ears
_BEYOND_S = 1.0  # how long before its first sighting and after its last one a face is covered
_COARSE = 16  # blocks across a frame in which no face is known
_GREY = 118


class HiddenFaces:
    """Covers the faces of a video, frame by frame.

    A face is covered by a grey box, 0.35 of its sides larger on each side, wherever a row has one;
    between two sightings, however far apart, where a straight way between them leads; and for a
    second before the first and after the last one. A frame in which nothing is covered is shown as
    blocks, 16 across, since a face in it may have been missed. A face that was never found, beside
    one that was, is not covered: nobody knows of it.

    Args:
        table: predictions of one video.
    """

    def __init__(self, table: PredictionTable) -> None:
        rows = np.flatnonzero(np.isfinite(table.box).all(axis=1) & np.isfinite(table.time_s))
        rows = rows[np.lexsort((table.time_s[rows], table.face_id[rows]))]
        starts = np.flatnonzero(np.diff(table.face_id[rows], prepend=np.iinfo(np.int64).min))
        self._faces = [
            (table.time_s[own], table.box[own]) for own in np.split(rows, starts[1:]) if len(own)
        ]
        ends = [(times[0] - _BEYOND_S, times[-1] + _BEYOND_S) for times, _ in self._faces]
        self._ends = np.array(ends).reshape(-1, 2)

    def boxes_at(self, time_s: float) -> Float64[np.ndarray, "faces 4"]:
        """What is covered.

        Args:
            time_s: of the frame.

        Returns:
            (left, top, right, bottom) of each box, in pixels; they may reach beyond the frame.
        """
        there = (self._ends[:, 0] <= time_s) & (time_s <= self._ends[:, 1])
        boxes = []
        for face in np.flatnonzero(there):
            times, seen = self._faces[face]
            after = np.clip(np.searchsorted(times, time_s), 1, max(len(times) - 1, 1))
            near = slice(after - 1, after + 1)
            left, top, width, height = (
                np.interp(time_s, times[near], side[near]) for side in seen.T
            )
            across, down = _MARGIN * width, _MARGIN * height
            boxes.append((left - across, top - down, left + width + across, top + height + down))
        return np.array(boxes, np.float64).reshape(-1, 4)

    def cover(self, image: UInt8[np.ndarray, "height width 3"], time_s: float) -> None:
        """Covers the faces of a frame.

        Args:
            image: changed in place.
            time_s: of the frame.
        """
        height, width = image.shape[:2]
        boxes = self.boxes_at(time_s)
        boxes[:, :2], boxes[:, 2:] = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(int)
        boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
        for left, top, right, bottom in boxes:
            image[top:bottom, left:right] = _GREY
        if not len(boxes):
            blocks = (min(_COARSE, width), max(1, min(height, round(_COARSE * height / width))))
            coarse = cv2.resize(image, blocks, interpolation=cv2.INTER_AREA)
            image[:] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
