"""Prediction tables to files, row after row: CSV or JSON lines."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fer_jax.atomic import atomic_file
from fer_jax.errors import UsageError
from fer_jax.predict.table import PredictionTable, csv_header, open_table

TABLE_EXTENSIONS = (".csv", ".jsonl")


class TableFile:
    """A table that is written as its rows come; whole when it is closed, or not there.

        with TableFile(path) as file:
            file.write(table)

    Args:
        path: ends with .csv or .jsonl.
        growing: write under the name itself from the start, and let go of each row at once, so that
            whoever watches a camera has what there was.

    Raises:
        UsageError: another extension.
    """

    def __init__(self, path: str | os.PathLike[str], *, growing: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix not in TABLE_EXTENSIONS:
            raise UsageError(f"{path}: must end with {' or '.join(TABLE_EXTENSIONS)}")
        self.rows = 0
        self._growing = growing
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> "TableFile":
        with contextlib.ExitStack() as stack:
            path = self.path if self._growing else stack.enter_context(atomic_file(self.path))
            self._file = stack.enter_context(open_table(path))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, table: PredictionTable) -> None:
        """Adds the rows of a table."""
        if self.path.suffix == ".csv":
            if not self.rows:
                self._file.write(csv_header(table.columns))
            self._file.write(table.csv_rows())
        else:
            self._file.writelines(f"{json.dumps(row)}\n" for row in json_rows(table))
        self.rows += len(table)
        if self._growing:
            self._file.flush()


def json_rows(table: PredictionTable) -> Iterator[dict[str, Any]]:
    """The rows as JSON objects: `box`, `raw` and `prob` are null where there is nothing."""
    columns = {
        "time_s": table.time_s.tolist(),
        "box": table.box.tolist(),
        "raw": table.raw.tolist(),
        "prob": table.prob.tolist(),
        "confidence": table.confidence.tolist(),
    }
    labels = table.labels
    for index in range(len(table)):
        box, raw, prob = (columns[name][index] for name in ("box", "raw", "prob"))
        yield {
            "video": str(table.video[index]),
            "frame": int(table.frame[index]),
            "time_s": _number(columns["time_s"][index]),
            "face_id": int(table.face_id[index]),
            "box": None if math.isnan(box[0]) else box,
            "status": table.status[index],
            "fill": table.fill[index],
            "raw": _by_class(table.classes, raw),
            "prob": _by_class(table.classes, prob),
            "label": labels[index] or None,
            "confidence": _number(columns["confidence"][index]),
        }


def _by_class(classes: tuple[str, ...], row: list[float]) -> dict[str, float] | None:
    return None if math.isnan(row[0]) else dict(zip(classes, row, strict=True))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
