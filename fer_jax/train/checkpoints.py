"""Training checkpoints with Orbax: what we resume from, never what people load.

A checkpoint holds three items: `params` (inference reads only that), `optimizer` (its state and the
step) and `progress`. The step is the position in the data as well: batches are a function of
(seed, step). This is the only module that imports Orbax, since the names of its v1 still move.
"""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from fer_jax.errors import FerJaxError
from fer_jax.models.vit import Params
from fer_jax.train.state import TrainState, state_shardings

METRIC = "macro_f1"


class Checkpoints:
    """The checkpoints of one run: the latest `keep`, and the best one by macro-F1."""

    def __init__(self, folder: Path, mesh: Mesh, *, keep: int = 1):
        logging.getLogger("absl").setLevel(logging.WARNING)
        policies = ocp.training.preservation_policies
        self._mesh = mesh
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(get_metric_fn=lambda metrics: metrics[METRIC], n=1),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, macro-F1) of the best checkpoint; the latest of equals, as Orbax keeps them."""
        known = self._checkpointer.checkpoints
        if not known:
            return None
        best = max(known, key=lambda info: (info.metrics[METRIC], info.step))
        return best.step, best.metrics[METRIC]

    def save(self, state: TrainState, metric: float, progress: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it is whole on disk."""
        step = int(state.step)
        items = {
            "params": state.params,
            "optimizer": {"step": state.step, "opt_state": state.opt_state},
            "progress": progress,
        }
        try:
            self._checkpointer.save_checkpointables(
                step, items, metrics={METRIC: float(metric)}, force=True
            )
        except (ValueError, RuntimeError) as error:  # how its writers report a failing disk
            raise FerJaxError(
                f"{self._checkpointer.directory}/{step}: cannot be saved ({_first_line(error)}); "
                "the checkpoint before it stands: see to the disk and start again"
            ) from error

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint in the shapes and shardings of `state`, and its progress."""
        like = _abstract(state, self._mesh)
        loaded = self._load(
            self.latest_step,
            {
                "params": like.params,
                "optimizer": {"step": like.step, "opt_state": like.opt_state},
                "progress": None,
            },
        )
        optimizer = loaded["optimizer"]
        restored = TrainState(optimizer["step"], loaded["params"], optimizer["opt_state"])
        return restored, loaded["progress"]

    def restore_params(self, step: int, state: TrainState) -> Params:
        """The parameters of one checkpoint, without the optimiser."""
        return self._load(step, {"params": _abstract(state, self._mesh).params})["params"]

    def _load(self, step: int | None, abstract: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._checkpointer.load_checkpointables(step, abstract)
        except (ValueError, KeyError, FileNotFoundError) as error:
            folder = self._checkpointer.directory
            raise FerJaxError(
                f"{folder}/{step}: cannot be restored ({_first_line(error)}); was it written by "
                "another config? name another --workdir"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _abstract(state: TrainState, mesh: Mesh) -> TrainState:
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state,
        state_shardings(state, mesh),
    )
