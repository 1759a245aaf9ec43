"""The file that the challenge takes: a class number for each frame that its sample file names.

Predictions are brought to every frame, smoothed, filled where there was no face, decided, and
written in the order of the sample. A file that lacks a row is ruled invalid, so nothing is left
out: what was filled is listed.
"""

import csv
import dataclasses
import datetime
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64

from fer_jax import __version__
from fer_jax.data.affwild2_files import LABELS, SUBMISSION_HEADER, Sample, frame_name
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import LabelSpace, label_map
from fer_jax.ops.gaps import FILL_METHODS, fill_gaps
from fer_jax.ops.smoothing import smooth_probabilities
from fer_jax.predict.about import file_sha256
from fer_jax.predict.every_frame import MOST_FRAMES, every_frame_table, of_classes
from fer_jax.predict.submission_check import check_submission
from fer_jax.predict.table import PredictionTable

SUBMISSION_FILE = "submission.txt"
DOCUMENT_FILE = "submission.json"

_SMOOTHING_FIELDS = ("kernel", "window", "stride", "lookahead", "width")
_SHOWN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class OfficialClasses:
    """The classes of predictions that the challenge has too, in its order.

    Attributes:
        names: display names.
        columns: for each its column in the predictions.
        numbers: for each its number in the challenge.
        notes: what a reader of the submission must know, one sentence each.
    """

    names: tuple[str, ...]
    columns: Int64[np.ndarray, "shared"]
    numbers: Int64[np.ndarray, "shared"]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Submission:
    """What is handed in, and how it came about.

    Attributes:
        label: the official class number of each row of the sample.
        row: for each row of the sample its row in the table.
        table: every frame from 1 to the last that the sample names, of each of its videos; `raw`
            of single frames, `prob` smoothed and filled.
        notes: what a reader must know, one sentence each.
    """

    label: Int64[np.ndarray, "rows"]
    row: Int64[np.ndarray, "rows"]
    table: PredictionTable
    notes: tuple[str, ...]

    @property
    def filled(self) -> Bool[np.ndarray, "rows"]:
        """Which rows of the sample had no prediction of their own, or none that the filter took.

        A filter that is evaluated at every n-th frame passes over a frame that no window reaches.
        """
        return self.table.fill[self.row] != "none"


def official_classes(
    classes: tuple[str, ...], allow_missing: Collection[str] = ()
) -> OfficialClasses:
    """Finds the challenge's classes among those of predictions, by name.

    Args:
        classes: display names, in the order of the predictions.
        allow_missing: the challenge's classes that the predictions need not know.

    Returns:
        The classes; those that the challenge does not have are left out, and noted.

    Raises:
        UsageError: a name in `allow_missing` is no class of the challenge.
        FerJaxError: a class is missing, or the two share none.

    Example:
        >>> official_classes(("Other", "happy", "Neutral", "Contempt"), LABELS.classes).numbers
        array([0, 4, 7])
    """
    mapping = label_map(LabelSpace("of the predictions", classes), LABELS)
    try:
        allowed = {LABELS.index(name) for name in allow_missing}
    except FerJaxError as error:
        raise UsageError(f"--allow-missing: {error}") from None
    missing = [name for name in mapping.unreached if LABELS.index(name) not in allowed]
    if missing:
        raise FerJaxError(
            f"classes {', '.join(classes)}: {', '.join(missing)} is not among them, which the "
            "challenge scores; use a model that was trained on Aff-Wild2, or pass --allow-missing "
            f"{' '.join(missing)}"
        )
    column = {number: own for own, number in enumerate(mapping.indices) if number >= 0}
    numbers = sorted(column)
    notes = []
    if mapping.unreached:
        notes.append(f"no row says {', '.join(mapping.unreached)}: the predictions do not know it.")
    if mapping.lost:
        notes.append(f"the challenge has no {', '.join(mapping.lost)}: it was not to be chosen.")
    return OfficialClasses(
        tuple(LABELS.classes[number] for number in numbers),
        np.asarray([column[number] for number in numbers], np.int64),
        np.asarray(numbers, np.int64),
        tuple(notes),
    )


