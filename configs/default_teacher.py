r"""A teacher for small models: DINOv2's ViT-S/14, fine-tuned on whole faces at 112 pixels.

    fer-jax convert dinov2_vits14.safetensors dinov2 --normalize imagenet --image-size 112
    fer-jax prepare images collections --csv faces.csv --labels expw --out seen
    fer-jax train --config=configs/default_teacher.py --config.backbone=dinov2 \
        --config.data=seen --workdir=teacher
    fer-jax distill faces --teacher teacher/bundle --seen seen --weight 0.6 --out taught

`collections` holds FER+, ExpW and an AffectNet subset; `faces.csv` names each face with its label
or its votes, its part and its source. `faces` are the same ones, prepared with `--align`. What
comes next is in configs/default_view.py.
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
