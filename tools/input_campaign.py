"""Damages the inputs of a mini Aff-Wild2 by the thousand; no run may stop, each must be accounted.

    python tools/input_campaign.py --count 5000      # all, some minutes on two cores
    python tools/input_campaign.py --only 17         # one round again, by its number

A round is a fresh copy of a clean tree in which some 36 files are damaged: pictures, annotations,
videos. The doctor examines it, then it is prepared from the crops and from the videos, with
`--skip-bad`; in every tenth round by the command as it is, with detector, cleaning and processes,
and in every other one of these with a review between. A round passes if

- no step raises; a step may be refused (FerJaxError) only where nothing usable is left;
- every picture is either stored, byte for byte what lies in the file, or named with a reason; and
  what was not damaged is stored, unless its annotation was, or it is for training and a rule of
  cleaning leaves it out;
- what is stored decodes;
- of the pictures that preparation opens, the doctor names each that cannot be decoded, and no
  other;
- every annotation file either reads as a second reader of ten lines reads it, or is named;
- every damaged video gives all its faces, or is named;
- a step takes at most `SECONDS` of the processor and `MEMORY` more, and waits for nothing.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import input_checks
import input_damage
import numpy as np

from fer_jax.cli import prepare
from fer_jax.data.affwild2_units import crop_units
from fer_jax.data.affwild2_videos import video_units
from fer_jax.data.builder import build_units
from fer_jax.data.doctor import examine
from fer_jax.data.mini_affwild2 import write_mini_affwild2
from fer_jax.data.staging import Look
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SECONDS = 60.0
WAITING = 300  # seconds by the clock: whoever waits for a pipe takes no processor
MEMORY = 4 << 30
KINDS = {
    "picture": (input_damage.PICTURES, 30),
    "annotation": (input_damage.ANNOTATIONS, 3),
    "video": (input_damage.VIDEOS, 3),
}
BY_COMMAND = 10
A_ROUND = sum(number for _, number in KINDS.values())


def damage_tree(tree: Path, rng: np.random.Generator) -> dict[Path, tuple[str, str]]:
    """Damages files of each kind, chosen without repetition."""
    files = {
        "picture": sorted(tree.glob("cropped_aligned*/*/*.jpg")),
        "annotation": sorted(tree.glob("*Annotations/*/*/*.txt")),
        "video": sorted((*tree.glob("*/*.mp4"), *tree.glob("*/*.avi"))),
    }
    damaged = {}
    for kind, (damages, number) in KINDS.items():
        names = list(damages)
        for index in rng.choice(len(files[kind]), number, replace=False):
            name = names[rng.integers(len(names))]
            path = files[kind][index]
            damages[name](rng, path)
            damaged[path] = (kind, name)
    return damaged


def run_round(clean: Path, seed: int, number: int) -> input_checks.Round:
    """Makes one round and checks it."""
    rng = np.random.Generator(np.random.PCG64((seed, number)))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(clean, tree, copy_function=os.link)
        _unlink_hard_links(tree)
        found = input_checks.Round(damage_tree(tree, rng), collections.Counter(), [])
        step = functools.partial(_step, found)
        examination = step("doctor", lambda: examine(tree))
        to_crops, to_films = Path(folder) / "crops", Path(folder) / "films"
        if number % BY_COMMAND:
            crops = step("crops", lambda: _prepare(crop_units, tree, to_crops))
            films = step("videos", lambda: _prepare(video_units, tree, to_films))
        else:
            review = number % (2 * BY_COMMAND) > 0
            crops = step("crops", lambda: _command(tree, to_crops, review=review))
            films = step("videos", lambda: _command(tree, to_films, "--from-videos"))
        if crops is not None:
            input_checks.check_pictures(found, tree, crops, examination)
            input_checks.check_annotations(found, tree, crops)
        else:
            input_checks.check_no_picture_is_left(found, tree)
        if films is not None:
            input_checks.check_videos(found, clean, tree, films)
        else:
            input_checks.check_no_video_is_left(found, tree)
    return found


def _unlink_hard_links(tree: Path) -> None:
    """Files of their own: damage is done in place."""
    for path in tree.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


def _prepare(units: Callable, tree: Path, out: Path) -> Path | None:
    """All pictures, without cleaning."""
    collection = units(tree, skip_bad=True)
    with _may_be_empty() as full:
        build_units(
            collection.units,
            collection.faults,
            label_space("affwild2_expr"),
            out,
            look=Look(),
            skip_bad=True,
            extras={"annotations.npz": collection.annotations},
        )
        full.append(out)
    return full[0] if full else None


def _command(tree: Path, out: Path, *options: str, review: bool = False) -> Path | None:
    """What `fer-jax prepare affwild2` does unless told otherwise, its output kept back."""
    arguments = ["affwild2", str(tree), "--out", str(out), "--skip-bad", "--workers", "2", *options]
    silence = io.StringIO()
    with (
        _may_be_empty() as full,
        contextlib.redirect_stdout(silence),
        contextlib.redirect_stderr(silence),
    ):
        if review:
            prepare.main([*arguments, "--review"])
            arguments += ["--cleaning", f"{out}.staging/cleaning.csv"]
        prepare.main(arguments)
        full.append(out)
    return full[0] if full else None


@contextlib.contextmanager
def _may_be_empty() -> Iterator[list[Path]]:
    try:
        yield []
    except FerJaxError as error:
        if "no face can be used" not in str(error):
            raise


def _step(found: input_checks.Round, name: str, run: Callable):
    """Runs a step; whatever it raises is a failure, and so are its time and its memory."""
    begin, before = time.process_time(), _peak()
    signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(WAITING)
    try:
        result = run()
    except Exception as error:
        found.failures.append(f"{name}: raised {type(error).__name__}: {str(error)[:300]}")
        return None
    finally:
        signal.alarm(0)
    seconds = time.process_time() - begin
    if seconds > SECONDS:
        found.failures.append(f"{name}: took {seconds:.0f} s of the processor")
    # What others did in this process before is not the step's.
    memory = _peak() - before
    if memory > MEMORY:
        found.failures.append(f"{name}: the process came to hold {memory >> 20} MiB more")
    return result


def _peak() -> int:
    """Bytes, the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class WaitingError(Exception):
    """Raised in the middle of a step; no OSError, which readers rightly catch."""


