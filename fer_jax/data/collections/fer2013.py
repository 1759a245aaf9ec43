"""FER2013: 35,887 grey faces of 48x48 pixels, 7 classes, whose pixels are text in a CSV file."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tqdm

from fer_jax.data.examples import Example, Fault
from fer_jax.data.image_folder import class_roots, read_image_folder
from fer_jax.data.listing import csv_rows, existing_folder, first_existing, not_found, read_index
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("fer2013")
SIDE = 48
PIXEL_FILES = (
    "fer2013.csv",
    "icml_face_data.csv",
    "fer2013/fer2013.csv",
    "fer2013/icml_face_data.csv",
)

_USAGES = {"training": "train", "publictest": "validation", "privatetest": "test"}
_FOLDER_SPLITS = {**_USAGES, "val": "validation", "valid": "validation"}
_VALUES = {str(value): value for value in range(256)}


def read_fer2013(folder: str | os.PathLike[str]) -> tuple[list[Example], list[Fault]]:
    """Lists FER2013, from `fer2013.csv` or `icml_face_data.csv`, or from class folders.

    The columns are emotion, pixels and Usage; Training, PublicTest and PrivateTest become the
    splits `train`, `validation` and `test`. The faces are stored as PNG, and named by the file and
    its line. Class folders are `train/angry/*.jpg`, `test/...`, as on Kaggle, where both test
    parts are one.

    Args:
        folder: that holds the CSV file or the class folders.

    Returns:
        The examples in the space `fer2013`, and the faults.

    Raises:
        FerJaxError: the folder does not hold FER2013.
    """
    folder = existing_folder(folder)
    path = first_existing(folder, PIXEL_FILES)
    if path is not None:
        return _read_pixels(folder, path)
    if not class_roots(folder, SPACE):
        raise not_found(folder, "FER2013", [*PIXEL_FILES[:2], "train/angry"])
    examples, faults = read_image_folder(folder, SPACE)
    return [
        dataclasses.replace(
            example,
            split=_FOLDER_SPLITS.get(example.split.lower(), example.split),
            source="fer2013",
        )
        for example in examples
    ], faults


def pixel_rows(path: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Lines and fields (emotion, pixels, usage) of FER2013's CSV file, with a progress bar.

    Raises:
        FerJaxError: the file cannot be read, or lacks a column.
    """
    rows = csv_rows(path, ["emotion", "pixels", "usage"])
    hidden = not sys.stderr.isatty()
    return iter(tqdm.tqdm(rows, desc=f"reading {path.name}", unit="face", disable=hidden))


def split_of(usage: str) -> str:
    """The split of a value of the column Usage.

    Raises:
        FerJaxError: it is none.
    """
    split = _USAGES.get(usage.lower())
    if split is None:
        raise FerJaxError(f"usage {usage!r} is not Training, PublicTest or PrivateTest")
    return split


def encode_pixels(text: str) -> bytes:
    """A grey PNG of 48x48 pixels.

    Args:
        text: 2304 numbers from 0 to 255, row by row.

    Raises:
        FerJaxError: there are more or fewer, or one is no such number.
    """
    words = text.split()
    if len(words) != SIDE * SIDE:
        raise FerJaxError(f"has {len(words)} pixels, not {SIDE * SIDE}")
    try:
        pixels = bytes(map(_VALUES.__getitem__, words))
    except KeyError as error:
        raise FerJaxError(f"pixel {error} is not a number from 0 to 255") from None
    _, encoded = cv2.imencode(".png", np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE))
    return encoded.tobytes()


def _read_pixels(folder: Path, path: Path) -> tuple[list[Example], list[Fault]]:
    examples, faults = [], []
    shown = path.relative_to(folder).as_posix()
    for line, row in pixel_rows(path):
        name, split = f"{shown}:{line}", ""
        try:
            if row is None:
                raise FerJaxError("has more or fewer fields than the header")
            split = split_of(row["usage"])
            label = read_index(row["emotion"], "emotion", len(SPACE))
            encoded = encode_pixels(row["pixels"])
        except FerJaxError as error:
            faults.append(Fault(name, str(error), split))
            continue
        examples.append(Example(path, name, label, split, source="fer2013", encoded=encoded))
    return examples, faults
