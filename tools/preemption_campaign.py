"""Stops training runs at random moments, lets them go on, and compares them with the truth.

    python tools/preemption_campaign.py --kill 50 --term 20 --disk 20    # all, most of an hour

The truth is one run that nobody stopped, without cached programs, with a checkpoint at every step.
A round is a run of the same config (mixup, drop path, moving average; 15 steps) that is stopped and
then finished:

- kill: SIGKILL, one to three times in a row; in every other round within 20 ms of the beginning of
  a save, else at a random moment between its first step and its end;
- term: SIGTERM at a random moment; it must exit with 75, its newest checkpoint must be the step
  that it names, or it must have finished;
- disk: the disk of its folder, or of checkpoints/ alone, is full from a random moment on, or
  read-only when it is started again; it must exit with 1 and one line that names the folder and the
  remedy. A tmpfs that is mounted where this user may mount, else a limit to the size of files.

After each stop the newest checkpoint must load and be the truth's of its step. A round passes if,
finished, everything is the truth's bit for bit: every batch that was taken (rows, labels, images),
the lines of the log but for the images a second, scores.json, the checkpoints that are kept
(parameters, optimiser, moving average, step, progress), the bundle's parameters; and if no
unfinished file is left.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import preemption_runs as runs
from preemption_runs import Place, Run, Truth

_AMPLE = 256 << 20
_A_SAVE = 150 << 10  # bytes: of a checkpoint's 600 kB, as much as is left to a full disk at most
_REMEDIES = ("see to the disk and start again", "free some space", "write elsewhere", "the disk")


@dataclasses.dataclass
class Round:
    """What a round did, and what was wrong with it."""

    kind: str
    number: int
    stops: list[str] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)

    def stopped(self, how: str, workdir: Path, truth: Truth) -> None:
        """Notes a stop, and checks what it left."""
        steps = runs.whole_steps(workdir / "checkpoints")
        self.stops.append(f"{how}, newest checkpoint {steps[-1] if steps else 'none'}")
        self.failures += runs.newest_is_true(workdir, truth)

    def finish(self, place: Place, workdir: Path, truth: Truth) -> None:
        """Lets the run go on to its end, and compares it."""
        code, said = Run(place, workdir).end()
        if code:
            self.failures.append(f"goes on with exit code {code}: {last_line(said)}")
        else:
            self.failures += runs.differences(workdir, truth)


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What every round needs.

    Attributes:
        place: data, config, cache.
        truth: the run that nobody stopped.
        life: seconds from the end of a run's first step to its own.
    """

    place: Place
    truth: Truth
    life: float

    def kill(self, found: Round, rng: np.random.Generator, workdir: Path) -> None:
        """SIGKILL, one to three times."""
        saving = found.number % 2 == 1
        for _ in range(rng.integers(1, 4)):
            run = Run(self.place, workdir)
            if saving:
                alive = run.wait_for_save(int(rng.integers(1, 4)))
                time.sleep(rng.uniform(0, 0.02))
            else:
                alive = run.wait_for_step()
                time.sleep(rng.uniform(0, self._rest(workdir)))
            was = runs.unfinished(workdir / "checkpoints")
            run.process.kill()
            code, said = run.end()
            if code not in (0, -signal.SIGKILL):
                found.failures.append(f"exit code {code} before it was killed: {last_line(said)}")
                return
            if not alive or code == 0:
                found.stopped("finished before", workdir, self.truth)
                break
            found.stopped("killed in a save" if was else "killed", workdir, self.truth)
        found.finish(self.place, workdir, self.truth)

    def term(self, found: Round, rng: np.random.Generator, workdir: Path) -> None:
        """SIGTERM."""
        run = Run(self.place, workdir)
        run.wait_for_step()
        time.sleep(rng.uniform(0, self.life))
        run.process.terminate()
        code, said = run.end()
        found.stopped(f"exit code {code}", workdir, self.truth)
        step = runs.saved_step(said)
        if code == os.EX_TEMPFAIL:
            if step is not None and step != runs.whole_steps(workdir / "checkpoints")[-1]:
                found.failures.append(f"names step {step}, which is not the newest checkpoint")
            if "Traceback" in said or "the same command goes on" not in last_line(said):
                found.failures.append(f"exit code 75 without its line: {said[-300:]}")
        # While Python takes itself down nobody listens any more; the run is complete by then.
        elif code not in (0, -signal.SIGTERM) or not (workdir / "bundle").is_dir():
            found.failures.append(f"exit code {code}: {last_line(said)}")
        found.finish(self.place, workdir, self.truth)

    def disk(self, found: Round, rng: np.random.Generator, workdir: Path) -> None:
        """A disk that is full, or read-only."""
        whole, read_only = found.number % 2 == 0, found.number % 4 > 1
        place = workdir if whole else workdir / "checkpoints"
        with small_disk(place) as disk:
            run = Run(self.place, workdir)
            run.wait_for_step(int(rng.integers(2, runs.STEPS - 3)))
            if read_only:
                run.process.kill()
                run.end()
                disk.become_read_only()
                run = Run(self.place, workdir)
            else:
                disk.fill(run, int(rng.integers(0, _A_SAVE)))
            code, said = run.end()
            found.stopped(f"{disk.how}, exit code {code}", workdir, self.truth)
            if code == 0 and not read_only and (workdir / "bundle").is_dir():
                found.stops.append("finished before")
            else:
                found.failures += unclear(code, said, workdir)
            disk.mend()
            found.finish(self.place, workdir, self.truth)

    def _rest(self, workdir: Path) -> float:
        """Seconds, about, from the first step after a start to the end."""
        done = max(runs.whole_steps(workdir / "checkpoints"), default=0)
        return self.life * max(1 - done / runs.STEPS, 0.2)


