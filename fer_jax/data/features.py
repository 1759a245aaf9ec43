"""Features of faces on disk: one row a face, in the order of the data set that they were made of.

A table is a folder: `features.npy`, `index.npz` (the data set's columns that training needs),
`votes.npy` where people voted, and `features.json`, which says what made it. A file of one's own
serves as well: an .npz with `key` and `features`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

from fer_jax.atomic import atomic_file, check_free
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, LabelSpace

FORMAT = "fer_jax features"
FORMAT_VERSION = 1
DTYPES = ("float32", "float16")
# Of a data set's index; the others are about pictures.
COLUMNS = ("key", "split", "label", "subject", "video", "frame", "source", "voted")

_DOCUMENT = "features.json"
_FEATURES = "features.npy"
_INDEX = "index.npz"
_VOTES = "votes.npy"
_PROGRESS = "progress.json"


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features by face.

    Attributes:
        path: where they were read.
        features: float32 or float16 `[rows, width]`, or `[rows, h, w, width]` of patch maps;
            mapped, so that only what is asked for is read.
        index: one column a field of `COLUMNS`, one row a face; only `key` in a file of one's own.
        votes: float32 `[rows, classes]`, or None where nobody voted.
        label_space: what the labels mean, None in a file of one's own.
        about: what made them: bundle, its SHA-256, view, data set.
    """

    path: Path
    features: Float[np.ndarray, "n *_ width"]
    index: dict[str, np.ndarray]
    votes: Float32[np.ndarray, "n classes"] | None
    label_space: LabelSpace | None
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def template(self) -> str:
        """How the faces were aligned; `unknown` in a file of one's own."""
        return self.about.get("template", "unknown")

    @property
    def width(self) -> int:
        """Numbers in a feature."""
        return self.features.shape[-1]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "FeatureTable":
        """Opens a table that `fer-jax extract` wrote, or an .npz with `key` and `features`.

        Raises:
            FerJaxError: neither of them, or its parts contradict each other.
        """
        path = Path(path)
        try:
            return _read_folder(path) if path.is_dir() else _read_file(path)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            detail = getattr(error, "strerror", None) or str(error).split("\n")[0] or repr(error)
            raise FerJaxError(
                f"{path}: is no table of features ({detail}); `fer-jax extract` makes one, and an "
                ".npz with `key` and `features` is one"
            ) from None

    def rows_of(self, keys: Shaped[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
        """The row of each key.

        Raises:
            FerJaxError: a key has no row.
        """
        order = np.argsort(self.index["key"], kind="stable")
        known = self.index["key"][order]
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        missing = known[place] != keys
        if missing.any():
            raise FerJaxError(
                f"{self.path}: has no features of {int(missing.sum()):,} of {len(keys):,} faces, "
                f"such as {keys[missing][0]}; extract them of the same data set"
            )
        return order[place]


def joined(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Tables of several data sets as one, read into memory; one table is itself.

    Args:
        tables: made by the same encoder. Keys get the number of their table before them (`0/`,
            `1/`, ...), as data sets may use the same ones.

    Returns:
        All rows, table after table.

    Raises:
        FerJaxError: the encoders, the kinds of features or the label spaces differ.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables[1:]:
        for what in ("bundle", "view", "kind", "compute"):
            if _made_by(table, what) != _made_by(first, what):
                raise FerJaxError(
                    f"{table.path}: is of another {what} than {first.path}; extract both by the "
                    "same bundle with the same options"
                )
        if table.label_space != first.label_space or table.index.keys() != first.index.keys():
            raise FerJaxError(
                f"{table.path}: has other labels than {first.path}; prepare both data sets with "
                "one --labels"
            )
        if table.features.shape[1:] != first.features.shape[1:]:
            raise FerJaxError(
                f"{table.path}: its features are {table.features.shape[1:]}, those of {first.path} "
                f"{first.features.shape[1:]}; extract both by the same bundle"
            )
    index = {name: np.concatenate([table.index[name] for table in tables]) for name in first.index}
    index["key"] = np.concatenate(
        [np.char.add(f"{number}/", table.index["key"]) for number, table in enumerate(tables)]
    )
    votes = None
    if any(table.votes is not None for table in tables):
        none = np.zeros((1, len(first.label_space)), np.float32)
        votes = np.concatenate(
            [none.repeat(len(t), axis=0) if t.votes is None else t.votes for t in tables]
        )
    about = first.about | {"data": [table.about.get("data") for table in tables]}
    templates = {table.template for table in tables}
    about["template"] = first.template if len(templates) == 1 else "mixed"
    features = np.concatenate([table.features for table in tables])
    return FeatureTable(first.path, features, index, votes, first.label_space, about)


def _made_by(table: FeatureTable, what: str) -> Any:
    """What made a table; a bundle is what it holds, not where it lies."""
    found = table.about.get(what)
    return (found["sha256"], found["model"]) if what == "bundle" and found else found


class FeatureWriter:
    """Fills a table row by row; killed, the next one goes on where the last whole part ended.

    What is unfinished lies in `OUT.partial` and is trusted only for the same `about`.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: str, about: dict[str, Any]
    ) -> None:
        """Opens what an earlier run left, or begins anew."""
        self._folder = path.with_name(f"{path.name}.partial")
        self._about = about
        features = self._folder / _FEATURES
        self.done = self._left() if features.exists() else 0
        if not self.done:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        self._features = np.lib.format.open_memmap(
            features, mode="r+" if self.done else "w+", dtype=dtype, shape=shape
        )

    def _left(self) -> int:
        """How many rows are there already, of the same features."""
        try:
            progress = json.loads((self._folder / _PROGRESS).read_text(encoding="utf-8"))
            shape = np.load(self._folder / _FEATURES, mmap_mode="r").shape
        except (OSError, ValueError):
            return 0
        same = progress.get("about") == self._about and progress["rows"] <= shape[0]
        return progress["rows"] if same else 0

    def write(self, rows: Float[np.ndarray, "k *_ width"]) -> None:
        """The next rows."""
        self._features[self.done : self.done + len(rows)] = rows
        self.done += len(rows)

    def save(self) -> None:
        """Makes what was written so far safe; call it now and then."""
        self._features.flush()
        with atomic_file(self._folder / _PROGRESS) as partial:
            document = {"about": self._about, "rows": self.done}
            partial.write_text(json.dumps(document), encoding="utf-8")

    def finish(
        self,
        path: Path,
        index: dict[str, np.ndarray],
        votes: Float32[np.ndarray, "n classes"] | None,
        labels: LabelSpace,
    ) -> None:
        """Moves the whole table to its place; one that stands there is replaced."""
        self._features.flush()
        del self._features
        np.savez(self._folder / _INDEX, **{name: index[name] for name in COLUMNS})
        if votes is not None:
            np.save(self._folder / _VOTES, votes)
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "labels": {"space": labels.name, "classes": list(labels.classes)},
            **self._about,
        }
        (self._folder / _DOCUMENT).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        (self._folder / _PROGRESS).unlink(missing_ok=True)
        if path.exists():
            shutil.rmtree(path)
        os.replace(self._folder, path)


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuses to write a table over something else; or over a table, unless told to."""
    check_free(path, marker=_DOCUMENT, overwrite=overwrite)


@contextlib.contextmanager
def saving(writer: FeatureWriter) -> Iterator[FeatureWriter]:
    """Saves what a writer has when the block is left by an error or an interruption."""
    try:
        yield writer
    except BaseException:
        writer.save()
        raise


def _read_folder(path: Path) -> FeatureTable:
    about = json.loads((path / _DOCUMENT).read_text(encoding="utf-8"))
    if about.get("format") != FORMAT or about.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{_DOCUMENT} is of another format")
    space = about.pop("labels")
    labels = LabelSpace(space["space"], tuple(space["classes"]))
    if LABEL_SPACES.get(labels.name) != labels:
        raise ValueError(f"the label space {labels.name} is not known")
    with np.load(path / _INDEX) as columns:
        index = {name: columns[name] for name in COLUMNS}
    votes = np.load(path / _VOTES) if (path / _VOTES).exists() else None
    features = np.load(path / _FEATURES, mmap_mode="r")
    return _checked(path, features, index, votes, labels, about)


def _read_file(path: Path) -> FeatureTable:
    with path.open("rb") as file, np.load(file) as columns:
        key, features = columns["key"].astype(np.str_), columns["features"]
    about = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return _checked(path, features, {"key": key}, None, None, about)


def _checked(
    path: Path,
    features: np.ndarray,
    index: dict[str, np.ndarray],
    votes: np.ndarray | None,
    labels: LabelSpace | None,
    about: dict[str, Any],
) -> FeatureTable:
    if features.ndim not in (2, 4) or features.dtype.name not in (*DTYPES, "float64"):
        raise ValueError(f"features are {features.dtype} {features.shape}, not float rows")
    if features.dtype == np.float64:
        features = features.astype(np.float32)
    if len(index["key"]) != len(features):
        raise ValueError(f"{len(index['key'])} keys and {len(features)} rows of features")
    if len(np.unique(index["key"])) != len(features):
        raise ValueError("a key stands there twice")
    return FeatureTable(path, features, index, votes, labels, about)
