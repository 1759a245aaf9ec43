"""Makes a data set: looks at every picture, cleans the training part, writes the shards.

A data set is a folder: `faces.json` (label space, splits, format, cleaning), `index.npz` (one row a
face, to select and to group without reading records), `skipped.csv` (what cannot be used, and why),
`cleaning.csv` and `cleaning.png` (what was left out of training, and why) and `faces/1.0.0/` (the
shards, in tensorflow-datasets' layout).
"""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from jaxtyping import UInt8

from fer_jax.atomic import atomic_directory, check_free
from fer_jax.data.cleaning import TRAIN, Cleaning, Rejects, judge
from fer_jax.data.cleaning_files import EditedList, follow, refuse_edited, write_findings
from fer_jax.data.examples import Example, Fault, LeftOut
from fer_jax.data.images import decode_image
from fer_jax.data.shards import FORMAT, MARKER, SHARD_BYTES, write_shards
from fer_jax.data.staging import AS_IS, INDEX_COLUMNS, Look, Part, stage
from fer_jax.data.units import Unit, listed_units
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

_SHOWN_FAULTS = 5
_STAGING_MARKER = "staging"
_RECORD_OVERHEAD = 400  # bytes of a record beside its image, about


@dataclasses.dataclass(frozen=True)
class Built:
    """What came of building a data set.

    Attributes:
        folder: where its files are: the data set, or the staging folder if it was only reviewed.
        skipped: what cannot be used.
        rejects: what cleaning left out, None if there was no cleaning.
    """

    folder: Path
    skipped: tuple[Fault, ...]
    rejects: Rejects | None


