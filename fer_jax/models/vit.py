"""The Vision Transformer in MAE's layout: pre-norm, exact GELU, learned or loaded positions.

The module is a definition; what travels is `(graphdef, params)`, `params` being a plain nested dict
of arrays. All blocks live in stacked leaves `(depth, ...)`, whether the program scans over them
(`scan_layers=True`, compiles fast) or unrolls them.

Source: facebookresearch/mae `models_vit.py`, timm `vision_transformer.py` (LayerScale), by names
and numerics; `torch_layout.py` has the table of names.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from fer_jax.errors import FerJaxError

Params = dict[str, Any]
Images = Float[Array | np.ndarray, "b h w 3"]

# width, depth, heads, patch size
SIZES = {
    "tiny": (192, 12, 3, 16),
    "small": (384, 12, 6, 16),
    "base": (768, 12, 12, 16),
    "large": (1024, 24, 16, 16),
    "huge": (1280, 32, 16, 14),
}
POOLS = ("cls", "avg")
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTIONS = {"auto": None, "xla": "xla", "cudnn": "cudnn"}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What defines a ViT; every field that is not a matter of speed is written into bundles.

    Attributes:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        patch_size: side of a patch, pixels.
        width: token width D.
        depth: number of blocks.
        num_heads: attention heads; divides `width`.
        mlp_ratio: hidden width of the MLP over D.
        num_classes: outputs of the head; 0 for no head.
        pool: `cls` (LayerNorm over all tokens, then the CLS token) or `avg` (mean of the patch
            tokens without CLS, then `fc_norm`, MAE's global pool).
        layer_scale: learned scale on both residual branches (DINOv2).
        layer_scale_init: its initial value.
        head_init: standard deviation of the head's first weights.
        drop_path: largest rate of stochastic depth; rates rise linearly over the blocks from 0.
        norm_eps: epsilon of every LayerNorm.
        dtype: of the computation; parameters are cast when used.
        param_dtype: of the parameters.
        scan_layers: loop over the stacked blocks instead of unrolling them.
        remat: what the backward pass recomputes: `none` | `full` | `dots` (keeps matmul results).
        attention: implementation of `jax.nn.dot_product_attention`: `auto` | `xla` | `cudnn`.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 0
    pool: str = "cls"
    layer_scale: bool = False
    layer_scale_init: float = 1e-5
    head_init: float = 2e-5
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise FerJaxError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}"
            )
        if self.width % self.num_heads:
            raise FerJaxError(f"num_heads={self.num_heads} must divide width={self.width}")
        if not 0 <= self.drop_path < 1:
            raise FerJaxError(f"drop_path={self.drop_path} must lie in [0, 1)")
        for field, known in (("pool", POOLS), ("remat", REMAT_POLICIES), ("attention", ATTENTIONS)):
            value = getattr(self, field)
            if value not in known:
                raise FerJaxError(f"{field}={value!r} must be one of {', '.join(known)}")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patch tokens and the CLS token."""
        return self.grid**2 + 1


def vit_config(size: str, **overrides: Any) -> ViTConfig:
    """The configuration of a registered size.

    Args:
        size: `tiny` | `small` | `base` | `large` | `huge`.
        **overrides: fields of `ViTConfig`.

    Raises:
        FerJaxError: no such size.

    >>> vit_config("base", num_classes=8).num_tokens
    197
    """
    if size not in SIZES:
        raise FerJaxError(f"size {size!r} is not known; one of {', '.join(SIZES)}")
    width, depth, num_heads, patch_size = SIZES[size]
    fields = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
    return ViTConfig(**(fields | overrides))


# Initialisers of MAE: xavier for matrices, 0.02 for tokens.
_XAVIER = nnx.initializers.xavier_uniform()
_TOKEN = nnx.initializers.normal(0.02)


