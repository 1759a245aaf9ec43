"""Labels files in a process of its own, watched: what came of it, its processor time, its memory.

Lines of JSON come in on standard input and go out on the descriptor that was standard output; all
that is printed meanwhile is kept in `said.txt`. Linux only.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import video_seeds
from tiny_bundles import tiny_bundle
from video_checks import (
    Attempt,
    same,
    wrong_picture,
    wrong_rows,
    wrong_video,
    wrong_words,
)
from watched_workers import status_bytes

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main as fer_jax_main
from fer_jax.data.images import EXTENSIONS
from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import VideoFrame, VideoReader
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import load
from fer_jax.predict.sources import find_files
from fer_jax.predict.table import read_csv
from fer_jax.recipes.labelling import Job, Labeller

_BACKSTOP = 8 << 30  # bytes of address space beyond what the imports take
_BATCH = 8
_ODD_FRAMES = 2
# What decoders of pictures print, below Python; a damaged picture may still be read.
_DECODERS = re.compile(
    r"(Corrupt JPEG data|Premature end of JPEG|Invalid SOS|Unsupported marker|Warning: |libpng "
    r"|Inconsistent progression|Bogus |Unknown Adobe|Application transferred|TIFF|.*: Warning).*"
)


class Said:
    """Keeps what is printed, by Python or below it, to the two descriptors."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 (as long as the process)
        for descriptor in (1, 2):
            os.dup2(self._file.fileno(), descriptor)

    def taken(self) -> str:
        """What was printed since the last time."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._file.seek(0)
        content = self._file.read()
        self._file.seek(0)
        self._file.truncate()
        return content.decode(errors="replace")


class Pixels:
    """Notes which frames a reader hands out: those of damaged H.264 are not the same each time."""

    def __init__(self) -> None:
        self.of: dict[Path, str] = {}
        read = VideoReader.__iter__

        def watched(reader: VideoReader) -> Iterator[VideoFrame]:
            digest = hashlib.sha256()
            for frame in read(reader):
                digest.update(frame.image.tobytes())
                yield frame
            self.of[reader.path] = digest.hexdigest()

        VideoReader.__iter__ = watched


class Camera:
    """Gives frames, and then something else.

    Args:
        frames: BGR.
        end: what comes after them.
    """

    def __init__(self, frames: Sequence[np.ndarray], end: str) -> None:
        self._frames, self._end, self._left = list(frames), end, _ODD_FRAMES

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        """Whether there is one."""
        return self._end != "is not there"

    def read(self) -> tuple[bool, np.ndarray | None]:
        """The next frame."""
        if self._frames:
            return True, self._frames.pop(0)
        if self._left == 0:
            return False, None
        self._left -= 1
        if self._end == "raises":
            raise cv2.error("OpenCV(4.x) device lost\n(-2:Unspecified error) in function 'grab'")
        odd = {"empty": np.zeros((0, 0, 3), np.uint8), "grey": np.zeros((9, 9), np.uint8)}
        odd["none"] = None
        return (True, odd[self._end]) if self._end in odd else (False, None)

    def release(self) -> None:
        """Lets go of it."""


ENDS = ("ends", "raises", "empty", "grey", "none", "is not there", "changes its size")


class Examiner:
    """Examines files one by one.

    Args:
        folder: where the files are written, and what is made of them.
        seeds: the folder of the honest files.
    """

    def __init__(self, folder: Path, seeds: Path) -> None:
        self.said = Said(folder / "said.txt")
        self._pixels = Pixels()
        self._folder, self._seeds, self._unsteady = folder, seeds, False
        bundle = tiny_bundle("affwild2_expr")
        views = {"main": dataclasses.replace(bundle.views["main"], template="arcface_112")}
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        save_bundle(dataclasses.replace(bundle, views=views), folder / "bundle")
        self._recognizer = load(folder / "bundle", batch_size=_BATCH)
        self._labeller = Labeller(self._recognizer, Reading())
        self._honest: dict[str, Attempt] = {}
        for name in ("mjpg.avi", "photo.jpg"):  # imports what is imported late
            self._of_honest(name)
        limit = status_bytes("VmSize") + _BACKSTOP
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def examine(self, task: dict[str, Any]) -> dict[str, Any]:
        """What happened: `outcome`, `said` (what failed, or was said), `seconds`, `bytes`."""
        what = {"file": self._file, "folder": self._mixture, "camera": self._camera}[task["what"]]
        self.said.taken()
        self._unsteady = False
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before, began = status_bytes("VmRSS"), time.process_time()
        try:
            outcome, said, failures = what(task)
        except BaseException as error:
            lines = "".join(traceback.format_exception(error))[-1500:]
            outcome, said, failures = "failed", "", [f"{type(error).__name__}: {lines}"]
        printed = self.said.taken().splitlines()
        if printed := [line for line in printed if not _DECODERS.fullmatch(line)]:
            failures.append(f"printed {printed[:9]!r}")
        return {
            "outcome": "failed" if failures else outcome,
            "said": "; ".join(failures) or said,
            "seconds": time.process_time() - began,
            "bytes": max(0, status_bytes("VmHWM") - before),
        }

    def _attempt(self, path: Path) -> Attempt:
        told: list[str] = []
        try:
            table = self._recognizer.predict(path, on_problem=told.append)
        except FerJaxError as error:
            return Attempt(None, tuple(told), str(error))
        return Attempt(table, tuple(told), pixels=self._pixels.of.get(path, ""))

    def _of_honest(self, name: str) -> Attempt:
        if name not in self._honest:
            self._honest[name] = self._attempt(self._seeds / name)
        return self._honest[name]

    def _file(self, task: dict[str, Any]) -> tuple[str, str, list[str]]:
        """One file, twice: by a call, and into a folder of tables."""
        path, damage = Path(task["path"]), task["damage"]
        honest = self._of_honest(task["honest"])
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        first = self._attempt(path)
        if path.suffix.lower() in EXTENSIONS:
            failures = wrong_picture(first, path, self._seeds / task["honest"], damage)
            if not same(first, self._attempt(path)):
                failures.append("the second time another result")
        else:
            failures = wrong_video(first, path, honest, damage)
            failures += self._again_into_a_folder(path, first, damage)
        if threading.active_count() > threads or len(os.listdir("/proc/self/fd")) > files:
            failures.append("leaves a thread or an open file behind")
        as_before = same(first, honest)
        if damage == "none" and not as_before:
            failures.append(f"is whole and gives something else: {first.said}")
        if damage == "none" and first.told:
            failures.append(f"is whole, but told: {first.told}")
        outcome = "as before" if as_before else "unsteady" if self._unsteady else "read"
        outcome = "named" if first.told else outcome
        outcome = "refused" if first.table is None else outcome
        return outcome, "; ".join(first.said), failures

    def _again_into_a_folder(self, path: Path, first: Attempt, damage: str) -> list[str]:
        """Whether a table file says the same, and nothing else is left."""
        out = self._folder / "tables"
        out.mkdir()
        job, failures = Job(path, out / "one.csv"), []
        expected = {"one.csv", "one.json"} if first.table is not None else set()
        if path.is_file():  # others are refused before
            try:
                fault = self._labeller.run(job)["fault"]
            except FerJaxError as error:
                fault = str(error)
                if not first.refusal or fault != first.refusal:
                    failures.append(f"refused the second time: {fault}; the first: {first.said}")
            if bool(fault) != bool(first.said) or not all(fault in line for line in first.said):
                failures.append(f"says {fault!r} the second time, the first {first.said}")
            if first.table is not None and job.table.exists():
                failures += self._other_rows(job.table, first, path, damage)
            left = {file.name for file in out.iterdir()}
            if left != expected:
                failures.append(f"leaves {sorted(left)}, not {sorted(expected)}")
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
        return failures

    def _mixture(self, task: dict[str, Any]) -> tuple[str, str, list[str]]:
        """A folder of whole and damaged files, by the command, and the same command again."""
        mixture, results = Path(task["path"]), Path(task["path"]).with_name("results")
        pictures, videos = find_files(mixture)
        alone = {path: self._attempt(path) for path in (*pictures, *videos)}
        tables = {path: one for path, one in alone.items() if one.table is not None}
        said = sorted(line for one in alone.values() for line in one.said)
        failures = []
        code, told = self._command(str(mixture), "--out", str(results))
        if code != (1 if said else 0):
            failures.append(f"exit code {code}, of {len(said)} problems")
        if told != said:
            failures.append(f"says {told}, of the files alone {said}")
        expected = {f"{path.stem}{end}" for path in videos if path in tables
                    for end in (".csv", ".json")}  # fmt: skip
        expected |= {"pictures.csv"} if pictures else set()
        left = {file.name for file in results.rglob("*")}
        if left != expected:
            failures.append(f"leaves {sorted(left)}, not {sorted(expected)}")
        for path in videos:
            if path in tables and (results / f"{path.stem}.csv").exists():
                damage = "none" if path.name in task["honest"] else "some"
                table = results / f"{path.stem}.csv"
                failures += self._other_rows(table, alone[path], path, damage)
        for name, honest in task["honest"].items():
            if not same(alone[mixture / name], self._of_honest(honest)):
                failures.append(f"{name} is whole and gives something else than by itself")
        if pictures:
            rows = [row for path in pictures for row in alone[path].rows]
            if _rows_of(results / "pictures.csv") != rows:
                failures.append("pictures.csv has other rows than the pictures alone")
        times = {file: file.stat().st_mtime_ns for file in results.glob("*.json")}
        self._command(str(mixture), "--out", str(results))
        if {file: file.stat().st_mtime_ns for file in results.glob("*.json")} != times:
            failures.append("the same command does again what was done")
        return "done", f"{len(said)} of {len(alone)} files told", failures

    def _camera(self, task: dict[str, Any]) -> tuple[str, str, list[str]]:
        """A camera that dies, by the command."""
        rng = np.random.default_rng(task["number"])
        end = ENDS[rng.integers(len(ENDS))]
        capture = cv2.VideoCapture(str(self._seeds / "mjpg.avi"), cv2.CAP_FFMPEG)
        frames = [capture.read()[1] for _ in range(rng.integers(0, video_seeds.FRAMES))]
        if end == "changes its size":
            frames += [cv2.resize(frame, (120, 90)) for frame in frames[:3]]
        table, count = self._folder / "camera.csv", len(frames)
        with mock.patch.object(cv2, "VideoCapture", return_value=Camera(frames, end)):
            code, told = self._command("--camera", "0", "--out", str(table))
        wanted = 0 if end == "is not there" else count + (_ODD_FRAMES if end == "grey" else 0)
        failures = [] if code == 1 else [f"exit code {code}"]
        failures += wrong_words(Attempt(None, tuple(told)), "camera 0")
        failures += [] if len(told) == 1 else [f"{len(told)} lines: {told}"]
        if wanted:
            rows = read_csv(table)
            failures += wrong_rows(rows)
            if sorted(set(rows.frame.tolist())) != list(range(1, wanted + 1)):
                failures.append(f"rows of {sorted(set(rows.frame.tolist()))}, not of {wanted}")
        elif table.exists() and table.stat().st_size:
            failures.append("leaves rows though no frame came")
        table.unlink(missing_ok=True)
        return "done", f"{end} after {count}: {'; '.join(told)}", failures

    def _other_rows(self, table: Path, attempt: Attempt, path: Path, damage: str) -> list[str]:
        """Whether a table differs from an attempt, of which a decoder may be the reason."""
        if _rows_of(table) == attempt.rows:
            return []
        frames = list(dict.fromkeys(read_csv(table).frame.tolist()))
        others = attempt.pixels != self._pixels.of.get(path, "")
        if damage != "none" and others and frames == attempt.frames:
            self._unsteady = True
            return []
        return [f"{table.name} has other rows than the file alone"]

    def _command(self, *arguments: str) -> tuple[int, list[str]]:
        """The command `fer-jax predict`: its exit code, and the lines of its standard error."""
        words = ["predict", *arguments, "--bundle", str(self._folder / "bundle")]
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = fer_jax_main([*words, "--batch-size", str(_BATCH)])
        lines = told.getvalue().splitlines()
        return code, sorted(line.removeprefix("fer-jax predict: ") for line in lines)


def _rows_of(table: Path) -> list[str]:
    lines = table.read_text(encoding="utf-8").splitlines()[1:]
    return [line.partition(",")[2] for line in lines]


def main() -> None:
    """Answers until standard input ends."""
    folder, seeds = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["JAX_COMPILATION_CACHE_DIR"] = ""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    examiner = Examiner(folder, seeds)
    answers.write("ready\n")
    for line in io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8"):
        answers.write(json.dumps(examiner.examine(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
