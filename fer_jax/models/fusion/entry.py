"""The two-view fusion of the ABAW6 entry: attention between the features of the two views.

Params are a plain nested dict, `init` and `apply` are pure, and nothing but jax and numpy is
loaded: whoever has two arrays of features needs no more.

Source: the code of the ABAW6 entry of arXiv:2403.13039, re-derived; the paper leaves it open.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key

from fer_jax.errors import FerJaxError
from fer_jax.models.config import MAX_SIZE, check_dtypes
from fer_jax.ops.attention import scalar_attention

Params = dict[str, Any]
Features = Mapping[str, Float[Array | np.ndarray, "_ _"]]

VIEWS = ("main", "aux")


@dataclasses.dataclass(frozen=True)
class EntryFusionConfig:
    """What defines the fusion; the defaults are the entry's, 4,202,000 parameters.

    Attributes:
        widths: of the features of the main and of the auxiliary view.
        width: both are projected to it; these are the tokens of the attention.
        hidden: width of the head's first layer.
        num_classes: outputs of the head.
        param_dtype: of the parameters; the computation is in float32.

    Raises:
        FerJaxError: a number is out of its range, or the dtype is not known.
    """

    widths: tuple[int, int] = (768, 768)
    width: int = 1024
    hidden: int = 512
    num_classes: int = 8
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.widths, tuple) or len(self.widths) != len(VIEWS):
            raise FerJaxError(f"widths={self.widths!r} must be a tuple of two, (main, aux)")
        for field in ("widths", "width", "hidden", "num_classes"):
            value = getattr(self, field)
            sizes = value if field == "widths" else (value,)
            if min(sizes) < 1:
                raise FerJaxError(f"{field}={value!r} must be positive")
            if max(sizes) > MAX_SIZE:
                raise FerJaxError(f"{field}={value!r} must be {MAX_SIZE} or less")
        check_dtypes(self, "param_dtype")


def init(config: EntryFusionConfig, key: Key[Array, ""]) -> Params:
    r"""Fresh parameters, drawn as PyTorch draws them.

    Kernels and biases of linear layers are uniform in :math:`\pm 1 / \sqrt{\text{inputs}}`. In the
    attention the biases are 0, the input projection is uniform in :math:`\pm \sqrt{6 / (1 + 3)}`
    (Xavier, which counts the three outputs together) and the output projection in :math:`\pm 1`.

    Args:
        config: the fusion.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        Params of `config.param_dtype`, kernels (inputs, outputs): `main`, `aux`, `key` (on main and
        aux, joined), `attention` with `in_proj` (columns query, key, value) and `out_proj`, and
        `mlp` with `fc1` and `fc2`.

    Example:
        >>> init(EntryFusionConfig((6, 4), 16, 8), jax.random.key(0))["key"]["kernel"].shape
        (32, 16)

    Source: `torch.nn.Linear` and `torch.nn.MultiheadAttention`, `reset_parameters` of both.
    """
    layers = {
        "main": (config.widths[0], config.width),
        "aux": (config.widths[1], config.width),
        "key": (2 * config.width, config.width),
        "fc1": (config.width, config.hidden),
        "fc2": (config.hidden, config.num_classes),
    }
    *keys, in_key, out_key = jax.random.split(key, len(layers) + 2)
    linear = {
        name: _linear_init(shape, key)
        for (name, shape), key in zip(layers.items(), keys, strict=True)
    }
    attention = {
        "in_proj": {"kernel": _uniform(in_key, (1, 3), math.sqrt(6 / 4)), "bias": jnp.zeros(3)},
        "out_proj": {"kernel": _uniform(out_key, (1, 1), 1.0), "bias": jnp.zeros(1)},
    }
    params = {
        "main": linear["main"],
        "aux": linear["aux"],
        "key": linear["key"],
        "attention": attention,
        "mlp": {"fc1": linear["fc1"], "fc2": linear["fc2"]},
    }
    return jax.tree.map(lambda leaf: leaf.astype(config.param_dtype), params)


def apply(
    params: Params, features: Features, *, intermediates: bool = False
) -> tuple[Float32[Array, "b c"], dict[str, Float32[Array, "b _"]]]:
    r"""Logits from the features of the two views; pure.

    .. math::
        a &= W_1 f_\text{main} + b_1, \quad b = W_2 f_\text{aux} + b_2, \quad k = W_k [a; b] + b_k

        o_i &= w_o \sum_j \operatorname{softmax}_j(q_i k'_j)\, v_j + b_o, \quad
        q = w_q b + b_q, \; k' = w_k k + b_{k'}, \; v = w_v a + b_v

        \text{logits} &= W_4 (W_3 (o + a) + b_3) + b_4

    The attention has one head of width 1: the numbers of a vector are its tokens, and its
    projections are scalars. There is no activation between the two layers of the head, and no
    dropout: the entry has none.

    Args:
        params: from `init` or a bundle.
        features: `main` and `aux`, (batch, width of that view), the pooled features of the two
            encoders; any float type, computed in float32.
        intermediates: also return what the steps give.

    Returns:
        Logits (batch, num_classes), float32; and the steps by name, {} unless asked for: `main`
        (a), `aux` (b), `key` (k), `attention` (o), `fused` (o + a), each (batch, width), and
        `hidden` (batch, hidden), float32.

    Raises:
        FerJaxError: a view is missing; features that do not fit the params, or each other.

    Example:
        >>> params = init(EntryFusionConfig((6, 4), 16, 8), jax.random.key(0))
        >>> apply(params, {"main": jnp.ones((2, 6)), "aux": jnp.ones((2, 4))})[0].shape
        (2, 8)
    """
    _check(params, features)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    main = _linear(params["main"], jnp.asarray(features["main"], jnp.float32))
    aux = _linear(params["aux"], jnp.asarray(features["aux"], jnp.float32))
    key = _linear(params["key"], jnp.concatenate([main, aux], axis=-1))

    in_proj, out_proj = params["attention"]["in_proj"], params["attention"]["out_proj"]
    query, keys, value = (
        in_proj["kernel"][0, i] * tokens + in_proj["bias"][i]
        for i, tokens in enumerate((aux, key, main))
    )
    attended = scalar_attention(query, keys, value)
    attention = out_proj["kernel"][0, 0] * attended + out_proj["bias"][0]

    fused = attention + main
    hidden = _linear(params["mlp"]["fc1"], fused)
    logits = _linear(params["mlp"]["fc2"], hidden)
    if not intermediates:
        return logits, {}
    return logits, {
        "main": main,
        "aux": aux,
        "key": key,
        "attention": attention,
        "fused": fused,
        "hidden": hidden,
    }


def _check(params: Params, features: Features) -> None:
    missing = [view for view in VIEWS if view not in features]
    if missing:
        raise FerJaxError(
            f"features of {', '.join(sorted(features)) or 'no view'}; the fusion also takes "
            f"{', '.join(missing)}"
        )
    shapes = {view: tuple(features[view].shape) for view in VIEWS}
    for view, shape in shapes.items():
        width = params[view]["kernel"].shape[0]
        if len(shape) != 2 or shape[1] != width:
            raise FerJaxError(
                f"features of the view {view} are {shape}; the fusion takes (batch, {width})"
            )
    if shapes["main"][0] != shapes["aux"][0]:
        raise FerJaxError(
            f"features of main are {shapes['main']} and of aux {shapes['aux']}; "
            "row i of both must be the same face"
        )


def _linear(params: Params, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
    return x @ params["kernel"] + params["bias"][None]


def _linear_init(shape: tuple[int, int], key: Key[Array, ""]) -> Params:
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / math.sqrt(shape[0])
    return {
        "kernel": _uniform(kernel_key, shape, bound),
        "bias": _uniform(bias_key, shape[1:], bound),
    }


def _uniform(key: Key[Array, ""], shape: tuple[int, ...], bound: float) -> Float[Array, "..."]:
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
