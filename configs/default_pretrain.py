r"""Masked pre-training of small encoders (5.6 million parameters): DINOv2's first three blocks.

    fer-jax convert dinov2 first3 --blocks 0,1,2
    fer-jax prepare images collections --csv faces.csv --labels expw --align --out faces
    fer-jax pretrain --config=configs/default_pretrain.py --config.backbone=first3 \
        --config.data=faces --workdir=pretrained

`faces.csv` is that of configs/default_teacher.py.
"""

from fer_jax.train.pretrain_config import default_config


def get_config():
    config = default_config()
    config.epochs = 5
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
