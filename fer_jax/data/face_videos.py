"""Faces without labels from any videos: searched in every few frames, aligned, as training faces.

Which face is whose is not asked: a frame's faces are numbered, and a video is one subject.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from fer_jax.data.examples import Example, Fault
from fer_jax.data.images import encode_image
from fer_jax.data.listing import folder_source, name_fault
from fer_jax.data.splits import DEFAULT_SPLIT
from fer_jax.data.units import file_state
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import align, aligned_side, template_name
from fer_jax.faces.detector import Detector
from fer_jax.faces.videos import VIDEO_EXTENSIONS, VideoError, VideoReader

_SMALLEST, _LARGEST = 32, 1024


@dataclasses.dataclass(frozen=True)
class FaceVideo:
    """A video of anybody.

    Attributes:
        name: of the file, as the user knows it.
        path: the file.
        every: of so many frames one is searched, the first of them.
        size: side of the aligned faces in pixels.
        source: name of the collection.
    """

    name: str
    path: Path
    every: int
    size: int
    source: str

    def __len__(self) -> int:
        """Unknown before it is decoded; progress counts it as one."""
        return 1

    def fingerprint(self) -> str:
        """Of the options, and of the file's size and time."""
        return f"{self.every} {self.size} {self.source} {self.path} {file_state(self.path)}"

    def examples(self) -> Iterator[Example | Fault]:
        """Aligned faces, as JPEG of quality 95, from left to right in each frame."""
        detector = Detector()
        try:
            reader = VideoReader(self.path)
            for frame in reader:
                if (frame.number - 1) % self.every:
                    continue
                faces = detector(frame.image)
                order = faces.boxes[:, 0].argsort(kind="stable").tolist()
                for number, row in enumerate(order):
                    points = faces.points[row]
                    try:
                        face = align(frame.image, points, self.size)
                    except FerJaxError:  # points that coincide: nothing that could be aligned
                        continue
                    yield Example(
                        path=self.path,
                        name=f"{self.name}/{frame.number:05d}.jpg",
                        label=-1,
                        split=DEFAULT_SPLIT,
                        subject=self.name,
                        video=self.name,
                        frame=frame.number,
                        source=self.source,
                        score=float(faces.scores[row]),
                        face_id=number,
                        encoded=encode_image(face, lossless=False),
                        template=template_name(self.size),
                        size=round(aligned_side(points)),
                    )
            fault = reader.fault
        except VideoError as error:
            fault = str(error).removeprefix(f"{self.path}: ")
        if fault:
            yield Fault(self.name, fault)


def face_videos(
    source: str | os.PathLike[str], *, every: int = 10, size: int = 112
) -> tuple[list[FaceVideo], list[Fault]]:
    """Lists the videos of a folder, at any depth, or one file.

    What is hidden, or in a hidden folder, and files without the extension of a video are passed
    over.

    Args:
        source: the folder, or the file.
        every: of so many frames one is searched.
        size: side of the aligned faces in pixels.

    Returns:
        The videos, sorted by name, and the faults: names that are no text.

    Raises:
        FerJaxError: there is no such file or folder, or no video in it; a number is out of range.
    """
    source = Path(source)
    check_size(size)
    if every < 1:
        raise FerJaxError(f"every {every} must be at least 1; 1 searches each frame")
    if source.is_dir():
        root, files = source, [path for path in source.rglob("*") if _wanted(path, source)]
    elif source.exists():
        root, files = source.parent, [source]
    else:
        raise FerJaxError(f"{source}: no such folder or video; check the path")
    if not files:
        raise FerJaxError(f"{source}: holds no video ({', '.join(VIDEO_EXTENSIONS)}); check it")
    videos, faults = [], []
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        if reason := name_fault(name):
            faults.append(Fault(name, reason))
        else:
            videos.append(FaceVideo(name, path, every, size, folder_source(root)))
    return videos, faults


def check_size(size: int) -> None:
    """Raises FerJaxError if aligned faces cannot have so many pixels a side."""
    if not _SMALLEST <= size <= _LARGEST:
        raise FerJaxError(f"size {size} is not in {_SMALLEST}..{_LARGEST} pixels; 112 is usual")


def _wanted(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file()
