r"""The recipe of the ABAW6 entry: Adam 1e-4, a drop by ten every 16 epochs, no decay, batch 288.

    fer-jax train --config=configs/finetune_abaw6_entry.py --config.backbone=backbone \
        --config.data=data --workdir=run

Plain cross-entropy, RandomResizedCrop 0.8 to 1, flip, drop path 0.1. The entry chose its
checkpoint by accuracy; we choose by macro-F1, which is what is scored. It has not been run to its
end here, so no score is given.
"""

from fer_jax.train.config import default_config


def get_config():
    config = default_config()
    config.epochs = 20
    config.batch_size = 288
    config.model.image_size = 224
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.scale_by_batch = False
    config.optimizer.schedule = "step"
    config.optimizer.warmup_epochs = 0.0
    return config
