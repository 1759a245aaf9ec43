"""A small Aff-Wild2 of drawn people: the official layout, its quirks, and planted faults.

Nobody's licence is needed, and what is wrong with it is known: `planted.json` says where.

    6th_ABAW_Annotations/EXPR_Recognition_Challenge/{Train_Set,Validation_Set}/<video>.txt
    cropped_aligned/<video>/00001.jpg           112 x 112, on the five-point template
    cropped_aligned_new_50_vids/<video>/00001.jpg
    cropped/<video>/00001.jpg                   upright boxes, of some videos
    batch1/<stem>.mp4, batch2/..., new_vids/... source videos, some .avi
    Expression_Recognition_Challenge_test_set_release.txt
    CVPR_6th_ABAW_Expr_test_set_sample.txt
    planted.json, planted_points.npz            the truth

A crop is cut from the drawn frame that the video holds too, by the face's true five points and an
error of a third of a pixel, before the video's compression. So detection and alignment of the video
give about the same face: YuNet finds all of them, its points a tenth of the eyes' distance away, as
it sees the corners of drawn mouths too high.

`planted_points.npz` holds, for each name, the points of every frame in pixels of the video, float32
[frames, 5, 2], not-a-number where the face is not to be seen.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fer_jax.atomic import atomic_directory
from fer_jax.data.images import decode_image, encode_image
from fer_jax.data.mini_faults import Reel, plant
from fer_jax.data.mini_filming import Shot, crop_folders, shoot
from fer_jax.data.mini_plan import Person, Video, plan_videos
from fer_jax.data.mini_planted import (
    FAULTS,
    HARD_FAULTS,
    RECORD,
    SOFT_FAULTS,
    TRAITS,
    Mark,
    Planted,
    VideoFacts,
    chosen_faults,
    read_planted,
)
from fer_jax.data.synthetic import CLASSES
from fer_jax.errors import FerJaxError

__all__ = [
    "FAULTS",
    "HARD_FAULTS",
    "SOFT_FAULTS",
    "TRAITS",
    "Mark",
    "Planted",
    "VideoFacts",
    "read_planted",
    "write_mini_affwild2",
]

_CHALLENGE = "6th_ABAW_Annotations/EXPR_Recognition_Challenge"
_SPLIT_FOLDERS = {"train": "Train_Set", "validation": "Validation_Set"}
_TEST_LIST = "Expression_Recognition_Challenge_test_set_release.txt"
_SAMPLE = "CVPR_6th_ABAW_Expr_test_set_sample.txt"
_POINTS = "planted_points.npz"
_HEADER = ",".join(CLASSES)
_COPY_QUALITY = 75


def write_mini_affwild2(
    folder: str | os.PathLike[str],
    *,
    videos: int = 40,
    frames: tuple[int, int] = (60, 150),
    seed: int = 0,
    faults: str | Iterable[str] = "all",
    overwrite: bool = False,
) -> Planted:
    """Draws and writes a mini Aff-Wild2.

    Args:
        folder: where to write; it appears when it is whole.
        videos: number of source videos, at least 5. A fifth is for validation, 15 % for the test.
        frames: fewest and most frames of a video, at least 24.
        seed: of everything: the same seed gives the same crops and annotations, byte by byte.
        faults: `"all"`, `"soft"` (what preparation copes with), `"none"`, or names of `FAULTS`.
        overwrite: replace a mini Aff-Wild2 that exists.

    Returns:
        What was planted, as `read_planted` finds it in the folder.

    Raises:
        FerJaxError: impossible numbers, an unknown fault, the folder exists, or OpenCV cannot
            write videos.
    """
    kinds = chosen_faults(faults)
    if videos < 5:
        raise FerJaxError(f"{videos=}: at least 5 are needed for three splits and two people")
    if not 24 <= frames[0] <= frames[1] <= 99_000:
        raise FerJaxError(f"{frames=}: give the fewest and the most frames, from 24 to 99000")
    if seed < 0:
        raise FerJaxError(f"{seed=}: must not be negative")
    plan = plan_videos(videos, frames, seed, leak="leak" in kinds, copy="copied_video" in kinds)
    with atomic_directory(folder, marker=RECORD, overwrite=overwrite) as root:
        reels: list[Reel] = []
        shots: dict[str, Shot] = {}
        total = sum(video.frames for video in plan)
        with tqdm(total=total, unit="frame", disable=not sys.stderr.isatty()) as bar:
            for video in plan:
                if video.copied is None:
                    taken = shoot(root, video, seed)
                else:
                    taken = [_copy(root, video, shots[video.copied.people[0].name])]
                for person, shot in zip(video.people, taken, strict=True):
                    shots[person.name] = shot
                    reels.append(_reel(root, video, person, shot))
                bar.update(video.frames)
        _write_test_files(root, reels, np.random.default_rng((seed, 5)))
        np.savez_compressed(root / _POINTS, **{name: shot.points for name, shot in shots.items()})
        planted = plant(reels, kinds, np.random.default_rng((seed, 6)))
        record = Planted(
            seed=seed,
            videos=tuple(sorted((_facts(root, reel) for reel in reels), key=lambda v: v.name)),
            faults={kind: marks for kind, marks in planted.items() if marks},
            traits=_traits(reels),
            skipped=tuple(kind for kind, marks in planted.items() if not marks),
        )
        record.write(root)
    return record


def _copy(root: Path, video: Video, shot: Shot) -> Shot:
    """Another video's file as it is, and its crops encoded again."""
    (root / video.file).parent.mkdir(exist_ok=True)
    shutil.copyfile(root / video.copied.file, root / video.file)
    sources = crop_folders(root, video.copied.people[0])
    for source, target in zip(sources, crop_folders(root, video.people[0]), strict=True):
        target.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            picture = decode_image(path.read_bytes())
            encoded = encode_image(picture, lossless=False, quality=_COPY_QUALITY)
            (target / path.name).write_bytes(encoded)
    return shot


