"""The files of a report, written together, and where they may be written."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from fer_jax.atomic import atomic_file
from fer_jax.errors import FerJaxError

METRICS_FILE = "metrics.json"
TABLE_FILE = "table.md"
PICTURE_FILE = "confusion.png"
PAGE_FILE = "report.html"
PREDICTIONS_FILE = "predictions.csv"

# What metrics.json counts, and the files that only such a report has.
_OWN_FILES = {"images": (PICTURE_FILE,), "frames": (PAGE_FILE, PREDICTIONS_FILE)}


def check_free(out_dir: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuses a folder that holds a report, unless it may be replaced.

    Raises:
        FerJaxError: a report stands there.
    """
    if (path := Path(out_dir) / METRICS_FILE).exists() and not overwrite:
        raise FerJaxError(f"{path}: exists already; name another folder, or pass --overwrite")


@contextlib.contextmanager
def report_files(out_dir: str | os.PathLike[str], kind: str) -> Iterator[dict[str, Path]]:
    """Yields a path to write for each file of a report, which become the report without an error.

    Args:
        out_dir: the folder, made if missing. Other files in it stay, but for those of a report of
            the other kind that is replaced.
        kind: `images` or `frames`.

    Yields:
        The paths by the files' names.
    """
    out_dir = Path(out_dir)
    old = _kind_of(out_dir / METRICS_FILE)
    with contextlib.ExitStack() as files:
        # The first is renamed last: metrics.json says that there is a report.
        names = (METRICS_FILE, TABLE_FILE, *_OWN_FILES[kind])
        yield {name: files.enter_context(atomic_file(out_dir / name)) for name in names}
    for name in _OWN_FILES[old] if old and old != kind else ():
        (out_dir / name).unlink(missing_ok=True)


def _kind_of(path: Path) -> str:
    """Of the report that stands there; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return next((kind for kind in _OWN_FILES if isinstance(found, dict) and kind in found), "")
