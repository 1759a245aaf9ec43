"""The programs of a masked pre-training run, built from shapes, and the operations of its model."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fer_jax.bundle import read_document
from fer_jax.errors import FerJaxError
from fer_jax.models import mae
from fer_jax.models.config import ViTConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import Params
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.plan.formula import blocks_flops
from fer_jax.train.masked_steps import MaskedModel
from fer_jax.train.pretrain import jit_train_step, masked_optimizer, masked_recipe
from fer_jax.train.pretrain_config import PretrainConfig, checked, scratch_config
from fer_jax.train.pretrain_scores import jit_evaluate_step
from fer_jax.train.pretrain_start import bundle_config
from fer_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class BuiltMasked:
    """A pre-training run before it has a mesh; as `programs.Built`.

    Attributes:
        config: of the run.
        model: what is trained.
        params: shapes of its parameters.
        optimizer: without its learning rate.
    """

    config: PretrainConfig
    model: MaskedModel
    params: Params
    optimizer: optax.GradientTransformation

    def state(self) -> TrainState:
        """Shapes of what the step carries on."""
        step = jax.ShapeDtypeStruct((), np.int32)
        opt_state = jax.eval_shape(self.optimizer.init, self.params)
        return TrainState(
            step, self.params, opt_state, self.params if self.config.ema_decay else None
        )

    def train_arguments(self, batch_size: int) -> tuple[Any, ...]:
        """Shapes of (state, batch, rate) for a global batch."""
        rate = jax.ShapeDtypeStruct((), np.float32)
        return self.state(), {"image": self._images(batch_size, np.uint8)}, rate

    def evaluate_arguments(self, batch_size: int) -> tuple[Any, ...]:
        """Shapes of (params, padded batch); images come resized, in float32."""
        batch = {
            "image": self._images(batch_size, np.float32),
            "mask": jax.ShapeDtypeStruct((batch_size,), np.bool_),
            "row": jax.ShapeDtypeStruct((batch_size,), np.int32),
        }
        return self.params, batch

    def jit_train(self, mesh: Mesh) -> jax.stages.Wrapped:
        """The training step for a mesh."""
        recipe = masked_recipe(self.config)
        return jit_train_step(self.model, self.optimizer, recipe, self.state(), mesh)

    def jit_evaluate(self, mesh: Mesh) -> jax.stages.Wrapped:
        """The evaluation step for a mesh."""
        return jit_evaluate_step(self.model, masked_recipe(self.config), self.state(), mesh)

    def flops(self, *, training: bool) -> float:
        """Operations for one face, by formula."""
        return masked_flops(self.model.config, self.model.mask_ratio, training=training)

    def _images(self, size: int, dtype: type) -> jax.ShapeDtypeStruct:
        side = self.model.config.image_size
        return jax.ShapeDtypeStruct((size, side, side, 3), dtype)


def build_masked(config: PretrainConfig) -> BuiltMasked:
    """The programs of a pre-training run; a backbone is looked at for its shapes.

    Raises:
        FerJaxError: a bundle cannot be read or can be no autoencoder, or sizes do not fit.
    """
    autoencoder = _autoencoder(config)
    mean, std = NORMALIZATIONS[config.normalize]
    params = jax.eval_shape(lambda: mae.init(autoencoder, jax.random.key(0)))
    model = MaskedModel(autoencoder, mean, std, config.mask_ratio)
    return BuiltMasked(config, model, params, masked_optimizer(config, params))


def masked_flops(config: MAEConfig, mask_ratio: float, *, training: bool) -> float:
    r"""Operations of a masked autoencoder for one face, a multiply-add as two.

    Every patch is embedded; the encoder sees the visible ones, the decoder all. What training and
    recomputing add is as in `formula.step_flops`.

    Args:
        config: the model.
        mask_ratio: share of the patches that is hidden.
        training: with gradients, else forward alone.
    """
    encoder, decoder = config.encoder, config.decoder
    patches, pixels = encoder.grid**2, 3 * encoder.patch_size**2
    tokens = 1 + mae.num_visible(patches, mask_ratio)
    first, later = (2, 3) if training else (1, 1)
    between = tokens * encoder.width * decoder.width + patches * decoder.width * pixels
    return (
        first * 2 * patches * pixels * encoder.width
        + blocks_flops(encoder, tokens, training=training)
        + blocks_flops(decoder, 1 + patches, training=training)
        + later * 2 * between
    )


def _autoencoder(config: PretrainConfig) -> MAEConfig:
    if not config.backbone:
        return scratch_config(config)
    configs, _, _ = read_document(Path(config.backbone))
    own = configs.get("main")
    if not isinstance(own, ViTConfig | MAEConfig):
        raise FerJaxError(f"{config.backbone}: holds no encoder; name another bundle")
    return checked(config, bundle_config(config.model, own))
