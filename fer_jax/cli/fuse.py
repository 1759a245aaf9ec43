"""`fer-jax fuse`: trains a fusion of the features of two views, or of any sources."""

from collections.abc import Sequence

_HELP = """usage: fer-jax fuse --config=FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Trains a fusion on frozen features.

  --config=FILE.py         a file with get_config(), such as configs/fuse_entry.py
  --config.sources=main=PATH,aux=PATH
                           the main source first; a path is a bundle (its features of config.data
                           are extracted first), a table of `fer-jax extract`, or an .npz with
                           `key` and `features`
  --config.FIELD=VALUE     changes one field, e.g. --config.model.variant=linear
  --workdir=DIR            gets features/, config.json, log.jsonl, tensorboard/, checkpoints/ and
                           bundle/; started again on the same folder, the run goes on where it was
  --distributed=WHERE      several processes as one run: auto on a TPU pod or under SLURM, else
                           HOST:PORT,COUNT,INDEX

The bundle holds both encoders and the fusion where the sources are main and aux, of bundles; else
the fusion alone. The fields are described in fer_jax/train/fuse_config.py. Exit codes: 0 done,
1 a failure, 2 wrong use, 75 stopped by SIGTERM or the platform: started again, it goes on.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax fuse --help`."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        print(_HELP, end="")
        return 0
    from fer_jax.cli.configs import parse
    from fer_jax.train.fuse_config import FuseConfig

    config, workdir = parse("fuse", argv, FuseConfig, distributed=True)

    from fer_jax.train.fuse import fuse
    from fer_jax.train.preemption import stops_at_once

    with stops_at_once():
        fuse(config, workdir)
    return 0
