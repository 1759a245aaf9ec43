"""`fer-jax extract`: the features of every face of a data set."""

import argparse
from collections.abc import Sequence

_DESCRIPTION = """\
Runs an encoder over every face of a data set, and writes to DIR:
  features.npy   one row a face, float32, in the order of the data set
  index.npz      key, split, label, video, frame, ... of each row
  votes.npy      the votes, where people voted
  features.json  the bundle's SHA-256, its view, the data set
Killed and started again, it goes on where it was. `fer-jax fuse` trains on such tables.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax extract",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", metavar="B", required=True, help="folder of the bundle")
    add("--data", metavar="DATA", required=True, help="data set, made by `fer-jax prepare`")
    add("--out", metavar="DIR", required=True, help="folder of the table")
    add("--model", default="main", help="which of the bundle's encoders (%(default)s)")
    add("--view", default="", help="cut this from the faces, not what the encoder was trained on")
    add("--patches", action="store_true", help="maps of patches instead of pooled features")
    add("--dtype", default="float32", help="of the table: float32 or float16 (%(default)s)")
    add("--compute", default="float32", help="float32 or bfloat16 (%(default)s)")
    add("--batch-size", type=int, metavar="N", help="faces at once (8 a CPU, else 64 a device)")
    add("--overwrite", action="store_true", help="replace a table in DIR")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax extract --help`."""
    options = _parser().parse_args(argv)
    from fer_jax.train.extract import describe, extract

    table = extract(
        options.bundle,
        options.data,
        options.out,
        model=options.model,
        view=options.view,
        patches=options.patches,
        dtype=options.dtype,
        compute=options.compute,
        batch_size=options.batch_size,
        overwrite=options.overwrite,
        progress=True,
    )
    found = describe(table)
    splits = ", ".join(f"{name} {count:,}" for name, count in found["splits"].items())
    print(f"{options.out}: {found['rows']:,} features of {found['width']} numbers ({splits})")
    return 0
