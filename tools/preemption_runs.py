"""What the campaign of killed runs starts, and what it reads of a run to compare it."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main as fer_jax_main
from fer_jax.data.synthetic import write_synthetic_faces

STEPS = 15  # 80 faces to train on: 5 steps of 16 an epoch, three epochs
CHECKPOINT_STEPS = 2
_CONFIG = """
from fer_jax.train.config import default_config

def get_config():
    config = default_config()
    config.update(data={data!r}, epochs=3, batch_size=16, selection=0.2, log_every=3)
    config.update(checkpoint_steps={checkpoint_steps}, ema_decay=0.9)
    config.model.update(width=32, depth=2, num_heads=2, image_size=32, patch_size=8, drop_path=0.2)
    config.augment.update(mixup=0.5, erasing=0.25)
    config.optimizer.warmup_epochs = 1.0
    return config
"""
# Notes of each batch, as the training takes it, its number and a digest of its rows and images.
_CHILD = """
import hashlib, os, sys
from fer_jax.data import pipeline
notes = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
train_batches = pipeline.train_batches
def noted(*args, start_step=0, **kwargs):
    for step, batch in enumerate(train_batches(*args, start_step=start_step, **kwargs), start_step):
        digest = hashlib.sha256()
        for name in sorted(batch):
            digest.update(name.encode() + batch[name].tobytes())
        os.write(notes, f"{step} {digest.hexdigest()}\\n".encode())
        yield batch
pipeline.train_batches = noted
from fer_jax.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the runs of a campaign lie.

    Attributes:
        root: the folder.
        config: the file that every round is started with.
    """

    root: Path
    config: Path

    @property
    def cache(self) -> Path:
        """Compiled programs."""
        return self.root / "compiled"


def prepare(root: Path) -> Place:
    """Draws and prepares faces, and writes the config."""
    write_synthetic_faces(root / "faces", identities=8, images_per_identity=16, size=32)
    arguments = ["--csv", f"{root}/faces/labels.csv", "--labels", "affwild2_expr"]
    command = ["prepare", "images", f"{root}/faces", *arguments, "--out", f"{root}/data"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = fer_jax_main(command)
    if code:
        raise SystemExit("the drawn faces cannot be prepared")
    config = root / "config.py"
    config.write_text(_CONFIG.format(data=str(root / "data"), checkpoint_steps=CHECKPOINT_STEPS))
    return Place(root, config)


class Run:
    """`fer-jax train` on one folder, in a process of one device that notes its batches."""

    def __init__(self, place: Place, workdir: Path, *options: str, cached: bool = True):
        self.workdir = workdir
        self._noted_before = len(read_notes(notes_of(workdir)))
        self._output = workdir.with_suffix(".said")
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        environment["JAX_PLATFORMS"] = "cpu"
        if cached:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(place.cache)
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        command = ["train", f"--config={place.config}", f"--workdir={workdir}", *options]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(notes_of(workdir)), *command],
                stdout=subprocess.DEVNULL,
                stderr=output,
                env=environment,
            )

    def running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def wait_for_step(self, steps: int = 1) -> bool:
        """Returns once so many steps are under way; False where the run ended before."""
        # A batch is taken before the step's program is there, the next one after that.
        while len(read_notes(notes_of(self.workdir))) <= self._noted_before + steps:
            if not self.running():
                return False
            time.sleep(0.002)
        return True

    def wait_for_save(self, number: int) -> bool:
        """Returns once the `number`-th save has begun; False where the run ended before."""
        seen: set[str] = set()
        folder = self.workdir / "checkpoints"
        while len(seen) < number:
            if not self.running():
                return False
            seen |= set(unfinished(folder))
            time.sleep(0.0005)
        return True

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Exit code, and what was said on stderr; one that does not end is killed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = 124
        return code, self._output.read_text()


def notes_of(workdir: Path) -> Path:
    """Where a run's batches are noted: beside its folder, so that a full disk is not in the way."""
    return workdir.with_suffix(".batches")


