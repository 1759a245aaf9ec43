"""The paper's comparisons as one grid that goes on where it was stopped."""

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from fer_jax.atomic import atomic_file
from fer_jax.data.dataset import FaceData, select
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.evaluate.filters import parse_filter
from fer_jax.evaluate.frame_labels import FrameLabels
from fer_jax.evaluate.frame_scores import confusions_of_videos, of_films, predicted
from fer_jax.evaluate.frames import timeline
from fer_jax.evaluate.intervals import LEVEL, RESAMPLES, draw_videos, interval, without_each
from fer_jax.evaluate.table_predictions import are_frames, table_labels
from fer_jax.evaluate.window_search import search_windows
from fer_jax.ops.metrics import f1_by_class
from fer_jax.recipes.ablation_cells import AXES, UNUSED, Cell, cells_of, varied_axes
from fer_jax.recipes.ablation_config import NONE, SEARCH, AblateConfig
from fer_jax.recipes.ablation_steps import (
    Execute,
    Planner,
    Steps,
    in_a_process,
    read_predictions,
)
from fer_jax.recipes.ablation_table import write_tables
from fer_jax.recipes.stages import StageError, absolute, place_of, run_stages
from fer_jax.recipes.two_view import check_videos, tried_filters

DOCUMENT = "ablation.json"


