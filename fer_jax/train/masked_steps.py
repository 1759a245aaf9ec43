"""The pure steps of masked pre-training: loss, update, evaluation and features of one batch.

Module-level and un-jitted, as `steps.py`. Masks are drawn on the device, as functions of (seed,
step) in training and of (seed, row) in scoring: however a batch is split, they are the same.

Source: facebookresearch/mae `engine_pretrain.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from fer_jax.models import mae, vit
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import Params
from fer_jax.ops.normalize import normalize
from fer_jax.train.state import TrainState
from fer_jax.train.updates import gradients_of_parts, update

Batch = dict[str, Array] | dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MaskedModel:
    """A masked autoencoder and how it is shown faces; static."""

    config: MAEConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mask_ratio: float = 0.75

    @property
    def patches(self) -> int:
        """Of one image."""
        return self.config.encoder.grid**2

    def run(
        self, params: Params, batch: Batch, noise: Array, key: jax.Array | None = None
    ) -> tuple[Array, mae.MAEOutput]:
        """Normalised images, and what the model makes of them; with a key as in training."""
        images = normalize(jnp.asarray(batch["image"]), self.mean, self.std)
        graphdef = mae.build(self.config)
        return images, mae.apply(
            graphdef, params, images, noise, mask_ratio=self.mask_ratio, key=key
        )

    def error_sums(
        self, params: Params, batch: Batch, noise: Array, key: jax.Array | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The sum of the errors of hidden patches, and their number; rows without `mask` apart."""
        images, out = self.run(params, batch, noise, key)
        mask = out.mask
        if "mask" in batch:
            mask = mask * batch["mask"][:, None]
        config = self.config
        return mae.reconstruction_sums(
            out.prediction, images, mask, config.encoder.patch_size, config.norm_pix
        )


@dataclasses.dataclass(frozen=True)
class MaskedRecipe:
    """The static part of the step besides the model."""

    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0


def mask_noise(
    seed: int, step: Int[Array, ""], faces: int, patches: int
) -> Float[Array, "faces patches"]:
    """What the masks of a training batch are made of."""
    return jax.random.uniform(_keys(seed, step)[0], (faces, patches))


def _keys(seed: int, step: Int[Array, ""]) -> jax.Array:
    """Of a step: for its masks, and for stochastic depth."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), step))


def masked_loss(
    params: Params, batch: Batch, noise: Float[Array, "b n"], key: jax.Array, *, model: MaskedModel
) -> Float[Array, ""]:
    """The mean error of the hidden patches of a batch; pure.

    Args:
        params: of the model.
        batch: image uint8 (b, s, s, 3) RGB; other arrays are not looked at.
        noise: one number a patch; those with the smallest stay visible.
        key: of stochastic depth.
        model: what is trained.
    """
    error_sum, count = model.error_sums(params, batch, noise, key)
    return error_sum / count


def train_step(
    state: TrainState,
    batch: Batch,
    learning_rate: Float[Array, ""],
    *,
    model: MaskedModel,
    optimizer: optax.GradientTransformation,
    recipe: MaskedRecipe,
) -> tuple[TrainState, dict[str, Array]]:
    """One update; pure, and a function of (state, batch, rate): masks and paths are the step's."""
    batch = {"image": batch["image"]}
    noise = mask_noise(recipe.seed, state.step, len(batch["image"]), model.patches)
    path_key = _keys(recipe.seed, state.step)[1]
    if recipe.accumulate == 1:
        loss_fn = functools.partial(masked_loss, model=model)
        loss, gradients = jax.value_and_grad(loss_fn)(state.params, batch, noise, path_key)
    else:

        def sums(params: Params, part: tuple[Batch, Array], key: jax.Array) -> tuple[Array, Array]:
            return model.error_sums(params, *part, key)

        loss, gradients = gradients_of_parts(
            sums, state.params, (batch, noise), path_key, recipe.accumulate
        )
    updated = update(state, gradients, learning_rate, optimizer, recipe.ema_decay)
    return updated, {"loss": loss}


def fixed_noise(seed: int, rows: Int[Array, "b"], patches: int) -> Float[Array, "b n"]:
    """The masks of faces that are scored: by the number of the row alone."""
    key = jax.random.key(seed)
    draw = functools.partial(jax.random.uniform, shape=(patches,))
    return jax.vmap(lambda row: draw(jax.random.fold_in(key, row)))(rows)


def evaluate_step(
    params: Params, batch: Batch, *, model: MaskedModel, recipe: MaskedRecipe
) -> dict[str, Array]:
    """The sum of the errors over one padded batch, and the number of hidden patches."""
    noise = fixed_noise(recipe.seed, jnp.asarray(batch["row"]), model.patches)
    error_sum, count = model.error_sums(params, batch, noise)
    return {"error_sum": error_sum, "count": count}


def features(
    params: Params, images: Float[Array, "b h w 3"], *, model: MaskedModel
) -> Float[Array, "b d"]:
    """What the encoder makes of whole faces: the class token after its norm, float32."""
    images = normalize(images, model.mean, model.std)
    _, found = vit.apply(vit.build(model.config.encoder), params["encoder"], images)
    return found["pooled"]
