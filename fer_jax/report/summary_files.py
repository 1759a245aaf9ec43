"""Summaries as CSV files that go straight into a statistics program."""

import csv
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fer_jax.report.summary import Summary

SUMMARY_FILE = "summary.csv"
EPISODES_FILE = "episodes.csv"
TRANSITIONS_FILE = "transitions.csv"
PICTURE_FILE = "summary.png"

_WHO = ("video", "face_id", "segment", "unit")


def write_summaries(folder: str | os.PathLike[str], summaries: Sequence[Summary]) -> None:
    """Writes `summary.csv`, `episodes.csv` and `transitions.csv`.

    Args:
        folder: which exists; files in it are replaced.
        summaries: of one set of classes, at least one.
    """
    categories = summaries[0].categories
    header = [*_WHO, "start", "end", "length", "frames", "seen", "filled", "filled_no_face"]
    header += [f"share_{name}" for name in categories]
    header += [f"prob_{name}" for name in summaries[0].classes]
    for what in ("episodes", "episode_mean", "episode_longest"):
        header += [f"{what}_{name}" for name in categories]
    header += ["transitions"]
    _write(folder, SUMMARY_FILE, header, map(_summary, summaries))
    header = [*_WHO, "label", "start", "end", "length", "prob", "at_start", "at_end"]
    _write(folder, EPISODES_FILE, header, (row for one in summaries for row in _episodes(one)))
    header = [*_WHO, "from", "to", "count"]
    _write(folder, TRANSITIONS_FILE, header, (row for one in summaries for row in _pairs(one)))


def _write(
    folder: str | os.PathLike[str], name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    # Names of videos may hold bytes that are no text: they are passed through as they are.
    path = os.path.join(folder, name)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _who(one: Summary) -> list[Any]:
    return [one.video, one.face_id, one.segment, one.unit]


def _summary(one: Summary) -> list[Any]:
    label, length = one.episodes.label, one.episodes.length
    number = len(one.categories)
    count = np.bincount(label, minlength=number)
    total = np.bincount(label, length, minlength=number)
    longest = np.zeros(number)
    np.maximum.at(longest, label, length)
    mean = np.divide(total, count, out=np.full(number, np.nan), where=count > 0)
    between = int(one.transitions[:-1, :-1].sum())
    times = [one.start, one.end, one.length]
    figures = [one.seen, one.filled, one.filled_no_face, *one.share, *one.prob]
    lengths = [*mean, *np.where(count > 0, longest, np.nan)]
    return [
        *_who(one), *map(_number, times), one.frames, *map(_number, figures),
        *count.tolist(), *map(_number, lengths), between,
    ]  # fmt: skip


def _episodes(one: Summary) -> Iterable[list[Any]]:
    found = one.episodes
    last = len(found.label) - 1
    columns = (found.label, found.edges, found.edges[1:], found.length, found.prob)
    for i, (label, *numbers) in enumerate(zip(*(c.tolist() for c in columns), strict=False)):
        yield [
            *_who(one), one.categories[label], *map(_number, numbers), int(i == 0), int(i == last)
        ]  # fmt: skip


def _pairs(one: Summary) -> Iterable[list[Any]]:
    for i, j in np.argwhere(one.transitions).tolist():
        yield [*_who(one), one.categories[i], one.categories[j], int(one.transitions[i, j])]


def _number(value: float) -> str:
    """To the microsecond, or to the millionth of a share; nothing where nothing is known."""
    return "" if np.isnan(value) else f"{value:.6f}".rstrip("0").rstrip(".")
