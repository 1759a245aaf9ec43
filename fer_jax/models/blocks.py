"""The layers that the ViT and the masked autoencoder share, and their blocks stacked and run.

Source: facebookresearch/mae `models_vit.py`, timm `vision_transformer.py` (LayerScale), by names
and numerics.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from fer_jax.errors import FerJaxError
from fer_jax.models.config import ATTENTIONS, REMAT_POLICIES, ViTConfig

Images = Float[Array | np.ndarray, "b h w 3"]

# Initialisers of MAE: xavier for matrices, 0.02 for tokens.
XAVIER = nnx.initializers.xavier_uniform()
TOKEN = nnx.initializers.normal(0.02)


def linear(config: ViTConfig, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer of `inputs` to `outputs` channels in the dtypes of the configuration."""
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=XAVIER,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A LayerNorm over `config.width` channels."""
    return nnx.LayerNorm(
        config.width,
        epsilon=config.norm_eps,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def by_token(layer: nnx.Linear, x: Float[Array, "b t d"]) -> Float[Array, "b t e"]:
    """The layer as one plain matrix product: a fifth faster to differentiate on a CPU."""
    batch, tokens, width = x.shape
    return layer(x.reshape(batch * tokens, width)).reshape(batch, tokens, layer.out_features)


@jax.custom_jvp
def gelu(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    r"""The exact GELU, :math:`x \Phi(x) = \frac{x}{2} (1 + \operatorname{erf}(x / \sqrt 2))`.

    Computed in float32 and rounded once. `jax.nn.gelu` goes by erfc, which takes two to three times
    as long on a CPU. The backward pass keeps one array, the slope
    :math:`\Phi(x) + x e^{-x^2 / 2} / \sqrt{2 \pi}`, in the type of x.

    Args:
        x: of any shape and float type.

    Returns:
        Of the same.

    Example:
        >>> [round(float(y), 4) for y in gelu(jnp.array([-1.0, 0.0, 1.0]))]
        [-0.1587, 0.0, 0.8413]
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    cdf = _normal_cdf(wide)
    slope = cdf + wide * jnp.exp(-0.5 * wide * wide) * np.float32(1 / math.sqrt(2 * math.pi))
    return (wide * cdf).astype(x.dtype), slope.astype(x.dtype) * tangent


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * np.float32(math.sqrt(0.5)))


def attend(
    query: Float[Array, "b t h d"], key: Float[Array, "b t h d"], value: Float[Array, "b t h d"]
) -> Float[Array, "b t h d"]:
    """What `jax.nn.dot_product_attention` computes, with the heads in front of the tokens.

    So each head's product is one plain matrix product, which takes a third less time on a CPU.

    Args:
        query: of each token and head.
        key: likewise.
        value: likewise.

    Returns:
        The mean of the values, weighted by the softmax of the scaled scores, which is computed in
        float32.
    """
    query, key, value = (part.swapaxes(1, 2) for part in (query, key, value))
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1).astype(value.dtype)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value).swapaxes(1, 2)


def patchify(
    images: Float[Array | np.ndarray, "*b h w 3"], patch_size: int
) -> Float[Array, "*b n d"]:
    """Cuts square images into patches, row by row; `unpatchify` is the inverse.

    Args:
        images: (s, s, 3), or with leading axes; of any float dtype.
        patch_size: side of a patch P, pixels.

    Returns:
        Patch vectors (..., (s / P)^2, P P 3) of the same dtype, each ordered (row, column,
        channel).

    Raises:
        FerJaxError: the images are not square, or P does not divide their side.

    >>> patchify(jnp.zeros((2, 32, 32, 3)), 8).shape
    (2, 16, 192)
    >>> patchify(jnp.zeros((32, 32, 3)), 8).shape  # one image
    (16, 192)
    """
    *batch, height, width, channels = images.shape
    if height != width or height % patch_size:
        raise FerJaxError(
            f"images of {(height, width)} pixels must be square, and divisible by {patch_size=}"
        )
    grid = height // patch_size
    x = jnp.asarray(images).reshape(*batch, grid, patch_size, grid, patch_size, channels)
    return x.swapaxes(-4, -3).reshape(*batch, grid * grid, patch_size**2 * channels)


def unpatchify(
    patches: Float[Array | np.ndarray, "*b n d"], patch_size: int
) -> Float[Array, "*b s s 3"]:
    """Puts patches back into square images; the inverse of `patchify`.

    Args:
        patches: (n, P P 3), or with leading axes, n being a square number.
        patch_size: side of a patch P, pixels.

    Returns:
        Images of sqrt(n) P pixels a side, of the same dtype.

    Raises:
        FerJaxError: n is no square number, or the vectors are not of P P 3 values.
    """
    *batch, count, length = patches.shape
    grid = math.isqrt(count)
    if grid**2 != count or length != patch_size**2 * 3:
        raise FerJaxError(
            f"patches of shape {tuple(patches.shape)}; for {patch_size=} they must be a square "
            f"number of vectors of {patch_size**2 * 3} values"
        )
    x = jnp.asarray(patches).reshape(*batch, grid, grid, patch_size, patch_size, 3)
    side = grid * patch_size
    return x.swapaxes(-4, -3).reshape(*batch, side, side, 3)


