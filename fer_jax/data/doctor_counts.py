"""What one video of Aff-Wild2 holds, counted: labels against pictures."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from fer_jax.data.affwild2 import LABELS
from fer_jax.data.doctor_pictures import Pictures

STATES = ("labelled", "no picture", "no label", "corrupted")
STRIP_LENGTH = 240
_STRIP_SLACK = 1000


@dataclasses.dataclass(frozen=True)
class VideoCheck:
    """What one video holds, in one split.

    Attributes:
        video: name of the annotation and of the folder.
        split: one of `SPLITS`, or empty if no annotation and no test list names it.
        lines: of the annotation, its header left out; 0 without one.
        labels: of each class.
        pictured: labels of each class that have a picture.
        images: how many pictures there are.
        first_image: the lowest number of a picture, 0 if there is none.
        last_image: the highest.
        images_without_label: pictures whose line is -1, or that have no line.
        corrupted: for each picture that cannot be opened its number and why.
        flat: pictures of one colour.
        strip: for each part of the video the shares of its frames in each of `STATES`, of 255;
            it ends 1,000 frames after the labels at the latest, since one picture with an absurd
            number would fill the memory.
    """

    video: str
    split: str
    lines: int
    labels: Int[np.ndarray, "class"]
    pictured: Int[np.ndarray, "class"]
    images: int
    first_image: int
    last_image: int
    images_without_label: int
    corrupted: Mapping[int, str]
    flat: int
    strip: UInt8[np.ndarray, "part state"]

    @property
    def labelled(self) -> int:
        """Lines with a class."""
        return int(self.labels.sum())

    @property
    def unlabelled(self) -> int:
        """Lines with -1."""
        return self.lines - self.labelled

    @property
    def labels_without_image(self) -> int:
        """Lines with a class whose picture is missing."""
        return self.labelled - int(self.pictured.sum())


def check_video(
    video: str,
    split: str,
    labels: Int[np.ndarray, "lines"],
    numbers: Int[np.ndarray, "images"],
    pictures: Pictures,
) -> VideoCheck:
    """Counts one video.

    Args:
        video: its name.
        split: its split.
        labels: one a frame, from frame 1 on.
        numbers: of its pictures, sorted.
        pictures: what is in them.

    Returns:
        The counts.
    """
    within = numbers[(numbers >= 1) & (numbers <= len(labels))]
    pictured = labels[within - 1]
    pictured = pictured[pictured >= 0]
    return VideoCheck(
        video,
        split,
        len(labels),
        np.bincount(labels[labels >= 0], minlength=len(LABELS)),
        np.bincount(pictured, minlength=len(LABELS)),
        len(numbers),
        int(numbers[0]) if len(numbers) else 0,
        int(numbers[-1]) if len(numbers) else 0,
        len(numbers) - len(pictured),
        dict(pictures.corrupted),
        pictures.flat,
        _strip(labels, numbers, np.asarray(list(pictures.corrupted), np.int64)),
    )


def _strip(
    labels: Int[np.ndarray, "lines"],
    numbers: Int[np.ndarray, "images"],
    corrupted: Int[np.ndarray, "bad"],
) -> UInt8[np.ndarray, "part state"]:
    last = int(numbers[-1]) if len(numbers) else 0
    length = max(len(labels), min(last, len(labels) + _STRIP_SLACK))
    labelled, present, bad = np.zeros((3, length), bool)
    labelled[: len(labels)] = labels >= 0
    for marked, frames in ((present, numbers), (bad, corrupted)):
        marked[frames[(frames >= 1) & (frames <= length)] - 1] = True
    states = np.stack([labelled & present & ~bad, labelled & ~present, present & ~labelled, bad])
    if not length:
        return np.zeros((0, len(STATES)), np.uint8)
    starts = np.arange(min(length, STRIP_LENGTH)) * length // min(length, STRIP_LENGTH)
    sums = np.add.reduceat(states.astype(np.int64), starts, axis=1)
    sizes = np.diff(np.append(starts, length))
    # What is there at all is never rounded away.
    return np.ceil(255 * sums / sizes).astype(np.uint8).T


def worst(checks: Sequence[VideoCheck], part: str, whole: str) -> list[str]:
    """The videos by how much of them is concerned, each with its count and share.

    Args:
        checks: the videos.
        part: the attribute that counts what is concerned.
        whole: the attribute that counts all.

    Returns:
        One text a video, the worst first.
    """
    checks = sorted(checks, key=lambda check: (-getattr(check, part), check.video))
    return [
        f"{check.video} ({getattr(check, part):,}, "
        f"{percent(getattr(check, part), getattr(check, whole))})"
        for check in checks
    ]


def percent(part: int, whole: int) -> str:
    """A share in per cent; 0.0 % only where there is nothing, 100.0 % only where it is all."""
    share = 100 * part / max(whole, 1)
    if 0 < share < 0.05:
        return "<0.1 %"
    if 99.95 <= share < 100:
        return ">99.9 %"
    return f"{share:.1f} %"
