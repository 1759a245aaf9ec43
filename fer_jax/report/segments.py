"""Stretches of videos that a user names, such as the turns of a conversation."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import PurePath

from fer_jax.errors import FerJaxError
from fer_jax.predict.table import open_csv

COLUMNS = ("video", "start_s", "end_s", "name")


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a video; stretches may overlap, and share a name.

    Attributes:
        video: its path as in the prediction table, its file name, or that without its ending.
        start_s: in seconds, on the table's own time axis.
        end_s: in seconds.
        name: what summaries call it.
    """

    video: str
    start_s: float
    end_s: float
    name: str


def names_of(video: str) -> set[str]:
    """How a segment may name a video of a table.

    Args:
        video: its path in the table.

    Returns:
        The path, the file's name, and that without its ending.

    Example:
        >>> sorted(names_of("interviews/anna.mp4"))
        ['anna', 'anna.mp4', 'interviews/anna.mp4']
    """
    path = PurePath(video)
    return {video, path.name, path.stem}


def read_segments(path: str | os.PathLike[str]) -> list[Segment]:
    """Reads a CSV file of segments with the columns `video,start_s,end_s,name`; others are ignored.

    Args:
        path: the file.

    Returns:
        The segments, in its order.

    Raises:
        FerJaxError: a column is missing, or a row is not what it must be.
    """
    segments = []
    with open_csv(path) as reader:
        header = next(reader, [])
        for name in COLUMNS:
            if header.count(name) != 1:
                raise FerJaxError(
                    f"{path}: has {header.count(name)} columns {name!r}; its first line must name "
                    f"{','.join(COLUMNS)}"
                )
        for row in reader:
            if not any(row):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise FerJaxError(f"{where}: {len(row)} values for {len(header)} columns; mend it")
            cells = dict(zip(header, row, strict=True))
            start, end = (_seconds(where, name, cells[name]) for name in ("start_s", "end_s"))
            if end <= start:
                raise FerJaxError(
                    f"{where}: end_s {cells['end_s']} is not after start_s {cells['start_s']}; "
                    "correct them"
                )
            segments.append(Segment(cells["video"], start, end, cells["name"]))
    if not segments:
        raise FerJaxError(f"{path}: names no segment; give one a line after the first")
    return segments


def _seconds(where: str, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FerJaxError(f"{where}: {name} is {text!r}, no number of seconds; correct it")
    return number


def check_videos(
    path: str | os.PathLike[str], segments: Sequence[Segment], videos: Sequence[str]
) -> list[str]:
    """Whether each segment means one of the videos.

    Args:
        path: where the segments were read from.
        segments: from `read_segments`.
        videos: the names in the tables.

    Returns:
        The videos that no segment means.

    Raises:
        FerJaxError: a segment means none, or several.
    """
    answering: dict[str, list[str]] = {}
    for video in videos:
        for name in names_of(video):
            answering.setdefault(name, []).append(video)
    for name in dict.fromkeys(one.video for one in segments):
        found = answering.get(name, [])
        if len(found) != 1:
            what = f"means both {found[0]} and {found[1]}" if found else "is in none of the tables"
            raise FerJaxError(
                f"{path}: video {name!r} {what}; name one of them, such as {(found or videos)[0]}"
            )
    meant = {answering[one.video][0] for one in segments}
    return [video for video in videos if video not in meant]
