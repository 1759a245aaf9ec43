"""Measures a command from outside, or this process and its workers; says on what machine."""

import dataclasses
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from fer_jax.errors import FerJaxError

_INTERVAL = 0.02  # seconds between two looks at a process's memory
_GRACE = 10.0  # seconds that a command has to save what it has when this one is stopped
_FIELD = re.compile(r"^(RssAnon|VmHWM):\s+(\d+) kB$", flags=re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a command.

    Attributes:
        seconds: wall time, the start of the process included.
        anonymous: peak of its anonymous memory, bytes; None where the system does not tell.
        resident: peak of all its resident memory, mapped files included; None likewise.
    """

    seconds: float
    anonymous: int | None
    resident: int | None


def run(argv: Sequence[str], log: Path | None = None) -> Run:
    """Runs a command to its end.

    Args:
        argv: the program and its arguments.
        log: gets all that it prints; None throws it away.

    Raises:
        FerJaxError: it failed; its last line is quoted, and the log named.
    """
    peaks: dict[str, int] = {}
    with log.open("w+b") if log else tempfile.TemporaryFile() as errors:
        stdout = errors if log else subprocess.DEVNULL
        begin = time.monotonic()
        with subprocess.Popen(argv, stdout=stdout, stderr=errors) as process:
            try:
                while True:
                    _look(process.pid, peaks)
                    try:
                        code = process.wait(_INTERVAL)
                        break
                    except subprocess.TimeoutExpired:
                        continue
                seconds = time.monotonic() - begin
            except BaseException:
                process.terminate()
                try:
                    process.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            last = said[-1] if said else "no message"
            raise FerJaxError(f"{log or argv[0]}: exit code {code}: {last}")
    return Run(seconds, peaks.get("RssAnon"), peaks.get("VmHWM"))


def _look(pid: int, peaks: dict[str, int]) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # no such system, or the process has ended
        return
    for name, size in _FIELD.findall(status):
        peaks[name] = max(peaks.get(name, 0), 1024 * int(size))


def cpu_seconds() -> float | None:
    """Processor time that this process and its descendants have used, None without /proc."""
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        used = [_stat(pid)[11:13] for pid in _descendants()]
    except (OSError, ValueError):
        return None
    return time.process_time() + sum(int(user) + int(system) for user, system in used) / ticks


def anonymous_bytes() -> int | None:
    """Anonymous memory of this process and its descendants, None where the system does not tell."""
    total: dict[str, int] = {}
    for pid in (os.getpid(), *_descendants()):
        one: dict[str, int] = {}
        _look(pid, one)
        total["RssAnon"] = total.get("RssAnon", 0) + one.get("RssAnon", 0)
    return total["RssAnon"] or None


def _descendants() -> list[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(_stat(int(entry.name))[1])
        except OSError:  # it has ended
            continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def environment() -> dict[str, str | int]:
    """What figures depend on: versions, system, processor, cores that may be used."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "fer_jax": metadata.version("fer-jax"),
        "jax": metadata.version("jax"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
    }


def _cpu() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    found = re.search(r"^model name\s*:\s*(.+)$", described, flags=re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown"
