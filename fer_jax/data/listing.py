"""What readers of labelled pictures share: lines of lists, folders, numbers, repetitions."""

import collections
import csv
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_jax.data.examples import Example, Fault
from fer_jax.data.images import EXTENSIONS
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

_SHOWN = 8


class PictureFolder:
    """Tells which files exist from one listing of each folder: faster than asking for each.

    Attributes:
        root: what the names are relative to.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        self._listed: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        parent, _, file = name.rpartition("/")
        return file in self.files(parent)

    def files(self, parent: str) -> frozenset[str]:
        """Names of the files in a folder below the root; none if there is no such folder."""
        if parent not in self._listed:
            self._listed[parent] = _file_names(self.root / parent)
        return self._listed[parent]

    def pictures(self, parent: str) -> list[str]:
        """Names, from the root, of the pictures in a folder below it, sorted."""
        prefix = f"{parent}/" if parent else ""
        return sorted(
            prefix + name
            for name in self.files(parent)
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        )


def existing_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder as a path.

    Raises:
        FerJaxError: there is no such folder, or it may not be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise FerJaxError(f"{folder}: {what}; name the folder that holds the pictures")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise FerJaxError(f"{folder}: may not be listed; check its permissions")
    return folder


def folder_source(folder: Path) -> str:
    """The folder's name, in which bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(folder.absolute().name).decode(errors="replace")


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of several files or folders below a folder that exists."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def not_found(folder: Path, what: str, looked_for: Sequence[str]) -> FerJaxError:
    """The error that a folder does not hold a collection: what was looked for, what is there."""
    found = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return FerJaxError(
        f"{folder}: holds no {what}; looked for {', or '.join(looked_for)}; "
        f"found {shown or 'nothing'}; name the folder that holds them"
    )


def text_lines(path: Path, *, strict: bool = False) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and contents of the lines that are not blank.

    Line ends of any system and a byte order mark are taken away.

    Args:
        path: the file.
        strict: refuse what is not UTF-8. Else it becomes U+FFFD, so that one damaged line does not
            cost the others.

    Raises:
        FerJaxError: the file cannot be read.
    """
    try:
        errors = "strict" if strict else "replace"
        with open(path, encoding="utf-8-sig", errors=errors) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise FerJaxError(f"{path}: is not text in UTF-8 ({error}); convert it") from None
    except OSError as error:
        raise FerJaxError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbers and stripped fields of the lines of a CSV file, in which no field spans two lines.

    Raises:
        FerJaxError: the file cannot be read.
    """
    return ((number, _fields(line)) for number, line in text_lines(path))


