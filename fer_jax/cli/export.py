"""`fer-jax export`: a bundle becomes one file that runs with JAX alone."""

import argparse
from collections.abc import Sequence

_EXAMPLES = """\
examples:
  fer-jax export run/bundle model.stablehlo
  fer-jax export run/bundle model.stablehlo --faces faces/validation --platforms cpu,cuda
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax export",
        description="Writes a bundle as one file of StableHLO, weights and preprocessing inside, "
        "which JAX runs on CPUs, TPUs and NVIDIA GPUs without fer_jax, for any number of faces at "
        "once. OUT.json beside it says what goes in and what comes out. The file is read back and "
        "compared with the bundle first, on its golden sample and on 100 faces; what differs by "
        "more than 1e-6 is not written. Exit code 0, 1 for a failure, 2 for wrong use.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="its folder")
    add("out", metavar="OUT.stablehlo", help="the file to write; OUT.json is written beside it")
    add(
        "--face-size",
        type=int,
        metavar="N",
        help="side of the aligned faces that go in, pixels; left out, that of the template of the "
        "bundle, or 112",
    )
    add(
        "--platforms",
        default="cpu,tpu,cuda",
        metavar="NAMES",
        help="what it can run on; %(default)s",
    )
    add("--faces", metavar="FOLDER", help="compare on pictures of aligned faces, not on drawn ones")
    add("--overwrite", action="store_true", help="replace the two files if they exist")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax export --help`."""
    options = _parser().parse_args(argv)

    from fer_jax.export.stablehlo import export_file

    lines = export_file(
        options.bundle,
        options.out,
        face_size=options.face_size,
        platforms=[name.strip() for name in options.platforms.split(",")],
        faces=options.faces,
        overwrite=options.overwrite,
    )
    print("\n".join(lines))
    return 0