def check_sample(path: Path | str, sample: Sample) -> None:
    """Refuses a sample that asks for no row, for one twice, or for a frame that cannot be.

    Raises:
        FerJaxError: names the file and the row.
    """
    if not len(sample.row_frame):
        raise FerJaxError(f"{path}: has no row; pass the organisers' sample file")
    if (sample.row_frame < 1).any():
        video = sample.videos[sample.row_video[sample.row_frame.argmin()]]
        raise FerJaxError(
            f"{path}: asks for {video}/{frame_name(0)}, where frames are counted from 1; pass the "
            "organisers' sample file"
        )
    if sum(int(frames.max()) for frames in sample.frames.values()) > MOST_FRAMES:
        video = max(sample.videos, key=lambda name: sample.frames[name].max())
        raise FerJaxError(
            f"{path}: asks for {video}/{frame_name(int(sample.frames[video].max()))}, which no "
            "video is long enough for; pass the organisers' sample file"
        )
    order = np.lexsort((sample.row_frame, sample.row_video))
    video, frame = sample.row_video[order], sample.row_frame[order]
    again = np.flatnonzero((video[1:] == video[:-1]) & (frame[1:] == frame[:-1]))
    if len(again):
        name = f"{sample.videos[video[again[0]]]}/{frame_name(int(frame[again[0]]))}"
        raise FerJaxError(f"{path}: asks for {name} twice; pass the organisers' sample file")


def check_smoothing(smoothing: Mapping[str, Any] | None, fill: str) -> None:
    """Refuses a filter or a way to fill that cannot be, before anything is computed.

    Args:
        smoothing: as a bundle holds it; None for none.
        fill: one of `ops.gaps.FILL_METHODS`.

    Raises:
        UsageError: an unknown way to fill.
        FerJaxError: an unknown field of the filter, or a value that cannot be.
    """
    if fill not in FILL_METHODS:
        raise UsageError(f"--fill {fill!r}: must be one of {', '.join(FILL_METHODS)}")
    nothing = np.zeros((0, 1), np.float32), np.zeros(0, np.float32)
    _smooth(*nothing, np.zeros(0, np.int32), smoothing, fill)


def make_submission(
    sample: Sample,
    classes: OfficialClasses,
    video: np.ndarray,
    frame: Int[np.ndarray, "seen"],
    probabilities: Float32[np.ndarray, "seen class"],
    *,
    smoothing: Mapping[str, Any] | None = None,
    fill: str = "hold",
    allow_empty: bool = False,
) -> Submission:
    """Decides on every frame that the sample names.

    The probabilities of the challenge's classes are scaled to add up to 1, smoothed within each
    video, and frames without one are filled; the label is the largest, the first of several. A
    calibration of the bundle is left alone: it is for confidence, not for the choice.

    Args:
        sample: the rows.
        classes: which columns of the probabilities are which classes.
        video: of each prediction, object `[seen]`; in any order, each frame once.
        frame: of each prediction, counted from 1.
        probabilities: of single frames. Videos that are not in the sample, and frames beyond its
            last one of a video, are passed over.
        smoothing: kernel, window, and the other options of `ops.smoothing.smooth`; None for none.
        fill: how frames without a prediction get one: a name of `ops.gaps.FILL_METHODS`.
        allow_empty: fill videos without a single prediction too, from the prior: with the
            challenge's first class, Neutral.

    Returns:
        The submission.

    Raises:
        FerJaxError: videos without a prediction that are not allowed, or a frame predicted twice.
    """
    last = np.asarray([sample.frames[name].max() for name in sample.videos], np.int64)
    start = np.cumsum(last) - last
    place = {name: i for i, name in enumerate(sample.videos)}
    number = np.asarray([place.get(name, -1) for name in video.tolist()], np.int64)
    used = (number >= 0) & (frame >= 1) & (frame <= last[number])
    notes = list(classes.notes)
    if beyond := int(((number >= 0) & ~used).sum()):
        notes.append(
            f"{beyond:,} predictions of frames that the sample does not have are left out."
        )
    rows = start[number[used]] + frame[used].astype(np.int64) - 1
    if len(np.unique(rows)) < len(rows):
        raise FerJaxError("two predictions of one frame; name each frame once")
    if not (finite := np.isfinite(probabilities[used]).all(axis=1)).all():
        name, wrong = video[used][~finite][0], frame[used][~finite][0]
        raise FerJaxError(f"frame {wrong} of {name}: its probabilities are not finite numbers")
    if empty := _empty_videos(sample, number[used], allow_empty):
        notes.append(f"{empty}: all their rows say {classes.names[0]}.")
    observed = np.zeros(last.sum(), np.float32)
    observed[rows] = 1
    values = np.zeros((len(observed), len(classes.names)), np.float32)
    values[rows] = of_classes(probabilities[used], classes.columns)
    segment = np.repeat(np.arange(len(last), dtype=np.int32), last)
    prob, how = _smooth(values, observed, segment, smoothing, fill)
    numbers = np.arange(len(segment)) - start[segment] + 1
    table = every_frame_table(
        classes.names, sample.videos, segment, numbers, observed > 0, values, prob, how
    )
    row = start[sample.row_video] + sample.row_frame - 1
    label = classes.numbers[prob[row].argmax(axis=1)]
    return Submission(label, row, table, tuple(notes))


