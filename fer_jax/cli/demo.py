"""`fer-jax demo`: every command once, on drawn faces, ending with a report."""

import argparse
from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax demo",
        description="Draws faces, prepares, converts, trains, scores and predicts: a tour in "
        "minutes, ending with OUT/report.html.",
    )
    add = parser.add_argument
    add("--out", default="demo", help="folder for everything it makes (%(default)s)")
    add("--identities", type=int, metavar="N", help="drawn people")
    add("--images", type=int, metavar="N", help="pictures of each")
    add("--epochs", type=int, metavar="N", help="of training")
    add("--seed", type=int, default=0, help="of everything (%(default)s)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax demo --help`."""
    arguments = _parser().parse_args(argv)

    from fer_jax.demo import run

    report = run.run_demo(
        arguments.out,
        identities=arguments.identities or run.IDENTITIES,
        images_per_identity=arguments.images or run.IMAGES_PER_IDENTITY,
        epochs=arguments.epochs,
        seed=arguments.seed,
    )
    print(f"\nThe report: {report.resolve()}")
    return 0
