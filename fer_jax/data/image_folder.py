"""Lists of labelled pictures: a folder with one sub-folder a class, or a CSV file."""

import collections
import csv
import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax.data.examples import Example, Fault
from fer_jax.data.images import EXTENSIONS
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")
DEFAULT_SPLIT = "train"
_SWEEPS = 5


def read_image_folder(
    folder: str | os.PathLike[str], space: LabelSpace
) -> tuple[list[Example], list[Fault]]:
    """Lists `folder/<split>/<class>/...` or `folder/<class>/...`.

    Which of the two it is shows in the names: if one of the folders at the top is named after a
    class, all must be. Hidden files and files without the extension of an image are passed over.

    Args:
        folder: where the pictures are.
        space: whose class names and aliases name the folders, in any case.

    Returns:
        The examples, sorted by name, and the faults: pictures in folders that name no class.

    Raises:
        FerJaxError: the folder does not exist, or has no folder named after a class, or no image.
    """
    folder = _existing_folder(folder)
    tops = _folders(folder)
    if any(_class(top.name, space) is not None for top in tops):
        roots = [(DEFAULT_SPLIT, folder)]
    else:
        roots = [
            (top.name, top)
            for top in tops
            if any(_class(child.name, space) is not None for child in _folders(top))
        ]
    if not roots:
        hint = ""
        if (folder / "labels.csv").is_file():
            hint = f"; or pass --csv {folder / 'labels.csv'}"
        raise FerJaxError(
            f"{folder}: no folder in it, or one level below, is named after a class of "
            f"{space.name} ({', '.join(space.classes)}); rename the folders{hint}"
        )
    examples, faults = [], []
    for split, root in roots:
        for class_folder in _folders(root):
            label = _class(class_folder.name, space)
            for path in _images(class_folder):
                name = path.relative_to(folder).as_posix()
                if label is None:
                    reason = f"folder {class_folder.name!r} is no class of {space.name}"
                    faults.append(Fault(name, reason))
                else:
                    examples.append(Example(path, name, label, split, source=folder.name))
    if not examples and not faults:
        raise FerJaxError(
            f"{folder}: its class folders hold no image ({', '.join(EXTENSIONS)}); check the path"
        )
    _check_splits({example.split for example in examples}, folder)
    return examples, faults


def read_csv(
    csv_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    space: LabelSpace,
    *,
    subject_column: str = "subject",
) -> tuple[list[Example], list[Fault]]:
    """Lists the pictures that a CSV file names.

    Columns: `path` (relative to the folder) and `label` (a class name or alias) are needed;
    `split`, `subject`, `video`, `frame`, `source`, `confidence` and `box_left`, `box_top`,
    `box_right`, `box_bottom` (pixels) are used where they exist. A path may be listed several
    times with different boxes: one face each.

    Args:
        csv_path: the CSV file, UTF-8, with a header.
        folder: what its paths are relative to.
        space: whose class names and aliases the labels are.
        subject_column: the column that says which faces must stay together in a split.

    Returns:
        The examples, in the file's order, and the faults: unknown labels, missing files, bad
        numbers, faces listed twice. Of equal rows the first is kept; of contradicting ones, none.

    Raises:
        FerJaxError: no such file or folder, no header, a column is missing, or no row at all.
    """
    folder = _existing_folder(folder)
    rows, columns = _csv_rows(csv_path)
    needed = ["path", "label"]
    if subject_column != "subject":
        needed.append(subject_column)
    if any(column in columns for column in BOX_COLUMNS):
        needed.extend(BOX_COLUMNS)
    missing = [column for column in needed if column not in columns]
    if missing:
        raise FerJaxError(
            f"{csv_path}: has no column {', '.join(missing)}; its columns are "
            f"{', '.join(columns) or 'none'}; add or rename them in the first line"
        )
    examples: list[tuple[int, Example]] = []
    faults = []
    for line, row in rows:
        try:
            examples.append((line, _example(row, folder, space, subject_column)))
        except FerJaxError as error:
            name = (row.get("path") or "").strip()
            faults.append(Fault(name or "(no path)", f"line {line}: {error}"))
    kept, repeated = _without_repetitions(examples, space)
    _check_splits({example.split for example in kept}, csv_path)
    return _number_faces(kept), faults + repeated


