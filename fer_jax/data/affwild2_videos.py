"""Aff-Wild2 from its videos: one part for each file, whose people are found, followed, aligned."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from fer_jax.data.affwild2 import find_layout, source_video
from fer_jax.data.affwild2_units import (
    Collection,
    Person,
    annotation_columns,
    layout_faults,
    read_people,
)
from fer_jax.data.examples import Example, Fault
from fer_jax.data.face_videos import check_size
from fer_jax.data.images import encode_image
from fer_jax.data.units import file_state
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import align, aligned_side, template_name
from fer_jax.faces.detector import Detector
from fer_jax.faces.tracking import Tracker, choose_person
from fer_jax.faces.videos import VideoError, VideoReader


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """All faces of a video, in the order of its frames."""

    frames: Int64[np.ndarray, "n"]
    tracks: Int64[np.ndarray, "n"]
    boxes: Float32[np.ndarray, "n 4"]
    points: Float32[np.ndarray, "n 5 2"]
    scores: Float32[np.ndarray, "n"]
    width: int


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFile:
    """A video and the people in it who are annotated.

    Attributes:
        name: of the file, without its extension.
        path: the file.
        people: one, or the left and the right one.
        size: side of the aligned faces in pixels.
        unlabelled: whether frames without a label are wanted too.
    """

    name: str
    path: Path
    people: tuple[Person, ...]
    size: int
    unlabelled: bool

    def __len__(self) -> int:
        known = [person.labels for person in self.people if person.labels is not None]
        return int(sum((labels >= 0).sum() for labels in known))

    def fingerprint(self) -> str:
        """Of the people's labels and of the file's size and time."""
        digest = hashlib.sha256(b"".join(person.digest() for person in self.people))
        digest.update(os.fsencode(f"{self.unlabelled} {self.size} {self.path}"))
        digest.update(file_state(self.path).encode())
        return digest.hexdigest()

    def examples(self) -> Iterator[Example | Fault]:
        """Aligned faces, as JPEG of quality 95; the video is decoded twice, once to find them."""
        try:
            found, fault = self._find()
            yield from self._cut(found)
        except VideoError as error:
            fault = str(error)
        if fault:
            yield Fault(self.path.name, fault)

    def _find(self) -> tuple[_Found, str]:
        detector, tracker = Detector(), Tracker()
        reader = VideoReader(self.path)
        rows: dict[str, list] = collections.defaultdict(list)
        width = 0
        for frame in reader:
            width = frame.image.shape[1]
            faces = detector(frame.image)
            rows["frames"].append(np.full(len(faces), frame.number))
            rows["tracks"].append(tracker.update(frame.time_s, faces.boxes))
            rows["boxes"].append(faces.boxes)
            rows["points"].append(faces.points)
            rows["scores"].append(faces.scores)
        columns = {name: np.concatenate(values) for name, values in rows.items()}
        fault = reader.fault
        if not fault and reader.count < reader.announced:
            # Sound files may announce a few more than they show, but labels may count them.
            fault = f"announces {reader.announced} frames, {reader.count} could be decoded"
        return _Found(**columns, width=width), fault

    def _cut(self, found: _Found) -> Iterator[Example]:
        wanted: dict[int, list[tuple[Person, int]]] = collections.defaultdict(list)
        for person in self.people:
            side = source_video(person.video)[1]
            chosen = choose_person(found.frames, found.tracks, found.boxes, side, found.width)
            for row in chosen.tolist():
                number = int(found.frames[row])
                if self.unlabelled or person.label(number) >= 0:
                    wanted[number].append((person, row))
        for frame in VideoReader(self.path):
            for person, row in wanted.get(frame.number, ()):
                points = found.points[row]
                try:
                    face = align(frame.image, points, self.size)
                except FerJaxError:  # points that coincide: the frame counts as one without a face
                    continue
                yield person.example(
                    frame.number,
                    self.path,
                    encoded=encode_image(face, lossless=False),
                    score=float(found.scores[row]),
                    size=round(aligned_side(points)),
                    template=template_name(self.size),
                )


def video_units(
    root: str | os.PathLike[str],
    *,
    size: int = 112,
    unlabelled: bool = False,
    skip_bad: bool = False,
) -> Collection:
    """Lists the videos below a folder whose people are annotated.

    Args:
        root: what Aff-Wild2 was unpacked into.
        size: side of the aligned faces in pixels.
        unlabelled: take frames without a label as well, and the test videos as split `test`.
        skip_bad: as in `crop_units`.

    Raises:
        FerJaxError: there is no video, or the size is impossible; an annotation cannot be trusted
            or a folder not be read; or, whatever `skip_bad` says, annotations or videos are there
            twice.
    """
    check_size(size)
    layout = find_layout(root)
    unread = layout_faults(layout, "videos", unlabelled=unlabelled, skip_bad=skip_bad)
    if not layout.videos:
        raise FerJaxError(
            f"{layout.root}: has no video (.mp4, .avi); unpack batch1, batch2, ..., or leave "
            "--from-videos out to take the crops"
        )
    people, faults = read_people(layout, unlabelled=unlabelled, skip_bad=skip_bad)
    faults += unread
    of_video: dict[str, list[Person]] = collections.defaultdict(list)
    for person in people:
        stem = person.video if person.video in layout.videos else source_video(person.video)[0]
        if stem in layout.videos:
            of_video[stem].append(person)
        else:
            faults.append(Fault(person.video, "has no video file"))
    units = [
        VideoFile(stem, layout.videos[stem], tuple(group), size, unlabelled)
        for stem, group in of_video.items()
    ]
    return Collection(tuple(units), tuple(faults), annotation_columns(people))
