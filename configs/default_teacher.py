r"""The teacher of the default model: DINOv2's ViT-S/14, fine-tuned on whole faces at 112 pixels.

`tools/make_default_model.py` has the commands before and after. Only its votes are released.
"""

from fer_jax.train.config import default_config

SOURCES = "ferplus=0.45,effectnet=0.35,expw=0.2"


def get_config():
    config = default_config()
    config.epochs = 2
    config.batch_size = 32
    config.evaluate_batch_size = 64
    config.selection = 0.05
    config.checkpoint_steps = 150
    config.model.image_size = 112
    config.model.pool = "cls"
    config.model.head_init = 0.01
    config.model.drop_path = 0.05
    config.model.scan_layers = False  # on CPU: steps are faster
    config.sampling.source_weights = SOURCES
    config.augment.crop_scale = (0.6, 1.0)
    config.loss.soft_labels = True
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 9.6e-4  # for 256 faces: 1.2e-4 for these 32
    config.optimizer.layer_decay = 0.75
    config.optimizer.clip_norm = 1.0
    config.optimizer.warmup_epochs = 0.5
    config.license = "research only: trained on FER2013, ExpW and AffectNet faces"
    return config