def split_off(groups: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Chooses whole groups that hold a fraction of every class, as nearly as groups allow.

    The groups are gone through in random order, a few times; one is taken, or put back, if that
    brings the counts per class closer (in the sum of absolute differences) to the fraction of all.

    Args:
        groups: one name per sample; samples of a group stay together.
        labels: one integer per sample; -1 counts as a class of its own.
        fraction: of the samples to choose, between 0 and 1.
        seed: of the order.

    Returns:
        A mask of the chosen samples; the same whatever order the samples come in.

    Raises:
        FerJaxError: the fraction is not between 0 and 1, or there are fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise FerJaxError(f"a part of {fraction:g} cannot be split off; name one between 0 and 1")
    names, group_of = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    if len(names) < 2:
        raise FerJaxError(
            f"{len(names)} group of faces cannot be split in two; give more subjects or faces"
        )
    classes, class_of = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    wanted = counts.sum(axis=0) * fraction
    have = np.zeros(len(classes))
    chosen = np.zeros(len(names), bool)
    order = np.random.default_rng(seed).permutation(len(names))
    for _ in range(_SWEEPS):
        before = chosen.copy()
        for group in order:
            after = have - counts[group] if chosen[group] else have + counts[group]
            if np.abs(after - wanted).sum() < np.abs(have - wanted).sum():
                have = after
                chosen[group] = not chosen[group]
        if np.array_equal(chosen, before):
            break
    if not chosen.any():
        # Every group overshoots: the one that does so least.
        chosen[order[np.abs(counts[order] - wanted[None, :]).sum(axis=1).argmin()]] = True
    elif chosen.all():
        chosen[order[-1]] = False
    return chosen[group_of]


def move_fraction(
    examples: Sequence[Example], split: str, fraction: float, seed: int
) -> list[Example]:
    """Gives a part of the training examples, by whole subjects, the name of another split.

    Args:
        examples: with some in the split `train`.
        split: the name of the part, which must not exist yet.
        fraction: of the training examples.
        seed: which ones.

    Returns:
        All examples, in the order given.

    Raises:
        FerJaxError: the split exists, or the training examples cannot be split.
    """
    if any(example.split == split for example in examples):
        raise FerJaxError(
            f"the data already have a split {split!r}; leave out --split-fraction {split}=..."
        )
    _check_splits({split}, "--split-fraction")
    train = [i for i, example in enumerate(examples) if example.split == DEFAULT_SPLIT]
    groups = [examples[i].subject or examples[i].video or examples[i].name for i in train]
    labels = [examples[i].label for i in train]
    mask = split_off(np.asarray(groups, np.str_), np.asarray(labels), fraction, seed)
    moved = {i for i, chosen in zip(train, mask, strict=True) if chosen}
    return [
        dataclasses.replace(example, split=split) if i in moved else example
        for i, example in enumerate(examples)
    ]


def _existing_folder(folder: str | os.PathLike[str]) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise FerJaxError(f"{folder}: {what}; name the folder that holds the pictures")
    return folder


def _folders(folder: Path) -> list[Path]:
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def _class(name: str, space: LabelSpace) -> int | None:
    try:
        return space.index(name)
    except FerJaxError:
        return None


def _check_splits(splits: set[str], where: str | os.PathLike[str]) -> None:
    # "all" is what tensorflow-datasets calls everything together.
    wrong = sorted(s for s in splits if not re.fullmatch(r"[A-Za-z]\w*", s) or s == "all")
    if wrong:
        raise FerJaxError(
            f"{where}: {wrong[0]!r} cannot name a split; use letters, digits and _, such as "
            "train, validation, test"
        )


def _csv_rows(
    csv_path: str | os.PathLike[str],
) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    if not Path(csv_path).is_file():
        raise FerJaxError(f"{csv_path}: no such file; name a CSV file with columns path, label")
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with open(csv_path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FerJaxError(f"{csv_path}: is not a CSV file in UTF-8 ({error}); convert it") from None
    if not rows and "path" in columns and "label" in columns:
        raise FerJaxError(f"{csv_path}: has a header and no rows; list the pictures in it")
    return rows, columns


def _example(row: dict[str, str], folder: Path, space: LabelSpace, subject_column: str) -> Example:
    values = {key: (row.get(key) or "").strip() for key in row if isinstance(key, str)}
    if row.get(None) or any(value is None for value in row.values()):
        raise FerJaxError("has more or fewer fields than the header")
    if not values["path"]:
        raise FerJaxError("has no path")
    label = space.index(values["label"])
    path = folder / values["path"]
    if not path.is_file():
        raise FerJaxError("no such file")
    box = None
    texts = [values.get(column, "") for column in BOX_COLUMNS]
    if any(texts):
        box = tuple(_number(text, column) for text, column in zip(texts, BOX_COLUMNS, strict=True))
    frame = _number(values["frame"], "frame") if values.get("frame") else 0
    if frame != int(frame) or frame < 0:
        raise FerJaxError(f"frame {values['frame']!r} is not a whole number from 1")
    score = values.get("confidence")
    return Example(
        path=path,
        name=values["path"],
        label=label,
        split=values.get("split") or DEFAULT_SPLIT,
        subject=values.get(subject_column, ""),
        video=values.get("video", ""),
        frame=int(frame),
        source=values.get("source") or folder.name,
        box=box,
        score=_number(score, "confidence") if score else math.nan,
    )


def _number(text: str, column: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FerJaxError(f"{column} {text!r} is not a number")
    return number


def _without_repetitions(
    examples: Sequence[tuple[int, Example]], space: LabelSpace
) -> tuple[list[Example], list[Fault]]:
    """Of faces listed more than once keeps the first; none where their labels contradict."""
    listed = collections.defaultdict(list)
    for line, example in examples:
        listed[os.path.normpath(example.path), example.box].append((line, example))
    kept, faults = [], []
    for repetitions in listed.values():
        first_line, first = repetitions[0]
        if len({(example.label, example.split) for _, example in repetitions}) == 1:
            kept.append((first_line, first))
            faults += [
                Fault(first.name, f"line {line}: listed already in line {first_line}")
                for line, _ in repetitions[1:]
            ]
            continue
        said = ", ".join(
            f"line {line} says {space.classes[example.label]} ({example.split})"
            for line, example in repetitions
        )
        faults += [Fault(first.name, f"contradicts itself: {said}") for _ in repetitions]
    kept.sort(key=lambda pair: pair[0])
    return [example for _, example in kept], faults


def _number_faces(examples: Sequence[Example]) -> list[Example]:
    faces = collections.Counter()
    numbered = []
    for example in examples:
        numbered.append(dataclasses.replace(example, face_id=faces[example.name]))
        faces[example.name] += 1
    return numbered
