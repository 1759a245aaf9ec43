"""Training two encoders and their fusion together, on images of both views."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from fer_jax.bundle import Bundle, bundle_hash, load_bundle
from fer_jax.data import pipeline
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models import fusion, vit
from fer_jax.models.fusion import FusionConfig
from fer_jax.models.vit import Params
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC
from fer_jax.train.config import TrainConfig
from fer_jax.train.fuse_config import FuseConfig, fusion_model
from fer_jax.train.loop import Batch
from fer_jax.train.models import TwoViews
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.rows import Rows, open_rows
from fer_jax.train.run import run
from fer_jax.train.sources import parse
from fer_jax.train.state import Start, TrainState, create_state, from_bundle
from fer_jax.train.task import make_task

VIEWS = ("main", "aux")


def train_end_to_end(config: FuseConfig, workdir: Path, mesh: Mesh) -> tuple[TrainState, Path]:
    """Runs, or goes on with, a run that `fuse` has checked.

    Args:
        config: the run.
        workdir: of the run.
        mesh: the devices.

    Returns:
        The last state, and the path of the bundle made of the best checkpoint.

    Raises:
        UsageError: the sources are not bundles of `main` and `aux`.
        FerJaxError: data, bundles or the fusion do not fit each other.
    """
    rows = open_rows(config)
    bundles = _bundles(config)
    starts = {name: _start(config, name, bundles[name], rows) for name in VIEWS}
    widths = {name: start.config.width for name, start in starts.items()}
    model = fusion_model(config, widths, len(rows.labels))
    params = {name: start.params for name, start in starts.items()}
    params["fusion"], note = _fusion(config, model, bundles, rows)
    depths = {name: start.config.depth for name, start in starts.items()}
    optimizer = make_optimizer(config.optimizer, params, depths)
    state = create_state(params, optimizer, mesh, ema=config.ema_decay > 0)
    views = {name: start.view for name, start in starts.items()}
    trained = TwoViews(
        tuple((name, start.config) for name, start in starts.items()), tuple(views.items()), model
    )
    arrays = {
        "views": {name: view.view for name, view in views.items()},
        "image_size": {name: view.image_size for name, view in views.items()},
    }
    task = make_task(
        config,
        rows,
        trained,
        optimizer,
        state,
        mesh,
        batches=functools.partial(_train_batches, config, rows, arrays, mesh),
        selection=functools.partial(_selection_batches, config, rows, arrays, mesh),
        augment=config.augment,
    )
    introduction = [
        f"two views, end to end: {config.model.variant}, {vit.parameter_count(params):,} "
        f"parameters; the fusion {note}",
        *(f"{name}: {line}" for name, start in starts.items() for line in start.notes),
    ]
    return run(
        config,
        workdir,
        task,
        state,
        mesh,
        fingerprint=rows.fingerprint(
            [bundle_hash(path) for (path,) in parse(config.sources).values()]
        ),
        introduction=introduction,
        bundle=functools.partial(_bundle, config, rows, starts, bundles, model),
    )


def _bundles(config: FuseConfig) -> dict[str, Bundle]:
    paths = parse(config.sources)
    if tuple(paths) != VIEWS or any(len(found) > 1 for found in paths.values()):
        raise UsageError(
            f"config.sources={config.sources}: end to end the sources are main=BUNDLE,aux=BUNDLE"
        )
    return {name: load_bundle(path) for name, (path,) in paths.items()}


def _start(config: FuseConfig, name: str, bundle: Bundle, rows: Rows) -> Start:
    """The encoder of a view, without a head, as `from_bundle` fits it to the run."""
    own = name if name in bundle.models else "main"
    if own not in bundle.views:
        raise FerJaxError(
            f"config.sources: the bundle of {name} is of the kind {bundle.kind}, which has no "
            "encoder"
        )
    if bundle.kind == "two_view":
        model, view = bundle.models[own], bundle.views[own]
        bundle = Bundle(kind="encoder", models={"main": model}, views={"main": view})
    like = TrainConfig(
        backbone=str(parse(config.sources)[name][0]),
        view=bundle.views["main"].view,
        resize=config.resize,
        seed=config.seed,
        model=config.encoder,
    )
    start = from_bundle(like, bundle, rows.labels, rows.template)
    params = {part: leaf for part, leaf in start.params.items() if part != "head"}
    return dataclasses.replace(
        start, config=dataclasses.replace(start.config, num_classes=0), params=params
    )


def _fusion(
    config: FuseConfig, model: FusionConfig, bundles: dict[str, Bundle], rows: Rows
) -> tuple[Params, str]:
    """The fusion of a bundle of two views that is both sources; else a fresh one."""
    bundle = bundles["main"]
    if bundle.kind == "two_view" and len({path for (path,) in parse(config.sources).values()}) == 1:
        old, params = bundle.models["fusion"]
        same = dataclasses.replace(old, dropout=model.dropout, param_dtype=model.param_dtype)
        if same == model and bundle.labels == rows.labels:
            return jax.tree.map(lambda leaf: leaf.astype("float32"), params), "is the bundle's"
    return jax.jit(functools.partial(fusion.init, model))(jax.random.key(config.seed)), "is fresh"


def _train_batches(
    config: FuseConfig, rows: Rows, arrays: dict[str, dict], mesh: Mesh, start_step: int
) -> Iterator[Batch]:
    found = pipeline.train_batches(
        rows.train,
        **arrays,
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


def _selection_batches(
    config: FuseConfig, rows: Rows, arrays: dict[str, dict], mesh: Mesh
) -> Iterator[Batch]:
    size = config.evaluate_batch_size or config.batch_size
    found = pipeline.evaluation_batches(
        rows.selection,
        **arrays,
        resize=config.resize,
        batch_size=size,
        places=sharding.local_places(mesh, size),
    )
    return map(pipeline.without_rows, found)


def _bundle(
    config: FuseConfig,
    rows: Rows,
    starts: dict[str, Start],
    bundles: dict[str, Bundle],
    model: FusionConfig,
    params: Params,
    step: int,
    score: float,
) -> Bundle:
    models = {name: (start.config, params[name]) for name, start in starts.items()}
    models["fusion"] = (dataclasses.replace(model, dropout=0.0), params["fusion"])
    licenses = dict.fromkeys(bundle.license for bundle in bundles.values())
    return Bundle(
        kind="two_view",
        models=models,
        views={name: start.view for name, start in starts.items()},
        labels=rows.labels,
        license=config.license or "; ".join(licenses),
        provenance={
            "made_by": "fer-jax fuse",
            "config": dataclasses.asdict(config),
            "step": step,
            "encoders": {name: bundle.provenance for name, bundle in bundles.items()},
        },
        scores={f"selection_{METRIC}": score} if rows.selection else {},
    )
