"""Scores predictions of frames against labels: single frames and smoothed, with all they tell."""

import dataclasses
import datetime
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fer_jax import __version__
from fer_jax.bundle import update_document
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.evaluate.attribution import Attribution
from fer_jax.evaluate.calibrate import bundle_order, calibrate, in_bundle_order
from fer_jax.evaluate.filters import Filter
from fer_jax.evaluate.frame_scores import (
    BINS,
    Predicted,
    confusions_of_videos,
    film_numbers,
    of_films,
    predicted,
    scored,
    videos_by_score,
)
from fer_jax.evaluate.frames import (
    FrameLabels,
    FrameProbabilities,
    Timeline,
    read_frame_probabilities,
    read_labels,
    timeline,
)
from fer_jax.evaluate.intervals import LEVEL, RESAMPLES, compare_videos
from fer_jax.evaluate.report_files import (
    METRICS_FILE,
    PAGE_FILE,
    PREDICTIONS_FILE,
    TABLE_FILE,
    check_free,
    report_files,
)
from fer_jax.evaluate.robustness import covered_frames
from fer_jax.ops.calibration import CALIBRATIONS
from fer_jax.predict.every_frame import every_frame_table
from fer_jax.predict.table import DROP, PredictionTable


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """What is made of predictions before and after they are scored.

    Attributes:
        smoothing: the filter; None scores single frames only.
        fill: how frames without a prediction get one: a name of `ops.gaps.FILL_METHODS`; None for
            `hold`.
        own_filter: where there is no other, take the filter of the bundle, if it has one, and its
            way to fill.
        calibrate: one of `ops.calibration.CALIBRATIONS` to fit; None for none.
        bundle: where the calibration is stored; None for nowhere.
        attribution: say which view moved each frame, of a bundle of two views.
        cover: regions of `evaluate.robustness.parse_regions`: score covered faces as well.
    """

    smoothing: Filter | None = None
    fill: str | None = None
    own_filter: bool = False
    calibrate: str | None = None
    bundle: str | os.PathLike[str] | None = None
    attribution: bool = False
    cover: tuple[str, ...] = ()

    def __post_init__(self):
        if self.calibrate is not None and self.calibrate not in CALIBRATIONS:
            raise UsageError(
                f"--calibrate {self.calibrate!r}: must be one of {', '.join(CALIBRATIONS)}"
            )

    @property
    def filling(self) -> str:
        """How frames without a prediction get one."""
        return self.fill or "hold"

    @property
    def stored_in(self) -> str | os.PathLike[str] | None:
        """The bundle that gets the calibration; None where there is none to store."""
        return self.bundle if self.calibrate else None


SINGLE_FRAMES = FrameOptions()


