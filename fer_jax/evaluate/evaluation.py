"""Scores a bundle on a split of a data set, and says on what and how in metrics.json."""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from fer_jax import __version__
from fer_jax.bundle import DOCUMENT_FILE, update_document
from fer_jax.data.pipeline import FaceData, select
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.evaluate.abstaining import confidence_fields
from fer_jax.evaluate.attribution import attribute, check_two_views
from fer_jax.evaluate.calibrate import bundle_order, calibrate, in_bundle_order
from fer_jax.evaluate.filters import Filter
from fer_jax.evaluate.frame_evaluation import (
    SINGLE_FRAMES,
    FrameOptions,
    evaluate_frames,
)
from fer_jax.evaluate.frame_labels import labels_of
from fer_jax.evaluate.frame_probabilities import FrameProbabilities, read_frame_probabilities
from fer_jax.evaluate.frame_scores import score_fields
from fer_jax.evaluate.intervals import LEVEL, RESAMPLES, bootstrap, compare_images
from fer_jax.evaluate.picture import draw_confusion
from fer_jax.evaluate.report import number_of, report_text, title_of, where_of
from fer_jax.evaluate.report_files import (
    METRICS_FILE,
    PICTURE_FILE,
    TABLE_FILE,
    check_free,
    report_files,
)
from fer_jax.evaluate.robustness import covered_images, covers
from fer_jax.evaluate.running import logits_of
from fer_jax.evaluate.shared_classes import ScoredClasses, shared_classes
from fer_jax.ops.metrics import confusion_matrix, scores
from fer_jax.predict.about import bundle_fields
from fer_jax.predict.confidence import stored_calibration
from fer_jax.predict.recognizer import Recognizer, load, softmax


