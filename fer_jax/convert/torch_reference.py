"""The models by PyTorch's own functions, in float32: a second witness where torch is installed.

Same stages and names as `reference`, of which it shares only the types. What numpy writes out there
is left to `torch.nn.functional` here: the convolution, LayerNorm, GELU and the attention, whose
`multi_head_attention_forward` brings its own order of qkv and of heads. Tensors are read when they
are used and let go after.

Source: torch `nn/functional.py`; facebookresearch/mae `models_mae.py`, `models_vit.py`.
"""

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from fer_jax.convert.reference import EntryFusionFields, MAEFields, Read, Stages, ViTFields

# torch is an optional extra and slow to import: its types are not named here, its modules are
# imported by what uses them.
Tensor = Any
_TensorStages = Iterator[tuple[str, Tensor]]


def available() -> bool:
    """Whether torch is installed; the other functions need it."""
    return importlib.util.find_spec("torch") is not None


def _stages(generator: _TensorStages) -> Stages:
    """Runs step by step without gradients; what the caller does between steps is not touched."""
    import torch

    while True:
        with torch.no_grad():
            stage = next(generator, None)
        if stage is None:
            return
        name, tensor = stage
        yield name, tensor.numpy()


class _Weights:
    """The user's tensors as torch's, and the layers that are a name and a function of torch."""

    def __init__(self, read: Read):
        self._read = read

    def __call__(self, name: str) -> Tensor:
        import torch

        # A copy: torch knows neither bfloat16 of ml_dtypes nor memory that is read-only.
        return torch.from_numpy(np.array(self._read(name), np.float32))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """W x + b over the last axis."""
        from torch.nn import functional

        return functional.linear(x, self(f"{name}.weight"), self(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        """LayerNorm over the last axis."""
        from torch.nn import functional

        return functional.layer_norm(
            x, x.shape[-1:], self(f"{name}.weight"), self(f"{name}.bias"), epsilon
        )

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, *, heads: int, inputs: str, output: str
    ) -> Tensor:
        """Attention of (b, t, d); `inputs` and `output` begin the names of the projections."""
        import torch
        from torch.nn import functional

        attend = functools.partial(
            functional.multi_head_attention_forward,
            embed_dim_to_check=query.shape[-1],
            num_heads=heads,
            in_proj_weight=self(f"{inputs}weight"),
            in_proj_bias=self(f"{inputs}bias"),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self(f"{output}weight"),
            out_proj_bias=self(f"{output}bias"),
            training=False,
            need_weights=False,
        )
        # Sample by sample: torch may hold the whole matrix of scores.
        return torch.stack([attend(*qkv)[0] for qkv in zip(query, key, value, strict=True)])


def _pixels(images: np.ndarray) -> Tensor:
    """(b, s, s, 3) to torch's (b, 3, s, s)."""
    import torch

    return torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2)


def _patch_embed(weights: _Weights, pixels: Tensor, patch: int) -> Tensor:
    from torch.nn import functional

    kernel, bias = weights("patch_embed.proj.weight"), weights("patch_embed.proj.bias")
    return functional.conv2d(pixels, kernel, bias, stride=patch).flatten(2).transpose(1, 2)


def _block(weights: _Weights, name: str, x: Tensor, config: ViTFields) -> Tensor:
    from torch.nn import functional

    branch = weights.layer_norm(f"{name}.norm1", x, config.norm_eps)
    branch = weights.attention(
        branch,
        branch,
        branch,
        heads=config.num_heads,
        inputs=f"{name}.attn.qkv.",
        output=f"{name}.attn.proj.",
    )
    x = x + (branch * weights(f"{name}.ls1.gamma") if config.layer_scale else branch)
    branch = weights.layer_norm(f"{name}.norm2", x, config.norm_eps)
    branch = weights.linear(
        f"{name}.mlp.fc2", functional.gelu(weights.linear(f"{name}.mlp.fc1", branch))
    )
    return x + (branch * weights(f"{name}.ls2.gamma") if config.layer_scale else branch)


def vit_stages(config: ViTFields, read: Read, images: Float[np.ndarray, "b s s 3"]) -> Stages:
    """As `reference.vit_stages`, by torch in float32."""
    return _stages(_vit(config, _Weights(read), images))


