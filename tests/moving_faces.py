"""A photographed face that moves in a known way."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.faces.videos import VideoFrame

SIZE = (320, 240)


def photo() -> np.ndarray:
    """Grace Hopper (public domain, in matplotlib's sample data), RGB; skips where it is absent."""
    matplotlib = pytest.importorskip("matplotlib")
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not path.exists():
        pytest.skip("matplotlib was installed without its sample data")
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def motion(index: int, *, left: float = 40.0) -> np.ndarray:
    """The matrix from the photo to frame `index`: it drifts, nods and comes nearer."""
    scale = 0.42 * (1 + 0.003 * index)
    turn = np.deg2rad(6 * np.sin(index / 9))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    return np.array([[cos, -sin, left + 0.8 * index], [sin, cos, 4 + 3 * np.sin(index / 7)]])


def frame_of(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A frame that shows the photo there."""
    return cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_AREA)


def moving_frames(count: int, *, away: range = range(0), fps: float = 25.0) -> list[VideoFrame]:
    """Frames of the photo in motion; in some of them it is away."""
    image, frames = photo(), []
    for index in range(count):
        shown = frame_of(image, motion(index))
        picture = np.full_like(shown, 90) if index in away else shown
        frames.append(VideoFrame(index + 1, index / fps, picture))
    return frames
