r"""A backbone for configs/ablate_mini.py: a tiny ViT that has seen 360 other drawn people.

    fer-jax prepare images others_faces --csv others_faces/labels.csv \
        --labels affwild2_expr --out others
    fer-jax train --config=configs/ablate_mini_backbone.py --config.data=others \
        --workdir=backbone_run

The faces: `write_synthetic_faces("others_faces", identities=400, images_per_identity=16, seed=177,
validation_fraction=0.1)` of `fer_jax.data.synthetic`.
"""

from fer_jax.train.config import default_config


def get_config():
    config = default_config()
    config.epochs = 25
    config.batch_size = 64
    config.checkpoint_every = 5
    config.workers = 1
    config.license = "Apache-2.0: trained on drawn faces"
    config.model.image_size = 72
    config.model.patch_size = 12
    config.model.width = 96
    config.model.depth = 3
    config.model.num_heads = 3
    config.model.pool = "cls"
    config.model.drop_path = 0.0
    config.model.head_init = 0.05
    config.model.scan_layers = False
    config.augment.crop_scale = (0.85, 1.0)
    config.augment.crop_ratio = (0.95, 1.05)
    config.optimizer.learning_rate = 8e-3  # for 256 faces; 2e-3 for these 64
    config.optimizer.layer_decay = 1.0
    config.optimizer.warmup_epochs = 1.0
    config.loss.label_smoothing = 0.1
    return config