def _reel(root: Path, video: Video, person: Person, shot: Shot) -> Reel:
    """Writes a person's annotation, and says where all files are."""
    annotation = None
    if person.split != "test":
        annotation = root / _CHALLENGE / _SPLIT_FOLDERS[person.split] / f"{person.name}.txt"
        annotation.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join((_HEADER, *map(str, person.labels))) + person.ending
        annotation.write_bytes(text.replace("\n", person.newline).encode())
    folders = crop_folders(root, person)
    # At either end a line that was made blank would not be one line among others.
    inner = range(3, video.frames - 2)
    usable = [n for n in shot.numbers if n in inner and person.labels[n - 1] >= 0]
    return Reel(
        person=person,
        video=video,
        annotation=annotation,
        crops=folders[0],
        loose=folders[1] if person.loose else None,
        numbers=shot.numbers,
        free=usable,
    )


def _write_test_files(root: Path, reels: list[Reel], rng: np.random.Generator) -> None:
    """The names of the test videos, and a submission with a row for each of their frames."""
    tested = [reel for reel in reels if reel.person.split == "test"]
    rows = [f"image_location,{_HEADER}"]
    for reel in tested:
        guesses = rng.integers(0, len(CLASSES), len(reel.person.labels)).tolist()
        rows += [f"{reel.name}/{k:05d}.jpg,{guess}" for k, guess in enumerate(guesses, 1)]
    (root / _SAMPLE).write_bytes(("\n".join(rows) + "\n").encode())
    (root / _TEST_LIST).write_bytes("".join(f"{reel.name}\n" for reel in tested).encode())


def _traits(reels: list[Reel]) -> dict[str, tuple[Mark, ...]]:
    """What the plan and the camera brought about, as far as the faults have left it."""
    marks: dict[str, list[Mark]] = {kind: [] for kind in TRAITS}
    for reel in reels:
        person, name, frames = reel.person, reel.name, reel.video.frames
        if reel.crops:
            gaps = np.diff([0, *reel.numbers, frames + 1]) - 1
            for after, gap in zip([0, *reel.numbers], gaps.tolist(), strict=True):
                if gap:
                    marks["missing"].append(Mark(name, after + 1, gap, "no aligned crop"))
        counted = _label_lines(reel) if reel.annotation else len(person.labels)
        if counted > frames and (reel.annotation or person.split == "test"):
            detail = "the organisers count one frame more"
            marks["extra_label"].append(Mark(name, counted, 1, detail))
        if reel.annotation:
            for start, count in person.unlabelled:
                if start < counted:
                    count = min(count, counted - start)
                    marks["unlabelled"].append(Mark(name, start + 1, count, "-1"))
            if person.newline != "\n":
                marks["crlf"].append(Mark(name, detail="lines end in CR LF"))
            if (blanks := person.ending.count("\n") - 1) > 0:
                marks["trailing_blanks"].append(Mark(name, detail=f"{blanks} at the end"))
        others = [other.name for other in reel.video.people if other.name != name]
        if others or reel.video.extras:
            marks["two_people"].append(Mark(name, other_video="".join(others)))
    return {kind: tuple(places) for kind, places in marks.items()}


def _label_lines(reel: Reel) -> int:
    return len(reel.annotation.read_bytes().decode().rstrip().splitlines()) - 1


def _facts(root: Path, reel: Reel) -> VideoFacts:
    """What lies on the disk in the end."""
    tested = reel.person.split == "test"
    return VideoFacts(
        name=reel.name,
        split=reel.person.split if reel.annotation or tested else "",
        file=reel.video.file,
        frames=reel.video.frames,
        fps=reel.video.fps,
        labels=_label_lines(reel) if reel.annotation else 0,
        images=len(list(reel.crops.glob("*.jpg"))) if reel.crops else 0,
        crops=reel.crops.relative_to(root).as_posix() if reel.crops else "",
        loose=reel.loose.relative_to(root).as_posix() if reel.loose else "",
    )
