"""`fer-jax pretrain`: masked pre-training of an encoder on faces without labels."""

from collections.abc import Sequence

_HELP = """usage: fer-jax pretrain --config=FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Hides most patches of each face and learns to paint them (a masked autoencoder, MAE), on data sets
made by `fer-jax prepare`; labels are not needed. Begins from nothing, or from a bundle
(--config.backbone=DIR) with a whole MAE, MAE-Face or an encoder such as DINOv2's. The result, a
bundle of the kind mae, is what `fer-jax train --config.backbone=DIR/bundle` fine-tunes.

  --config=FILE.py         such as configs/pretrain_mae_vit_base.py, configs/pretrain_tiny.py
  --config.FIELD=VALUE     changes one field, e.g. --config.data=faces-data
  --workdir=DIR            gets config.json, log.jsonl, tensorboard/, checkpoints/,
                           reconstruction.png (held-out faces: original, masked, reconstructed)
                           and bundle/; started again on the same folder, the run goes on
  --distributed=WHERE      several processes as one run, each started with this: auto on a TPU pod
                           or under SLURM, else HOST:PORT,COUNT,INDEX

At each evaluation the held-out faces give the masked loss and, where they have labels, accuracy and
macro-F1 of nearest neighbours (knn) and of a linear classifier (probe) on frozen features.

The fields are described in fer_jax/train/pretrain_config.py. Exit codes: 0 done, 1 a failure, 2
wrong use, 75 stopped by SIGTERM or the platform: started again, it goes on.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax pretrain --help`."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        print(_HELP, end="")
        return 0
    from fer_jax.cli.configs import parse
    from fer_jax.train.pretrain_config import PretrainConfig

    config, workdir = parse("pretrain", argv, PretrainConfig, distributed=True)
    from fer_jax.train.preemption import stops_at_once

    with stops_at_once():
        from fer_jax.train.pretrain import pretrain

        pretrain(config, workdir)
    return 0
