"""Fusion of the patch tokens of all sources: attention across them, then local gates.

An interpretation: the paper names self-attention, local attention by convolutions, skips around
both and the strategies Mean, Concat and UpDown, but the arrangement below is ours.

Source: arXiv:2403.13039, as far as it says.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key

from fer_jax.errors import FerJaxError
from fer_jax.models.config import check_positive
from fer_jax.models.fusion.layers import (
    Params,
    cast,
    dropout,
    layer_norm,
    layer_norm_init,
    linear,
    linear_init,
    uniform,
)
from fer_jax.models.fusion.sources import (
    VIEWS,
    Features,
    check_config,
    check_one_of,
    feature_maps,
)

ATTENTIONS = ("self", "local", "both", "none")
MERGES = ("mean", "concat", "updown")


@dataclasses.dataclass(frozen=True)
class TokenFusionConfig:
    """What defines the fusion.

    Attributes:
        widths: of the tokens of each source.
        width: of the tokens inside; a source of another width is projected to it.
        num_heads: of the self-attention; divides `width`.
        num_classes: outputs of the head.
        attention: `self` (across the tokens of all sources), `local` (gates on each grid), `both`
            or `none`.
        merge: `mean` of the sources' maps, `concat` of their features, or `updown`: the maps are
            stacked along their height before the local attention, which then sees across the seam.
            Without local attention, `updown` computes what `mean` computes.
        kernel_size: side of the local attention's neighbourhood, tokens; odd.
        norm_eps: epsilon of every LayerNorm.
        param_dtype: of the parameters; the computation is in float32.
        sources: names of the features, one or more.
        dropout: share of the fused features that training leaves out.

    Raises:
        FerJaxError: a number is out of its range, or a name is not known.
    """

    widths: tuple[int, ...] = (768, 768)
    width: int = 768
    num_heads: int = 12
    num_classes: int = 8
    attention: str = "both"
    merge: str = "mean"
    kernel_size: int = 3
    norm_eps: float = 1e-6
    param_dtype: str = "float32"
    sources: tuple[str, ...] = VIEWS
    dropout: float = 0.0

    variant: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        check_config(self, "width", "num_heads", "kernel_size")
        check_one_of(self, "attention", ATTENTIONS)
        check_one_of(self, "merge", MERGES)
        check_positive(self, "norm_eps")
        if self.width % self.num_heads:
            raise FerJaxError(f"num_heads={self.num_heads} must divide width={self.width}")
        if self.kernel_size % 2 == 0:
            raise FerJaxError(f"kernel_size={self.kernel_size} must be odd")

    @property
    def projected(self) -> dict[str, int]:
        """Widths of the sources that are projected, by name."""
        widths = zip(self.sources, self.widths, strict=True)
        return {name: own for name, own in widths if own != self.width}

    @property
    def fused_width(self) -> int:
        """Width of the fused features."""
        return self.width * (len(self.sources) if self.merge == "concat" else 1)


def init(config: TokenFusionConfig, key: Key[Array, ""]) -> Params:
    r"""Fresh parameters.

    Kernels and biases are uniform in :math:`\pm 1 / \sqrt{\text{inputs}}`, as PyTorch draws those
    of `Linear` and `Conv2d`; norms are the identity, the sources' embeddings normal with a standard
    deviation of 0.02.

    Args:
        config: the fusion.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        Params of `config.param_dtype`, kernels (inputs, outputs): `source_embed` (sources, width);
        `project` by source, where widths differ; `norm1` and `attn` (`qkv`, `proj`) for the
        self-attention; `norm2` and `local` (`depthwise`, kernel (k, k, 1, width), and `pointwise`)
        for the local one; `norm` and `head`.
    """
    width, size = config.width, config.kernel_size
    embed_key, project_key, qkv_key, proj_key, depth_key, bias_key, point_key, head_key = (
        jax.random.split(key, 8)
    )
    params: Params = {
        "source_embed": 0.02 * jax.random.normal(embed_key, (len(config.sources), width)),
        "norm": layer_norm_init(config.fused_width),
        "head": linear_init(head_key, config.fused_width, config.num_classes),
    }
    if config.projected:
        keys = jax.random.split(project_key, len(config.projected))
        params["project"] = {
            name: linear_init(key, own, width)
            for key, (name, own) in zip(keys, config.projected.items(), strict=True)
        }
    if config.attention in ("self", "both"):
        params["norm1"] = layer_norm_init(width)
        params["attn"] = {
            "qkv": linear_init(qkv_key, width, 3 * width),
            "proj": linear_init(proj_key, width, width),
        }
    if config.attention in ("local", "both"):
        params["norm2"] = layer_norm_init(width)
        params["local"] = {
            "depthwise": {
                "kernel": uniform(depth_key, (size, size, 1, width), 1 / size),
                "bias": uniform(bias_key, (width,), 1 / size),
            },
            "pointwise": linear_init(point_key, width, width),
        }
    return cast(params, config.param_dtype)


def apply(
    config: TokenFusionConfig,
    params: Params,
    features: Features,
    key: Key[Array, ""] | None = None,
) -> tuple[Float32[Array, "b c"], dict[str, Float32[Array, "..."]]]:
    r"""Logits from the patch maps of the sources; pure.

    With :math:`e_s` an embedding of each source, tokens x of all sources and all places:

    .. math::
        x &= P_s f_s + e_s

        x &\leftarrow x + \operatorname{MultiHead}(\operatorname{LN}_1 x)
        \quad \text{over the tokens of all sources}

        x &\leftarrow x + \sigma(W_p (K * n) + b_p) \odot n, \quad n = \operatorname{LN}_2 x
        \quad \text{on each grid, } K \text{ a depthwise convolution, zeros outside}

        \text{logits} &= W \operatorname{LN}(\operatorname{pool}(\operatorname{merge} x)) + b

    The pool is the mean over the grid. All grids share the gate's weights.

    Args:
        config: the fusion.
        params: from `init` or a bundle.
        features: (batch, height, width of the grid, width of the source) by name, of one grid; any
            float type, computed in float32.
        key: given when training: turns dropout on.

    Returns:
        Logits (batch, num_classes); and the steps by name: `embedded` and, by `attention`,
        `attended` (batch, sources, h, w, width), `refined` (batch, maps, h, w, width; with `updown`
        one map of the height sources x h), and `fused` (batch, fused width, before dropout).
        All float32.

    Raises:
        FerJaxError: a source is missing; maps that do not fit the params, or each other.
    """
    maps = feature_maps(dict(zip(config.sources, config.widths, strict=True)), features)
    params = cast(params, "float32")
    projected = (
        linear(params["project"][name], x) if name in config.projected else x
        for name, x in maps.items()
    )
    x = jnp.stack([*projected], axis=1) + params["source_embed"][None, :, None, None]
    steps = {"embedded": x}
    batch, sources, height, columns, width = x.shape
    if config.attention in ("self", "both"):
        tokens = x.reshape(batch, sources * height * columns, width)
        normed = layer_norm(params["norm1"], tokens, config.norm_eps)
        x = (tokens + _attend(params["attn"], normed, config.num_heads)).reshape(x.shape)
        steps["attended"] = x
    if config.merge == "updown":
        x = x.reshape(batch, 1, sources * height, columns, width)
    if config.attention in ("local", "both"):
        normed = layer_norm(params["norm2"], x, config.norm_eps)
        x = x + _gates(params["local"], normed) * normed
        steps["refined"] = x
    pooled = x.mean(axis=(2, 3))
    merged = pooled.reshape(batch, -1) if config.merge == "concat" else pooled.mean(axis=1)
    fused = layer_norm(params["norm"], merged, config.norm_eps)
    steps["fused"] = fused
    return linear(params["head"], dropout(fused, config.dropout, key)), steps


def _attend(params: Params, x: Float[Array, "b t d"], heads: int) -> Float[Array, "b t d"]:
    """Multi-head self-attention; the columns of qkv are ordered [q | k | v], each heads x width."""
    batch, tokens, width = x.shape
    query, key, value = (
        part.reshape(batch, tokens, heads, width // heads)
        for part in jnp.split(linear(params["qkv"], x), 3, axis=-1)
    )
    mixed = jax.nn.dot_product_attention(query, key, value, implementation="xla")
    return linear(params["proj"], mixed.reshape(batch, tokens, width))


def _gates(params: Params, x: Float[Array, "b m h w d"]) -> Float[Array, "b m h w d"]:
    """A number in (0, 1) for each token and channel, from the tokens around it on its grid."""
    kernel = params["depthwise"]["kernel"][:, :, 0]
    size, (height, columns) = len(kernel), x.shape[2:4]
    edge = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), (0, 0), edge, edge, (0, 0)))
    # Shifts and sums: XLA's grouped convolution is far slower on a CPU, its gradient above all.
    mixed = sum(
        padded[:, :, i : i + height, j : j + columns] * kernel[i, j][None, None, None, None]
        for i in range(size)
        for j in range(size)
    )
    mixed = mixed + params["depthwise"]["bias"][None, None, None, None]
    return jax.nn.sigmoid(linear(params["pointwise"], mixed))
