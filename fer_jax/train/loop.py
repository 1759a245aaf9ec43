"""The loop that every training task shares.

Its order is a contract:

1. dispatch step n, then fetch and write the numbers of step n - 1: the device never waits;
2. at the end of an epoch: write what is pending, evaluate, save the checkpoint, in that order, so
   that a checkpoint never stands for numbers that were not written;
3. resume from the newest whole checkpoint: the log is cut to its step, the data begin at its step.
   A resumed run writes the same losses, bit for bit, as one that was never stopped.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.errors import FerJaxError
from fer_jax.models.vit import Params
from fer_jax.train import sharding
from fer_jax.train.checkpoints import METRIC, Checkpoints
from fer_jax.train.logs import RunLog
from fer_jax.train.state import TrainState

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """What the loop needs to know of a task.

    Attributes:
        step: jitted (state, batch, learning_rate) -> (state, {"loss": scalar}); donates the state.
        evaluate: params -> numbers with `macro_f1`, on the selection part; empty where there is
            none, and then the newest checkpoint counts as the best one.
        batches: first step -> endless batches of this process.
        learning_rate: step -> rate, on the host.
        steps_per_epoch: steps.
        epochs: epochs.
        batch_size: global, for the images a second.
    """

    step: Callable[[TrainState, dict[str, jax.Array], float], tuple[TrainState, dict[str, Any]]]
    evaluate: Callable[[Params], dict[str, Any]]
    batches: Callable[[int], Iterator[Batch]]
    learning_rate: Callable[[int], float]
    steps_per_epoch: int
    epochs: int
    batch_size: int


def fit(
    task: Task,
    state: TrainState,
    checkpoints: Checkpoints,
    log: RunLog,
    mesh: Mesh,
    *,
    progress: dict[str, Any],
    log_every: int,
    checkpoint_every: int,
) -> TrainState:
    """Runs `task` from `state.step` to its last epoch; `progress` goes into every checkpoint.

    Raises:
        FerJaxError: the loss is not finite.
    """
    done = int(state.step)
    total = task.epochs * task.steps_per_epoch
    window = _Window(task, log)
    batches = task.batches(done) if done < total else iter(())
    for step in range(done + 1, total + 1):
        rate = task.learning_rate(step - 1)
        state, metrics = task.step(state, sharding.to_global(next(batches), mesh), rate)
        window.flush()
        window.add(metrics["loss"])
        log.advance()
        epoch_ends = step % task.steps_per_epoch == 0
        if step % log_every == 0 or epoch_ends:
            window.close(step, rate)
        if not epoch_ends:
            continue
        window.flush()
        epoch = step // task.steps_per_epoch
        if epoch % checkpoint_every and epoch != task.epochs:
            continue
        scores = task.evaluate(state.params)
        if scores:
            log.write(step, "selection", {"epoch": epoch, **scores})
        log.say(_epoch_line(epoch, task.epochs, window.last_loss, scores))
        checkpoints.save(state, scores.get(METRIC, 0.0), {"epoch": epoch, **progress})
        window.restart_clock()
    return state


class _Window:
    """Losses since the last line of the log; fetched only after the next step is dispatched."""

    def __init__(self, task: Task, log: RunLog):
        self._task = task
        self._log = log
        self._losses: list[jax.Array] = []
        self._due: tuple[int, float, list[jax.Array]] | None = None
        self.last_loss = math.nan
        self.restart_clock()

    def restart_clock(self) -> None:
        self._since = time.perf_counter()

    def add(self, loss: jax.Array) -> None:
        self._losses.append(loss)

    def close(self, step: int, rate: float) -> None:
        self._due = (step, rate, self._losses)
        self._losses = []

    def flush(self) -> None:
        if self._due is None:
            return
        step, rate, losses = self._due
        self._due = None
        loss = float(np.mean([np.float64(value) for value in jax.device_get(losses)]))
        if not math.isfinite(loss):
            raise FerJaxError(
                f"the loss is {loss} at step {step}; lower config.optimizer.learning_rate "
                f"(now {rate:.3g}) or set config.optimizer.clip_norm=1.0"
            )
        seconds = time.perf_counter() - self._since
        self.restart_clock()
        self.last_loss = loss
        values = {
            "epoch": step / self._task.steps_per_epoch,
            "loss": loss,
            "learning_rate": rate,
            "images_per_second": round(len(losses) * self._task.batch_size / seconds, 2),
        }
        self._log.write(step, "train", values)


def _epoch_line(epoch: int, epochs: int, loss: float, scores: dict[str, Any]) -> str:
    shown = [f"{name} {value:.4f}" for name, value in scores.items() if isinstance(value, float)]
    selection = f"  selection: {'  '.join(shown)}" if shown else ""
    return f"epoch {epoch}/{epochs}  loss {loss:.4f}{selection}"
