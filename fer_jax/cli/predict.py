"""`fer-jax predict`: names the expression in pictures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import UsageError

_DESCRIPTION = """\
Writes one row for each picture: the most likely expression and the probability of each.

No face is searched for yet: a whole picture is taken as the face, so give pictures of one face
each, cut and aligned as the faces that the bundle was trained on.

A file that is no picture gets a row with the status no_face, a line on stderr, and the exit
code 1 when the table is written.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax predict",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", metavar="IMAGES", nargs="+", help="pictures, or folders of pictures")
    add("--bundle", metavar="B", required=True, help="folder of the bundle")
    add("--out", metavar="x.csv", required=True, help="table to write; replaced if it exists")
    add("--batch-size", type=int, metavar="N", help="faces at once (8 on a CPU, else 64)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code: 1 where a file was no picture.
    """
    arguments = _parser().parse_args(argv)
    from tqdm import tqdm

    from fer_jax.predict.images import find_images
    from fer_jax.predict.recognizer import load

    if Path(arguments.out).is_dir():
        raise UsageError(f"--out {arguments.out}: is a folder; name a file in it")
    # Before the bundle is loaded, since that takes seconds: is there what was named?
    images = [image for _, _, image in find_images(arguments.images)]
    problems = 0

    def tell(problem: str) -> None:
        nonlocal problems
        problems += 1
        tqdm.write(f"fer-jax predict: {problem}", file=sys.stderr)

    recognizer = load(arguments.bundle, batch_size=arguments.batch_size)
    table = recognizer.predict(images, on_problem=tell, progress=True)
    table.to_csv(arguments.out)
    print(_summary(table, arguments.out))
    return 1 if problems else 0


def _summary(table, out: str) -> str:
    """How many pictures were named what, most frequent first."""
    named = [name for name in table.labels.tolist() if name]
    counts = {name: named.count(name) for name in table.classes if name in named}
    words = [f"{name} {counts[name]}" for name in sorted(counts, key=counts.get, reverse=True)]
    without = len(table) - len(named)
    words += [f"no face {without}"] if without else []
    return f"{out}: {len(table)} rows: {', '.join(words)}"
