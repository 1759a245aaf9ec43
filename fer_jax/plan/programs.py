"""The programs of a training run, built from shapes: no data, no weights, no device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fer_jax.bundle_schema import View
from fer_jax.models import fusion, vit
from fer_jax.models.config import ViTConfig
from fer_jax.models.fusion import FusionConfig, TokenFusionConfig
from fer_jax.models.vit import Params
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.plan.encoders import encoder_config
from fer_jax.plan.formula import step_flops
from fer_jax.plan.masked import BuiltMasked, build_masked
from fer_jax.plan.steps import RunConfig
from fer_jax.train.config import AugmentConfig, TrainConfig
from fer_jax.train.fuse_config import FuseConfig, fusion_model
from fer_jax.train.models import Classifier, FeatureFusion, Model, TwoViews
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.pretrain_config import PretrainConfig
from fer_jax.train.sources import parse
from fer_jax.train.state import TrainState
from fer_jax.train.steps import Recipe
from fer_jax.train.task import UNMIXED, jit_evaluate_step, jit_train_step, make_recipe

GRID = 14  # side of frozen maps of patches, which no width tells: that of ViT-B at 224 pixels


@dataclasses.dataclass(frozen=True)
class Built:
    """A training run before it has a mesh.

    Attributes:
        config: of the run.
        model: what is trained.
        params: shapes of its parameters.
        optimizer: without its learning rate.
        recipe: the static part of the step.
        inputs: shape and dtype of one face's inputs by name, as the training batches hold them.
        encoders: the models that see images, by view.
        fusion: of their features, or of frozen ones.
    """

    config: RunConfig
    model: Model
    params: Params
    optimizer: optax.GradientTransformation
    recipe: Recipe
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    encoders: Mapping[str, ViTConfig]
    fusion: FusionConfig | None

    def state(self) -> TrainState:
        """Shapes of what the step carries on."""
        step = jax.ShapeDtypeStruct((), np.int32)
        opt_state = jax.eval_shape(self.optimizer.init, self.params)
        ema = self.params if self.recipe.ema_decay else None
        return TrainState(step, self.params, opt_state, ema)

    def train_arguments(self, batch_size: int) -> tuple[Any, ...]:
        """Shapes of (state, batch, rate, class weights) for a global batch."""
        batch = self._batch(batch_size)
        classes = self.recipe.num_classes
        if self.recipe.soft_labels:
            batch["votes"] = jax.ShapeDtypeStruct((batch_size, classes), np.float32)
        rate, weights = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((), (classes,)))
        return self.state(), batch, rate, weights

    def evaluate_arguments(self, batch_size: int) -> tuple[Any, ...]:
        """Shapes of (params, padded batch); images come resized, in float32."""
        batch = self._batch(batch_size)
        if self.encoders:
            for name in self.inputs:
                batch[name] = jax.ShapeDtypeStruct(batch[name].shape, np.float32)
        return self.params, batch | {"mask": jax.ShapeDtypeStruct((batch_size,), np.bool_)}

    def jit_train(self, mesh: Mesh) -> jax.stages.Wrapped:
        """The training step for a mesh."""
        return jit_train_step(self.model, self.optimizer, self.recipe, self.state(), mesh)

    def jit_evaluate(self, mesh: Mesh) -> jax.stages.Wrapped:
        """The evaluation step for a mesh."""
        return jit_evaluate_step(self.model, self.recipe, self.state(), mesh)

    def flops(self, *, training: bool) -> float:
        """Operations for one face, by formula."""
        return step_flops(self.encoders, self.fusion, training=training, grid=GRID)

    def _batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        found = {
            name: jax.ShapeDtypeStruct((size, *one.shape), one.dtype)
            for name, one in self.inputs.items()
        }
        return found | {"label": jax.ShapeDtypeStruct((size,), np.int32)}


def build(config: RunConfig, widths: Mapping[str, int], num_classes: int) -> Built | BuiltMasked:
    """The programs of a run.

    Args:
        config: of the run; a backbone or sources that are bundles are looked at for their shapes.
        widths: of frozen features by source.
        num_classes: outputs.

    Raises:
        UsageError: a field is wrong.
        FerJaxError: a bundle cannot be read, or the models do not fit each other.
    """
    if isinstance(config, PretrainConfig):
        return build_masked(config)
    if isinstance(config, TrainConfig):
        return _classifier(config, num_classes)
    return (_end_to_end if config.end_to_end else _frozen)(config, widths, num_classes)


def _classifier(config: TrainConfig, num_classes: int) -> Built:
    encoder = encoder_config(config.model, config.backbone, "main", num_classes)
    mean, std = NORMALIZATIONS[config.normalize]
    return _built(
        config,
        Classifier(vit.build(encoder), mean, std),
        jax.eval_shape(lambda: vit.init(encoder, jax.random.key(0))),
        encoder.depth,
        num_classes,
        {"image": _image(encoder)},
        encoders={"image": encoder},
        augment=config.augment,
    )


def _frozen(config: FuseConfig, widths: Mapping[str, int], num_classes: int) -> Built:
    model = fusion_model(config, widths, num_classes)
    grid = (GRID, GRID) if isinstance(model, TokenFusionConfig) else ()
    return _built(
        config,
        FeatureFusion(model),
        jax.eval_shape(lambda: fusion.init(model, jax.random.key(0))),
        0,
        num_classes,
        {name: jax.ShapeDtypeStruct((*grid, width), np.float32) for name, width in widths.items()},
        fusion=model,
    )


def _end_to_end(config: FuseConfig, widths: Mapping[str, int], num_classes: int) -> Built:
    paths = parse(config.sources) if config.sources else {}
    encoders = {
        name: encoder_config(config.encoder, str(paths[name][0]) if name in paths else "", name, 0)
        for name in fusion.VIEWS
    }
    model = fusion_model(config, {name: one.width for name, one in encoders.items()}, num_classes)
    params = {
        name: jax.eval_shape(functools.partial(vit.init, one), jax.random.key(0))
        for name, one in encoders.items()
    }
    params["fusion"] = jax.eval_shape(lambda: fusion.init(model, jax.random.key(0)))
    views = tuple((name, _view(config, one)) for name, one in encoders.items())
    return _built(
        config,
        TwoViews(tuple(encoders.items()), views, model),
        params,
        {name: one.depth for name, one in encoders.items()},
        num_classes,
        {name: _image(one) for name, one in encoders.items()},
        encoders=encoders,
        fusion=model,
        augment=config.augment,
    )


def _built(
    config: RunConfig,
    model: Model,
    params: Params,
    depth: int | Mapping[str, int],
    num_classes: int,
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    encoders: Mapping[str, ViTConfig] | None = None,
    fusion: FusionConfig | None = None,
    augment: AugmentConfig = UNMIXED,
) -> Built:
    prior = None
    if config.loss.name == "logit_adjusted":  # of the rows, which are not known: any numbers do
        prior = (0.0,) * num_classes
    recipe = make_recipe(config, num_classes, log_prior=prior, augment=augment)
    optimizer = make_optimizer(config.optimizer, params, depth)
    return Built(config, model, params, optimizer, recipe, inputs, encoders or {}, fusion)


def _image(encoder: ViTConfig) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((encoder.image_size, encoder.image_size, 3), np.uint8)


def _view(config: FuseConfig, encoder: ViTConfig) -> View:
    mean, std = NORMALIZATIONS["imagenet"]  # constants, whatever they are
    return View(
        template="unknown",
        crop_source="unknown",
        image_size=encoder.image_size,
        resize=config.resize,
        mean=mean,
        std=std,
    )
