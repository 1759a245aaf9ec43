"""The tiny masked autoencoder of tools/make_mae_goldens.py, and its weights in our tree.

Weights come in by a loader written out here, so that the package's own table of names is not asked.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from fer_jax.models import vit
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import ViTConfig

ROOT = Path(__file__).parent.parent
MODEL = MAEConfig(
    ViTConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=4),
    decoder_width=16,
    decoder_depth=3,
    decoder_num_heads=2,
)


def replaced(config: MAEConfig, **encoder) -> MAEConfig:
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, **encoder))


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "testdata" / "mae.npz") as file:
        return dict(file)


def weights() -> dict[str, np.ndarray]:
    found = golden().items()
    return {name.removeprefix("state/"): v for name, v in found if name.startswith("state/")}


def load(state: Mapping[str, np.ndarray]) -> vit.Params:
    """Tensors by facebookresearch/mae's names, each used once."""
    left = dict(state)

    def linear(name):
        return {"kernel": left.pop(f"{name}.weight").T, "bias": left.pop(f"{name}.bias")}

    def norm(name):
        return {"scale": left.pop(f"{name}.weight"), "bias": left.pop(f"{name}.bias")}

    def blocks(name):
        count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{name}."))
        single = [
            {
                "norm1": norm(f"{name}.{i}.norm1"),
                "attn": {
                    "qkv": linear(f"{name}.{i}.attn.qkv"),
                    "proj": linear(f"{name}.{i}.attn.proj"),
                },
                "norm2": norm(f"{name}.{i}.norm2"),
                "mlp": {
                    "fc1": linear(f"{name}.{i}.mlp.fc1"),
                    "fc2": linear(f"{name}.{i}.mlp.fc2"),
                },
            }
            for i in range(count)
        ]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *single)

    params = {
        "encoder": {
            "cls_token": left.pop("cls_token"),
            "pos_embed": left.pop("pos_embed"),
            "patch_embed": {
                "kernel": left.pop("patch_embed.proj.weight").transpose(2, 3, 1, 0),
                "bias": left.pop("patch_embed.proj.bias"),
            },
            "blocks": blocks("blocks"),
            "norm": norm("norm"),
        },
        "decoder": {
            "embed": linear("decoder_embed"),
            "mask_token": left.pop("mask_token"),
            "pos_embed": left.pop("decoder_pos_embed"),
            "blocks": blocks("decoder_blocks"),
            "norm": norm("decoder_norm"),
            "pred": linear("decoder_pred"),
        },
    }
    assert not left
    return params