def submission_lines(sample: Sample, label: Int[np.ndarray, "rows"]) -> Iterator[str]:
    """The lines of the official file: the header, then a row for each of the sample's.

    Args:
        sample: the rows.
        label: their class numbers.

    Yields:
        Lines without their end.

    Raises:
        FerJaxError: not a label for each row, or one that the challenge does not have.

    Example:
        >>> frames = np.array([2, 1], np.int32)
        >>> sample = Sample(("a",), {"a": frames}, 0 * frames, frames)
        >>> list(submission_lines(sample, np.array([7, 0])))[1:]
        ['a/00002.jpg,7', 'a/00001.jpg,0']
    """
    if len(label) != len(sample.row_frame) or ((label < 0) | (label >= len(LABELS))).any():
        raise FerJaxError(
            f"{len(label)} labels for {len(sample.row_frame)} rows, each from 0 to "
            f"{len(LABELS) - 1}, are to be written; give one for each row of the sample"
        )
    yield SUBMISSION_HEADER
    for video, frame, number in zip(
        sample.row_video.tolist(), sample.row_frame.tolist(), label.tolist(), strict=True
    ):
        yield f"{sample.videos[video]}/{frame_name(frame)},{number}"


def save_submission(
    folder: Path, path: str, sample: Sample, submission: Submission, about: Mapping[str, Any]
) -> None:
    """Writes submission.txt, predictions.csv, filled.csv and submission.json, and checks the first.

    Args:
        folder: an empty folder.
        path: the sample file.
        sample: its rows.
        submission: what was made of them.
        about: further fields of submission.json.

    Raises:
        FerJaxError: what was written is not what the sample asks for.
    """
    target = folder / SUBMISSION_FILE
    with open(target, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in submission_lines(sample, submission.label))
    if findings := check_submission(target, sample):
        raise FerJaxError(f"{path}: no complete file comes of it: {findings[0]}; check the sample")
    submission.table.to_csv(folder / "predictions.csv")
    _write_filled(folder / "filled.csv", sample, submission)
    counts = np.bincount(submission.label, minlength=len(LABELS)).tolist()
    fills, of_each = np.unique(submission.table.fill[submission.row], return_counts=True)
    document = {
        "format": "fer_jax submission",
        "fer_jax_version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sample": {"path": path, "sha256": file_sha256(Path(path))},
        "submission_sha256": file_sha256(target),
        "rows": len(submission.label),
        "videos": len(sample.videos),
        "fills": dict(zip(fills.tolist(), of_each.tolist(), strict=True)),
        "classes": dict(zip(LABELS.classes, counts, strict=True)),
        **about,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / DOCUMENT_FILE).write_text(text, encoding="utf-8")


def _write_filled(path: Path, sample: Sample, submission: Submission) -> None:
    """The rows that had no prediction of their own, and how each was filled."""
    filled = np.flatnonzero(submission.filled)
    fill = submission.table.fill[submission.row[filled]].tolist()
    videos = [sample.videos[one] for one in sample.row_video[filled].tolist()]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("video", "frame", "fill"))
        writer.writerows(zip(videos, sample.row_frame[filled].tolist(), fill, strict=True))


def _smooth(
    values: Float32[np.ndarray, "rows class"],
    observed: Float32[np.ndarray, "rows"],
    segment: Int32[np.ndarray, "rows"],
    smoothing: Mapping[str, Any] | None,
    fill: str,
) -> tuple[np.ndarray, np.ndarray]:
    if smoothing is None:
        found = fill_gaps(values, observed, segments=segment, method=fill)
        return np.asarray(found[0]), np.asarray(found[1])
    unknown = sorted(smoothing.keys() - {*_SMOOTHING_FIELDS, "fill"})
    if unknown or "kernel" not in smoothing or "window" not in smoothing:
        raise FerJaxError(
            f"smoothing {dict(smoothing)}: has no field {unknown[0]!r} here"
            if unknown
            else f"smoothing {dict(smoothing)}: needs a kernel and a window"
        )
    options = {name: smoothing[name] for name in _SMOOTHING_FIELDS if name in smoothing}
    found = smooth_probabilities(values, observed, segments=segment, fill=fill, **options)
    return np.asarray(found[0]), np.asarray(found[1])


def _empty_videos(sample: Sample, number: Int64[np.ndarray, "used"], allowed: bool) -> str:
    """Refuses videos without a prediction, or says which they are."""
    counts = np.bincount(number, minlength=len(sample.videos))
    empty = [name for name, count in zip(sample.videos, counts.tolist(), strict=True) if not count]
    if not empty:
        return ""
    some = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
    what = f"{len(empty)} of the sample's {len(sample.videos)} videos have no prediction ({some})"
    if not allowed or len(empty) == len(sample.videos):
        wider = "" if len(empty) == len(sample.videos) else ", or pass --allow-empty"
        raise FerJaxError(f"{what}; name crops or a table of these videos{wider}")
    return what
