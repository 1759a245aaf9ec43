r"""The fusion of the ABAW6 entry, on the frozen features of two fine-tuned views.

    fer-jax fuse --config=configs/fuse_entry.py --config.data=data \
        --config.sources=main=main/bundle,aux=aux/bundle --workdir=fused

Source: the entry's code: Adam 1e-5, one epoch, batches of 1024.
"""

from fer_jax.train.fuse_config import default_config


def get_config():
    return default_config()
