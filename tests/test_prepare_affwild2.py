"""From the folders of Aff-Wild2 to batches, on a mini Aff-Wild2 of drawn people."""

import csv
import itertools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mini_trees import make

from fer_jax.cli.main import main
from fer_jax.data import staging
from fer_jax.data.augment import Augmentation
from fer_jax.data.dataset import FaceData, select
from fer_jax.data.images import decode_image
from fer_jax.data.mini_affwild2 import read_planted
from fer_jax.data.pipeline import train_batches

CLEANED = {
    "corrupt_image": {"corrupted"},
    "non_face": {"non_face"},
    "blurred": {"blurred"},
    # A crop that was enlarged has the pixels of a good one, and no more detail than a blurred one.
    "low_resolution": {"blurred"},
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    """Eight people with all that a preparation copes with."""
    folder = tmp_path_factory.mktemp("mini") / "affwild2"
    make(folder, "--videos", "8", "--frames", "40", "60", "--seed", "1", "--faults", "soft")
    return folder


@pytest.fixture(scope="module")
def prepared(mini) -> Path:
    out = mini.parent / "data"
    assert main(["prepare", "affwild2", str(mini), "--out", str(out), "--workers", "2"]) == 0
    return out


def _labels(root: Path) -> dict[tuple[str, str], list[int]]:
    """(split, video) -> labels, read by other means than the project's."""
    found = {}
    for path in root.glob("*_ABAW_Annotations/EXPR_*/*/*.txt"):
        lines = [line.strip() for line in path.read_text().replace("\r", "").split("\n")]
        split = {"Train_Set": "train", "Validation_Set": "validation"}[path.parent.name]
        found[split, path.stem] = [int(line) for line in lines[1:] if line]
    return found


def _pictures(root: Path, split: str) -> dict[str, int]:
    """key -> label of every labelled frame of a split whose picture another decoder reads."""
    found = {}
    for (of, video), labels in _labels(root).items():
        for number, label in enumerate(labels, start=1):
            (path, *_) = [*root.glob(f"cropped_aligned*/{video}/{number:05d}.jpg"), None]
            if of == split and label >= 0 and path is not None and _is_whole_jpeg(path):
                found[f"{video}/{number:05d}.jpg"] = label
    return found


def _is_whole_jpeg(path: Path) -> bool:
    content = path.read_bytes()
    return content[:2] == b"\xff\xd8" and content[-2:] == b"\xff\xd9"


def _rows(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def _index(data: FaceData, split: str) -> dict[str, int]:
    rows = select(data, split)
    return dict(
        zip(data.index["key"][rows].tolist(), data.index["label"][rows].tolist(), strict=True)
    )


def test_what_is_stored_is_what_an_independent_recount_finds(mini, prepared):
    data = FaceData.open(prepared)
    validation = _pictures(mini, "validation")
    assert _index(data, "validation") == validation
    train, out = _pictures(mini, "train"), _rows(prepared / "cleaning.csv")
    assert out
    assert _index(data, "train") == {k: v for k, v in train.items() if k not in out}
    assert data.template == "arcface_112"
    for row in range(0, len(data), 17):
        video, name = str(data.index["key"][row]).split("/")
        (path,) = mini.glob(f"cropped_aligned*/{video}/{name}")
        assert data.records.image(row) == path.read_bytes()
        assert data.index["frame"][row] == int(name[:5])
        assert data.index["video"][row] == video
        assert data.index["subject"][row] == video.removesuffix("_left").removesuffix("_right")
    assert not (prepared.parent / "data.staging").exists()


def test_every_annotated_frame_is_kept_for_scoring(mini, prepared):
    with np.load(prepared / "annotations.npz") as kept:
        found = {
            (str(split), str(video)): kept["label"][start:end].tolist()
            for split, video, start, end in zip(
                kept["split"], kept["video"], kept["start"], kept["start"][1:], strict=False
            )
        }
    assert found == _labels(mini)


def test_cleaning_finds_what_was_planted_and_nothing_else(mini, prepared):
    planted = read_planted(mini)
    split_of = {video.name: video.split for video in planted.videos}
    labels = {video: labels for (_, video), labels in _labels(mini).items()}
    expected = {}
    for kind, reasons in CLEANED.items():
        for mark in planted.faults[kind]:
            if split_of[mark.video] == "train" and labels[mark.video][mark.frame - 1] >= 0:
                expected[f"{mark.video}/{mark.frame:05d}.jpg"] = reasons
    found = _rows(prepared / "cleaning.csv")
    duplicates = {key for key, reason in found.items() if reason == "duplicate"}
    assert {k: v for k, v in found.items() if k not in duplicates}.keys() == expected.keys()
    for key, reasons in expected.items():
        assert found[key] in reasons, key
    # Duplicates: the video that lies in both splits, and single copies.
    (copied,) = planted.faults["copied_video"]
    assert (split_of[copied.video], split_of[copied.other_video]) == ("validation", "train")
    copies = {key for key in _pictures(mini, "train") if key.startswith(copied.other_video + "/")}
    singles = {
        f"{video}/{frame:05d}.jpg"
        for mark in planted.faults["duplicate_image"]
        for video, frame in ((mark.video, mark.frame), (mark.other_video, mark.other_frame))
    }
    assert copies - expected.keys() <= duplicates <= copies | singles
    assert duplicates - copies


def test_corrupted_pictures_that_are_scored_are_named_elsewhere(mini, prepared):
    planted = read_planted(mini)
    split_of = {video.name: video.split for video in planted.videos}
    expected = {
        f"{mark.video}/{mark.frame:05d}.jpg"
        for mark in planted.faults["corrupt_image"]
        if split_of[mark.video] == "validation"
    }
    assert expected
    assert set(_rows(prepared / "skipped.csv")) == expected


def test_the_summary_and_the_contact_sheet(prepared, capsys, mini, tmp_path):
    out = tmp_path / "data"
    assert main(["prepare", "affwild2", str(mini), "--out", str(out), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    left_out = len(_rows(out / "cleaning.csv"))
    trained = len(_pictures(mini, "train")) + 2  # and two that cannot be decoded
    share = f"{left_out / trained:.2%}"
    assert f"cleaning: {left_out} of {trained} training pictures left out ({share})" in said
    sheet = cv2.imread(str(out / "cleaning.png"))
    assert min(sheet.shape[:2]) > 500
    # Two processes or threads: the same bytes in the same order.
    one, other = FaceData.open(out), FaceData.open(prepared)
    for name, column in one.index.items():
        np.testing.assert_array_equal(column, other.index[name])


def test_a_list_edited_after_a_review_is_followed(mini, tmp_path, capsys):
    out = tmp_path / "data"
    command = ["prepare", "affwild2", str(mini), "--out", str(out), "--workers", "0"]
    assert main([*command, "--review"]) == 0
    assert "--cleaning" in capsys.readouterr().out
    assert not out.exists()
    staging = tmp_path / "data.staging"
    assert (staging / "cleaning.png").exists()
    lines = (staging / "cleaning.csv").read_text().splitlines()
    blurred = [line for line in lines if ",blurred," in line]
    assert blurred
    extra = sorted(set(_pictures(mini, "train")) - {line.split(",")[0] for line in lines})[0]
    edited = tmp_path / "edited.csv"
    edited.write_text("\n".join([*(line for line in lines if line not in blurred), extra]))
    looked = {path.name: path.stat().st_mtime_ns for path in staging.glob("*.npz")}
    assert main([*command, "--cleaning", str(edited)]) == 0
    assert looked
    out_rows = _rows(out / "cleaning.csv")
    assert out_rows[extra] == "by_hand"
    expected = set(_pictures(mini, "train")) - set(out_rows)
    assert {line.split(",")[0] for line in blurred} <= expected
    assert set(_index(FaceData.open(out), "train")) == expected


@pytest.fixture
def looked(monkeypatch) -> list[str]:
    """Names of the parts that are looked at, without processes."""
    names, before = [], staging._stage_one
    monkeypatch.setattr(
        staging, "_stage_one", lambda unit, *rest: (names.append(unit.name), before(unit, *rest))
    )
    return names


def test_what_was_reviewed_is_not_looked_at_again(mini, tmp_path, looked, prepared):
    out, reviewed = tmp_path / "data", tmp_path / "data.staging" / "cleaning.csv"
    command = ["prepare", "affwild2", str(mini), "--out", str(out), "--workers", "0"]
    assert main([*command, "--review"]) == 0
    assert len(looked) > 5
    looked.clear()
    assert main([*command, "--cleaning", str(reviewed)]) == 0
    assert looked == []
    # The same as in one go, the detector's scores among it.
    one, other = FaceData.open(out), FaceData.open(prepared)
    assert not np.isnan(one.index["score"]).any()
    for name, column in one.index.items():
        np.testing.assert_array_equal(column, other.index[name])
    assert (out / "cleaning.csv").read_bytes() == (prepared / "cleaning.csv").read_bytes()


def test_an_edited_list_is_neither_overwritten_nor_passed_over(mini, tmp_path, looked, capsys):
    out, reviewed = tmp_path / "data", tmp_path / "data.staging" / "cleaning.csv"
    command = ["prepare", "affwild2", str(mini), "--out", str(out), "--workers", "0"]
    rules = ["--min-score", "0"]
    assert main([*command, *rules, "--review"]) == 0
    assert main([*command, *rules, "--review"]) == 0  # as it was written: nothing to lose
    edited = "\n".join(reviewed.read_text().splitlines()[:-1]) + "\n"
    reviewed.write_text(edited)
    looked.clear()
    capsys.readouterr()
    for options in (["--review"], []):
        assert main([*command, *rules, *options]) == 1
        said = capsys.readouterr().err
        assert f"was edited since it was written; go by it with --cleaning {reviewed}" in said
    assert reviewed.read_text() == edited
    assert looked == []
    assert main([*command, "--cleaning", str(reviewed)]) == 0
    assert _rows(out / "cleaning.csv") == {
        row["path"]: row["reason"] for row in csv.DictReader(edited.splitlines())
    }


def test_a_list_that_cannot_be_read_is_told_at_once(mini, tmp_path, looked, capsys):
    path = tmp_path / "list.csv"
    path.write_text("name\n1.jpg\n")
    command = ["prepare", "affwild2", str(mini), "--out", str(tmp_path / "data"), "--workers", "0"]
    assert main([*command, "--cleaning", str(path)]) == 1
    assert "has no column 'path'" in capsys.readouterr().err
    assert looked == []


def test_two_view_batches_come_of_it(prepared):
    data = FaceData.open(prepared)
    batches = train_batches(
        [(data, select(data, "train"))],
        views={"main": "main", "aux": "eyes_mouth"},
        image_size=32,
        batch_size=16,
        seed=0,
        augmentation=Augmentation(),
    )
    for batch in itertools.islice(batches, 20):
        assert batch["main"].shape == batch["aux"].shape == (16, 32, 32, 3)
        np.testing.assert_array_equal(batch["label"], data.index["label"][batch["row"]])
        assert (data.index["split"][batch["row"]] == "train").all()


def test_unlabelled_frames_and_test_videos_on_demand(mini, tmp_path):
    out = tmp_path / "data"
    command = ["prepare", "affwild2", str(mini), "--out", str(out), "--workers", "0"]
    assert main([*command, "--unlabelled", "--no-clean"]) == 0
    data = FaceData.open(out)
    pictures = sum(
        _is_whole_jpeg(path)
        for path in mini.glob("cropped_aligned*/*/*.jpg")
        if path.stem != "00000"
    )
    assert len(data) == pictures
    test = data.index["split"] == "test"
    assert test.any()
    assert (data.index["label"][test] == -1).all()


# From the videos --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def from_videos(mini) -> Path:
    out = mini.parent / "filmed"
    command = ["prepare", "affwild2", str(mini), "--out", str(out), "--from-videos"]
    assert main([*command, "--no-clean", "--workers", "2"]) == 0
    return out


def test_faces_from_videos_are_those_of_the_crops(mini, from_videos):
    """The same frames, to a few that only one of the two has, and about the same pictures."""
    data = FaceData.open(from_videos)
    bad = {
        f"{mark.video}/{mark.frame:05d}.jpg"
        for kind in ("non_face", "blurred", "low_resolution", "duplicate_image")
        for mark in read_planted(mini).faults[kind]
    }
    for split in ("train", "validation"):
        mine, theirs = _index(data, split), _pictures(mini, split)
        shared = mine.keys() & theirs.keys()
        assert len(shared) > 0.97 * len(theirs)
        assert all(mine[key] == theirs[key] for key in shared)
    apart = []
    for row in range(0, len(data), 5):
        key = str(data.index["key"][row])
        (path, *_) = [*mini.glob(f"cropped_aligned*/{key}"), None]
        if path is None or key in bad or not _is_whole_jpeg(path):
            continue
        face, crop = decode_image(data.records.image(row)), decode_image(path.read_bytes())
        assert face.shape == crop.shape
        # Small differences in alignment and two compressions: compared at a quarter of the size.
        small = [cv2.resize(one, (28, 28), interpolation=cv2.INTER_AREA) for one in (face, crop)]
        apart.append(np.abs(small[0].astype(int) - small[1]).mean())
    assert len(apart) > 30
    # Measured: median 12, 95 % below 27; faces of different people are 33 to 61 apart.
    assert np.median(apart) < 18
    assert np.quantile(apart, 0.95) < 33


def test_a_run_from_videos_that_is_killed_goes_on(mini, from_videos, tmp_path):
    out = tmp_path / "data"
    command = [
        *(sys.executable, "-m", "fer_jax.cli.main", "prepare", "affwild2", str(mini)),
        *("--out", str(out), "--from-videos", "--no-clean", "--workers", "2"),
    ]
    running = subprocess.Popen(command, start_new_session=True)
    staging = tmp_path / "data.staging"
    deadline = time.monotonic() + 120
    while len(list(staging.glob("*.npz"))) < 3 and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    subprocess.run(["kill", "-KILL", "--", f"-{running.pid}"], check=True)
    assert running.wait() == -signal.SIGKILL
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in staging.glob("*.npz")}
    assert len(kept) >= 3
    # The second run is watched through copies: it takes its own folder away when it is done.
    shutil.copytree(staging, tmp_path / "before", copy_function=shutil.copy2)
    assert main([*command[3:]]) == 0
    one, other = FaceData.open(out), FaceData.open(from_videos)
    for name, column in one.index.items():
        np.testing.assert_array_equal(column, other.index[name])
    assert [one.records.image(r) for r in range(0, len(one), 9)] == [
        other.records.image(r) for r in range(0, len(other), 9)
    ]


# What cannot be trusted -------------------------------------------------------------------------


@pytest.fixture
def hard(tmp_path) -> Path:
    make(tmp_path / "hard", "--videos", "8", "--frames", "24", "30", "--seed", "2")
    return tmp_path / "hard"


def test_annotations_with_faults_are_refused_unless_told(hard, tmp_path, capsys):
    command = ["prepare", "affwild2", str(hard), "--out", str(tmp_path / "data"), "--workers", "0"]
    assert main(command) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "faults in the annotations" in said
    assert "fer-jax doctor" in said
    assert "--skip-bad" in said
    assert not (tmp_path / "data").exists()
    assert main([*command, "--skip-bad"]) == 0
    planted = read_planted(hard)
    data = FaceData.open(tmp_path / "data")
    (wrong,) = planted.faults["wrong_header"]
    assert wrong.video not in data.index["video"]
    for kind in ("malformed_line", "label_out_of_range"):
        for mark in planted.faults[kind]:
            assert f"{mark.video}/{mark.frame:05d}.jpg" not in data.index["key"]
    assert not np.strings.endswith(data.index["key"], "00000.jpg").any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("crops", "has no crops 'cropped_aligned'"),
        ("annotations", "has no EXPR annotations"),
        ("both", "is annotated in train as well"),
    ],
)
def test_a_tree_that_lacks_a_part_is_refused(mini, tmp_path, capsys, change, message):
    root = tmp_path / "affwild2"
    challenge = root / "6th_ABAW_Annotations" / "EXPR_Recognition_Challenge"
    for split in ("Train_Set", "Validation_Set"):
        (challenge / split).mkdir(parents=True)
        if change != "annotations":
            (challenge / split / "1.txt").write_text(
                "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n0\n1\n"
            )
        if change != "both":
            break
    if change != "crops":
        (root / "cropped_aligned" / "1").mkdir(parents=True)
    assert main(["prepare", "affwild2", str(root), "--out", str(tmp_path / "data")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert message in said


def test_impossible_sizes_and_contradicting_options_are_refused(mini, tmp_path, capsys):
    command = ["prepare", "affwild2", str(mini), "--out", str(tmp_path / "data")]
    assert main([*command, "--from-videos", "--size", "3"]) == 1
    assert "size 3 is not in" in capsys.readouterr().err
    for options, message in [
        (["--no-clean", "--min-score", "0.3"], "--min-score: this run does not clean"),
        (["--cleaning", "x.csv", "--min-size", "3"], "--min-size: this run goes by an edited"),
        (["--no-clean", "--review"], "--review: this run does not clean"),
    ]:
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err


def test_staging_never_takes_a_folder_that_is_somebody_elses(mini, tmp_path):
    (tmp_path / "data.staging").mkdir()
    (tmp_path / "data.staging" / "thesis.txt").write_text("precious")
    assert main(["prepare", "affwild2", str(mini), "--out", str(tmp_path / "data")]) == 1
    assert (tmp_path / "data.staging" / "thesis.txt").read_text() == "precious"
