"""Training a fusion on frozen features of several sources, to a bundle of two views.

Source: the ABAW6 entry's second step (Adam 1e-5, one epoch, batches of 1024, plain features).
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.bundle import DOCUMENT_FILE, Bundle, load_bundle
from fer_jax.bundle_schema import encoder_bundle
from fer_jax.data.features import FeatureTable
from fer_jax.data.pipeline import epoch_plan
from fer_jax.data.sampling import EpochPlan
from fer_jax.errors import UsageError
from fer_jax.models import fusion, vit
from fer_jax.models.fusion import FusionConfig
from fer_jax.models.vit import Params
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC
from fer_jax.train.end_to_end import train_end_to_end
from fer_jax.train.fuse_config import FuseConfig, fusion_model
from fer_jax.train.loop import Batch
from fer_jax.train.models import FeatureFusion
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.rows import Part, Rows, names_of, part_rows
from fer_jax.train.run import check_divisible, check_same_run, run
from fer_jax.train.sources import Source, open_sources, parse
from fer_jax.train.state import TrainState, create_state
from fer_jax.train.task import make_task

VIEWS = ("main", "aux")


def fuse(config: FuseConfig, workdir: str | Path) -> tuple[TrainState, Path]:
    """Runs, or goes on with, one fusion run; `config.end_to_end` says on what.

    Args:
        config: the run.
        workdir: gets features/ (of sources that are bundles), config.json, log.jsonl,
            tensorboard/, checkpoints/ and, at the end, bundle/: of the kind `two_view` where the
            sources are `main` and `aux` and their bundles are there; `classifier` where `main` is
            alone, with the variant `main_only`: a linear probe; else `fusion`.

    Returns:
        The last state, and the path of the bundle made of the best checkpoint.

    Raises:
        UsageError: the workdir holds another run, or a field is wrong.
        FerJaxError: sources that do not fit each other, or the variant.
    """
    workdir = Path(workdir)
    check_same_run(workdir, config)
    mesh = sharding.make_mesh(config.mesh)
    check_divisible(config, mesh)
    if config.end_to_end:
        return train_end_to_end(config, workdir, mesh)
    sources = open_sources(config, workdir, patches=config.model.variant == "token")
    rows = part_rows(sources[0].parts, config, _selected(config, sources[0]))
    widths = {source.name: source.table.width for source in sources}
    model = fusion_model(config, widths, len(rows.labels))
    params = jax.jit(functools.partial(fusion.init, model))(jax.random.key(config.seed))
    optimizer = make_optimizer(config.optimizer, params, 0)
    state = create_state(params, optimizer, mesh, ema=config.ema_decay > 0)
    task = make_task(
        config,
        rows,
        FeatureFusion(model),
        optimizer,
        state,
        mesh,
        batches=functools.partial(_train_batches, config, sources, rows, mesh),
        selection=functools.partial(_selection_batches, config, sources, rows, mesh),
    )
    counts = dict(zip(rows.labels.classes, rows.train_counts.tolist(), strict=True))
    trained, held = (sum(len(kept) for _, kept in part) for part in (rows.train, rows.selection))
    introduction = [
        f"fusion: {config.model.variant} of {_described(sources)}, "
        f"{vit.parameter_count(params):,} parameters",
        f"data: {trained:,} faces to train on {counts}, {held:,} to select on",
        *(
            f"{source.name}: the bundle that made it is no longer at "
            f"{source.table.about['bundle']['path']}, so it is not in the result"
            for source in sources
            if "bundle" in source.table.about and source.bundle is None
        ),
    ]
    return run(
        config,
        workdir,
        task,
        state,
        mesh,
        fingerprint=rows.fingerprint([_maker_of(source) for source in sources]),
        introduction=introduction,
        bundle=functools.partial(_bundle, config, model, sources, rows),
    )


def _maker_of(source: Source) -> str:
    """The hash of the bundle that made a source, or of the file that it is."""
    about = source.table.about
    return about.get("bundle", about)["sha256"]


def _selected(config: FuseConfig, source: Source) -> list[bool]:
    """From which of the first source's tables a part is held out."""
    paths = parse(config.sources)[source.name]
    of_bundle = (paths[0] / DOCUMENT_FILE).is_file()
    known = names_of(config.data) if of_bundle else list(map(str, paths))
    wished = names_of(config.selection_data) or known
    unknown = [name for name in wished if name not in known]
    if unknown:
        raise UsageError(f"config.selection_data={unknown[0]}: is not among {', '.join(known)}")
    return [name in wished for name in known]


def _faces(part: Part, tables: Sequence[FeatureTable]) -> np.ndarray:
    """Rows of some of the tables as rows of the joined one."""
    starts = np.cumsum([0, *map(len, tables)])
    number = {id(table): place for place, table in enumerate(tables)}
    return np.concatenate([starts[number[id(table)]] + rows for table, rows in part])


def _described(sources: list[Source]) -> str:
    return ", ".join(f"{source.name} ({source.table.width})" for source in sources)


