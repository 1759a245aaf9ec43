"""Fine-tuning: an encoder with a head, on labelled faces, to a bundle that names expressions.

Source: the recipes of facebookresearch/mae `main_finetune.py` (AdamW, layer-wise decay, mixup,
cutmix) and of the ABAW6 entry (Adam, steps), as fields of `TrainConfig`.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from fer_jax.atomic import atomic_file
from fer_jax.bundle import Bundle, load_bundle, save_bundle
from fer_jax.data import pipeline
from fer_jax.errors import UsageError
from fer_jax.models import vit
from fer_jax.models.vit import Params
from fer_jax.ops import losses, metrics
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC, Checkpoints
from fer_jax.train.config import TrainConfig, to_dict
from fer_jax.train.logs import RunLog
from fer_jax.train.loop import Batch, Task, fit
from fer_jax.train.optimizer import make_optimizer, make_schedule
from fer_jax.train.rows import Rows, open_rows
from fer_jax.train.state import (
    Start,
    TrainState,
    create_state,
    from_bundle,
    from_scratch,
    state_shardings,
)
from fer_jax.train.steps import Recipe, evaluate_step, train_step

# Fields that may differ between a run and its continuation. None of them changes what is computed;
# another mesh or evaluation batch rounds differently.
_FREE_FIELDS = ("workers", "keep", "mesh", "license", "evaluate_batch_size")


def finetune(config: TrainConfig, workdir: str | Path) -> tuple[TrainState, Path]:
    """Runs, or goes on with, one fine-tuning run.

    Args:
        config: the run.
        workdir: gets config.json, log.jsonl, tensorboard/, checkpoints/ and, at the end, bundle/.

    Returns:
        The last state, and the path of the bundle made of the best checkpoint.

    Raises:
        UsageError: the workdir holds another run.
        FerJaxError: data, backbone or loss are not fit to go on.
    """
    workdir = Path(workdir)
    if jax.process_count() > 1:
        raise UsageError("training on several hosts is not built yet; start it on one")
    _check_same_run(workdir, config)
    mesh = sharding.make_mesh(config.mesh)
    _check_divisible(config, mesh)
    rows = open_rows(config)
    start, backbone = _start(config, rows)
    graphdef = vit.build(start.config)
    optimizer = make_optimizer(config.optimizer, start.params, start.config.depth)
    state = create_state(start.params, optimizer, mesh)
    task = _task(config, rows, start, graphdef, optimizer, state, mesh)
    _claim(workdir, config)

    with Checkpoints(workdir / "checkpoints", mesh, keep=config.keep) as checkpoints:
        if checkpoints.latest_step is not None:
            state, progress = checkpoints.restore(state)
            _check_same_rows(config, rows, progress)
        total = task.epochs * task.steps_per_epoch
        with RunLog(workdir, int(state.step), total) as log:
            _introduce(log, config, rows, start, mesh, state, total)
            with jax.set_mesh(mesh):
                state = fit(
                    task,
                    state,
                    checkpoints,
                    log,
                    mesh,
                    progress={"rows": rows.fingerprint()},
                    log_every=config.log_every,
                    checkpoint_every=config.checkpoint_every,
                )
            step, score = checkpoints.best
            params = checkpoints.restore_params(step, state)
            path = workdir / "bundle"
            save_bundle(
                _bundle(config, rows, start, backbone, params, step, score), path, overwrite=True
            )
            chosen = f"best macro-F1 on the selection part: {score:.4f}"
            log.say(f"{chosen if rows.selection else 'newest checkpoint'} at step {step} -> {path}")
    return state, path


def _start(config: TrainConfig, rows: Rows) -> tuple[Start, Bundle | None]:
    if not config.backbone:
        return from_scratch(config, rows.labels, rows.template), None
    backbone = load_bundle(config.backbone)
    return from_bundle(config, backbone, rows.labels, rows.template), backbone


def _task(
    config: TrainConfig,
    rows: Rows,
    start: Start,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mesh: Mesh,
) -> Task:
    """Jits the steps where the mesh is known, and ties them to the data."""
    recipe = Recipe(
        num_classes=len(rows.labels),
        mean=start.view.mean,
        std=start.view.std,
        label_smoothing=config.loss.label_smoothing,
        mixup=config.augment.mixup,
        cutmix=config.augment.cutmix,
        mix_switch=config.augment.mix_switch,
        soft_labels=config.loss.soft_labels,
        seed=config.seed,
    )
    weights = jax.device_put(
        losses.class_weights(rows.train_counts, config.loss.class_weights, rows.labels),
        sharding.replicated(mesh),
    )
    shardings, batch = state_shardings(state, mesh), sharding.batch_sharding(mesh)
    copied = sharding.replicated(mesh)
    jitted = jax.jit(
        functools.partial(train_step, graphdef=graphdef, optimizer=optimizer, recipe=recipe),
        # state by rule; every array of the batch over all devices; rate and weights copied.
        in_shardings=(shardings, batch, copied, copied),
        out_shardings=(shardings, copied),
        donate_argnums=0,
    )
    evaluation = jax.jit(
        functools.partial(evaluate_step, graphdef=graphdef, recipe=recipe),
        in_shardings=(shardings.params, batch),
        out_shardings=copied,
    )

    def step(
        state: TrainState, batch: dict[str, Array], rate: float
    ) -> tuple[TrainState, dict[str, Array]]:
        return jitted(state, batch, np.float32(rate), weights)

    def evaluate(params: Params) -> dict[str, Any]:
        if not rows.selection:
            return {}
        sums = [
            evaluation(params, sharding.to_global(_without_rows(found), mesh))
            for found in pipeline.evaluation_batches(
                rows.selection,
                views={"image": config.view},
                image_size=start.config.image_size,
                resize=config.resize,
                batch_size=config.evaluate_batch_size or config.batch_size,
            )
        ]
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *jax.device_get(sums))
        found = metrics.scores(total["confusion"])
        return {
            METRIC: found.macro_f1,
            "accuracy": found.accuracy,
            "loss": float(total["loss_sum"] / total["count"]),
        }

    def batches(start_step: int) -> Iterator[Batch]:
        found = pipeline.train_batches(
            rows.train,
            views={"image": config.view},
            image_size=start.config.image_size,
            batch_size=config.batch_size,
            augmentation=config.augment,
            seed=config.seed,
            sampling=config.sampling,
            votes=config.loss.soft_labels,
            start_step=start_step,
            workers=config.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return map(_without_rows, found)

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


def _without_rows(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "row"}


def _check_divisible(config: TrainConfig, mesh: Mesh) -> None:
    for field in ("batch_size", "evaluate_batch_size"):
        size = getattr(config, field)
        if size % mesh.size:
            raise UsageError(
                f"config.{field}={size}: must be a multiple of the {mesh.size} devices"
            )


def _check_same_run(workdir: Path, config: TrainConfig) -> None:
    """Refuses a workdir that holds another run."""
    path = workdir / "config.json"
    if not path.exists():
        return
    mine, theirs = _plain(config), json.loads(path.read_text())
    changed = [name for name in mine if name not in _FREE_FIELDS and mine[name] != theirs.get(name)]
    if changed:
        raise UsageError(
            f"{path}: holds a run with another {', '.join(changed)}; "
            "name another --workdir, or go on with that run's config"
        )


def _check_same_rows(config: TrainConfig, rows: Rows, progress: dict[str, Any]) -> None:
    """Refuses to go on where the data sets were prepared anew: batches would differ."""
    if progress["rows"] != rows.fingerprint():
        raise UsageError(
            f"config.data={config.data}: holds other faces or labels than when the run began; "
            "name another --workdir"
        )


def _claim(workdir: Path, config: TrainConfig) -> None:
    """Writes config.json, once everything has shown that the run can begin."""
    if not (workdir / "config.json").exists():
        with atomic_file(workdir / "config.json") as partial:
            partial.write_text(json.dumps(_plain(config), indent=2) + "\n")


def _plain(config: TrainConfig) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(config)))


def _introduce(
    log: RunLog,
    config: TrainConfig,
    rows: Rows,
    start: Start,
    mesh: Mesh,
    state: TrainState,
    total: int,
) -> None:
    trained = sum(len(kept) for _, kept in rows.train)
    held = sum(len(kept) for _, kept in rows.selection)
    model = start.config
    parameters = vit.parameter_count(start.params)
    log.say(
        f"model: width {model.width}, depth {model.depth}, patch {model.patch_size}, "
        f"{model.image_size} pixels, {parameters:,} parameters, {model.dtype}"
    )
    for note in start.notes:
        log.say(f"model: {note}")
    counts = dict(zip(rows.labels.classes, rows.train_counts.tolist(), strict=True))
    log.say(f"data: {trained:,} faces to train on {counts}, {held:,} to select on")
    if rows.epoch != trained:
        log.say(f"data: an epoch shows {rows.epoch:,} faces")
    shape = dict(mesh.shape)
    log.say(f"mesh: {shape}; {total:,} steps of {config.batch_size}")
    for name in sharding.unsharded_leaves(start.params, mesh):
        log.say(f"mesh: {name} has no dimension that fsdp={shape['fsdp']} divides: copied")
    if int(state.step):
        log.say(f"resumed at step {int(state.step):,}")


def _bundle(
    config: TrainConfig,
    rows: Rows,
    start: Start,
    backbone: Bundle | None,
    params: Params,
    step: int,
    score: float,
) -> Bundle:
    provenance = {
        "made_by": "fer-jax train",
        "config": to_dict(config),
        "step": step,
        "backbone": backbone.provenance if backbone else None,
    }
    scores = {f"selection_{METRIC}": score} if rows.selection else {}
    return Bundle(
        kind="classifier",
        models={"main": (start.config, jax.device_get(params))},
        views={"main": start.view},
        labels=rows.labels,
        provenance=provenance,
        license=config.license or (backbone.license if backbone else "not stated"),
        scores=scores,
    )
