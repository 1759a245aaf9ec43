"""Training checkpoints with Orbax: what we resume from, never what people load.

A checkpoint holds the items `params` (inference reads only that), `optimizer` (its state and the
step), `progress` and, where there is one, `ema`. The step is the position in the data as well:
batches are a function of (seed, step). It is written while the run goes on and is scored, so that
scores stand beside the checkpoints, in `scores.json`. This is the only module that imports Orbax,
since the names of its v1 still move.
"""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from fer_jax.atomic import atomic_file, remove_partials
from fer_jax.errors import FerJaxError
from fer_jax.models.vit import Params
from fer_jax.train import processes, sharding
from fer_jax.train.state import TrainState, state_shardings

METRIC = "macro_f1"
_SCORES = "scores.json"


class _Kept:
    """Orbax's preservation policy: the latest few, and the best of those that are scored."""

    def __init__(self, keep: int, scores: dict[int, float]):
        self._keep = keep
        self._scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each checkpoint, oldest first."""
        steps = [info.step for info in checkpoints]
        best = _best(steps, self._scores)
        return [step in steps[-self._keep :] or step == best for step in steps]


def _best(steps: Sequence[int], scores: dict[int, float]) -> int | None:
    """The step with the highest score, the latest of equals."""
    scored = [step for step in steps if step in scores]
    return max(scored, key=lambda step: (scores[step], step), default=None)


class Checkpoints:
    """The checkpoints of one run: the latest `keep`, and the one with the highest score."""

    def __init__(self, folder: Path, mesh: Mesh, *, keep: int = 1):
        _quiet_orbax()
        self._mesh = mesh
        self._folder = folder.absolute()
        if processes.is_first():
            remove_partials(self._folder / _SCORES)
        self._scores = _read_scores(self._folder / _SCORES)
        self._saving: Any = None
        context = ocp.Context()
        # Made in the background, folders that cannot be made keep writers, and with them the end
        # of the process, waiting for minutes.
        context.async_options.create_directories_asynchronously = False
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            context=context,
            preservation_policy=_Kept(keep, self._scores),
            cleanup_tmp_directories=True,
        )
        # One that was scored while it was written, and then never became whole.
        gone = [step for step in self._scores if step > (self.latest_step or 0)]
        for step in gone:
            del self._scores[step]
        if gone:
            self._write_scores()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._checkpointer.close()  # raises what a save that failed has raised before
        except (ValueError, RuntimeError, OSError) as unsaved:
            if not isinstance(error, Exception):
                raise self._unsaved(unsaved) from unsaved

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint that is whole."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, score) of the best checkpoint; the latest of equals, as Orbax keeps them."""
        step = _best([info.step for info in self._checkpointer.checkpoints], self._scores)
        return None if step is None else (step, self._scores[step])

    def score(self, step: int) -> float | None:
        """What `record` was told of a step."""
        return self._scores.get(step)

    def record(self, step: int, score: float) -> None:
        """Notes the score of a checkpoint, the higher the better; 0 where nothing is held out."""
        self._scores[step] = float(score)
        self._write_scores()

    def _write_scores(self) -> None:
        if processes.is_first():
            with atomic_file(self._folder / _SCORES) as partial:
                partial.write_text(json.dumps(self._scores, indent=1) + "\n")

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Begins to write a checkpoint; the state may be trained on, or donated, at once.

        Raises:
            FerJaxError: this one, or the one before it, cannot be written.
        """
        self.wait()
        step = int(state.step)
        try:
            self._saving = self._checkpointer.save_checkpointables_async(
                step, _items(state) | {"progress": progress}, force=True
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise self._unsaved(error) from error

    def wait(self) -> None:
        """Returns when the last checkpoint is whole on disk.

        Raises:
            FerJaxError: it cannot be written.
        """
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        try:
            saving.result()
        except (ValueError, RuntimeError, OSError) as error:  # how its writers report a bad disk
            raise self._unsaved(error) from error

    def _unsaved(self, error: Exception) -> FerJaxError:
        return FerJaxError(
            f"{self._folder}: a checkpoint cannot be saved ({_first_line(error)}); the one before "
            "it stands: see to the disk and start again"
        )

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint in the shapes and shardings of `state`, and its progress."""
        like = _items(_abstract(state, state_shardings(state, self._mesh)))
        loaded = self._load(self.latest_step, like | {"progress": None})
        optimizer = loaded["optimizer"]
        restored = TrainState(
            optimizer["step"], loaded["params"], optimizer["opt_state"], loaded.get("ema")
        )
        return restored, loaded["progress"]

    def restore_averaged(self, step: int, state: TrainState) -> Params:
        """What is scored and released of one checkpoint, whole on every process."""
        name = "params" if state.ema is None else "ema"
        copied = jax.tree.map(lambda _: sharding.replicated(self._mesh), state.averaged)
        return self._load(step, {name: _abstract(state.averaged, copied)})[name]

    def _load(self, step: int | None, abstract: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._checkpointer.load_checkpointables(step, abstract)
        except (ValueError, KeyError, FileNotFoundError) as error:
            folder = self._checkpointer.directory
            raise FerJaxError(
                f"{folder}/{step}: cannot be restored ({_first_line(error)}); was it written by "
                "another config? name another --workdir"
            ) from error


def _quiet_orbax() -> None:
    """Keeps to one line, which we raise, what Orbax says of a save that fails."""
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_not_of_late_writer)
    if not isinstance(sys.unraisablehook, _Unraisable):
        sys.unraisablehook = _Unraisable(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs each step of a save, and its errors trace by trace."""
    return "orbax" not in record.pathname


def _not_of_late_writer(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Task was destroyed but it is pending")


class _Unraisable:
    """Passes on what cannot be raised, but for TensorStore's late writers.

    Once one array of a checkpoint cannot be written, Orbax closes the event loop under the writers
    of the others; each, when it is done, finds it closed and has nobody to tell.
    """

    def __init__(self, before: Callable[[Any], Any]):
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._before(unraisable)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _items(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state, or of its shapes."""
    items = {
        "params": state.params,
        "optimizer": {"step": state.step, "opt_state": state.opt_state},
    }
    return items if state.ema is None else items | {"ema": state.ema}


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        shardings,
    )


def _read_scores(path: Path) -> dict[int, float]:
    if not path.exists():
        return {}
    try:
        return {int(step): float(score) for step, score in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise FerJaxError(f"{path}: cannot be read ({error}); remove it to score again") from None
