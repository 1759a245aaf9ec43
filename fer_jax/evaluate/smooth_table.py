"""Prediction tables, smoothed: each face by itself, over the frames of its own video."""

import dataclasses
import math

import numpy as np

from fer_jax.errors import FerJaxError
from fer_jax.evaluate.frame_probabilities import frame_of_image
from fer_jax.ops.smoothing import smooth_probabilities
from fer_jax.predict.every_frame import MOST_FRAMES
from fer_jax.predict.table import FILLS, PredictionTable
from fer_jax.predict.time_filter import TableFilter

_SHORTEST = 512  # rows


def smooth_table(table: PredictionTable, filter_: TableFilter) -> PredictionTable:
    """Replaces the `prob_` columns by the smoothed `raw_` ones, and fills.

    Every face of a video is smoothed by itself, over all frames from its first to its last one;
    those in which it was not found have weight 0; strides are counted from the video's first frame.
    In a video with one face the rows of frames
    without it are filled from it; where there are several, nobody knows whose they would be, and
    they stay empty. Rows about images `<video>/00001.jpg` are frames of that video.

    Args:
        table: predictions, in any order.
        filter_: what to do.

    Returns:
        The table, with `prob`, `fill`, `label` and `confidence` made anew.

    Raises:
        FerJaxError: a face that is twice in a frame, seconds where the table has no times, or a
            filter that cannot be.
    """
    video, frame = _places(table)
    tracks = _tracks(table, video, frame)
    begins = _first_frames(video, frame)
    prob = np.full_like(table.raw, np.nan)
    fill = np.full(len(table), "none", object)
    for (window, stride), group in _by_size(table, tracks, frame, filter_).items():
        firsts = [
            _on_stride(int(frame[rows].min()), int(begins[rows[0]]), stride) for rows in group
        ]
        lengths = [
            int(frame[rows].max()) - first + 1 for rows, first in zip(group, firsts, strict=True)
        ]
        if sum(lengths) > MOST_FRAMES:
            longest = group[int(np.argmax(lengths))]
            row = longest[frame[longest].argmax()]
            raise FerJaxError(
                f"frame {frame[row]} of {video[row]}: the videos would have {sum(lengths)} frames; "
                "correct the frame numbers"
            )
        starts = np.cumsum(lengths) - lengths
        places = np.concatenate(
            [
                start + frame[rows] - first
                for start, rows, first in zip(starts, group, firsts, strict=True)
            ]
        )
        rows = np.concatenate(group)
        # Padded with another video, so that tables of like sizes share a program.
        padding = _rounded(sum(lengths)) - sum(lengths)
        values = np.zeros((sum(lengths) + padding, len(table.classes)), np.float32)
        values[places] = np.nan_to_num(table.raw[rows])
        weights = np.zeros(len(values), np.float32)
        weights[places] = _has_face(table)[rows]
        found, how = smooth_probabilities(
            values,
            weights,
            segments=np.repeat(np.arange(len(group) + 1, dtype=np.int32), [*lengths, padding]),
            fill=filter_.fill,
            kernel=filter_.kernel,
            window=window,
            stride=stride,
            lookahead=filter_.lookahead,
            width=filter_.width,
        )
        prob[rows] = np.asarray(found)[places]
        fill[rows] = np.asarray(FILLS, object)[np.asarray(how)[places]]
    columns = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    columns |= {"prob": prob, "fill": fill}
    classes, _, _ = (columns.pop(name) for name in ("classes", "label", "confidence"))
    return PredictionTable.from_probabilities(classes, **columns)


def _rounded(length: int) -> int:
    """The next of the lengths 4, 5, 6 or 7 times a power of two."""
    unit = 1 << max(0, length.bit_length() - 3)
    return max(_SHORTEST, -(-length // unit) * unit)


def _first_frames(video: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The first frame of each row's video."""
    _, number = np.unique(video.astype(str), return_inverse=True)
    first = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, number, frame)
    return first[number]


def _on_stride(frame: int, begin: int, stride: int) -> int:
    """The last frame up to this one at which a filter is evaluated."""
    return begin + (frame - begin) // stride * stride


def _has_face(table: PredictionTable) -> np.ndarray:
    return (table.status != "no_face") & ~np.isnan(table.raw).any(axis=1)


def _places(table: PredictionTable) -> tuple[np.ndarray, np.ndarray]:
    """Video and frame of each row."""
    known = {name: frame_of_image(name) for name in set(table.video.tolist())}
    video, frame = table.video.copy(), table.frame.copy()
    for row, name in enumerate(table.video.tolist()):
        if (place := known[name]) is not None:
            # Of the folder's whole path, since two may have the same name.
            video[row], frame[row] = name.rpartition("/")[0] or place[0], place[1]
    return video, frame


def _tracks(table: PredictionTable, video: np.ndarray, frame: np.ndarray) -> list[np.ndarray]:
    """The rows of each face."""
    seen = _has_face(table)
    names, number = np.unique(video.astype(str), return_inverse=True)
    order = np.lexsort((frame, number))
    tracks = []
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(order) else []:
        faces = np.unique(table.face_id[rows][seen[rows]])
        for face in faces:
            # The only face of a video takes the frames without one, too.
            ours = (face, -1) if len(faces) == 1 else (face,)
            own = rows[np.isin(table.face_id[rows], ours)]
            again = np.flatnonzero(np.diff(frame[own]) == 0)
            if len(again):
                row = own[again[0]]
                raise FerJaxError(
                    f"frame {frame[row]} of {names[number[row]]}: face {face} is there twice; "
                    "give every row of a frame a face_id of its own"
                )
            tracks.append(own)
    return tracks


def _by_size(
    table: PredictionTable, tracks: list[np.ndarray], frame: np.ndarray, filter_: TableFilter
) -> dict[tuple[int, int], list[np.ndarray]]:
    """The tracks by their window and stride in frames, which seconds make differ."""
    groups: dict[tuple[int, int], list[np.ndarray]] = {}
    timed = filter_.window.seconds or filter_.stride.seconds
    for rows in tracks:
        rate = _rate(table, rows, frame) if timed else 0.0
        size = (filter_.window.window(rate), filter_.stride.stride(rate))
        groups.setdefault(size, []).append(rows)
    return groups


def _rate(table: PredictionTable, rows: np.ndarray, frame: np.ndarray) -> float:
    """Frames a second; of a single frame any would do."""
    first, last = rows[0], rows[-1]
    seconds = table.time_s[last] - table.time_s[first]
    if frame[last] == frame[first]:
        return 1.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise FerJaxError(
            f"{table.video[first]}: the table has no times, so seconds are no number of frames; "
            "give the window and the stride in frames"
        )
    return float((frame[last] - frame[first]) / seconds)
