"""Where predictions meet labels: every frame of every annotated video, with or without a face."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32, Int64

from fer_jax.errors import FerJaxError
from fer_jax.evaluate.frame_labels import FrameLabels, read_labels
from fer_jax.evaluate.frame_probabilities import FrameProbabilities, read_frame_probabilities
from fer_jax.labels import LabelSpace, label_map
from fer_jax.predict.every_frame import MOST_FRAMES, of_classes

__all__ = [
    "FrameLabels",
    "FrameProbabilities",
    "Timeline",
    "read_frame_probabilities",
    "read_labels",
    "timeline",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """All frames from 1 to the last of each annotated video, without a gap, videos by name.

    Attributes:
        classes: those that predictions and labels share, in the order of the labels' space.
        videos: names, in the order of `segment`.
        segment: the number of the row's video, non-decreasing.
        frame: counted from 1.
        observed: 1 where there is a prediction, else 0.
        probabilities: of the classes; 0 where there is no prediction.
        label: index into `classes`; -1 where the frame is not annotated, or with another class.
        notes: what a reader of scores must know, one sentence each.
    """

    classes: tuple[str, ...]
    videos: tuple[str, ...]
    segment: Int32[np.ndarray, "rows"]
    frame: Int64[np.ndarray, "rows"]
    observed: Float32[np.ndarray, "rows"]
    probabilities: Float32[np.ndarray, "rows class"]
    label: Int32[np.ndarray, "rows"]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.segment)


def timeline(predictions: FrameProbabilities, labels: FrameLabels) -> Timeline:
    """Joins predictions and labels over the videos of the labels.

    A video ends with its last labelled or predicted frame. Where the two have other classes, the
    shared ones count: their probabilities are scaled to add up to 1, and labels of a class that
    the predictions do not have become -1.

    Args:
        predictions: of single frames.
        labels: what they are scored against.

    Returns:
        Every frame of the labelled videos.

    Raises:
        FerJaxError: no video, or fewer than two classes, are in both.

    Example:
        >>> space = LabelSpace("two", ("Neutral", "Other"))
        >>> a = np.array(["a"] * 3, object)
        >>> labels = FrameLabels(space, a, np.arange(1, 4), np.array([0, 1, -1], np.int32))
        >>> found = FrameProbabilities(
        ...     space.classes, a[:1], np.array([2]), np.array([[0.25, 0.75]], np.float32)
        ... )
        >>> joined = timeline(found, labels)
        >>> joined.frame.tolist(), joined.observed.tolist(), joined.label.tolist()
        ([1, 2, 3], [0.0, 1.0, 0.0], [0, 1, -1])
    """
    videos, number = np.unique(labels.video.astype(str), return_inverse=True)
    place = {name: i for i, name in enumerate(videos.tolist())}
    predicted, own = np.unique(predictions.video.astype(str), return_inverse=True)
    segment = np.asarray([place.get(name, -1) for name in predicted.tolist()], np.int64)[own]
    known = segment >= 0
    if not known.any():
        some = predicted[0] if len(predicted) else "none at all"
        raise FerJaxError(
            f"no video is in both: the labels are of {videos[0]} and {len(videos) - 1} more, the "
            f"predictions of {some}; name the predictions of these videos"
        )
    segment, frame = segment[known], predictions.frame[known]
    last = np.zeros(len(videos), np.int64)
    np.maximum.at(last, number, labels.frame)
    np.maximum.at(last, segment, frame)
    if last.sum() > MOST_FRAMES:
        longest = int(last.argmax())
        raise FerJaxError(
            f"frame {last[longest]} of {videos[longest]}: the videos would have {last.sum()} "
            "frames; correct the frame numbers"
        )
    start = np.cumsum(last) - last
    rows = start[segment] + frame - 1
    if len(np.unique(rows)) < len(rows):
        raise FerJaxError("two predictions of one frame; name each frame once")
    classes, columns, label_of, notes = _shared(predictions.classes, labels)
    total = int(last.sum())
    observed = np.zeros(total, np.float32)
    observed[rows] = 1
    probabilities = np.zeros((total, len(classes)), np.float32)
    probabilities[rows] = of_classes(predictions.probabilities[known], columns)
    label = np.full(total, -1, np.int32)
    label[start[number] + labels.frame - 1] = label_of[labels.label]
    ours = np.repeat(np.arange(len(videos), dtype=np.int32), last)
    return Timeline(
        classes=classes,
        videos=tuple(videos.tolist()),
        segment=ours,
        frame=np.arange(total) - start[ours] + 1,
        observed=observed,
        probabilities=probabilities,
        label=label,
        notes=(*predictions.notes, *notes, *_missing(videos, predicted, place)),
    )


def _shared(
    classes: tuple[str, ...], labels: FrameLabels
) -> tuple[tuple[str, ...], list[int], np.ndarray, list[str]]:
    """The shared classes, their columns, the new number of each label (last: of -1), notes."""
    mapping = label_map(LabelSpace("of the predictions", classes), labels.labels)
    column = {target: own for own, target in enumerate(mapping.indices) if target >= 0}
    shared = sorted(column)
    if len(shared) < 2:
        raise FerJaxError(
            f"predictions and labels share only the class {labels.labels.classes[shared[0]]}; "
            "there is nothing to choose from, use other labels"
        )
    label_of = np.full(len(labels.labels) + 1, -1, np.int32)
    label_of[shared] = np.arange(len(shared))
    names = tuple(labels.labels.classes[i] for i in shared)
    notes = []
    if mapping.lost:
        notes.append(
            f"the predictions' {', '.join(mapping.lost)} is not among the labels: the choice was "
            f"among {', '.join(names)} only."
        )
    for name in mapping.unreached:
        if frames := int((labels.label == labels.labels.classes.index(name)).sum()):
            notes.append(f"{frames} frames of {name} are not scored: no prediction can name it.")
    return names, [column[i] for i in shared], label_of, notes


def _missing(videos: np.ndarray, predicted: np.ndarray, place: dict[str, int]) -> list[str]:
    notes = []
    without = sorted(set(videos.tolist()) - set(predicted.tolist()))
    if without:
        notes.append(f"{len(without)} of {len(videos)} videos have no prediction{_some(without)}.")
    beside = sorted(set(predicted.tolist()) - place.keys())
    if beside:
        which = _some(beside)
        notes.append(f"predictions of {len(beside)} videos without labels are passed over{which}.")
    return notes


def _some(names: list[str]) -> str:
    return f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
