"""Opens a data set of faces: its index, and its records by number."""

import functools
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from google.protobuf.message import DecodeError
from jaxtyping import Float32
from tensorflow_datasets.proto import tf_example_pb2

from fer_jax.data.shards import FORMAT, MARKER, NAME, VERSION
from fer_jax.data.splits import split_off
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, LabelSpace


class RecordReader:
    """Reads records by number; opened on first use, so that it travels cheaply to a worker."""

    def __init__(self, path: Path | epath.Path):
        self._path = path

    def __reduce__(self):
        return RecordReader, (self._path,)

    @functools.cached_property
    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.builder_from_directory(str(self._path / NAME / VERSION)).info

    @functools.cached_property
    def _records(self) -> ArrayRecordDataSource:
        # Row numbers run through the splits in the index's order, which is sorted.
        splits = self._info.splits
        files = [
            file.filename for split in sorted(splits) for file in splits[split].file_instructions
        ]
        # By name, so that the records of each file are counted, not taken from its description.
        return ArrayRecordDataSource(files)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> dict[str, Any]:
        record = self._records[int(row)]
        return self._info.features.deserialize_example_np(
            record, decoders={"image": tfds.decode.SkipDecoding()}
        )

    def image(self, row: int) -> bytes:
        """The encoded face of a record: ten times as fast as the whole of it.

        Raises:
            FerJaxError: the record is damaged.
        """
        return self._field(row, "image").bytes_list.value[0]

    def votes(self, row: int) -> Float32[np.ndarray, "class"]:
        """How many people named each class; zeros where nobody was asked.

        Raises:
            FerJaxError: the record is damaged.
        """
        return np.array(self._field(row, "votes").float_list.value, np.float32)

    def _field(self, row: int, name: str) -> Any:
        """One field of a record, by protobuf alone."""
        try:
            example = tf_example_pb2.Example.FromString(self._records[int(row)])
            if name not in example.features.feature:
                raise ValueError(f"no field {name}")
            return example.features.feature[name]
        except (DecodeError, OSError, RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0] if str(error) else repr(error)
            raise FerJaxError(
                f"{self._path} row {row}: the record is damaged ({line}); prepare the data again"
            ) from error


@runtime_checkable
class Indexed(Protocol):
    """Faces with an index: a data set, or a table of features of one.

    Attributes:
        path: its folder.
        label_space: what its labels mean.
        template: how the faces were aligned.
        index: one column a field, one row a face; see `FaceData`.
    """

    path: Path | epath.Path
    label_space: LabelSpace
    template: str
    index: dict[str, np.ndarray]


