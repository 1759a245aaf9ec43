"""`fer-jax doctor`: what is in Aff-Wild2, and what is wrong with it."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import UsageError

_DESCRIPTION = """\
Examines Aff-Wild2 as it was unpacked below ROOT: annotations, crops, videos, test list and sample
file are found by their names, at any depth. For each split it counts videos, labels and pictures,
and says what is wrong:
  errors    training would silently take something wrong; the exit code is then 1
  warnings  to be known: what is broken is left out by `fer-jax prepare`
  notes     as it usually is

--out DIR writes doctor.json (everything) and doctor.html (to look at, one file).
"""

_MOST_WORKERS = 8  # more wait for each other: only decoding runs beside Python


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax doctor",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("root", metavar="ROOT", help="folder that Aff-Wild2 was unpacked into")
    add("--out", metavar="DIR", help="folder for doctor.json and doctor.html")
    add("--json", action="store_true", help="print JSON instead of the report")
    add("--names-only", action="store_true", help="count by names; no picture is opened (fast)")
    add("--faces", action="store_true", help="find what is no face, too (3 ms a picture)")
    add("--crops", choices=("cropped_aligned", "cropped"), help="which pictures (the aligned)")
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    add("--workers", type=int, default=workers, metavar="N", help="threads (%(default)s)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    if arguments.workers < 1:
        raise UsageError(f"--workers {arguments.workers} decodes nothing; give 1 or more")
    if arguments.faces and arguments.names_only:
        raise UsageError("--faces needs the pictures, --names-only does not open them; drop one")

    from fer_jax.data.doctor import examine
    from fer_jax.data.doctor_page import write_page
    from fer_jax.data.doctor_report import as_dict, report_text, write_json

    examination = examine(
        arguments.root,
        crops=arguments.crops,
        open_pictures=not arguments.names_only,
        find_faces=arguments.faces,
        workers=arguments.workers,
        progress=True,
    )
    if arguments.json:
        print(json.dumps(as_dict(examination), indent=1))
    else:
        print(report_text(examination), end="")
    if arguments.out:
        folder = Path(arguments.out)
        write_json(folder / "doctor.json", examination)
        write_page(folder / "doctor.html", examination)
        print(f"fer-jax doctor: wrote {folder}/doctor.json, doctor.html", file=sys.stderr)
    return int(examination.failed)
