"""The people of a prediction table: who is seen in which rows, on the time axis of the video."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

from fer_jax.errors import FerJaxError
from fer_jax.predict.table import PredictionTable


@dataclasses.dataclass(frozen=True, eq=False)
class VideoTime:
    """The frames of a video on its time axis, which they tile: each lasts until the next begins.

    The last one lasts as long as their median. Where the table has no times (they are all the
    same), the axis is that of the frames' numbers: frame 1 lasts from 0 to 1.

    Attributes:
        video: as the table names it.
        unit: `s` or `frames`.
        frame: their numbers, growing.
        edges: where each begins, and where the last one ends, in `unit`.
    """

    video: str
    unit: str
    frame: Int64[np.ndarray, "frames"]
    edges: Float64[np.ndarray, "edges"]


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One face of a video.

    Attributes:
        face_id: as in the table; -1 where the video has no face.
        rows: of the table, in the order of the frames.
        place: the position of each row's frame in `VideoTime.frame`.
    """

    face_id: int
    rows: Int64[np.ndarray, "rows"]
    place: Int64[np.ndarray, "rows"]


def people_of(table: PredictionTable) -> Iterator[tuple[VideoTime, list[Person]]]:
    """The videos of a table with the people in each.

    The only face of a video takes the frames without a face, too, since those are filled from it;
    where there are several, nobody knows whose they would be. A video without any face has one
    person, -1.

    Args:
        table: predictions, in any order.

    Yields:
        The time axis of a video and its people by face_id, in the order of the table's videos.

    Raises:
        FerJaxError: a face that is twice in a frame, or times that go back.
    """
    numbers: dict[str, int] = {}
    video = np.array(
        [numbers.setdefault(name, len(numbers)) for name in table.video.tolist()], np.int64
    )
    order = np.lexsort((table.face_id, table.frame, video))
    starts = np.searchsorted(video[order], np.arange(len(numbers) + 1))
    for name, start, stop in zip(numbers, starts, starts[1:], strict=False):
        rows = order[start:stop]
        frame, first = np.unique(table.frame[rows], return_index=True)
        unit, edges = _axis(name, frame, table.time_s[rows[first]])
        time = VideoTime(name, unit, frame, edges)
        yield time, list(_people(table, time, rows))


def _people(table: PredictionTable, time: VideoTime, rows: np.ndarray) -> Iterator[Person]:
    face = table.face_id[rows]
    faces = np.unique(face[face >= 0])
    if len(faces) < 2:
        faces = faces if len(faces) else np.array([-1])
        face = np.full_like(face, faces[0])
    for one in faces.tolist():
        own = rows[face == one]
        place = np.searchsorted(time.frame, table.frame[own])
        if len(again := np.flatnonzero(np.diff(place) == 0)):
            raise FerJaxError(
                f"frame {time.frame[place[again[0]]]} of {time.video}: face {one} is there twice; "
                "name each table once, and give every row of a frame a face_id of its own"
            )
        yield Person(one, own, place)


def _axis(video: str, frame: np.ndarray, time_s: np.ndarray) -> tuple[str, np.ndarray]:
    if not np.isfinite(time_s).any() or (time_s == time_s[0]).all():
        unit, begins = "frames", frame - 1.0
    else:
        unit, begins = "s", time_s
        grows = np.isfinite(begins)
        with np.errstate(invalid="ignore"):  # of two infinite times
            grows[1:] &= np.diff(begins) > 0
        if not grows.all():
            place = int(np.argmin(grows))
            raise FerJaxError(
                f"frame {frame[place]} of {video}: its time is {begins[place]:g} s, but times must "
                "grow from frame to frame; correct time_s"
            )
    last = float(np.median(np.diff(begins))) if len(begins) > 1 else 1.0
    return unit, np.append(begins, begins[-1] + last)
