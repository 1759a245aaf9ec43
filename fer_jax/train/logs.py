"""What a run writes while it runs: log.jsonl always, TensorBoard beside it, a bar on a terminal."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from fer_jax.atomic import atomic_file


class RunLog:
    """The log of one run; other processes than the first one write nothing.

    Args:
        workdir: log.jsonl and the folder `tensorboard` are made here.
        start_step: lines of later steps are cut off: they belong to a part that is run again.
        total_steps: of the whole run, for the bar.
    """

    def __init__(self, workdir: Path, start_step: int, total_steps: int):
        self._first = jax.process_index() == 0
        if not self._first:
            return
        path = workdir / "log.jsonl"
        if path.exists():
            _cut(path, start_step)
        self._file = path.open("a")
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1, write_to_disk=True
        )
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._first:
            self._bar.close()
            self._board.close()
            self._file.close()

    def write(self, step: int, group: str, values: dict[str, Any]) -> None:
        """One line {"step", "group", ...}; numbers also go to TensorBoard as group/name."""
        if not self._first:
            return
        self._file.write(json.dumps({"step": step, "group": group, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{group}/{name}", value, step)

    def say(self, text: str) -> None:
        """A line for the person who watches; does not tear the bar."""
        if self._first:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def advance(self, steps: int = 1) -> None:
        """Moves the bar."""
        if self._first:
            self._bar.update(steps)


def _cut(path: Path, start_step: int) -> None:
    """Keeps the whole lines of finished steps; a torn last line goes."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= start_step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    with atomic_file(path) as partial:
        partial.write_text("".join(kept))
