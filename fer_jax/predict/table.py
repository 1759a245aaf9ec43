"""The prediction table: one row for every frame and face, the same in memory, as CSV, in pandas."""

import contextlib
import csv
import dataclasses
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.errors import FerJaxError

if TYPE_CHECKING:
    import pandas

STATUSES = ("ok", "no_face", "low_quality")
DROP = "drop_"  # what the names of columns begin with that only say why: readers pass them over
FILLS = ("none", "hold", "nearest", "linear", "prior")

# File names may hold bytes that are no text: they are passed through as they are.
_CSV = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}

Column = np.ndarray | Sequence[Any]

_ROWS = 8192  # turned to text at once
_FIRST = ("video", "frame", "time_s", "face_id", "box_x", "box_y", "box_w", "box_h", "status")
_LAST = ("label", "confidence")


@dataclasses.dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predictions, one row for every frame and face; a frame without a face has one row too.

    Attributes:
        classes: display names, in the order of the columns of `raw` and `prob`.
        video: where the row comes from: the path of a video or of an image.
        frame: counted from 1, int64.
        time_s: seconds from the start, float64; 0 for an image.
        face_id: which face; -1 where there is none, int64.
        box: (left, top, width, height) in pixels, float64 `[rows, 4]`; NaN where there is none.
        status: `ok` | `no_face` | `low_quality`.
        fill: how a row without a face got its probabilities: `none` | `hold` | `nearest` |
            `linear` | `prior`.
        raw: probabilities of the single frame, float32 `[rows, classes]`; NaN where there is none.
        prob: the same after smoothing over time.
        label: the index of the largest `prob`, int32; -1 where there is none.
        confidence: that `prob`, float32.
    """

    classes: tuple[str, ...]
    video: np.ndarray
    frame: np.ndarray
    time_s: np.ndarray
    face_id: np.ndarray
    box: np.ndarray
    status: np.ndarray
    fill: np.ndarray
    raw: np.ndarray
    prob: np.ndarray
    label: np.ndarray
    confidence: np.ndarray

    @classmethod
    def from_probabilities(
        cls,
        classes: Sequence[str],
        *,
        video: Column,
        frame: Column,
        time_s: Column,
        face_id: Column,
        box: Column,
        status: Column,
        fill: Column,
        raw: Column,
        prob: Column | None = None,
    ) -> "PredictionTable":
        """Builds a table, with label and confidence taken from the probabilities.

        Args:
            classes: display names.
            video: see the class, as are the other columns.
            frame: counted from 1.
            time_s: seconds.
            face_id: -1 where there is none.
            box: `[rows, 4]`.
            status: one of `STATUSES` each.
            fill: one of `FILLS` each.
            raw: `[rows, classes]`, a row of NaN where there is no prediction.
            prob: smoothed; none means that nothing was smoothed.

        Returns:
            The table.

        Raises:
            FerJaxError: columns of different lengths, or an unknown status or fill.
        """
        raw = np.asarray(raw, np.float32).reshape(len(video), len(classes))
        prob = raw if prob is None else np.asarray(prob, np.float32).reshape(raw.shape)
        label, confidence = _decide(prob)
        return cls(
            classes=tuple(classes),
            video=np.asarray(video, object),
            frame=np.asarray(frame, np.int64),
            time_s=np.asarray(time_s, np.float64),
            face_id=np.asarray(face_id, np.int64),
            box=np.asarray(box, np.float64).reshape(-1, 4),
            status=np.asarray(status, object),
            fill=np.asarray(fill, object),
            raw=raw,
            prob=prob,
            label=label,
            confidence=confidence,
        )

    def __post_init__(self):
        lengths = {
            field.name: len(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "classes"
        }
        if len(set(lengths.values())) > 1:
            raise FerJaxError(f"prediction table: columns of different lengths: {lengths}")
        for name, known in (("status", STATUSES), ("fill", FILLS)):
            wrong = set(getattr(self, name).tolist()) - set(known)
            if wrong:
                raise FerJaxError(
                    f"prediction table: {name} {sorted(wrong)[0]!r}; one of {', '.join(known)}"
                )

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, rows: slice | np.ndarray) -> "PredictionTable":
        """Some of the rows, by a slice, a mask or their numbers."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "classes"]
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def labels(self) -> np.ndarray:
        """The predicted classes by name, empty where there is none."""
        return np.asarray((*self.classes, ""), object)[self.label]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of the CSV file."""
        return _columns(self.classes)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns by name, in the order of the CSV file; `label` by name of the class."""
        columns: list[np.ndarray] = [self.video, self.frame, self.time_s, self.face_id]
        columns += [*self.box.T, self.status, self.fill, *self.raw.T, *self.prob.T]
        columns += [self.labels, self.confidence]
        return dict(zip(self.columns, columns, strict=True))

    def to_csv(
        self, path: str | os.PathLike[str], more: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Writes the table; numbers are written so that they read back exactly, NaN as nothing.

        Args:
            path: the file; written aside and renamed, so it is whole or it is not there.
            more: columns to write after the table's own, their names beginning with `drop_`:
                `read_csv` passes over them.
        """
        more = dict(more or {})
        with atomic_file(path) as partial, open_table(partial) as file:
            file.write(csv_header((*self.columns, *more)))
            for start in range(0, len(self), _ROWS):
                rows = slice(start, start + _ROWS)
                file.write(
                    self[rows].csv_rows({name: values[rows] for name, values in more.items()})
                )

    def csv_rows(self, more: Mapping[str, np.ndarray] | None = None) -> str:
        """The rows as they stand in a CSV file, each with its end of line.

        Args:
            more: as of `to_csv`.
        """
        columns = self.to_dict() | dict(more or {})
        texts = [_texts(column) for column in columns.values()]
        return "".join(",".join(row) + "\n" for row in zip(*texts, strict=True))

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a DataFrame.

        Returns:
            One column for each of `columns`.

        Raises:
            FerJaxError: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise FerJaxError(
                "pandas is not installed, and a DataFrame needs it; run `pip install "
                "'fer-jax[pandas]'`, or use .to_dict()"
            )
        import pandas

        # With its dtype said, a column of texts stays one of objects: pandas' own strings cannot
        # hold file names that are no UTF-8.
        columns = self.to_dict().items()
        return pandas.DataFrame({k: pandas.Series(v, dtype=v.dtype) for k, v in columns})


def open_table(path: str | os.PathLike[str]) -> IO[str]:
    """Opens a file to write rows into; names of files that are no text pass as they are."""
    return open(path, "w", **_CSV)


def csv_header(columns: Iterable[str]) -> str:
    """The first line of a CSV file."""
    return ",".join(map(_quoted, columns)) + "\n"


@contextlib.contextmanager
def open_csv(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a CSV file that anybody may have written; a byte-order mark is passed over.

    Args:
        path: the file.

    Yields:
        A `csv.reader` of its rows.

    Raises:
        FerJaxError: what is read of it within the block is no CSV.
    """
    with open(path, **_CSV | {"encoding": "utf-8-sig"}) as file:
        reader = csv.reader(file)
        try:
            yield reader
        except csv.Error as error:
            raise FerJaxError(
                f"{path}, line {reader.line_num}: no CSV ({error}); write the file again"
            ) from None


def read_csv(path: str | os.PathLike[str]) -> PredictionTable:
    """Reads a prediction table that `PredictionTable.to_csv` wrote; columns `drop_...` are skipped.

    Args:
        path: the file.

    Returns:
        The table, equal to the one that was written, bit for bit.

    Raises:
        FerJaxError: a column is missing or out of place, or a value is not what it must be.
    """
    path = Path(path)
    with open_csv(path) as reader:
        header = tuple(next(reader, ()))
        classes = tuple(name[len("raw_") :] for name in header if name.startswith("raw_"))
        own = _columns(classes)
        extra = header[len(own) :]
        if not classes or header[: len(own)] != own or not all(n.startswith(DROP) for n in extra):
            expected = _columns(classes or ("<Class>",))
            strange = [name for name in expected if name not in header] or [
                have for have, want in zip(header, expected, strict=False) if have != want
            ]
            raise FerJaxError(
                f"{path}: not a prediction table, its header differs at column "
                f"{(strange or header[len(expected) :])[0]!r}; write one with `fer-jax predict`"
            )
        rows = []
        for row in reader:
            if len(row) != len(header):
                raise FerJaxError(
                    f"{path}, row {len(rows) + 1}: {len(row)} values for {len(header)} columns; "
                    "write the file again"
                )
            rows.append(row)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}
    column = _Column(path, columns)
    label_of = {name: index for index, name in enumerate(classes)} | {"": -1}
    try:
        label = [label_of[name] for name in columns.get("label", ())]
    except KeyError as error:
        raise FerJaxError(
            f"{path}: label {error.args[0]!r} is not among the columns; one of {', '.join(classes)}"
        ) from None
    return PredictionTable(
        classes=classes,
        video=column.texts("video"),
        frame=column.numbers("frame", np.int64),
        time_s=column.numbers("time_s", np.float64),
        face_id=column.numbers("face_id", np.int64),
        box=column.stack(("box_x", "box_y", "box_w", "box_h"), np.float64),
        status=column.texts("status"),
        fill=column.texts("fill"),
        raw=column.stack([f"raw_{name}" for name in classes], np.float32),
        prob=column.stack([f"prob_{name}" for name in classes], np.float32),
        label=np.asarray(label, np.int32),
        confidence=column.numbers("confidence", np.float32),
    )


