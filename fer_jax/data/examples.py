"""What a reader of a collection hands on: faces to store, and what cannot be stored, and why."""

import dataclasses
import math
import os
import stat
from pathlib import Path

from fer_jax.data.images import ImageError

_MOST_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Example:
    """One face to store.

    Attributes:
        path: the image file, or the file that the image was taken out of.
        name: the image as the user knows it: relative to the source folder.
        label: the index in the label space, -1 if it has none.
        split: such as `train` or `validation`.
        subject: who it is, empty if unknown; whole subjects go to one side of a split.
        video: the video it is from, empty if none.
        frame: number in the video, from 1; 0 if none.
        source: name of the collection.
        box: the face's (left, top, right, bottom) in pixels, or None if the picture is the face.
        score: the detector's confidence, not-a-number if unknown.
        face_id: number of the face among those listed of the same picture.
        votes: how many people named each class of the label space; empty if nobody was asked.
        encoded: the image's bytes, where it has no file of its own.
        template: how the face was aligned, empty if that is not known of it alone.
        size: pixels of the face where it was found, 0 if unknown; alignment changes them.
    """

    path: Path
    name: str
    label: int
    split: str
    subject: str = ""
    video: str = ""
    frame: int = 0
    source: str = ""
    box: tuple[float, float, float, float] | None = None
    score: float = math.nan
    face_id: int = 0
    votes: tuple[float, ...] = ()
    encoded: bytes | None = None
    template: str = ""
    size: int = 0

    @property
    def key(self) -> str:
        """Names the face within its data set."""
        return f"{self.name}#{self.face_id}" if self.face_id else self.name

    def read(self) -> bytes:
        """The image's bytes.

        Raises:
            ImageError: the file cannot be read.
        """
        return self.encoded if self.encoded is not None else read_picture(self.path)


def read_picture(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        ImageError: it cannot be read, is no file (a pipe would never end) or is far too large.
    """
    try:
        # Opening a pipe without this flag waits for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ImageError("is no file")
            if found.st_size > _MOST_BYTES:
                raise ImageError(f"has {found.st_size >> 20} MiB, which no picture of a face has")
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error


@dataclasses.dataclass(frozen=True)
class Fault:
    """A picture that cannot be used, and why.

    Attributes:
        name: the picture as the user knows it.
        reason: also says where it is listed.
        split: the split that it would have been in, empty if that is not known.
    """

    name: str
    reason: str
    split: str = ""


@dataclasses.dataclass(frozen=True)
class LeftOut(Fault):
    """A picture that its collection's rules do not use: nothing is broken or to be repaired."""
