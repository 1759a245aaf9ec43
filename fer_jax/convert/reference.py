"""The models once more, in plain numpy: what a converted model is judged by.

Written from the definitions alone. It shares no code with the JAX models, not even a table of names
or an order of axes, so that a mistake there cannot be repeated here. A model runs stage by stage on
the user's own weights; a tensor is read when it is used and let go after, so that never more than
one block's tensors exist in the type of the computation.

In float64 the stages are the truth. The same functions in float32 say how far a correct program may
stand from it: their difference is the noise floor. `read` must give the weights that the judged
model holds, that is after any rounding on the way there, or that rounding is counted as its error.

Source: facebookresearch/mae `models_mae.py`, `models_vit.py`; timm `vision_transformer.py`
(LayerScale); for the fusion, torch `nn/functional.py` (`multi_head_attention_forward`).
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

Read = Callable[[str], np.ndarray]
Stages = Iterator[tuple[str, np.ndarray]]


@runtime_checkable
class ViTFields(Protocol):
    """What is read of a ViT's configuration; `fer_jax.models.vit.ViTConfig` has it."""

    patch_size: int
    depth: int
    num_heads: int
    num_classes: int
    pool: str
    layer_scale: bool
    norm_eps: float


@runtime_checkable
class MAEFields(Protocol):
    """What is read of an MAE's configuration: both towers, and whether targets are normalised."""

    encoder: ViTFields
    decoder: ViTFields
    norm_pix: bool


@runtime_checkable
class EntryFusionFields(Protocol):
    """What is read of the fusion's configuration: the features that attend to each other."""

    width: int


