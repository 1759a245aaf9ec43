"""FER+: FER2013 labelled anew by ten people an image, who chose among 8 classes."""

import collections
import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np

from fer_jax.data.collections.fer2013 import PIXEL_FILES, encode_pixels, pixel_rows, split_of
from fer_jax.data.examples import Example, Fault, LeftOut
from fer_jax.data.listing import (
    PictureFolder,
    csv_rows,
    existing_folder,
    first_existing,
    not_found,
    number_faces,
    read_numbers,
)
from fer_jax.data.splits import check_splits
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("ferplus")
VOTERS = 10
RULES = ("majority", "votes")

_OFFICIAL = "fer2013new.csv"
_OWN = "votes.csv"
# Where the official script writes the pictures.
_FOLDERS = {"train": "FER2013Train", "validation": "FER2013Valid", "test": "FER2013Test"}
_CHOICES = (*(name.lower() for name in SPACE.classes), "unknown", "nf")
_OFFICIAL_COLUMNS = ("usage", "image name", *_CHOICES)
_OWN_COLUMNS = ("path", "split", *_CHOICES)


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of a list of votes: those for the classes, then unknown and not a face."""

    line: int
    name: str
    split: str
    counts: tuple[float, ...]

    @property
    def votes(self) -> tuple[float, ...]:
        return self.counts[: len(SPACE)]


def read_ferplus(
    folder: str | os.PathLike[str], *, rule: str = "majority", votes_needed: int = 6
) -> tuple[list[Example], list[Fault]]:
    """Lists FER+, whose examples carry the votes for each class.

    Official: `fer2013new.csv`, beside FER2013's `fer2013.csv` (row by row: the numbers in the
    images' names do not count rows) or beside the pictures that the official script writes,
    `FER2013Train`, `FER2013Valid` and `FER2013Test` (here, or in `data` or `images`). Or
    `votes.csv` with the columns path, split, the 8 classes, unknown and NF.

    Neither unknown nor NF (not a face) is a class. An image that more than half of the people
    called no face is left out by either rule. The official list has four rows that bear the name
    of an earlier or later row. Equal rows are all kept, as in the counts that others publish; of
    pictures whose rows disagree none is kept.

    Args:
        folder: that holds the list.
        rule: `majority` keeps images of which one class has `votes_needed` votes; `votes` keeps
            all that have a vote for a class, with label -1 if the first place is shared.
        votes_needed: 6 to 10 of the 10 people (majority only).

    Returns:
        The examples in the space `ferplus`, and the faults, those left out among them as `LeftOut`.

    Raises:
        FerJaxError: the folder does not hold FER+, or its two lists do not match; no such rule.
    """
    if rule not in RULES:
        raise FerJaxError(f"rule {rule!r}: not one of {', '.join(RULES)}")
    if not VOTERS // 2 < votes_needed <= VOTERS:
        raise FerJaxError(f"{votes_needed} of {VOTERS} votes are no majority; name 6 to 10")
    folder = existing_folder(folder)
    needed = votes_needed if rule == "majority" else 0
    if (folder / _OFFICIAL).is_file():
        pixels = first_existing(folder, PIXEL_FILES)
        if pixels is not None:
            return _read_with_pixels(folder / _OFFICIAL, pixels, needed)
        root = first_existing(
            folder,
            [
                f"{parent}{name}"
                for parent in ("", "data/", "images/")
                for name in _FOLDERS.values()
            ],
        )
        if root is None:
            looked_for = [*PIXEL_FILES[:2], *_FOLDERS.values()]
            raise not_found(folder, f"pictures beside {_OFFICIAL}", looked_for)
        return _read_with_pictures(folder, root.parent, _OFFICIAL, needed)
    if (folder / _OWN).is_file():
        return _read_with_pictures(folder, folder, _OWN, needed)
    raise not_found(folder, "FER+", [_OFFICIAL, _OWN])


def _read_with_pixels(
    votes_path: Path, pixels_path: Path, needed: int
) -> tuple[list[Example], list[Fault]]:
    examples, faults = [], []
    rows = csv_rows(votes_path, _OFFICIAL_COLUMNS)
    for row, face in itertools.zip_longest(rows, pixel_rows(pixels_path)):
        if row is None or face is None:
            longer, (line, _) = (pixels_path, face) if row is None else (votes_path, row)
            raise FerJaxError(
                f"{longer}: line {line} has no counterpart in the list beside it; rows belong "
                "together by their order, so get both whole"
            )
        line, name = row[0], f"{votes_path.name}:{row[0]}"
        try:
            parsed = _parse_official(*row)
            name = parsed.name or name
            judged = _judge(parsed, name, pixels_path, needed)
            if isinstance(judged, Example):
                judged = dataclasses.replace(judged, encoded=_encode(judged.split, *face))
        except FerJaxError as error:
            judged = Fault(name, f"line {line}: {error}")
        (examples if isinstance(judged, Example) else faults).append(judged)
    return number_faces(examples), faults


def _encode(split: str, line: int, fields: dict[str, str] | None) -> bytes:
    """The picture in a line of FER2013's list, which must say the same split."""
    try:
        usage = _fields(fields)["usage"]
        if split_of(usage) != split:
            raise FerJaxError(f"is of {usage}, its votes are of {split}")
        return encode_pixels(fields["pixels"])
    except FerJaxError as error:
        raise FerJaxError(f"its pixels in line {line}: {error}") from None


