"""`fer-jax inspect`: what a checkpoint or a bundle holds."""

import argparse
import json
from collections.abc import Sequence


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax inspect",
        description="Says what a .pth or .safetensors file or a bundle holds: family, size, "
        "parameters, dtypes, head, labels, hash. Nothing in the file is run.",
    )
    add = parser.add_argument
    add("path", metavar="FILE_OR_BUNDLE", help="the checkpoint, or the bundle's folder")
    add("--json", action="store_true", help="for programs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax inspect --help`."""
    options = _parser().parse_args(argv)

    from fer_jax.convert.inspection import describe, inspect_path

    found = inspect_path(options.path)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(describe(found)))
    return 0
