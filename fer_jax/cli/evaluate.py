"""`fer-jax evaluate`: scores a bundle on a data set."""

import argparse
import sys
from collections.abc import Sequence

_DESCRIPTION = """\
Scores a bundle on every labelled face of one split, and writes to DIR:
  metrics.json   macro-F1, accuracy, F1 of each class, with bootstrap intervals; counts; what
                 was scored, with which weights, when
  table.md       the same to read; also printed
  confusion.png  what was taken for what

Where the bundle's label space is not the data's, the classes that both have are scored, and what
is left out is said.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax evaluate",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", metavar="B", required=True, help="folder of the bundle")
    add("--data", metavar="DATA", required=True, help="data set, made by `fer-jax prepare`")
    add("--split", default="validation", help="part of the data set (%(default)s)")
    add("--out", metavar="DIR", required=True, help="folder for the report")
    add("--batch-size", type=int, metavar="N", help="faces at once (8 on a CPU, else 64)")
    add("--overwrite", action="store_true", help="replace a report in DIR")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    from fer_jax.evaluate.evaluation import evaluate_bundle
    from fer_jax.evaluate.report import report_text

    metrics = evaluate_bundle(
        arguments.bundle,
        arguments.data,
        arguments.split,
        arguments.out,
        batch_size=arguments.batch_size,
        overwrite=arguments.overwrite,
        progress=True,
        say=lambda line: print(f"fer-jax evaluate: {line}", file=sys.stderr),
    )
    print(report_text(metrics), end="")
    return 0
