"""`fer-jax predict` on videos, folders and a camera: what is written, told, and gone on with."""

import dataclasses
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from moving_faces import SIZE, moving_frames
from test_table import assert_tables_equal
from test_video_prediction import aligned_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.predict import predicting
from fer_jax.predict.recognizer import load
from fer_jax.predict.table import read_csv
from fer_jax.recipes import labelling


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, one of which shows nobody, and a bundle."""
    folder = tmp_path_factory.mktemp("interviews")
    write_video(folder / "videos" / "a.avi", moving_frames(20, away=range(8, 12)))
    write_video(folder / "videos" / "b.avi", moving_frames(6, away=range(6)))
    save_bundle(aligned_bundle(), folder / "bundle")
    return folder


def write_video(path, frames, fps=25.0, codec="MJPG"):
    """Of Motion JPEG every frame comes out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, SIZE)
    for frame in frames:
        writer.write(frame.image[..., ::-1])
    writer.release()


@pytest.fixture
def predict(folder, monkeypatch):
    """Runs the command in the folder; what it writes is in `out`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")

    def run(*arguments):
        size = () if "--batch-size" in arguments else ("--batch-size", 4)
        return main(["predict", *map(str, (*arguments, *size)), "--bundle", "bundle"])

    return run


def test_a_video_becomes_a_table(predict, folder, tmp_path, capsys):
    assert predict("videos/a.avi", "--out", tmp_path / "a.csv", "--smooth", "box:5") == 0
    table = read_csv(tmp_path / "a.csv")
    recognizer = load(folder / "bundle", batch_size=4)
    expected = recognizer.predict("videos/a.avi", smooth="box:5")
    assert_tables_equal(table, expected)
    assert table.frame.tolist() == list(range(1, 21))
    assert (table.status == "no_face").sum() >= 4
    assert "a.csv: 20 rows: " in capsys.readouterr().out
    assert predict("videos/a.avi", "--out", tmp_path / "a.jsonl", "--smooth", "box:5") == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["label"] or "" for row in rows] == table.labels.tolist()


def test_a_window_in_seconds(predict, tmp_path):
    for name, options in (
        ("s", ("--smooth", "box", "--window", "0.2s")),
        ("f", ("--smooth", "box", "--window", 5)),
    ):
        assert predict("videos/a.avi", "--out", tmp_path / f"{name}.csv", *options) == 0
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "f.csv").read_bytes()


def test_a_folder_of_videos_goes_on_and_passes_by_what_fails(predict, folder, tmp_path, capsys):
    out = tmp_path / "results"
    assert predict("videos", "--out", out) == 0
    printed = capsys.readouterr()
    assert "2 videos, 26 frames: about" in printed.out
    made = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert sorted(made) == ["a.csv", "a.json", "b.csv", "b.json"]
    document = json.loads((out / "a.json").read_text())
    assert (document["frames"], document["rows"], document["fault"]) == (20, 20, "")
    assert len(document["bundle"]["params_sha256"]) == 64
    assert (read_csv(out / "b.csv").status == "no_face").all()

    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"RIFF no video")
    (out / "b.csv").unlink()
    assert predict("videos", broken, "--out", out) == 1
    printed = capsys.readouterr()
    assert "1 of 3 videos are done already" in printed.out
    assert len(printed.err.splitlines()) == 1
    assert f"{broken}: holds no video stream" in printed.err
    assert (out / "a.csv").stat().st_mtime_ns == made["a.csv"]
    assert (out / "b.csv").exists()
    assert not (out / "broken.csv").exists()
    # Another way of doing it makes everything anew.
    assert predict("videos", "--out", out, "--smooth", "box:3") == 0
    assert (out / "a.csv").stat().st_mtime_ns > made["a.csv"]


def test_a_table_of_somebody_else_is_kept(predict, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("mine")
    assert predict("videos", "--out", tmp_path) == 2
    assert f"a.csv: is there, and not made of {Path('videos/a.avi')}" in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_text() == "mine"
    assert predict("videos", "--out", tmp_path, "--overwrite") == 0
    assert len(read_csv(tmp_path / "a.csv")) == 20
    # A video of the same name from elsewhere does not take its place unasked, either.
    write_video(tmp_path / "other" / "a.avi", moving_frames(3))
    before = (tmp_path / "a.csv").read_bytes()
    assert predict(tmp_path / "other", "--out", tmp_path) == 2
    assert "a.csv: is there, and not made of" in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_bytes() == before
    # Nor does what would be drawn, or a table that pictures are written to.
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_text("mine")
    assert predict("videos/a.avi", "--out", tmp_path / "new", "--timeline") == 2
    assert "a.png: is there, and not made of" in capsys.readouterr().err
    write_video(tmp_path / "pictures.avi", moving_frames(1))
    cv2.imwrite(str(tmp_path / "p.png"), moving_frames(1)[0].image)
    assert predict(tmp_path / "pictures.avi", tmp_path / "p.png", "--out", tmp_path / "r") == 2
    assert "pictures.csv, which is of pictures" in capsys.readouterr().err


def test_a_table_that_was_edited_is_made_anew(predict, tmp_path):
    assert predict("videos/b.avi", "--out", tmp_path) == 0
    whole = (tmp_path / "b.csv").read_bytes()
    (tmp_path / "b.csv").write_bytes(whole[: len(whole) // 2])
    assert predict("videos/b.avi", "--out", tmp_path) == 0
    assert (tmp_path / "b.csv").read_bytes() == whole


def test_a_fault_is_told_each_time(predict, folder, tmp_path, capsys):
    content = (folder / "videos" / "a.avi").read_bytes()
    (tmp_path / "short.avi").write_bytes(content[: len(content) * 2 // 3])
    for _ in range(2):
        assert predict(tmp_path / "short.avi", "--out", tmp_path / "r") == 1
        assert "short.avi: is truncated by" in capsys.readouterr().err


def test_results_in_the_folder_of_the_videos(predict, folder, tmp_path, capsys):
    videos = tmp_path / "videos"
    write_video(videos / "b.avi", moving_frames(2))
    for _ in range(2):  # what was drawn is no video to be labelled
        assert predict(videos, "--out", videos / "results", "--annotate") == 0
    made = sorted(path.name for path in (videos / "results").iterdir())
    assert made == ["b.csv", "b.json", "b_annotated.mp4"]
    assert predict(videos, "--out", videos, "--timeline") == 2
    assert "is in the folder of the videos" in capsys.readouterr().err


def test_one_table_keeps_the_rows_of_an_interrupt(predict, tmp_path, capsys, monkeypatch):
    run = predicting.predict_video

    def stopped(*args, progress, **options):
        def stop():
            if progress.frames == 7:
                raise KeyboardInterrupt

        return run(*args, progress=progress, **options | {"on_frame": stop})

    monkeypatch.setattr(predicting, "predict_video", stopped)
    assert predict("videos/a.avi", "--out", tmp_path / "a.csv") == 130
    assert "interrupted; these are the rows so far" in capsys.readouterr().err
    assert len(read_csv(tmp_path / "a.csv")) == 7


def test_the_bundles_way_of_filling_goes_with_another_filter(folder, tmp_path):
    bundle = aligned_bundle()
    smoothing = {"kernel": "box", "window": 3, "stride": 1, "fill": "linear"}
    save_bundle(dataclasses.replace(bundle, smoothing=smoothing), tmp_path / "bundle")
    recognizer = load(tmp_path / "bundle", batch_size=4)
    table = recognizer.predict(folder / "videos" / "a.avi", smooth="box:5")
    assert set(table.fill[table.status == "no_face"]) == {"linear"}
    out, video = tmp_path / "a.csv", folder / "videos" / "a.avi"
    arguments = ["predict", video, "--out", out, "--smooth", "box:5", "--bundle"]
    assert main([*map(str, arguments), str(tmp_path / "bundle"), "--batch-size", "4"]) == 0
    assert_tables_equal(read_csv(out), table)


def test_an_interrupted_video_is_done_again(predict, tmp_path, capsys, monkeypatch):
    run = labelling.predict_video

    def stopped(*args, progress, **options):
        def stop():
            if progress.frames == 7:
                raise KeyboardInterrupt

        return run(*args, progress=progress, **options | {"on_frame": stop})

    with monkeypatch.context() as patched:
        patched.setattr(labelling, "predict_video", stopped)
        assert predict("videos/a.avi", "--out", tmp_path / "r") == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert len(read_csv(tmp_path / "r" / "a.csv")) == 7
    assert predict("videos/a.avi", "--out", tmp_path / "r") == 0
    assert len(read_csv(tmp_path / "r" / "a.csv")) == 20


def test_names_that_collide_are_refused(predict, folder, tmp_path, capsys):
    write_video(tmp_path / "a.avi", moving_frames(1))
    assert predict("videos", tmp_path / "a.avi", "--out", tmp_path / "r") == 2
    assert "would both be written to" in capsys.readouterr().err


class Camera:
    """Gives some frames, then none."""

    def __init__(self, index):
        self.frames = [frame.image[..., ::-1] for frame in moving_frames(6)] if index == 0 else []

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return bool(self.frames)

    def read(self):
        return (True, self.frames.pop(0)) if self.frames[1:] else (False, None)

    def release(self):
        self.frames = []


def test_a_camera_that_dies_leaves_its_rows(predict, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert predict("--camera", 0, "--out", tmp_path / "c.csv", "--smooth", "box:3") == 1
    assert "camera 0: gives no more frames" in capsys.readouterr().err
    table = read_csv(tmp_path / "c.csv")
    assert table.frame.tolist() == [1, 2, 3, 4, 5]
    assert np.isfinite(table.prob).all()
    before = (tmp_path / "c.csv").read_bytes()
    assert predict("--camera", 0, "--out", tmp_path / "c.csv") == 2
    assert "c.csv: is there already" in capsys.readouterr().err
    assert (tmp_path / "c.csv").read_bytes() == before
    assert predict("--camera", 1, "--out", tmp_path / "d.csv") == 1
    assert not (tmp_path / "d.csv").exists()
    capsys.readouterr()
    assert predict("--camera", 0, "--smooth", "none") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("camera 0 ")
    assert predict("--camera", 1) == 1
    assert "camera 1: cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize("last", [None, np.zeros((0, 0, 3), np.uint8), cv2.error("device lost")])
def test_a_camera_that_gives_rubbish_has_ended(predict, tmp_path, capsys, monkeypatch, last):
    class Rubbish(Camera):
        def read(self):
            if self.frames[1:]:
                return True, self.frames.pop(0)
            if isinstance(last, cv2.error):
                raise last
            return True, last

    monkeypatch.setattr(cv2, "VideoCapture", Rubbish)
    assert predict("--camera", 0, "--out", tmp_path / "c.csv", "--smooth", "none") == 1
    assert "camera 0: gives no more frames" in capsys.readouterr().err
    assert read_csv(tmp_path / "c.csv").frame.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("name", ["a.jpg", "a.mp4"])
def test_a_pipe_is_not_waited_for(predict, tmp_path, capsys, name):
    os.mkfifo(tmp_path / name)
    assert predict(tmp_path / name) == 1
    assert f"{name}: is no file but a pipe or device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name pictures, videos or folders, or --camera N"),
        (("videos", "--camera", 0), "one of the two"),
        (("videos", "--crops"), "is a video; leave it out"),
        (("videos", "--window", "5"), "--window goes with --smooth"),
        (("videos", "--smooth", "box:4"), "a window of 4 frames has no middle"),
        (("videos", "--smooth", "sharp:5"), "must be none or KERNEL:WINDOW"),
        (("videos", "--fill", "guess"), "fill 'guess': must be one of"),
        (("videos", "--every", "0"), "every=0 must be at least 1"),
        (("videos", "--abstain", "1.5"), "abstain=1.5 must be"),
        (("videos", "--batch-size", "0"), "--batch-size 0: must be at least 1"),
        (("--camera", 0, "--fill", "linear"), "--fill are for files; leave them out"),
        (("nowhere.mp4",), "no such picture, video or folder"),
        (("bundle/bundle.json",), "holds no video stream"),
    ],
)
def test_wrong_use_is_one_line(predict, capsys, arguments, message):
    assert predict(*arguments) in (1, 2)
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert message in printed.err


def test_a_video_that_was_changed_is_labelled_again(predict, tmp_path, capsys):
    videos, out = tmp_path / "videos", tmp_path / "out"
    for name, count in (("a", 4), ("b", 5)):
        write_video(videos / f"{name}.avi", moving_frames(count))
    assert predict(videos, "--out", out) == 0
    write_video(videos / "b.avi", moving_frames(7))
    capsys.readouterr()
    assert predict(videos, "--out", out) == 0
    assert "1 of 2 videos are done already" in capsys.readouterr().out
    assert len(read_csv(out / "b.csv")) == 7
