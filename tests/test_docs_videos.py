"""The commands and examples of docs/videos.md run, word for word, in order, on small videos."""

import re
import shlex
from pathlib import Path

import cv2
import pytest
from moving_faces import frame_of, motion, moving_frames, photo
from test_predict_videos import write_video
from test_submission import of_aligned_crops, write_sample
from tiny_bundles import tiny_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.predict import video as videos
from fer_jax.predict.table import read_csv

TEXT = (Path(__file__).parent.parent / "docs" / "videos.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


class Film:
    """A camera that shows a film, and then goes away."""

    def __init__(self, *_):
        self._frames = iter(moving_frames(4))

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return True

    def read(self):
        frame = next(self._frames, None)
        return (False, None) if frame is None else (True, frame.image[..., ::-1])

    def release(self):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the reader has: a bundle, a photo, videos, a sample, a list of segments."""
    folder = tmp_path_factory.mktemp("videos_page")
    save_bundle(of_aligned_crops(tiny_bundle("affwild2_expr")), folder / "run" / "bundle")
    picture = frame_of(photo(), motion(0))
    cv2.imwrite(str(folder / "photo.jpg"), picture[..., ::-1])
    for name in ("interview.mp4", "interviews/anna.mp4", "interviews/ben.mp4", "anna.mp4"):
        write_video(folder / name, moving_frames(10), codec="mp4v")
    write_video(folder / "affwild2" / "videos" / "one.avi", moving_frames(8))
    write_sample(folder / "sample.txt", [("one", number) for number in range(1, 11)])
    turns = "video,start_s,end_s,name\nanna.mp4,0,0.2,question\nben.mp4,0.1,0.4,answer\n"
    (folder / "turns.csv").write_text(turns)
    return folder


@pytest.fixture(scope="module")
def codes(folder):
    lines = "".join(blocks("sh")).splitlines()
    commands = [shlex.split(line) for line in lines]
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        patch.setattr(videos.cv2, "VideoCapture", _capture(cv2.VideoCapture))
        for program, name, *arguments in commands:
            words = [word for one in arguments for word in _expanded(one)]
            found.append((f"{program} {name}", main([name, *words])))
    return found


def _expanded(word):
    """As a shell does it."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def _capture(real):
    return lambda source, *more: Film() if source == 0 else real(source, *more)


def test_every_command_runs(codes, folder):
    names = ["predict"] * 5 + ["submit", "summarize", "summarize"]
    # The camera is unplugged after four frames.
    assert codes == [(f"fer-jax {name}", int(i == 4)) for i, name in enumerate(names)]
    assert read_csv(folder / "interview.csv").frame.tolist() == [*range(1, 11)]
    assert len(read_csv(folder / "live.csv")) == 4
    drawn = ["looked_at.html", "looked_at_annotated.mp4", "summary/summary.png"]
    for made in (*drawn, "results/ben.csv", "submission/submission.txt", "turns/summary.csv"):
        assert (folder / made).stat().st_size > 0


def test_the_examples_run(codes, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("(10,) (10, 8) [")
    assert len(printed) == 2
    assert (folder / "anna.html").exists()