class _Weights:
    """The user's tensors, each read when it is used and cast to the type of the computation."""

    def __init__(self, read: Read, dtype: type[np.floating]):
        self._read = read
        self.dtype = dtype

    def __call__(self, name: str) -> np.ndarray:
        return np.array(self._read(name), self.dtype)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        """W x + b over the last axis; W is (out, in)."""
        return x @ self(f"{name}.weight").T + self(f"{name}.bias")

    def layer_norm(self, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
        """LayerNorm over the last axis, with the biased variance."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        # Scalars of numpy's float64 would promote float32 arrays; the cast rules them out.
        normalised = centred / np.sqrt(variance + self.dtype(epsilon))
        return normalised * self(f"{name}.weight") + self(f"{name}.bias")


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf  # slow to load, and of no use to a conversion without a proof

    return x * (1 + erf(x / math.sqrt(2))) / 2


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _patches(images: np.ndarray, patch: int, order: str) -> np.ndarray:
    """Images (b, s, s, 3) to patches (b, n, 3 P P), row by row, values in the order of axes."""
    batch, side = images.shape[:2]
    grid = side // patch
    # Axes: b sample, i row of patches, p row in the patch, j column, q column in the patch, c.
    parts = images.reshape(batch, grid, patch, grid, patch, 3)
    return np.einsum(f"bipjqc->bij{order}", parts).reshape(batch, grid * grid, -1)


def _patch_embed(weights: _Weights, images: np.ndarray, patch: int) -> np.ndarray:
    """The convolution of stride P; its kernel is (out, channel, row, column)."""
    kernel = weights("patch_embed.proj.weight")
    values = _patches(images, patch, "cpq")
    return values @ kernel.reshape(len(kernel), -1).T + weights("patch_embed.proj.bias")


def _with_cls(cls_token: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """CLS (1, 1, d) before the tokens (b, t, d) of each sample."""
    return np.concatenate([np.repeat(cls_token, len(tokens), axis=0), tokens], axis=1)


def _attention(weights: _Weights, name: str, x: np.ndarray, heads: int) -> np.ndarray:
    """Self-attention; the rows of qkv are [q | k | v], each heads x size."""
    batch, tokens, width = x.shape
    size = width // heads
    qkv = weights.linear(f"{name}.qkv", x).reshape(batch, tokens, 3, heads, size)
    query, key, value = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(size)
    mixed = (_softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, width)
    return weights.linear(f"{name}.proj", mixed)


def _block(weights: _Weights, name: str, x: np.ndarray, config: ViTFields) -> np.ndarray:
    """One pre-norm block, LayerScale on both branches where the model has it."""
    branch = weights.layer_norm(f"{name}.norm1", x, config.norm_eps)
    branch = _attention(weights, f"{name}.attn", branch, config.num_heads)
    if config.layer_scale:
        branch = branch * weights(f"{name}.ls1.gamma")
    x = x + branch
    branch = weights.layer_norm(f"{name}.norm2", x, config.norm_eps)
    branch = weights.linear(f"{name}.mlp.fc2", _gelu(weights.linear(f"{name}.mlp.fc1", branch)))
    if config.layer_scale:
        branch = branch * weights(f"{name}.ls2.gamma")
    return x + branch


def vit_stages(
    config: ViTFields,
    read: Read,
    images: Float[np.ndarray, "b s s 3"],
    dtype: type[np.floating] = np.float64,
) -> Stages:
    """Runs a ViT, stage by stage.

    Args:
        config: the model; see `ViTFields`.
        read: a tensor by its name in MAE's and timm's files, in PyTorch's layout; any float dtype.
        images: normalised RGB.
        dtype: of the whole computation, `np.float64` or `np.float32`.

    Yields:
        In this order, as arrays of `dtype`: `patch_embed` (b, n, d), `embed` (b, 1 + n, d),
        `blocks.0`, `blocks.1`, ... (b, 1 + n, d); where `pool` is `cls`, `norm` (b, 1 + n, d) and
        `pooled` (b, d), its CLS row; where it is `avg`, `pooled` alone, `fc_norm` of the mean of
        the patch tokens; and with a head `logits` (b, classes).
    """
    weights = _Weights(read, dtype)
    patches = _patch_embed(weights, np.asarray(images, dtype), config.patch_size)
    yield "patch_embed", patches
    x = _with_cls(weights("cls_token"), patches) + weights("pos_embed")
    yield "embed", x
    for i in range(config.depth):
        x = _block(weights, f"blocks.{i}", x, config)
        yield f"blocks.{i}", x
    if config.pool == "avg":
        pooled = weights.layer_norm("fc_norm", x[:, 1:].mean(axis=1), config.norm_eps)
    else:
        x = weights.layer_norm("norm", x, config.norm_eps)
        yield "norm", x
        pooled = x[:, 0]
    yield "pooled", pooled
    if config.num_classes:
        yield "logits", weights.linear("head", pooled)


def mae_stages(
    config: MAEFields,
    read: Read,
    images: Float[np.ndarray, "b s s 3"],
    noise: Float[np.ndarray, "b n"],
    mask_ratio: float = 0.75,
    dtype: type[np.floating] = np.float64,
) -> Stages:
    """Runs a masked autoencoder with its loss, stage by stage.

    Args:
        config: the model; see `MAEFields`.
        read: as in `vit_stages`, with the decoder's tensors.
        images: normalised RGB.
        noise: one number a patch; the patches of the smallest are kept, equal ones in their order.
        mask_ratio: the share r of the patches that is hidden; int(n (1 - r)) are kept.
        dtype: of the whole computation, `np.float64` or `np.float32`.

    Yields:
        In this order, as arrays of `dtype`: `patch_embed` (b, n, d); `embed` (b, 1 + kept, d), CLS
        and the kept tokens by rising noise, with positions; `blocks.i`; `latent`, after `norm`;
        `decoder_embed` (b, 1 + n, e), the whole sequence with mask tokens and positions;
        `decoder_blocks.i`; `prediction` (b, n, P P 3), a patch being row, column, channel; `loss`
        (), the mean squared error over the hidden patches.
    """
    weights = _Weights(read, dtype)
    # Ranks are taken before any cast, which could make two numbers equal.
    order = np.argsort(noise, axis=1, kind="stable")
    restore = np.argsort(order, axis=1, kind="stable")
    kept = int(noise.shape[1] * (1 - mask_ratio))
    images = np.asarray(images, dtype)

    encoder = config.encoder
    patches = _patch_embed(weights, images, encoder.patch_size)
    yield "patch_embed", patches
    positions = weights("pos_embed")
    x = np.take_along_axis(patches + positions[:, 1:], order[:, :kept, None], axis=1)
    x = _with_cls(weights("cls_token") + positions[:, :1], x)
    yield "embed", x
    for i in range(encoder.depth):
        x = _block(weights, f"blocks.{i}", x, encoder)
        yield f"blocks.{i}", x
    x = weights.layer_norm("norm", x, encoder.norm_eps)
    yield "latent", x

    decoder = config.decoder
    x = weights.linear("decoder_embed", x)
    hidden_tokens = np.broadcast_to(
        weights("mask_token"), (len(x), noise.shape[1] - kept, x.shape[-1])
    )
    shuffled = np.concatenate([x[:, 1:], hidden_tokens], axis=1)
    restored = np.take_along_axis(shuffled, restore[:, :, None], axis=1)
    x = np.concatenate([x[:, :1], restored], axis=1) + weights("decoder_pos_embed")
    yield "decoder_embed", x
    for i in range(decoder.depth):
        x = _block(weights, f"decoder_blocks.{i}", x, decoder)
        yield f"decoder_blocks.{i}", x
    x = weights.layer_norm("decoder_norm", x, decoder.norm_eps)
    prediction = weights.linear("decoder_pred", x)[:, 1:]
    yield "prediction", prediction

    target = _patches(images, encoder.patch_size, "pqc")
    if config.norm_pix:
        spread = np.sqrt(target.var(axis=-1, ddof=1, keepdims=True) + dtype(1e-6))
        target = (target - target.mean(axis=-1, keepdims=True)) / spread
    errors = np.square(prediction - target).mean(axis=-1)
    yield "loss", np.asarray(errors[restore >= kept].mean())


def entry_fusion_stages(
    config: EntryFusionFields,
    read: Read,
    main: Float[np.ndarray, "b d"],
    aux: Float[np.ndarray, "b e"],
    dtype: type[np.floating] = np.float64,
) -> Stages:
    """Runs the fusion of two views' features, stage by stage, its attention written out.

    With a, b, k the stages `main`, `aux` and `key`, tokens being features, and scalar projections:
    out_i = wo sum_j softmax_j((wq b_i + bq) (wk k_j + bk)) (wv a_j + bv) + bo.

    Args:
        config: the model; see `EntryFusionFields`.
        read: a tensor by its name, in PyTorch's layout; any float dtype.
        main: pooled features of the whole face.
        aux: pooled features of the other view.
        dtype: of the whole computation, `np.float64` or `np.float32`.

    Yields:
        In this order, as arrays of `dtype`: `main`, `aux`, `key`, `attention` (out) and `fused`
        (out + a), each (b, width); `hidden` (b, hidden); `logits` (b, classes).
    """
    weights = _Weights(read, dtype)
    a = weights.linear("linear1", np.asarray(main, dtype))
    yield "main", a
    b = weights.linear("linear2", np.asarray(aux, dtype))
    yield "aux", b
    k = weights.linear("linear_key", np.concatenate([a, b], axis=1))
    yield "key", k
    (query_weight, key_weight, value_weight) = weights("mha.in_proj_weight")[:, 0]
    (query_bias, key_bias, value_bias) = weights("mha.in_proj_bias")
    queries = b * query_weight + query_bias
    keys = k * key_weight + key_bias
    values = a * value_weight + value_bias
    mixed = np.empty((len(a), config.width), dtype)
    for i in range(len(a)):  # one matrix of width x width at a time
        mixed[i] = _softmax(np.outer(queries[i], keys[i])) @ values[i]
    out = mixed * weights("mha.out_proj.weight")[0, 0] + weights("mha.out_proj.bias")[0]
    yield "attention", out
    x = out + a
    yield "fused", x
    x = weights.linear("mlp.0", x)
    yield "hidden", x
    yield "logits", weights.linear("mlp.1", x)
