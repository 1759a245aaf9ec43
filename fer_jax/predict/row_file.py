"""Rows of a video as they are found, kept on disk so that memory does not grow with its length."""

import bisect
import tempfile
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from fer_jax.predict.frame_faces import FrameFaces

STATUS_CODES = ("ok", "low_quality", "no_face", "skipped")
NO_FACE, SKIPPED = STATUS_CODES.index("no_face"), STATUS_CODES.index("skipped")

_INDEXED = 1024  # frames from one entry of the index to the next


def row_dtype(classes: int) -> np.dtype:
    """Of a row with so many probabilities."""
    return np.dtype(
        [
            ("frame", np.int32),
            ("face", np.int32),
            ("time_s", np.float64),
            ("box", np.float64, 4),
            ("status", np.int8),
            ("raw", np.float32, classes),
        ]
    )


def rows_of(frame: FrameFaces, raw: Float32[np.ndarray, "face class"]) -> np.ndarray:
    """The rows of a frame: one for each face, or one that has none.

    Args:
        frame: its faces.
        raw: probabilities of each.

    Returns:
        An array of `row_dtype`.
    """
    rows = np.zeros(max(1, len(frame.faces)), row_dtype(raw.shape[1]))
    rows["frame"], rows["time_s"] = frame.number, frame.time_s
    if frame.faces:
        rows["face"] = [face.face_id for face in frame.faces]
        rows["box"] = [face.box for face in frame.faces]
        rows["status"] = [STATUS_CODES.index(face.status) for face in frame.faces]
        rows["raw"] = raw
    else:
        rows["face"], rows["box"], rows["raw"] = -1, np.nan, np.nan
        rows["status"] = NO_FACE if frame.looked else SKIPPED
    return rows


class RowFile:
    """The rows of one video's frames, by frame and face, in a file that nobody else sees.

    A frame has a row for each face; one without a face, or that was not looked at, has one row.

    Attributes:
        first: the first frame in which each face is seen.
        last: the last one.
        frames: how many frames there are.
        begin: the first frame's number.
        end: the number after the last frame's.
        duration_s: from the first to the last frame.
    """

    def __init__(self, classes: int):
        """Makes an empty file.

        Args:
            classes: number of probabilities of a row.
        """
        self.dtype = row_dtype(classes)
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.frames, self.begin, self.end = 0, 1, 1
        self._begins_s, self._ends_s = 0.0, 0.0
        self._rows = 0
        self._index: tuple[list[int], list[int]] = ([], [])  # frames, and their first rows
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as this)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last."""
        return self._ends_s - self._begins_s

    @property
    def rate(self) -> float:
        """Frames a second, measured; 0 of a single frame."""
        return (self.end - 1 - self.begin) / self.duration_s if self.duration_s > 0 else 0.0

    def append(self, frame: FrameFaces, raw: Float32[np.ndarray, "face class"]) -> None:
        """Adds a frame, which comes after all others, as `rows_of` makes its rows."""
        rows = rows_of(frame, raw)
        for face in frame.faces:
            self.first.setdefault(face.face_id, frame.number)
            self.last[face.face_id] = frame.number
        if not self.frames:
            self.begin, self._begins_s = frame.number, frame.time_s
        if self.frames % _INDEXED == 0:
            self._index[0].append(frame.number)
            self._index[1].append(self._rows)
        self._file.write(rows.tobytes())
        self._rows += len(rows)
        self.frames, self.end, self._ends_s = self.frames + 1, frame.number + 1, frame.time_s

    def between(self, start: int, end: int) -> np.ndarray:
        """The rows of the frames from `start` to before `end`."""
        numbers, places = self._index
        first = bisect.bisect_right(numbers, start) - 1
        after = bisect.bisect_left(numbers, end)
        begin = places[first] if first >= 0 else 0
        stop = places[after] if after < len(places) else self._rows
        self._file.seek(begin * self.dtype.itemsize)
        content = self._file.read((stop - begin) * self.dtype.itemsize)
        self._file.seek(0, 2)
        rows = np.frombuffer(content, self.dtype)
        return rows[(rows["frame"] >= start) & (rows["frame"] < end)]

    def blocks(self, frames: int) -> Iterator[tuple[int, int]]:
        """(start, end) of pieces of so many frames, from the first frame to the last."""
        for start in range(self.begin, self.end, frames):
            yield start, min(start + frames, self.end)
