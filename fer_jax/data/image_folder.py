"""Lists of labelled pictures: a folder with one sub-folder a class, or a CSV file."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from fer_jax.data.examples import Example, Fault
from fer_jax.data.images import EXTENSIONS
from fer_jax.data.listing import (
    csv_table,
    existing_folder,
    folder_source,
    number_faces,
    read_number,
    without_bad_names,
    without_repetitions,
)
from fer_jax.data.splits import DEFAULT_SPLIT, check_splits
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")
VOTES_PREFIX = "votes_"


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
        The examples, sorted by name, and the faults: pictures in folders that name no class, or
        whose names are no text.

    Raises:
        FerJaxError: the folder does not exist, or has no folder named after a class, or no image.
    """
    folder = existing_folder(folder)
    roots = class_roots(folder, space)
    if not roots:
        hint = ""
        if (folder / "labels.csv").is_file():
            hint = f"; or pass --csv {folder / 'labels.csv'}"
        raise FerJaxError(
            f"{folder}: no folder in it, or one level below, is named after a class of "
            f"{space.name} ({', '.join(space.classes)}); rename the folders{hint}"
        )
    source = folder_source(folder)
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
                    examples.append(Example(path, name, label, split, source=source))
    if not examples and not faults:
        raise FerJaxError(
            f"{folder}: its class folders hold no image ({', '.join(EXTENSIONS)}); check the path"
        )
    check_splits({example.split for example in examples}, folder)
    examples, unnamed = without_bad_names(examples)
    return examples, faults + unnamed


def read_unlabelled(folder: str | os.PathLike[str]) -> tuple[list[Example], list[Fault]]:
    """Lists all pictures of a folder, at any depth, as training faces without a label.

    What is hidden, or in a hidden folder, and files without the extension of an image are passed
    over.

    Args:
        folder: where the pictures are.

    Returns:
        The examples, sorted by name, and the faults: names that are no text.

    Raises:
        FerJaxError: the folder does not exist, or holds no image.
    """
    folder = existing_folder(folder)
    source = folder_source(folder)
    names = [path.relative_to(folder).as_posix() for path in _images(folder)]
    examples = [
        Example(folder / name, name, -1, DEFAULT_SPLIT, source=source)
        for name in names
        if "/." not in name and not name.startswith(".")
    ]
    if not examples:
        raise FerJaxError(f"{folder}: holds no image ({', '.join(EXTENSIONS)}); check the path")
    return without_bad_names(examples)


def class_roots(folder: Path, space: LabelSpace) -> list[tuple[str, Path]]:
    """Splits, and the folders right above their class folders; empty if there are none."""
    tops = _folders(folder)
    if any(_class(top.name, space) is not None for top in tops):
        return [(DEFAULT_SPLIT, folder)]
    return [
        (top.name, top)
        for top in tops
        if any(_class(child.name, space) is not None for child in _folders(top))
    ]


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
    times with different boxes: one face each. Columns `votes_<class>` say how many people named a
    class, or how probable it is; an empty field is 0. A face with votes needs no label.

    Args:
        csv_path: the CSV file, UTF-8, with a header; `,` or `;` is between its fields.
        folder: what its paths are relative to.
        space: whose class names and aliases the labels are.
        subject_column: the column that says which faces must stay together in a split.

    Returns:
        The examples, in the file's order, and the faults: unknown labels, missing files, bad
        numbers, neither label nor votes, faces listed twice. Of equal rows the first is kept; of
        contradicting ones, none.

    Raises:
        FerJaxError: no such file or folder, no header, a column is missing, votes for what is no
            class, or no row at all.
    """
    folder = existing_folder(folder)
    if not os.path.isfile(csv_path):
        raise FerJaxError(f"{csv_path}: no such file; name a CSV file with columns path, label")
    columns, lines = csv_table(Path(csv_path), strict=True)
    rows = list(lines)
    if not rows and "path" in columns:
        raise FerJaxError(f"{csv_path}: has a header and no rows; list the pictures in it")
    vote_columns = _vote_columns(columns, space, csv_path)
    needed = ["path"] if vote_columns else ["path", "label"]
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
    for line, fields in rows:
        row = dict(zip(columns, fields, strict=False))
        try:
            if len(fields) != len(columns):
                raise FerJaxError("has more or fewer fields than the header")
            examples.append((line, _example(row, folder, space, subject_column, vote_columns)))
        except FerJaxError as error:
            faults.append(Fault(row.get("path") or "(no path)", f"line {line}: {error}"))
    kept, repeated = without_repetitions(examples, space)
    check_splits({example.split for example in kept}, csv_path)
    return number_faces(kept), faults + repeated


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


def _vote_columns(
    columns: Sequence[str], space: LabelSpace, csv_path: str | os.PathLike[str]
) -> dict[str, int]:
    """Columns of votes, and the class that each is about."""
    classes = {}
    for column in columns:
        if not column.startswith(VOTES_PREFIX):
            continue
        try:
            label = space.index(column.removeprefix(VOTES_PREFIX))
        except FerJaxError as error:
            raise FerJaxError(f"{csv_path}: column {column}: {error}") from None
        if label in classes.values():
            raise FerJaxError(
                f"{csv_path}: has two columns with votes for {space.classes[label]}; keep one"
            )
        classes[column] = label
    return classes


def _votes(values: dict[str, str], columns: dict[str, int], space: LabelSpace) -> tuple[float, ...]:
    votes = [0.0] * len(space)
    for column, label in columns.items():
        if values.get(column):
            votes[label] = read_number(values[column], column)
        if votes[label] < 0:
            raise FerJaxError(f"{column} {values[column]!r} is negative")
    return tuple(votes) if any(votes) else ()


def _example(
    values: dict[str, str],
    folder: Path,
    space: LabelSpace,
    subject_column: str,
    vote_columns: dict[str, int],
) -> Example:
    if not values["path"]:
        raise FerJaxError("has no path")
    votes = _votes(values, vote_columns, space)
    name = values.get("label", "")
    label = space.index(name) if name or not votes else -1
    path = folder / values["path"]
    if not os.path.isfile(path):
        raise FerJaxError("no such file")
    box = None
    texts = [values.get(column, "") for column in BOX_COLUMNS]
    if any(texts):
        box = tuple(
            read_number(text, column) for text, column in zip(texts, BOX_COLUMNS, strict=True)
        )
    frame = read_number(values["frame"], "frame") if values.get("frame") else 0
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
        source=values.get("source") or folder_source(folder),
        box=box,
        score=read_number(score, "confidence") if score else math.nan,
        votes=votes,
    )
