"""`fer-jax predict` on videos, folders and a camera: what is written, told, and gone on with."""

import json
import os

import cv2
import numpy as np
import pytest
from moving_faces import SIZE, moving_frames
from test_table import assert_tables_equal
from test_video_prediction import aligned_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
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
        return main(["predict", *map(str, arguments), "--bundle", "bundle", "--batch-size", "4"])

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
    assert "a.csv: is there, and not of such a run" in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_text() == "mine"
    assert predict("videos", "--out", tmp_path, "--overwrite") == 0
    assert len(read_csv(tmp_path / "a.csv")) == 20


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