def _vit(config: ViTFields, weights: _Weights, images: np.ndarray) -> _TensorStages:
    import torch

    patches = _patch_embed(weights, _pixels(images), config.patch_size)
    yield "patch_embed", patches
    cls_token = weights("cls_token").expand(len(images), -1, -1)
    x = torch.cat([cls_token, patches], dim=1) + weights("pos_embed")
    yield "embed", x
    for i in range(config.depth):
        x = _block(weights, f"blocks.{i}", x, config)
        yield f"blocks.{i}", x
    if config.pool == "avg":
        pooled = weights.layer_norm("fc_norm", x[:, 1:].mean(dim=1), config.norm_eps)
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
) -> Stages:
    """As `reference.mae_stages`, by torch in float32."""
    return _stages(_mae(config, _Weights(read), images, noise, mask_ratio))


def _mae(
    config: MAEFields,
    weights: _Weights,
    images: np.ndarray,
    noise: np.ndarray,
    mask_ratio: float,
) -> _TensorStages:
    import torch
    from torch.nn import functional

    encoder, decoder = config.encoder, config.decoder
    pixels = _pixels(images)
    patches = _patch_embed(weights, pixels, encoder.patch_size)
    yield "patch_embed", patches
    batch, count, width = patches.shape
    order = torch.argsort(torch.from_numpy(np.array(noise)), dim=1, stable=True)
    restore = torch.argsort(order, dim=1)
    kept = int(count * (1 - mask_ratio))
    positions = weights("pos_embed")
    chosen = order[:, :kept, None].expand(-1, -1, width)
    x = torch.gather(patches + positions[:, 1:], 1, chosen)
    cls_token = (weights("cls_token") + positions[:, :1]).expand(batch, -1, -1)
    x = torch.cat([cls_token, x], dim=1)
    yield "embed", x
    for i in range(encoder.depth):
        x = _block(weights, f"blocks.{i}", x, encoder)
        yield f"blocks.{i}", x
    x = weights.layer_norm("norm", x, encoder.norm_eps)
    yield "latent", x

    x = weights.linear("decoder_embed", x)
    masks = weights("mask_token").repeat(batch, count - kept, 1)
    shuffled = torch.cat([x[:, 1:], masks], dim=1)
    restored = torch.gather(shuffled, 1, restore[:, :, None].expand(-1, -1, x.shape[-1]))
    x = torch.cat([x[:, :1], restored], dim=1) + weights("decoder_pos_embed")
    yield "decoder_embed", x
    for i in range(decoder.depth):
        x = _block(weights, f"decoder_blocks.{i}", x, decoder)
        yield f"decoder_blocks.{i}", x
    x = weights.layer_norm("decoder_norm", x, decoder.norm_eps)
    prediction = weights.linear("decoder_pred", x)[:, 1:]
    yield "prediction", prediction

    # unfold gives (channel, row, column) for each patch; the prediction's order is row first.
    size = encoder.patch_size
    target = functional.unfold(pixels, size, stride=size).transpose(1, 2)
    target = target.unflatten(2, (3, size * size)).transpose(2, 3).flatten(2)
    if config.norm_pix:
        variance, mean = torch.var_mean(target, dim=-1, correction=1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    errors = functional.mse_loss(prediction, target, reduction="none").mean(dim=-1)
    mask = torch.ones(batch, count).index_fill(1, torch.arange(kept), 0).gather(1, restore)
    yield "loss", (errors * mask).sum() / mask.sum()


def entry_fusion_stages(
    config: EntryFusionFields,
    read: Read,
    main: Float[np.ndarray, "b d"],
    aux: Float[np.ndarray, "b e"],
) -> Stages:
    """As `reference.entry_fusion_stages`, by torch in float32."""
    return _stages(_entry_fusion(_Weights(read), main, aux))


def _entry_fusion(weights: _Weights, main: np.ndarray, aux: np.ndarray) -> _TensorStages:
    import torch

    a = weights.linear("linear1", torch.from_numpy(np.array(main, np.float32)))
    yield "main", a
    b = weights.linear("linear2", torch.from_numpy(np.array(aux, np.float32)))
    yield "aux", b
    k = weights.linear("linear_key", torch.cat([a, b], dim=1))
    yield "key", k
    query, key, value = (x[:, :, None] for x in (b, k, a))
    out = weights.attention(
        query, key, value, heads=1, inputs="mha.in_proj_", output="mha.out_proj."
    ).flatten(1)
    yield "attention", out
    x = out + a
    yield "fused", x
    x = weights.linear("mlp.0", x)
    yield "hidden", x
    yield "logits", weights.linear("mlp.1", x)
