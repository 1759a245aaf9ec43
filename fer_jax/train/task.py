"""Ties a model, its data and its recipe to what the loop runs: steps jitted for the mesh."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from fer_jax.models.vit import Params
from fer_jax.ops import losses, metrics
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC
from fer_jax.train.config import AugmentConfig, TrainConfig
from fer_jax.train.fuse_config import FuseConfig
from fer_jax.train.loop import Batch, Task
from fer_jax.train.models import Model
from fer_jax.train.optimizer import make_schedule
from fer_jax.train.rows import Rows
from fer_jax.train.state import TrainState, state_shardings
from fer_jax.train.steps import Recipe, evaluate_step, train_step

UNMIXED = AugmentConfig()


def make_task(
    config: TrainConfig | FuseConfig,
    rows: Rows,
    model: Model,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mesh: Mesh,
    *,
    batches: Callable[[int], Iterator[Batch]],
    selection: Callable[[], Iterator[Batch]],
    augment: AugmentConfig = UNMIXED,
) -> Task:
    """The task of classifying faces.

    Args:
        config: the run.
        rows: what is trained and selected on.
        model: what is trained.
        optimizer: without its learning rate.
        state: its shapes decide where it lies.
        mesh: the devices.
        batches: first step -> endless training batches of this process.
        selection: -> padded batches of the selection part, with `mask`; called where there is one.
        augment: how inputs are mixed on the device.
    """
    recipe = make_recipe(
        config, len(rows.labels), log_prior=_log_prior(config, rows), augment=augment
    )
    weights = losses.class_weights(
        rows.train_counts, config.loss.class_weights, rows.labels, beta=config.loss.effective_beta
    )
    copied = sharding.replicated(mesh)
    weights = sharding.spread(weights, copied)
    jitted = jit_train_step(model, optimizer, recipe, state, mesh)
    evaluation = jit_evaluate_step(model, recipe, state, mesh)

    def step(
        state: TrainState, batch: dict[str, Array], rate: float
    ) -> tuple[TrainState, dict[str, Array]]:
        return jitted(state, batch, jax.device_put(np.float32(rate), copied), weights)

    def evaluate(params: Params, look_up: Callable[[], None]) -> dict[str, Any]:
        if not rows.selection:
            return {}
        sums = []
        for found in selection():
            look_up()
            sums.append(evaluation(params, sharding.to_global(found, mesh)))
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *jax.device_get(sums))
        found = metrics.scores(total["confusion"])
        return {
            METRIC: found.macro_f1,
            "accuracy": found.accuracy,
            "loss": float(total["loss_sum"] / total["count"]),
        }

    steps_per_epoch = rows.epoch // config.batch_size
    schedule = make_schedule(
        config.optimizer,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=config.epochs,
    )
    return Task(
        step, evaluate, batches, schedule, steps_per_epoch, config.epochs, config.batch_size
    )


def make_recipe(
    config: TrainConfig | FuseConfig,
    num_classes: int,
    *,
    log_prior: tuple[float, ...] | None = None,
    augment: AugmentConfig = UNMIXED,
) -> Recipe:
    """The static part of a run's step; `log_prior` is of the training rows, as in `Recipe`."""
    return Recipe(
        num_classes=num_classes,
        label_smoothing=config.loss.label_smoothing,
        loss=config.loss.name,
        focal_gamma=config.loss.focal_gamma,
        logit_adjustment_tau=config.loss.logit_adjustment_tau,
        log_prior=log_prior,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        mix_switch=augment.mix_switch,
        soft_labels=config.loss.soft_labels,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        seed=config.seed,
    )


def jit_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """`train_step` of (state, batch, rate, class weights) for the mesh; donates the state.

    The state lies by rule (arrays or shapes say how), every array of the batch over all devices,
    rate and weights on each of them.
    """
    shardings, copied = state_shardings(state, mesh), sharding.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, model=model, optimizer=optimizer, recipe=recipe),
        in_shardings=(shardings, sharding.batch_sharding(mesh), copied, copied),
        out_shardings=(shardings, copied),
        donate_argnums=0,
    )


def jit_evaluate_step(
    model: Model, recipe: Recipe, state: TrainState, mesh: Mesh
) -> jax.stages.Wrapped:
    """`evaluate_step` of (params, padded batch) for the mesh, its sums on every device."""
    return jax.jit(
        functools.partial(evaluate_step, model=model, recipe=recipe),
        in_shardings=(state_shardings(state, mesh).params, sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )


def _log_prior(config: TrainConfig | FuseConfig, rows: Rows) -> tuple[float, ...] | None:
    if config.loss.name != "logit_adjusted":
        return None
    return tuple(losses.log_prior(rows.train_counts, rows.labels).tolist())
