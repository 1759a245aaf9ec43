"""AffectNet: some 290,000 faces from the web with one of 8 classes, as arrays or as CSV files."""

import functools
import os
import re
import sys
from pathlib import Path

import numpy as np
import tqdm

from fer_jax.data.examples import Example, Fault, LeftOut
from fer_jax.data.images import EXTENSIONS
from fer_jax.data.listing import (
    PictureFolder,
    csv_lines,
    existing_folder,
    first_existing,
    not_found,
    read_index,
    read_numbers,
    without_repetitions,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("affectnet8")
# What annotators could choose besides the classes of the space.
UNUSED = ("None", "Uncertain", "Non-face")

_SETS = {"train_set": "train", "val_set": "validation"}
_LISTS = {"training.csv": "train", "validation.csv": "validation"}
_LIST_FOLDERS = ("", "Manually_Annotated_file_lists/", "Manually_Annotated/")
_IMAGE_FOLDERS = (
    "Manually_Annotated_Images",
    "Manually_Annotated/Manually_Annotated_Images",
    "Manually_Annotated",
)
# The official validation.csv has no header.
_COLUMNS = (
    "subdirectory_filepath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
_LABEL = "_exp.npy"
_SCALAR = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|=]?[biufSU]\d+)', 'fortran_order': (?:False|True), "
    rb"'shape': \((?:1,)?\), *\} *\n",
    re.DOTALL,
)


def read_affectnet(
    folder: str | os.PathLike[str], *, classes: int = 8
) -> tuple[list[Example], list[Fault]]:
    """Lists AffectNet, from its folders of arrays or from its older CSV files.

    Arrays: `{train_set,val_set}/images/0.jpg` with `annotations/0_exp.npy`, faces cut out. CSV:
    `training.csv` and `validation.csv`, here or in `Manually_Annotated_file_lists`, with the
    pictures in `Manually_Annotated_Images`, whole photos with boxes. Faces marked None, Uncertain
    or Non-face are left out.

    Args:
        folder: that holds `train_set` and `val_set`, or the CSV files.
        classes: 8, or 7 to leave out Contempt.

    Returns:
        The examples, in the space `affectnet8` or `affectnet7`, split into `train` and
        `validation`, and the faults, those left out among them as `LeftOut`.

    Raises:
        FerJaxError: the folder does not hold AffectNet, or `classes` is neither 7 nor 8.
    """
    if classes not in (7, 8):
        raise FerJaxError(f"AffectNet has 7 or 8 classes, not {classes}")
    folder = existing_folder(folder)
    if any((folder / name / "annotations").is_dir() for name in _SETS):
        return _read_arrays(folder, classes)
    lists = {name: first_existing(folder, [f + name for f in _LIST_FOLDERS]) for name in _LISTS}
    if any(lists.values()):
        return _read_lists(folder, lists, classes)
    raise not_found(folder, "AffectNet", ["train_set/annotations", "training.csv"])


def _read_arrays(folder: Path, classes: int) -> tuple[list[Example], list[Fault]]:
    examples, faults = [], []
    for name, split in _SETS.items():
        annotations = folder / name / "annotations"
        if not annotations.is_dir():
            faults.append(Fault(f"{name}/annotations", "no such folder", split))
            continue
        present = PictureFolder(folder)
        picture_of: dict[str, str] = {}
        for picture in present.pictures(f"{name}/images"):
            first = picture_of.setdefault(os.path.splitext(os.path.basename(picture))[0], picture)
            if first != picture:
                faults.append(Fault(picture, f"has the number of {first}", split))
        files = present.files(f"{name}/annotations")
        labelled = {file.removesuffix(_LABEL) for file in files if file.endswith(_LABEL)}
        faults += [
            Fault(picture, f"has no label annotations/{stem}{_LABEL}", split)
            for stem, picture in picture_of.items()
            if stem not in labelled
        ]
        hidden = not sys.stderr.isatty()
        stems = sorted(labelled, key=_numeric)
        for stem in tqdm.tqdm(stems, desc=f"reading {name}", unit="face", disable=hidden):
            picture = picture_of.get(stem, f"{name}/images/{stem}{EXTENSIONS[0]}")
            try:
                if stem not in picture_of:
                    raise FerJaxError("no such file")
                label = _read_label(f"{annotations}/{stem}{_LABEL}")
            except FerJaxError as error:
                faults.append(Fault(picture, str(error), split))
                continue
            if label >= classes:
                faults.append(LeftOut(picture, _unused(label), split))
            else:
                examples.append(
                    Example(folder / picture, picture, label, split, source="affectnet")
                )
    return examples, faults


