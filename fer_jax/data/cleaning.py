"""Which training pictures are left out: no face, too small, blurred, there already.

This is the paper's cleaning step. It takes from the split `train` only, so what is scored never
shrinks. What it rejects is listed in `cleaning.csv`, which may be edited and handed back (see
`cleaning_files`).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from fer_jax.data.duplicates import DEFAULT_DISTANCE, MOST_DISTANT, twins
from fer_jax.data.examples import Fault
from fer_jax.errors import FerJaxError

TRAIN = "train"
UNLABELLED = "unlabelled"  # the split of faces that are neither trained on nor scored
CORRUPTED = "corrupted"
REASONS = {
    CORRUPTED: "cannot be decoded, or its box lies outside",
    "non_face": "the detector's score is below the threshold",
    "low_resolution": "the face has fewer pixels than the threshold",
    "blurred": "the variance of the Laplacian is below the threshold",
    "duplicate": "shows what another picture shows",
    "by_hand": "named in the edited list",
}


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
            "duplicate_distance": -1 <= self.duplicate_distance <= MOST_DISTANT,
        }
        for name, good in checks.items():
            if not good:
                raise FerJaxError(
                    f"cleaning.{name}={getattr(self, name)} is out of range: scores 0 to 1, sizes "
                    f"and sharpness from 0, distances -1 (off) to {MOST_DISTANT}"
                )


@dataclasses.dataclass(frozen=True)
class Rejects:
    """What is left out of training.

    Attributes:
        rows: the faces, by their rows in the collection's table, ascending.
        reasons: why, for each row, a name of `REASONS`.
        values: what was measured of each row, or which picture it repeats.
        corrupted: training pictures that never became a row.
        trained: how many training pictures there were before, these included.
    """

    rows: tuple[int, ...]
    reasons: tuple[str, ...]
    values: tuple[str, ...]
    corrupted: tuple[Fault, ...]
    trained: int

    @property
    def total(self) -> int:
        """How many pictures are left out."""
        return len(self.rows) + len(self.corrupted)

    def counts(self) -> dict[str, int]:
        """How many pictures each reason takes, in the order of `REASONS`."""
        found = {name: self.reasons.count(name) for name in REASONS}
        found[CORRUPTED] = len(self.corrupted)
        return {name: count for name, count in found.items() if count}

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
            f"cleaning: {self.total:,} of {self.trained:,} training pictures left out "
            f"({self.total / self.trained:.2%}){why}"
        )


def judge(
    columns: Mapping[str, np.ndarray], rules: Cleaning, corrupted: Sequence[Fault] = ()
) -> Rejects:
    """Applies the rules; of several that a picture breaks, the first one listed is named.

    Of two training pictures that show the same, the second one goes, both where their labels
    differ, and the unlabelled one where only one has a label. A training picture that shows what a
    picture of a split that is scored shows goes as well.

    Args:
        columns: of all splits: `key`, `split`, `video`, `label`, `score`, `size`, `sharpness`,
            `hash`.
        rules: the thresholds.
        corrupted: training pictures that are no rows, since they cannot be decoded.

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
        tuple(rows.tolist()),
        tuple(reasons[rows].tolist()),
        tuple(values[rows].tolist()),
        tuple(corrupted),
        int(train.sum()) + len(corrupted),
    )


def _duplicates(
    columns: Mapping[str, np.ndarray], good: np.ndarray, distance: int
) -> list[tuple[int, int]]:
    """(row to leave out, row that it repeats), each row to leave out once."""
    train, labels = columns["split"] == TRAIN, columns["label"]
    # What is left out already cannot be repeated, unless it is scored.
    rows = np.flatnonzero(np.where(train, good, columns["split"] != UNLABELLED))
    videos = columns["video"][rows]
    # A picture of no video is a group of its own.
    names = np.where(videos != "", np.strings.add("v:", videos), columns["key"][rows])
    groups = np.unique(names, return_inverse=True)[1]
    found: dict[int, int] = {}
    pairs = rows[twins(columns["hash"][rows], groups, distance=distance)]
    for first, second in pairs.tolist():
        if train[first] and train[second]:
            kept, other = first, second
            if labels[first] < 0 <= labels[second]:
                kept, other = second, first
            if labels[other] >= 0 and labels[kept] != labels[other]:
                found.setdefault(kept, other)
                found.setdefault(other, kept)
            elif kept not in found:
                found.setdefault(other, kept)
        elif train[second]:
            found.setdefault(second, first)
        elif train[first]:
            found.setdefault(first, second)
    return sorted(found.items())
