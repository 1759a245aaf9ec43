r"""Views, fusions and losses on the frozen features of a backbone: minutes on two cores.

    fer-jax ablate --config=configs/ablate_frozen.py --config.backbone=backbone \
        --config.data=expw,effectnet --workdir=frozen

The first data set is scored. Its faces are pictures, so there is nothing to smooth; with frames of
videos add `--config.axes.smoothing=search`. A single view is a linear probe.
"""

from fer_jax.recipes.ablation_config import default_config


def get_config():
    config = default_config()
    config.axes.encoder = "frozen"
    config.axes.smoothing = "none"
    config.axes.views = "main+eyes_mouth,main,eyes_mouth"
    config.axes.fusion = "linear,entry,average"
    config.axes.loss = "plain,balanced,effective,focal,logit_adjusted"
    config.seeds = "0,1,2"
    fuse = config.fuse
    fuse.epochs = 30
    fuse.batch_size = 256
    fuse.checkpoint_every = 5
    fuse.model.width = 256
    fuse.model.hidden = 256
    fuse.optimizer.learning_rate = 3e-4
    fuse.optimizer.schedule = "cosine"
    fuse.optimizer.warmup_epochs = 1.0
    return config
