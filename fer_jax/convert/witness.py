"""Finds the user's tensors for the proof without the converter's tables.

What the converter does with keys (names, joining, rows of a head, resized positions) is done here
once more, written by hand from the families' own code: a mistake in the tables cannot be repeated.
Only the reader of the file is shared; its own tests hold it against PyTorch.

Source: facebookresearch/mae `models_mae.py`, timm `vision_transformer.py`, transformers
`models/vit`, `models/vit_mae`, `models/dinov2`; torch `upsample_bicubic2d`.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.plan import Plan
from fer_jax.models.mae import MAEConfig

_HF_LAYERS = {
    "blocks": ("encoder.layer", "layers"),
    "decoder_blocks": ("decoder.decoder_layers", "decoder.decoder_encoder.layer"),
}
_HF_PARTS = {
    "norm1": ("layernorm_before", "norm1"),
    "norm2": ("layernorm_after", "norm2"),
    "attn.proj": ("attention.output.dense", "attention.o_proj"),
    "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
    "mlp.fc2": ("output.dense", "mlp.fc2"),
}
_HF_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
}


def witness_reader(checkpoint: Checkpoint, plan: Plan) -> Callable[[str], np.ndarray]:
    """Reads a tensor by its name in MAE's files, whatever the family of the file.

    Args:
        checkpoint: the open file.
        plan: what was asked for; of its tables nothing is used, but for a fresh head's values.

    Returns:
        A function from a name to the tensor in PyTorch's layout.

    Raises:
        KeyError: of the function: the file does not hold what the model needs.
    """
    head = "mlp.1" if plan.family.model == "fusion" else "head"

    def read(name: str) -> np.ndarray:
        part = name.rpartition(".")[0]
        if part == head and plan.head_labels is None:
            return plan.read(checkpoint, name)
        values = _hf(checkpoint, name) if plan.family.name == "hf" else checkpoint.values(name)
        if part == head and plan.head_labels != plan.labels:
            values = np.stack([values[plan.head_labels.index(own)] for own in plan.labels.classes])
        if name in ("pos_embed", "decoder_pos_embed"):
            config = plan.config.encoder if isinstance(plan.config, MAEConfig) else plan.config
            values = _resized(np.asarray(values, np.float64), config.grid, plan.position_resize)
        return values

    return read


def _hf(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """A tensor of a Hugging Face file; query, key and value one below the other."""
    stack, _, rest = name.partition(".")
    if stack not in _HF_LAYERS:
        decoder = "decoder." + name
        return _first(checkpoint, [_HF_NAMES.get(name, decoder)])
    number, _, rest = rest.partition(".")
    layers = [f"{path}.{number}" for path in _HF_LAYERS[stack]]
    part, _, leaf = rest.rpartition(".")
    if part == "attn.qkv":
        return np.concatenate(
            [
                np.asarray(_first(checkpoint, list(_qkv_keys(layers, which, leaf))), np.float64)
                for which in ("query", "key", "value")
            ]
        )
    if leaf == "gamma":
        return _first(checkpoint, [f"{path}.layer_scale{part[-1]}.lambda1" for path in layers])
    return _first(
        checkpoint, [f"{path}.{theirs}.{leaf}" for path in layers for theirs in _HF_PARTS[part]]
    )


def _qkv_keys(layers: list[str], which: str, leaf: str) -> Iterator[str]:
    for path in layers:
        yield f"{path}.attention.attention.{which}.{leaf}"
        yield f"{path}.attention.{which[0]}_proj.{leaf}"


def _first(checkpoint: Checkpoint, keys: list[str]) -> np.ndarray:
    for prefix in ("", "vit.", "dinov2."):
        for key in keys:
            if prefix + key in checkpoint.tensors:
                return checkpoint.values(prefix + key)
    raise KeyError(keys[0])


def _resized(positions: np.ndarray, grid: int, kernel: str) -> np.ndarray:
    """Positions on another grid, the CLS row kept; row by row, then column by column."""
    side = math.isqrt(positions.shape[1] - 1)
    if side == grid:
        return positions
    weights = np.array([_weights(place, side, grid, kernel) for place in range(grid)])
    square = positions[0, 1:].reshape(side, side, -1)
    square = np.stack([sum(w[i] * square[i] for i in range(side)) for w in weights])
    square = np.stack([sum(w[i] * square[:, i] for i in range(side)) for w in weights], axis=1)
    return np.concatenate([positions[:, :1], square.reshape(1, grid * grid, -1)], axis=1)


def _weights(place: int, side: int, grid: int, kernel: str) -> np.ndarray:
    """How much each of `side` old places gives to a new one."""
    found = np.zeros(side)
    scale = side / (grid + 0.1) if kernel == "bicubic_dinov2" else side / grid
    centre = (place + 0.5) * scale
    if kernel == "bicubic_antialias":
        stretch = max(scale, 1.0)
        for i in range(side):
            found[i] = _cubic((i + 0.5 - centre) / stretch, -0.5)
        return found / found.sum()
    first = math.floor(centre - 0.5)
    for i in range(first - 1, first + 3):
        found[min(max(i, 0), side - 1)] += _cubic(i + 0.5 - centre, -0.75)
    return found


def _cubic(x: float, a: float) -> float:
    """Keys's kernel; torch takes a = -0.75, and with antialias -0.5."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0
