r"""The paper's steps: two views of MAE-Face, fused, smoothed over time, scored; resumable.

    fer-jax train --config=configs/emotic_mae.py --config.backbone=backbone --config.data=data \
        --workdir=run

Both views are fine-tuned as the ABAW6 entry's (configs/finetune_abaw6_entry.py), but with weights
against the imbalance of the classes, as the paper has it, and with frames thinned out: neighbours
are near duplicates. The fusion is the entry's. It has not been run to its end on the real data
here, so no score is given.
"""

from fer_jax.recipes.two_view_config import default_config


def get_config():
    config = default_config()
    for view in (config.main, config.aux):
        view.epochs = 20
        view.batch_size = 288
        view.model.image_size = 224
        view.sampling.frames_per_video = 300
        view.loss.class_weights = "balanced"
        view.optimizer.name = "adam"
        view.optimizer.learning_rate = 1e-4
        view.optimizer.scale_by_batch = False
        view.optimizer.schedule = "step"
        view.optimizer.warmup_epochs = 0.0
    config.fuse.loss.class_weights = "balanced"
    return config