def concatenated(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Tables of the same classes, one after the other; at least one."""
    names = [field.name for field in dataclasses.fields(PredictionTable) if field.name != "classes"]
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    return PredictionTable(classes=tables[0].classes, **columns)


class _Column:
    """The text columns of a file, turned into arrays."""

    def __init__(self, path: Path, columns: dict[str, tuple[str, ...]]):
        self.path, self.columns = path, columns

    def texts(self, name: str) -> np.ndarray:
        return np.asarray(self.columns.get(name, ()), object)

    def numbers(self, name: str, dtype: Any) -> np.ndarray:
        numbers = []
        for row, value in enumerate(self.columns.get(name, ())):
            try:
                numbers.append(dtype(value) if value or dtype is np.int64 else np.nan)
            except (ValueError, OverflowError):
                raise FerJaxError(
                    f"{self.path}, row {row + 1}: {name} is {value!r}, not a number; "
                    "write the file again"
                ) from None
        return np.asarray(numbers, dtype)

    def stack(self, names: Sequence[str], dtype: Any) -> np.ndarray:
        columns = [self.numbers(name, dtype) for name in names]
        return np.stack(columns, axis=-1)


def _columns(classes: Sequence[str]) -> tuple[str, ...]:
    raw = (f"raw_{name}" for name in classes)
    prob = (f"prob_{name}" for name in classes)
    return (*_FIRST, "fill", *raw, *prob, *_LAST)


def _decide(prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(prob).any(axis=1)
    prob = np.where(known[:, None], prob, 0)
    label = np.where(known, prob.argmax(axis=1), -1)
    confidence = np.where(known, prob.max(axis=1), np.float32(np.nan))
    return label.astype(np.int32), confidence.astype(np.float32)


def _quoted(text: str) -> str:
    # By hand, since csv.writer of Python 3.11 leaves a bare carriage return unquoted.
    if any(mark in text for mark in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _texts(column: np.ndarray) -> list[str]:
    if column.dtype == object:
        return [_quoted(str(value)) for value in column]
    # numpy prints the shortest digits that read back to the same number of its own width.
    texts = column.astype(str)
    return (np.where(np.isnan(column), "", texts) if column.dtype.kind == "f" else texts).tolist()
