"""Fusion of the features of several sources: one interface for all variants.

Sources have names, and an order: the first is the main one. A source is whatever gives features:
the two views of a face, or another model's embeddings.

    variant      features   what it is
    entry        pooled     attention between the numbers of the features: the ABAW6 entry's
    token        patch maps attention across tokens, local gates: our reading of the paper
    main_only    pooled     a linear head on the first source alone
    aux_only     pooled     a linear head on the second source alone
    average      pooled     a linear head for each source; mean of their probabilities
    linear       pooled     one linear head on all sources, joined

`fusion_init` and `fusion_attention` are for params that are at hand; under them `init` and `apply`
take a configuration. Params are a plain nested dict, all four are pure, and nothing but jax and
numpy is loaded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float32, Key

from fer_jax.errors import FerJaxError
from fer_jax.models.fusion import entry, heads, token
from fer_jax.models.fusion.entry import EntryFusionConfig
from fer_jax.models.fusion.heads import HeadFusionConfig
from fer_jax.models.fusion.layers import Params
from fer_jax.models.fusion.sources import VIEWS, Features
from fer_jax.models.fusion.token import TokenFusionConfig

__all__ = [
    "VARIANTS",
    "VIEWS",
    "EntryFusionConfig",
    "Features",
    "FusionConfig",
    "HeadFusionConfig",
    "Params",
    "TokenFusionConfig",
    "apply",
    "fusion_attention",
    "fusion_config",
    "fusion_init",
    "init",
]

FusionConfig = EntryFusionConfig | TokenFusionConfig | HeadFusionConfig

# The configuration of each variant.
VARIANTS: dict[str, type] = {
    "entry": EntryFusionConfig,
    "token": TokenFusionConfig,
    **dict.fromkeys(heads.VARIANTS, HeadFusionConfig),
}
_MODULES = {EntryFusionConfig: entry, TokenFusionConfig: token, HeadFusionConfig: heads}
_HEAD_WIDTH = 64  # of the token fusion, as in every registered ViT


def fusion_config(
    variant: str, widths: Mapping[str, int], num_classes: int, **options: Any
) -> FusionConfig:
    """The configuration of a variant, with the sources' names and widths.

    Args:
        variant: a name of `VARIANTS`.
        widths: of the features of each source, by name; their order is that of the sources.
        num_classes: outputs.
        **options: further fields of the variant's configuration, such as `hidden` of
            `EntryFusionConfig` or `merge` of `TokenFusionConfig`. For `token`, `width` is that of
            the first source where it is not given, and `num_heads` is `width` / 64.

    Raises:
        FerJaxError: no such variant or option, or a value out of its range.

    Example:
        >>> fusion_config("token", {"main": 768, "aux": 384}, 8, merge="concat").fused_width
        1536
    """
    if variant not in VARIANTS:
        raise FerJaxError(f"fusion {variant!r} must be one of {', '.join(VARIANTS)}")
    config = VARIANTS[variant]
    given = {"widths": tuple(widths.values()), "sources": tuple(widths), "num_classes": num_classes}
    if config is HeadFusionConfig:
        given["variant"] = variant
    known = {field.name for field in dataclasses.fields(config)} - given.keys()
    for name in sorted(options.keys() - known):
        raise FerJaxError(
            f"fusion {variant!r} has no option {name!r}; it has {', '.join(sorted(known))}"
        )
    if variant == "token" and widths:
        width = options.setdefault("width", given["widths"][0])
        options.setdefault("num_heads", max(1, width // _HEAD_WIDTH))
    return config(**given, **options)


def init(config: FusionConfig, key: Key[Array, ""]) -> Params:
    """Fresh parameters of a fusion; see `init` of `entry`, `token` and `heads`.

    Args:
        config: the fusion.
        key: a JAX random key, typed (`jax.random.key`).

    Returns:
        A plain nested dict of arrays. Pure: jits with `config` static.
    """
    return _MODULES[type(config)].init(config, key)


def apply(
    config: FusionConfig,
    params: Params,
    features: Features,
    key: Key[Array, ""] | None = None,
    *,
    intermediates: bool = False,
) -> tuple[Float32[Array, "*b c"], dict[str, Float32[Array, "..."]]]:
    """Logits from the features of all sources; pure. See `apply` of `entry`, `token` and `heads`.

    Args:
        config: the fusion.
        params: from `init` or a bundle.
        features: by source; (batch, width), for `token` (batch, height, width of the grid, width);
            or all of one face, without the batch. Any float type, computed in float32. Others than
            the configuration's are left alone.
        key: given when training: turns dropout on.
        intermediates: also return what the steps give.

    Returns:
        Logits (batch, num_classes), float32; and the steps by name, {} unless asked for. `fused`
        is among them for every variant: (batch, `config.fused_width`), what the head is given.
        Of one face all are without the batch.

    Raises:
        FerJaxError: a source is missing; features that do not fit the params, or each other.

    Example:
        >>> import jax.numpy as jnp
        >>> config = fusion_config("entry", {"main": 6, "aux": 4}, 8, width=16, hidden=8)
        >>> params = init(config, jax.random.key(0))
        >>> apply(config, params, {"main": jnp.ones((2, 6)), "aux": jnp.ones((2, 4))})[0].shape
        (2, 8)
    """
    names = [name for name in config.sources if name in features]
    one = all(features[name].ndim == (3 if config.variant == "token" else 1) for name in names)
    if one:
        features = {**features, **{name: features[name][None] for name in names}}
    logits, steps = _MODULES[type(config)].apply(config, params, features, key)
    if one:
        logits, steps = jax.tree.map(lambda x: x[0], (logits, steps))
    return logits, steps if intermediates else {}


def fusion_init(
    key: Key[Array, ""], variant: str, widths: Mapping[str, int], num_classes: int, **options: Any
) -> Params:
    """Fresh parameters of a variant.

    Args:
        key: a JAX random key, typed (`jax.random.key`).
        variant: a name of `VARIANTS`.
        widths: of the features of each source, by name; the first is the main one.
        num_classes: outputs.
        **options: as of `fusion_config`.

    Returns:
        A plain nested dict of arrays, for `fusion_attention`.

    Raises:
        FerJaxError: no such variant or option, or a value out of its range.

    Example:
        >>> params = fusion_init(jax.random.key(0), "linear", {"main": 6, "aux": 4}, 8)
        >>> params["head"]["kernel"].shape
        (10, 8)
    """
    return init(fusion_config(variant, widths, num_classes, **options), key)


def fusion_attention(
    params: Params,
    features: Features,
    variant: str = "entry",
    *,
    sources: tuple[str, ...] | None = None,
    key: Key[Array, ""] | None = None,
    **options: Any,
) -> Float32[Array, "*batch class"]:
    """Logits from the features of all sources; pure, and without a configuration.

    Sizes are read off the params; what they do not show must be given as it was to `fusion_init`:
    of `token` the options `attention`, `merge`, `num_heads` and `norm_eps`, where they are not the
    default's. All but `params`, `features` and `key` is static under `jax.jit`.

    Args:
        params: from `fusion_init`, or a bundle's.
        features: by source; (batch, width), for `token` (batch, height, width of the grid, width);
            or all of one face, without the batch.
        variant: a name of `VARIANTS`.
        sources: names of the sources in the order of `fusion_init`. None: all of `features`, if
            that is one source, or `main` and `aux`; jax sorts dicts, so their order says nothing.
        key: given when training: turns dropout on.
        **options: as of `fusion_config`, such as `dropout`.

    Returns:
        Logits, float32.

    Raises:
        FerJaxError: no such variant or option; the order of sources is not known; features and
            params that do not fit each other or the options.

    Example:
        >>> import jax.numpy as jnp
        >>> params = fusion_init(jax.random.key(0), "entry", {"main": 6, "aux": 4}, 8)
        >>> features = {"main": jnp.ones((2, 6)), "aux": jnp.ones((2, 4))}
        >>> fusion_attention(params, features).shape
        (2, 8)
        >>> fusion_attention(params, {"main": jnp.ones(6), "aux": jnp.ones(4)}).shape  # one face
        (8,)
    """
    if variant not in VARIANTS:
        raise FerJaxError(f"fusion {variant!r} must be one of {', '.join(VARIANTS)}")
    names = _order(features) if sources is None else sources
    missing = [name for name in names if name not in features]
    if missing:
        raise FerJaxError(
            f"features of {', '.join(sorted(features)) or 'no source'}; the fusion also takes "
            f"{', '.join(missing)}"
        )
    widths = {name: features[name].shape[-1] for name in names}
    try:
        if variant == "entry":
            fc1, fc2 = params["mlp"]["fc1"]["kernel"], params["mlp"]["fc2"]["kernel"]
            classes = fc2.shape[1]
            options |= {"width": fc1.shape[0], "hidden": fc1.shape[1]}
        elif variant == "average":
            classes = params["heads"][names[0]]["kernel"].shape[1]
        else:
            classes = params["head"]["kernel"].shape[1]
            if variant == "token":
                options["width"] = params["source_embed"].shape[1]
    except (KeyError, IndexError) as error:
        raise FerJaxError(
            f"these params hold {', '.join(sorted(params))}, which are not those of the fusion "
            f"{variant!r} of {', '.join(names)}"
        ) from error
    config = fusion_config(variant, widths, classes, **options)
    _check_params(config, params)
    return apply(config, params, features, key)[0]


def _order(features: Features) -> tuple[str, ...]:
    """The sources in the order in which they can only be meant."""
    if len(features) == 1:
        return tuple(features)
    if features.keys() == set(VIEWS):
        return VIEWS
    raise FerJaxError(
        f"features of {', '.join(sorted(features)) or 'no source'}; pass sources= with their names "
        "in the order of fusion_init"
    )


def _check_params(config: FusionConfig, params: Params) -> None:
    """Refuses params that the configuration does not have."""
    expected = _shapes(jax.eval_shape(lambda: init(config, jax.random.key(0))))
    found = _shapes(params)
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            raise FerJaxError(
                f"params{path} is {found.get(path, 'missing')} where the fusion "
                f"{config.variant!r} of these features and options has "
                f"{expected.get(path, 'none')}"
            )


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
