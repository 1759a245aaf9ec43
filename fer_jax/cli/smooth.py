"""`fer-jax smooth`: filters predictions over time, or finds the filter that is worth most."""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax.errors import FerJaxError, UsageError

if TYPE_CHECKING:
    from fer_jax.predict.time_filter import Span

_DESCRIPTION = """\
Smooths predictions over the frames of each video.

  fer-jax smooth P [P ...] --window 101 --out DIR
      prediction tables with smoothed prob_ columns, into DIR under their own names. Every face is
      smoothed by itself; frames without a face weigh nothing, and in a video with one face they
      are filled (the column fill says how)
  fer-jax smooth P [P ...] --search --labels PATH --out DIR
      the filter with the best macro-F1 over all labelled frames, chosen among kernels x windows x
      strides. It is judged on left-out videos: for each of a few folds of the videos the choice is
      made on the others. PATH is a prepared data set, a folder of Aff-Wild2, or a CSV file with
      the columns video,frame,label; P may also be text files <video>/00001.jpg,...
      DIR gets
        search.json  the choice ("smoothing", what --bundle stores), scores of every filter and fold
        table.md     the gain, of each class too; also printed
        curve.png    macro-F1 over the window

Kernels: box, gaussian, triangular, exponential (weighted means), median, majority (of votes).
"""
_MARKER = "search.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax smooth",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("predictions", metavar="P", nargs="+", help="prediction tables; folders of .csv")
    add("--out", metavar="DIR", required=True, help="folder for what is written")
    add("--overwrite", action="store_true", help="replace files in DIR")
    add("--fill", metavar="METHOD", default="hold",
        help="frames without a face: hold, nearest, linear, prior (%(default)s)")  # fmt: skip
    add("--lookahead", type=int, metavar="FRAMES",
        help="how far a window reaches ahead; left out, it is centred")  # fmt: skip
    one = parser.add_argument_group("one filter")
    add = one.add_argument
    add("--kernel", help="(box)")
    add("--window", metavar="N", help="frames (odd if centred), or seconds: 101, 3.4s")
    add("--stride", metavar="N", help="evaluate every N frames or seconds (1)")
    add("--width", type=float, metavar="FRAMES",
        help="of a gaussian or exponential kernel; left out, a third of its reach")  # fmt: skip
    search = parser.add_argument_group("search")
    add = search.add_argument
    add("--search", action="store_true", help="find the best filter")
    add("--labels", "--annotations", metavar="PATH", help="what predictions are scored against")
    add("--split", help="part of the labels (validation)")
    add("--kernels", nargs="+", metavar="K", help="which to try (all)")
    add("--windows", nargs="+", type=int, metavar="N", help="frames, which to try (5 ... 1001)")
    add("--strides", nargs="+", type=int, metavar="N", help="which to try (1)")
    add("--folds", type=int, metavar="N", help="of videos (5)")
    add("--bundle", metavar="B", help="store the choice as this bundle's default")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax smooth --help`.

    Args:
        argv: the arguments after `smooth`.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(argv)
    _check(options)
    return _search(options) if options.search else _apply(options)


# The options of each way, and what they are where they are left out.
_ONE = {"kernel": "box", "window": None, "stride": "1", "width": None}
_SEARCH = {
    "labels": None, "split": "validation", "kernels": None, "windows": None, "strides": [1],
    "folds": 5, "bundle": None,
}  # fmt: skip


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for options of the other way, and puts in what was left out."""
    if options.search and not options.labels:
        raise UsageError("--labels is missing: a search needs something to score against")
    for name in _ONE if options.search else _SEARCH:
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name} is of one filter, --search tries --kernels, --windows, --strides; "
                f"leave --{name} out"
                if options.search
                else f"--{name} goes with --search; add it, or leave --{name} out"
            )
    for name, value in (_ONE | _SEARCH).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.search and options.folds < 2:
        raise UsageError(f"--folds {options.folds} must be at least 2")
    if not options.search and not options.window:
        raise UsageError("--window is missing; give one such as 101 or 3.4s, or --search for one")


def _try(options: argparse.Namespace, wished: Iterable[tuple[str, int]]) -> None:
    """Raises UsageError for filters that cannot be, before anything is read."""
    import numpy as np

    from fer_jax.ops.smoothing import smooth_probabilities

    nothing = np.zeros((0, 1), np.float32), np.zeros(0, np.float32)
    try:
        for kernel, window in wished:
            smooth_probabilities(
                *nothing, kernel=kernel, window=window, lookahead=options.lookahead,
                width=options.width, fill=options.fill, stride=min(options.strides),
            )  # fmt: skip
    except FerJaxError as error:
        raise UsageError(str(error)) from None


def _span(name: str, text: str) -> "Span":
    from fer_jax.predict.time_filter import Span

    seconds = text.endswith("s")
    try:
        number = float(text.removesuffix("s")) if seconds else int(text)
    except ValueError:
        number = -1
    if not 0 < number < math.inf:
        raise UsageError(f"--{name} {text}: must be frames such as 101, or seconds such as 3.4s")
    return Span(number, seconds)


def _apply(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fer_jax.evaluate.smooth_table import smooth_table
    from fer_jax.predict.table import read_csv
    from fer_jax.predict.time_filter import TableFilter

    filter_ = TableFilter(
        kernel=options.kernel,
        window=_span("window", options.window),
        stride=_span("stride", options.stride),
        lookahead=options.lookahead,
        width=options.width,
        fill=options.fill,
    )
    window = filter_.window.window(30.0)  # if it is of seconds, any rate makes it one that can be
    _try(options, [(options.kernel, window)])
    files = _tables(options.predictions)
    out = Path(options.out)
    targets = [out / file.name for file in files]
    for target in targets:
        if targets.count(target) > 1:
            raise UsageError(f"two tables are called {target.name}; smooth them one at a time")
        if target.exists() and not options.overwrite:
            raise UsageError(f"{target}: exists already; name another folder, or add --overwrite")
    for file, target in tqdm(list(zip(files, targets, strict=True)), unit="table", disable=None):
        table = smooth_table(read_csv(file), filter_)
        table.to_csv(target)
        filled = int((table.fill != "none").sum())
        tqdm.write(f"{target}: {len(table):,} rows, {filled:,} of them filled")
    return 0


def _tables(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path}: no .csv in this folder; name prediction tables")
        files += inside
    return files


def _search(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fer_jax.atomic import atomic_directory, check_free
    from fer_jax.evaluate.filters import WINDOWS, filters
    from fer_jax.evaluate.frames import read_frame_probabilities, read_labels, timeline
    from fer_jax.evaluate.window_picture import draw_search
    from fer_jax.evaluate.window_search import (
        check_smoothable,
        search_document,
        search_text,
        search_windows,
        store_smoothing,
    )
    from fer_jax.ops.smoothing import KERNELS

    kernels = options.kernels or KERNELS
    # A window that is shorter than its look-ahead cannot be; of those that nobody named, none is.
    shortest = (options.lookahead or 0) + 1
    windows = options.windows or [n for n in WINDOWS if n >= shortest] or WINDOWS
    _try(options, itertools.product(kernels, windows))
    tried = filters(kernels, windows, options.strides, options.lookahead)
    if options.bundle:
        check_smoothable(options.bundle)
    out = Path(options.out)
    check_free(out, marker=_MARKER, overwrite=options.overwrite)
    labels = read_labels(options.labels, options.split)
    joined = timeline(read_frame_probabilities(options.predictions), labels)
    found = search_windows(
        joined,
        tried,
        fill=options.fill,
        folds=options.folds,
        progress=lambda filters: tqdm(filters, unit="filter", disable=None),
    )
    document = search_document(found, joined, options.fill)
    document |= {"predictions": options.predictions, "labels": options.labels}
    text = search_text(document)
    with atomic_directory(out, marker=_MARKER, overwrite=options.overwrite) as partial:
        draw_search(partial / "curve.png", document)
        (partial / "table.md").write_text(text, encoding="utf-8")
        (partial / _MARKER).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(text, end="")
    if options.bundle:
        if note := store_smoothing(options.bundle, document["smoothing"]):
            print(f"fer-jax smooth: {note}", file=sys.stderr)
        print(f"fer-jax smooth: stored in {options.bundle}", file=sys.stderr)
    return 0