def csv_table(
    path: Path, *, strict: bool = False, strip: bool = True
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header of a CSV file, and its other lines; `,` or `;` is between the fields.

    Args:
        path: the file.
        strict: refuse what is not UTF-8.
        strip: take blanks off the fields' ends; they are always taken off the header's.

    Returns:
        The names in the first line, none if the file is empty; and the numbers and fields, however
        many, of the lines after it.

    Raises:
        FerJaxError: the file cannot be read.
    """
    lines = text_lines(path, strict=strict)
    _, first = next(lines, (0, ""))
    delimiter = ";" if first.count(";") > first.count(",") else ","
    rows = ((number, _fields(line, delimiter, strip=strip)) for number, line in lines)
    return _fields(first, delimiter), rows


def _fields(line: str, delimiter: str = ",", *, strip: bool = True) -> list[str]:
    try:
        # Line by line: a quote that is never closed would swallow the rest of the file.
        fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=strip))
    except csv.Error:
        fields = [line]
    return [field.strip() for field in fields] if strip else fields


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Numbers and fields, by the header's names in lower case, of a CSV file's rows.

    Args:
        path: the file.
        columns: in lower case, those that must be there.

    Yields:
        The line, and its fields; None if they are more or fewer than in the header.

    Raises:
        FerJaxError: the file cannot be read, or lacks one of the columns.
    """
    header, lines = csv_table(path)
    header = [name.lower() for name in header]
    missing = [column for column in columns if column not in header]
    if missing:
        raise FerJaxError(
            f"{path}: has no column {', '.join(missing)}; its first line is "
            f"{', '.join(header)[:200] or 'missing'}"
        )
    for number, fields in lines:
        yield number, dict(zip(header, fields, strict=True)) if len(fields) == len(header) else None


def read_number(text: str, what: str) -> float:
    """A finite number.

    Raises:
        FerJaxError: the text is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise FerJaxError(f"{what} {text!r} is not a number")
    return number


def read_numbers(texts: Sequence[str], names: Sequence[str]) -> tuple[float, ...]:
    """Finite numbers, as many as texts.

    Raises:
        FerJaxError: one of the texts is none; its name is said.
    """
    try:
        numbers = tuple(map(float, texts))
    except ValueError:
        numbers = (math.nan,)
    if all(map(math.isfinite, numbers)):
        return numbers
    return tuple(read_number(text, name) for text, name in zip(texts, names, strict=True))


def read_index(text: str, what: str, count: int, first: int = 0) -> int:
    """A class number, less the first one.

    Raises:
        FerJaxError: the text is no number, or outside [first, first + count).
    """
    digits = text.isascii() and text.isdigit() and len(text) < 10
    if not digits or not first <= int(text) < first + count:
        raise FerJaxError(f"{what} {text!r} is not a number from {first} to {first + count - 1}")
    return int(text) - first


def without_repetitions(
    listed: Sequence[tuple[int, Example]], space: LabelSpace
) -> tuple[list[Example], list[Fault]]:
    """Of faces listed more than once keeps the first; none where they contradict each other.

    Args:
        listed: each face with its line.
        space: what the labels mean.

    Returns:
        The faces kept, in the order of their lines, and a fault for each line that is not.
    """
    faces = collections.defaultdict(list)
    for line, example in listed:
        faces[os.path.normpath(example.path), example.box].append((line, example))
    kept, faults = [], []
    for repetitions in faces.values():
        first_line, first = repetitions[0]
        if len({(one.label, one.split, one.votes) for _, one in repetitions}) == 1:
            kept.append((first_line, first))
            faults += [
                Fault(first.name, f"line {line}: listed already in line {first_line}", first.split)
                for line, _ in repetitions[1:]
            ]
            continue
        said = ", ".join(f"line {line} says {_said(one, space)}" for line, one in repetitions)
        faults += [
            Fault(one.name, f"contradicts itself: {said}", one.split) for _, one in repetitions
        ]
    kept.sort(key=lambda pair: pair[0])
    return [example for _, example in kept], faults


def number_faces(examples: Sequence[Example]) -> list[Example]:
    """Gives faces of the same picture the numbers 0, 1, ... in their order."""
    faces = collections.Counter()
    numbered = []
    for example in examples:
        number = faces[example.name]
        faces[example.name] += 1
        if number != example.face_id:
            example = dataclasses.replace(example, face_id=number)
        numbered.append(example)
    return numbered


def name_fault(name: str) -> str:
    """What keeps a picture's name from being stored and listed; empty if nothing does."""
    try:
        name.encode()
    except UnicodeEncodeError:  # the bytes of a file's name need not be UTF-8
        return "its name is no text: rename it"
    return "its name has a line break: rename it" if "\n" in name or "\r" in name else ""


def without_bad_names(examples: Sequence[Example]) -> tuple[list[Example], list[Fault]]:
    """The examples whose names can be stored, and a fault for each of the others."""
    kept, faults = [], []
    for example in examples:
        if reason := name_fault(example.name):
            faults.append(Fault(example.name, reason, example.split))
        else:
            kept.append(example)
    return kept, faults


def _said(example: Example, space: LabelSpace) -> str:
    label = space.classes[example.label] if example.label >= 0 else "no class"
    votes = f" by votes {' '.join(f'{vote:g}' for vote in example.votes)}" if example.votes else ""
    return f"{label}{votes} ({example.split})"


def _file_names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except PermissionError:
        raise FerJaxError(f"{folder}: may not be listed; check its permissions") from None
    except (OSError, ValueError):  # ValueError: a zero byte, from a damaged list
        return frozenset()