def evaluate_bundle(
    bundle: str | os.PathLike[str] | Recognizer,
    data: str | os.PathLike[str] | FaceData,
    split: str,
    out_dir: str | os.PathLike[str],
    *,
    options: FrameOptions = SINGLE_FRAMES,
    compare: Sequence[str | os.PathLike[str]] = (),
    batch_size: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Scores a bundle on every labelled face of a split, and writes the report.

    Where the faces are frames of videos, every labelled frame is scored, those without a face too,
    and intervals are of resampled videos.

    Args:
        bundle: a bundle's folder, or a recognizer.
        data: a data set's folder, or the data set.
        split: its name, such as `validation`.
        out_dir: gets metrics.json, table.md and confusion.png; of videos the files of
            `evaluate_predictions`.
        options: smoothing and filling of frames; calibration.
        compare: predictions of another model on the same frames, to compare with; of single images
            the folder of another bundle.
        batch_size: faces at once, where `bundle` is a folder; None lets `load` choose.
        overwrite: replace a report that stands there.
        progress: show a bar if there is a terminal.
        say: called with lines that a user should know, such as classes that cannot be scored.

    Returns:
        What metrics.json holds.

    Raises:
        FerJaxError: nothing to score, label spaces that do not meet, or a report stands there.
    """
    check_free(out_dir, overwrite)
    data = data if isinstance(data, FaceData) else FaceData.open(data)
    rows = select(data, split)
    recognizer = bundle if isinstance(bundle, Recognizer) else load(bundle, batch_size=batch_size)
    recognizer.require_labels()
    if options.attribution:
        check_two_views(recognizer)
    classes = shared_classes(recognizer.bundle.labels, data.label_space)
    if options.stored_in is not None:
        bundle_order(options.stored_in, classes.names)  # before the work
    if (data.index["video"][rows] != "").all():
        other = read_frame_probabilities(compare) if compare else None
        return _evaluate_videos(
            recognizer, data, split, out_dir, _with_own_filter(options, recognizer), other,
            ", ".join(map(str, compare)),
            progress, say,
        )  # fmt: skip
    if options.smoothing or options.attribution:
        raise UsageError(
            f"{data.path}: its faces are no frames of videos; leave out --smooth and --attribution"
        )
    if compare and not (len(compare) == 1 and (Path(compare[0]) / DOCUMENT_FILE).is_file()):
        raise UsageError(
            f"--compare {compare[0]}: its faces are no frames of videos; name one other bundle"
        )
    notes = _notes(recognizer, data, rows, classes)
    for note in notes:
        say(note)
    scored = rows[classes.labels[data.index["label"][rows]] >= 0]
    if not len(scored):
        raise FerJaxError(
            f"{data.path}: no face of split {split!r} is of a class that the bundle knows "
            f"({', '.join(classes.names)}); use other data"
        )
    run = functools.partial(logits_of, recognizer, data, scored, progress)
    changes = covers(data, options.cover)
    logits = run()[:, classes.outputs]
    labels = classes.labels[data.index["label"][scored]]
    confusion = np.asarray(
        confusion_matrix(labels, logits.argmax(axis=1), len(classes.names)), np.int64
    )
    metrics = describe(confusion, recognizer, data, split, scored, classes, notes)
    metrics["confidence"] = confidence_fields(*_confidences(recognizer, classes, logits, labels))
    choice = logits.argmax(axis=1)
    if compare:
        metrics["compared_with"] = _compared(
            compare[0], recognizer.batch_size, data, scored, classes, labels, choice, progress
        )
    if changes:
        others = {
            region: run(change=change)[:, classes.outputs].argmax(axis=1)
            for region, change in changes.items()
        }
        metrics["covered"] = covered_images(labels, choice, others, len(classes.names))
    if options.calibrate:
        people = _people(data, scored)
        found = calibrate(options.calibrate, softmax(logits), labels, people, refers_to="frames")
        if options.stored_in is not None:
            found["stored_in"] = str(options.stored_in)
            found["calibration"] = in_bundle_order(
                options.stored_in, found["calibration"], classes.names
            )
        metrics["fitted_calibration"] = found
    write_report(metrics, out_dir)
    if options.stored_in is not None:
        update_document(options.stored_in, calibration=metrics["fitted_calibration"]["calibration"])
    return metrics


def _confidences(
    recognizer: Recognizer,
    classes: ScoredClasses,
    logits: Float32[np.ndarray, "n shared"],
    labels: Int[np.ndarray, "n"],
) -> tuple[np.ndarray, np.ndarray, str]:
    """Probabilities as `fer-jax predict` gives them for pictures, labels, and what they are."""
    probabilities = softmax(logits)
    calibrate_, _, note = stored_calibration(recognizer.bundle.calibration, None)
    if calibrate_ is None:
        return probabilities, labels, note
    if len(classes.names) < len(recognizer.classes):
        return probabilities, labels, "Confidence is not calibrated for some of the classes."
    calibrated = calibrate_(probabilities[:, np.argsort(classes.outputs)])
    return calibrated[:, classes.outputs], labels, note


def _compared(
    other: str | os.PathLike[str],
    batch_size: int,
    data: FaceData,
    rows: Int[np.ndarray, "n"],
    classes: ScoredClasses,
    labels: Int[np.ndarray, "n"],
    choice: Int[np.ndarray, "n"],
    progress: bool,
) -> dict[str, Any]:
    """Another bundle on the same images: the field `compared_with`."""
    theirs = load(other, batch_size=batch_size)
    theirs.require_labels()
    shared = shared_classes(theirs.bundle.labels, data.label_space)
    if shared.names != classes.names:
        raise FerJaxError(
            f"{other}: shares the classes {', '.join(shared.names)} with the data, not "
            f"{', '.join(classes.names)}; compare models of the same classes"
        )
    chosen = logits_of(theirs, data, rows, progress)[:, shared.outputs].argmax(axis=1)
    found = compare_images(labels, choice, chosen, len(classes.names))
    return {"name": str(other), "images": dataclasses.asdict(found)}


def _people(data: FaceData, rows: Int[np.ndarray, "rows"]) -> Int[np.ndarray, "rows"]:
    """The number of whoever each face shows; of one that is not known, a number of its own."""
    subjects = data.index["subject"][rows]
    known, number = np.unique(subjects, return_inverse=True)
    return np.where(subjects != "", number, len(known) + np.arange(len(rows)))


def _with_own_filter(options: FrameOptions, recognizer: Recognizer) -> FrameOptions:
    """With the bundle's filter, where that is wished and there is no other."""
    stored = recognizer.bundle.smoothing
    if not options.own_filter or options.smoothing or not stored:
        return options
    filter_ = Filter.stored(stored)
    return dataclasses.replace(options, smoothing=filter_, fill=options.fill or stored["fill"])


def _evaluate_videos(
    recognizer: Recognizer,
    data: FaceData,
    split: str,
    out_dir: str | os.PathLike[str],
    options: FrameOptions,
    other: FrameProbabilities | None,
    other_name: str,
    progress: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Every face of the split, labelled or not, since smoothing makes use of all of them."""
    rows = select(data, split, labelled=False)
    video, frame = data.index["video"][rows], data.index["frame"][rows].astype(np.int64)
    order = np.lexsort((frame, video))
    rows, video, frame = rows[order], video.astype(object)[order], frame[order]

    def predict(change: Callable[[np.ndarray], np.ndarray] | None = None) -> FrameProbabilities:
        probabilities = softmax(logits_of(recognizer, data, rows, progress, change))
        return FrameProbabilities(recognizer.classes, video, frame, probabilities)

    changes = covers(data, options.cover)
    predictions = dataclasses.replace(predict(), notes=tuple(_template_notes(recognizer, data)))
    covered = {region: predict(change) for region, change in changes.items()}
    moved = None
    if options.attribution:
        classes = shared_classes(recognizer.bundle.labels, data.label_space)
        outputs = dict(zip(classes.names, classes.outputs.tolist(), strict=True))
        moved = attribute(recognizer, data, rows, outputs, progress)
    about = {
        **bundle_fields(recognizer),
        "data": {"path": str(data.path), "split": split, "template": data.template},
    }
    return evaluate_frames(
        predictions,
        labels_of(data, split),
        out_dir,
        about=about,
        options=options,
        other=other,
        other_name=other_name,
        attribution=moved,
        covered=covered,
        say=say,
    )


def describe(
    confusion: Int[np.ndarray, "shared shared"],
    recognizer: Recognizer,
    data: FaceData,
    split: str,
    rows: Int[np.ndarray, "rows"],
    classes: ScoredClasses,
    notes: list[str],
) -> dict[str, Any]:
    """Everything that metrics.json says, as plain numbers, texts, lists and dicts."""
    found, intervals = scores(confusion), bootstrap(confusion)
    in_split = int((data.index["split"] == split).sum())
    labelled = int((data.index["label"][data.index["split"] == split] >= 0).sum())
    return {
        "format": "fer_jax metrics",
        "format_version": 1,
        "fer_jax_version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **score_fields(found, intervals, classes.names, unit="images"),
        "confusion": {"rows": "true", "columns": "predicted", "counts": confusion.tolist()},
        "interval": {
            "method": "bootstrap over images, taken as independent, corrected for bias and skew",
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": intervals.seed,
        },
        "images": {
            "in_split": in_split,
            "without_label": in_split - labelled,
            "of_a_class_not_scored": labelled - len(rows),
            "scored": int(confusion.sum()),
        },
        "labels": {
            "bundle": recognizer.bundle.labels.name,
            "data": data.label_space.name,
            "scored": list(classes.names),
            "never_predicted": list(classes.mapping.lost),
            "not_scored": list(classes.mapping.unreached),
        },
        **bundle_fields(recognizer),
        "data": {
            "path": str(data.path),
            "split": split,
            "template": data.template,
            "scored_keys_and_labels_sha256": _fingerprint(data, rows),
        },
        "notes": notes,
    }


def write_report(metrics: dict[str, Any], out_dir: str | os.PathLike[str]) -> None:
    """Writes metrics.json, table.md and confusion.png: all three, or none of them.

    Args:
        metrics: from `describe`.
        out_dir: the folder, made if missing; other files in it stay.
    """
    with report_files(out_dir, "images") as paths:
        draw_confusion(
            paths[PICTURE_FILE],
            np.array(metrics["confusion"]["counts"]),
            [one["name"] for one in metrics["classes"]],
            title=title_of(metrics),
            subtitle=(where_of(metrics), number_of(metrics)),
            f1_intervals=np.array([[one["f1_low"], one["f1_high"]] for one in metrics["classes"]]),
        )
        paths[TABLE_FILE].write_text(report_text(metrics), encoding="utf-8")
        paths[METRICS_FILE].write_text(
            json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def _notes(
    recognizer: Recognizer,
    data: FaceData,
    rows: Int[np.ndarray, "rows"],
    classes: ScoredClasses,
) -> list[str]:
    """What a reader of the scores must know, one sentence each."""
    notes = []
    mapping = classes.mapping
    if mapping.source.classes != mapping.target.classes:
        notes.append(
            f"labels: {mapping.describe()}. The bundle chose among {', '.join(classes.names)} only."
        )
    labels = data.index["label"][rows]
    for name in mapping.unreached:
        images = int((labels == mapping.target.classes.index(name)).sum())
        if images:
            notes.append(f"{images} images of {name} are not scored: the bundle cannot name it.")
    empty = [
        name for i, name in enumerate(classes.names) if not (classes.labels[labels] == i).any()
    ]
    if empty:
        notes.append(f"no image of {', '.join(empty)}: its F1 is 0 and counts in the mean.")
    return notes + _template_notes(recognizer, data)


def _template_notes(recognizer: Recognizer, data: FaceData) -> list[str]:
    templates = {view.template for view in recognizer.bundle.views.values()}
    if data.template in templates or "unknown" in templates:
        return []
    return [
        f"the faces are aligned as {data.template!r}, the bundle was trained on "
        f"{', '.join(map(repr, sorted(templates)))}: scores suffer from that."
    ]


def _fingerprint(data: FaceData, rows: Int[np.ndarray, "rows"]) -> str:
    """Two reports with the same fingerprint scored the same faces against the same labels."""
    digest = hashlib.sha256()
    for key, label in _keys_and_labels(data, rows):
        digest.update(f"{key}\t{label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _keys_and_labels(data: FaceData, rows: Int[np.ndarray, "rows"]) -> Iterator[tuple[str, str]]:
    names = np.asarray(data.label_space.classes, object)[data.index["label"][rows]]
    yield from sorted(zip(data.index["key"][rows].tolist(), names.tolist(), strict=True))
