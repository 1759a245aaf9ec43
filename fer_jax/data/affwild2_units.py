"""Aff-Wild2 as parts to prepare: one for each person in a video, from the organisers' crops."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from fer_jax.data.affwild2 import (
    CROP_KINDS,
    Layout,
    find_layout,
    frame_name,
    list_frames,
    read_annotation,
    read_test_list,
    source_video,
)
from fer_jax.data.examples import Example, Fault
from fer_jax.data.units import Unit, folder_state
from fer_jax.errors import FerJaxError

SOURCE = "affwild2"
TEMPLATES = {"cropped_aligned": "arcface_112", "cropped": "affwild2_cropped"}
_SHOWN_FAULTS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One person of one video, as an annotation file or the test list names them.

    Attributes:
        video: the name, with `_left` or `_right` where there are two people.
        split: `train`, `validation` or `test`.
        labels: the i-th, from 0, belongs to frame i + 1; -1 is unlabelled. None in the test split.
    """

    video: str
    split: str
    labels: Int8[np.ndarray, "n"] | None

    def label(self, frame: int) -> int:
        """The label of a frame, counted from 1; -1 if it has none."""
        if self.labels is None or not 1 <= frame <= len(self.labels):
            return -1
        return int(self.labels[frame - 1])

    def example(self, frame: int, path: Path, **fields) -> Example:
        """The face of a frame. Whoever is in one video file is one subject: none is named."""
        return Example(
            path=path,
            name=f"{self.video}/{frame_name(frame)}",
            label=self.label(frame),
            split=self.split,
            subject=source_video(self.video)[0],
            video=self.video,
            frame=frame,
            source=SOURCE,
            **fields,
        )

    def digest(self) -> bytes:
        """Changes when the name, the split or a label does."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        return hashlib.sha256(f"{self.video} {self.split} ".encode() + labels).digest()


@dataclasses.dataclass(frozen=True, eq=False)
class CropFolder:
    """The organisers' crops of one person.

    Attributes:
        person: who.
        folder: the crops.
        template: how they are aligned.
        unlabelled: whether frames without a label are wanted too.
    """

    person: Person
    folder: Path
    template: str
    unlabelled: bool

    @property
    def name(self) -> str:
        """The person's."""
        return self.person.video

    def __len__(self) -> int:
        return 0 if self.person.labels is None else int((self.person.labels >= 0).sum())

    def fingerprint(self) -> str:
        """Of the labels, and of the pictures' names, sizes and times."""
        digest = hashlib.sha256(self.person.digest())
        digest.update(os.fsencode(f"{self.unlabelled} {self.template} {self.folder}"))
        digest.update(folder_state(self.folder).encode())
        return digest.hexdigest()

    def examples(self) -> Iterator[Example | Fault]:
        """The frames that have a picture, and a label unless all are wanted."""
        try:
            frames = list_frames(self.folder)
        except FerJaxError as error:
            yield Fault(self.name, str(error).removeprefix(f"{self.folder}: "))
            return
        for number in frames.numbers.tolist():
            if number >= 1 and (self.unlabelled or self.person.label(number) >= 0):
                yield self.person.example(number, frames.path(number), template=self.template)


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """What is to be prepared.

    Attributes:
        units: one for each person, or for each video.
        faults: what is missing or cannot be read.
        annotations: every annotated frame, with or without a picture, since those are what is
            scored: `video` and `split` (one row a person), `start` (their first row in `label`,
            and one more at the end) and `label`.
    """

    units: tuple[Unit, ...]
    faults: tuple[Fault, ...]
    annotations: dict[str, np.ndarray]


def crop_units(
    root: str | os.PathLike[str],
    *,
    kind: str = "cropped_aligned",
    unlabelled: bool = False,
    skip_bad: bool = False,
) -> Collection:
    """Lists the organisers' crops below a folder.

    Args:
        root: what Aff-Wild2 was unpacked into.
        kind: one of `CROP_KINDS`.
        unlabelled: take frames without a label as well, the test videos as split `test` and
            people that are in no list as split `unlabelled`.
        skip_bad: go on where an annotation cannot be trusted: without the file if its header is
            wrong, without the line if that is; and without folders that cannot be read.

    Raises:
        FerJaxError: there is nothing of the kind; an annotation cannot be trusted or a folder not
            be read; or, whatever `skip_bad` says, annotations or crops are there twice.
    """
    layout = find_layout(root)
    unread = layout_faults(layout, kind, unlabelled=unlabelled, skip_bad=skip_bad)
    if kind not in layout.crops:
        there = ", ".join(layout.crops) or "none"
        raise FerJaxError(
            f"{layout.root}: has no crops {kind!r} (there: {there}); unpack them, or take "
            f"--crops {' or '.join(CROP_KINDS)}, or --from-videos"
        )
    people, faults = read_people(layout, unlabelled=unlabelled, skip_bad=skip_bad)
    faults += unread
    for path in layout.strays:
        name = path.relative_to(layout.root).as_posix()
        faults.append(Fault(name, "holds pictures, but not as crops do; they are passed over"))
    folders = layout.crops[kind]
    listed = {person.video for person in people}
    strangers = [video for video in folders if video not in listed] if unlabelled else []
    units = []
    for person in [*people, *(Person(video, "unlabelled", None) for video in strangers)]:
        if person.video in folders:
            folder = folders[person.video]
            units.append(CropFolder(person, folder, TEMPLATES[kind], unlabelled))
        else:
            faults.append(Fault(person.video, f"has no folder in {kind}"))
    return Collection(tuple(units), tuple(faults), annotation_columns(people))


