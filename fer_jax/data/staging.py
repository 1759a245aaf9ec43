"""Looks at every picture of a collection, part by part, and keeps what it saw until it is stored.

A part (a video, or a thousand pictures of a list) leaves two files in the staging folder: an
`.npz` of columns, one row a face, and a `.faces` of the bytes that have no file of their own. The
first appears last and at once, so that a run that was stopped goes on with the part it was at.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import sys
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tqdm

from fer_jax.atomic import atomic_file
from fer_jax.data.aligning import align_picture
from fer_jax.data.batching import batched
from fer_jax.data.duplicates import picture_hash
from fer_jax.data.examples import Example, Fault, read_picture
from fer_jax.data.images import (
    ImageError,
    cut_square,
    decode_image,
    encode_image,
    is_lossless,
    sharpness,
)
from fer_jax.data.units import Unit
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import template_name
from fer_jax.faces.detector import Detector

AS_IS = "as_is"  # the template of faces that are stored untouched
_FORMAT = "fer_jax staging 2"
_THREADED = 64


@dataclasses.dataclass(frozen=True)
class Look:
    """How pictures are looked at.

    Attributes:
        margin: side of the square that is cut about a box, as a multiple of its longer side.
        template: how faces without a box were aligned, such as `arcface_112`.
        detect: whether the face detector scores the faces that come without a score.
        align: side in pixels of the aligned face that is looked for in each picture that comes
            unaligned, and stored instead of it; 0 stores faces as they come. See `data.aligning`.

    Raises:
        FerJaxError: `margin` is not in (0, 10].
    """

    margin: float = 1.2
    template: str = AS_IS
    detect: bool = False
    align: int = 0

    def __post_init__(self):
        if not 0 < self.margin <= 10:
            raise FerJaxError(f"margin {self.margin:g} is not in (0, 10]; 1.2 keeps the whole head")


@dataclasses.dataclass(frozen=True)
class Part:
    """What was seen of a unit, on disk.

    Attributes:
        path: the file of columns.
        faces: number of rows.
        faults: what the unit said that it cannot use.
        corrupted: what could not be decoded or cut, each under its key.
    """

    path: Path
    faces: int
    faults: tuple[Fault, ...]
    corrupted: tuple[Fault, ...]

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Some columns, one row a face.

        Args:
            names: those of the index (`key`, `label`, ...), `votes`, `hash` (of `picture_hash`), or
                `path`, `start`, `length` and `checksum` of the bytes (start -1: they are not kept
                here, the file at `path` is stored as it is).
        """
        with np.load(self.path, allow_pickle=False) as found:
            return {name: found[name] for name in names}

    def encoded(self, rows: Iterable[int]) -> Iterator[bytes]:
        """The bytes to store of some rows, one after the other.

        Raises:
            FerJaxError: a picture is not what it was when it was looked at. The part is then gone,
                so that the next run looks again.
        """
        columns = self.columns("path", "start", "length", "checksum")
        with open(self.path.with_suffix(".faces"), "rb") as file:
            for row in rows:
                start, length = int(columns["start"][row]), int(columns["length"][row])
                path = Path(str(columns["path"][row]))
                try:
                    if start >= 0:
                        file.seek(start)
                        encoded = file.read(length)
                    else:
                        encoded = read_picture(path)
                    if zlib.crc32(encoded) != columns["checksum"][row]:
                        raise ImageError("has changed")
                except ImageError as error:
                    self.path.unlink(missing_ok=True)
                    raise FerJaxError(
                        f"{path}: {error}, since it was looked at; run again"
                    ) from error
                yield encoded


INDEX_COLUMNS = (
    "key",
    "split",
    "label",
    "voted",
    "subject",
    "video",
    "frame",
    "face_id",
    "source",
    "template",
    "score",
    "size",
    "sharpness",
)