def read_notes(path: Path) -> list[tuple[int, str]]:
    """(number, digest) of each batch that was taken, in order; a torn last line is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [(int(step), digest) for step, digest in (line.split() for line in lines)]


def unfinished(folder: Path) -> list[str]:
    """Names of saves that are not whole."""
    if not folder.is_dir():
        return []
    return [entry.name for entry in os.scandir(folder) if ".orbax-checkpoint-tmp" in entry.name]


def whole_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole, rising."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in os.scandir(folder) if entry.name.isdigit())


def read_checkpoint(folder: Path, step: int) -> dict[str, str]:
    """A digest of each array, number and text of a checkpoint, by its path in it."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return digests(ocp.load_checkpointables(folder / str(step)))


def digests(tree: Any) -> dict[str, str]:
    """A digest of each leaf's type, shape and bytes, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        about = f"{array.dtype} {array.shape} ".encode()
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = hashlib.sha256(about + array.tobytes()).hexdigest()[:16]
    return found


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """The lines of the log without what a clock has to do with."""
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a run is that nobody stopped.

    Attributes:
        checkpoints: of every step, the digests of its leaves.
        log: its lines.
        scores: of scores.json.
        bundle: digests of the released parameters.
        batches: the digest of each batch.
    """

    checkpoints: dict[int, dict[str, str]]
    log: list[dict[str, Any]]
    scores: dict[str, float]
    bundle: dict[str, str]
    batches: dict[int, str]


def read_run(workdir: Path) -> Truth:
    """Reads a run that has ended."""
    folder = workdir / "checkpoints"
    return Truth(
        {step: read_checkpoint(folder, step) for step in whole_steps(folder)},
        read_log(workdir),
        json.loads((folder / "scores.json").read_text()),
        digests(load_bundle(workdir / "bundle", verify=False).models["main"][1]),
        dict(read_notes(notes_of(workdir))),
    )


def differences(workdir: Path, truth: Truth) -> list[str]:
    """In what a run that has ended is not the truth; empty where it is, bit for bit."""
    found = []
    run = read_run(workdir)
    best = max(truth.scores, key=lambda step: (truth.scores[step], int(step)))
    kept = sorted({int(best), STEPS})
    if sorted(run.checkpoints) != kept:
        found.append(f"checkpoints of {sorted(run.checkpoints)} are kept, not of {kept}")
    if left := unfinished(workdir / "checkpoints"):
        found.append(f"left behind: {', '.join(left)}")
    if partial := [path.name for path in workdir.rglob(".*partial-*")]:
        found.append(f"left behind: {', '.join(partial)}")
    for step, leaves in run.checkpoints.items():
        found += told(f"checkpoint {step}", leaves, truth.checkpoints[step])
    found += told("bundle", run.bundle, truth.bundle)
    found += told("scores.json", run.scores, truth.scores)
    if run.log != truth.log:
        found.append(f"log.jsonl: {len(run.log)} lines, {len(truth.log)} in truth, or others")
    return found + wrong_batches(read_notes(notes_of(workdir)), truth.batches)


def wrong_batches(notes: list[tuple[int, str]], truth: Mapping[int, str]) -> list[str]:
    """Batches that differ from the truth's, or that nobody took."""
    found = [f"batch {step} is another" for step, digest in notes if truth.get(step) != digest]
    return found + [f"batch {step} was not taken" for step in sorted({*truth} - dict(notes).keys())]


def told(what: str, ours: Mapping[str, Any], truth: Mapping[str, Any]) -> list[str]:
    """One line where two tables differ."""
    names = sorted(name for name in {*ours, *truth} if ours.get(name) != truth.get(name))
    return [f"{what}: {len(names)} differ, such as {names[0]}"] if names else []


def newest_is_true(workdir: Path, truth: Truth) -> list[str]:
    """Whether the newest whole checkpoint of a run that was stopped loads, and is the truth's."""
    steps = whole_steps(workdir / "checkpoints")
    if not steps:
        return []
    try:
        leaves = read_checkpoint(workdir / "checkpoints", steps[-1])
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        return [f"checkpoint {steps[-1]} cannot be loaded: {reason[:200]}"]
    return told(f"checkpoint {steps[-1]}", leaves, truth.checkpoints[steps[-1]])


def saved_step(said: str) -> int | None:
    """The step that a line of a stopped run names as saved."""
    match = re.search(r"stopped by SIGTERM at step ([\d,]+), which is saved", said)
    return int(match[1].replace(",", "")) if match else None