class FaceData:
    """A prepared data set.

    Attributes:
        path: its folder.
        label_space: what its labels mean.
        index: one numpy column a field, one row a face: `key`, `split`, `label` (int32, -1 =
            none), `voted` (bool: has votes), `subject`, `video`, `frame`, `source`, `template`,
            `size`, ...
        records: the faces themselves, by row number.
    """

    def __init__(
        self, path: Path | epath.Path, label_space: LabelSpace, index: dict[str, np.ndarray]
    ):
        self.path = path
        self.label_space = label_space
        self.index = index
        self.records = RecordReader(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "FaceData":
        """Opens what `fer-jax prepare` wrote.

        Args:
            path: the folder; `gs://...` where `gcsfs` is installed, see docs/data.md.

        Returns:
            The data set; no face is read yet.

        Raises:
            FerJaxError: there is no such folder, or it is not a data set, or not a whole one.
        """
        path = epath.Path(path) if "://" in os.fspath(path) else Path(path)
        remedy = "make one with `fer-jax prepare images`"
        try:
            there = path.is_dir()
        except ImportError as error:  # of the package that reads a bucket
            raise FerJaxError(f"{path}: {error}; or mount the bucket as a folder") from None
        if not there:
            raise FerJaxError(f"{path}: no such data set; {remedy}")
        try:
            description = json.loads((path / MARKER).read_text(encoding="utf-8"))
            found = description["format"]
            name, classes = description["label_space"], tuple(description["classes"])
        except FileNotFoundError:
            raise FerJaxError(f"{path}: has no {MARKER}, so is no data set; {remedy}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise FerJaxError(f"{path / 'faces.json'}: is damaged ({error!r}); {remedy}") from None
        if found != FORMAT:
            raise FerJaxError(f"{path}: format {found!r} is not {FORMAT!r}; {remedy} again")
        if name in LABEL_SPACES and LABEL_SPACES[name].classes != classes:
            raise FerJaxError(
                f"{path}: its classes {', '.join(classes)} are not those of the label space "
                f"{name}; {remedy} again"
            )
        try:
            with (path / "index.npz").open("rb") as file, np.load(file) as columns:
                index = {column: columns[column] for column in columns.files}
            data = cls(path, LabelSpace(name, classes), index)
            stored = len(data.records)
        except (OSError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
            line = str(error).splitlines()[0] if str(error) else repr(error)
            raise FerJaxError(f"{path}: is not a whole data set ({line}); {remedy} again") from None
        if stored != len(data):
            raise FerJaxError(
                f"{path}: index.npz lists {len(data)} faces, the shards hold {stored}; "
                f"{remedy} again"
            )
        # Data sets made before the column was there.
        index.setdefault("voted", np.zeros(len(data), bool))
        return data

    def __len__(self) -> int:
        return len(self.index["label"])

    def fingerprint(self) -> str:
        """SHA-256 of the index, the annotations, and the names and sizes of the shards."""
        digest = hashlib.sha256()
        for name, column in sorted(self.index.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(column).tobytes())
        annotations = self.path / "annotations.npz"
        if annotations.exists():
            digest.update(annotations.read_bytes())
        for path in sorted((self.path / NAME / VERSION).glob("*"), key=str):
            found = path.stat()
            size = found.st_size if hasattr(found, "st_size") else found.length  # of a bucket
            digest.update(f"{path.name} {size}".encode())
        return digest.hexdigest()

    @property
    def template(self) -> str:
        """How the faces were aligned; `mixed` if not all in one way."""
        templates = np.unique(self.index["template"])
        return str(templates[0]) if len(templates) == 1 else "mixed"


def select(data: Indexed, split: str, *, labelled: bool = True, voted: bool = False) -> np.ndarray:
    """The row numbers of one split.

    Args:
        data: the data set.
        split: its name.
        labelled: leave out faces without a label.
        voted: but keep those that have votes, such as a tie.

    Returns:
        int64 row numbers, ascending.

    Raises:
        FerJaxError: there is no such split, or it has no labelled face.
    """
    splits, counts = np.unique(data.index["split"], return_counts=True)
    if split not in splits:
        there = ", ".join(f"{name} ({n})" for name, n in zip(splits, counts, strict=True))
        raise FerJaxError(f"{data.path}: has no split {split!r}; its splits are {there}")
    mask = data.index["split"] == split
    if labelled:
        mask &= (data.index["label"] >= 0) | (voted & data.index["voted"])
    if not mask.any():
        raise FerJaxError(f"{data.path}: no face of split {split!r} has a label; name another one")
    return np.flatnonzero(mask)


def split_selection(
    data: Indexed, rows: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows in two, to train on one part and to select checkpoints on the other.

    Whole subjects go one way (where none is known: whole videos, else single faces), and the
    classes keep their shares as far as that allows.

    Args:
        data: the data set.
        rows: row numbers to split.
        fraction: of the rows, for the second part.
        seed: which rows.

    Returns:
        (training rows, selection rows), both in the given order; together they are all rows.

    Raises:
        FerJaxError: the fraction is not between 0 and 1, or all rows are of one subject.
    """
    rows = np.asarray(rows)
    subjects, videos = data.index["subject"][rows], data.index["video"][rows]
    # Prefixes keep a subject, a video and a key of the same name apart.
    groups = np.where(
        subjects != "",
        np.strings.add("s:", subjects),
        np.where(
            videos != "",
            np.strings.add("v:", videos),
            np.strings.add("k:", data.index["key"][rows]),
        ),
    )
    chosen = split_off(groups, data.index["label"][rows], fraction, seed)
    return rows[~chosen], rows[chosen]