def of_one_image(features: dict[str, Array]) -> dict[str, Array]:
    """Features of a batch of one without that axis, which is the second of the stacked blocks."""
    return {name: x[:, 0] if name.endswith("blocks") else x[0] for name, x in features.items()}


class PatchEmbed(nnx.Module):
    """Non-overlapping patches to tokens: a convolution of stride P, written as one matmul."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        patch, width, dtype = config.patch_size, config.width, config.param_dtype
        matrix = XAVIER(rngs.params(), (patch * patch * 3, width), dtype)
        self.kernel = nnx.Param(matrix.reshape(patch, patch, 3, width))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))

    def __call__(self, images: Images) -> Float[Array, "b n d"]:
        """Images to patch tokens, row by row."""
        config = self.config
        size = config.image_size
        if images.shape[1:] != (size, size, 3):
            raise FerJaxError(
                f"images of shape {images.shape}; the model takes (batch, {size}, {size}, 3), or "
                f"one of ({size}, {size}, 3)"
            )
        x = patchify(jnp.asarray(images, config.dtype), config.patch_size)
        kernel = self.kernel[...].astype(config.dtype).reshape(-1, config.width)
        return x @ kernel + self.bias[...].astype(config.dtype)[None, None]


class Attention(nnx.Module):
    """Multi-head self-attention; the rows of qkv are ordered [q | k | v], each heads x width."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.qkv = linear(config, config.width, 3 * config.width, rngs)
        self.proj = linear(config, config.width, config.width, rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Every token attends to every token."""
        batch, tokens, width = x.shape
        heads = self.config.num_heads
        query, key, value = (
            part.reshape(batch, tokens, heads, width // heads)
            for part in jnp.split(by_token(self.qkv, x), 3, axis=-1)
        )
        implementation = ATTENTIONS[self.config.attention]
        if implementation == "xla":
            y = attend(query, key, value)
        else:
            y = jax.nn.dot_product_attention(query, key, value, implementation=implementation)
        return by_token(self.proj, y.reshape(batch, tokens, width))


class Mlp(nnx.Module):
    """Two layers with the exact (erf) GELU between them."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = linear(config, config.width, hidden, rngs)
        self.fc2 = linear(config, hidden, config.width, rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Token by token."""
        return by_token(self.fc2, gelu(by_token(self.fc1, x)))


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
        self.norm1 = layer_norm(config, rngs)
        self.attn = Attention(config, rngs=rngs)
        self.norm2 = layer_norm(config, rngs)
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


def stacked_blocks(config: ViTConfig, rngs: nnx.Rngs) -> Block:
    """`config.depth` blocks as one, every leaf stacked on axis 0."""

    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def stacked(rngs: nnx.Rngs) -> Block:
        return Block(config, rngs=rngs)

    return stacked(rngs)


def split_batch(x: Array) -> Array:
    """Says that axis 0 lies split over all devices, in a program for a training mesh.

    Left to itself, XLA gathers activations where parameters are split over `fsdp`: 25 GiB a step of
    a ViT-B on 16 chips, where the weights are 0.3.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != ("data", "fsdp") or x.shape[0] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(mesh.axis_names))


def run_blocks(
    blocks: Block,
    config: ViTConfig,
    x: Float[Array, "b t d"],
    *,
    key: Key[Array, ""] | None = None,
    keep_outputs: bool = False,
) -> tuple[Float[Array, "b t d"], Float[Array, "depth b t d"] | None]:
    """Loops over stacked blocks, by `scan` or unrolled; one body for both.

    Args:
        blocks: from `stacked_blocks(config, ...)`.
        config: says how to loop, what to recompute, and the rates of stochastic depth.
        x: tokens, of `config.dtype`.
        key: given when training: turns stochastic depth on.
        keep_outputs: also return what every block gave.

    Returns:
        The tokens after the last block, and after each of them or None.
    """
    block, stacked = nnx.split(blocks)
    drops = None
    if key is not None and config.drop_path > 0:
        rates = jnp.linspace(0, config.drop_path, config.depth, dtype=jnp.float32)
        drops = (rates, jax.random.split(key, config.depth))

    def body(x: Array, layer: tuple[Any, Any]) -> tuple[Array, Array | None]:
        state, drop = layer
        x = split_batch(nnx.merge(block, state)(split_batch(x), drop))
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
