"""`fer-jax train`: fine-tunes a bundle, or trains a fresh model, on prepared faces."""

import sys
from collections.abc import Sequence

_HELP = """usage: fer-jax train --config=FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Fine-tunes a bundle (or trains a fresh model) on data sets made by `fer-jax prepare`. With
configs/emotic_mae.py it is two views, their fusion, the search for the window, and the score.

  --config=FILE.py         a file with get_config(), such as those in configs/
  --config.FIELD=VALUE     changes one field, e.g. --config.optimizer.learning_rate=1e-3
  --workdir=DIR            gets config.json, log.jsonl, tensorboard/, checkpoints/ and bundle/;
                           started again on the same folder, the run goes on where it was
  --distributed=WHERE      several processes as one run, each started with this: auto on a TPU pod
                           or under SLURM, else HOST:PORT,COUNT,INDEX

The fields are described in fer_jax/train/config.py. Exit codes: 0 done, 1 a failure, 2 wrong use,
75 stopped by SIGTERM or the platform: started again, it goes on.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax train --help`."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        print(_HELP, end="")
        return 0
    from fer_jax.cli.configs import parse
    from fer_jax.recipes.two_view_config import TwoViewConfig
    from fer_jax.train.config import TrainConfig

    config, workdir = parse("train", argv, TrainConfig, TwoViewConfig, distributed=True)
    from fer_jax.train.preemption import stops_at_once

    with stops_at_once():
        if isinstance(config, TwoViewConfig):
            from fer_jax.recipes.two_view import run_two_view

            run_two_view(config, workdir, say=lambda line: print(line, file=sys.stderr))
        else:
            from fer_jax.train.finetune import finetune

            finetune(config, workdir)
    return 0
