r"""A tiny encoder (5.5 million parameters, 112 pixels) pre-trained on faces, on a laptop.

    fer-jax prepare images faces --unlabelled --out faces-data
    fer-jax pretrain --config=configs/pretrain_tiny.py --config.data=faces-data --workdir=run
    fer-jax train --config=configs/finetune_vit_base.py --config.backbone=run/bundle \
        --config.data=data --config.model.image_size=112 --workdir=finetuned

"""

from fer_jax.train.pretrain_config import default_config


def get_config():
    config = default_config()
    config.epochs = 100
    config.batch_size = 256
    config.evaluate_batch_size = 256
    config.checkpoint_every = 5
    config.workers = 1
    config.normalize = "mae_face"
    config.model.size = "tiny"
    config.model.image_size = 112
    config.model.decoder_width = 192
    config.model.decoder_depth = 4
    config.model.decoder_num_heads = 6
    config.model.scan_layers = False  # on CPU: steps are faster
    config.optimizer.learning_rate = 6e-4  # for 256 faces
    config.optimizer.warmup_epochs = 5.0
    return config
