"""Stopping in time: SIGTERM, or the platform's notice, ends a run after its next checkpoint.

A process of its own listens for SIGTERM itself. Of several processes each is told by JAX's
preemption service, which agrees with all of them on the step at which they stop.
"""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from fer_jax.errors import Preempted

# JAX agrees on a number of asking, once in the life of a process: it may never count down, whatever
# run of a recipe is under way.
_ASKED = itertools.count(1)
# A second SIGTERM within so many seconds is the same one: some who send it send it twice.
_SAME = 5.0


class Notice:
    """Listens while a run lasts; told again later, the process ends as if nobody listened."""

    def __init__(self) -> None:
        self._came: float | None = None
        self._alone = jax.process_count() == 1
        self._before: object = None

    def __enter__(self) -> "Notice":
        # Only the main thread may listen; elsewhere a run is not interrupted.
        if self._alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if error is None and self.stops():
            raise stopped("at the end of a run")

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._came is None:
            self._came = now
        elif now > self._came + _SAME:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def stops(self) -> bool:
        """Whether the run ends here; all processes ask together, after each step and each save.

        After a save as well: Orbax asks JAX, too, with a number of its own.
        """
        if self._alone:
            return self._came is not None
        return multihost_utils.reached_preemption_sync_point(next(_ASKED))

    def stop_between_steps(self) -> None:
        """Ends the run here, where nothing is to be saved; several processes go on to a step.

        Raises:
            Preempted: the notice came.
        """
        if self._came is not None:
            raise stopped("after its last checkpoint")


def stopped(where: str) -> Preempted:
    """The error that ends a run."""
    return Preempted(f"stopped by SIGTERM {where}; the same command goes on from there")


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Lets SIGTERM raise `Preempted`, around what saves as it goes; a run within listens itself."""

    def hear(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise stopped("outside of training")

    # Of several processes, JAX listens.
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
