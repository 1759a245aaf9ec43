"""RAF-DB, basic expressions: 12,271 training and 3,068 test faces from the web, 7 classes."""

import collections
import os
from collections.abc import Sequence
from pathlib import Path

from fer_jax.data.examples import Example, Fault
from fer_jax.data.listing import (
    PictureFolder,
    csv_rows,
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

SPACE = label_space("rafdb")
SPLITS = ("train", "test")

# "patition" is the official spelling; some copies have mended it.
_LISTS = tuple(
    f"{folder}{name}"
    for name in ("list_patition_label.txt", "list_partition_label.txt")
    for folder in ("basic/EmoLabel/", "EmoLabel/", "basic/", "")
)
_PICTURES = {"aligned": ("Image/aligned", "aligned"), "original": ("Image/original", "original")}
_BOXES = ("Annotation/boundingbox", "boundingbox")


def read_rafdb(
    folder: str | os.PathLike[str], *, pictures: str = "aligned"
) -> tuple[list[Example], list[Fault]]:
    """Lists RAF-DB, from its official folders or from those of its copy on Kaggle.

    Official: `basic/EmoLabel/list_patition_label.txt` (lines such as `train_00001.jpg 5`, classes
    from 1) beside `basic/Image/aligned/train_00001_aligned.jpg`. Kaggle:
    `DATASET/{train,test}/{1..7}/*.jpg`, which `train_labels.csv` and `test_labels.csv` (columns
    image, label) must agree with where they are.

    Args:
        folder: that holds `basic` or `DATASET`, or is one of them.
        pictures: `aligned` (100x100 faces), or `original` (whole photos; the faces' boxes are
            read from `Annotation/boundingbox/train_00001_boundingbox.txt`).

    Returns:
        The examples in the space `rafdb`, split into `train` and `test`, and the faults.

    Raises:
        FerJaxError: the folder does not hold RAF-DB, or not those pictures.
    """
    if pictures not in _PICTURES:
        raise FerJaxError(f"pictures {pictures!r}: not one of {', '.join(_PICTURES)}")
    folder = existing_folder(folder)
    label_list = first_existing(folder, _LISTS)
    if label_list is not None:
        return _read_official(folder, label_list, pictures)
    for root in (folder / "DATASET", folder):
        if any((root / split / "1").is_dir() for split in SPLITS):
            if pictures != "aligned":
                raise FerJaxError(f"{root}: has aligned pictures only; leave out {pictures!r}")
            return _read_class_folders(folder, root)
    raise not_found(
        folder, "RAF-DB", ["basic/EmoLabel/list_patition_label.txt", "DATASET/train/1 to 7"]
    )


def _read_official(
    folder: Path, label_list: Path, pictures: str
) -> tuple[list[Example], list[Fault]]:
    base = label_list.parent.parent if label_list.parent.name == "EmoLabel" else label_list.parent
    images = _needed_folder(folder, base, _PICTURES[pictures])
    boxes = _needed_folder(folder, base, _BOXES) if pictures == "original" else None
    present = PictureFolder(images)
    listed, faults, names = [], [], set()
    for line, text in text_lines(label_list):
        name, *numbers = text.strip().rsplit(maxsplit=1)
        file = _file_of(name, present)
        names.add(file)
        try:
            if not numbers:
                raise FerJaxError("has no label")
            label = read_index(numbers[0], "label", len(SPACE), first=1)
            split = _split_of(name)
            if file not in present:
                raise FerJaxError("no such file")
            box = _read_box(boxes / f"{Path(name).stem}_boundingbox.txt") if boxes else None
        except FerJaxError as error:
            faults.append(Fault(name, f"line {line}: {error}"))
            continue
        path = images / file
        shown = path.relative_to(folder).as_posix()
        listed.append((line, Example(path, shown, label, split, source="rafdb", box=box)))
    examples, repeated = without_repetitions(listed, SPACE)
    unlisted = [
        Fault((images / name).relative_to(folder).as_posix(), f"is not in {label_list.name}")
        for name in present.pictures("")
        if name not in names
    ]
    return examples, faults + repeated + unlisted


def _needed_folder(folder: Path, base: Path, names: Sequence[str]) -> Path:
    found = first_existing(base, names)
    if found is None:
        shown = [(base / name).relative_to(folder).as_posix() for name in names]
        raise not_found(folder, f"folder {names[0]} of RAF-DB", shown)
    return found


def _file_of(name: str, present: PictureFolder) -> str:
    """Where the picture is: aligned ones are named `train_00001_aligned.jpg`."""
    stem, extension = os.path.splitext(name)
    aligned = f"{stem}_aligned{extension}"
    return aligned if aligned in present else name


def _split_of(name: str) -> str:
    split = name.partition("_")[0]
    if split not in SPLITS:
        raise FerJaxError(f"{name!r} begins with neither train_ nor test_")
    return split


def _read_box(path: Path) -> tuple[float, float, float, float]:
    numbers = [number for _, text in text_lines(path) for number in text.split()]
    if len(numbers) != 4:
        raise FerJaxError(f"{path.name} has {len(numbers)} numbers, not left, top, right, bottom")
    left, top, right, bottom = read_numbers(numbers, [path.name] * 4)
    return left, top, right, bottom


def _read_class_folders(folder: Path, root: Path) -> tuple[list[Example], list[Fault]]:
    examples, faults = [], []
    for split in SPLITS:
        if not (root / split).is_dir():
            faults.append(Fault((root / split).relative_to(folder).as_posix(), "no such folder"))
            continue
        present = PictureFolder(root / split)
        found: dict[str, list[Example]] = collections.defaultdict(list)
        for class_folder in sorted(child for child in (root / split).iterdir() if child.is_dir()):
            for name in present.pictures(class_folder.name):
                path = root / split / name
                shown = path.relative_to(folder).as_posix()
                try:
                    label = read_index(class_folder.name, "class folder", len(SPACE), first=1)
                except FerJaxError as error:
                    faults.append(Fault(shown, str(error), split))
                    continue
                found[path.name].append(Example(path, shown, label, split, source="rafdb"))
        for same in [same for same in found.values() if len(same) > 1]:
            said = ", ".join(one.name for one in same)
            faults += [Fault(one.name, f"contradicts itself: {said}", split) for one in same]
            del found[same[0].path.name]
        label_list = first_existing(folder, [f"{split}_labels.csv"])
        label_list = label_list or first_existing(root, [f"{split}_labels.csv"])
        if label_list is not None:
            faults += _disagreements(label_list, found, split)
        examples += [one for same in found.values() for one in same]
    return examples, faults


def _disagreements(label_list: Path, found: dict[str, list[Example]], split: str) -> list[Fault]:
    """What the list says otherwise than the folders; takes such pictures out of those found."""
    faults = []
    lines: dict[str, int] = {}
    for line, row in csv_rows(label_list, ["image", "label"]):
        name = row["image"] if row else "(no image)"
        try:
            if row is None:
                raise FerJaxError("has more or fewer fields than the header")
            label = read_index(row["label"], "label", len(SPACE), first=1)
            if name not in found:
                raise FerJaxError("no such file, or one that contradicts its folder")
            if label != found[name][0].label:
                del found[name]
                raise FerJaxError(f"says {SPACE.classes[label]}, its folder says otherwise")
            if name in lines:
                raise FerJaxError(f"listed already in line {lines[name]}")
            lines[name] = line
        except FerJaxError as error:
            faults.append(Fault(name, f"{label_list.name} line {line}: {error}", split))
    return faults
