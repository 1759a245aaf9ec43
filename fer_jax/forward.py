"""What a bundle computes: from aligned faces to logits and features, as pure functions."""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Array, Float, Shaped

from fer_jax.bundle_schema import Bundle, View
from fer_jax.models import fusion, vit
from fer_jax.models.fusion import FusionConfig, TokenFusionConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import Params
from fer_jax.ops.normalize import normalize
from fer_jax.ops.views import view_images

Outputs = tuple[Float[Array, "b classes"] | None, dict[str, Float[Array, "b _"]]]


def preprocess(
    view: View, faces: Shaped[Array | np.ndarray, "b h w 3"]
) -> Float[Array, "b size size 3"]:
    r"""Prepares aligned faces for a model: $(\mathrm{resize}(\mathrm{cut}(x)) / 255 - m) / s$.

    Args:
        view: what the model takes.
        faces: whole aligned faces, RGB, uint8 or float in [0, 255]. The view is cut here.

    Returns:
        Normalised float32 images. Pure; jits with `view` closed over.
    """
    images = view_images(faces, view.view, view.image_size, view.resize)
    return normalize(images, view.mean, view.std)


def bundle_function(
    bundle: Bundle,
) -> Callable[[Mapping[str, Params], Mapping[str, Float[Array, "b size size 3"]]], Outputs]:
    """The bundle's model as a pure function of its parameters and normalised images.

    Args:
        bundle: only its configurations are used.

    Returns:
        A function (`bundle.params`, {"main": images, ...}) -> (logits, features): logits
        (batch, classes), None for kinds without labels; features {"main": pooled, ...} float32, of
        an MAE the encoder's on whole images. A fusion takes features by source, as
        `models.fusion.apply` does; what it makes of them, before its head, is the feature `fusion`.
        A bundle of two views has the features `main`, `aux` and `fusion`.
    """
    if bundle.kind == "fusion":
        return functools.partial(_fused, bundle.models["fusion"][0])
    if bundle.kind == "two_view":
        return functools.partial(_two_views, {name: c for name, (c, _) in bundle.models.items()})
    is_mae = bundle.kind == "mae"
    graphs = {
        name: vit.build(config.encoder if is_mae else config)
        for name, (config, _) in bundle.models.items()
    }

    def function(
        params: Mapping[str, Params], inputs: Mapping[str, Float[Array, "b size size 3"]]
    ) -> Outputs:
        if is_mae:
            params = {name: own["encoder"] for name, own in params.items()}
        outputs = {name: vit.apply(graphs[name], params[name], inputs[name]) for name in graphs}
        features = {name: found["pooled"] for name, (_, found) in outputs.items()}
        return outputs["main"][0], features

    return function


def _fused(config: FusionConfig, params: Mapping[str, Params], inputs: fusion.Features) -> Outputs:
    logits, stages = fusion.apply(config, params["fusion"], inputs, intermediates=True)
    return logits, {"fusion": stages["fused"]}


def _two_views(
    configs: Mapping[str, ModelConfig],
    params: Mapping[str, Params],
    inputs: Mapping[str, Float[Array | np.ndarray, "b size size 3"]],
) -> Outputs:
    """Both encoders, and the fusion of their features."""
    pooled, given = two_view_features(configs, params, inputs)
    logits, features = _fused(configs["fusion"], params, given)
    return logits, pooled | features


def two_view_features(
    configs: Mapping[str, ModelConfig],
    params: Mapping[str, Params],
    inputs: Mapping[str, Float[Array | np.ndarray, "b size size 3"]],
) -> tuple[dict[str, Float[Array, "b _"]], dict[str, Float[Array, "b *_ width"]]]:
    """What the encoders of a bundle of two views make of its images; pure.

    Args:
        configs: of `main`, `aux` and `fusion`.
        params: of the bundle.
        inputs: normalised images of `main` and `aux`.

    Returns:
        Pooled features by view; and what the fusion takes: those, or for `token` the patch maps.
    """
    pooled, maps = {}, {}
    for name in ("main", "aux"):
        config = configs[name]
        _, found = vit.apply(vit.build(config), params[name], inputs[name])
        pooled[name], maps[name] = found["pooled"], vit.patch_map(config, found)
    return pooled, maps if isinstance(configs["fusion"], TokenFusionConfig) else pooled


def forward(bundle: Bundle, faces: Shaped[Array | np.ndarray, "b h w 3"]) -> Outputs:
    """Runs a bundle on aligned faces; pure.

    Args:
        bundle: a loaded bundle.
        faces: whole aligned faces, RGB, uint8 or float in [0, 255].

    Returns:
        Logits (None for kinds without labels), and pooled features by model.
    """
    inputs = {name: preprocess(view, faces) for name, view in bundle.views.items()}
    return bundle_function(bundle)(bundle.params, inputs)
