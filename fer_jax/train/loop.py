"""The loop that every training task shares.

Its order is a contract:

1. dispatch step n, then fetch and write the numbers of step n - 1: the device never waits;
2. where a checkpoint is due: write what is pending, begin to save, so that a checkpoint never
   stands for numbers that were not written; losses that are not yet due for a line go into it;
3. at the end of an epoch: evaluate while the checkpoint is written, write the line, note the score;
4. where SIGTERM or the platform asks for it: save at once, and stop;
5. resume from the newest whole checkpoint: the log is cut to its step, the data begin at its step,
   an epoch that was saved and not scored is scored. A resumed run writes the same losses and holds
   the same numbers, bit for bit, as one that was never stopped.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.errors import FerJaxError
from fer_jax.models.vit import Params
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC, Checkpoints
from fer_jax.train.logs import RunLog
from fer_jax.train.preemption import Notice, stopped
from fer_jax.train.state import TrainState

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """The number that chooses a checkpoint.

    Attributes:
        name: among what `Task.evaluate` returns.
        title: of its best value, for people.
        sign: 1 where the highest is the best, -1 where the lowest is.
    """

    name: str
    title: str
    sign: int = 1


MACRO_F1 = Metric(METRIC, "best macro-F1")


@dataclasses.dataclass(frozen=True)
class Task:
    """What the loop needs to know of a task.

    Attributes:
        step: jitted (state, batch, learning_rate) -> (state, {"loss": scalar}); donates the state.
        evaluate: params -> numbers, with `metric` among them, on the selection part; empty where
            there is none, and then the newest checkpoint counts as the best one. Called with a
            function that it calls now and then, and that may end it.
        batches: first step -> endless batches of this process.
        learning_rate: step -> rate, on the host.
        steps_per_epoch: steps.
        epochs: epochs.
        batch_size: global, for the images a second.
        metric: chooses the checkpoint.
    """

    step: Callable[[TrainState, dict[str, jax.Array], float], tuple[TrainState, dict[str, Any]]]
    evaluate: Callable[[Params, Callable[[], None]], dict[str, Any]]
    batches: Callable[[int], Iterator[Batch]]
    learning_rate: Callable[[int], float]
    steps_per_epoch: int
    epochs: int
    batch_size: int
    metric: Metric = MACRO_F1


def fit(
    task: Task,
    state: TrainState,
    checkpoints: Checkpoints,
    log: RunLog,
    mesh: Mesh,
    notice: Notice,
    *,
    progress: dict[str, Any],
    log_every: int,
    checkpoint_every: int,
    checkpoint_steps: int = 0,
) -> TrainState:
    """Runs `task` from `state.step` to its last epoch.

    Args:
        task: what is done.
        state: as it was made, or restored from the newest of `checkpoints`.
        checkpoints: of the run.
        log: of the run.
        mesh: the devices.
        notice: says when to stop.
        progress: goes into every checkpoint; `losses` are those since the log's last line, of the
            checkpoint that the run goes on from.
        log_every: steps between two lines of the log.
        checkpoint_every: epochs between two checkpoints that are scored.
        checkpoint_steps: steps between two more; 0 for none.

    Raises:
        FerJaxError: the loss is not finite, or a checkpoint cannot be written.
        Preempted: the run was told to stop; the last step is saved.
    """
    done = int(state.step)
    total = task.epochs * task.steps_per_epoch
    window = _Window(task, log, progress.get("losses", ()))

    def epoch_is_due(step: int) -> bool:
        epoch, within = divmod(step, task.steps_per_epoch)
        return within == 0 and (epoch % checkpoint_every == 0 or epoch == task.epochs)

    def evaluate(step: int) -> None:
        scores = task.evaluate(state.averaged, notice.stop_between_steps)
        epoch = step // task.steps_per_epoch
        if scores:
            log.write(step, "selection", {"epoch": epoch, **scores})
        score = task.metric.sign * scores.get(task.metric.name, 0.0)
        checkpoints.record(step, score)  # last: without it, the line is cut off
        log.say(_epoch_line(epoch, task.epochs, window.last_loss, scores))
        window.restart_clock()

    if done and epoch_is_due(done) and checkpoints.score(done) is None:
        evaluate(done)
    batches = task.batches(done) if done < total else iter(())
    for step in range(done + 1, total + 1):
        rate = task.learning_rate(step - 1)
        state, metrics = task.step(state, sharding.to_global(next(batches), mesh), rate)
        window.flush()
        window.add(metrics["loss"])
        log.advance()
        if step % log_every == 0 or step % task.steps_per_epoch == 0:
            window.close(step, rate)
        scored, stops = epoch_is_due(step), notice.stops()
        if scored or stops or (checkpoint_steps and step % checkpoint_steps == 0):
            window.flush()
            checkpoints.save(state, progress | {"losses": window.pending(step, rate)})
            stops = notice.stops() or stops
        if stops:
            checkpoints.wait()
            raise stopped(f"at step {step:,}, which is saved")
        if scored:
            evaluate(step)
    checkpoints.wait()
    return state


class _Window:
    """Losses since the last line of the log; fetched only after the next step is dispatched."""

    def __init__(self, task: Task, log: RunLog, losses: Sequence[float]):
        self._task = task
        self._log = log
        self._losses: list[jax.Array | float] = list(losses)
        self._restored = len(losses)
        self._due: tuple[int, float, list[jax.Array | float]] | None = None
        self.last_loss = math.nan
        self.restart_clock()

    def restart_clock(self) -> None:
        self._since = time.perf_counter()

    def add(self, loss: jax.Array) -> None:
        self._losses.append(loss)

    def close(self, step: int, rate: float) -> None:
        self._due = (step, rate, self._losses)
        self._losses = []

    def pending(self, step: int, rate: float) -> list[float]:
        """The losses of which no line is written yet, as numbers."""
        losses = [float(loss) for loss in jax.device_get(self._losses)]
        if losses:
            _check_finite(float(np.mean(losses)), step, rate)
        return losses

    def flush(self) -> None:
        if self._due is None:
            return
        step, rate, losses = self._due
        self._due = None
        loss = float(np.mean([np.float64(value) for value in jax.device_get(losses)]))
        _check_finite(loss, step, rate)
        seconds = time.perf_counter() - self._since
        self.restart_clock()
        self.last_loss = loss
        values = {
            "epoch": step / self._task.steps_per_epoch,
            "loss": loss,
            "learning_rate": rate,
            "images_per_second": round(
                (len(losses) - self._restored) * self._task.batch_size / seconds, 2
            ),
        }
        self._restored = 0
        self._log.write(step, "train", values)


def _check_finite(loss: float, step: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise FerJaxError(
            f"the loss is {loss} at step {step}; lower config.optimizer.learning_rate "
            f"(now {rate:.3g}) or set config.optimizer.clip_norm=1.0"
        )


def _epoch_line(epoch: int, epochs: int, loss: float, scores: dict[str, Any]) -> str:
    shown = [f"{name} {value:.4f}" for name, value in scores.items() if isinstance(value, float)]
    selection = f"  selection: {'  '.join(shown)}" if shown else ""
    trained = f"  loss {loss:.4f}" if math.isfinite(loss) else ""  # scored when it was resumed
    return f"epoch {epoch}/{epochs}{trained}{selection}"
