"""`fer-jax prepare images`: pictures and labels become a data set that trains fast."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fer_jax.errors import UsageError

if TYPE_CHECKING:
    from fer_jax.data.dataset import FaceData

_DESCRIPTION = """\
Stores labelled faces as a data set: DATA/faces (ArrayRecord shards), index.npz, faces.json.

SRC is a folder SRC/<class>/... or SRC/<split>/<class>/... whose class folders carry names of the
label space, such as happiness or Happy. Or, with --csv, a file says what is in SRC. Its columns:
  path, label            needed; path is relative to SRC, label a class name
  split                  train (if absent), validation, test, ...
  subject, video, frame  faces of one subject stay together when a part is split off
  source, confidence     the collection; the face detector's score
  box_left, box_top, box_right, box_bottom
                         the face in pixels: the square about it is cut out
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax prepare",
        description="Pictures and labels -> a data set that trains fast.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    images = kinds.add_parser(
        "images",
        help="a folder of pictures, or a CSV file of paths and labels",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = images.add_argument
    add("src", metavar="SRC", help="folder with the pictures")
    add("--out", metavar="DATA", required=True, help="folder to make")
    add("--labels", metavar="SPACE", required=True, help="label space, such as affwild2_expr, expw")
    add("--csv", metavar="FILE", help="CSV file that lists the pictures")
    add("--subject-column", metavar="NAME", help="CSV column that holds the subject (subject)")
    add("--margin", type=float, default=1.2, help="square side / longer box side (%(default)s)")
    add("--template", default="as_is", help="how faces without a box are aligned (%(default)s)")
    add(
        "--split-fraction",
        metavar="SPLIT=F",
        action="append",
        default=[],
        help="make a part of the training faces another split, such as validation=0.1",
    )
    add("--seed", type=int, default=0, help="which faces --split-fraction takes (%(default)s)")
    add("--skip-bad", action="store_true", help="leave out what cannot be used; see skipped.csv")
    add("--overwrite", action="store_true", help="replace DATA if it exists")
    return parser


def _fractions(texts: Sequence[str]) -> list[tuple[str, float]]:
    fractions = []
    for text in texts:
        split, _, number = text.partition("=")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not split or not 0 < fraction < 1:
            raise UsageError(f"--split-fraction {text!r} is not like validation=0.1")
        fractions.append((split, fraction))
    return fractions


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    fractions = _fractions(arguments.split_fraction)
    if arguments.subject_column and not arguments.csv:
        raise UsageError("--subject-column names a column of --csv FILE; pass that too")
    from fer_jax.labels import label_space

    space = label_space(arguments.labels)

    from fer_jax.data import image_folder
    from fer_jax.data.builder import build
    from fer_jax.data.dataset import FaceData

    if arguments.csv:
        examples, faults = image_folder.read_csv(
            arguments.csv,
            arguments.src,
            space,
            subject_column=arguments.subject_column or "subject",
        )
    else:
        examples, faults = image_folder.read_image_folder(arguments.src, space)
    for split, fraction in fractions:
        examples = image_folder.move_fraction(examples, split, fraction, arguments.seed)
    skipped = build(
        examples,
        faults,
        space,
        arguments.out,
        margin=arguments.margin,
        template=arguments.template,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    print(_summary(FaceData.open(arguments.out)))
    if skipped:
        print(
            f"fer-jax prepare: left out {len(skipped)}, see {arguments.out}/skipped.csv",
            file=sys.stderr,
        )
    return 0


def _summary(data: "FaceData") -> str:
    """How many faces of each class each split holds, as a table."""
    import numpy as np

    splits, labels = data.index["split"], data.index["label"]
    names = list(dict.fromkeys(splits.tolist()))
    header = [data.label_space.name, *names]
    rows = [
        [name, *(str(np.sum((splits == split) & (labels == label))) for split in names)]
        for label, name in enumerate(data.label_space.classes)
    ]
    rows.append(["all", *(str(np.sum(splits == split)) for split in names)])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [f"{data.path}: {len(data)} faces, {data.template}"]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