def _numeric(stem: str) -> tuple[int, str]:
    return (int(stem) if stem.isascii() and stem.isdigit() else sys.maxsize), stem


def _read_label(path: str) -> int:
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read(4096)
    except OSError as error:
        raise FerJaxError(f"its label cannot be read ({error.strerror})") from error
    label = _label(content)
    if label is None:
        raise FerJaxError(
            f"{os.path.basename(path)} holds no number from 0 to {len(SPACE) + len(UNUSED) - 1}"
        )
    return label


@functools.lru_cache(maxsize=256)
def _label(content: bytes) -> int | None:
    """The class number in a .npy file of one number, or of its text; None if it is none."""
    # The files of all faces have a dozen different contents.
    header = _SCALAR.match(content)
    if header is None:
        return None
    try:
        (value,) = np.frombuffer(content, np.dtype(header[1].decode()), offset=header.end())
        label = int(value.decode() if isinstance(value, bytes) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    same = isinstance(value, (bytes, str)) or label == value
    return label if same and 0 <= label < len(SPACE) + len(UNUSED) else None


def _unused(label: int) -> str:
    """Why the faces of a class number are left out."""
    if label < len(SPACE):
        return f"class {SPACE.classes[label]} is not among the 7"
    return f"is marked {UNUSED[label - len(SPACE)]}, which is no class"


def _read_lists(
    folder: Path, lists: dict[str, Path | None], classes: int
) -> tuple[list[Example], list[Fault]]:
    root = first_existing(folder, _IMAGE_FOLDERS) or folder
    present = PictureFolder(root)
    listed, faults = [], []
    for list_name, path in lists.items():
        split = _LISTS[list_name]
        if path is None:
            faults.append(Fault(list_name, "no such file", split))
            continue
        columns = _COLUMNS
        for line, fields in csv_lines(path):
            lowered = tuple(field.lower() for field in fields)
            if _COLUMNS[0] in lowered:
                columns = _checked(path, lowered)
                continue
            row = dict(zip(columns, fields, strict=False))
            name = row.get(_COLUMNS[0]) or "(no path)"
            where = f"{list_name} line {line}"
            try:
                if len(fields) != len(columns):
                    raise FerJaxError(f"has {len(fields)} fields, not {len(columns)}")
                label = read_index(row["expression"], "expression", len(SPACE) + len(UNUSED))
                if label >= classes:
                    faults.append(LeftOut(name, f"{where}: {_unused(label)}", split))
                    continue
                if name not in present:
                    raise FerJaxError("no such file")
                box = _box(row)
            except FerJaxError as error:
                faults.append(Fault(name, f"{where}: {error}", split))
                continue
            example = Example(root / name, name, label, split, source="affectnet", box=box)
            listed.append((line, example))
    examples, repeated = without_repetitions(listed, SPACE)
    return examples, faults + repeated


def _checked(path: Path, columns: tuple[str, ...]) -> tuple[str, ...]:
    missing = [name for name in (*_COLUMNS[:5], "expression") if name not in columns]
    if missing:
        raise FerJaxError(f"{path}: has no column {', '.join(missing)}; is it of AffectNet?")
    return columns


def _box(row: dict[str, str]) -> tuple[float, float, float, float]:
    columns = _COLUMNS[1:5]
    left, top, width, height = read_numbers([row[column] for column in columns], columns)
    return left, top, left + width, top + height
