"""`fer-jax distill`: a data set whose soft labels are a teacher's."""

import argparse
from collections.abc import Sequence

_DESCRIPTION = """\
Writes a data set again, its training faces with votes that a teacher has a share in, for a smaller
model to learn from:

  fer-jax distill data --teacher large/bundle --out taught
  fer-jax train --config=... --config.data=taught --config.loss.soft_labels=True --workdir=small

A face's own votes, else its label, have the rest of the share; a face with neither has the
teacher's votes alone. Labels, and other splits, stay as they are.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax distill",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="data set, made by `fer-jax prepare`")
    add("--teacher", metavar="B", required=True, help="folder of the teacher's bundle")
    add("--out", metavar="DIR", required=True, help="data set to make")
    add("--seen", metavar="DATA", help="the same faces as the teacher is to see them")
    add("--weight", type=float, default=0.5, help="the teacher's share (%(default)s)")
    add("--temperature", type=float, default=1.0, help="divides its logits (%(default)s)")
    add("--overwrite", action="store_true", help="replace a data set in DIR")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax distill --help`."""
    options = _parser().parse_args(argv)

    from fer_jax.cli.compiled import keep_compiled
    from fer_jax.recipes.distillation import distill

    keep_compiled()
    made = distill(
        options.data,
        options.teacher,
        options.out,
        seen=options.seen,
        weight=options.weight,
        temperature=options.temperature,
        overwrite=options.overwrite,
        progress=True,
    )
    agrees = (
        "" if made.agreement != made.agreement else f"; it names {made.agreement:.1%} of labels"
    )
    print(f"{options.out}: {made.faces:,} training faces with the teacher's votes{agrees}")
    return 0
