"""The frame of every training run: a folder that is begun, gone on with, and ends in a bundle."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from fer_jax.atomic import atomic_file, remove_partials
from fer_jax.bundle import Bundle, save_bundle
from fer_jax.errors import UsageError
from fer_jax.models.vit import Params
from fer_jax.train import processes
from fer_jax.train.checkpoints import Checkpoints
from fer_jax.train.logs import RunLog
from fer_jax.train.loop import Task, fit
from fer_jax.train.preemption import Notice
from fer_jax.train.state import TrainState

# Fields that may differ between a run and its continuation. None of them changes what is computed;
# another mesh or evaluation batch rounds differently.
_FREE_FIELDS = ("workers", "keep", "mesh", "license", "evaluate_batch_size", "checkpoint_steps")


def run(
    config: Any,
    workdir: Path,
    task: Task,
    state: TrainState,
    mesh: Mesh,
    *,
    fingerprint: str,
    introduction: Sequence[str],
    bundle: Callable[[Params, int, float], Bundle],
) -> tuple[TrainState, Path]:
    """Runs a task to its end, from its newest checkpoint if there is one.

    Args:
        config: a frozen config with `data`, `log_every`, `checkpoint_every` and `keep`.
        workdir: gets config.json, log.jsonl, tensorboard/, checkpoints/ and, at the end, bundle/.
        task: what is done at each step.
        state: its beginning.
        mesh: the devices.
        fingerprint: of the rows that are trained on.
        introduction: lines for the log.
        bundle: makes a bundle of (params, step, the task's metric) of the best checkpoint.

    Returns:
        The last state, and the path of the bundle.

    Raises:
        UsageError: the rows are not those that the run began with.
        FerJaxError: the loss is not finite, or the disk fails.
        Preempted: SIGTERM or the platform stopped it; all that was done is saved.
    """
    _claim(workdir, config)
    folder = workdir / "checkpoints"
    with Notice() as notice, Checkpoints(folder, mesh, keep=config.keep) as checkpoints:
        progress = {"rows": fingerprint}
        if checkpoints.latest_step is not None:
            state, progress = checkpoints.restore(state)
            if progress["rows"] != fingerprint:
                raise UsageError(
                    f"config.data={config.data}: holds other faces, labels or features than when "
                    "the run began; name another --workdir"
                )
        total = task.epochs * task.steps_per_epoch
        done = int(state.step)
        scored = checkpoints.score(done) is not None
        with RunLog(workdir, done, total, scored=scored) as log:
            for line in introduction:
                log.say(line)
            log.say(f"mesh: {dict(mesh.shape)}; {total:,} steps of {task.batch_size}")
            if done:
                log.say(f"resumed at step {done:,}")
            with jax.set_mesh(mesh):
                state = fit(
                    task,
                    state,
                    checkpoints,
                    log,
                    mesh,
                    notice,
                    progress=progress,
                    log_every=config.log_every,
                    checkpoint_every=config.checkpoint_every,
                    checkpoint_steps=config.checkpoint_steps,
                )
            step, score = checkpoints.best
            score *= task.metric.sign
            params = jax.device_get(checkpoints.restore_averaged(step, state))
            path = workdir / "bundle"
            if processes.is_first():
                remove_partials(path)
                save_bundle(bundle(params, step, score), path, overwrite=True)
            processes.wait_for_all("bundle")
            chosen = f"{task.metric.title} on the selection part: {score:.4f}"
            selected = config.selection > 0
            log.say(f"{chosen if selected else 'newest checkpoint'} at step {step} -> {path}")
    return state, path


def check_divisible(config: Any, mesh: Mesh) -> None:
    """Raises UsageError unless the devices can share the batches."""
    for field, parts in (("batch_size", config.accumulate), ("evaluate_batch_size", 1)):
        size = getattr(config, field)
        if size % (mesh.size * parts):
            times = f" times config.accumulate={parts}" if parts > 1 else ""
            raise UsageError(
                f"config.{field}={size}: must be a multiple of the {mesh.size} devices{times}"
            )


def check_same_run(workdir: Path, config: Any) -> None:
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


def _claim(workdir: Path, config: Any) -> None:
    """Writes config.json, once everything has shown that the run can begin."""
    if processes.is_first() and not (workdir / "config.json").exists():
        with atomic_file(workdir / "config.json") as partial:
            partial.write_text(json.dumps(_plain(config), indent=2) + "\n")


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))
