"""Makes tests/testdata/torch_<family>.pth and .npz: each family as PyTorch writes it, awkwardly.

    pip install "fer-jax[torch]"
    python tools/make_checkpoint_goldens.py tests/testdata

Tiny random state dicts under each family's names, saved with what is found in real files: tensors
that are not contiguous or share a storage, half and bfloat16, wrapper keys, prefixes, a Namespace
and an optimiser's state; and `torch_legacy.pth`, in the format from before PyTorch 1.6. The .npz
holds the same tensors, contiguous and in float32, by their keys without wrappers.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED = 20240319
WIDTH, HIDDEN, PATCH, TOKENS, DECODER = 16, 64, 4, 5, 8
Shapes = dict[str, tuple[int, ...]]


def _affine(name: str, outputs: int, inputs: int = 0) -> Shapes:
    weight = (outputs, inputs) if inputs else (outputs,)
    return {f"{name}.weight": weight, f"{name}.bias": (outputs,)}


def _block(name: str, width: int, hidden: int) -> Shapes:
    return {
        **_affine(f"{name}.norm1", width),
        **_affine(f"{name}.attn.qkv", 3 * width, width),
        **_affine(f"{name}.attn.proj", width, width),
        **_affine(f"{name}.norm2", width),
        **_affine(f"{name}.mlp.fc1", hidden, width),
        **_affine(f"{name}.mlp.fc2", width, hidden),
    }


def _trunk() -> Shapes:
    return {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, TOKENS, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        **_block("blocks.0", WIDTH, HIDDEN),
        **_affine("norm", WIDTH),
    }


def mae_shapes() -> Shapes:
    """A whole masked autoencoder of facebookresearch/mae."""
    return {
        **_trunk(),
        "mask_token": (1, 1, DECODER),
        "decoder_pos_embed": (1, TOKENS, DECODER),
        **_affine("decoder_embed", DECODER, WIDTH),
        **_block("decoder_blocks.0", DECODER, 4 * DECODER),
        **_affine("decoder_norm", DECODER),
        **_affine("decoder_pred", 3 * PATCH * PATCH, DECODER),
    }


def timm_shapes() -> Shapes:
    """A ViT of timm with LayerScale and a head of 7."""
    scales = {f"blocks.0.{name}.gamma": (WIDTH,) for name in ("ls1", "ls2")}
    return {**_trunk(), **scales, **_affine("head", 7, WIDTH)}


def hf_shapes() -> Shapes:
    """A ViTModel of Hugging Face, names of transformers 5."""
    layer = "layers.0"
    return {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, TOKENS, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        **_affine(f"{layer}.attention.q_proj", WIDTH, WIDTH),
        **_affine(f"{layer}.attention.k_proj", WIDTH, WIDTH),
        **_affine(f"{layer}.attention.v_proj", WIDTH, WIDTH),
        **_affine(f"{layer}.attention.o_proj", WIDTH, WIDTH),
        **_affine(f"{layer}.layernorm_before", WIDTH),
        **_affine(f"{layer}.layernorm_after", WIDTH),
        **_affine(f"{layer}.mlp.fc1", HIDDEN, WIDTH),
        **_affine(f"{layer}.mlp.fc2", WIDTH, HIDDEN),
        **_affine("layernorm", WIDTH),
        **_affine("pooler.dense", WIDTH, WIDTH),
    }


def fusion_shapes() -> Shapes:
    """The entry's fusion, narrow."""
    return {
        "mha.in_proj_weight": (3, 1),
        "mha.in_proj_bias": (3,),
        **_affine("mha.out_proj", 1, 1),
        **_affine("linear1", 16, 12),
        **_affine("linear2", 16, 10),
        **_affine("linear_key", 16, 32),
        **_affine("mlp.0", 8, 16),
        **_affine("mlp.1", 8, 8),
    }


def make_tensors(shapes: Shapes, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random tensors: matrices lie transposed in their storages, vectors share one storage."""
    generator = torch.Generator().manual_seed(SEED)
    vectors = [name for name, shape in shapes.items() if len(shape) == 1]
    shared = torch.randn(sum(shapes[name][0] for name in vectors), generator=generator) * 0.2
    shared, begin = shared.to(dtype), 0
    tensors = {}
    for name, shape in shapes.items():
        if name in vectors:
            tensors[name] = shared[begin : begin + shape[0]]
            begin += shape[0]
        else:
            values = (torch.randn(shape, generator=generator) * 0.3).to(dtype)
            order = tuple(range(values.ndim))[::-1]
            tensors[name] = values.permute(order).contiguous().permute(order)
    return tensors


def _beside() -> dict[str, Any]:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=1e-3, output_dir=Path("out"), norm_pix_loss=True)
    return {"optimizer": optimizer.state_dict(), "epoch": 3, "args": arguments}


def main(folder: Path) -> None:
    """Writes all files."""
    made = {
        "mae": make_tensors(mae_shapes(), torch.float32),
        "timm": make_tensors(timm_shapes(), torch.float16),
        "hf": make_tensors(hf_shapes(), torch.bfloat16),
        "fusion_entry": make_tensors(fusion_shapes(), torch.float32),
    }
    saved = {
        "mae": {"model": made["mae"], **_beside()},
        "timm": {"state_dict": {f"_orig_mod.{n}": t for n, t in made["timm"].items()}, "epoch": 1},
        "hf": {f"module.{name}": tensor for name, tensor in made["hf"].items()},
        "fusion_entry": made["fusion_entry"],
    }
    for family, value in saved.items():
        torch.save(value, folder / f"torch_{family}.pth")
        arrays = {name: tensor.float().numpy() for name, tensor in made[family].items()}
        np.savez(folder / f"torch_{family}.npz", **arrays)
    torch.save(
        {"a": torch.ones(2)}, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_checkpoint_goldens.py FOLDER")
    main(Path(sys.argv[1]))
