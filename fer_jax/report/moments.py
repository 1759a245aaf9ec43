"""The frames that show each expression best, and their faces, cut from the video."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import read_video
from fer_jax.predict.table import PredictionTable

_CONTEXT = 1.7  # sides of the box
_SIDE = 192  # pixels
_QUALITY = 82


@dataclasses.dataclass(frozen=True)
class Moment:
    """One face in one frame.

    Attributes:
        label: index of the class that it shows.
        face_id: as in the table.
        frame: counted from 1.
        time_s: seconds.
        confidence: in the label.
        box: (left, top, width, height) of the face, in pixels.
    """

    label: int
    face_id: int
    frame: int
    time_s: float
    confidence: float
    box: tuple[float, float, float, float]


def best_moments(table: PredictionTable) -> list[Moment]:
    """The most confident frame of each expression, of those whose face was found and scored.

    Args:
        table: predictions of one video.

    Returns:
        At most one moment for each class, in the order of the classes.
    """
    good = (table.status == "ok") & (table.fill == "none") & (table.label >= 0)
    good &= np.isfinite(table.raw).all(axis=1) & np.isfinite(table.box).all(axis=1)
    moments = []
    for label in range(len(table.classes)):
        rows = np.flatnonzero(good & (table.label == label))
        if len(rows):
            row = rows[table.confidence[rows].argmax()]
            left, top, width, height = table.box[row].tolist()
            moments.append(
                Moment(
                    label, int(table.face_id[row]), int(table.frame[row]),
                    float(table.time_s[row]), float(table.confidence[row]),
                    (left, top, width, height),
                )
            )  # fmt: skip
    return moments


def thumbnails(video: Path | str, moments: Sequence[Moment]) -> list[bytes]:
    """The faces of moments, with a little around them.

    The video is decoded from its start to the last of the frames, one in memory at a time.

    Args:
        video: the file that the table is about.
        moments: of it.

    Returns:
        A JPEG of at most 192 x 192 pixels for each; empty where the frame did not come.

    Raises:
        VideoError: there is no such file, or it is no video.
        FerJaxError: a moment's box lies outside the frame, so it is another video.
    """
    wanted = {one.frame for one in moments}
    pictures: dict[Moment, bytes] = {}
    for frame in read_video(video) if wanted else ():
        if frame.number in wanted:
            for one in _of(moments, frame.number):
                pictures[one] = _jpeg(_cut(frame.image, one, video))
        if frame.number >= max(wanted):
            break
    return [pictures.get(one, b"") for one in moments]


def _of(moments: Sequence[Moment], frame: int) -> Iterable[Moment]:
    return (one for one in moments if one.frame == frame)


def _cut(
    image: UInt8[np.ndarray, "height width 3"], moment: Moment, video: Path | str
) -> UInt8[np.ndarray, "rows columns 3"]:
    left, top, width, height = moment.box
    half = _CONTEXT * max(width, height) / 2
    middle = np.array([left + width / 2, top + height / 2])
    low = np.clip(np.floor(middle - half), 0, image.shape[1::-1]).astype(int)
    high = np.clip(np.ceil(middle + half), 0, image.shape[1::-1]).astype(int)
    if not (low < high).all():
        raise FerJaxError(
            f"{video}: frame {moment.frame} has no pixel where the table has a face; "
            "name the video that the table is about"
        )
    return image[low[1] : high[1], low[0] : high[0]]


def _jpeg(image: np.ndarray) -> bytes:
    scale = _SIDE / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
