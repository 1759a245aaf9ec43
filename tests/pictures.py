"""Small pictures for the data tests: each is of one colour that says which it is."""

import csv
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")


def color_of(number: int) -> tuple[int, int, int]:
    """RGB, different for any two numbers below 4096."""
    return 15 + number % 16 * 15, 15 + number // 16 % 16 * 15, 15 + number // 256 * 15


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes RGB without loss (png) or nearly so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if path.suffix == ".jpg" else []
    assert cv2.imwrite(str(path), image[..., ::-1], options)


def write_colors(folder: Path, numbers: range, *, split: str = "train", size: int = 24) -> None:
    """Writes `folder/<split>/<class>/NNNN.png`; the class of picture n is n modulo 7."""
    for number in numbers:
        image = np.empty((size, size, 3), np.uint8)
        image[:] = color_of(number)
        write_picture(folder / split / CLASSES[number % 7] / f"{number:04d}.png", image)


def write_csv(path: Path, rows: list[dict]) -> Path:
    """Writes rows as a CSV file with a header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
