"""Videos read frame by frame: counted by decoding, upright, in RGB, and honest about damage.

The number of frames that a file announces is often wrong by one, or by what an edit list hides;
the only count that fits the labels is that of the frames that come out.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.errors import FerJaxError
from fer_jax.faces.containers import is_avi, is_broken, missing_bytes

# What is wrong with a file is said by VideoError and `VideoReader.fault`; FFmpeg would print a line
# for each damaged frame. It reads this once, when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif",
    ".3gp", ".ts", ".mts",
)  # fmt: skip

_MOST_PIXELS = 2**28
_SANE_FPS = (1.0, 1000.0)
_USUAL_FPS = 25.0
_FEW = 0.9
_GAP_FRAMES = 1.5
_ATTEMPTS = 16


class VideoError(FerJaxError):
    """A file that holds no video; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One frame of a video.

    Attributes:
        number: counted from 1. Where frames in between cannot be decoded it leaps over them, as
            far as the time stamps tell how many they are.
        time_s: when it is shown, in seconds after the start; grows from frame to frame.
        image: RGB, upright.
    """

    number: int
    time_s: float
    image: UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class _Frames(Protocol):
    """What is used of a camera."""

    def read(self) -> tuple[bool, Any]: ...


@runtime_checkable
class _Capture(_Frames, Protocol):
    """What is used of cv2.VideoCapture of a file."""

    def get(self, propId: int) -> float: ...


class VideoReader:
    """The frames of a video, one after the other; each iteration begins at the first.

    A damaged file gives what can be decoded. After an iteration that reached the end, `fault`
    says whether anything is missing.

        reader = read_video(path)
        for frame in reader:
            ...
        if reader.fault:
            print(reader.path, reader.fault)

    Attributes:
        path: the file.
        fps: frames a second, as the file says; 25 where it says nothing sane.
        size: (width, height) of the first frame in pixels, upright.
        announced: the number of frames according to the file, 0 if it says none; often wrong.
        count: how many frames the last iteration has handed out so far.
        fault: what is missing, "" if nothing; known after an iteration.

    Raises:
        VideoError: there is no such file, it is no video, or not one frame can be decoded.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.count = 0
        self.fault = ""
        self._begun: tuple[_Capture, Iterator[VideoFrame]] | None = None
        capture = self._open()
        self.fps = _sane_fps(capture.get(cv2.CAP_PROP_FPS))
        self.announced = max(0, int(min(capture.get(cv2.CAP_PROP_FRAME_COUNT), 2**31)))
        frames = _decode(capture, self.fps, self.announced)
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{self.path}: no frame of it can be decoded; see whether it plays")
        self.size = (first.image.shape[1], first.image.shape[0])
        # The first iteration goes on with it: a file's index is read once.
        self._begun = (capture, itertools.chain([first], frames))

    def __iter__(self) -> Iterator[VideoFrame]:
        capture, frames = self._begun or (None, None)
        self._begun = None
        if capture is None:
            capture = self._open()
            frames = _decode(capture, self.fps, self.announced)
        self.count, self.fault = 0, ""
        number, gaps, last_s = 0, 0, 0.0
        try:
            for frame in frames:
                self.count, number = self.count + 1, frame.number
                gaps += (frame.time_s - last_s) * self.fps > _GAP_FRAMES
                last_s = frame.time_s
                yield frame
        finally:
            capture.release()
        self.fault = self._fault(number > self.count, gaps > 0)

    def _open(self) -> cv2.VideoCapture:
        if self.path.is_dir():
            raise VideoError(f"{self.path}: is a folder; name a video file")
        if not self.path.is_file():
            raise VideoError(f"{self.path}: no such file")
        if not os.access(self.path, os.R_OK):
            raise VideoError(f"{self.path}: must not be read; change its permissions")
        try:
            # An absolute path is never taken for a protocol such as `12:30.mp4`, and FFmpeg alone
            # never for a series of pictures, as other readers of OpenCV take `frame01.jpg`.
            capture = cv2.VideoCapture(str(self.path.resolve()), cv2.CAP_FFMPEG)
            opened = capture.isOpened()
        except cv2.error as error:
            raise VideoError(f"{self.path}: cannot be opened ({error.err})") from error
        if not opened:
            missing = missing_bytes(self.path)
            reason = f" (it is truncated by {missing} bytes)" if missing else ""
            raise VideoError(
                f"{self.path}: holds no video stream that can be opened{reason}{_remedy()}"
            )
        width, height = (
            capture.get(name) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > _MOST_PIXELS:
            capture.release()
            raise VideoError(
                f"{self.path}: frames of {width:.0f}x{height:.0f} pixels are beyond {_MOST_PIXELS}"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture

    def _fault(self, leaps: bool, gaps: bool) -> str:
        missing = missing_bytes(self.path)
        if missing:
            return f"is truncated by {missing} bytes; {self.count} frames could be decoded"
        # Edit lists, and lengths that are estimated, make sound files announce a few frames more
        # than they show, but AVI has neither; gaps alone are usual where the rate varies.
        few = self.count < self.announced * (1 if is_avi(self.path) else _FEW)
        fewer = gaps and self.count < self.announced
        if leaps or few or fewer or is_broken(self.path):
            return f"seems damaged; {self.count} of {self.announced} frames could be decoded"
        return ""


def read_video(path: Path | str) -> VideoReader:
    """Opens a video for reading frame by frame.

    Args:
        path: of the file.

    Returns:
        The reader; iterate over it.

    Raises:
        VideoError: there is no such file, it is no video, or not one frame can be decoded.
    """
    return VideoReader(path)


def _decode(capture: _Capture, fps: float, announced: int) -> Iterator[VideoFrame]:
    """The frames; no method, so that no reader is kept, with its capture, by what it reads."""
    number, failures, time_s = 0, 0, -1 / fps
    # A frame that cannot be decoded looks like the end, but others may follow.
    while failures <= _ATTEMPTS:
        image = read_image(capture)
        if image is None:
            failures += 1
            continue
        last_s = time_s
        stamp_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if np.isfinite(stamp_s) and stamp_s > max(last_s, -1e-9):
            time_s = float(stamp_s)
            lost = max(0, round((time_s - last_s) * fps) - 1)
        else:
            time_s = last_s + (1 + failures) / fps
            lost = failures
        # A stamp may be damaged too: no number is beyond what the file announces.
        number += 1 + min(lost if failures else 0, max(failures, announced - number - 1))
        failures = 0
        yield VideoFrame(number, max(time_s, 0.0), cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def read_image(capture: _Frames) -> np.ndarray | None:
    """The next picture of a `cv2.VideoCapture`, BGR; None where it gives none or an empty one."""
    try:
        done, image = capture.read()
    except cv2.error:
        return None
    return image if done and image is not None and image.size else None


def _sane_fps(fps: float) -> float:
    return float(fps) if _SANE_FPS[0] <= fps <= _SANE_FPS[1] else _USUAL_FPS


def _remedy() -> str:
    if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends():
        return ""
    return "; this OpenCV is built without FFmpeg, run: pip install opencv-python-headless"
