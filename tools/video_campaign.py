"""Damages videos and pictures by the thousand and labels each; every run ends as promised.

    python tools/video_campaign.py --count 2000      # all, some minutes on two cores
    python tools/video_campaign.py --only 123        # one again, by its number

Case N is made from `PCG64((seed, N))`: a damaged file, a folder of whole and damaged ones, or a
camera that dies. A worker process labels it with a tiny bundle. A file passes if it is

- refused with a FerJaxError of one printable line that names it, and a plain loop over OpenCV
  decodes no frame of it either; or
- labelled: each frame that the plain loop decodes has a row, in order, with times that grow;
  probabilities sum to 1; where frames are missing that were there before, or numbers are left out,
  a line that names the file says so. A picture that cannot be decoded, or was cut so that it shows
  something else, is named and has one empty row.

The second time, into a folder of tables, the result is the same, and nothing else is left there;
but where FFmpeg's threads decode other pixels of a damaged file, its frames alone are (`unsteady`).
A folder goes by the command: exit code 1 if anything was told, the same lines and the same rows as
of each file alone, whole files as by themselves; the same command again does nothing again. Of a
camera every frame that came has a row.

It fails on any other exception, a crash, anything printed, a thread or an open file left behind,
more than `SECONDS` of the processor (`PATIENCE` by the clock ends a hang), or more than `MEMORY`.
"""

import argparse
import collections
import dataclasses
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import video_damage
from input_damage import Random
from video_seeds import RARE, Seed, read_seeds, write_seeds
from watched_workers import Team, WatchedWorker

SECONDS = 90.0
PATIENCE = 120.0  # seconds by the clock, the second reader's included, before a worker is killed
MEMORY = 2 << 30  # bytes; of a frame of 8K, 100 MB, some are in flight

_WORKER = Path(__file__).resolve().parent / "video_worker.py"
_NAMES = (".mp4", ".avi", ".gif", ".mkv", ".jpg", ".png", ".webp", ".txt", "")
_FOLDER = (3, 6)  # whole and damaged files in a folder


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of case.

    Attributes:
        source: `video`, `picture`, `folder` or `camera`.
        damage: for the table.
    """

    source: str
    damage: str


_BY_NAME = ("none", "another name", "beginning and end of two files")
KINDS = (
    Kind("folder", "some of it"),
    Kind("camera", "dies"),
    *(Kind("video", name) for name in (*video_damage.OF_VIDEOS, *_BY_NAME)),
    *(Kind("picture", name) for name in (*video_damage.OF_PICTURES, *_BY_NAME)),
)


def schedule() -> tuple[Kind, ...]:
    """The kinds of the first numbers, after which they come again: videos twice, mixed."""
    mixed = [kind for kind in KINDS[2:] for _ in range(2 if kind.source == "video" else 1)]
    order = np.random.default_rng(0).permutation(len(mixed))
    return (*KINDS[:2], *(mixed[i] for i in order))


SCHEDULE = schedule()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one case.

    Attributes:
        number: of the case.
        kind: of it.
        honest: the file that was damaged.
        outcome: `refused` | `named` | `as before` | `read` | `unsteady` | `done` | `failed`.
        said: of the file, or what failed.
        seconds: of the processor.
        bytes: of memory that it took at most.
    """

    number: int
    kind: Kind
    honest: str
    outcome: str
    said: str
    seconds: float
    bytes: int