def _train_batches(
    config: FuseConfig, sources: list[Source], rows: Rows, mesh: Mesh, start_step: int
) -> Iterator[Batch]:
    """Endless batches; batch k is a function of the seed and of k."""
    plan = epoch_plan(rows.train, config.sampling, config.seed)
    chosen = _faces(rows.train, sources[0].parts)
    places = sharding.local_places(mesh, config.batch_size)
    for step in itertools.count(start_step):
        yield _batch(config, sources, chosen[_in_order(plan, step, config.batch_size)[places]])


def _in_order(plan: EpochPlan, step: int, batch_size: int) -> np.ndarray:
    """The faces of a batch, which may begin in one epoch and end in the next."""
    first, last = step * batch_size, (step + 1) * batch_size - 1
    epochs = range(first // len(plan), last // len(plan) + 1)
    order = np.concatenate([plan.order(epoch) for epoch in epochs])
    return order[first - epochs[0] * len(plan) :][:batch_size]


def _selection_batches(
    config: FuseConfig, sources: list[Source], rows: Rows, mesh: Mesh
) -> Iterator[Batch]:
    """The selection part in order; the last batch is filled up."""
    held = _faces(rows.selection, sources[0].parts)
    size = config.evaluate_batch_size or config.batch_size
    places = sharding.local_places(mesh, size)
    for start in range(0, len(held), size):
        chosen = held[start : start + size]
        filled = np.append(chosen, np.repeat(chosen[:1], size - len(chosen)))
        yield _batch(config, sources, filled[places]) | {"mask": places < len(chosen)}


def _batch(config: FuseConfig, sources: list[Source], faces: np.ndarray) -> Batch:
    """Features, labels and votes of some faces of the first source."""
    table = sources[0].table
    batch = {
        source.name: np.asarray(source.table.features[source.rows[faces]], np.float32)
        for source in sources
    }
    batch["label"] = table.index["label"][faces]
    if config.loss.soft_labels:
        batch["votes"] = table.votes[faces]
    return batch


def _bundle(
    config: FuseConfig,
    model: FusionConfig,
    sources: list[Source],
    rows: Rows,
    params: Params,
    step: int,
    score: float,
) -> Bundle:
    provenance = {
        "made_by": "fer-jax fuse",
        "config": dataclasses.asdict(config),
        "step": step,
        "sources": {source.name: source.table.about for source in sources},
    }
    made = {source.name: source for source in sources if source.bundle is not None}
    common = {
        "labels": rows.labels,
        "provenance": provenance,
        "scores": {f"selection_{METRIC}": score} if rows.selection else {},
    }
    names = tuple(source.name for source in sources)
    if names == VIEWS[:1] and made and config.model.variant == "main_only":
        return _linear_probe(sources[0], params, license=config.license, **common)
    if names != VIEWS or set(made) != set(VIEWS):
        fused = (dataclasses.replace(model, dropout=0.0), params)
        license = config.license or "not stated"
        return Bundle(kind="fusion", models={"fusion": fused}, views={}, license=license, **common)
    return two_view_bundle(made, model, params, license=config.license, **common)


def _linear_probe(source: Source, params: Params, *, license: str, **fields) -> Bundle:
    """The encoder of the one source with the head that was trained on its features."""
    bundle = encoder_bundle(load_bundle(source.bundle, verify=False))
    config, encoder = bundle.models[source.model]
    view = dataclasses.replace(bundle.views[source.model], view=source.view)
    head = params["head"]
    config = dataclasses.replace(config, num_classes=head["bias"].shape[0], head_dropout=0.0)
    return Bundle(
        kind="classifier",
        models={"main": (config, encoder | {"head": head})},
        views={"main": view},
        license=license or bundle.license,
        **fields | {"provenance": fields["provenance"] | {"backbone": bundle.provenance}},
    )


def two_view_bundle(
    sources: dict[str, Source], model: FusionConfig, params: Params, *, license: str, **fields
) -> Bundle:
    """The encoders of both sources without their heads, and the fusion.

    Args:
        sources: `main` and `aux`, with their bundles.
        model: the fusion.
        params: its parameters.
        license: of the result; empty takes the encoders'.
        **fields: further ones of `Bundle`.
    """
    models, views, licenses, encoders = {}, {}, [], {}
    for name in VIEWS:
        bundle = encoder_bundle(load_bundle(sources[name].bundle, verify=False))
        config, encoder = bundle.models[sources[name].model]
        kept = {part: leaf for part, leaf in encoder.items() if part != "head"}
        models[name] = (dataclasses.replace(config, num_classes=0), kept)
        views[name] = dataclasses.replace(
            bundle.views[sources[name].model], view=sources[name].view
        )
        encoders[name] = bundle.provenance
        if bundle.license not in licenses:
            licenses.append(bundle.license)
    models["fusion"] = (dataclasses.replace(model, dropout=0.0), params)
    fields["provenance"] = fields.get("provenance", {}) | {"encoders": encoders}
    return Bundle(
        kind="two_view",
        models=models,
        views=views,
        license=license or "; ".join(licenses),
        **fields,
    )
