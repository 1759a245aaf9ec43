"""Reads files in a process of its own, watched: what it did, its processor time, its memory.

Lines of JSON come in on standard input (a path and the seed that it was made from) and go out on
the descriptor that was standard output. Linux only: memory is measured through /proc.
"""

import argparse
import codecs
import dataclasses
import gc
import io
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import checkpoint_seeds as seeds
import numpy as np
from checkpoint_oracle import read_independently
from watched_workers import status_bytes

from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import convert_checkpoint, plan_conversion
from fer_jax.errors import FerJaxError

_BACKSTOP = 3 << 30  # bytes of address space beyond what the imports take
_LONGEST_LINE = 2000  # characters; a message that a person can read

# Audit events that no reading of a file has a reason for.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod"),
    *("os.putenv", "os.truncate", "subprocess.", "socket.", "ctypes.", "shutil.", "urllib."),
    *("pty.", "ftplib.", "http.", "webbrowser.", "import", "compile", "exec", "code.__new__"),
    *("pickle.", "marshal.", "function.__new__", "builtins.breakpoint", "cpython.run_"),
)


class Watch:
    """An audit hook that notes what must not happen while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.events: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            _, mode, flags = arguments
            writes = any(c in "wax+" for c in mode or "") or (flags or 0) & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            )
            if not writes:
                return
        elif not event.startswith(_FORBIDDEN):
            return
        self.events.append(f"{event}{repr(arguments)[:200]}")


@dataclasses.dataclass
class Loaded:
    """What the reading path returned."""

    tensors: dict[str, np.ndarray]
    source_keys: dict[str, str]
    params: list[np.ndarray] | None = None


def read(path: Path) -> Loaded:
    """The whole public path: open, every tensor's values.

    Raises:
        FerJaxError: it is refused.
    """
    checkpoint = open_checkpoint(path)
    tensors = {name: checkpoint.values(name) for name in checkpoint.tensors}
    for values in tensors.values():
        np.ascontiguousarray(values).reshape(-1).view(np.uint8).max(initial=0)  # touches all
    return Loaded(tensors, checkpoint.source_keys)


def convert(path: Path) -> list[np.ndarray]:
    """The rest of the path: the plan, and the parameters in its order.

    Raises:
        FerJaxError: it is refused.
    """
    import jax

    checkpoint = open_checkpoint(path)
    options = Options(num_heads=seeds.HEADS)
    plan = plan_conversion(checkpoint, options)
    params = jax.tree.leaves(convert_checkpoint(checkpoint, options).params)
    if plan.parameters != sum(leaf.size for leaf in params):
        raise AssertionError("the plan and the conversion differ in size")
    if not all(np.isfinite(leaf).all() for leaf in params):
        raise AssertionError("a parameter is not finite")
    return params


class Examiner:
    """Examines files one by one."""

    def __init__(self, folder: Path) -> None:
        self.watch = Watch()
        self.originals: dict[str, Loaded] = {}
        for i, seed in enumerate(seeds.make_seeds()):  # also imports what is imported late
            path = folder / f"seed-{i}"
            path.write_bytes(seed.data)
            original = read(path)
            original.tensors = {name: np.array(t) for name, t in original.tensors.items()}
            if "PyTorch wrote" not in seed.name:  # that one holds no ViT
                original.params = [np.array(leaf) for leaf in convert(path)]
            self.originals[seed.name] = original
            for damaged in (seed.data[:-9], seed.data[:900], seed.data[:1], b"PK\x03\x04" * 9):
                path.write_bytes(damaged)
                self._refusal(lambda path=path: convert(path))
            path.unlink()
        codecs.lookup("raw_unicode_escape")  # pickletools imports it for the opcode UNICODE
        gc.collect()
        gc.freeze()
        limit = status_bytes("VmSize") + _BACKSTOP
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def examine(self, path: Path, seed: str) -> dict[str, Any]:
        """What happened: `outcome`, `said` (a refusal or a fault), `seconds`, `bytes`."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = status_bytes("VmRSS")
        loaded, params = None, None
        self.watch.events.clear()
        begin = time.process_time()
        self.watch.armed = True
        try:
            outcome, said, loaded = self._attempt(lambda: read(path), path)
            if loaded is not None:
                converted, said, params = self._attempt(lambda: convert(path), path)
                outcome = converted if converted == "failed" else outcome
        finally:
            self.watch.armed = False
        seconds = time.process_time() - begin
        grown = max(0, status_bytes("VmHWM") - before)
        if self.watch.events:
            outcome, said = "failed", f"did what it must not: {self.watch.events[:3]}"
        elif outcome == "loaded":
            outcome, said = self._judge(path, loaded, params, self.originals.get(seed), said)
        return {"outcome": outcome, "said": said, "seconds": seconds, "bytes": grown}

    def _attempt(self, action: Any, path: Path) -> tuple[str, str, Any]:
        try:
            return "loaded", "", action()
        except FerJaxError as error:
            fault = _unclear(str(error), path)
            return ("failed", fault, None) if fault else ("refused", str(error), None)
        except BaseException as error:  # a Rust panic is no Exception
            self.watch.armed = False  # a traceback parses source code
            where = "; ".join(traceback.format_exception(error, limit=-2))
            return "failed", f"not a FerJaxError: {where[-1500:]}", None

    def _refusal(self, action: Any) -> None:
        try:
            action()
        except FerJaxError:
            return
        raise AssertionError("a damaged file was read")

    def _judge(
        self,
        path: Path,
        loaded: Loaded,
        params: list[np.ndarray] | None,
        original: Loaded | None,
        said: str,
    ) -> tuple[str, str]:
        """Whether what was loaded is what the file says."""
        if original is not None and _same(loaded.tensors, original.tensors):
            if original.params is None:
                return "original", said
            if params is None:
                return "failed", f"the same tensors are no longer converted: {said}"
            equal = all(map(_equal, params, original.params))
            return ("original", "") if equal else ("failed", "other parameters of the same tensors")
        try:
            expected = read_independently(path, loaded.source_keys)
        except Exception as error:
            return (
                "failed",
                f"loaded, but a second reader says {type(error).__name__}: {error}",
            )
        if not _same(loaded.tensors, expected):
            return "failed", "loaded other tensors than a second reader"
        return ("changed", said) if params is not None else ("changed, not a ViT", said)


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """The same shape, dtype and bits."""
    return (one.shape, one.dtype) == (other.shape, other.dtype) and one.tobytes() == other.tobytes()


def _unclear(message: str, path: Path) -> str:
    """What is wrong with a message; empty if nothing."""
    if not message.startswith(f"{path}: "):
        return f"the message does not begin with the file: {message[:200]!r}"
    lines = message.removeprefix(f"{path}: ").split("\n")
    for line in lines:
        if len(line) > _LONGEST_LINE or not line.isprintable():
            return f"a line of {len(line)} characters in the message: {line[:200]!r}"
    return ""


def main() -> None:
    """Answers until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a payload would print does not mix with the answers
    os.chdir(folder)
    examiner = Examiner(folder)
    answers.write("ready\n")
    for line in io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8"):
        task = json.loads(line)
        answers.write(json.dumps(examiner.examine(Path(task["path"]), task["seed"])) + "\n")


if __name__ == "__main__":
    main()