def build(
    examples: Sequence[Example],
    faults: Sequence[Fault],
    space: LabelSpace,
    out: str | os.PathLike[str],
    *,
    margin: float = 1.2,
    template: str = AS_IS,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> list[Fault]:
    """Stores a list of examples, without cleaning; see `build_units`.

    Args:
        examples: the faces to store.
        faults: what was found wrong before any picture was opened.
        space: what the labels mean.
        out: the folder to make.
        margin: side of the square about a box as a multiple of the box's longer side.
        template: how faces without a box were aligned, such as `arcface_112`.
        skip_bad: leave out what cannot be used, instead of refusing.
        overwrite: replace a data set that exists.

    Returns:
        What was left out; empty unless `skip_bad`.

    Raises:
        FerJaxError: as `build_units`.
    """
    built = build_units(
        listed_units(examples),
        faults,
        space,
        out,
        look=Look(margin, template),
        skip_bad=skip_bad,
        overwrite=overwrite,
    )
    return list(built.skipped)


def build_units(
    units: Sequence[Unit],
    faults: Sequence[Fault],
    space: LabelSpace,
    out: str | os.PathLike[str],
    *,
    look: Look,
    cleaning: Cleaning | None = None,
    edited: EditedList | None = None,
    staging: str | os.PathLike[str] | None = None,
    review: bool = False,
    workers: int = 0,
    skip_bad: bool = False,
    overwrite: bool = False,
    extras: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Built:
    """Looks at every picture, then writes the data set aside and renames it into place.

    A picture with a box is cut to the square about it and encoded again (JPEG of quality 95, or
    PNG if it was lossless); one without is stored byte for byte.

    Args:
        units: the collection, in parts that are looked at one by one.
        faults: what was found wrong before any picture was opened.
        space: what the labels mean.
        out: the folder to make.
        look: how pictures are looked at.
        cleaning: the rules by which training pictures are left out; None keeps all.
        edited: a list to go by instead of the rules.
        staging: where to keep what was seen until the data set is whole, so that a run that is
            stopped goes on where it was; None keeps it in a folder that goes with the run.
        review: stop after cleaning, with `cleaning.csv` and `cleaning.png` in `staging`.
        workers: processes that look at pictures; 0 looks in threads of this one.
        skip_bad: leave out what cannot be used, instead of refusing.
        overwrite: replace a data set that exists.
        extras: more files of columns, such as {"annotations.npz": {"label": ...}}.

    Returns:
        What was made and what was left out.

    Raises:
        FerJaxError: something cannot be used and `skip_bad` is false, or nothing is left; `out`
            exists and `overwrite` is false; `edited` names what there is not; the list in `staging`
            was edited and is not `edited`; `review` without `staging`.
    """
    if review and staging is None:
        raise FerJaxError("review needs a staging folder: that is where its files are put")
    out = Path(out)
    check_free(out, marker=MARKER, overwrite=overwrite)
    if not units:
        raise FerJaxError(f"no face can be used: {_first(faults) or 'none is listed'}")
    with _staging_folder(staging, out) as parts:
        refuse_edited(parts, edited)
        collection = _Collection(stage(units, parts, look, len(space), workers=workers))
        _check_keys(collection.columns["key"])
        corrupted = [fault for part in collection.parts for fault in part.corrupted]
        rejects, corrupted = _clean(collection, corrupted, cleaning, edited)
        told = [fault for part in collection.parts for fault in part.faults]
        faults = [*faults, *told, *corrupted]
        findings = (faults, rejects, collection.columns["key"], collection.picture)
        if review:
            write_findings(parts, *findings, review=True)
            return Built(parts, tuple(faults), rejects)
        bad = [fault for fault in faults if not isinstance(fault, LeftOut)]
        if bad and not skip_bad:
            raise FerJaxError(_describe(bad, len(bad) + len(collection)))
        rows = _kept_rows(collection, rejects)
        if not rows.size:
            why = rejects.summary() if rejects and rejects.total else _first(faults)
            raise FerJaxError(f"no face can be used: {why}; check the folder")
        with atomic_directory(out, marker=MARKER, overwrite=overwrite) as folder:
            _write_shards(collection, rows, space, folder)
            _write_index(collection, rows, folder / "index.npz")
            write_findings(folder, *findings)
            for name, columns in (extras or {}).items():
                np.savez_compressed(folder / name, **columns)
            used = None if edited is not None else cleaning
            description = _description(collection, rows, space, faults, rejects, used)
            (folder / MARKER).write_text(json.dumps(description, indent=2) + "\n")
        if staging is not None:
            shutil.rmtree(parts)
    return Built(out, tuple(faults), rejects)


def _check_keys(keys: np.ndarray) -> None:
    names, counts = np.unique(keys, return_counts=True)
    if (counts > 1).any():
        raise FerJaxError(
            f"{names[counts > 1][0]}: is listed {counts.max()} times; a picture can be stored once"
        )


def _kept_rows(collection: "_Collection", rejects: Rejects | None) -> np.ndarray:
    """The rows to store, split by split as the shards hold them."""
    kept = np.ones(len(collection), bool)
    if rejects is not None:
        kept[list(rejects.rows)] = False
    rows = np.flatnonzero(kept)
    return rows[np.argsort(collection.columns["split"][rows], kind="stable")]


@contextlib.contextmanager
def _staging_folder(staging: str | os.PathLike[str] | None, out: Path) -> Iterator[Path]:
    """The folder of the parts: the one that is named, or one that goes with the run."""
    if staging is None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name}.staging-", ignore_cleanup_errors=True
        ) as name:
            yield Path(name)
        return
    staging = Path(staging)
    check_free(staging, marker=_STAGING_MARKER, overwrite=True)
    staging.mkdir(parents=True, exist_ok=True)
    (staging / _STAGING_MARKER).touch()
    yield staging


