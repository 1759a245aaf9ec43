"""A submission from whole videos: who is who, what is filled, what is told."""

import csv
import json

import numpy as np
import pytest
from moving_faces import SIZE, frame_of, motion, moving_frames, photo
from test_predict_videos import write_video
from test_submission import of_aligned_crops, submit, write_sample
from tiny_bundles import tiny_bundle

from fer_jax.bundle import save_bundle
from fer_jax.faces.videos import VideoFrame
from fer_jax.predict.recognizer import load
from fer_jax.predict.table import read_csv

_GONE = range(5, 9)


def two_people(count):
    """One at the left, one at the right who is away for a while."""
    image, frames = photo(), []
    for index in range(count):
        left, right = (frame_of(image, motion(index, left=x)) for x in (-60.0, 110.0))
        right = np.full_like(right, 90) if index in _GONE else right[:, :, [1, 2, 0]]
        picture = np.concatenate([left[:, :150], right[:, 130 : SIZE[0]]], axis=1)
        picture = np.ascontiguousarray(picture[:, : SIZE[0]])
        frames.append(VideoFrame(index + 1, index / 25, picture))
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "videos" / "one.avi", moving_frames(12, away=range(3)))
    write_video(folder / "videos" / "batch" / "two.avi", two_people(14))
    rows = [("one", k) for k in range(1, 16)]
    rows += [(f"two_{side}", k) for side in ("left", "right") for k in range(1, 15)]
    write_sample(folder / "sample.txt", rows)
    save_bundle(of_aligned_crops(tiny_bundle("affwild2_expr")), folder / "bundle")
    return folder


def test_people_are_found_and_told_apart(folder, tmp_path, capsys):
    out = tmp_path / "out"
    options = {"bundle": folder / "bundle", "videos": folder / "videos"}
    options["sample"] = folder / "sample.txt"
    assert submit(tmp_path, "--out", out, "--smooth", "none", **options) == 0
    said = capsys.readouterr().err
    assert "two_left: two.avi (left), found in 14 frames" in said
    document = json.loads((out / "submission.json").read_text())
    assert len(document["people"]) == 3
    table = read_csv(out / "predictions.csv")
    recognizer = load(folder / "bundle")
    both = recognizer.predict(folder / "videos" / "batch" / "two.avi", smooth="none")
    middle = 140
    for side, on_side in (("left", both.box[:, 0] < middle), ("right", both.box[:, 0] >= middle)):
        own = table[(table.video == f"two_{side}") & (table.fill == "none")]
        plain = both[on_side & (both.status == "ok")]
        assert own.frame.tolist() == plain.frame.tolist()
        np.testing.assert_array_equal(own.raw, plain.raw)
    right = table[table.video == "two_right"]
    assert {*range(6, 10)} <= {*right.frame[right.fill == "hold"].tolist()}
    # Frames after the end of the video, and before anybody is seen, are filled and listed.
    with open(out / "filled.csv", newline="") as file:
        filled = {(row["video"], int(row["frame"])) for row in csv.DictReader(file)}
    assert {("one", 1), ("one", 13), ("one", 15)} <= filled
    with open(out / "submission.txt") as file:
        assert len(file.readlines()) == 1 + 15 + 2 * 14


def test_a_run_that_was_stopped_goes_on(folder, tmp_path, monkeypatch, capsys):
    from fer_jax.predict import people

    options = {"bundle": folder / "bundle", "videos": folder / "videos"}
    options["sample"] = folder / "sample.txt"
    assert submit(tmp_path, "--out", tmp_path / "whole", **options) == 0
    read, seen = people.read_video, []

    def stopped(path):
        seen.append(path.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(people, "read_video", stopped)
    assert submit(tmp_path, "--out", tmp_path / "out", **options) == 130
    assert submit(tmp_path, "--out", tmp_path / "out", **options) == 0
    assert seen == ["two.avi", "one.avi", "one.avi"]
    assert not (tmp_path / "out.partial").exists()
    for name in ("submission.txt", "predictions.csv", "filled.csv"):
        whole, found = (tmp_path / folder / name for folder in ("whole", "out"))
        assert whole.read_bytes() == found.read_bytes()


def test_what_is_missing_or_other_is_told(folder, tmp_path, capsys):
    rows = [("one", number) for number in range(1, 13)]
    sample = write_sample(tmp_path / "s.txt", [*rows, ("nobody", 1)])
    options = {"videos": folder / "videos", "sample": sample}
    out = ("--out", tmp_path / "out")
    assert submit(tmp_path, *out, bundle=folder / "bundle", **options) == 1
    assert "1 of the sample's 2 videos have no file (nobody)" in capsys.readouterr().err
    assert submit(tmp_path, *out, "--allow-empty", bundle=folder / "bundle", **options) == 0
    save_bundle(tiny_bundle("affwild2_expr"), tmp_path / "other")
    options["sample"] = folder / "sample.txt"
    assert submit(tmp_path, "--out", tmp_path / "o", bundle=tmp_path / "other", **options) == 1
    assert "cut as 'as_is'" in capsys.readouterr().err
    assert submit(tmp_path, "--out", tmp_path / "o", **options) == 2
    assert "--bundle B is missing, which is to be run on --videos" in capsys.readouterr().err


def test_a_broken_video_is_filled_and_told(folder, tmp_path, capsys):
    write_video(tmp_path / "v" / "one.avi", moving_frames(4))
    (tmp_path / "v" / "bad.avi").write_bytes(b"RIFF")
    sample = write_sample(tmp_path / "s.txt", [("one", 1), ("bad", 1)])
    options = {"videos": tmp_path / "v", "sample": sample, "bundle": folder / "bundle"}
    assert submit(tmp_path, "--out", tmp_path / "out", "--allow-empty", **options) == 0
    assert "bad.avi: holds no video stream" in capsys.readouterr().err
    lines = (tmp_path / "out" / "submission.txt").read_text().splitlines()
    assert lines[2] == "bad/00001.jpg,0"
