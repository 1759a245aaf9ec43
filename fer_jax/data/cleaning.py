"""Which training pictures are left out: no face, too small, blurred, there already.

This is the paper's cleaning step. It takes from the split `train` only, so what is scored never
shrinks. What it rejects is listed in `cleaning.csv`, which may be edited and handed back.
"""

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from fer_jax.data.duplicates import DEFAULT_DISTANCE, twins
from fer_jax.errors import FerJaxError

TRAIN = "train"
REASONS = {
    "corrupted": "cannot be decoded",
    "non_face": "the detector's score is below the threshold",
    "low_resolution": "the face has fewer pixels than the threshold",
    "blurred": "the variance of the Laplacian is below the threshold",
    "duplicate": "shows what another picture shows",
    "by_hand": "named in the edited list",
}
_HEADER = ("path", "reason", "value")


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """The thresholds; each rule can be turned off by its own.

    Attributes:
        min_score: the detector's confidence that the picture shows a face, 0 to 1; 0 is off. 0.4
            loses at most 0.4 % of the pictures of ExpW, FER+ and AffectNet, and finds 97 % of
            backgrounds.
        min_size: pixels of the face's shorter side where it was found; 0 is off.
        min_sharpness: variance of the Laplacian at 112 x 112; 0 is off. 40 loses 0.3 % of the
            pictures of AffectNet and of ExpW, and finds 99 % of them once they are shrunk to 28
            pixels or blurred with a standard deviation of 1.5 pixels.
        duplicate_distance: of 256 bits, how many two pictures of different videos may differ in to
            count as one; -1 is off. Neighbours in one video are no duplicates: sub-sampling is for
            them.

    Raises:
        FerJaxError: a threshold is out of its range.
    """

    min_score: float = 0.4
    min_size: int = 32
    min_sharpness: float = 40.0
    duplicate_distance: int = DEFAULT_DISTANCE

    def __post_init__(self):
        checks = {
            "min_score": 0 <= self.min_score <= 1,
            "min_size": self.min_size >= 0,
            "min_sharpness": self.min_sharpness >= 0,
            "duplicate_distance": -1 <= self.duplicate_distance <= 64,
        }
        for name, good in checks.items():
            if not good:
                raise FerJaxError(
                    f"cleaning.{name}={getattr(self, name)} is out of range: scores 0 to 1, sizes "
                    "and sharpness from 0, distances -1 (off) to 64"
                )


@dataclasses.dataclass(frozen=True)
class Rejects:
    """What is left out of training.

    Attributes:
        keys: the pictures, each once.
        reasons: why, a name of `REASONS`.
        values: what was measured, or which picture it repeats.
        trained: how many training pictures there were before.
    """

    keys: tuple[str, ...]
    reasons: tuple[str, ...]
    values: tuple[str, ...]
    trained: int

    def counts(self) -> dict[str, int]:
        """How many pictures each reason takes, in the order of `REASONS`."""
        return {name: self.reasons.count(name) for name in REASONS if name in self.reasons}

    def summary(self) -> str:
        """One line: what share of the training pictures goes, and why."""
        if not self.trained:
            return "cleaning: there is no training picture"
        parts = [
            f"{name} {count:,} ({count / self.trained:.2%})"
            for name, count in self.counts().items()
        ]
        why = f": {', '.join(parts)}" if parts else ""
        return (
            f"cleaning: {len(self.keys):,} of {self.trained:,} training pictures left out "
            f"({len(self.keys) / self.trained:.2%}){why}"
        )


def judge(columns: Mapping[str, np.ndarray], rules: Cleaning) -> Rejects:
    """Applies the rules; of several that a picture breaks, the first one listed is named.

    Of two training pictures that show the same, the second one goes, and both where their labels
    differ. A training picture that shows what a picture of another split shows goes as well.

    Args:
        columns: of all splits: `key`, `split`, `video`, `label`, `score`, `size`, `sharpness`,
            `hash`.
        rules: the thresholds.

    Returns:
        The rejects, in the order of the rows. A picture without a score has not been looked at by
        the detector and is not judged by it.
    """
    train = columns["split"] == TRAIN
    reasons = np.full(len(train), "", "U16")
    values = np.full(len(train), "", object)

    def reject(mask: Bool[np.ndarray, "rows"], reason: str, found: np.ndarray) -> None:
        rows = np.flatnonzero(mask & train & (reasons == ""))
        reasons[rows] = reason
        for row in rows:
            values[row] = f"{found[row]:.4g}"

    reject(columns["score"] < rules.min_score, "non_face", columns["score"])
    reject(columns["size"] < rules.min_size, "low_resolution", columns["size"])
    reject(columns["sharpness"] < rules.min_sharpness, "blurred", columns["sharpness"])
    if rules.duplicate_distance >= 0:
        for row, other in _duplicates(columns, reasons == "", rules.duplicate_distance):
            reasons[row] = "duplicate"
            values[row] = f"{columns['key'][other]} ({columns['split'][other]})"
    rows = np.flatnonzero(reasons != "")
    return Rejects(
        tuple(columns["key"][rows].tolist()),
        tuple(reasons[rows].tolist()),
        tuple(values[rows].tolist()),
        int(train.sum()),
    )