class _Collection:
    """All parts as one table, whose rows are numbered through."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = parts
        self.first = np.cumsum([0, *(part.faces for part in parts)])
        columns = [part.columns(*INDEX_COLUMNS, "hash") for part in parts]
        self.columns = {
            name: np.concatenate([found[name] for found in columns]) for name in columns[0]
        }

    def __len__(self) -> int:
        return int(self.first[-1])

    def images(self, rows: np.ndarray) -> Iterator[bytes]:
        """The bytes to store of some rows, which ascend."""
        for part, first, end in zip(self.parts, self.first, self.first[1:], strict=False):
            mine = rows[(rows >= first) & (rows < end)]
            if mine.size:
                yield from part.encoded((mine - first).tolist())

    def picture(self, row: int) -> UInt8[np.ndarray, "_ _ 3"]:
        """One row's picture, decoded."""
        return decode_image(next(self.images(np.asarray([row]))))

    def votes(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The votes of some rows, which ascend."""
        for part, first, end in zip(self.parts, self.first, self.first[1:], strict=False):
            mine = rows[(rows >= first) & (rows < end)]
            if mine.size:
                yield from part.columns("votes")["votes"][mine - first]


def _clean(
    collection: _Collection,
    corrupted: Sequence[Fault],
    cleaning: Cleaning | None,
    edited: EditedList | None,
) -> tuple[Rejects | None, list[Fault]]:
    """What is left out of training, and what is corrupted of the other splits."""
    if cleaning is None and edited is None:
        return None, list(corrupted)
    trained = [fault for fault in corrupted if fault.split == TRAIN]
    if edited is not None:
        rejects = follow(edited, collection.columns, trained)
    else:
        rejects = judge(collection.columns, cleaning, trained)
    return rejects, [fault for fault in corrupted if fault.split != TRAIN]


def _write_shards(
    collection: _Collection, rows: np.ndarray, space: LabelSpace, folder: Path
) -> None:
    columns = {name: column[rows] for name, column in collection.columns.items()}
    splits = {str(split): rows[columns["split"] == split] for split in np.unique(columns["split"])}
    with _progress(len(rows), "writing") as progress:
        write_shards(
            {name: _records(collection, mine, progress) for name, mine in splits.items()},
            folder,
            num_classes=len(space),
            description=f"Faces labelled in the space {space.name}.",
            records_per_shard={name: _per_shard(collection, r) for name, r in splits.items()},
        )


def _records(
    collection: _Collection, rows: np.ndarray, progress: tqdm.tqdm
) -> Iterator[dict[str, Any]]:
    columns = collection.columns
    images, votes = collection.images(rows), collection.votes(rows)
    for row, image, counted in zip(rows.tolist(), images, votes, strict=True):
        record = {
            name: columns[name][row].item()
            for name in INDEX_COLUMNS
            if name not in ("voted", "score", "size", "sharpness")
        }
        quality = {name: columns[name][row].item() for name in ("score", "size", "sharpness")}
        yield {**record, "image": image, "votes": counted, "quality": quality}
        progress.update()


def _per_shard(collection: _Collection, rows: np.ndarray) -> int:
    lengths = np.concatenate([part.columns("length")["length"] for part in collection.parts])
    return max(1, int(SHARD_BYTES / (lengths[rows].mean() + _RECORD_OVERHEAD)))


def _write_index(collection: _Collection, rows: np.ndarray, path: Path) -> None:
    columns = {name: collection.columns[name][rows] for name in INDEX_COLUMNS}
    # Where a record lies among those of its split, in the order of the shards.
    counts = np.unique_counts(columns["split"]).counts
    position = np.concatenate([np.arange(n) for n in counts]).astype(np.int64)
    np.savez_compressed(path, **columns, position=position)


def _description(
    collection: _Collection,
    rows: np.ndarray,
    space: LabelSpace,
    faults: Sequence[Fault],
    rejects: Rejects | None,
    cleaning: Cleaning | None,
) -> dict[str, Any]:
    names, counts = np.unique(collection.columns["split"][rows], return_counts=True)
    found = {
        "format": FORMAT,
        "label_space": space.name,
        "classes": list(space.classes),
        "splits": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "skipped": len(faults),
    }
    if rejects is not None:
        found["cleaning"] = {
            "rules": "an edited list" if cleaning is None else dataclasses.asdict(cleaning),
            "training_pictures": rejects.trained,
            "left_out": rejects.counts(),
        }
    return found


def _describe(faults: Sequence[Fault], total: int) -> str:
    return (
        f"{len(faults)} of {total} pictures cannot be used: {_first(faults)}; "
        "repair them, or pass --skip-bad to leave them out and list them in skipped.csv"
    )


def _first(faults: Sequence[Fault]) -> str:
    shown = "; ".join(f"{fault.name}: {fault.reason}" for fault in faults[:_SHOWN_FAULTS])
    shown = shown.encode(errors="backslashreplace").decode()  # a name may be no text
    more = len(faults) - _SHOWN_FAULTS
    return f"{shown}; and {more} more" if more > 0 else shown


def _progress(total: int, what: str) -> tqdm.tqdm:
    return tqdm.tqdm(total=total, desc=what, unit="face", disable=not sys.stderr.isatty())
