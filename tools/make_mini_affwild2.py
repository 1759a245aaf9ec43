"""Writes a small Aff-Wild2 of drawn people, with known faults, for tests and for trying things out.

    python tools/make_mini_affwild2.py mini/ --videos 40 --seed 0

40 videos take 40 seconds and 45 MB. What is wrong in the folder stands in its planted.json.
"""

import argparse
import sys

from fer_jax.data.mini_affwild2 import FAULTS, write_mini_affwild2
from fer_jax.errors import FerJaxError


def main(arguments: list[str] | None = None) -> int:
    """Writes the folder and says what was planted; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Writes a small Aff-Wild2 of drawn people, with known faults.",
        epilog=f"Faults: {', '.join(FAULTS)}.",
    )
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--videos", type=int, default=40, help="source videos, 5 or more (40)")
    parser.add_argument(
        "--frames",
        type=int,
        nargs=2,
        default=(60, 150),
        metavar=("FEWEST", "MOST"),
        help="frames of a video, 24 or more (60 150)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything (0)")
    parser.add_argument(
        "--faults",
        default="all",
        help="all; soft: what preparation copes with; none; or names with commas between (all)",
    )
    parser.add_argument(
        "--no-faults", dest="faults", action="store_const", const="none", help="as --faults none"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace such a folder")
    options = parser.parse_args(arguments)
    named = options.faults in ("all", "soft", "none")
    try:
        planted = write_mini_affwild2(
            options.out,
            videos=options.videos,
            frames=tuple(options.frames),
            seed=options.seed,
            faults=options.faults if named else options.faults.split(","),
            overwrite=options.overwrite,
        )
    except FerJaxError as error:
        print(f"make_mini_affwild2: {error}", file=sys.stderr)
        return 1
    images = sum(video.images for video in planted.videos)
    print(f"{options.out}: {len(planted.videos)} people, {images} aligned crops")
    for kind, marks in planted.faults.items():
        print(f"  {kind}: {len(marks)}")
    if planted.skipped:
        print(f"  no place for: {', '.join(planted.skipped)}; ask for more videos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
