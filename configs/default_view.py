r"""One view of a small model that learns from people's votes and a teacher's.

    fer-jax train --config=configs/default_view.py --config.backbone=pretrained/bundle \
        --config.data=taught --config.view=main --workdir=main
    fer-jax train --config=configs/default_view.py --config.backbone=pretrained/bundle \
        --config.data=taught --config.view=eyes_mouth --workdir=aux

`pretrained` is of configs/default_pretrain.py, `taught` of configs/default_teacher.py.
"""

from fer_jax.train.config import default_config


def get_config():
    config = default_config()
    config.epochs = 5
    config.batch_size = 64
    config.evaluate_batch_size = 64
    config.selection = 0.05
    config.workers = 1
    config.ema_decay = 0.999
    config.checkpoint_steps = 200
    config.model.pool = "avg"
    config.model.head_init = 0.01
    config.model.drop_path = 0.05
    config.model.head_dropout = 0.1
    config.model.scan_layers = False  # on CPU: steps are faster
    config.sampling.source_weights = "ferplus=0.4,effectnet=0.35,expw=0.25"
    config.augment.crop_scale = (0.6, 1.0)
    config.augment.erasing = 0.25
    config.loss.soft_labels = True
    config.optimizer.learning_rate = 1.6e-3  # for 256 faces: 4e-4 for these 64
    config.optimizer.layer_decay = 0.85
    config.optimizer.clip_norm = 1.0
    config.optimizer.warmup_epochs = 0.5
    config.license = "research only: trained on FER2013, ExpW and AffectNet faces"
    return config
