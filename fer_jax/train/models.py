"""What the training steps need of a model: inputs from a batch, logits from inputs.

Each is frozen and hashable, so that it can be a static argument; parameters are never in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fer_jax.bundle_schema import View
from fer_jax.models import fusion, vit
from fer_jax.models.fusion import FusionConfig, TokenFusionConfig
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.normalize import normalize

Batch = Mapping[str, Array | np.ndarray]
Inputs = dict[str, Float[Array | np.ndarray, "b ..."]]


@runtime_checkable
class Model(Protocol):
    """A model that can be trained."""

    def inputs(self, batch: Batch) -> Inputs:
        """What is mixed and then run, from a batch as the pipeline makes it."""

    def logits(
        self, params: Params, inputs: Inputs, key: jax.Array | None = None
    ) -> Float[Array, "b c"]:
        """Scores of the classes, float32; with a key as in training, with all that is random."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """One encoder with a head, on the array `image` of a batch."""

    graphdef: nnx.GraphDef
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def inputs(self, batch: Batch) -> Inputs:  # noqa: D102
        return {"image": normalize(batch["image"], self.mean, self.std)}

    def logits(  # noqa: D102
        self, params: Params, inputs: Inputs, key: jax.Array | None = None
    ) -> Float[Array, "b c"]:
        return vit.apply(self.graphdef, params, inputs["image"], key=key)[0]


@dataclasses.dataclass(frozen=True)
class FeatureFusion:
    """A fusion of frozen features, which a batch holds under the names of their sources."""

    config: FusionConfig

    def inputs(self, batch: Batch) -> Inputs:  # noqa: D102
        return {name: batch[name] for name in self.config.sources}

    def logits(  # noqa: D102
        self, params: Params, inputs: Inputs, key: jax.Array | None = None
    ) -> Float[Array, "b c"]:
        return fusion.apply(self.config, params, inputs, key)[0]


@dataclasses.dataclass(frozen=True)
class TwoViews:
    """Two encoders and the fusion of their features, trained together.

    Attributes:
        encoders: configurations by view, in the order of the fusion's sources.
        views: how the images of each are normalised.
        fusion: of their features.
    """

    encoders: tuple[tuple[str, ViTConfig], ...]
    views: tuple[tuple[str, View], ...]
    fusion: FusionConfig

    def inputs(self, batch: Batch) -> Inputs:  # noqa: D102
        return {name: normalize(batch[name], view.mean, view.std) for name, view in self.views}

    def logits(  # noqa: D102
        self, params: Params, inputs: Inputs, key: jax.Array | None = None
    ) -> Float[Array, "b c"]:
        keys = dict.fromkeys((*params, "fusion"))
        if key is not None:
            keys = dict(zip(sorted(params), jax.random.split(key, len(params)), strict=True))
        features = {}
        for name, config in self.encoders:
            graphdef = vit.build(config)
            _, found = vit.apply(graphdef, params[name], inputs[name], key=keys[name])
            maps = isinstance(self.fusion, TokenFusionConfig)
            features[name] = vit.patch_map(config, found) if maps else found["pooled"]
        return fusion.apply(self.fusion, params["fusion"], features, keys["fusion"])[0]
