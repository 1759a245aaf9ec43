"""What a run writes while it runs: log.jsonl always, TensorBoard beside it, a bar on a terminal."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar
from tqdm import tqdm

from fer_jax.atomic import atomic_file
from fer_jax.train import processes

_FLUSH_SECONDS = 30  # between two times that the curves are brought to disk


class RunLog:
    """The log of one run; other processes than the first one write nothing.

    Args:
        workdir: log.jsonl and the folder `tensorboard` are made here.
        start_step: lines of later steps are cut off: they belong to a part that is run again.
        total_steps: of the whole run, for the bar.
        scored: whether `start_step` is scored; else lines of its score are cut off, too.
    """

    def __init__(self, workdir: Path, start_step: int, total_steps: int, *, scored: bool = True):
        self._first = processes.is_first()
        if not self._first:
            return
        self._path = workdir / "log.jsonl"
        if self._path.exists():
            _cut(self._path, start_step, scored)
        self._file = self._path.open("a")
        self._board = _Board(workdir / "tensorboard", start_step + 1)
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
        if not self._first:
            return
        self._bar.close()
        self._file.close()
        try:
            self._board.close()
        except OSError:
            if not isinstance(error, Exception):
                raise

    def write(self, step: int, group: str, values: dict[str, Any]) -> None:
        """One line {"step", "group", ...}; numbers also go to TensorBoard as group/name."""
        if not self._first:
            return
        try:
            self._file.write(json.dumps({"step": step, "group": group, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # what it still holds
                self._file.close()
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._board.write(step, group, values)

    def say(self, text: str) -> None:
        """A line for the person who watches; does not tear the bar."""
        if self._first:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def advance(self, steps: int = 1) -> None:
        """Moves the bar."""
        if self._first:
            self._bar.update(steps)


class _Board:
    """TensorBoard's file, written in the caller's thread: its errors come to whoever trains.

    The thread of tensorboardX's own writer ends at the first error of the disk, and the run would
    wait for it for ever.
    """

    def __init__(self, folder: Path, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}"
        self._records = RecordWriter(str(self._path))
        self._flushed = time.monotonic()
        start = SessionLog(status=SessionLog.START)
        self._add(Event(wall_time=now, file_version="brain.Event:2"))
        self._add(Event(wall_time=now, step=purge_step, session_log=start))

    def write(self, step: int, group: str, values: dict[str, Any]) -> None:
        """The numbers among the values."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                summary = scalar(f"{group}/{name}", value)
                self._add(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            with self._named():
                self._records.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Brings all to disk."""
        with self._named():
            self._records.close()

    def _add(self, event: Event) -> None:
        with self._named():
            self._records.write(event.SerializeToString())

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def _cut(path: Path, start_step: int, scored: bool) -> None:
    """Keeps the whole lines of finished steps; a torn last line goes."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            found = json.loads(line)
            repeated = found["step"] == start_step and found["group"] == "selection" and not scored
            if found["step"] <= start_step and not repeated:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    with atomic_file(path) as partial:
        partial.write_text("".join(kept))
