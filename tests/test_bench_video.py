"""`fer-jax bench video`: what it counts, how it judges, and what it says of a peer that fails."""

import json
import stat

import cv2
import pytest
from moving_faces import moving_frames
from test_predict_videos import write_video
from test_video_prediction import aligned_bundle

from fer_jax.bench.video import drawn_bundle
from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.models.vit import parameter_count
from fer_jax.predict.recognizer import load

STAGES = ["decode", "detect", "align", "cut, resize", "model", "smooth, write"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_video(folder / "a.avi", moving_frames(8, away=range(2)))
    save_bundle(aligned_bundle(), folder / "bundle")
    return folder


def peer(path, line):
    """An interpreter that says something."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def bench(folder):
    def run(*arguments):
        fixed = ["--bundle", str(folder / "bundle"), "--repeats", "2"]
        return main(["bench", "video", str(folder / "a.avi"), *fixed, *map(str, arguments)])

    return run


def test_figures_and_picture(bench, folder, tmp_path, capsys):
    answer = {"frames": 8, "faces": 6, "seconds": 1e6, "version": "1.2"}
    python = peer(tmp_path / "python", f"echo noise; echo '{json.dumps(answer)}'")
    picture = tmp_path / "stages.png"
    assert bench("--peer", python, "--json", "--picture", picture) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["rows"]) == (8, 8)
    assert found["peer"] == {
        "version": "1.2", "frames": 8, "faces": 6,
        "frames_per_second": {"median": 8e-6, "low": 8e-6, "high": 8e-6},
    }  # fmt: skip
    assert found["ratio"] == pytest.approx(found["ours"]["frames_per_second"]["median"] / 8e-6)
    assert found["holds"]
    assert [*found["stages"]] == STAGES
    assert found["stages"]["detect"] > 0
    assert found["stages"]["model"] > 0
    assert cv2.imread(str(picture)).shape[1] > 600
    slow = peer(tmp_path / "quick", f"echo '{json.dumps(answer | {'seconds': 1e-6})}'")
    assert bench("--peer", slow) == 0
    assert "at least 4: missed" in capsys.readouterr().out


def test_a_peer_that_cannot_be_run_is_told(bench, tmp_path, capsys):
    assert bench("--peer", tmp_path / "nothing") == 1
    assert "nothing: cannot be run" in capsys.readouterr().err
    assert bench("--peer", peer(tmp_path / "bad", "echo 'No module: fer' >&2; exit 1")) == 1
    assert "the package fer did not run: No module: fer" in capsys.readouterr().err


def test_without_a_bundle_two_tiny_encoders_are_drawn(tmp_path):
    bundle = drawn_bundle(image_size=32)
    of_one = parameter_count(bundle.models["main"][1])
    assert 5.3e6 < of_one < 5.7e6
    save_bundle(bundle, tmp_path / "b")
    assert load(tmp_path / "b").classes[0] == "Anger"
