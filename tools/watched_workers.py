"""Processes that are given tasks, watched, and started again where one had to be ended.

A worker is a script that prints `ready`, reads a line of JSON for each task from its standard
input, and answers with one. Linux only: memory is measured through /proc.
"""

import collections
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

T = TypeVar("T")

_START_SECONDS = 300.0  # imports, on a machine that is busy


class WatchedWorker:
    """One process at a time.

    Args:
        script: run with `arguments`, the first of which is the folder.
        folder: made for it.
        arguments: further ones.
    """

    def __init__(self, script: Path, folder: Path, arguments: Sequence[str] = ()) -> None:
        folder.mkdir()
        self.folder = folder
        self._command = [sys.executable, str(script), str(folder), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, task: dict[str, Any], patience: float) -> dict[str, Any] | str:
        """The answer to a task; how the process ended where there is none after so many seconds."""
        process = self._running()
        process.stdin.write((json.dumps(task) + "\n").encode())
        process.stdin.flush()
        answer = _line(process.stdout, patience)
        if answer is not None:
            return answer
        self.stop()
        code = process.returncode
        return f"killed after {patience} s" if code == -9 else f"ended with {code}"

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            )
            if _line(self._process.stdout, _START_SECONDS) != "ready":
                self.stop()
                raise RuntimeError("a worker does not start; its own words are above")
        return self._process


def _line(pipe: IO[bytes], seconds: float) -> Any:
    """The next line of a pipe, as JSON or as text; None if it ends or takes too long."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    line = pipe.readline() if ready else b""
    if not line:
        return None
    return json.loads(line) if line.startswith(b"{") else line.decode().strip()


class Team(Generic[T]):
    """Workers that share the tasks out among them.

    Args:
        make: makes a worker of the folder that is to be made for it.
        size: how many workers.
    """

    def __init__(self, make: Callable[[Path], WatchedWorker], size: int) -> None:
        self._make, self._size = make, size

    def over(
        self, numbers: Iterable[int], examine: Callable[[WatchedWorker, int], T]
    ) -> Iterator[T]:
        """What `examine` makes of each number with a worker, as it comes."""
        waiting, lock = iter(numbers), threading.Lock()
        done: collections.deque[T | BaseException] = collections.deque()
        arrived = threading.Semaphore(0)

        def work(worker: WatchedWorker) -> None:
            try:
                while True:
                    with lock:
                        number = next(waiting, None)
                    if number is None:
                        return
                    done.append(examine(worker, number))
                    arrived.release()
            except BaseException as error:
                done.append(error)
            finally:
                worker.stop()
                arrived.release()

        with tempfile.TemporaryDirectory() as folder:
            team = [self._make(Path(folder) / f"worker-{i}") for i in range(self._size)]
            threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in team]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) or done:
                arrived.acquire(timeout=1)
                while done:
                    found = done.popleft()
                    if isinstance(found, BaseException):
                        raise found
                    yield found


def status_bytes(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) << 10
