"""Small trees in the layout of Aff-Wild2, written by hand for the tests."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
CHALLENGE = "6th_ABAW_Annotations/EXPR_Recognition_Challenge"
FOLDERS = {"train": "Train_Set", "validation": "Validation_Set"}


def write_labels(
    root: Path,
    split: str,
    video: str,
    labels: Iterable[object],
    *,
    header: str | None = HEADER,
    challenge: str = CHALLENGE,
    newline: str = "\n",
) -> Path:
    """Writes one annotation; `split` is `train`, `validation`, or a folder's name as it stands."""
    path = root / challenge / FOLDERS.get(split, split) / f"{video}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [*([] if header is None else [header]), *(str(label) for label in labels)]
    path.write_bytes("".join(line + newline for line in lines).encode())
    return path


def write_frames(
    root: Path,
    video: str,
    numbers: Iterable[int],
    *,
    crops: str = "cropped_aligned",
    seed: int | None = None,
    empty: bool = False,
) -> Path:
    """Writes pictures that are alike within a video; equal seeds give equal videos."""
    folder = root / crops / video
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"{number:05d}.jpg"
        if empty:
            path.touch()
        else:
            image = picture(zlib.crc32(video.encode()) if seed is None else seed, number)
            assert cv2.imwrite(str(path), image)
    return folder


def picture(seed: int, number: int, side: int = 112) -> np.ndarray:
    """A random picture (BGR) with coarse and fine parts; those of one seed differ by a little."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 128.0)
    for cells, strength in ((5, 60), (12, 40), (24, 25)):
        noise = rng.normal(0, strength, (cells, cells, 1)) * [0.9, 1.0, 1.1]
        image += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    change = np.random.default_rng([seed, number]).normal(0, 2, (12, 12, 3))
    image += cv2.resize(change, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)