def make_case(seeds: list[Seed], seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Makes the case of a number in an empty folder, and says what a worker is to do."""
    kind = SCHEDULE[number % len(SCHEDULE)]
    rng = np.random.Generator(np.random.PCG64((seed, number)))
    if kind.source == "camera":
        return {"what": "camera", "path": "", "honest": "mjpg.avi", "number": number}
    if kind.source == "folder":
        return _make_folder(seeds, rng, folder / "mixture")
    honest, path = _make_file(seeds, rng, kind, folder / "file")
    return {"what": "file", "path": str(path), "honest": honest.name, "damage": kind.damage}


def _make_file(seeds: list[Seed], rng: Random, kind: Kind, stem: Path) -> tuple[Seed, Path]:
    """A file that is damaged in one way; the honest one, and where it lies."""
    honest, other = (_choose(seeds, rng, kind.source == "picture") for _ in range(2))
    path = stem.with_suffix(honest.path.suffix)
    if kind.damage == "another name":
        path = stem.with_suffix(_NAMES[rng.integers(len(_NAMES))])
    shutil.copyfile(honest.path, path)
    if kind.damage == "beginning and end of two files":
        first, second = honest.path.read_bytes(), other.path.read_bytes()
        path.write_bytes(video_damage.beginning_and_end(rng, first, second))
    elif kind.damage not in _BY_NAME:
        picture = kind.source == "picture"
        damages = video_damage.OF_PICTURES if picture else video_damage.OF_VIDEOS
        damages[kind.damage](rng, path)
    return honest, path


def _make_folder(seeds: list[Seed], rng: Random, mixture: Path) -> dict[str, Any]:
    """Whole and damaged files side by side."""
    mixture.mkdir()
    whole = [seed for seed in seeds if seed.name not in RARE and "sound_only" not in seed.name]
    honest = {}
    for index in range(_FOLDER[0]):
        seed = whole[rng.integers(len(whole))]
        name = f"whole{index}{seed.path.suffix}"
        shutil.copyfile(seed.path, mixture / name)
        honest[name] = seed.name
    kinds = [kind for kind in KINDS[2:] if kind.damage != "another name"]
    for index in range(_FOLDER[1]):
        kind = kinds[rng.integers(len(kinds))]
        _make_file(seeds, rng, kind, mixture / f"damaged{index}")
    return {"what": "folder", "path": str(mixture), "honest": honest}


def _choose(seeds: list[Seed], rng: Random, picture: bool) -> Seed:
    """One of a kind; the rare ones once in twelve times."""
    of_kind = [seed for seed in seeds if seed.picture == picture]
    rare = rng.random() < 1 / 12
    chosen = [seed for seed in of_kind if (seed.name in RARE) == rare]
    return chosen[rng.integers(len(chosen))]


def examine(worker: WatchedWorker, seeds: list[Seed], seed: int, number: int) -> Verdict:
    """Makes one case and has it labelled."""
    folder = worker.folder / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.rmtree(worker.folder / "tables", ignore_errors=True)
    task = make_case(seeds, seed, number, folder)
    answer = worker.ask(task, PATIENCE)
    if isinstance(answer, str):
        printed = (worker.folder / "said.txt").read_text(errors="replace")[-500:]
        said = f"{answer}; it printed {printed!r}"
        answer = {"outcome": "failed", "said": said, "seconds": 0.0, "bytes": 0}
    honest = task["honest"] if isinstance(task["honest"], str) else ""
    kind = SCHEDULE[number % len(SCHEDULE)]
    verdict = Verdict(number=number, kind=kind, honest=honest, **answer)
    if verdict.seconds > SECONDS:
        said = f"took {verdict.seconds:.0f} s of the processor"
        verdict = dataclasses.replace(verdict, outcome="failed", said=said)
    if verdict.bytes > MEMORY:
        said = f"took {verdict.bytes >> 20} MiB"
        verdict = dataclasses.replace(verdict, outcome="failed", said=said)
    return verdict


def campaign(numbers: Iterable[int], seed: int, workers: int) -> Iterator[Verdict]:
    """Labels the cases of these numbers, a process a worker; verdicts come as they are ready."""
    with tempfile.TemporaryDirectory() as folder:
        write_seeds(Path(folder))
        seeds = read_seeds(Path(folder))
        team: Team[Verdict] = Team(lambda own: WatchedWorker(_WORKER, own, [folder]), workers)
        yield from team.over(numbers, lambda worker, n: examine(worker, seeds, seed, n))


def table(verdicts: list[Verdict]) -> str:
    """Figures by kind, and the worst of all."""
    outcomes = ("refused", "named", "as before", "read", "unsteady", "done", "failed")
    lines = [f"| source | damage | cases | {' | '.join(outcomes)} |"]
    lines.append("|---|---|" + "--:|" * (len(outcomes) + 1))
    for kind in KINDS:
        counts = collections.Counter(v.outcome for v in verdicts if v.kind == kind)
        if counts:
            cells = [kind.source, kind.damage, sum(counts.values())]
            cells += [counts[outcome] for outcome in outcomes]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    slow = max(verdicts, key=lambda v: v.seconds)
    large = max(verdicts, key=lambda v: v.bytes)
    lines += [
        "",
        f"slowest: {slow.seconds:.1f} s of the processor, number {slow.number} ({_what(slow)})",
        f"most memory: {large.bytes >> 20} MiB, number {large.number} ({_what(large)})",
    ]
    return "\n".join(lines)


def _what(verdict: Verdict) -> str:
    return f"{verdict.honest or verdict.kind.source}, {verdict.kind.damage}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the campaign; returns 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="cases (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this one, and what is said")
    parser.add_argument("--out", type=Path, help="folder for the cases that failed, or for --only")
    given = parser.parse_args(arguments)
    numbers = range(given.count) if given.only is None else [given.only]
    verdicts = []
    for verdict in campaign(numbers, given.seed, min(given.workers, len(numbers))):
        verdicts.append(verdict)
        if given.only is not None:
            print(verdict)
        if verdict.outcome == "failed":
            print(f"{verdict.number} ({_what(verdict)}): {verdict.said}", flush=True)
        if sys.stderr.isatty() and len(verdicts) % 20 == 0:
            print(f"{len(verdicts)} of {len(numbers)}", end="\r", file=sys.stderr)
        if given.out and (verdict.outcome == "failed" or given.only is not None):
            _keep(given.seed, verdict.number, given.out)
    print(table(verdicts))
    failed = sorted((v for v in verdicts if v.outcome == "failed"), key=lambda v: v.number)
    for verdict in itertools.islice(failed, 100):
        print(f"FAILED --seed {given.seed} --only {verdict.number} ({_what(verdict)})")
    print(f"{len(failed)} of {len(verdicts)} failed")
    return 1 if failed else 0


def _keep(seed: int, number: int, out: Path) -> None:
    """Writes a case again, to be looked at."""
    folder = out / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as honest:
        write_seeds(Path(honest))
        make_case(read_seeds(Path(honest)), seed, number, folder)


if __name__ == "__main__":
    sys.exit(main())