class SmallDisk:
    """A tmpfs at a folder; where nobody may mount, a limit to the size of a process's files."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.how = "as it was"
        folder.mkdir(parents=True, exist_ok=True)
        new = ["mount", "-t", "tmpfs", "-o", f"size={_AMPLE}", "tmpfs", str(folder)]
        self.mounted = _works(new)

    def fill(self, run: Run, left: int) -> None:
        """Leaves so many bytes."""
        self.how = f"full, {left >> 10} KiB left"
        if self.mounted:
            # Refused where the run has written more meanwhile.
            while not _works(self._mounting(f"size={shutil.disk_usage(self._folder).used + left}")):
                pass
        elif run.running():
            resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (left // 8, left // 8))

    def become_read_only(self) -> None:
        """Nothing can be written any more."""
        self.how = "read-only"
        if self.mounted:
            subprocess.run(self._mounting("ro"), check=True)
        else:
            self._folder.chmod(0o555)

    def mend(self) -> None:
        """As it was."""
        if self.mounted:
            subprocess.run(self._mounting(f"rw,size={_AMPLE}"), check=True)
        else:
            self._folder.chmod(0o755)

    def unmount(self) -> None:
        """Takes it away, with all that it holds."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def _mounting(self, options: str) -> list[str]:
        return ["mount", "-o", f"remount,{options}", str(self._folder)]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A disk that lasts as long as the block."""
    disk = SmallDisk(folder)
    try:
        yield disk
    finally:
        disk.unmount()


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def unclear(code: int, said: str, workdir: Path) -> list[str]:
    """What is wrong with how a run ended on a bad disk."""
    found = []
    line = last_line(said)
    if code != 1:
        found.append(f"exit code {code}, not 1: {line}")
    if "Traceback" in said:
        found.append(f"a traceback: {said[-600:]}")
    if not line.startswith("fer-jax train: ") or str(workdir) not in line:
        found.append(f"the last line names no folder: {line}")
    if not any(remedy in line for remedy in _REMEDIES):
        found.append(f"the last line names no remedy: {line}")
    return found


def last_line(said: str) -> str:
    """The last line of what a process said."""
    return (said.strip().splitlines() or ["nothing said"])[-1]


def begin(root: Path) -> Campaign:
    """Draws the data, runs the truth, and the same with cached programs: first made, then read."""
    place = runs.prepare(root)
    every_step = ("--config.checkpoint_steps=1", "--config.keep=1000")
    _complete(Run(place, root / "truth", *every_step, cached=False))
    truth = runs.read_run(root / "truth")
    for name in ("caching", "cached"):
        run = Run(place, root / name)
        run.wait_for_step()
        since = time.monotonic()
        _complete(run)
        life = time.monotonic() - since
        if wrong := runs.differences(root / name, truth):
            raise SystemExit(f"not stopped at all, {name} programs: {'; '.join(wrong)}")
    return Campaign(place, truth, life)


def _complete(run: Run) -> None:
    code, said = run.end()
    if code:
        raise SystemExit(f"a run that nobody stops ends with {code}: {said[-2000:]}")


def main(argv: Sequence[str]) -> int:
    """Runs the campaign.

    Returns:
        0 if no rule was broken.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind, count in (("kill", 50), ("term", 20), ("disk", 20)):
        parser.add_argument(f"--{kind}", type=int, default=count, help="rounds (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the rounds that fail, and rounds.jsonl")
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # where the checkpoints are of
    since = time.monotonic()
    stops: collections.Counter = collections.Counter()
    failed = rounds = 0
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.out or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        campaign = begin(root)
        print(f"a run lives {campaign.life:.1f} s from its first step to its end", flush=True)
        for index, kind in enumerate(("kill", "term", "disk")):
            for number in range(getattr(arguments, kind)):
                found = Round(kind, number)
                rng = np.random.Generator(np.random.PCG64((arguments.seed, index, number)))
                workdir = root / f"{kind}{number}"
                getattr(campaign, kind)(found, rng, workdir)
                rounds, failed = rounds + 1, failed + bool(found.failures)
                stops.update((kind, stop.split(",")[0]) for stop in found.stops)
                _tell(found, root)
                if not found.failures:
                    shutil.rmtree(workdir)
    for (kind, stop), number in sorted(stops.items()):
        print(f"{kind}: {stop}: {number}")
    minutes = (time.monotonic() - since) / 60
    print(f"{failed} of {rounds} rounds failed, {sum(stops.values())} stops, {minutes:.1f} min")
    return 1 if failed else 0


def _tell(found: Round, root: Path) -> None:
    outcome = "FAILED" if found.failures else "equal"
    print(f"{found.kind} {found.number}: {outcome}: {'; '.join(found.stops)}", flush=True)
    for failure in found.failures:
        print(f"  {failure}", flush=True)
    with (root / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(dataclasses.asdict(found)) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