def run_ablation(
    config: AblateConfig,
    workdir: str | Path,
    *,
    command: Sequence[str] = (),
    execute: Execute = in_a_process,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the grid, or what of it is not done, and writes its tables.

    Args:
        config: the grid.
        workdir: gets a folder for each kind of stage, `ablation.json`, `table.md`, `table.csv` and
            `figure.png`.
        command: how the grid was called, without workdir and axes: with them it makes one cell.
        execute: runs a command.
        say: called with a line for each stage and each cell.

    Returns:
        What `ablation.json` holds. A cell of which a stage failed has `error` instead of scores.

    Raises:
        UsageError: a field is wrong.
        FerJaxError: the data cannot be read, or no cell could be scored.
    """
    workdir = place_of(workdir)
    cells, seeds = cells_of(config), _seeds(config)
    if not config.data:
        raise UsageError("config.data is empty; name one or more folders of `fer-jax prepare`")
    paths = ("data", "uncleaned", "synthetic_data", "backbone")
    config = dataclasses.replace(
        config, **{name: absolute(getattr(config, name)) for name in paths}
    )
    data = FaceData.open(config.data.split(",")[0])
    labels = _labels(config, data, cells)
    planner = Planner(config, workdir, execute)
    plans = {cell: [planner.steps(cell, seed) for seed in seeds] for cell in cells}
    rows, scored, failed = [], {}, {}
    varied = varied_axes(cells)
    for number, cell in enumerate(cells, start=1):
        title = cell.title(cells[0], varied)
        say(f"cell {number}/{len(cells)}: {title}")
        row = {"cell": title, **dataclasses.asdict(cell)}
        row["command"] = _command(command, cell, config)
        try:
            steps = [_run(one, workdir, failed, say) for one in plans[cell]]
            scored[cell] = _score(config, cell, labels, steps)
        except FerJaxError as error:
            row["error"] = str(error)
            say(f"cell {number}/{len(cells)} failed: {error}")
        else:
            row |= _costs(planner, steps)
        rows.append(row)
    if not scored:
        raise FerJaxError(f"{workdir}: no cell could be scored; the first says: {rows[0]['error']}")
    base = scored.get(cells[0])
    for cell, row in zip(cells, rows, strict=True):
        if cell in scored:
            row |= _figures(scored[cell], None if cell == cells[0] else base)
    document = {
        "format": "fer_jax ablation",
        "format_version": 1,
        "config": dataclasses.asdict(config),
        "classes": list(next(iter(scored.values())).classes),
        "videos": next(iter(scored.values())).videos,
        "unit": "videos" if are_frames(data, config.split) else "pictures",
        "frames": int((labels.label >= 0).sum()),
        "seeds": seeds,
        "notes": list(next(iter(scored.values())).notes),
        "interval": {"level": LEVEL, "resamples": RESAMPLES},
        "axes": list(AXES),
        "base": {axis: getattr(cells[0], axis) for axis in varied},
        "cells": rows,
    }
    with atomic_file(workdir / DOCUMENT) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_tables(document, workdir)
    return document


def _labels(config: AblateConfig, data: FaceData, cells: list[Cell]) -> FrameLabels:
    """What the cells are scored against, once it is sure that they can be."""
    smoothed = [cell.smoothing for cell in cells if cell.smoothing != NONE]
    if smoothed and not are_frames(data, config.split):
        raise UsageError(
            f"config.axes.smoothing={smoothed[0]}: the faces of {data.path} are no frames of "
            "videos; set it to none"
        )
    if SEARCH in smoothed:
        tried_filters(config.smoothing)
        check_videos(data, config.split)
    labels = table_labels(data, config.split)
    if len(set(labels.video[labels.label >= 0].tolist())) < 2:
        raise UsageError(f"{data.path}: intervals need two videos or pictures with labels or more")
    if config.uncleaned:
        other = FaceData.open(config.uncleaned.split(",")[0])
        keys, others = (
            set(d.index["key"][select(d, config.split)].tolist()) for d in (data, other)
        )
        if keys != others:
            raise UsageError(
                f"config.uncleaned={other.path}: holds other faces of {config.split} than "
                f"{data.path}; prepare both from the same folder, one with --no-clean"
            )
    return labels


@dataclasses.dataclass(frozen=True, eq=False)
class _Scored:
    """Counts of a cell, `[seed, film, class, class]`, and the filter of each seed."""

    classes: tuple[str, ...]
    notes: tuple[str, ...]
    videos: int
    confusions: Int64[np.ndarray, "seed film class class"]
    filters: list[str]


def _run(steps: Steps, workdir: Path, failed: dict[str, str], say: Callable[[str], None]) -> Steps:
    """Runs what is not done; a stage that failed for another cell is not tried again."""
    for stage in steps.stages:
        if stage.name in failed:
            raise FerJaxError(failed[stage.name])
    try:
        run_stages(workdir, steps.stages, lambda line: _tell(line, say))
    except StageError as error:
        failed[error.stage] = f"{error.stage}: {error}"
        raise FerJaxError(failed[error.stage]) from error
    return steps


def _tell(line: str, say: Callable[[str], None]) -> None:
    if not line.endswith("done before"):
        say(f"  {line}")


def _score(config: AblateConfig, cell: Cell, labels: FrameLabels, steps: list[Steps]) -> _Scored:
    """What was taken for what, with the cell's smoothing, for each seed."""
    confusions, chosen = [], []
    fill = config.smoothing.fill
    for one in steps:
        joined = timeline(read_predictions(one.predictions), labels)
        if cell.smoothing == SEARCH:
            found = search_windows(
                joined, tried_filters(config.smoothing), fill=fill, folds=config.smoothing.folds
            )
            confusions.append(found.left_out)
            chosen.append(str(found.filters[found.chosen]))
            continue
        smoothing = None if cell.smoothing == NONE else parse_filter(cell.smoothing)
        rows = predicted(joined, fill, smoothing)
        everything = np.ones(len(joined), bool)
        confusions.append(confusions_of_videos(joined, rows.probabilities, everything))
        chosen.append(cell.smoothing)
    films = np.stack([of_films(joined.videos, one) for one in confusions])
    return _Scored(joined.classes, joined.notes, len(joined.videos), films, chosen)


def _figures(own: _Scored, base: _Scored | None) -> dict[str, Any]:
    """Macro-F1 and F1 of each class, means over the seeds, with intervals of resampled videos.

    All cells are scored on the same resamples, so the difference from the base is a paired one.
    """
    total = own.confusions.sum(axis=1)
    drawn, left_out = _resampled(own)
    found: dict[str, Any] = {
        "macro_f1": _interval(float(f1_by_class(total).mean()), drawn, left_out),
        "macro_f1_of_seeds": f1_by_class(total).mean(axis=-1).tolist(),
        "accuracy": float(np.trace(total, axis1=1, axis2=2).sum() / total.sum()),
        "classes_f1": f1_by_class(total).mean(axis=0).tolist(),
        "filters": own.filters,
    }
    if base is not None:
        difference = found["macro_f1"]["value"] - float(
            f1_by_class(base.confusions.sum(axis=1)).mean()
        )
        other, without_other = _resampled(base)
        found["difference"] = _interval(difference, drawn - other, left_out - without_other)
    return found


def _resampled(scored: _Scored) -> tuple[np.ndarray, np.ndarray]:
    """Macro-F1 of each resample of films, and without each of them; means over the seeds."""
    drawn = [f1_by_class(draw_videos(one.astype(np.int32))) for one in scored.confusions]
    left_out = [f1_by_class(without_each(one)) for one in scored.confusions]
    return np.mean(drawn, axis=(0, 2)), np.mean(left_out, axis=(0, 2))


def _interval(value: float, drawn: np.ndarray, left_out: np.ndarray) -> dict[str, float]:
    low, high = interval(value, drawn, left_out).tolist()
    return {"value": value, "low": low, "high": high}


def _costs(planner: Planner, steps: list[Steps]) -> dict[str, Any]:
    """What a cell takes: to run, and to make; means over the seeds."""
    costs = json.loads(steps[0].costs.read_text(encoding="utf-8"))
    used = [planner.usage(one.stages) for one in steps]
    peaks = [peak for _, peak in used if peak is not None]
    return {
        "parameters": costs["parameters"],
        "flops": costs["flops"],
        "milliseconds": costs["milliseconds"]["median"],
        "backend": costs["backend"],
        "seconds": sum(seconds for seconds, _ in used) / len(used),
        "peak_bytes": max(peaks, default=None),
        "bundles": [str(one.bundle) for one in steps],
    }


def _command(command: Sequence[str], cell: Cell, config: AblateConfig) -> str:
    """The command that makes this cell alone."""
    usual = {axis: getattr(config.axes, axis).split(",")[0].strip() for axis in AXES}
    values = {a: v if v != UNUSED else usual[a] for a, v in dataclasses.asdict(cell).items()}
    options = [f"--config.axes.{axis}={value}" for axis, value in values.items()]
    return shlex.join([*command, *options, "--workdir=cell"])


def _seeds(config: AblateConfig) -> list[int]:
    try:
        seeds = [int(part) for part in config.seeds.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise UsageError(f"config.seeds={config.seeds!r}: must be numbers from 0, such as 0,1,2")
    return seeds
