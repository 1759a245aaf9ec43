"""`fer-jax bench WHAT`: measures this machine, and says which bounds hold."""

import argparse
import json
from collections.abc import Sequence

from fer_jax.errors import UsageError

_CONVERT = """\
Measures `fer-jax convert`, without and with its proof, beside `cp` and `sha256sum` of the same
file: wall time and the peak of anonymous memory, each run in a process of its own, the cases in
turn, the file in the page cache. Two bounds are judged, for the conversions without the proof: the
time of cp + sha256sum + 3 s, and memory of 1.3 times the file. The exit code is 0 where one is
missed, too. Needs free disk space of three times the file. docs/performance.md has figures.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax bench", description="Measures this machine, and says which bounds hold."
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    convert = kinds.add_parser(
        "convert",
        help="a checkpoint of MAE-Face's size to a bundle: time and memory",
        description=_CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = convert.add_argument
    add("--file", metavar="FILE", help="a checkpoint; left out, one of MAE-Face's size is made")
    add("--repeats", type=int, default=5, metavar="N", help="runs of each case (%(default)s)")
    add("--json", action="store_true", help="for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax bench --help`."""
    options = _parser().parse_args(argv)
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats} must be at least 1")

    from fer_jax.bench.convert import bench_convert, table

    found = bench_convert(options.file, repeats=options.repeats)
    print(json.dumps(found, indent=2) if options.json else "\n".join(table(found)))
    return 0
