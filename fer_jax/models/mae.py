"""The masked autoencoder (MAE): hide most patches of an image, and learn to paint them.

The encoder is a plain `vit.ViT` that sees the visible patches only; a narrower decoder sees its
tokens in their places, with one learned mask token in every other place, and predicts the pixels.
`params["encoder"]` is the parameter tree of a ViT with `pool="cls"` and no head, so that what was
pre-trained here can be fine-tuned there as it is.

Source: facebookresearch/mae `models_mae.py`, by names and numerics.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int, Key

from fer_jax.errors import FerJaxError
from fer_jax.models.blocks import (
    TOKEN,
    Images,
    by_token,
    layer_norm,
    linear,
    of_one_image,
    patchify,
    run_blocks,
    stacked_blocks,
    unpatchify,
)
from fer_jax.models.config import MAX_DEPTH, check_hidden, check_sizes
from fer_jax.models.positions import sincos_positions
from fer_jax.models.vit import Params, ViT, ViTConfig

__all__ = [
    "MAE",
    "MAEConfig",
    "MAEOutput",
    "apply",
    "build",
    "init",
    "num_visible",
    "patchify",
    "random_mask",
    "reconstruction_loss",
    "reconstruction_sums",
    "unpatchify",
]


@dataclasses.dataclass(frozen=True)
class MAEConfig:
    """What defines a masked autoencoder; the defaults are those of MAE's ViT-B.

    Attributes:
        encoder: the ViT to be pre-trained: `pool="cls"`, no head, no LayerScale.
        decoder_width: token width of the decoder.
        decoder_depth: its number of blocks.
        decoder_num_heads: its attention heads; divides `decoder_width`.
        decoder_mlp_ratio: hidden width of its MLPs over `decoder_width`.
        norm_pix: predict each patch's pixels less their mean and over their standard deviation.

    Raises:
        FerJaxError: a number is out of its range, or the encoder is no MAE's.
    """

    encoder: ViTConfig
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_ratio: float = 4.0
    norm_pix: bool = True

    def __post_init__(self) -> None:
        check_sizes(self, "decoder_width", "decoder_num_heads")
        check_sizes(self, "decoder_depth", most=MAX_DEPTH)
        check_hidden(self, "decoder_mlp_ratio", "decoder_width")
        for field, wanted in (("pool", "cls"), ("num_classes", 0), ("layer_scale", False)):
            value = getattr(self.encoder, field)
            if value != wanted:
                raise FerJaxError(f"encoder.{field}={value!r} must be {wanted!r} in an MAE")
        width, heads = self.decoder_width, self.decoder_num_heads
        if width % heads:
            raise FerJaxError(f"decoder_num_heads={heads} must divide decoder_width={width}")
        for field, value in (("encoder.width", self.encoder.width), ("decoder_width", width)):
            if value % 4:
                raise FerJaxError(f"{field}={value} must be a multiple of 4: sin-cos positions")

    @property
    def image_size(self) -> int:
        """Side of the square input, pixels."""
        return self.encoder.image_size

    @property
    def num_classes(self) -> int:
        """0: it has no head."""
        return 0

    @property
    def param_dtype(self) -> str:
        """Of the parameters."""
        return self.encoder.param_dtype

    @property
    def decoder(self) -> ViTConfig:
        """The decoder's blocks; images, precision and matters of speed are the encoder's."""
        return dataclasses.replace(
            self.encoder,
            width=self.decoder_width,
            depth=self.decoder_depth,
            num_heads=self.decoder_num_heads,
            mlp_ratio=self.decoder_mlp_ratio,
            drop_path=0.0,
        )


class MAEOutput(NamedTuple):
    """What `apply` returns; N patches of P x P pixels, of which `kept` are visible.

    Attributes:
        loss: mean squared error over the hidden patches.
        prediction: patch vectors (b, N, P P 3), ordered (row, column, channel); with `norm_pix` in
            units of each patch's standard deviation.
        mask: (b, N), 1 where a patch was hidden.
        latent: (b, 1 + kept, D) after the encoder's norm, in the compute dtype: CLS, then the
            visible patches in the order of their noise.
        features: with `intermediates`, in the compute dtype: `patch_embed` (b, N, D), `embed`
            (b, 1 + kept, D), `blocks` (depth, b, 1 + kept, D), `decoder_embed` (b, 1 + N, Dd) with
            mask tokens in place and positions added, `decoder_blocks` (depth, b, 1 + N, Dd).
            Empty otherwise.

    Of one image all are without the axis b.
    """

    loss: Float32[Array, ""]
    prediction: Float32[Array, "*b n d"]
    mask: Float32[Array, "*b n"]
    latent: Float[Array, "*b t d"]
    features: dict[str, Array]


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """How many patches stay visible, rounded down as MAE does: int(N (1 - ratio)).

    Raises:
        FerJaxError: the ratio would hide nothing or everything.

    >>> num_visible(196, 0.75)
    49
    """
    kept = int(num_patches * (1 - mask_ratio)) if 0 < mask_ratio < 1 else 0
    if not 0 < kept < num_patches:
        raise FerJaxError(
            f"mask_ratio={mask_ratio} must leave at least one of {num_patches} patches visible and "
            "hide at least one"
        )
    return kept


def random_mask(
    noise: Float[Array | np.ndarray, "*b n"], mask_ratio: float
) -> tuple[Int[Array, "*b kept"], Int[Array, "*b n"], Float32[Array, "*b n"]]:
    """Which patches stay visible: in each row those with the smallest noise.

    Args:
        noise: one number a patch, of one row or with leading axes; of equal ones the first is
            smaller.
        mask_ratio: share of patches to hide, static.

    Returns:
        The visible patches' places in the order of their noise; the permutation that puts patches
        sorted by noise back in place; and the mask, 1 where a patch is hidden.

    Raises:
        FerJaxError: the ratio would hide nothing or everything.

    >>> kept, restore, mask = random_mask(jnp.array([0.4, 0.1, 0.3, 0.2]), 0.5)
    >>> kept.tolist(), restore.tolist(), mask.tolist()
    ([1, 3], [3, 0, 2, 1], [1.0, 0.0, 1.0, 0.0])
    """
    kept = num_visible(noise.shape[-1], mask_ratio)
    order = jnp.argsort(jnp.asarray(noise), axis=-1, stable=True)
    restore = jnp.argsort(order, axis=-1)
    return order[..., :kept], restore, (restore >= kept).astype(jnp.float32)


def reconstruction_loss(
    prediction: Float[Array | np.ndarray, "*b n d"],
    images: Float[Array | np.ndarray, "*b h w 3"],
    mask: Float[Array | np.ndarray, "*b n"],
    patch_size: int,
    norm_pix: bool,
) -> Float32[Array, ""]:
    """Mean squared error of the predicted pixels over the hidden patches, in float32.

    With `norm_pix` the target is (x - mean) / sqrt(variance + 1e-6) within each patch, over its
    pixels and channels together, the variance being the unbiased one (ddof = 1).

    Args:
        prediction: patch vectors as of `patchify`.
        images: normalised RGB, (s, s, 3), or with leading axes.
        mask: 1 where a patch is hidden; at least one must be.
        patch_size: side of a patch, pixels.
        norm_pix: see above.

    Returns:
        A scalar.

    Raises:
        FerJaxError: the images are not square, or `patch_size` does not divide their side.
    """
    error_sum, count = reconstruction_sums(prediction, images, mask, patch_size, norm_pix)
    return error_sum / count


def reconstruction_sums(
    prediction: Float[Array | np.ndarray, "*b n d"],
    images: Float[Array | np.ndarray, "*b h w 3"],
    mask: Float[Array | np.ndarray, "*b n"],
    patch_size: int,
    norm_pix: bool,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """What `reconstruction_loss` divides: the sum over the hidden patches, and their number.

    Sums of parts of a batch add up to those of the whole, however it is split. Arguments and errors
    are those of `reconstruction_loss`; the mask may be 0 everywhere.
    """
    target = patchify(jnp.asarray(images, jnp.float32), patch_size)
    if norm_pix:
        mean = target.mean(axis=-1, keepdims=True)
        variance = target.var(axis=-1, keepdims=True, ddof=1)
        target = (target - mean) / jnp.sqrt(variance + 1e-6)
    error = jnp.square(jnp.asarray(prediction, jnp.float32) - target).mean(axis=-1)
    mask = jnp.asarray(mask, jnp.float32)
    return (error * mask).sum(), mask.sum()


def _fixed_positions(config: ViTConfig) -> nnx.Param:
    return nnx.Param(jnp.asarray(sincos_positions(config.width, config.grid), config.param_dtype))


def _token(token: nnx.Param, config: ViTConfig, batch: int, count: int) -> Array:
    token = token[...].astype(config.dtype)
    return jnp.broadcast_to(token, (batch, count, config.width))


def _positions(positions: nnx.Param, config: ViTConfig) -> Array:
    """The positions as constants: MAE keeps them fixed; a fine-tuning learns them further."""
    return jax.lax.stop_gradient(jnp.asarray(positions[...], config.dtype))


class Decoder(nnx.Module):
    """From the visible patches' latent tokens to the pixels of every patch."""

    def __init__(self, config: MAEConfig, *, rngs: nnx.Rngs):
        self.config = own = config.decoder
        self.embed = linear(own, config.encoder.width, own.width, rngs)
        self.mask_token = nnx.Param(TOKEN(rngs.params(), (1, 1, own.width), own.param_dtype))
        self.pos_embed = _fixed_positions(own)
        self.blocks = stacked_blocks(own, rngs)
        self.norm = layer_norm(own, rngs)
        self.pred = linear(own, own.width, own.patch_size**2 * 3, rngs)

    def __call__(
        self,
        latent: Float[Array, "b t d"],
        restore: Int[Array, "b n"],
        *,
        intermediates: bool = False,
    ) -> tuple[Float32[Array, "b n e"], dict[str, Array]]:
        """The predicted patches, and what `MAEOutput.features` says of the decoder."""
        config = self.config
        tokens = by_token(self.embed, latent)
        hidden = config.num_tokens - tokens.shape[1]
        mask_tokens = _token(self.mask_token, config, len(tokens), hidden)
        patches = jnp.concatenate([tokens[:, 1:], mask_tokens], axis=1)
        patches = jnp.take_along_axis(patches, restore[:, :, None], axis=1)
        x = jnp.concatenate([tokens[:, :1], patches], axis=1) + _positions(self.pos_embed, config)
        embedded = x
        x, outputs = run_blocks(self.blocks, config, x, keep_outputs=intermediates)
        prediction = by_token(self.pred, self.norm(x[:, 1:])).astype(jnp.float32)
        features = {"decoder_embed": embedded, "decoder_blocks": outputs} if intermediates else {}
        return prediction, features


