"""Masked pre-training: an autoencoder learns to paint hidden patches of faces; no labels needed.

Source: facebookresearch/mae `main_pretrain.py` (AdamW, betas 0.9 and 0.95, cosine to nothing).
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from fer_jax.bundle import Bundle, bundle_hash, load_bundle
from fer_jax.data import pipeline
from fer_jax.models import vit
from fer_jax.models.vit import Params
from fer_jax.train import sharding
from fer_jax.train.config import to_dict
from fer_jax.train.loop import Batch, Metric, Task
from fer_jax.train.masked_steps import MaskedModel, MaskedRecipe, train_step
from fer_jax.train.optimizer import UNDECAYED_IN_PRETRAINING, make_optimizer, make_schedule
from fer_jax.train.pretrain_config import PretrainConfig
from fer_jax.train.pretrain_rows import Probe, labels_of, open_faces
from fer_jax.train.pretrain_scores import LOSS, Judge
from fer_jax.train.pretrain_start import from_bundle, from_scratch
from fer_jax.train.rows import Rows
from fer_jax.train.run import check_divisible, check_same_run, run
from fer_jax.train.state import Start, TrainState, create_state, state_shardings

LOWEST_LOSS = Metric(LOSS, "lowest masked loss", sign=-1)


def pretrain(config: PretrainConfig, workdir: str | Path) -> tuple[TrainState, Path]:
    """Runs, or goes on with, one pre-training run.

    Args:
        config: the run.
        workdir: gets config.json, log.jsonl, tensorboard/, reconstruction.png, checkpoints/ and,
            at the end, bundle/, of the kind `mae`.

    Returns:
        The last state, and the path of the bundle made of the best checkpoint.

    Raises:
        UsageError: the workdir holds another run, or the data are not prepared.
        FerJaxError: data, backbone or loss are not fit to go on.
    """
    workdir = Path(workdir)
    check_same_run(workdir, config)
    mesh = sharding.make_mesh(config.mesh)
    check_divisible(config, mesh)
    rows, probe = open_faces(config)
    start, backbone = _start(config, rows)
    optimizer = masked_optimizer(config, start.params)
    state = create_state(start.params, optimizer, mesh, ema=config.ema_decay > 0)
    model = MaskedModel(start.config, start.view.mean, start.view.std, config.mask_ratio)
    judge = Judge(config, rows, probe, model, state, mesh, workdir)
    return run(
        config,
        workdir,
        _task(config, rows, model, optimizer, judge, state, mesh),
        state,
        mesh,
        fingerprint=rows.fingerprint([bundle_hash(config.backbone)] if config.backbone else []),
        introduction=_introduction(config, rows, probe, start, mesh),
        bundle=functools.partial(_bundle, config, rows, start, backbone),
    )


def masked_optimizer(config: PretrainConfig, params: Params) -> optax.GradientTransformation:
    """The optimiser of a run, without its learning rate; both tokens decay.

    Args:
        config: the run.
        params: of the autoencoder, or their shapes.
    """
    return make_optimizer(config.optimizer, params, 0, UNDECAYED_IN_PRETRAINING)


def masked_recipe(config: PretrainConfig) -> MaskedRecipe:
    """The static part of a run's step."""
    return MaskedRecipe(config.accumulate, config.ema_decay, config.seed)


def jit_train_step(
    model: MaskedModel,
    optimizer: optax.GradientTransformation,
    recipe: MaskedRecipe,
    state: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """`train_step` of (state, batch, rate) for the mesh; donates the state.

    The state lies by rule (arrays or shapes say how), every array of the batch over all devices,
    the rate on each of them.
    """
    shardings, copied = state_shardings(state, mesh), sharding.replicated(mesh)
    return jax.jit(
        functools.partial(train_step, model=model, optimizer=optimizer, recipe=recipe),
        in_shardings=(shardings, sharding.batch_sharding(mesh), copied),
        out_shardings=(shardings, copied),
        donate_argnums=0,
    )


def _start(config: PretrainConfig, rows: Rows) -> tuple[Start, Bundle | None]:
    if not config.backbone:
        return from_scratch(config, rows.template), None
    backbone = load_bundle(config.backbone)
    return from_bundle(config, backbone, rows.template), backbone


def _task(
    config: PretrainConfig,
    rows: Rows,
    model: MaskedModel,
    optimizer: optax.GradientTransformation,
    judge: Judge,
    state: TrainState,
    mesh: Mesh,
) -> Task:
    jitted = jit_train_step(model, optimizer, masked_recipe(config), state, mesh)
    copied = sharding.replicated(mesh)

    def step(
        state: TrainState, batch: dict[str, Array], rate: float
    ) -> tuple[TrainState, dict[str, Array]]:
        return jitted(state, batch, jax.device_put(np.float32(rate), copied))

    def batches(start_step: int) -> Iterator[Batch]:
        found = pipeline.train_batches(
            rows.train,
            views={"image": config.view},
            image_size=model.config.image_size,
            batch_size=config.batch_size,
            augmentation=config.augment,
            seed=config.seed,
            sampling=config.sampling,
            start_step=start_step,
            workers=config.workers,
            places=sharding.local_places(mesh, config.batch_size),
        )
        return ({"image": batch["image"]} for batch in found)

    steps_per_epoch = rows.epoch // config.batch_size
    schedule = make_schedule(
        config.optimizer,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=config.epochs,
    )
    return Task(
        step,
        judge,
        batches,
        schedule,
        steps_per_epoch,
        config.epochs,
        config.batch_size,
        LOWEST_LOSS,
    )


def _introduction(
    config: PretrainConfig, rows: Rows, probe: Probe | None, start: Start, mesh: Mesh
) -> list[str]:
    trained, held = (sum(len(kept) for _, kept in part) for part in (rows.train, rows.selection))
    encoder, decoder = start.config.encoder, start.config.decoder
    lines = [
        f"encoder: width {encoder.width}, depth {encoder.depth}, patch {encoder.patch_size}, "
        f"{encoder.image_size} pixels, {vit.parameter_count(start.params['encoder']):,} "
        f"parameters, {encoder.dtype}",
        f"decoder: width {decoder.width}, depth {decoder.depth}, "
        f"{vit.parameter_count(start.params['decoder']):,} parameters",
        *(f"model: {note}" for note in start.notes),
        f"mask: {config.mask_ratio:.0%} of {encoder.grid**2} patches are hidden",
        f"data: {trained:,} faces to train on, {held:,} held out",
    ]
    if rows.epoch != trained:
        lines.append(f"data: an epoch shows {rows.epoch:,} faces")
    if probe is not None:
        bank, queries = (len(labels_of(part)) for part in (probe.bank, probe.queries))
        lines.append(f"probes: {queries:,} held-out faces, by {bank:,} with labels")
    fsdp = mesh.shape["fsdp"]
    for name in sharding.unsharded_leaves(start.params, mesh):
        lines.append(f"mesh: {name} has no dimension that fsdp={fsdp} divides: copied")
    return lines


def _bundle(
    config: PretrainConfig,
    rows: Rows,
    start: Start,
    backbone: Bundle | None,
    params: Params,
    step: int,
    score: float,
) -> Bundle:
    return Bundle(
        kind="mae",
        models={"main": (start.config, params)},
        views={"main": start.view},
        provenance={
            "made_by": "fer-jax pretrain",
            "config": to_dict(config),
            "step": step,
            "backbone": backbone.provenance if backbone else None,
        },
        license=config.license or (backbone.license if backbone else "not stated"),
        scores={f"selection_{LOSS}": score} if rows.selection else {},
    )
