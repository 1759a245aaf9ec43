"""The Vision Transformer in MAE's layout: pre-norm, exact GELU, learned or loaded positions.

The module is a definition; what travels is `(graphdef, params)`, `params` being a plain nested dict
of arrays. All blocks live in stacked leaves `(depth, ...)`, whether the program scans over them
(`scan_layers=True`, compiles fast) or unrolls them. The layers are in `blocks.py`.

Source: facebookresearch/mae `models_vit.py`, timm `vision_transformer.py` (LayerScale), by names
and numerics; `torch_layout.py` has the table of names.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from fer_jax.models.blocks import (
    TOKEN,
    Images,
    PatchEmbed,
    layer_norm,
    of_one_image,
    run_blocks,
    stacked_blocks,
)
from fer_jax.models.config import (
    ATTENTIONS,
    POOLS,
    REMAT_POLICIES,
    SIZES,
    ViTConfig,
    vit_config,
)

__all__ = [
    "ATTENTIONS",
    "POOLS",
    "REMAT_POLICIES",
    "SIZES",
    "Images",
    "Params",
    "ViT",
    "ViTConfig",
    "apply",
    "build",
    "init",
    "parameter_count",
    "patch_map",
    "vit_config",
]

Params = dict[str, Any]


class ViT(nnx.Module):
    """The whole encoder with its optional head; used through `build`, `init` and `apply`."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, config.param_dtype
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.cls_token = nnx.Param(TOKEN(rngs.params(), (1, 1, width), dtype))
        self.pos_embed = nnx.Param(TOKEN(rngs.params(), (1, config.num_tokens, width), dtype))
        self.blocks = stacked_blocks(config, rngs)
        if config.pool == "avg":
            self.fc_norm = layer_norm(config, rngs)
        else:
            self.norm = layer_norm(config, rngs)
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
        x, outputs = run_blocks(self.blocks, config, x, key=key, keep_outputs=intermediates)
        features = {"tokens": x}
        if config.pool == "avg":
            pooled = self.fc_norm(x[:, 1:].mean(axis=1))
        else:
            features["norm"] = self.norm(x)
            pooled = features["norm"][:, 0]
        features["pooled"] = pooled.astype(jnp.float32)
        if intermediates:
            features |= {"patch_embed": patches, "embed": embedded, "blocks": outputs}
        if not config.num_classes:
            return None, features
        pooled = features["pooled"]
        if key is not None and config.head_dropout > 0:
            pooled = _dropout(pooled, config.head_dropout, jax.random.fold_in(key, config.depth))
        return self.head(pooled), features


def _dropout(x: Float[Array, "b d"], rate: float, key: Key[Array, ""]) -> Float[Array, "b d"]:
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


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
    images: Float[Array | np.ndarray, "*b h w 3"],
    *,
    key: Key[Array, ""] | None = None,
    intermediates: bool = False,
) -> tuple[Float[Array, "*b c"] | None, dict[str, Array]]:
    """Runs the model; pure.

    Args:
        graphdef: from `build(config)`.
        params: from `init` or a bundle.
        images: normalised RGB, (batch, image_size, image_size, 3); or one, without the batch.
        key: given when training: turns stochastic depth and head dropout on.
        intermediates: also return the patch embedding and every block's output.

    Returns:
        Logits (batch, num_classes) float32, None without a head; and features by name: `tokens`
        (batch, 1 + patches, width) after all blocks, `norm` (the same after the final LayerNorm,
        only where `pool='cls'`), `pooled` (batch, width) float32; with `intermediates` also
        `patch_embed` (batch, patches, width), `embed` (with CLS and positions) and `blocks`
        (depth, batch, 1 + patches, width). Of one image all are without the axis of the batch.

    Raises:
        FerJaxError: the images are of another size than the model's.
    """
    model = nnx.merge(graphdef, params)
    if images.ndim == 3:
        logits, features = model(images[None], key=key, intermediates=intermediates)
        return None if logits is None else logits[0], of_one_image(features)
    return model(images, key=key, intermediates=intermediates)


def patch_map(config: ViTConfig, features: Mapping[str, Array]) -> Float[Array, "*b h w d"]:
    """The patch tokens in their places on the grid, from the features that `apply` returns.

    Args:
        config: the model.
        features: from `apply`.

    Returns:
        (batch, grid, grid, width), of one image without the batch: after the final LayerNorm where
        `pool='cls'`; else as the last block leaves them, since `fc_norm` is made for their mean.
    """
    tokens = features["norm" if config.pool == "cls" else "tokens"][..., 1:, :]
    return tokens.reshape(*tokens.shape[:-2], config.grid, config.grid, config.width)


def parameter_count(params: Params) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