def evaluate_predictions(
    predictions: Sequence[str | os.PathLike[str]],
    labels: str | os.PathLike[str],
    split: str,
    out_dir: str | os.PathLike[str],
    *,
    options: FrameOptions = SINGLE_FRAMES,
    compare: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Scores anybody's prediction files, and writes the report.

    Args:
        predictions: prediction tables, or text files as ABAW takes them.
        labels: what `read_labels` reads.
        split: of the labels.
        out_dir: gets metrics.json, table.md, report.html and predictions.csv.
        options: smoothing, filling, calibration.
        compare: files of another predictor, to be compared with on the same frames.
        overwrite: replace a report that stands there.
        say: called with lines that a user should know.

    Returns:
        What metrics.json holds.

    Raises:
        FerJaxError: nothing to score, files that do not fit, or a report stands there.
    """
    check_free(out_dir, overwrite)
    about = {
        "predictions": {
            "paths": [str(path) for path in predictions],
            "sha256": [_sha256(Path(path)) for path in predictions],
        },
        "data": {"path": str(labels), "split": split},
    }
    return evaluate_frames(
        read_frame_probabilities(predictions),
        read_labels(labels, split),
        out_dir,
        about=about,
        options=options,
        other=read_frame_probabilities(compare) if compare else None,
        other_name=", ".join(map(str, compare)),
        say=say,
    )


def evaluate_frames(
    predictions: FrameProbabilities,
    labels: FrameLabels,
    out_dir: str | os.PathLike[str],
    *,
    about: dict[str, Any],
    options: FrameOptions = SINGLE_FRAMES,
    other: FrameProbabilities | None = None,
    other_name: str = "",
    attribution: Attribution | None = None,
    covered: Mapping[str, FrameProbabilities] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Scores probabilities of frames, and writes the report.

    Args:
        predictions: of single frames.
        labels: what they are scored against.
        out_dir: gets the report; files of its names are replaced.
        about: where predictions and labels come from: fields of metrics.json.
        options: smoothing, filling, calibration.
        other: another predictor to compare with.
        other_name: how the report calls it.
        attribution: of each of the predictions.
        covered: predictions of covered faces, by region.
        say: called with lines that a user should know.

    Returns:
        What metrics.json holds.

    Raises:
        FerJaxError: as `evaluate_predictions`.
    """
    joined = timeline(predictions, labels)
    for note in joined.notes:
        say(note)
    if not (joined.label >= 0).any():
        raise FerJaxError(
            f"{about['data']['path']}: no frame has a label of the predictions' classes "
            f"({', '.join(joined.classes)}); use other labels"
        )
    if options.stored_in is not None:
        bundle_order(options.stored_in, joined.classes)  # before the work
    ways = [predicted(joined, options.filling)]
    if options.smoothing:
        ways.append(predicted(joined, options.filling, options.smoothing))
    seen = joined.observed > 0
    metrics = describe(joined, ways, options, about)
    if other is not None:
        theirs = timeline(other, labels)
        for note in (f"{other_name}: {note}" for note in theirs.notes):
            say(note)
            metrics["notes"].append(note)
        found = _compared(joined, ways, theirs, options)
        metrics["compared_with"] = {"name": other_name, **found}
    if options.calibrate:
        used = seen & (joined.label >= 0)
        found = calibrate(
            options.calibrate,
            ways[-1].probabilities[used],
            joined.label[used],
            film_numbers(joined.videos)[joined.segment[used]],
            refers_to=ways[-1].rows,
            smoothing=options.smoothing
            and dataclasses.asdict(options.smoothing) | {"fill": options.filling},
        )
        if options.stored_in is not None:
            found["stored_in"] = str(options.stored_in)
            found["calibration"] = in_bundle_order(
                options.stored_in, found["calibration"], joined.classes
            )
        metrics["fitted_calibration"] = found
    if attribution is not None:
        metrics["attribution"] = attribution.summary()
    if covered:
        others = {region: timeline(found, labels) for region, found in covered.items()}
        metrics["covered"] = covered_frames(
            joined, ways, others, options.filling, options.smoothing
        )
    columns = _drop_columns(joined, predictions, attribution)
    write_report(metrics, joined, ways, out_dir, columns)
    if options.stored_in is not None:
        update_document(options.stored_in, calibration=metrics["fitted_calibration"]["calibration"])
    return metrics


def describe(
    joined: Timeline, ways: Sequence[Predicted], options: FrameOptions, about: dict[str, Any]
) -> dict[str, Any]:
    """Everything that metrics.json says of one predictor.

    Args:
        joined: predictions and labels.
        ways: single frames, and smoothed if wished.
        options: how they were made.
        about: more fields.

    Returns:
        Plain numbers, texts, lists and dicts; the scores at the top are those of the last way over
        all labelled frames.
    """
    everything, seen = np.ones(len(joined), bool), joined.observed > 0
    results = {
        way.rows: {"all": scored(joined, way, everything)}
        | ({"observed": scored(joined, way, seen)} if (seen & (joined.label >= 0)).any() else {})
        for way in ways
    }
    confusions = [confusions_of_videos(joined, way.probabilities, everything) for way in ways]
    labelled = joined.label >= 0
    films = [of_films(joined.videos, one) for one in confusions]
    several = int((films[0].sum((1, 2)) > 0).sum()) > 1
    gain = None
    if len(ways) > 1 and several:
        gain = dataclasses.asdict(compare_videos(films[1], films[0]))
    main = results[ways[-1].rows]["all"]
    return {
        "format": "fer_jax metrics",
        "format_version": 1,
        "fer_jax_version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: main[name] for name in _TOP},
        "rows": ways[-1].rows,
        "results": results,
        "smoothing": None if options.smoothing is None else dataclasses.asdict(options.smoothing),
        "smoothing_gain": gain,
        "fill": options.filling,
        "interval": {
            "method": "bootstrap over films (people of one together), corrected for bias and skew, "
            "widened for their number",
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": 0,
        },
        "calibration_bins": BINS,
        "frames": {
            "labelled": int(labelled.sum()),
            "without_prediction": int((labelled & ~seen).sum()),
            "without_label": int((~labelled).sum()),
            "videos": int((confusions[0].sum((1, 2)) > 0).sum()),
        },
        "videos": videos_by_score(joined, confusions[-1]),
        "notes": [*joined.notes, *_empty_classes(joined)],
        **about,
    }


_TOP = ("macro_f1", "accuracy", "balanced_accuracy", "classes", "confusion")


def write_report(
    metrics: dict[str, Any],
    joined: Timeline,
    ways: Sequence[Predicted],
    out_dir: str | os.PathLike[str],
    columns: Mapping[str, Float[np.ndarray, "rows"]] | None = None,
) -> None:
    """Writes the four files: all of them, or none.

    Args:
        metrics: from `describe`.
        joined: predictions and labels.
        ways: single frames, and smoothed if wished.
        out_dir: the folder, made if missing; other files in it stay.
        columns: further ones of the prediction table.
    """
    from fer_jax.evaluate.frame_page import page
    from fer_jax.evaluate.frame_report import frame_report_text

    with report_files(out_dir, "frames") as paths:
        table_of(joined, ways).to_csv(paths[PREDICTIONS_FILE], columns)
        texts = {
            PAGE_FILE: page(metrics, joined, ways),
            TABLE_FILE: frame_report_text(metrics),
            METRICS_FILE: json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        }
        for name, text in texts.items():
            paths[name].write_text(text, encoding="utf-8", errors="replace")


def table_of(joined: Timeline, ways: Sequence[Predicted]) -> PredictionTable:
    """The prediction table of every frame of the labelled videos.

    Args:
        joined: predictions and labels.
        ways: single frames, and smoothed if wished, whose rows are then `prob`.

    Returns:
        The table; `raw` is empty where there was no prediction. Times are not known.
    """
    return every_frame_table(
        joined.classes,
        joined.videos,
        joined.segment,
        joined.frame,
        joined.observed > 0,
        joined.probabilities,
        ways[-1].probabilities,
        ways[-1].fill,
    )


def _drop_columns(
    joined: Timeline, predictions: FrameProbabilities, attribution: Attribution | None
) -> dict[str, Float[np.ndarray, "rows"]]:
    """`drop_<view>` of every frame, not-a-number where there is no prediction."""
    if attribution is None:
        return {}
    segment = {name: i for i, name in enumerate(joined.videos)}
    own = np.asarray([segment.get(name, -1) for name in predictions.video.tolist()])
    start = np.searchsorted(joined.segment, np.arange(len(joined.videos)))
    known = own >= 0
    rows = start[own[known]] + predictions.frame[known] - 1
    columns = {}
    for name, values in attribution.changes.items():
        columns[f"{DROP}{name}"] = np.full(len(joined), np.nan, np.float32)
        columns[f"{DROP}{name}"][rows] = values[known]
    return columns


def _compared(
    joined: Timeline, ways: Sequence[Predicted], other: Timeline, options: FrameOptions
) -> dict[str, Any]:
    """Both on the frames that are labelled, each with its own missing ones filled."""
    if other.classes != joined.classes:
        raise FerJaxError(
            f"the predictions to compare with share the classes {', '.join(other.classes)} with "
            f"the labels, not {', '.join(joined.classes)}; compare models of the same classes"
        )
    found = {}
    for way in ways:
        smoothing = options.smoothing if way.rows == "smoothed" else None
        theirs = predicted(other, options.filling, smoothing)
        pairs = ((joined, way), (other, theirs))
        confusions = [
            confusions_of_videos(rows, one.probabilities, np.ones(len(rows), bool))
            for rows, one in pairs
        ]
        films = (of_films(joined.videos, one) for one in confusions)
        found[way.rows] = dataclasses.asdict(compare_videos(*films))
    return found


def _empty_classes(joined: Timeline) -> list[str]:
    counts = np.bincount(joined.label[joined.label >= 0], minlength=len(joined.classes))
    empty = [name for name, count in zip(joined.classes, counts, strict=True) if not count]
    return [f"no frame of {', '.join(empty)}: its F1 is 0 and counts in the mean."] if empty else []


def _sha256(path: Path) -> str | None:
    if path.is_dir():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
