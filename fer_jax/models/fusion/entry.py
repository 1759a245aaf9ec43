"""The fusion of the ABAW6 entry: attention between the features of the two views.

Source: the code of the ABAW6 entry of arXiv:2403.13039, re-derived; the paper leaves it open.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key

from fer_jax.models.fusion.layers import Params, cast, dropout, linear, linear_init, uniform
from fer_jax.models.fusion.sources import VIEWS, Features, check_config, pooled_features
from fer_jax.ops.attention import scalar_attention


@dataclasses.dataclass(frozen=True)
class EntryFusionConfig:
    """What defines the fusion; the defaults are the entry's, 4,202,000 parameters.

    Attributes:
        widths: of the features of each source.
        width: all are projected to it; these are the tokens of the attention.
        hidden: width of the head's first layer.
        num_classes: outputs of the head.
        param_dtype: of the parameters; the computation is in float32.
        sources: names of the features, two or more; the first one's are looked at by the others.
        dropout: share of the fused features that training leaves out; the entry has none.

    Raises:
        FerJaxError: a number is out of its range, or a name is not known.
    """

    widths: tuple[int, ...] = (768, 768)
    width: int = 1024
    hidden: int = 512
    num_classes: int = 8
    param_dtype: str = "float32"
    sources: tuple[str, ...] = VIEWS
    dropout: float = 0.0

    variant: ClassVar[str] = "entry"

    def __post_init__(self) -> None:
        check_config(self, "width", "hidden", least=2)

    @property
    def fused_width(self) -> int:
        """Width of the fused features."""
        return self.width


def init(config: EntryFusionConfig, key: Key[Array, ""]) -> Params:
    r"""Fresh parameters, drawn as PyTorch draws them.

    Kernels and biases of linear layers are uniform in :math:`\pm 1 / \sqrt{\text{inputs}}`. In the
    attention the biases are 0, the input projection is uniform in :math:`\pm \sqrt{6 / (1 + 3)}`
    (Xavier, which counts the three outputs together) and the output projection in :math:`\pm 1`.

    Args:
        config: the fusion.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        Params of `config.param_dtype`, kernels (inputs, outputs): one layer by the name of each
        source (`main`, `aux`), `key` (on all of them, joined), `attention` with `in_proj` (columns
        query, key, value) and `out_proj`, and `mlp` with `fc1` and `fc2`.

    Example:
        >>> init(EntryFusionConfig((6, 4), 16, 8), jax.random.key(0))["key"]["kernel"].shape
        (32, 16)

    Source: `torch.nn.Linear` and `torch.nn.MultiheadAttention`, `reset_parameters` of both.
    """
    layers = {
        name: (own, config.width) for name, own in zip(config.sources, config.widths, strict=True)
    }
    layers |= {
        "key": (len(config.sources) * config.width, config.width),
        "fc1": (config.width, config.hidden),
        "fc2": (config.hidden, config.num_classes),
    }
    *keys, in_key, out_key = jax.random.split(key, len(layers) + 2)
    params = {
        name: linear_init(key, *shape)
        for (name, shape), key in zip(layers.items(), keys, strict=True)
    }
    params["mlp"] = {"fc1": params.pop("fc1"), "fc2": params.pop("fc2")}
    params["attention"] = {
        "in_proj": {"kernel": uniform(in_key, (1, 3), math.sqrt(6 / 4)), "bias": jnp.zeros(3)},
        "out_proj": {"kernel": uniform(out_key, (1, 1), 1.0), "bias": jnp.zeros(1)},
    }
    return cast(params, config.param_dtype)


def apply(
    config: EntryFusionConfig,
    params: Params,
    features: Features,
    key: Key[Array, ""] | None = None,
) -> tuple[Float32[Array, "b c"], dict[str, Float32[Array, "b _"]]]:
    r"""Logits from the pooled features of the sources; pure.

    .. math::
        a &= W_1 f_\text{main} + b_1, \quad b = W_2 f_\text{aux} + b_2, \quad k = W_k [a; b] + b_k

        o_i &= w_o \sum_j \operatorname{softmax}_j(q_i k'_j)\, v_j + b_o, \quad
        q = w_q b + b_q, \; k' = w_k k + b_{k'}, \; v = w_v a + b_v

        \text{logits} &= W_4 (W_3 (o + a) + b_3) + b_4

    The attention has one head of width 1: the numbers of a vector are its tokens, and its
    projections are scalars. There is no activation between the two layers of the head.

    With more sources than two, which is no longer the entry's: each is projected, the key is made
    of all of them, each but the first asks with a query of its own through the same scalar
    projections, and o is the sum of the answers.

    Args:
        config: the fusion.
        params: from `init` or a bundle.
        features: (batch, width of the source) by name, any float type, computed in float32.
        key: given when training: turns dropout on.

    Returns:
        Logits (batch, num_classes); and the steps by name: the sources' (a, b), `key` (k),
        `attention` (o), `fused` (o + a, before dropout), each (batch, width), `hidden` (batch,
        hidden). All float32.

    Raises:
        FerJaxError: a source is missing; features that do not fit the params, or each other.
    """
    given = pooled_features(dict(zip(config.sources, config.widths, strict=True)), features)
    params = cast(params, "float32")
    tokens = {name: linear(params[name], x) for name, x in given.items()}
    # The barrier keeps one copy of the tokens, of which the rest reads parts: else the joined and
    # the single ones would both wait for the gradients.
    joined = jax.lax.optimization_barrier(jnp.concatenate([*tokens.values()], axis=-1))
    value, *queries = jnp.split(joined, len(tokens), axis=-1)
    joined = linear(params["key"], joined)

    in_proj, out_proj = params["attention"]["in_proj"], params["attention"]["out_proj"]

    def project(i: int, x: Array) -> Array:
        return in_proj["kernel"][0, i] * x + in_proj["bias"][i]

    answers = (
        scalar_attention(project(0, query), project(1, joined), project(2, value))
        for query in queries
    )
    attention = sum(out_proj["kernel"][0, 0] * each + out_proj["bias"][0] for each in answers)
    fused = attention + value
    hidden = linear(params["mlp"]["fc1"], dropout(fused, config.dropout, key))
    logits = linear(params["mlp"]["fc2"], hidden)
    steps = {"key": joined, "attention": attention, "fused": fused, "hidden": hidden}
    return logits, tokens | steps
