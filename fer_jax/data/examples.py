"""What a reader of a collection hands on: faces to store, and what cannot be stored, and why."""

import dataclasses
import math
from pathlib import Path

from fer_jax.data.images import ImageError


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

    @property
    def key(self) -> str:
        """Names the face within its data set."""
        return f"{self.name}#{self.face_id}" if self.face_id else self.name

    def read(self) -> bytes:
        """The image's bytes.

        Raises:
            ImageError: the file cannot be read.
        """
        if self.encoded is not None:
            return self.encoded
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read ({error.strerror})") from error


@dataclasses.dataclass(frozen=True)
class Fault:
    """A listed picture that cannot be used, and why; `name` also says where it is listed."""

    name: str
    reason: str
