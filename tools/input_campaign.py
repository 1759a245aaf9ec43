"""Damages the inputs of a mini Aff-Wild2 by the thousand; no run may stop, each must be accounted.

    python tools/input_campaign.py --count 5000      # all, a quarter of an hour on two cores
    python tools/input_campaign.py --only 17         # one round again, by its number

A round is a fresh copy of a clean tree in which some 36 files are damaged: pictures, annotations,
videos. The doctor examines it, then it is prepared from the crops and from the videos, with
`--skip-bad`. A round passes if

- no step raises; a step may be refused (FerJaxError) only where nothing usable is left;
- every picture is either stored, byte for byte what lies in the file, or named with a reason; and
  what was not damaged is stored, unless its annotation was;
- what is stored decodes;
- the doctor names every picture that preparation cannot decode, and no other;
- every annotation file either reads as a second reader of ten lines reads it, or is named;
- every damaged video gives all its faces, or is named;
- a step takes at most `SECONDS` of the processor and `MEMORY`.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import input_damage
import numpy as np

from fer_jax.data.affwild2 import source_video
from fer_jax.data.affwild2_units import crop_units
from fer_jax.data.affwild2_videos import video_units
from fer_jax.data.builder import build_units
from fer_jax.data.dataset import FaceData
from fer_jax.data.doctor import examine
from fer_jax.data.images import ImageError, decode_image
from fer_jax.data.mini_affwild2 import write_mini_affwild2
from fer_jax.data.staging import Look
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SECONDS = 60.0
MEMORY = 4 << 30
KINDS = {
    "picture": (input_damage.PICTURES, 30),
    "annotation": (input_damage.ANNOTATIONS, 3),
    "video": (input_damage.VIDEOS, 3),
}
A_ROUND = sum(number for _, number in KINDS.values())
_HEADER = "neutral,anger,disgust,fear,happiness,sadness,surprise,other"


@dataclasses.dataclass
class Round:
    """What was done to a tree, and what went wrong.

    Attributes:
        damaged: (kind, name of the damage) of each file.
        outcomes: (kind, damage) -> how often it was stored or read, and how often named.
        failures: what broke a rule.
    """

    damaged: dict[Path, tuple[str, str]]
    outcomes: collections.Counter
    failures: list[str]


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


def run_round(clean: Path, seed: int, number: int) -> Round:
    """Makes one round and checks it."""
    rng = np.random.Generator(np.random.PCG64((seed, number)))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(clean, tree, copy_function=os.link)
        _unlink_hard_links(tree)
        found = Round(damage_tree(tree, rng), collections.Counter(), [])
        step = functools.partial(_step, found)
        examination = step("doctor", lambda: examine(tree))
        crops = step("crops", lambda: _prepare(crop_units, tree, Path(folder) / "crops"))
        films = step("videos", lambda: _prepare(video_units, tree, Path(folder) / "films"))
        if crops is not None:
            _check_pictures(found, tree, crops, examination)
            _check_annotations(found, tree, crops)
        if films is not None:
            _check_videos(found, clean, tree, films)
    return found


def _unlink_hard_links(tree: Path) -> None:
    """Files of their own: damage is done in place."""
    for path in tree.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


def _prepare(units: Callable, tree: Path, out: Path) -> Path | None:
    collection = units(tree, skip_bad=True)
    try:
        build_units(
            collection.units,
            collection.faults,
            label_space("affwild2_expr"),
            out,
            look=Look(),
            skip_bad=True,
            extras={"annotations.npz": collection.annotations},
        )
    except FerJaxError as error:
        if "no face can be used" in str(error):
            return None
        raise
    return out


def _step(found: Round, name: str, run: Callable):
    """Runs a step; whatever it raises is a failure, and so are its time and its memory."""
    begin = time.process_time()
    try:
        result = run()
    except Exception as error:
        found.failures.append(f"{name}: raised {type(error).__name__}: {str(error)[:300]}")
        return None
    seconds = time.process_time() - begin
    if seconds > SECONDS:
        found.failures.append(f"{name}: took {seconds:.0f} s of the processor")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if memory > MEMORY:
        found.failures.append(f"{name}: the process has held {memory >> 20} MiB")
    return result


def read_annotation_again(path: Path) -> list[int] | None:
    """A second reader: the labels of a file without any fault, else None."""
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        lines = [line.strip() for line in re.split("\r\n|\r|\n", content.decode(encoding))]
        while lines and not lines[-1]:
            lines.pop()
        labels = [int(line) for line in lines[1:]]
        plain = all(str(label) == line for label, line in zip(labels, lines[1:], strict=True))
        header = ",".join(name.strip() for name in lines[0].lower().split(",")).lstrip("\ufeff")
    except (OSError, ValueError, IndexError):
        return None
    return labels if plain and header == _HEADER and all(-1 <= n <= 7 for n in labels) else None


def _decodes(encoded: bytes) -> bool:
    try:
        return decode_image(encoded).size > 0
    except ImageError:
        return False


def _listed(folder: Path) -> dict[str, str]:
    if not (folder / "skipped.csv").exists():
        return {}
    with (folder / "skipped.csv").open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def _check_pictures(found: Round, tree: Path, crops: Path, examination) -> None:
    named, data = _listed(crops), FaceData.open(crops)
    stored = {str(key): row for row, key in enumerate(data.index["key"])}
    labels = {
        path.stem: read_annotation_again(path) for path in tree.glob("*Annotations/*/*/*.txt")
    }
    for path in sorted(tree.glob("cropped_aligned*/*/*")):
        key, video = f"{path.parent.name}/{path.name}", path.parent.name
        damage = found.damaged.get(path)
        is_stored, is_named = key in stored, key in named
        expected = labels.get(video)
        frame = int(path.stem)
        wanted = expected is not None and frame <= len(expected) and expected[frame - 1] >= 0
        if is_stored and is_named:
            found.failures.append(f"{key}: is stored and named ({damage})")
        if wanted and not is_stored and not is_named and not path.is_dir():
            found.failures.append(f"{key}: is lost ({damage})")
        if wanted and damage is None and not is_stored:
            found.failures.append(f"{key}: is not stored, though nothing was done to it")
        if is_stored:
            image = data.records.image(stored[key])
            if image != path.read_bytes() or not _decodes(image):
                found.failures.append(f"{key}: is not stored as it lies there ({damage})")
        if damage is not None:
            outcome = "stored" if is_stored else "named" if is_named else "not wanted"
            found.outcomes[(*damage, outcome)] += 1
    for path, damage in found.damaged.items():
        if damage[0] == "picture" and not os.path.lexists(path):
            found.outcomes[(*damage, "counted as missing")] += 1
    if examination is not None:
        told = {
            detail
            for finding in examination.findings
            if finding.kind == "corrupted"
            for detail in finding.details
        }
        for key in named:
            if key.endswith(".jpg") and not any(Path(key).name in detail for detail in told):
                found.failures.append(f"{key}: is named when preparing, not by the doctor")


def _check_annotations(found: Round, tree: Path, crops: Path) -> None:
    named = _listed(crops)
    with np.load(crops / "annotations.npz") as kept:
        read = {
            str(video): kept["label"][start:end].tolist()
            for video, start, end in zip(
                kept["video"], kept["start"], kept["start"][1:], strict=False
            )
        }
    for path, damage in found.damaged.items():
        if damage[0] != "annotation":
            continue
        expected = read_annotation_again(path)
        is_named = path.relative_to(tree).as_posix() in named
        outcome = "named" if is_named else "read" if path.stem in read else "counted as missing"
        found.outcomes[(*damage, outcome)] += 1
        if expected is not None and read.get(path.stem) != expected:
            found.failures.append(f"{path.name}: is read otherwise than it says ({damage})")
        if expected is None and not is_named and path.is_file():
            found.failures.append(f"{path.name}: has a fault that is not named ({damage})")


def count_frames(path: Path) -> int:
    """How many frames OpenCV hands out; 0 if it opens nothing."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while capture.grab() and capture.retrieve()[0]:
        count += 1
    capture.release()
    return count


def _check_videos(found: Round, clean: Path, tree: Path, films: Path) -> None:
    named = _listed(films)
    with np.load(films / "annotations.npz") as kept:
        people = {str(video): source_video(str(video))[0] for video in kept["video"]}
    for path, damage in found.damaged.items():
        if damage[0] != "video":
            continue
        if path.stem not in people.values():
            found.outcomes[(*damage, "not wanted")] += 1
            continue
        # A video that is no file is named as what its people lack.
        is_named = path.name in named or any(
            stem == path.stem and video in named for video, stem in people.items()
        )
        whole = path.is_file() and count_frames(path) == count_frames(
            clean / path.relative_to(tree)
        )
        outcome = "named" if is_named else "read" if whole else "lost"
        if not os.path.lexists(path):
            outcome = "counted as missing"
        found.outcomes[(*damage, outcome)] += 1
        if outcome == "lost":
            found.failures.append(f"{path.name}: gives fewer frames and is not named ({damage})")


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
    columns = ("stored", "read", "named", "counted as missing", "not wanted")
    print("| input | damage | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for kind, damage in sorted({key[:2] for key in outcomes}):
        cells = " | ".join(str(outcomes[kind, damage, column]) for column in columns)
        print(f"| {kind} | {damage} | {cells} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