class MAE(nnx.Module):
    """Encoder and decoder; used through `build`, `init` and `apply`."""

    def __init__(self, config: MAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ViT(config.encoder, rngs=rngs)
        self.encoder.pos_embed = _fixed_positions(config.encoder)
        self.decoder = Decoder(config, rngs=rngs)

    def __call__(
        self,
        images: Images,
        noise: Float[Array | np.ndarray, "b n"],
        *,
        mask_ratio: float = 0.75,
        key: Key[Array, ""] | None = None,
        intermediates: bool = False,
    ) -> MAEOutput:
        """See `apply`."""
        config, encoder = self.config.encoder, self.encoder
        patches = encoder.patch_embed(images)
        if noise.shape != patches.shape[:2]:
            raise FerJaxError(
                f"noise of shape {tuple(noise.shape)}; {len(images)} images of {config.grid**2} "
                f"patches need {patches.shape[:2]}"
            )
        kept, restore, mask = random_mask(noise, mask_ratio)
        positions = _positions(encoder.pos_embed, config)
        cls_token = _token(encoder.cls_token, config, len(patches), 1) + positions[:, :1]
        visible = jnp.take_along_axis(patches + positions[:, 1:], kept[:, :, None], axis=1)
        x = embedded = jnp.concatenate([cls_token, visible], axis=1)
        x, outputs = run_blocks(encoder.blocks, config, x, key=key, keep_outputs=intermediates)
        latent = encoder.norm(x)
        prediction, features = self.decoder(latent, restore, intermediates=intermediates)
        if intermediates:
            features |= {"patch_embed": patches, "embed": embedded, "blocks": outputs}
        loss = reconstruction_loss(
            prediction, images, mask, config.patch_size, self.config.norm_pix
        )
        return MAEOutput(loss, prediction, mask, latent, features)


@functools.lru_cache(maxsize=64)
def build(config: MAEConfig) -> nnx.GraphDef:
    """The static half of a model: hashable, to be closed over or passed as a static argument."""
    abstract = nnx.eval_shape(lambda: MAE(config, rngs=nnx.Rngs(0)))
    return nnx.graphdef(abstract)


def init(config: MAEConfig, key: Key[Array, ""]) -> Params:
    """Fresh parameters: xavier for matrices, normal 0.02 for CLS and mask token, fixed positions.

    Args:
        config: the model.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        Params of `config.encoder.param_dtype`: `encoder`, the tree of a ViT, and `decoder` with
        `embed`, `mask_token`, `pos_embed`, `blocks` (stacked on axis 0), `norm` and `pred`. Pure:
        may be jitted with `out_shardings`, or passed to `jax.eval_shape`.
    """
    model = MAE(config, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    images: Float[Array | np.ndarray, "*b h w 3"],
    noise: Float[Array | np.ndarray, "*b n"],
    *,
    mask_ratio: float = 0.75,
    key: Key[Array, ""] | None = None,
    intermediates: bool = False,
) -> MAEOutput:
    """Hides patches, predicts them and compares; pure.

    No gradient reaches the two `pos_embed`: MAE keeps them fixed. An optimizer must not decay them
    either.

    Args:
        graphdef: from `build(config)`.
        params: from `init`, or loaded.
        images: normalised RGB, (b, image_size, image_size, 3); or one, without b.
        noise: (b, patches), or (patches,) for one image; drawn uniformly in training: patches with
            the smallest stay visible.
        mask_ratio: share of patches to hide, static.
        key: given when training: turns the encoder's stochastic depth on.
        intermediates: also return `MAEOutput.features`.

    Returns:
        Loss and prediction in float32, mask, latent tokens, features.

    Raises:
        FerJaxError: the ratio would hide nothing or everything, or a shape does not fit the model.
    """
    one = images.ndim == 3
    if one:
        images, noise = images[None], noise[None]
    out = nnx.merge(graphdef, params)(
        images, noise, mask_ratio=mask_ratio, key=key, intermediates=intermediates
    )
    if not one:
        return out
    loss, *arrays, features = out
    return MAEOutput(loss, *(x[0] for x in arrays), of_one_image(features))
