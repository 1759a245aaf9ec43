r"""Masked pre-training of the default model's encoders: DINOv2's first three blocks, on faces.

`tools/make_default_model.py` has the commands before and after.
"""

from fer_jax.train.pretrain_config import default_config


def get_config():
    config = default_config()
    config.epochs = 12
    config.batch_size = 128
    config.evaluate_batch_size = 128
    config.checkpoint_every = 1
    config.workers = 1
    config.model.decoder_width = 192
    config.model.decoder_depth = 4
    config.model.decoder_num_heads = 6
    config.model.scan_layers = False  # on CPU: steps are faster
    config.optimizer.learning_rate = 6e-4  # for 256 faces
    config.optimizer.warmup_epochs = 1.0
    config.license = "research only: trained on FER2013, ExpW and AffectNet faces"
    return config
