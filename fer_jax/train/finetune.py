"""Fine-tuning: an encoder with a head, on labelled faces, to a bundle that names expressions.

Source: the recipes of facebookresearch/mae `main_finetune.py` (AdamW, layer-wise decay, mixup,
cutmix) and of the ABAW6 entry (Adam, steps), as fields of `TrainConfig`.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import optax
from jax.sharding import Mesh

from fer_jax.bundle import Bundle, bundle_hash, load_bundle
from fer_jax.data import pipeline
from fer_jax.models import vit
from fer_jax.models.vit import Params
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC
from fer_jax.train.config import TrainConfig, to_dict
from fer_jax.train.loop import Batch, Task
from fer_jax.train.models import Classifier
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.rows import Rows, open_rows
from fer_jax.train.run import check_divisible, check_same_run, run
from fer_jax.train.state import (
    Start,
    TrainState,
    create_state,
    from_bundle,
    from_scratch,
)
from fer_jax.train.task import make_task


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
    check_same_run(workdir, config)
    mesh = sharding.make_mesh(config.mesh)
    check_divisible(config, mesh)
    rows = open_rows(config)
    start, backbone = _start(config, rows)
    optimizer = make_optimizer(config.optimizer, start.params, start.config.depth)
    state = create_state(start.params, optimizer, mesh, ema=config.ema_decay > 0)
    return run(
        config,
        workdir,
        _task(config, rows, start, optimizer, state, mesh),
        state,
        mesh,
        fingerprint=rows.fingerprint([bundle_hash(config.backbone)] if config.backbone else []),
        introduction=_introduction(rows, start, mesh),
        bundle=functools.partial(_bundle, config, rows, start, backbone),
    )


def _start(config: TrainConfig, rows: Rows) -> tuple[Start, Bundle | None]:
    if not config.backbone:
        return from_scratch(config, rows.labels, rows.template), None
    backbone = load_bundle(config.backbone)
    return from_bundle(config, backbone, rows.labels, rows.template), backbone


def _task(
    config: TrainConfig,
    rows: Rows,
    start: Start,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mesh: Mesh,
) -> Task:
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
            places=sharding.local_places(mesh, config.batch_size),
        )
        return map(pipeline.without_rows, found)

    def selection() -> Iterator[Batch]:
        size = config.evaluate_batch_size or config.batch_size
        found = pipeline.evaluation_batches(
            rows.selection,
            views={"image": config.view},
            image_size=start.config.image_size,
            resize=config.resize,
            batch_size=size,
            places=sharding.local_places(mesh, size),
        )
        return map(pipeline.without_rows, found)

    model = Classifier(vit.build(start.config), start.view.mean, start.view.std)
    return make_task(
        config,
        rows,
        model,
        optimizer,
        state,
        mesh,
        batches=batches,
        selection=selection,
        augment=config.augment,
    )


def _introduction(rows: Rows, start: Start, mesh: Mesh) -> list[str]:
    trained = sum(len(kept) for _, kept in rows.train)
    held = sum(len(kept) for _, kept in rows.selection)
    model = start.config
    lines = [
        f"model: width {model.width}, depth {model.depth}, patch {model.patch_size}, "
        f"{model.image_size} pixels, {vit.parameter_count(start.params):,} parameters, "
        f"{model.dtype}"
    ]
    lines += [f"model: {note}" for note in start.notes]
    counts = dict(zip(rows.labels.classes, rows.train_counts.tolist(), strict=True))
    lines.append(f"data: {trained:,} faces to train on {counts}, {held:,} to select on")
    if rows.epoch != trained:
        lines.append(f"data: an epoch shows {rows.epoch:,} faces")
    fsdp = mesh.shape["fsdp"]
    for name in sharding.unsharded_leaves(start.params, mesh):
        lines.append(f"mesh: {name} has no dimension that fsdp={fsdp} divides: copied")
    return lines


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
        models={"main": (start.config, params)},
        views={"main": start.view},
        labels=rows.labels,
        provenance=provenance,
        license=config.license or (backbone.license if backbone else "not stated"),
        scores=scores,
    )
