"""Scores of frames: counts of each video, and from them every figure with its interval."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int8, Num

from fer_jax.data.affwild2_files import source_video
from fer_jax.errors import UsageError
from fer_jax.evaluate.filters import Filter
from fer_jax.evaluate.frames import Timeline
from fer_jax.evaluate.intervals import (
    LEVEL,
    RESAMPLES,
    Intervals,
    bootstrap_videos,
    draw_videos,
    ends_over_videos,
)
from fer_jax.ops.calibration import confidence_bins
from fer_jax.ops.gaps import FILL_METHODS, fill_gaps
from fer_jax.ops.metrics import Scores, scores
from fer_jax.ops.smoothing import smooth_probabilities

BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
    """Probabilities of every frame of a timeline, missing ones filled.

    Attributes:
        rows: where they come from: `frames` (each by itself) or `smoothed`.
        probabilities: rows that add up to 1.
        fill: index into `predict.table.FILLS`: how a row was found.
    """

    rows: str
    probabilities: Float32[np.ndarray, "rows class"]
    fill: Int8[np.ndarray, "rows"]


def predicted(timeline: Timeline, fill: str, smoothing: Filter | None = None) -> Predicted:
    """Fills, and smooths if asked, within each video.

    Args:
        timeline: predictions joined with labels.
        fill: one of `ops.gaps.FILL_METHODS`.
        smoothing: the filter; None leaves frames as they are.

    Returns:
        A row for each frame.

    Raises:
        UsageError: an unknown way to fill.
    """
    if fill not in FILL_METHODS:
        raise UsageError(f"--fill {fill!r}: must be one of {', '.join(FILL_METHODS)}")
    arrays = (timeline.probabilities, timeline.observed)
    if smoothing is None:
        name = "frames"
        found = fill_gaps(*arrays, segments=timeline.segment, method=fill)
    else:
        name = "smoothed"
        found = smooth_probabilities(
            *arrays,
            segments=timeline.segment,
            fill=fill,
            **dataclasses.asdict(smoothing),
        )
    return Predicted(name, np.asarray(found[0]), np.asarray(found[1]))


def confusions_of_videos(
    timeline: Timeline,
    probabilities: Float[np.ndarray, "rows class"],
    mask: Bool[np.ndarray, "rows"],
) -> Int[np.ndarray, "video class class"]:
    """What was taken for what in each video.

    Args:
        timeline: for labels and videos.
        probabilities: the largest one is the choice.
        mask: the frames that count, of those with a label.

    Returns:
        One matrix for each video, a row for each true class, int64.
    """
    number, classes = len(timeline.videos), len(timeline.classes)
    used = mask & (timeline.label >= 0)
    video, label = (column[used].astype(np.int64) for column in (timeline.segment, timeline.label))
    cells = (video * classes + label) * classes + probabilities[used].argmax(axis=1)
    counts = np.bincount(cells, minlength=number * classes**2)
    return counts.reshape(number, classes, classes)


def film_numbers(videos: tuple[str, ...]) -> Int[np.ndarray, "video"]:
    """The number of the film of each video: people who were filmed together are one film's.

    Args:
        videos: names; Aff-Wild2's `_left` and `_right` tell the people of one film apart.

    Returns:
        From 0, in the order of the films' names.

    Example:
        >>> film_numbers(("a_left", "a_right", "b")).tolist()
        [0, 0, 1]
    """
    return np.unique([source_video(name)[0] for name in videos], return_inverse=True)[1]


def of_films(
    videos: tuple[str, ...], tables: Num[np.ndarray, "video *table"]
) -> Num[np.ndarray, "film *table"]:
    """Adds the tables of the people of each film: films are independent, its people are not.

    Args:
        videos: their names.
        tables: what each adds, such as its confusion matrix.

    Returns:
        One table for each film, in the order of `film_numbers`.
    """
    numbers = film_numbers(videos)
    added = np.zeros((numbers.max(initial=-1) + 1, *tables.shape[1:]), tables.dtype)
    np.add.at(added, numbers, tables)
    return added


def scored(timeline: Timeline, found: Predicted, mask: Bool[np.ndarray, "rows"]) -> dict[str, Any]:
    """Every figure of one way to predict over one choice of frames.

    Args:
        timeline: labels and videos.
        found: probabilities of each frame.
        mask: the frames that count, of those with a label.

    Returns:
        The figures as plain numbers, with intervals of resampled films; `None` at their ends
        where only one film has labels.
    """
    confusions = of_films(
        timeline.videos, confusions_of_videos(timeline, found.probabilities, mask)
    )
    total = confusions.sum(axis=0)
    several = int((confusions.sum((1, 2)) > 0).sum()) > 1
    intervals = bootstrap_videos(confusions) if several else None
    return {
        **score_fields(scores(total), intervals, timeline.classes, unit="frames"),
        "confusion": {"rows": "true", "columns": "predicted", "counts": total.tolist()},
        "frames": int(total.sum()),
        "calibration": _calibration(timeline, found.probabilities, mask, several),
    }


def score_fields(
    found: Scores, intervals: Intervals | None, names: tuple[str, ...], *, unit: str
) -> dict[str, Any]:
    """Scores and their intervals as plain numbers.

    Args:
        found: the scores.
        intervals: of them, if there can be any.
        names: of the classes.
        unit: what the support is of: `images` or `frames`.

    Returns:
        The fields of metrics.json.
    """
    fields: dict[str, Any] = {}
    for name in ("macro_f1", "accuracy", "balanced_accuracy"):
        low, high = (None, None) if intervals is None else getattr(intervals, name).tolist()
        fields[name] = {"value": getattr(found, name), "low": low, "high": high}
    fields["classes"] = [
        {
            "name": name,
            "f1": float(found.f1[i]),
            "f1_low": None if intervals is None else float(intervals.f1[i, 0]),
            "f1_high": None if intervals is None else float(intervals.f1[i, 1]),
            "precision": float(found.precision[i]),
            "recall": float(found.recall[i]),
            unit: int(found.support[i]),
        }
        for i, name in enumerate(names)
    ]
    return fields


def videos_by_score(
    timeline: Timeline, confusions: Int[np.ndarray, "video class class"]
) -> list[dict[str, Any]]:
    """Each video with labels, the one with the smallest share of right frames first.

    Args:
        timeline: for the names.
        confusions: of each video.

    Returns:
        Plain numbers and names.
    """
    without = np.bincount(
        timeline.segment, (timeline.observed == 0) & (timeline.label >= 0), len(timeline.videos)
    )
    rows = []
    for i, name in enumerate(timeline.videos):
        if not (frames := int(confusions[i].sum())):
            continue
        wrong = confusions[i] * (1 - np.eye(len(timeline.classes), dtype=np.int64))
        true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
        rows.append(
            {
                "video": name,
                "frames": frames,
                "without_prediction": int(without[i]),
                "accuracy": float(np.trace(confusions[i]) / frames),
                "most_often": None
                if not wrong.any()
                else {
                    "true": timeline.classes[true],
                    "predicted": timeline.classes[taken],
                    "frames": int(wrong[true, taken]),
                },
            }
        )
    return sorted(rows, key=lambda row: (row["accuracy"], -row["frames"]))


def _calibration(
    timeline: Timeline,
    probabilities: Float[np.ndarray, "rows class"],
    mask: Bool[np.ndarray, "rows"],
    several: bool,
) -> dict[str, Any]:
    """Expected calibration error of the choice, in both kinds of bins, and of each class."""
    used = mask & (timeline.label >= 0)
    rows, label, video = probabilities[used], timeline.label[used], timeline.segment[used]
    number = len(timeline.videos)
    confidence, right = rows.max(axis=1), rows.argmax(axis=1) == label

    def reliability(confidence: np.ndarray, right: np.ndarray, scheme: str) -> dict[str, Any]:
        cells = video * BINS + np.asarray(confidence_bins(confidence, bins=BINS, scheme=scheme))
        sums = np.stack(
            [np.bincount(cells, weights, number * BINS) for weights in (None, confidence, right)],
            axis=1,
        ).reshape(number, BINS, 3)
        total = sums.sum(axis=0)
        low, high = None, None
        if several:
            low, high = error_interval(of_films(timeline.videos, sums)).tolist()
        return {
            "error": {"value": float(_error(total)), "low": low, "high": high},
            "bins": [
                {"frames": int(n), "confidence": float(c / n), "right": float(r / n)}
                for n, c, r in total
                if n
            ],
        }

    return {
        "equal_width": reliability(confidence, right, "width"),
        "equal_mass": reliability(confidence, right, "mass"),
        "classes": [
            {"name": name, **reliability(rows[:, i], label == i, "width")}
            for i, name in enumerate(timeline.classes)
        ],
    }


def error_interval(
    sums: Float[np.ndarray, "film bin 3"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float64[np.ndarray, "2"]:
    """The interval of a calibration error, which chance alone pushes up and never below 0.

    A resample has the chance of the sample and its own, so its error is too large, and percentiles
    would begin above the truth, even above the error itself. The lower end is therefore the error
    less what resamples exceed it by, and 0 where gaps that come by chance alone would give an error
    as large. The upper end is the larger one of the percentile and of the error plus what
    resamples fall short of it.

    Args:
        sums: frames, their confidence, and how many were right, in each bin.
        resamples: how many.
        seed: of the draw.

    Returns:
        `[low, high]`, which holds the error.
    """
    drawn = draw_videos(sums.astype(np.float32), resamples=resamples, seed=seed)
    drawn, total = drawn.astype(np.float64), sums.sum(axis=0)
    films = int((sums[..., 0].sum(axis=1) > 0).sum())
    ends = ends_over_videos(LEVEL, films)
    error = _error(total)
    low, high = np.quantile(_error(drawn), ends)
    chance = np.quantile(np.abs(_gaps(drawn) - _gaps(total)).sum(axis=-1), ends[1])
    return np.array(
        [
            0.0 if error <= chance else min(max(0.0, 2 * error - high), error),
            max(high, 2 * error - low, error),
        ]
    )


def _error(sums: np.ndarray) -> np.ndarray | np.float64:
    """From counts, sums of confidence and of what was right, in the last axis, of each bin."""
    return np.abs(_gaps(sums)).sum(axis=-1)


def _gaps(sums: np.ndarray) -> np.ndarray:
    return (sums[..., 2] - sums[..., 1]) / np.maximum(sums[..., 0].sum(axis=-1), 1)[..., None]
