"""Whether a file can be handed in: anybody's, held against the organisers' sample, by line."""

import os
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from fer_jax.data.affwild2_files import (
    LABELS,
    SUBMISSION_HEADER,
    Sample,
    as_utf8,
    frame_name,
    picture_of,
    quoted,
    read_bytes,
)

_SHOWN = 5  # lines of each kind
_FRAMES = 1 << 31


def check_submission(path: str | os.PathLike[str], sample: Sample) -> tuple[str, ...]:
    """What is wrong with a submission.

    Args:
        path: the file.
        sample: the rows that it must have, in their order.

    Returns:
        A sentence for each finding, with its line; of a kind the first five, and how many more
        there are. None: it can be handed in.

    Raises:
        FerJaxError: the file cannot be read.
    """
    content = read_bytes(Path(path), raw=True)
    plain = as_utf8(content)
    lines = [line.decode(errors="replace") for line in plain.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return (f"is empty; the first line must be {SUBMISSION_HEADER}",)
    findings = []
    if plain != content:
        findings.append("begins with a byte-order mark; write it as UTF-8 without one")
    if alone := re.search(rb"\r(?!\n|\Z)", plain):
        number = len(plain[: alone.end()].splitlines())
        findings.append(f"line {number}: ends with CR alone; end lines with LF or CR LF")
    first = 1
    if lines[0] != SUBMISSION_HEADER:
        findings.append(f"line 1: {quoted(lines[0])} is not the header {SUBMISSION_HEADER}")
        first = 0 if picture_of(lines[0].partition(",")[0].strip()) else 1
    rows, strange = _read(lines[first:], first + 1, sample)
    findings += strange
    findings += _compare(rows, sample)
    wanted = len(sample.row_frame)
    if len(lines) - first != wanted:
        findings.append(f"{len(lines) - first:,} rows, the sample has {wanted:,}")
    return tuple(findings)


def _read(
    lines: list[str], first_line: int, sample: Sample
) -> tuple[Int64[np.ndarray, "rows 2"], list[str]]:
    """Line and key of each row that the sample has, and what is wrong with single lines."""
    place = {name: i for i, name in enumerate(sample.videos)}
    known = set(_keys(sample).tolist())
    label = re.compile(f"[0-{len(LABELS) - 1}]")
    malformed, blank, outside, unknown, rows = [], [], [], [], []
    for number, line in enumerate(lines, first_line):
        location, *cells = (cell.strip() for cell in line.split(","))
        picture = picture_of(location)
        if picture is None or len(cells) != 1:
            what = f"{quoted(line)} is not like <video>/00001.jpg,<class number>"
            malformed.append(f"line {number}: {what if line.strip() else 'is empty'}")
            continue
        if line != f"{location},{cells[0]}":
            blank.append(f"line {number}: {quoted(line)} has blanks about a value")
        if not label.fullmatch(cells[0]):
            outside.append(f"line {number}: {quoted(cells[0])} is no class number from 0 to 7")
        key = place.get(picture[0], -1) * _FRAMES + picture[1]
        if key in known:
            rows.append((number, key))
        else:
            unknown.append(f"line {number}: {quoted(location)} is not in the sample")
    findings = [finding for kind in (malformed, blank, outside, unknown) for finding in _some(kind)]
    return np.asarray(rows, np.int64).reshape(-1, 2), findings


def _compare(rows: Int64[np.ndarray, "rows 2"], sample: Sample) -> list[str]:
    """Rows that are there twice, that are missing, and that are in another order."""
    keys = _keys(sample)
    by_key = np.argsort(keys)
    places = by_key[np.searchsorted(keys[by_key], rows[:, 1])].tolist()

    def name(row: int) -> str:
        video, frame = sample.videos[sample.row_video[row]], int(sample.row_frame[row])
        return f"{video}/{frame_name(frame)}"

    line_of: dict[int, int] = {}
    again, moved, before = [], [], -1
    for line, place in zip(rows[:, 0].tolist(), places, strict=True):
        if place in line_of:
            first = line_of[place]
            again.append(f"line {line}: {name(place)} is there already, in line {first}")
            continue
        line_of[place] = line
        if place < before:
            moved.append(
                f"line {line}: {name(place)} comes after {name(before)}, in the sample before it"
            )
        before = place
    missing = [f"{name(row)} is missing" for row in range(len(keys)) if row not in line_of]
    return [*_some(again), *_some(missing), *_some(moved)]


def _keys(sample: Sample) -> Int64[np.ndarray, "rows"]:
    """A number for each row."""
    return sample.row_video.astype(np.int64) * _FRAMES + sample.row_frame


def _some(findings: list[str]) -> list[str]:
    if len(findings) <= _SHOWN:
        return findings
    return [*findings[:_SHOWN], f"... and {len(findings) - _SHOWN:,} more like that"]