def _read_with_pictures(
    folder: Path, root: Path, list_name: str, needed: int
) -> tuple[list[Example], list[Fault]]:
    if list_name == _OFFICIAL:
        columns, parse = _OFFICIAL_COLUMNS, _parse_official
    else:
        columns, parse = _OWN_COLUMNS, _parse_own
    rows_of = collections.defaultdict(list)
    examples, faults = [], []
    for line, fields in csv_rows(folder / list_name, columns):
        name = f"{list_name}:{line}"
        try:
            row = parse(line, fields)
            rows_of[row.name or name].append(row)
        except FerJaxError as error:
            faults.append(Fault(name, f"line {line}: {error}"))
    present = PictureFolder(root)
    for name, same in rows_of.items():
        if len({(row.split, row.counts) for row in same}) > 1:
            said = ", ".join(f"line {row.line} says {_counts(row)}" for row in same)
            faults += [Fault(name, f"contradicts itself: {said}", row.split) for row in same]
            continue
        for row in same:
            judged = _judge(row, name, root / row.name, needed)
            if isinstance(judged, Example) and row.name not in present:
                judged = Fault(name, f"line {row.line}: no such file", row.split)
            (examples if isinstance(judged, Example) else faults).append(judged)
    listed = (row.name for same in rows_of.values() for row in same if row.name)
    faults += [
        Fault(name, f"has no votes in {list_name}")
        for parent in dict.fromkeys(name.rpartition("/")[0] for name in listed)
        for name in present.pictures(parent)
        if name not in rows_of
    ]
    return number_faces(examples), faults


def _parse_official(line: int, fields: dict[str, str] | None) -> _Row:
    fields = _fields(fields)
    split = split_of(fields["usage"])
    name = fields["image name"] and f"{_FOLDERS[split]}/{fields['image name']}"
    return _Row(line, name, split, _read_counts(fields))


def _parse_own(line: int, fields: dict[str, str] | None) -> _Row:
    fields = _fields(fields)
    check_splits({fields["split"]}, "column split")
    return _Row(line, fields["path"], fields["split"], _read_counts(fields))


def _fields(fields: dict[str, str] | None) -> dict[str, str]:
    if fields is None:
        raise FerJaxError("has more or fewer fields than the header")
    return fields


def _read_counts(row: dict[str, str]) -> tuple[float, ...]:
    counts = read_numbers([row[choice] for choice in _CHOICES], _CHOICES)
    if min(counts) < 0:
        raise FerJaxError("has a negative number of votes")
    return counts


def _counts(row: _Row) -> str:
    return " ".join(f"{count:g}" for count in row.counts)


def _judge(row: _Row, name: str, path: Path, needed: int) -> Example | Fault:
    """What a rule makes of an image; `needed` is 0 where all votes are kept."""
    votes, total = np.asarray(row.votes), sum(row.counts)
    no_face = row.counts[-1]
    most = votes.max()
    if no_face > total / 2:
        return LeftOut(
            name, f"line {row.line}: voted not a face by {no_face:g} of {total:g}", row.split
        )
    if most == 0:
        return LeftOut(name, f"line {row.line}: nobody named a class", row.split)
    if most < needed:
        first = SPACE.classes[votes.argmax()]
        reason = f"no class has {needed} of {total:g} votes, {first} has {most:g}"
        return LeftOut(name, f"line {row.line}: {reason}", row.split)
    if not row.name:
        return Fault(name, f"line {row.line}: has no image name", row.split)
    label = int(votes.argmax()) if np.sum(votes == most) == 1 else -1
    return Example(path, row.name, label, row.split, source="ferplus", votes=row.votes)
