r"""MAE's pre-training recipe for ViT-B at 224 pixels, on faces without labels.

    fer-jax prepare images faces --unlabelled --out faces-data
    fer-jax pretrain --config=configs/pretrain_mae_vit_base.py --config.data=faces-data \
        --workdir=run

To go on from MAE-Face's weights, decoder and all:

    fer-jax convert mae_face_pretrain_vit_base.pth mae --normalize mae_face --decoder \
        --decoder-heads 16 --norm-pix
    fer-jax pretrain --config=configs/pretrain_mae_vit_base.py --config.backbone=mae \
        --config.data=faces-data --config.epochs=50 --config.batch_size=512 \
        --config.optimizer.warmup_epochs=5.0 --workdir=run

Source: facebookresearch/mae PRETRAIN.md: blr 1.5e-4, batch 4096, 800 epochs of which 40 warm up,
three quarters hidden, patches normalised. Meant for accelerators; it has not been run to its end
here, so no score is given. What it needs: docs/plan.md.
"""

from fer_jax.train.pretrain_config import default_config


def get_config():
    config = default_config()
    config.epochs = 800
    config.batch_size = 4096
    config.accumulate = 4  # 16 chips of 16 GiB hold 64 faces each, and not 256
    config.evaluate_batch_size = 512
    config.checkpoint_every = 10
    config.workers = 8
    config.normalize = "mae_face"
    config.model.size = "base"
    config.model.image_size = 224
    config.model.dtype = "bfloat16"
    config.optimizer.learning_rate = 1.5e-4  # for 256 faces
    config.optimizer.warmup_epochs = 40.0
    return config