def _interrupt(*_) -> None:
    raise WaitingError(f"after {WAITING} s")


def main(argv: Sequence[str]) -> int:
    """Runs the campaign.

    Returns:
        0 if no rule was broken.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="damaged inputs (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="ROUND", help="one round")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes; 0 for none (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    numbers = range(-(-arguments.count // A_ROUND))
    if arguments.only is not None:
        numbers = range(arguments.only, arguments.only + 1)
    outcomes: collections.Counter = collections.Counter()
    failures: list[tuple[int, str]] = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean"
        write_mini_affwild2(clean, videos=5, frames=(24, 30), seed=arguments.seed, faults="none")
        run = functools.partial(run_round, clean, arguments.seed)
        with _mapping(arguments.workers) as over:
            for number, found in zip(numbers, over(run, numbers), strict=True):
                outcomes += found.outcomes
                failures += [(number, failure) for failure in found.failures]
                for failure in found.failures:
                    print(f"round {number}: {failure}", flush=True)
    _print_table(outcomes)
    minutes = (time.monotonic() - begin) / 60
    print(
        f"{len(failures)} failures in {len(numbers)} rounds, {sum(outcomes.values()):,} damaged "
        f"inputs, {minutes:.1f} min"
    )
    return 1 if failures else 0


@contextlib.contextmanager
def _mapping(workers: int) -> Iterator[Callable]:
    """`map` over processes, or in this one."""
    if not workers:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        yield pool.map


def _print_table(outcomes: collections.Counter) -> None:
    columns = ("stored", "read", "named", "left out", "counted as missing", "not wanted")
    print("| input | damage | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for kind, damage in sorted({key[:2] for key in outcomes}):
        cells = " | ".join(str(outcomes[kind, damage, column]) for column in columns)
        print(f"| {kind} | {damage} | {cells} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
