"""What is wrong in a mini Aff-Wild2, and where: the record that its tests compare with."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fer_jax.errors import FerJaxError

SOFT_FAULTS = (
    "leak",
    "copied_video",
    "duplicate_image",
    "corrupt_image",
    "non_face",
    "blurred",
    "low_resolution",
    "small_image",
)
"""What a preparation copes with: it reports, and drops what must not be trained on."""

HARD_FAULTS = (
    "frames_beyond_labels",
    "wrong_header",
    "malformed_line",
    "label_out_of_range",
    "no_crops",
    "no_annotation",
    "frame_zero",
    "stranger_file",
)
"""What a user has to look at before training."""

FAULTS = (*SOFT_FAULTS, *HARD_FAULTS)
TRAITS = ("missing", "unlabelled", "extra_label", "crlf", "trailing_blanks", "two_people")
"""What the real data has too and nobody should complain about."""

RECORD = "planted.json"


@dataclasses.dataclass(frozen=True)
class Mark:
    """One place of a fault or trait.

    Attributes:
        video: name of the annotation and of the folder of crops.
        frame: the first frame concerned, from 1; 0 if it is the whole video or no frame.
        count: how many frames follow each other from there on.
        detail: what it is, in words.
        other_video: what it is a copy of, or the other side of a leak.
        other_frame: the same, a frame.
    """

    video: str
    frame: int = 0
    count: int = 1
    detail: str = ""
    other_video: str = ""
    other_frame: int = 0


@dataclasses.dataclass(frozen=True)
class VideoFacts:
    """One annotated person, or test video, as it lies on the disk, faults included.

    Attributes:
        name: of the annotation and of the folder of crops.
        split: `train`, `validation` or `test`; empty if it is in none, for want of an annotation.
        file: the source video, relative to the root.
        frames: how many frames the source video has.
        fps: frames a second of the source video.
        labels: lines of the annotation after its header, blanks at the end left out; 0 if none.
        images: pictures with a frame's name in its folder of aligned crops.
        crops: folder of the aligned crops, relative to the root; empty if there is none.
        loose: folder of the loose crops, relative to the root; empty if there is none.
    """

    name: str
    split: str
    file: str
    frames: int
    fps: float
    labels: int
    images: int
    crops: str
    loose: str


@dataclasses.dataclass(frozen=True)
class Planted:
    """All that a test needs to know of a mini Aff-Wild2.

    Attributes:
        seed: of everything.
        videos: all people with an annotation or crops, in the order of their names.
        faults: for each planted kind of `FAULTS` its places.
        traits: for each kind of `TRAITS` its places.
        skipped: the kinds that were asked for, but found no place in so few videos.
    """

    seed: int
    videos: tuple[VideoFacts, ...]
    faults: dict[str, tuple[Mark, ...]]
    traits: dict[str, tuple[Mark, ...]]
    skipped: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Writes planted.json into a folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_planted(folder: str | os.PathLike[str]) -> Planted:
    """Reads what was planted into a mini Aff-Wild2.

    Args:
        folder: the data's root.

    Returns:
        What `write_mini_affwild2` returned.

    Raises:
        FerJaxError: the folder is no mini Aff-Wild2.
    """
    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Planted(
            record["seed"],
            tuple(VideoFacts(**facts) for facts in record["videos"]),
            _marks(record["faults"]),
            _marks(record["traits"]),
            tuple(record["skipped"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FerJaxError(
            f"{path}: cannot be read ({error}); make the folder with tools/make_mini_affwild2.py"
        ) from error


def chosen_faults(faults: str | Iterable[str]) -> tuple[str, ...]:
    """Kinds of faults from `"all"`, `"soft"`, `"none"` or their names, in the order of `FAULTS`.

    Raises:
        FerJaxError: no such kind.
    """
    known = {"all": FAULTS, "soft": SOFT_FAULTS, "none": ()}
    if isinstance(faults, str) and faults in known:
        return known[faults]
    names = {faults} if isinstance(faults, str) else set(faults)
    if unknown := sorted(names - set(FAULTS)):
        raise FerJaxError(
            f"faults={unknown[0]!r} is not known; choose all, soft, none or of {', '.join(FAULTS)}"
        )
    return tuple(kind for kind in FAULTS if kind in names)


def _marks(record: Mapping[str, list[dict]]) -> dict[str, tuple[Mark, ...]]:
    return {kind: tuple(Mark(**mark) for mark in marks) for kind, marks in record.items()}
