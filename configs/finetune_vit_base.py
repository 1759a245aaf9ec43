r"""MAE's fine-tuning recipe for ViT-B at 224 pixels, on a converted MAE or MAE-Face encoder.

    fer-jax convert mae_face_pretrain_vit_base.pth backbone --normalize mae_face
    fer-jax train --config=configs/finetune_vit_base.py --config.backbone=backbone \
        --config.data=data --workdir=run

Source: facebookresearch/mae FINETUNE.md, with blr 5e-4, layer decay 0.65, drop path 0.1, mixup 0.8,
cutmix 1.0. Meant for accelerators; it has not been run to its end here, so no score is given.
"""

from fer_jax.train.config import default_config


def get_config():
    config = default_config()
    config.epochs = 100
    config.batch_size = 256
    config.model.image_size = 224
    config.model.dtype = "bfloat16"
    config.augment.crop_scale = (0.08, 1.0)
    config.augment.randaugment_layers = 2
    config.augment.randaugment_magnitude = 9.0
    config.augment.erasing = 0.25
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 5e-4  # for 256 faces
    return config