def stage(
    units: Sequence[Unit], folder: Path, look: Look, num_classes: int, *, workers: int = 0
) -> list[Part]:
    """Looks at every unit that has not been looked at yet.

    Args:
        units: the collection.
        folder: where the parts are kept; made if missing.
        look: how.
        num_classes: length of the votes.
        workers: processes; 0 works in threads of this one.

    Returns:
        The parts, in the order of the units.

    Raises:
        FerJaxError: a worker died, or units share a name.
    """
    if len({unit.name for unit in units}) != len(units):
        raise FerJaxError("two parts of the collection have the same name; rename one")
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm.tqdm(
        total=sum(map(len, units)), desc="checking", unit="face", disable=not sys.stderr.isatty()
    ) as progress:
        waiting = []
        for unit in units:
            if _is_staged(unit, folder, look):
                progress.update(len(unit))
            else:
                waiting.append(unit)
        for unit in _done(waiting, folder, look, num_classes, workers):
            progress.update(len(unit))
    return [_load(unit, folder) for unit in units]


def _done(
    units: Sequence[Unit], folder: Path, look: Look, num_classes: int, workers: int
) -> Iterator[Unit]:
    if workers < 1:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for unit in units:
                _stage_one(unit, folder, look, num_classes, pool)
                yield unit
        return
    context = multiprocessing.get_context("spawn")  # forking after jax has threads may hang
    with concurrent.futures.ProcessPoolExecutor(workers, context, _quiet_worker) as pool:
        running = {
            pool.submit(_stage_one, unit, folder, look, num_classes, None): unit for unit in units
        }
        try:
            for future in concurrent.futures.as_completed(running):
                future.result()
                yield running[future]
        except concurrent.futures.process.BrokenProcessPool as error:
            raise FerJaxError(
                f"{folder}: a worker died, perhaps for want of memory; run again to go on, with "
                "fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _quiet_worker() -> None:
    cv2.setNumThreads(1)  # the workers are the parallelism


def _stage_one(
    unit: Unit,
    folder: Path,
    look: Look,
    num_classes: int,
    pool: concurrent.futures.Executor | None,
) -> None:
    # OpenCV releases the interpreter while it works. A few at a time: made pictures are in memory.
    measure = functools.partial(_measure, look=look)
    rows: list[_Seen] = []
    faults: list[Fault] = []
    corrupted: list[Fault] = []
    target = _file(unit, folder)
    kept = 0
    # Before the unit is read: a file that comes or changes meanwhile makes the part an old one.
    fingerprint = _fingerprint(unit, look)
    with atomic_file(target.with_suffix(".faces")) as partial, partial.open("wb") as file:
        for some in batched(unit.examples(), _THREADED if pool else 1):
            faults += [one for one in some if isinstance(one, Fault)]
            examples = [one for one in some if isinstance(one, Example)]
            for seen in (pool.map if pool else map)(measure, examples):
                if isinstance(seen, Fault):
                    corrupted.append(seen)
                    continue
                start = -1
                if seen.stored is not None:
                    file.write(seen.stored)
                    start, kept = kept, kept + len(seen.stored)
                rows.append(dataclasses.replace(seen, stored=None, start=start))
    with atomic_file(target) as partial, partial.open("wb") as file:
        np.savez(
            file,
            **_columns(rows, num_classes),
            **_fault_columns("_fault", faults),
            **_fault_columns("_corrupted", corrupted),
            _fingerprint=np.asarray(fingerprint),
            _scored=np.asarray(look.detect),
        )


@dataclasses.dataclass(frozen=True)
class _Seen:
    example: Example
    template: str
    size: int
    sharpness: float
    score: float
    hash: np.ndarray
    length: int
    checksum: int
    stored: bytes | None
    start: int = -1


def _measure(example: Example, look: Look) -> _Seen | Fault:
    try:
        encoded = example.read()
        image = decode_image(encoded)
        score = example.score
        if look.align and not example.template:
            found = align_picture(image, example.box, look.margin, look.align)
            image, score, size = found.face, found.score, example.size or round(found.side)
            stored = encode_image(image, lossless=is_lossless(encoded))
            template = template_name(look.align)
        elif example.box is None:
            stored = example.encoded
            template = example.template or look.template
            size = example.size or min(image.shape[:2])
        else:
            image = cut_square(image, example.box, look.margin)
            stored = encode_image(image, lossless=is_lossless(encoded))
            left, top, right, bottom = example.box
            template = f"box_square_{look.margin:g}"
            size = example.size or round(max(right - left, bottom - top))
    except ImageError as error:
        return Fault(example.key, str(error), example.split)
    if look.detect and np.isnan(score):
        score = _detector().best_score(image)
    bytes_to_store = encoded if stored is None else stored
    # The example's own bytes go to the file of the part; a list of thousands would hold them all.
    return _Seen(
        dataclasses.replace(example, encoded=None),
        template,
        size,
        sharpness(image),
        score,
        picture_hash(image),
        len(bytes_to_store),
        zlib.crc32(bytes_to_store),
        stored,
    )


@functools.cache
def _detector() -> Detector:
    return Detector()


def _columns(rows: Sequence[_Seen], num_classes: int) -> dict[str, np.ndarray]:
    examples = [row.example for row in rows]

    def text(values: Iterable[str]) -> np.ndarray:
        return np.asarray(list(values), np.str_)

    votes = np.zeros((len(rows), num_classes), np.float32)
    for row, example in enumerate(examples):
        if example.votes:
            votes[row] = example.votes
    return {
        "key": text(example.key for example in examples),
        "split": text(example.split for example in examples),
        "label": np.asarray([example.label for example in examples], np.int32),
        "voted": votes.any(axis=1),
        "subject": text(example.subject for example in examples),
        "video": text(example.video for example in examples),
        "frame": np.asarray([example.frame for example in examples], np.int32),
        "face_id": np.asarray([example.face_id for example in examples], np.int32),
        "source": text(example.source for example in examples),
        "template": text(row.template for row in rows),
        "score": np.asarray([row.score for row in rows], np.float32),
        "size": np.asarray([row.size for row in rows], np.int32),
        "sharpness": np.asarray([row.sharpness for row in rows], np.float32),
        "votes": votes,
        "hash": np.asarray([row.hash for row in rows], np.uint8).reshape(len(rows), 32),
        "path": text(os.fspath(example.path) for example in examples),
        "start": np.asarray([row.start for row in rows], np.int64),
        "length": np.asarray([row.length for row in rows], np.int64),
        "checksum": np.asarray([row.checksum for row in rows], np.uint32),
    }


def _fault_columns(prefix: str, faults: Sequence[Fault]) -> dict[str, np.ndarray]:
    return {
        f"{prefix}_{field}": np.asarray([getattr(fault, field) for fault in faults], np.str_)
        for field in ("name", "reason", "split")
    }


def _fingerprint(unit: Unit, look: Look) -> str:
    return f"{_FORMAT} {look.margin} {look.template} {look.align} {unit.fingerprint()}"


def _file(unit: Unit, folder: Path) -> Path:
    name = urllib.parse.quote(unit.name, safe=" ")
    if len(name) > 150:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()}"
    return folder / f"{name}.npz"


def _is_staged(unit: Unit, folder: Path, look: Look) -> bool:
    path = _file(unit, folder)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            kept = int(found["length"][found["start"] >= 0].sum())
            return (
                str(found["_fingerprint"]) == _fingerprint(unit, look)
                # A part with scores does for those who ask for none.
                and (bool(found["_scored"]) or not look.detect)
                and path.with_suffix(".faces").stat().st_size == kept
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def _load(unit: Unit, folder: Path) -> Part:
    path = _file(unit, folder)
    with np.load(path, allow_pickle=False) as found:
        faces = len(found["label"])
        fields = {
            prefix: [found[f"{prefix}_{field}"].tolist() for field in ("name", "reason", "split")]
            for prefix in ("_fault", "_corrupted")
        }
    faults, corrupted = (
        tuple(Fault(*values) for values in zip(*columns, strict=True))
        for columns in fields.values()
    )
    return Part(path, faces, faults, corrupted)
