"""The faces of pictures and of the frames of a video, aligned as a bundle wants them."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float64, UInt8

from fer_jax.bundle import Bundle
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import TEMPLATE_SIDE, align, aligned_side, template_name
from fer_jax.faces.detector import Detector
from fer_jax.faces.following import FollowedFace, Follower
from fer_jax.faces.videos import VideoFrame

KEEP = ("all", "largest")

_LEAST_SIDE = (
    32  # pixels of the picture that an aligned face spans; with fewer it is of low quality
)
_LARGER = 1.5  # how much larger somebody else must be to be taken for the person who is meant
_MOST_SIDE = 1024


@dataclasses.dataclass(frozen=True)
class FaceSearch:
    """How faces are found in the frames of a video.

    Attributes:
        every: one frame in so many is looked at; those between take over what is around them.
        search_every: of the frames looked at, one in so many is searched; in those between the
            faces are followed.
        keep: `all` faces, or the `largest` one, which changes only for somebody half as large
            again, or when it is gone.
        min_score: of the detector, as is `max_side`.
        max_side: pixels; larger frames are shrunk to it before they are searched.

    Raises:
        FerJaxError: a number that is not at least 1, or an unknown word.
    """

    every: int = 1
    search_every: int = 5
    keep: str = "all"
    min_score: float = 0.6
    max_side: int = 640

    def __post_init__(self) -> None:
        for name in ("every", "search_every"):
            if getattr(self, name) < 1:
                raise FerJaxError(f"{name}={getattr(self, name)} must be at least 1")
        if self.keep not in KEEP:
            raise FerJaxError(f"keep={self.keep!r} must be one of {', '.join(KEEP)}")

    def detector(self) -> Detector:
        """The detector that it describes."""
        return Detector(min_score=self.min_score, max_side=self.max_side)


@dataclasses.dataclass(frozen=True, eq=False)
class AlignedFace:
    """A face of a frame, cut out.

    Attributes:
        face_id: who it is.
        box: (left, top, width, height) in pixels of the frame.
        status: `ok` | `low_quality`.
        image: the aligned face, RGB.
    """

    face_id: int
    box: Float64[np.ndarray, "4"]
    status: str
    image: UInt8[np.ndarray, "size size 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class FrameFaces:
    """The faces of a frame.

    Attributes:
        number: of the frame, from 1.
        time_s: seconds.
        looked: whether it was looked at.
        faces: by their numbers; none where it was not looked at.
    """

    number: int
    time_s: float
    looked: bool
    faces: tuple[AlignedFace, ...]


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How a bundle wants its faces.

    Attributes:
        size: side of the aligned face in pixels.
        note: what to tell the user, "" if nothing.
    """

    size: int
    note: str = ""


def wanted_alignment(bundle: Bundle) -> Alignment:
    """The alignment of the faces that a bundle was trained on, as far as it can be made here.

    Args:
        bundle: its views name their template.

    Returns:
        The template's size; of another template the usual 112 pixels, with a note.

    Raises:
        FerJaxError: the views were trained on faces of several templates.
    """
    templates = {view.template for view in bundle.views.values()}
    if len(templates) > 1:
        raise FerJaxError(
            f"this bundle's views are of faces aligned as {', '.join(sorted(templates))}: no one "
            "face serves them; train both on one data set"
        )
    name = templates.pop()
    size = name.removeprefix("arcface_")
    if size != name and size.isdecimal() and 0 < int(size) <= _MOST_SIDE:
        return Alignment(int(size))
    return Alignment(
        TEMPLATE_SIDE,
        f"the bundle was trained on faces cut as {name!r}; those found here are aligned as "
        f"{template_name(TEMPLATE_SIDE)!r}, which may cost accuracy",
    )


def faces_of_picture(
    image: UInt8[np.ndarray, "height width 3"], detector: Detector, size: int, keep: str = "all"
) -> tuple[AlignedFace, ...]:
    """The faces of a picture, the best score first, numbered from 0.

    Args:
        image: RGB.
        detector: finds them.
        size: side of the aligned faces in pixels.
        keep: `all`, or the `largest`.
    """
    found = detector(image)
    rows = zip(found.boxes, found.points, found.scores.tolist(), strict=True)
    aligned = [_aligned(image, FollowedFace(0, *row), size) for row in rows]
    faces = [face for face in aligned if face is not None]
    if keep == "largest":
        faces = sorted(faces, key=_area)[-1:]
    return tuple(dataclasses.replace(face, face_id=i) for i, face in enumerate(faces))


def faces_of_frames(
    frames: Iterable[VideoFrame], search: FaceSearch, size: int
) -> Iterator[FrameFaces]:
    """The faces of each frame of a video.

    Args:
        frames: in order.
        search: how they are found.
        size: side of the aligned faces in pixels.

    Yields:
        One for each frame. With `keep="largest"` the one person has the number 0 throughout.
    """
    follower = Follower(search.detector(), search_every=search.search_every)
    person = None
    for index, frame in enumerate(frames):
        looked = index % search.every == 0
        faces: list[AlignedFace] = []
        if looked:
            found = follower(frame.time_s, frame.image)
            if search.keep == "largest" and found:
                person = _person(found, person)
                found = [dataclasses.replace(person, face_id=0)]
            aligned = (_aligned(frame.image, face, size) for face in found)
            faces = [face for face in aligned if face is not None]
        yield FrameFaces(frame.number, frame.time_s, looked, tuple(faces))


def _person(found: list[FollowedFace], before: FollowedFace | None) -> FollowedFace:
    """Whom the largest face is, in favour of whom it was."""
    areas = [float(np.prod(face.box[2:] - face.box[:2])) for face in found]
    largest = int(np.argmax(areas))
    for face, area in zip(found, areas, strict=True):
        if before is not None and face.face_id == before.face_id:
            return face if areas[largest] < _LARGER * area else found[largest]
    return found[largest]


def _aligned(image: np.ndarray, face: FollowedFace, size: int) -> AlignedFace | None:
    try:
        cut, side = align(image, face.points, size), aligned_side(face.points)
    except FerJaxError:  # points that coincide
        return None
    left, top, right, bottom = np.round(face.box.astype(np.float64), 2)
    box = np.array([left, top, right - left, bottom - top]).round(2)
    return AlignedFace(face.face_id, box, "ok" if side >= _LEAST_SIDE else "low_quality", cut)


def _area(face: AlignedFace) -> float:
    return float(face.box[2] * face.box[3])
