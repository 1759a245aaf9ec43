r"""The training run of `fer-jax demo`: a tiny ViT on drawn faces, about 5 minutes on two cores.

    fer-jax demo --out demo
    fer-jax train --config=configs/demo.py --config.data=demo/data \
        --config.backbone=demo/backbone --workdir=run

What it reaches stands in docs/evidence.md.
"""

from fer_jax.demo.run import demo_config


def get_config():
    return demo_config()
