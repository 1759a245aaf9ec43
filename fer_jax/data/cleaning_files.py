"""What is left out, as files: `skipped.csv`, `cleaning.csv` (to be edited) and its picture."""

import csv
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fer_jax.atomic import atomic_file
from fer_jax.data.cleaning import CORRUPTED, REASONS, TRAIN, Rejects
from fer_jax.data.examples import Fault
from fer_jax.data.listing import csv_table
from fer_jax.errors import FerJaxError

_SKIPPED, _LIST, _SHEET = "skipped.csv", "cleaning.csv", "cleaning.png"
_WRITTEN = "cleaning.sha256"  # of the list as it was written, to tell whether it was edited since
_HEADER = ("path", "reason", "value")


@dataclasses.dataclass(frozen=True)
class EditedList:
    """A `cleaning.csv` to go by.

    Attributes:
        path: the file.
        rows: line, name, reason and value of each row that names a picture.
    """

    path: Path
    rows: tuple[tuple[int, str, str, str], ...]


def read_list(path: str | os.PathLike[str]) -> EditedList:
    """Reads an edited list; of a row that was added, its `path` is enough.

    Raises:
        FerJaxError: no such file, not in UTF-8, or no column `path`.
    """
    path = Path(path)
    if not path.is_file():
        raise FerJaxError(f"{path}: no such file; name an edited cleaning.csv")
    header, lines = csv_table(path, strict=True, strip=False)
    if "path" not in header:
        raise FerJaxError(f"{path}: has no column 'path'; its first line names the columns")
    rows = []
    for line, fields in lines:
        found = dict(zip(header, fields, strict=False))
        name, reason, value = (found.get(column, "") for column in _HEADER)
        if name.strip():
            rows.append((line, name, reason.strip(), value.strip()))
    return EditedList(path, tuple(rows))


def follow(
    edited: EditedList, columns: Mapping[str, np.ndarray], corrupted: Sequence[Fault] = ()
) -> Rejects:
    """What an edited list names is left out, and nothing else that can be decoded.

    A row that was taken out keeps its picture; a row that was added leaves one out.

    Args:
        edited: the list.
        columns: of all splits: `key` and `split`.
        corrupted: training pictures that are no rows; they go, whether they are named or not.

    Raises:
        FerJaxError: the list names a picture that there is not, or one that is not trained on.
    """
    row_of = {key: row for row, key in enumerate(columns["key"].tolist())}
    gone = {fault.name for fault in corrupted}
    chosen: dict[int, tuple[str, str]] = {}
    for line, name, reason, value in edited.rows:
        # A name may begin with a blank; a spreadsheet may have put one there.
        key = next((key for key in (name, name.strip()) if key in row_of or key in gone), None)
        if key is None:
            raise FerJaxError(
                f"{edited.path}: line {line} names {name.strip()}, which is not among the "
                "pictures; correct it"
            )
        if key not in row_of:
            continue
        row = row_of[key]
        split = str(columns["split"][row])
        if split != TRAIN:
            raise FerJaxError(
                f"{edited.path}: line {line} names {key}, of the split {split}; only training "
                "pictures can be left out, so take the line out"
            )
        known = reason in REASONS and reason != CORRUPTED
        chosen.setdefault(row, (reason if known else "by_hand", value))
    rows = sorted(chosen)
    return Rejects(
        tuple(rows),
        tuple(chosen[row][0] for row in rows),
        tuple(chosen[row][1] for row in rows),
        tuple(corrupted),
        int((columns["split"] == TRAIN).sum()) + len(corrupted),
    )


def refuse_edited(folder: Path, edited: EditedList | None) -> None:
    """Refuses to go over a list that was edited since `write_findings` wrote it there for review.

    Args:
        folder: of the list.
        edited: the list that the run goes by, which is not lost.

    Raises:
        FerJaxError: the list was edited, and is another one than that.
    """
    path = folder / _LIST
    if not path.exists() or (edited is not None and path.samefile(edited.path)):
        return
    written = folder / _WRITTEN
    if not written.exists() or written.read_text() != _digest(path):
        raise FerJaxError(
            f"{path}: was edited since it was written; go by it with --cleaning {path}, or move it "
            "away"
        )


def write_findings(
    folder: Path,
    faults: Sequence[Fault],
    rejects: Rejects | None,
    keys: np.ndarray,
    picture: Callable[[int], UInt8[np.ndarray, "_ _ 3"]],
    *,
    review: bool = False,
) -> None:
    """Writes the files, as far as there is something to tell, in place of those of before.

    Args:
        folder: where to.
        faults: what cannot be used, for `skipped.csv`.
        rejects: what is left out of training; None if there was no cleaning.
        keys: names of the rows.
        picture: gives a row's picture.
        review: the list is there to be edited: `refuse_edited` knows it again.
    """
    for name in (_SKIPPED, _SHEET):
        (folder / name).unlink(missing_ok=True)
    if faults:
        rows = ((fault.name, fault.reason) for fault in faults)
        _write_csv(folder / _SKIPPED, ("path", "reason"), rows)
    if rejects is None:
        return
    left_out = zip(rejects.rows, rejects.reasons, rejects.values, strict=True)
    rows = [(fault.name, CORRUPTED, fault.reason) for fault in rejects.corrupted]
    rows += [(str(keys[row]), reason, value) for row, reason, value in left_out]
    _write_csv(folder / _LIST, _HEADER, rows)
    if review:
        (folder / _WRITTEN).write_text(_digest(folder / _LIST))
    if rejects.total:
        _write_sheet(rejects, keys, picture, folder / _SHEET)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # What cannot be used may have a name that is no text.
    options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with atomic_file(path) as partial, partial.open("w", **options) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_sheet(
    rejects: Rejects,
    keys: np.ndarray,
    picture: Callable[[int], UInt8[np.ndarray, "_ _ 3"]],
    path: Path,
) -> None:
    from fer_jax.data.contact_sheet import SHOWN, write_contact_sheet

    groups = []
    for reason, count in rejects.counts().items():
        # Evenly over all of them: neighbours in a video look alike.
        chosen = np.linspace(0, count - 1, min(count, SHOWN)).astype(int).tolist()
        if reason == CORRUPTED:
            shown = [(rejects.corrupted[i].name, None) for i in chosen]
        else:
            pairs = zip(rejects.rows, rejects.reasons, strict=True)
            rows = [row for row, found in pairs if found == reason]
            shown = [(str(keys[rows[i]]), picture(rows[i])) for i in chosen]
        groups.append((f"{reason}: {count:,} ({REASONS[reason]})", shown))
    write_contact_sheet(path, rejects.summary(), groups)
