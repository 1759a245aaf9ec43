"""The fusions without attention that the others are compared with: linear heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Key

from fer_jax.models.fusion.layers import Params, cast, dropout, linear, linear_init
from fer_jax.models.fusion.sources import (
    VIEWS,
    Features,
    check_config,
    check_one_of,
    pooled_features,
)

VARIANTS = ("main_only", "aux_only", "average", "linear")


@dataclasses.dataclass(frozen=True)
class HeadFusionConfig:
    """What defines one of the fusions that are linear heads.

    Attributes:
        variant: `main_only` and `aux_only` (a head on the first or the second source, which shows
            what a view is worth alone), `average` (a head for each source, and the mean of their
            probabilities) or `linear` (one head on all features, joined).
        widths: of the features of each source.
        num_classes: outputs of each head.
        param_dtype: of the parameters; the computation is in float32.
        sources: names of the features; one or more, two or more for `aux_only`.
        dropout: share of the features that training leaves out.

    Raises:
        FerJaxError: a number is out of its range, or a name is not known.
    """

    variant: str
    widths: tuple[int, ...] = (768, 768)
    num_classes: int = 8
    param_dtype: str = "float32"
    sources: tuple[str, ...] = VIEWS
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_one_of(self, "variant", VARIANTS)
        check_config(self, least=2 if self.variant == "aux_only" else 1)

    @property
    def used(self) -> dict[str, int]:
        """Widths of the sources that are used, by name."""
        widths = tuple(zip(self.sources, self.widths, strict=True))
        parts = {"main_only": widths[:1], "aux_only": widths[1:2]}
        return dict(parts.get(self.variant, widths))

    @property
    def fused_width(self) -> int:
        """Width of the fused features: of all that are used, joined."""
        return sum(self.used.values())


def init(config: HeadFusionConfig, key: Key[Array, ""]) -> Params:
    r"""Fresh parameters, uniform in :math:`\pm 1 / \sqrt{\text{inputs}}`.

    Args:
        config: the fusion.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        Params of `config.param_dtype`, kernels (inputs, outputs): `head`; or for `average`
        `heads`, with one by the name of each source.
    """
    if config.variant == "average":
        keys = jax.random.split(key, len(config.used))
        heads = {
            name: linear_init(key, width, config.num_classes)
            for key, (name, width) in zip(keys, config.used.items(), strict=True)
        }
        return cast({"heads": heads}, config.param_dtype)
    return cast(
        {"head": linear_init(key, config.fused_width, config.num_classes)}, config.param_dtype
    )


def apply(
    config: HeadFusionConfig,
    params: Params,
    features: Features,
    key: Key[Array, ""] | None = None,
) -> tuple[Float32[Array, "b c"], dict[str, Float32[Array, "b _"]]]:
    r"""Logits from the pooled features of the sources; pure.

    `average` gives the logarithm of the mean of the heads' probabilities,

    .. math::
        \text{logits} = \log \frac1n \sum_s \operatorname{softmax}(W_s f_s + b_s)

    which are logits too: their softmax is that mean.

    Args:
        config: the fusion.
        params: from `init` or a bundle.
        features: (batch, width of the source) by name, any float type, computed in float32; those
            that are not used may be left out.
        key: given when training: turns dropout on.

    Returns:
        Logits (batch, num_classes); and the steps by name: `fused` (the features that are used,
        joined, before dropout). All float32.

    Raises:
        FerJaxError: a source is missing; features that do not fit the params, or each other.
    """
    given = pooled_features(config.used, features)
    params = cast(params, "float32")
    fused = jnp.concatenate([*given.values()], axis=-1)
    dropped = dropout(fused, config.dropout, key)
    if config.variant != "average":
        return linear(params["head"], dropped), {"fused": fused}
    parts = jnp.split(dropped, np.cumsum([*config.used.values()])[:-1], axis=-1)
    log_probabilities = jnp.stack(
        [
            jax.nn.log_softmax(linear(params["heads"][name], part))
            for name, part in zip(given, parts, strict=True)
        ]
    )
    logits = jax.nn.logsumexp(log_probabilities, axis=0) - jnp.log(len(parts))
    return logits, {"fused": fused}