def layout_faults(
    layout: Layout, pictures: str, *, unlabelled: bool, skip_bad: bool
) -> list[Fault]:
    """What of the layout is in doubt and would change what is stored.

    Args:
        layout: where the parts are.
        pictures: the part that they are taken from: one of `CROP_KINDS`, or `videos`.
        unlabelled: whether the test list counts too.
        skip_bad: go on without what cannot be read.

    Raises:
        FerJaxError: something cannot be read and `skip_bad` is false; or annotations or pictures
            are there twice, since no rule tells which edition somebody wants.
    """
    parts = {"root", "annotations", pictures} | ({"test_list"} if unlabelled else set())
    faults = [fault for fault in layout.faults if fault.part in parts]
    faults = [fault for fault in faults if fault.kind != "strangers"]
    twice = [fault for fault in faults if fault.kind == "twice" and fault.part != "test_list"]
    if twice:
        raise FerJaxError(f"{layout.root}: what to store is there twice: {_listed(twice)}")
    if faults and not skip_bad:
        raise FerJaxError(
            f"{layout.root}: {_listed(faults)}; or pass --skip-bad to go on regardless"
        )
    return list(faults)


def read_people(
    layout: Layout, *, unlabelled: bool, skip_bad: bool
) -> tuple[list[Person], list[Fault]]:
    """Reads every annotation file, and the test list if unlabelled frames are wanted.

    Raises:
        FerJaxError: there is no annotation; or one cannot be trusted and `skip_bad` is false; or
            a video is annotated in two splits.
    """
    if not any(layout.annotations.values()) and not unlabelled:
        raise FerJaxError(
            f"{layout.root}: has no EXPR annotations; unpack them beside the crops, or pass "
            "--unlabelled to take pictures alone"
        )
    people: dict[str, Person] = {}
    faults: list[Fault] = []
    for split, videos in layout.annotations.items():
        for video, path in videos.items():
            name = path.relative_to(layout.root).as_posix()
            try:
                annotation = read_annotation(path)
            except FerJaxError as error:
                faults.append(Fault(name, str(error).removeprefix(f"{path}: ")))
                continue
            faults += [Fault(name, fault) for fault in annotation.faults]
            if video in people:
                raise FerJaxError(
                    f"{path}: {video} is annotated in {people[video].split} as well; it can be in "
                    "one split only, so take one of the files away"
                )
            # Without its header a file says nothing certain of any line.
            if not any(_is_of_the_file(fault) for fault in annotation.faults):
                people[video] = Person(video, split, annotation.labels)
    if faults and not skip_bad:
        raise FerJaxError(
            f"{len(faults)} faults in the annotations: {_listed(faults)}; see `fer-jax doctor "
            f"{layout.root}`, repair them, or pass --skip-bad to leave such lines and files out"
        )
    if unlabelled and layout.test_list is not None:
        for video in read_test_list(layout.test_list):
            if video not in people:
                people[video] = Person(video, "test", None)
    return list(people.values()), faults


def _listed(faults: Sequence[Fault]) -> str:
    shown = "; ".join(f"{fault.name}: {fault.reason}" for fault in faults[:_SHOWN_FAULTS])
    more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
    return shown + more


def _is_of_the_file(fault: str) -> bool:
    return not fault.startswith("line") or fault.startswith("line 1:")


def annotation_columns(people: Sequence[Person]) -> dict[str, np.ndarray]:
    """The labels of all annotated frames, as `Collection.annotations` has them."""
    annotated = [person for person in people if person.labels is not None]
    lengths = [len(person.labels) for person in annotated]
    return {
        "video": np.asarray([person.video for person in annotated], np.str_),
        "split": np.asarray([person.split for person in annotated], np.str_),
        "start": np.cumsum([0, *lengths]).astype(np.int64),
        "label": np.concatenate([np.zeros(0, np.int8), *(p.labels for p in annotated)]),
    }
