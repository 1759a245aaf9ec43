"""Fine-tune two views, fuse them, choose the window, score: the paper's steps as one run."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fer_jax.atomic import atomic_directory
from fer_jax.bundle import DOCUMENT_FILE, bundle_hash, read_document, update_document
from fer_jax.data.dataset import FaceData
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.evaluate.evaluation import evaluate_bundle
from fer_jax.evaluate.filters import Filter, filters
from fer_jax.evaluate.frame_evaluation import (
    PREDICTIONS_FILE,
    FrameOptions,
    evaluate_predictions,
)
from fer_jax.evaluate.frame_labels import labels_of
from fer_jax.evaluate.frames import read_frame_probabilities, read_labels, timeline
from fer_jax.evaluate.table_predictions import are_frames
from fer_jax.evaluate.window_picture import draw_search
from fer_jax.evaluate.window_search import (
    search_document,
    search_text,
    search_windows,
    store_smoothing,
)
from fer_jax.ops.smoothing import smooth
from fer_jax.recipes.stages import Results, Stage, absolute, place_of, run_stages
from fer_jax.recipes.two_view_config import SmoothingConfig, TwoViewConfig
from fer_jax.train.finetune import finetune
from fer_jax.train.fuse import fuse

_SEARCH = "search.json"


def run_two_view(
    config: TwoViewConfig, workdir: str | Path, say: Callable[[str], None] = lambda line: None
) -> Results:
    """Runs the recipe, or what of it is not done.

    Args:
        config: the recipe.
        workdir: gets `main`, `aux` and `fuse` (runs), `frames` (predictions of every frame of the
            scored split), `window` (the search, with the score of videos that the filter was not
            chosen on), `report` (the score with the filter chosen on all of them, which flatters
            it a little) and `bundle`.
        say: called with a line for each stage.

    Returns:
        The result of each stage.

    Raises:
        UsageError: `data` is empty, or a field of a stage is wrong.
        FerJaxError: a stage fails; those before it stay done.
    """
    workdir = place_of(workdir)
    if not config.data:
        raise UsageError("config.data is empty; name one or more folders of `fer-jax prepare`")
    config = dataclasses.replace(
        config, data=absolute(config.data), backbone=absolute(config.backbone)
    )
    tried_filters(config.smoothing)
    check_videos(FaceData.open(config.data.split(",")[0]), config.split)
    return run_stages(workdir, _stages(config, workdir), say)


def _stages(config: TwoViewConfig, workdir: Path) -> list[Stage]:
    first = config.data.split(",")[0].strip()
    given = {"data": config.data, "backbone": config.backbone, "seed": config.seed}
    # What lies there now: other data or weights under the same names make another run.
    held = [FaceData.open(name).fingerprint() for name in config.data.split(",")]
    held += [bundle_hash(config.backbone)] if config.backbone else []
    views = {name: dataclasses.replace(getattr(config, name), **given) for name in ("main", "aux")}
    fused = dataclasses.replace(
        config.fuse,
        data=config.data if config.fuse.end_to_end else first,
        seed=config.seed,
        sources=f"main={workdir / 'main' / 'bundle'},aux={workdir / 'aux' / 'bundle'}",
    )
    scored = {"data": first, "split": config.split}

    def view(name: str, results: Results) -> dict[str, Any]:
        _, path = finetune(views[name], workdir / name)
        return {"sha256": bundle_hash(path)}

    def fusion(results: Results) -> dict[str, Any]:
        _, path = fuse(fused, workdir / "fuse")
        return {"sha256": bundle_hash(path)}

    def frames(results: Results) -> dict[str, Any]:
        metrics = evaluate_bundle(
            workdir / "fuse" / "bundle",
            first,
            config.split,
            workdir / "frames",
            options=FrameOptions(fill=config.smoothing.fill),
            overwrite=True,
            progress=True,
        )
        return {"macro_f1": metrics["macro_f1"]}

    def window(results: Results) -> dict[str, Any]:
        return _search(config.smoothing, scored, workdir)

    def report(results: Results) -> dict[str, Any]:
        chosen = results["window"]["smoothing"]
        metrics = evaluate_predictions(
            [workdir / "frames" / PREDICTIONS_FILE],
            first,
            config.split,
            workdir / "report",
            options=FrameOptions(
                smoothing=Filter.stored(chosen),
                fill=config.smoothing.fill,
            ),
            overwrite=True,
        )
        return {"macro_f1": metrics["macro_f1"]}

    def bundle(results: Results) -> dict[str, Any]:
        _release(workdir, results)
        return {"sha256": bundle_hash(workdir / "bundle")}

    def stage(
        name: str, settings: Any, run: Callable[[Results], dict[str, Any]], *needs: str
    ) -> Stage:
        trained = name in ("main", "aux", "fuse")
        made = workdir / name / "bundle" if trained else workdir / name
        return Stage(name, settings, run, needs, (made,), together=trained)

    return [
        *(
            stage(name, [dataclasses.asdict(views[name]), held], functools.partial(view, name))
            for name in views
        ),
        stage("fuse", [dataclasses.asdict(fused), held], fusion, "main", "aux"),
        stage("frames", [scored, held, config.smoothing.fill], frames, "fuse"),
        stage("window", dataclasses.asdict(config.smoothing), window, "frames"),
        stage("report", scored, report, "frames", "window"),
        stage("bundle", None, bundle, "fuse", "window", "report"),
    ]


def _search(config: SmoothingConfig, scored: dict[str, str], workdir: Path) -> dict[str, Any]:
    """Chooses the filter on left-out videos, and writes how it went."""
    predictions = workdir / "frames" / PREDICTIONS_FILE
    labels = read_labels(scored["data"], scored["split"])
    joined = timeline(read_frame_probabilities([predictions]), labels)
    found = search_windows(joined, tried_filters(config), fill=config.fill, folds=config.folds)
    document = search_document(found, joined, config.fill)
    with atomic_directory(workdir / "window", marker=_SEARCH, overwrite=True) as folder:
        draw_search(folder / "curve.png", document)
        (folder / "table.md").write_text(search_text(document), encoding="utf-8")
        (folder / _SEARCH).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return {name: document[name] for name in ("smoothing", "left_out", "without", "gain")}


def tried_filters(config: SmoothingConfig) -> list[Filter]:
    """The filters of a search, the first of them none at all.

    Raises:
        UsageError: the windows are no numbers, or a filter cannot be.
    """
    try:
        windows = [int(part) for part in config.windows.split(",")]
    except ValueError:
        raise UsageError(
            f"config.smoothing.windows={config.windows!r}: must be numbers of frames, such as "
            "5,51,101"
        ) from None
    tried = filters([name.strip() for name in config.kernels.split(",")], windows)
    rows = jax.ShapeDtypeStruct((1, 2), "float32")
    for one in tried:
        try:
            jax.eval_shape(functools.partial(smooth, **dataclasses.asdict(one)), rows)
        except FerJaxError as error:
            raise UsageError(f"config.smoothing: {error}") from None
    return tried


def check_videos(data: FaceData, split: str) -> None:
    """Refuses a split on which no filter can be chosen.

    Raises:
        UsageError: its faces are no frames of videos, or of fewer than two with labels.
    """
    if not are_frames(data, split):
        raise UsageError(f"{data.path}: its faces are no frames of videos: nothing can be smoothed")
    labels = labels_of(data, split)
    videos = set(labels.video[labels.label >= 0].tolist())
    if len(videos) < 2:
        raise UsageError(
            f"{data.path}: {len(videos)} video of {split} has labels; a filter is chosen on some "
            "and judged on others"
        )


def _release(workdir: Path, results: Results) -> None:
    """The bundle of the fusion, with its filter and its scores."""
    target = workdir / "bundle"
    with atomic_directory(target, marker=DOCUMENT_FILE, overwrite=True) as folder:
        shutil.copytree(workdir / "fuse" / "bundle", folder, dirs_exist_ok=True)
        store_smoothing(folder, results["window"]["smoothing"])
        scores = read_document(folder)[1]["scores"] | {
            "frames_macro_f1": results["frames"]["macro_f1"],
            "smoothed_macro_f1_of_left_out_videos": results["window"]["left_out"],
        }
        update_document(folder, scores=scores)