def _duplicates(
    columns: Mapping[str, np.ndarray], good: np.ndarray, distance: int
) -> list[tuple[int, int]]:
    """(row to leave out, row that it repeats), each row to leave out once."""
    train = columns["split"] == TRAIN
    # What is left out already cannot be repeated, unless it is scored.
    rows = np.flatnonzero(good | ~train)
    videos = columns["video"][rows]
    # A picture of no video is a group of its own.
    names = np.where(videos != "", np.strings.add("v:", videos), columns["key"][rows])
    groups = np.unique(names, return_inverse=True)[1]
    found: dict[int, int] = {}
    pairs = rows[twins(columns["hash"][rows], groups, distance=distance)]
    for first, second in pairs.tolist():
        if train[first] and train[second]:
            if columns["label"][first] != columns["label"][second]:
                found.setdefault(first, second)
                found.setdefault(second, first)
            elif first not in found:
                found.setdefault(second, first)
        elif train[second]:
            found.setdefault(second, first)
        elif train[first]:
            found.setdefault(first, second)
    return sorted(found.items())


def with_corrupted(rejects: Rejects, names: Sequence[str], reasons: Sequence[str]) -> Rejects:
    """The rejects, led by training pictures that cannot be decoded."""
    return Rejects(
        (*names, *rejects.keys),
        (*("corrupted" for _ in names), *rejects.reasons),
        (*reasons, *rejects.values),
        rejects.trained + len(names),
    )


def write_csv(rejects: Rejects, path: Path) -> None:
    """Writes `path,reason,value`, one row a rejected picture."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows(zip(rejects.keys, rejects.reasons, rejects.values, strict=True))


def read_csv(path: str | os.PathLike[str], columns: Mapping[str, np.ndarray]) -> Rejects:
    """Reads an edited list back: what it names is left out, nothing else.

    A row that was taken out keeps its picture; a row that was added, of which `path` is enough,
    leaves one out. Rows with the reason `corrupted` need not be there: such pictures go anyway.

    Args:
        path: the file.
        columns: of all splits: `key` and `split`.

    Raises:
        FerJaxError: no such file, no column `path`, a picture that there is not, or one that is not
            trained on.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            fields = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = fields
            if "path" not in fields:
                raise FerJaxError(f"{path}: has no column 'path'; its first line names the columns")
            listed = [
                (reader.line_num, *((row.get(name) or "").strip() for name in _HEADER))
                for row in reader
            ]
    except FileNotFoundError:
        raise FerJaxError(f"{path}: no such file; name an edited cleaning.csv") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise FerJaxError(f"{path}: is not a CSV file in UTF-8 ({error}); convert it") from None
    split_of = dict(zip(columns["key"].tolist(), columns["split"].tolist(), strict=True))
    chosen: dict[str, tuple[str, str]] = {}
    for line, key, reason, value in listed:
        if not key or reason == "corrupted":
            continue
        if key not in split_of:
            raise FerJaxError(
                f"{path}: line {line} names {key}, which is not among the pictures; correct it"
            )
        if split_of[key] != TRAIN:
            raise FerJaxError(
                f"{path}: line {line} names {key}, of the split {split_of[key]}; only training "
                "pictures can be left out, so take the line out"
            )
        chosen.setdefault(key, (reason if reason in REASONS else "by_hand", value))
    ordered = [key for key in columns["key"].tolist() if key in chosen]
    return Rejects(
        tuple(ordered),
        tuple(chosen[key][0] for key in ordered),
        tuple(chosen[key][1] for key in ordered),
        int((columns["split"] == TRAIN).sum()),
    )
