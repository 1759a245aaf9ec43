"""ExpW, Expression in the Wild: 91,793 faces on photos from the web, 7 classes."""

import dataclasses
import os
from pathlib import Path

from fer_jax.data.examples import Example, Fault
from fer_jax.data.image_folder import read_csv
from fer_jax.data.listing import (
    PictureFolder,
    existing_folder,
    first_existing,
    not_found,
    read_index,
    read_numbers,
    text_lines,
    without_repetitions,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("expw")

_LISTS = ("label.lst", "label/label.lst", "data/label/label.lst")
_IMAGES = ("image/origin", "data/image/origin", "origin", "image")


def read_expw(folder: str | os.PathLike[str]) -> tuple[list[Example], list[Fault]]:
    """Lists ExpW, from its official list or from a CSV file.

    Official: the lines of `label.lst` are `name face_id top left right bottom confidence label`,
    the photos are in `image/origin`, `origin` or `image`. CSV: `labels.csv` with the columns of
    `read_csv` and `photo`. The photo is the subject: faces of one photo stay together.

    Args:
        folder: that holds `label.lst`, or `label/label.lst`, or `labels.csv`.

    Returns:
        The examples in the space `expw`, all of them `train` in the official form, which has no
        split, and the faults.

    Raises:
        FerJaxError: the folder does not hold ExpW.
    """
    folder = existing_folder(folder)
    label_list = first_existing(folder, _LISTS)
    if label_list is None:
        if not (folder / "labels.csv").is_file():
            raise not_found(folder, "ExpW", [*_LISTS[:2], "labels.csv"])
        examples, faults = read_csv(folder / "labels.csv", folder, SPACE, subject_column="photo")
        return [dataclasses.replace(example, source="expw") for example in examples], faults
    images = first_existing(folder, _IMAGES)
    if images is None:
        raise not_found(folder, "photos of ExpW", _IMAGES)
    return _read_list(folder, label_list, images)


def _read_list(folder: Path, label_list: Path, images: Path) -> tuple[list[Example], list[Fault]]:
    present = PictureFolder(images)
    listed, faults = [], []
    boxes: dict[str, tuple[int, tuple | None]] = {}
    for line, text in text_lines(label_list):
        # From the right: a name may hold spaces.
        name, *numbers = text.strip().rsplit(maxsplit=7)
        try:
            face = _face(folder, images, present, name, numbers)
            first, box = boxes.setdefault(face.key, (line, face.box))
            if box != face.box:
                raise FerJaxError(f"face {face.face_id} has another box in line {first}")
        except FerJaxError as error:
            faults.append(Fault(name, f"line {line}: {error}"))
            continue
        listed.append((line, face))
    examples, repeated = without_repetitions(listed, SPACE)
    return examples, faults + repeated


def _face(
    folder: Path, images: Path, present: PictureFolder, name: str, numbers: list[str]
) -> Example:
    if len(numbers) != 7:
        raise FerJaxError(f"has {len(numbers) + 1} fields, not 8")
    face_id, top, left, right, bottom, confidence, label = numbers
    *box, score = read_numbers(
        (left, top, right, bottom, confidence), ("left", "top", "right", "bottom", "confidence")
    )
    label = read_index(label, "label", len(SPACE))
    face = read_index(face_id, "face id", 100_000)
    if name not in present:
        raise FerJaxError("no such file")
    path = images / name
    return Example(
        path,
        path.relative_to(folder).as_posix(),
        label,
        "train",
        subject=name,
        source="expw",
        box=tuple(box),
        score=score,
        face_id=face,
    )
