"""Scores of frames: counts of each video, and from them every figure with its interval."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int8

from fer_jax.errors import UsageError
from fer_jax.evaluate.frames import Timeline
from fer_jax.evaluate.intervals import (
    LEVEL,
    Intervals,
    bootstrap_videos,
    draw_videos,
    ends_over_videos,
)
from fer_jax.ops.calibration import confidence_bins
from fer_jax.ops.gaps import FILL_METHODS, fill_gaps
from fer_jax.ops.metrics import Scores, scores
from fer_jax.ops.smoothing import KERNELS, smooth_probabilities

BINS = 15


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """A filter over time.

    Attributes:
        kernel: one of `ops.smoothing.KERNELS`.
        window: frames, odd.
    """

    kernel: str
    window: int

    def __str__(self) -> str:
        return f"{self.kernel}:{self.window}"


def parse_smoothing(text: str) -> Smoothing:
    """Reads `KERNEL:WINDOW`.

    Raises:
        UsageError: another form, an unknown kernel, or a window that is not odd.

    Example:
        >>> parse_smoothing("box:101")
        Smoothing(kernel='box', window=101)
    """
    kernel, _, window = text.partition(":")
    if kernel not in KERNELS or not window.isdigit() or not int(window) % 2:
        raise UsageError(
            f"--smooth {text!r}: must be KERNEL:WINDOW, of {', '.join(KERNELS)} and an odd number "
            "of frames, such as box:101"
        )
    return Smoothing(kernel, int(window))


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


def predicted(timeline: Timeline, fill: str, smoothing: Smoothing | None = None) -> Predicted:
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
            kernel=smoothing.kernel,
            window=smoothing.window,
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


def scored(timeline: Timeline, found: Predicted, mask: Bool[np.ndarray, "rows"]) -> dict[str, Any]:
    """Every figure of one way to predict over one choice of frames.

    Args:
        timeline: labels and videos.
        found: probabilities of each frame.
        mask: the frames that count, of those with a label.

    Returns:
        The figures as plain numbers, with intervals of resampled videos; `None` at their ends
        where only one video has labels.
    """
    confusions = confusions_of_videos(timeline, found.probabilities, mask)
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
    observed = np.bincount(
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
                "without_prediction": int(observed[i]),
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
            drawn = _error(draw_videos(sums.astype(np.float32)).astype(np.float64))
            low, high = np.quantile(drawn, ends_over_videos(LEVEL, len(np.unique(video)))).tolist()
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


def _error(sums: np.ndarray) -> np.ndarray | np.float64:
    """From counts, sums of confidence and of what was right, in the last axis, of each bin."""
    gaps = np.abs(sums[..., 2] - sums[..., 1]).sum(axis=-1)
    return gaps / np.maximum(sums[..., 0].sum(axis=-1), 1)
