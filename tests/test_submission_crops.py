"""Runs over crops: what is told before them, and what a stopped one leaves for the next."""

import json

import pytest
from pictures import write_picture
from test_submission import of_aligned_crops, submit, write_crops, write_sample
from tiny_bundles import noise_faces, tiny_bundle

from fer_jax.bundle import save_bundle
from fer_jax.predict.recognizer import Recognizer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("crops") / "bundle"
    save_bundle(of_aligned_crops(tiny_bundle("affwild2_expr")), path)
    return path


def test_a_folder_without_a_wanted_crop_is_told_before_the_run(
    bundle, tmp_path, monkeypatch, capsys
):
    write_crops(tmp_path, "a", [1, 2])
    write_crops(tmp_path, "late", [9])
    sample = write_sample(tmp_path / "sample.txt", [("a", 1), ("a", 2), ("late", 3)])
    options = {"bundle": bundle, "sample": sample, "crops": tmp_path / "cropped_aligned"}
    with monkeypatch.context() as patched:
        patched.setattr(Recognizer, "predict", None)
        assert submit(tmp_path, "--out", tmp_path / "out", **options) == 1
    assert "1 of the sample's 2 videos have no crop of its frames (late)" in capsys.readouterr().err
    assert submit(tmp_path, "--out", tmp_path / "out", "--allow-empty", **options) == 0


def test_a_run_that_was_stopped_goes_on(bundle, tmp_path, monkeypatch, capsys):
    for video in "abc":
        write_crops(tmp_path, video, [1, 2, 3])
    crops = tmp_path / "cropped_aligned"
    (crops / "a" / "00002.jpg").unlink()
    (crops / "a" / "00002.jpg").symlink_to(tmp_path / "nowhere.jpg")
    rows = [(video, k) for video in "abc" for k in (1, 2, 3)]
    sample = write_sample(tmp_path / "sample.txt", rows)
    options = {"bundle": bundle, "sample": sample, "crops": crops}
    assert submit(tmp_path, "--out", tmp_path / "whole", **options) == 0
    assert "a/00002.jpg: is no file" in capsys.readouterr().err
    predict, seen = Recognizer.predict, []

    def stopped(self, paths, **more):
        seen.append(paths[0].parent.name)
        if seen == ["a", "b"]:
            raise KeyboardInterrupt
        return predict(self, paths, **more)

    monkeypatch.setattr(Recognizer, "predict", stopped)
    assert submit(tmp_path, "--out", tmp_path / "out", **options) == 130
    assert [path.suffix for path in (tmp_path / "out.partial").iterdir()] == [".npz"]
    assert submit(tmp_path, "--out", tmp_path / "out", **options) == 0
    assert seen == ["a", "b", "b", "c"]
    assert "1 crops could not be read, and are filled" in capsys.readouterr().err
    for name in ("submission.txt", "predictions.csv", "filled.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()
    # Other crops under the same names are not what was kept.
    seen[:] = ["-"]
    monkeypatch.setattr("fer_jax.predict.finished.FinishedVideos.remove", lambda self: None)
    assert submit(tmp_path, "--out", tmp_path / "more", **options) == 0
    write_picture(crops / "b" / "00003.jpg", noise_faces(1, seed=99)[0])
    assert submit(tmp_path, "--out", tmp_path / "more", "--overwrite", **options) == 0
    assert seen == ["-", "a", "b", "c", "b"]


def test_what_is_assumed_of_crops_is_told(bundle, tmp_path, capsys):
    write_crops(tmp_path, "a", [1], crops="faces")
    sample = write_sample(tmp_path / "sample.txt", [("a", 1)])
    options = ("--out", tmp_path / "out")
    assert submit(tmp_path, *options, bundle=bundle, sample=sample, crops=tmp_path / "faces") == 0
    assert "faces: its name does not say how its faces are aligned" in capsys.readouterr().err
    crops = json.loads((tmp_path / "out" / "submission.json").read_text())["crops"]
    assert (crops["template"], crops["template_assumed"]) == ("arcface_112", True)
