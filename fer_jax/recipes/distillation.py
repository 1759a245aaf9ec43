"""A teacher's opinion as soft labels: the same data set, its training faces with new votes.

What a large model says of a face tells a small one more than the label alone: which other
expressions it resembles. Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
Network", arXiv 1503.02531; the teacher is asked once for each face, before training.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from tqdm import tqdm

from fer_jax.atomic import atomic_directory, check_free
from fer_jax.bundle import bundle_hash
from fer_jax.data.cleaning import TRAIN
from fer_jax.data.dataset import FaceData
from fer_jax.data.shards import MARKER, SHARD_BYTES, write_shards
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.evaluate.running import logits_of
from fer_jax.ops.metrics import confusion_matrix, scores
from fer_jax.predict.recognizer import load, softmax

_INDEX = "index.npz"
_EXTRAS = ("annotations.npz",)


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What was made.

    Attributes:
        faces: training faces with new votes.
        agreement: share of those with a label whose teacher names it; not-a-number without labels.
    """

    faces: int
    agreement: float


def distill(
    data: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    seen: str | os.PathLike[str] | None = None,
    weight: float = 0.5,
    temperature: float = 1.0,
    overwrite: bool = False,
    progress: bool = False,
) -> Distilled:
    """Writes a data set again, its training faces with votes that a teacher has a share in.

    The votes of a face become `(1 - weight) own + weight teacher`: `own` are the shares of the
    votes that it has, else its label; a face with neither has the teacher's alone. Other splits
    stay as they are.

    Args:
        data: the data set.
        teacher: the bundle.
        out: folder of the new data set.
        seen: a data set of the same keys that the teacher looks at instead, such as the same faces
            cut as the teacher was trained; None: `data`.
        weight: the teacher's share, in (0, 1].
        temperature: its logits are divided by it.
        overwrite: replace a data set.
        progress: show a bar if there is a terminal.

    Returns:
        What was made.

    Raises:
        UsageError: weight or temperature out of range.
        FerJaxError: other labels, faces that `seen` does not have, or a data set that stands there.
    """
    if not 0 < weight <= 1:
        raise UsageError(f"weight {weight:g} must be above 0 and at most 1")
    if not temperature > 0:
        raise UsageError(f"temperature {temperature:g} must be above 0")
    out = Path(out)
    check_free(out, marker=MARKER, overwrite=overwrite)
    faces = FaceData.open(data)
    recognizer = load(teacher)
    recognizer.require_labels()
    if recognizer.bundle.labels.classes != faces.label_space.classes:
        raise FerJaxError(
            f"{teacher}: names {', '.join(recognizer.classes)}, {data} is labelled with "
            f"{', '.join(faces.label_space.classes)}; prepare the data with the teacher's labels"
        )
    rows = np.flatnonzero(faces.index["split"] == TRAIN)
    if not rows.size:
        raise FerJaxError(f"{data}: has no training face to be taught")
    looked, places = faces, rows
    if seen is not None:
        looked = FaceData.open(seen)
        places = _places(looked, faces.index["key"][rows], seen)
    logits = logits_of(recognizer, looked, places, progress)
    given = softmax(logits / np.float32(temperature)).astype(np.float64)
    votes = np.zeros((len(faces), len(faces.label_space)), np.float32)
    votes[rows] = mixed(given, _own(faces, rows), weight)
    about = {
        "teacher": str(teacher),
        "sha256": bundle_hash(teacher),
        "weight": weight,
        "temperature": temperature,
    }
    with atomic_directory(out, marker=MARKER, overwrite=overwrite) as folder:
        _write(faces, rows, votes, about, folder, progress)
    label = faces.index["label"][rows]
    counts = confusion_matrix(label, logits.argmax(axis=1), len(faces.label_space))
    labelled = bool((label >= 0).any())
    return Distilled(len(rows), scores(np.asarray(counts)).accuracy if labelled else float("nan"))


def mixed(
    teacher: Float64[np.ndarray, "n class"], own: Float64[np.ndarray, "n class"], weight: float
) -> Float32[np.ndarray, "n class"]:
    """`(1 - weight) own + weight teacher`; the teacher alone where `own` is zero.

    Args:
        teacher: probabilities.
        own: shares, or zeros where nothing is known.
        weight: the teacher's share.

    Returns:
        Shares that sum to one.

    Example:
        >>> mixed(np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([[1.0, 0.0], [0.0, 0.0]]), 0.5)
        array([[0.75, 0.25],
               [0.2 , 0.8 ]], dtype=float32)
    """
    known = own.sum(axis=1, keepdims=True) > 0
    return np.where(known, (1 - weight) * own + weight * teacher, teacher).astype(np.float32)


def _own(faces: FaceData, rows: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n class"]:
    """Shares of votes, else the label, else zeros."""
    label = faces.index["label"][rows]
    found = np.eye(len(faces.label_space) + 1)[label][:, :-1]  # of -1 the last row: nothing
    for place in np.flatnonzero(faces.index["voted"][rows]).tolist():
        votes = faces.records.votes(int(rows[place])).astype(np.float64)
        found[place] = votes / votes.sum()
    return found


def _places(seen: FaceData, keys: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    rows = {key: row for row, key in enumerate(seen.index["key"].tolist())}
    missing = [key for key in keys.tolist() if key not in rows]
    if missing:
        raise FerJaxError(
            f"{path}: has not {len(missing):,} of the {len(keys):,} training faces, such as "
            f"{missing[0]}; prepare it of the same pictures"
        )
    return np.array([rows[key] for key in keys.tolist()], np.int64)


def _write(
    faces: FaceData,
    rows: np.ndarray,
    votes: np.ndarray,
    about: dict[str, Any],
    folder: Path,
    progress: bool,
) -> None:
    """The data set with other votes of some rows."""
    splits = np.unique(faces.index["split"])
    taught = np.zeros(len(faces), bool)
    taught[rows] = True
    size = sum(path.stat().st_size for path in (Path(faces.path) / "faces").rglob("*array_record*"))
    per_shard = max(1, int(SHARD_BYTES / (size / len(faces))))
    with tqdm(total=len(faces), unit="face", disable=None if progress else True) as bar:

        def records(split: str) -> Iterator[dict[str, Any]]:
            for row in np.flatnonzero(faces.index["split"] == split).tolist():
                record = faces.records[row]
                yield record | {"votes": votes[row]} if taught[row] else record
                bar.update()

        write_shards(
            {str(split): records(split) for split in splits},
            folder,
            num_classes=len(faces.label_space),
            description=f"Faces labelled in the space {faces.label_space.name}, by a teacher too.",
            records_per_shard=dict.fromkeys(map(str, splits), per_shard),
        )
    index = faces.index | {"voted": faces.index["voted"] | taught}
    np.savez_compressed(folder / _INDEX, **index)
    for name in _EXTRAS:
        if (Path(faces.path) / name).exists():
            (folder / name).write_bytes((Path(faces.path) / name).read_bytes())
    document = json.loads((Path(faces.path) / MARKER).read_text(encoding="utf-8"))
    document |= {"distilled": about}
    (folder / MARKER).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
