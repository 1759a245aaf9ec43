"""What `fer-jax predict` draws beside a table: files, what is kept, what each view said."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_faces import moving_frames
from pictures import write_picture
from test_predict_videos import write_video
from test_video_prediction import aligned_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.faces.videos import read_video
from fer_jax.models import fusion
from fer_jax.predict.face_sample import FaceSample
from fer_jax.predict.frame_faces import AlignedFace, FaceSearch, FrameFaces, faces_of_frames
from fer_jax.predict.recognizer import load
from fer_jax.report.beside import Beside, views_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    write_video(folder / "videos" / "a.avi", moving_frames(10, away=range(4, 6)))
    write_video(folder / "videos" / "b.avi", moving_frames(4))
    save_bundle(aligned_bundle(), folder / "bundle")
    return folder


@pytest.fixture
def predict(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")

    def run(*arguments):
        return main(["predict", *map(str, arguments), "--bundle", "bundle", "--batch-size", "4"])

    return run


def frames_of(number, each):
    """Frames whose faces carry their place as a picture."""
    faces = iter(range(number))
    for start in range(0, number, each):
        found = tuple(
            AlignedFace(0, np.zeros(4), "ok", np.full((1, 1, 3), next(faces) % 256, np.uint8))
            for _ in range(min(each, number - start))
        )
        yield FrameFaces(start + 1, 0.0, True, found)


@settings(deadline=None, max_examples=60)
@given(number=st.integers(0, 250), each=st.integers(1, 4), most=st.integers(2, 16))
def test_a_sample_is_even(number, each, most):
    sample = FaceSample(most)
    assert sum(len(frame.faces) for frame in sample.of(frames_of(number, each))) == number
    kept = [int(image[0, 0, 0]) for image in sample.images]
    step = kept[1] if len(kept) > 1 else 1
    assert kept == [*range(0, number, step)]
    assert len(kept) <= most
    assert len(kept) >= min(number, most // 2)


def test_one_video(predict, folder, tmp_path, capsys):
    out = tmp_path / "a.csv"
    assert predict("videos/a.avi", "--out", out, "--timeline", "--report", "--annotate") == 0
    names = ["a.csv", "a.html", "a.png", "a_annotated.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    drawn = [str(tmp_path / name) for name in ("a.png", "a.html", "a_annotated.mp4")]
    assert capsys.readouterr().out.splitlines()[1:4] == drawn
    assert len([*read_video(tmp_path / "a_annotated.mp4")]) == 10
    page = (tmp_path / "a.html").read_text()
    assert "Which view spoke for it" in page
    assert "searched in one of 5 of them" in page
    assert page.count("data:image/jpeg") >= 1


def test_a_folder_goes_on_and_draws_what_is_new(predict, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict("videos", "--out", out, "--report") == 0
    tables = {path: path.stat().st_mtime_ns for path in out.glob("*.csv")}
    assert len(tables) == 2
    first = {path: path.read_bytes() for path in out.glob("*.html")}
    assert all(b"data:image/jpeg" in page for page in first.values())
    assert predict("videos", "--out", out, "--report") == 0
    assert "2 of 2 videos are done already" in capsys.readouterr().out
    # Another wish is drawn beside the tables as they are; a page with faces is made again.
    assert predict("videos", "--out", out, "--timeline") == 0
    assert {path.name for path in out.glob("*.png")} == {"a.png", "b.png"}
    assert predict("videos", "--out", out, "--report", "--no-faces") == 0
    assert not any(b"data:image/jpeg" in path.read_bytes() for path in out.glob("*.html"))
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.csv")} == tables
    (out / "b.html").unlink()
    assert predict("videos", "--out", out, "--report", "--no-faces") == 0
    assert "1 of 2 videos are done already" in capsys.readouterr().out
    assert (out / "b.html").exists()
    document = json.loads((out / "a.json").read_text())
    assert document["beside"] == {"report": False, "timeline": True}
    assert document["views"]["frames"] > 4


def test_a_report_made_later_says_what_it_lacks(predict, folder, tmp_path, capsys):
    assert predict("videos/a.avi", "--out", tmp_path) == 0
    assert predict("videos/a.avi", "--out", tmp_path, "--report") == 0
    assert "the report leaves out which view spoke" in capsys.readouterr().out
    (tmp_path / "a.csv").unlink()
    assert predict("videos/a.avi", "--out", tmp_path, "--report") == 0
    assert "leaves out" not in capsys.readouterr().out
    assert "Which view spoke for it" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["videos/a.avi", "--report"], "are written beside --out; name it"),
        (["videos", "--out", "all.csv", "--report"], "is of one; name a folder"),
        (["videos/a.avi", "--out", "o.csv", "--no-faces"], "--no-faces goes with --report or"),
    ],
)
def test_what_cannot_be_drawn_is_told(predict, arguments, message, capsys):
    assert predict(*arguments) == 2
    assert message in capsys.readouterr().err


def test_pictures_have_no_timeline(predict, tmp_path, capsys):
    write_picture(tmp_path / "one.png", np.zeros((40, 40, 3), np.uint8))
    assert predict(tmp_path / "one.png", "--out", tmp_path / "o.csv", "--timeline") == 2
    assert "are of videos; leave them out" in capsys.readouterr().err


def test_what_the_views_said(folder):
    """Against the fusion called by hand on features of the same faces."""
    recognizer = load(folder / "bundle", batch_size=4)
    sample = FaceSample()
    frames = faces_of_frames(read_video(folder / "videos" / "a.avi"), FaceSearch(), 112)
    assert len([*sample.of(frames)]) == 10
    found = views_of(recognizer, sample)
    features = recognizer.features(np.stack(sample.images))
    config, params = recognizer.bundle.models["fusion"]
    given = {name: features[name] for name in ("main", "aux")}

    def chosen(features):
        logits = np.asarray(fusion.apply(config, params, features)[0], np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    whole = chosen(given)
    choice, rows = whole.argmax(axis=1), np.arange(len(whole))
    for name in given:
        mean = np.broadcast_to(given[name].mean(axis=0), given[name].shape)
        lost = whole[rows, choice] - chosen({**given, name: mean})[rows, choice]
        assert found["change"][name] == pytest.approx(lost.mean(), abs=1e-5)
    assert found["frames"] == len(sample.images) > 4
    assert views_of(recognizer, FaceSample()) is None
    assert not Beside(timeline=True).sample(recognizer)
