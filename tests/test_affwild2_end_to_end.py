"""Forty videos of a mini Aff-Wild2 with all that is planted: doctor, clean, prepare, batches."""

import collections
import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from mini_trees import make

from fer_jax.cli.main import main
from fer_jax.data.augment import Augmentation
from fer_jax.data.dataset import FaceData, select
from fer_jax.data.mini_affwild2 import FAULTS, Planted, read_planted
from fer_jax.data.pipeline import train_batches
from fer_jax.data.sampling import Sampling

pytestmark = pytest.mark.slow  # 43 people, 4,000 crops: two minutes

# What the doctor calls a planted fault. Duplicates are told as pairs of videos.
NAMES = {
    "leak": "shared_video",
    "copied_video": "duplicates",
    "duplicate_image": "duplicates",
    "corrupt_image": "corrupted",
    "non_face": "non_face",
    "blurred": "blurred",
    "low_resolution": "blurred",
    "frames_beyond_labels": "beyond_labels",
    "wrong_header": "annotation",
    "malformed_line": "annotation",
    "label_out_of_range": "annotation",
    "no_crops": "no_pictures",
    "no_annotation": "without_annotation",
    "frame_zero": "from_zero",
    "stranger_file": "strangers",
}
# What the real data has as well, and what a planted fault brings with it.
USUAL = {
    "labels_without_picture",
    "pictures_without_label",
    "sample_without_picture",
    "frame_count",
    "unlabelled_video",
}
PICTURES = ("corrupt_image", "non_face", "blurred", "low_resolution")


def _make(folder: Path, faults: str) -> tuple[Path, Planted]:
    make(folder, "--videos", "40", "--faults", faults)
    return folder, read_planted(folder)


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> tuple[Path, Planted]:
    return _make(tmp_path_factory.mktemp("all") / "affwild2", "all")


@pytest.fixture(scope="module")
def soft(tmp_path_factory) -> tuple[Path, Planted]:
    return _make(tmp_path_factory.mktemp("soft") / "affwild2", "soft")


def _examine(root: Path, out: Path, *options: str) -> tuple[int, dict]:
    code = main(["doctor", str(root), "--out", str(out), *options])
    return code, json.loads((out / "doctor.json").read_text())


def _found(report: dict) -> dict[str, set[str]]:
    """kind -> videos, or pictures where they are named."""
    found = collections.defaultdict(set)
    for finding in report["findings"]:
        kind, where = finding["kind"], finding["where"]
        if kind in USUAL:
            continue
        if kind in ("low_resolution", *(NAMES[name] for name in PICTURES)):
            found[kind] |= {f"{where}/{detail.split()[0]}" for detail in finding["details"]}
        elif kind == "without_annotation":
            found[kind] |= set(finding["details"])
        else:
            found[kind].add(where)
    return dict(found)


def _expected(planted: Planted) -> dict[str, set[str]]:
    expected = collections.defaultdict(set)
    for kind, name in NAMES.items():
        for mark in planted.faults[kind]:
            if kind in PICTURES:
                expected[name].add(f"{mark.video}/{mark.frame:05d}.jpg")
            elif name == "duplicates":
                expected[name].add(" | ".join(sorted((mark.video, mark.other_video))))
            elif name == "shared_video":
                expected[name].add(mark.video.rpartition("_")[0])
            else:
                expected[name].add(mark.video)
    return {kind: places for kind, places in expected.items() if places}


def test_the_doctor_finds_every_planted_fault_and_no_other(everything, tmp_path):
    root, planted = everything
    assert planted.skipped == ()
    assert set(NAMES) | {"small_image"} == set(FAULTS)
    code, report = _examine(root, tmp_path / "aligned", "--faces")
    assert code == 1
    assert _found(report) == _expected(planted)


def test_small_pictures_are_found_among_the_loose_crops(everything, tmp_path):
    root, planted = everything
    _, report = _examine(root, tmp_path / "loose", "--crops", "cropped")
    small = {f"{mark.video}/{mark.frame:05d}.jpg" for mark in planted.faults["small_image"]}
    assert small
    assert _found(report)["low_resolution"] == small


def test_counts_equal_an_independent_recount(everything, tmp_path):
    root, _ = everything
    _, report = _examine(root, tmp_path, "--names-only")
    for split, folder in (("train", "Train_Set"), ("validation", "Validation_Set")):
        labels, images, both = collections.Counter(), 0, 0
        files = sorted(root.glob(f"*Annotations/*/{folder}/*.txt"))
        for path in files:
            rows = path.read_text().replace("\r", "").rstrip().split("\n")[1:]
            frames = {
                int(one.stem)
                for one in root.glob(f"cropped_aligned*/{path.stem}/*.jpg")
                if one.stem.isdigit()
            }
            images += len(frames)
            for number, row in enumerate(rows, start=1):
                if row.strip() in set("01234567"):
                    labels[int(row)] += 1
                    both += number in frames
        counted = report["splits"][split]
        assert counted["videos"] == len(files)
        assert counted["pictures"] == images
        assert counted["labels"] == labels.total()
        assert counted["labels_without_picture"] == labels.total() - both


def test_doctor_clean_prepare_batches(soft, tmp_path, capsys):
    """The way of a user, each step by its command; what comes out is counted again."""
    root, planted = soft
    code, report = _examine(root, tmp_path / "checkup")
    assert code == 0
    out = tmp_path / "data"
    command = ["prepare", "affwild2", str(root), "--out", str(out), "--workers", "2"]
    assert main([*command, "--review"]) == 0
    rejected = tmp_path / "data.staging" / "cleaning.csv"
    assert main([*command, "--cleaning", str(rejected)]) == 0
    data = FaceData.open(out)
    with (out / "cleaning.csv").open(newline="") as file:
        gone = {row["path"] for row in csv.DictReader(file)}
    split_of = {video.name: video.split for video in planted.videos}
    for split in ("train", "validation"):
        counted = report["splits"][split]
        bad = {
            f"{mark.video}/{mark.frame:05d}.jpg"
            for mark in planted.faults["corrupt_image"]
            if split_of[mark.video] == split
        }
        expected = counted["labels_with_picture"]
        expected -= len(gone if split == "train" else bad)
        assert len(select(data, split)) == expected
    batches = train_batches(
        [(data, select(data, "train"))],
        views={"main": "main", "aux": "eyes_mouth"},
        image_size=48,
        batch_size=32,
        seed=0,
        augmentation=Augmentation(),
        sampling=Sampling(frames_per_video=10, balance="class"),
    )
    seen = collections.Counter()
    for batch in itertools.islice(batches, 30):
        assert batch["main"].shape == batch["aux"].shape == (32, 48, 48, 3)
        assert not gone & set(data.index["key"][batch["row"]].tolist())
        seen.update(batch["label"].tolist())
    # Every class of the training part comes equally often, to a batch.
    assert max(seen.values()) - min(seen.values()) <= 64
    assert set(seen) == set(np.unique(data.index["label"][select(data, "train")]).tolist())
