"""What became of damaged inputs, compared with what other readers find in them.

Each check takes a round of `tools/input_campaign.py` and the folders to compare, counts what was
done with each damaged file in `Round.outcomes`, and adds what broke a rule to `Round.failures`.
"""

import collections
import csv
import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data.affwild2 import source_video
from fer_jax.data.dataset import FaceData
from fer_jax.data.doctor import Examination
from fer_jax.data.images import ImageError, decode_image

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


def read_annotation_again(path: Path) -> list[int] | None:
    """A second reader: the labels of a file without any fault, else None."""
    try:
        content = path.read_bytes() if path.is_file() else b""
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


def _listed(folder: Path, name: str = "skipped.csv") -> dict[str, str]:
    if not (folder / name).exists():
        return {}
    with (folder / name).open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def check_pictures(found: Round, tree: Path, crops: Path, examination: Examination | None) -> None:
    """Compares each picture with what became of it, and with what the doctor says of it."""
    cleaned = _listed(crops, "cleaning.csv")
    named = _listed(crops) | {key: why for key, why in cleaned.items() if why == "corrupted"}
    cleaned = cleaned.keys() - named.keys()
    data = FaceData.open(crops)
    stored = {str(key): row for row, key in enumerate(data.index["key"])}
    files = {path.stem: path for path in tree.glob("*Annotations/*/*/*.txt")}
    labels = {video: read_annotation_again(path) for video, path in files.items()}
    for path in sorted(tree.glob("cropped_aligned*/*/*")):
        key, video = f"{path.parent.name}/{path.name}", path.parent.name
        damage = found.damaged.get(path)
        fates = {"stored": stored, "named": named, "left out": cleaned}
        fates = [fate for fate, keys in fates.items() if key in keys]
        expected = labels.get(video)
        frame = int(path.stem)
        wanted = expected is not None and frame <= len(expected) and expected[frame - 1] >= 0
        if len(fates) > 1:
            found.failures.append(f"{key}: is {' and '.join(fates)} ({damage})")
        if wanted and not fates and not path.is_dir():
            found.failures.append(f"{key}: is lost ({damage})")
        if wanted and damage is None and fates not in (["stored"], ["left out"]):
            found.failures.append(f"{key}: is not stored, though nothing was done to it")
        if "left out" in fates and files[video].parent.name != "Train_Set":
            found.failures.append(f"{key}: is left out, though it is for scoring ({damage})")
        if "stored" in fates:
            image = data.records.image(stored[key])
            if image != path.read_bytes() or not _decodes(image):
                found.failures.append(f"{key}: is not stored as it lies there ({damage})")
        if damage is not None:
            found.outcomes[(*damage, fates[0] if fates else "not wanted")] += 1
    for path, damage in found.damaged.items():
        if damage[0] == "picture" and not os.path.lexists(path):
            found.outcomes[(*damage, "counted as missing")] += 1
    if examination is not None:
        _compare_with_doctor(found, crops, named, examination)


def _compare_with_doctor(
    found: Round, crops: Path, named: Collection[str], examination: Examination
) -> None:
    told = {
        f"{finding.where}/{detail.split()[0]}"
        for finding in examination.findings
        if finding.kind == "corrupted"
        for detail in finding.details
    }
    opened = {
        f"{video}/{frame:05d}.jpg"
        for video, labels in _annotations(crops).items()
        for frame, label in enumerate(labels, 1)
        if label >= 0
    }
    named = {key for key in named if re.fullmatch(r"[^/]+/\d{5,}\.jpg", key)}
    for key in sorted(named - told):
        found.failures.append(f"{key}: is named when preparing, not by the doctor")
    for key in sorted((told & opened) - named):
        found.failures.append(f"{key}: is named by the doctor, not when preparing")


def _annotations(folder: Path) -> dict[str, list[int]]:
    """The labels of each person, as a data set keeps them."""
    with np.load(folder / "annotations.npz") as kept:
        spans = zip(kept["video"], kept["start"], kept["start"][1:], strict=False)
        return {str(video): kept["label"][start:end].tolist() for video, start, end in spans}


def check_no_picture_is_left(found: Round, tree: Path) -> None:
    """Where nothing was stored: that no picture could have been."""
    for path in sorted(tree.glob("*Annotations/*/*/*.txt")):
        for frame, label in enumerate(read_annotation_again(path) or (), 1):
            for picture in tree.glob(f"cropped_aligned*/{path.stem}/{frame:05d}.jpg"):
                if label >= 0 and picture not in found.damaged:
                    found.failures.append(f"{path.stem}/{picture.name}: could have been stored")


def check_no_video_is_left(found: Round, tree: Path) -> None:
    """Where nothing was made of the videos: that all whose people are annotated are damaged."""
    for path in sorted(tree.glob("*Annotations/*/*/*.txt")):
        if any(label >= 0 for label in read_annotation_again(path) or ()):
            for video in tree.glob(f"*/{source_video(path.stem)[0]}.*"):
                if video not in found.damaged:
                    found.failures.append(f"{video.name}: could have been used")


def check_annotations(found: Round, tree: Path, crops: Path) -> None:
    """Compares what is kept of each damaged annotation with what a second reader reads."""
    named = _listed(crops)
    read = _annotations(crops)
    for path, damage in found.damaged.items():
        if damage[0] != "annotation":
            continue
        expected = read_annotation_again(path)
        is_named = path.relative_to(tree).as_posix() in named
        outcome = "named" if is_named else "read" if path.stem in read else "counted as missing"
        found.outcomes[(*damage, outcome)] += 1
        if expected is not None and read.get(path.stem) != expected:
            found.failures.append(f"{path.name}: is read otherwise than it says ({damage})")
        there = os.path.lexists(path) and not path.is_dir()
        if expected is None and not is_named and there:
            found.failures.append(f"{path.name}: has a fault that is not named ({damage})")


def count_frames(path: Path) -> int:
    """How many frames OpenCV hands out; 0 if it opens nothing."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while capture.grab() and capture.retrieve()[0]:
        count += 1
    capture.release()
    return count


def check_videos(found: Round, clean: Path, tree: Path, films: Path) -> None:
    """Compares how many frames a damaged video gives with how many it gave before."""
    named = _listed(films)
    people = {video: source_video(video)[0] for video in _annotations(films)}
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
