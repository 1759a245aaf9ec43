"""The pure steps of classification: loss, update and evaluation of one batch.

Module-level and un-jitted: `task.py` jits them once, where the mesh is known.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from fer_jax.models.vit import Params
from fer_jax.ops import augment, losses, metrics
from fer_jax.train.models import Inputs, Model
from fer_jax.train.state import TrainState
from fer_jax.train.updates import gradients_of_parts, update

Batch = dict[str, Array] | dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The static part of the step: everything that is not an array.

    `log_prior` is of the training rows, one number a class; only `logit_adjusted` needs it.
    """

    num_classes: int
    label_smoothing: float = 0.0
    loss: str = "cross_entropy"
    focal_gamma: float = 2.0
    logit_adjustment_tau: float = 1.0
    log_prior: tuple[float, ...] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_switch: float = 0.5
    soft_labels: bool = False
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0


def batch_loss(
    params: Params,
    batch: Batch,
    class_weights: Float[Array, "c"],
    key: jax.Array,
    *,
    model: Model,
    recipe: Recipe,
) -> Float[Array, ""]:
    """The training loss of one batch; pure.

    Args:
        params: of the model.
        batch: what the model takes (images uint8 (b, s, s, 3) RGB, or features); label int32 (b,),
            -1 = none; for soft labels also votes float32 (b, classes), zeros where there are none.
        class_weights: float32 (classes,).
        key: of stochastic depth, dropout, mixup and cutmix.
        model: what is trained.
        recipe: static fields.

    Returns:
        The weighted mean over the global batch; of soft or mixed targets the mean over its faces
        that have one.
    """
    mix_key, path_key = jax.random.split(key)
    prepared = _prepared(batch, mix_key, model, recipe)
    loss_sum, denominator = _loss_sums(
        params, prepared, class_weights, path_key, model=model, recipe=recipe
    )
    return loss_sum / denominator


# Inputs of the model, targets, and which rows have one (None for all that have a label).
_Prepared = tuple[Inputs, Array, Array | None]


def _prepared(batch: Batch, key: jax.Array, model: Model, recipe: Recipe) -> _Prepared:
    """Normalised inputs and targets, mixed where the recipe says so."""
    inputs = model.inputs(batch)
    targets, mask = jnp.asarray(batch["label"]), None
    mixed = recipe.mixup > 0 or recipe.cutmix > 0
    if mixed or recipe.soft_labels:
        targets = jax.nn.one_hot(targets, recipe.num_classes, dtype=jnp.float32)
    if recipe.soft_labels:
        targets = _shares(jnp.asarray(batch["votes"]), targets)
    if mixed:
        inputs, targets = _mixed(key, inputs, targets, recipe)
    if targets.ndim == 2:
        mask = targets.sum(axis=-1) > 0  # a face with neither label nor votes has none
    return inputs, targets, mask


def _loss_sums(
    params: Params,
    prepared: _Prepared,
    class_weights: Float[Array, "c"],
    key: jax.Array,
    *,
    model: Model,
    recipe: Recipe,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of the losses, and what it is divided by, which does not depend on `params`."""
    inputs, targets, mask = prepared
    return losses.classification_loss(
        recipe.loss,
        model.logits(params, inputs, key=key),
        targets,
        gamma=recipe.focal_gamma,
        log_prior=None if recipe.log_prior is None else np.asarray(recipe.log_prior, np.float32),
        tau=recipe.logit_adjustment_tau,
        class_weights=class_weights,
        label_smoothing=recipe.label_smoothing,
        mask=mask,
    )


def loss_and_gradients(
    params: Params,
    batch: Batch,
    class_weights: Float[Array, "c"],
    key: jax.Array,
    *,
    model: Model,
    recipe: Recipe,
) -> tuple[Float[Array, ""], Params]:
    """`batch_loss` and its gradients, from `recipe.accumulate` parts of the batch in turn; pure.

    Part j is of the rows j, j + n, j + 2 n, ..., so that each device goes on with rows that it
    holds. What a model draws at random it draws for each part anew; mixing is of the whole batch.

    Args:
        params: of the model.
        batch: its size a multiple of `accumulate`.
        class_weights: float32 (classes,).
        key: as of `batch_loss`.
        model: what is trained.
        recipe: static fields.
    """
    parts = recipe.accumulate
    if parts == 1:
        loss_fn = functools.partial(batch_loss, model=model, recipe=recipe)
        return jax.value_and_grad(loss_fn)(params, batch, class_weights, key)
    mix_key, path_key = jax.random.split(key)

    def sums(params: Params, part: _Prepared, key: jax.Array) -> tuple[Array, Array]:
        return _loss_sums(params, part, class_weights, key, model=model, recipe=recipe)

    prepared = _prepared(batch, mix_key, model, recipe)
    return gradients_of_parts(sums, params, prepared, path_key, parts)


def _mixed(
    key: jax.Array, inputs: Inputs, targets: Float[Array, "b c"], recipe: Recipe
) -> tuple[Inputs, Float[Array, "b c"]]:
    """All views of a face mixed alike: the same key makes the same draws, the sizes agreeing."""
    found = {
        name: augment.mix(
            key,
            images,
            targets,
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            switch_probability=recipe.mix_switch,
        )
        for name, images in inputs.items()
    }
    *_, (_, mixed_targets) = found.values()
    return {name: images for name, (images, _) in found.items()}, mixed_targets


def _shares(votes: Float[Array, "b c"], otherwise: Float[Array, "b c"]) -> Float[Array, "b c"]:
    """The votes over their sum; where nobody voted, the other targets."""
    total = votes.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, votes / jnp.where(total > 0, total, 1.0), otherwise)


def train_step(
    state: TrainState,
    batch: Batch,
    learning_rate: Float[Array, ""],
    class_weights: Float[Array, "c"],
    *,
    model: Model,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, Array]]:
    """One update; pure, and a function of (state, batch, rate): the randomness is the step's."""
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    loss, gradients = loss_and_gradients(
        state.params, batch, class_weights, key, model=model, recipe=recipe
    )
    updated = update(state, gradients, learning_rate, optimizer, recipe.ema_decay)
    return updated, {"loss": loss}


def evaluate_step(
    params: Params, batch: Batch, *, model: Model, recipe: Recipe
) -> dict[str, Array]:
    """Sums over one padded batch: confusion counts (int32), plain loss sum and its denominator."""
    logits = model.logits(params, model.inputs(batch))
    loss_sum, count = losses.weighted_cross_entropy(logits, batch["label"], mask=batch["mask"])
    confusion = metrics.confusion_matrix(
        batch["label"], logits.argmax(axis=-1), recipe.num_classes, mask=batch["mask"]
    )
    return {"confusion": confusion, "loss_sum": loss_sum, "count": count}