def _linear(config: ViTConfig, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=_XAVIER,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def _layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.width,
        epsilon=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def _by_token(linear: nnx.Linear, x: Float[Array, "b t d"]) -> Float[Array, "b t e"]:
    """The layer as one plain matrix product: a fifth faster to differentiate on a CPU."""
    batch, tokens, width = x.shape
    return linear(x.reshape(batch * tokens, width)).reshape(batch, tokens, linear.out_features)


class PatchEmbed(nnx.Module):
    """Non-overlapping patches to tokens: a convolution of stride P, written as one matmul."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        patch, width, dtype = config.patch_size, config.width, config.param_dtype
        matrix = _XAVIER(rngs.params(), (patch * patch * 3, width), dtype)
        self.kernel = nnx.Param(matrix.reshape(patch, patch, 3, width))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))

    def __call__(self, images: Images) -> Float[Array, "b n d"]:
        """Images to patch tokens, row by row."""
        config = self.config
        grid, patch, size = config.grid, config.patch_size, config.image_size
        if images.shape[1:3] != (size, size):
            raise FerJaxError(
                f"images of {images.shape[1:3]} pixels; the model takes {size}x{size}"
            )
        x = jnp.asarray(images, config.dtype).reshape(-1, grid, patch, grid, patch, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, grid * grid, patch * patch * 3)
        kernel = self.kernel[...].astype(config.dtype).reshape(-1, config.width)
        return x @ kernel + self.bias[...].astype(config.dtype)[None, None]


class Attention(nnx.Module):
    """Multi-head self-attention; the rows of qkv are ordered [q | k | v], each heads x width."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.qkv = _linear(config, config.width, 3 * config.width, rngs)
        self.proj = _linear(config, config.width, config.width, rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Every token attends to every token."""
        batch, tokens, width = x.shape
        heads = self.config.num_heads
        query, key, value = (
            part.reshape(batch, tokens, heads, width // heads)
            for part in jnp.split(_by_token(self.qkv, x), 3, axis=-1)
        )
        implementation = ATTENTIONS[self.config.attention]
        y = jax.nn.dot_product_attention(query, key, value, implementation=implementation)
        return _by_token(self.proj, y.reshape(batch, tokens, width))


class Mlp(nnx.Module):
    """Two layers with the exact (erf) GELU between them."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = _linear(config, config.width, hidden, rngs)
        self.fc2 = _linear(config, hidden, config.width, rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Token by token."""
        hidden = jax.nn.gelu(_by_token(self.fc1, x), approximate=False)
        return _by_token(self.fc2, hidden)


class LayerScale(nnx.Module):
    """A learned scale for each channel of a residual branch."""

    def __init__(self, config: ViTConfig):
        self.dtype = config.dtype
        initial = jnp.full((config.width,), config.layer_scale_init, config.param_dtype)
        self.gamma = nnx.Param(initial)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Scales the channels."""
        return x * self.gamma[...].astype(self.dtype)[None, None]


def _drop_path(x: Float[Array, "b t d"], rate: Array, key: Key[Array, ""]) -> Array:
    """Zeroes whole samples of a residual branch, and scales the rest to keep the mean."""
    keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, 1))
    return jnp.where(keep, x / (1 - rate).astype(x.dtype), jnp.zeros((), x.dtype))


class Block(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.norm1 = _layer_norm(config, rngs)
        self.attn = Attention(config, rngs=rngs)
        self.norm2 = _layer_norm(config, rngs)
        self.mlp = Mlp(config, rngs=rngs)
        if config.layer_scale:
            self.ls1 = LayerScale(config)
            self.ls2 = LayerScale(config)

    def __call__(
        self, x: Float[Array, "b t d"], drop: tuple[Array, Array] | None = None
    ) -> Float[Array, "b t d"]:
        """Applies the block; `drop` is (rate, key) of stochastic depth when training."""
        attention = self.attn(self.norm1(x))
        if self.config.layer_scale:
            attention = self.ls1(attention)
        if drop is not None:
            rate, key = drop
            attention = _drop_path(attention, rate, jax.random.fold_in(key, 0))
        x = x + attention
        mlp = self.mlp(self.norm2(x))
        if self.config.layer_scale:
            mlp = self.ls2(mlp)
        if drop is not None:
            mlp = _drop_path(mlp, rate, jax.random.fold_in(key, 1))
        return x + mlp


class ViT(nnx.Module):
    """The whole encoder with its optional head; used through `build`, `init` and `apply`."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, config.param_dtype
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.cls_token = nnx.Param(_TOKEN(rngs.params(), (1, 1, width), dtype))
        self.pos_embed = nnx.Param(_TOKEN(rngs.params(), (1, config.num_tokens, width), dtype))

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stacked(rngs)
        if config.pool == "avg":
            self.fc_norm = _layer_norm(config, rngs)
        else:
            self.norm = _layer_norm(config, rngs)
        if config.num_classes:
            # The head is small and decides: it computes in float32 whatever the trunk does.
            self.head = nnx.Linear(
                width,
                config.num_classes,
                kernel_init=nnx.initializers.truncated_normal(config.head_init),
                dtype="float32",
                param_dtype=dtype,
                rngs=rngs,
            )

    def __call__(
        self,
        images: Images,
        *,
        key: Key[Array, ""] | None = None,
        intermediates: bool = False,
    ) -> tuple[Float[Array, "b c"] | None, dict[str, Array]]:
        """See `apply`."""
        config = self.config
        patches = self.patch_embed(images)
        cls_token = jnp.broadcast_to(
            self.cls_token[...].astype(config.dtype), (patches.shape[0], 1, config.width)
        )
        x = jnp.concatenate([cls_token, patches], axis=1)
        x = x + self.pos_embed[...].astype(config.dtype)
        embedded = x
        x, outputs = self._run_blocks(x, key, intermediates)
        features = {"tokens": x}
        if config.pool == "avg":
            pooled = self.fc_norm(x[:, 1:].mean(axis=1))
        else:
            features["norm"] = self.norm(x)
            pooled = features["norm"][:, 0]
        features["pooled"] = pooled.astype(jnp.float32)
        if intermediates:
            features |= {"patch_embed": patches, "embed": embedded, "blocks": outputs}
        logits = self.head(features["pooled"]) if config.num_classes else None
        return logits, features

    def _run_blocks(
        self, x: Float[Array, "b t d"], key: Key[Array, ""] | None, keep_outputs: bool
    ) -> tuple[Array, Array | None]:
        """Loops over the stacked blocks, by `scan` or unrolled; one body for both."""
        config = self.config
        block, stacked = nnx.split(self.blocks)
        drops = None
        if key is not None and config.drop_path > 0:
            rates = jnp.linspace(0, config.drop_path, config.depth, dtype=jnp.float32)
            drops = (rates, jax.random.split(key, config.depth))

        def body(x: Array, layer: tuple[Any, Any]) -> tuple[Array, Array | None]:
            state, drop = layer
            x = nnx.merge(block, state)(x, drop)
            return x, x if keep_outputs else None

        policy = REMAT_POLICIES[config.remat]
        if policy is not None:
            body = jax.checkpoint(body, policy=policy, prevent_cse=not config.scan_layers)
        if config.scan_layers:
            return jax.lax.scan(body, x, (stacked, drops))
        outputs = []
        for i in range(config.depth):
            x, output = body(x, jax.tree.map(lambda leaf, i=i: leaf[i], (stacked, drops)))
            outputs.append(output)
        return x, jnp.stack(outputs) if keep_outputs else None


@functools.lru_cache(maxsize=64)
def build(config: ViTConfig) -> nnx.GraphDef:
    """The static half of a model: hashable, to be closed over or passed as a static argument."""
    abstract = nnx.eval_shape(lambda: ViT(config, rngs=nnx.Rngs(0)))
    return nnx.graphdef(abstract)


def init(config: ViTConfig, key: Key[Array, ""]) -> Params:
    """Fresh parameters: a plain nested dict of arrays, blocks stacked on axis 0.

    Args:
        config: the model.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        Params of `config.param_dtype`. Pure: may be jitted with `out_shardings` to make them where
        they shall live, or passed to `jax.eval_shape`.
    """
    model = ViT(config, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    images: Images,
    *,
    key: Key[Array, ""] | None = None,
    intermediates: bool = False,
) -> tuple[Float[Array, "b c"] | None, dict[str, Array]]:
    """Runs the model; pure.

    Args:
        graphdef: from `build(config)`.
        params: from `init` or a bundle.
        images: normalised RGB, (batch, image_size, image_size, 3).
        key: given when training: turns stochastic depth on.
        intermediates: also return the patch embedding and every block's output.

    Returns:
        Logits (batch, num_classes) float32, None without a head; and features by name: `tokens`
        (batch, 1 + patches, width) after all blocks, `norm` (the same after the final LayerNorm,
        only where `pool='cls'`), `pooled` (batch, width) float32; with `intermediates` also
        `patch_embed` (batch, patches, width), `embed` (with CLS and positions) and `blocks`
        (depth, batch, 1 + patches, width).
    """
    return nnx.merge(graphdef, params)(images, key=key, intermediates=intermediates)


def parameter_count(params: Params) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
