"""Annotated videos: every frame at its time, with its marks, its sound, or without its faces."""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from coded_videos import BOX, SIZE, number_in, write_coded
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import table_of

from fer_jax.colours import colours_of, rgb
from fer_jax.errors import FerJaxError
from fer_jax.faces.detector import Detector
from fer_jax.faces.videos import VideoFrame, read_video
from fer_jax.report import render
from fer_jax.report.hidden import HiddenFaces
from fer_jax.report.marks import draw_marks
from fer_jax.report.render import render_video


def table_of_frames(count, missing=(), box=BOX, **more):
    """Happiness; frames in `missing` have no face."""
    rows = []
    for number in range(1, count + 1):
        row = {"frame": number, "prob": (0.1, 0.2, 0.7), "box": box} | more
        if number in missing:
            row |= {"face_id": -1, "status": "no_face", "prob": (np.nan,) * 3, "box": [np.nan] * 4}
        rows.append(row)
    return table_of(rows)


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    images = []
    while (found := capture.read())[0]:
        images.append(np.ascontiguousarray(found[1][..., ::-1]))
    return images, capture.get(cv2.CAP_PROP_FPS)


def ffmpeg(*arguments):
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg here, which makes the video of this test")
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True,
                          capture_output=True, text=True)  # fmt: skip
    return done.stdout


def ffprobe(path, *entries):
    command = ["ffprobe", "-v", "error", "-of", "csv=p=0", *entries, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("kind", ["mp4", "avi"])
def test_frames_keep_their_order_and_rate(kind, tmp_path):
    video = write_coded(tmp_path / "a.avi", 25, fps=12.5)
    out = tmp_path / f"out.{kind}"
    render_video(table_of_frames(25), video, out)
    images, fps = frames_of(out)
    assert fps == pytest.approx(12.5)
    assert [number_in(one) for one in images] == [*range(1, 25), 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.avi", f"out.{kind}"]


def test_marks_are_at_the_face_of_their_frame(tmp_path):
    """The face is found from frame 11 on."""
    video = write_coded(tmp_path / "a.avi", 20)
    render_video(table_of_frames(20, missing=range(1, 11)), video, tmp_path / "out.mp4")
    images, _ = frames_of(tmp_path / "out.mp4")
    happy = rgb(colours_of(["Happiness"])[0])
    tag = (slice(BOX[1] - 14, BOX[1] - 2), slice(BOX[0], BOX[0] + 8))
    for number, image in enumerate(images, 1):
        near = np.linalg.norm(image[tag].astype(float) - happy, axis=2) < 60
        assert (near.mean() > 0.5) == (number > 10), number


def test_a_varying_rate_keeps_its_speed(tmp_path):
    """Against ffprobe's time stamps: frames at 25 a second, then at a third of that."""
    video = tmp_path / "vary.mkv"
    slower = "setpts='if(lt(N,10),N,10+(N-10)*3)/25/TB'"
    ffmpeg("-i", write_coded(tmp_path / "a.avi", 25), "-vf", slower, "-vsync", "vfr",
           "-c:v", "mjpeg", "-q:v", "2", "-enc_time_base", "1/1000", video)  # fmt: skip
    stamps = np.array(ffprobe(video, "-show_entries", "packet=pts_time"), float)
    assert np.ptp(np.diff(stamps)) > 0.05
    render_video(table_of_frames(25), video, tmp_path / "out.mp4")
    images, fps = frames_of(tmp_path / "out.mp4")
    assert len(images) / fps == pytest.approx(np.ptp(stamps) + 1 / fps, abs=1 / fps)
    for tick, image in enumerate(images):
        number = number_in(image) or 25
        assert stamps[number - 1] - stamps[0] <= (tick + 0.51) / fps
        if number < 25:
            assert stamps[number] - stamps[0] >= (tick + 0.49) / fps


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-3, 0.5), min_size=1, max_size=40), st.sampled_from([5.0, 25.0, 59.94]))
def test_what_is_written_lasts_as_long(steps, fps):
    times = 7 + np.cumsum([0, *steps])
    frames = [VideoFrame(i + 1, t, np.zeros((1, 1, 3), np.uint8)) for i, t in enumerate(times)]
    notes = []
    counts = [count for _, count in render._paced(frames, fps, notes)]
    assert not notes
    assert min(counts) >= 0
    assert len(counts) == len(frames)
    begins = np.cumsum([0, *counts[:-1]]) / fps
    assert np.abs(begins - (times - 7)).max() <= 0.5 / fps + 1e-9


def test_a_damaged_time_stamp_does_not_fill_the_disk():
    frames = [VideoFrame(i + 1, t, np.zeros((1, 1, 3), np.uint8)) for i, t in enumerate((0, 9e6))]
    notes = []
    counts = [count for _, count in render._paced(frames, 10.0, notes)]
    assert counts == [600, 1]
    assert "frame 1 is shown for 60 s instead of" in notes[0]


@pytest.fixture
def sounding(tmp_path):
    """A video with a tone of a codec."""

    def make(codec, name):
        ffmpeg("-i", write_coded(tmp_path / "a.avi", 25), "-f", "lavfi", "-i",
               "sine=frequency=440:duration=1", "-c:v", "copy", "-c:a", codec,
               tmp_path / name)  # fmt: skip
        return tmp_path / name

    return make


@pytest.mark.parametrize(("codec", "name", "kept"), [("aac", "s.mkv", True),
                                                     ("pcm_s16le", "s.mkv", False)])  # fmt: skip
def test_sound_is_kept(codec, name, kept, sounding, tmp_path):
    """As it is, or, where the kind of file does not take it, in another codec."""
    video, out = sounding(codec, name), tmp_path / "out.mp4"
    assert render_video(table_of_frames(25), video, out) == ()
    assert ffprobe(out, "-show_entries", "stream=codec_name") == ["mpeg4", "aac"]
    tones = [ffmpeg("-i", one, "-map", "0:a", "-c", "copy", "-f", "md5", "-") for one in
             (video, out)]  # fmt: skip
    assert (tones[0] == tones[1]) == kept
    assert len(frames_of(out)[0]) == 25


def test_without_ffmpeg_there_is_no_sound_and_it_is_said(sounding, tmp_path, monkeypatch):
    video, out = sounding("aac", "s.mkv"), tmp_path / "out.mp4"
    monkeypatch.setattr(render.shutil, "which", lambda name: None)
    (note,) = render_video(table_of_frames(25), video, out)
    assert note == "the annotated video has no sound: ffmpeg is not installed"
    assert len(frames_of(out)[0]) == 25


def blue(image):
    """How many pixels are of the square, that is, of the face."""
    image = image.astype(int)
    return int(((image[..., 2] > 150) & (image[..., 1] < 80)).sum())


def test_faces_are_covered_also_where_they_were_not_found(tmp_path):
    video = write_coded(tmp_path / "a.avi", 40)
    missing = [1, 2, *range(10, 31), 40]  # at the start, for most of a second, at the end
    table = table_of_frames(40, missing)
    render_video(table, video, tmp_path / "shown.mp4")
    assert min(map(blue, frames_of(tmp_path / "shown.mp4")[0])) > 500
    render_video(table, video, tmp_path / "hidden.mp4", faces=False)
    images, _ = frames_of(tmp_path / "hidden.mp4")
    assert len(images) == 40
    assert max(map(blue, images)) == 0


@pytest.mark.shared_data
def test_a_detector_finds_none_of_the_covered_faces(tmp_path):
    """Two people, looked for in each fifth frame; then in every frame of what is written."""
    video = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "videos/intel_female-and-male.gif"
    if not video.is_file():
        pytest.skip("FER_JAX_SHARED_DATA/videos holds no intel_female-and-male.gif")
    detector, rows, found = Detector(), [], 0
    for frame in read_video(video):
        boxes = detector(frame.image).boxes
        found += len(boxes)
        for face, box in enumerate(sorted(boxes.tolist())):  # from left to right
            if frame.number % 5 == 1:
                box = (*box[:2], box[2] - box[0], box[3] - box[1])
                rows.append({"frame": frame.number, "time_s": frame.time_s, "face_id": face,
                             "box": box, "prob": (1, 0, 0)})  # fmt: skip
    assert found > 100
    render_video(table_of(rows), video, tmp_path / "out.mp4", faces=False)
    assert sum(len(detector(image)) for image in frames_of(tmp_path / "out.mp4")[0]) == 0


def test_frames_in_which_no_face_is_known_are_coarse():
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    nobody = table_of([{"frame": 1, "face_id": -1}])
    HiddenFaces(nobody).cover(image, 0.0)
    blocks = image.reshape(9, 10, 16, 10, 3)
    assert (np.ptp(blocks, axis=(1, 3)) == 0).all()
    assert len(np.unique(blocks[:, 0, :, 0].reshape(-1, 3), axis=0)) > 100  # not one grey


def test_covers_move_with_the_face_and_reach_beyond_it():
    rows = [
        {"frame": 1, "time_s": 10, "prob": (1, 0, 0), "box": (0, 0, 20, 20)},
        {"frame": 2, "time_s": 12, "prob": (1, 0, 0), "box": (100, 40, 20, 40)},
        {"frame": 2, "time_s": 12, "prob": (1, 0, 0), "box": (300, 0, 10, 10), "face_id": 3},
    ]
    hidden = HiddenFaces(table_of(rows))
    np.testing.assert_allclose(hidden.boxes_at(10.0), [[-7, -7, 27, 27]])
    np.testing.assert_allclose(hidden.boxes_at(9.01), [[-7, -7, 27, 27]])
    assert len(hidden.boxes_at(8.9)) == 0
    middle, other = hidden.boxes_at(11.0)
    np.testing.assert_allclose(middle, [50 - 7, 20 - 10.5, 70 + 7, 50 + 10.5])
    np.testing.assert_allclose(other, [296.5, -3.5, 313.5, 13.5])
    assert len(hidden.boxes_at(13.1)) == 0


def tag_of(row, numbered=False):
    """Where the first row's colour is drawn: (left, top, right, bottom), of a tag without bars."""
    image = np.zeros((240, 320, 3), np.uint8)
    table = table_of([row | {"frame": 1, "prob": (0.0, 0.0, 1.0)}])
    draw_marks(image, table, [0], numbered=numbered)
    happy = (image == rgb(colours_of(["Happiness"])[0])).all(axis=2)
    found = cv2.connectedComponentsWithStats(happy.astype(np.uint8))[2][1:]
    left, top, width, height, _ = found[found[:, 4].argmax()].tolist()
    return left, top, left + width, top + height


def test_numbers_of_faces_and_frames_that_were_filled():
    row = {"box": (40.0, 200.0, 3.0, 3.0)}
    left, _, right, _ = tag_of(row)
    assert abs(left - 40) <= 1  # the line around the box
    assert tag_of(row, numbered=True)[2] > right + 5
    nobody = {"box": (np.nan,) * 4, "face_id": -1, "fill": "hold", "status": "no_face"}
    assert tag_of(nobody)[:2] == (2, 0)
    assert tag_of(nobody)[2] - 2 > right - left + 20  # "filled in"
    image = np.zeros((240, 320, 3), np.uint8)
    draw_marks(image, table_of([{"frame": 1, "box": (40.0, 200.0, 30.0, 30.0)}]), [0])
    assert not image[:190].any()  # a box, but neither a label nor bars


@pytest.mark.parametrize("height", [240, 480, 2160])
def test_marks_grow_with_the_frame(height):
    scale = height / 240
    image = np.zeros((height, height * 4 // 3, 3), np.uint8)
    draw_marks(image, table_of_frames(1, box=np.multiply(BOX, scale)), [0])
    happy = rgb(colours_of(["Happiness"])[0])
    above = image[: round((BOX[1] - 2) * scale), round(BOX[0] * scale) :]
    size = (above == happy).all(axis=2).any(axis=1).sum()
    assert size >= 15
    assert 0.04 <= size / height <= 0.08
    panel = image[round(BOX[1] * scale) :, round(90 * scale) :]
    assert (panel.max(axis=2) > 200).sum() > (0.1 * height) ** 2


def test_bars_are_as_long_as_the_probabilities():
    image = np.zeros((480, 640, 3), np.uint8)
    table = table_of([{"frame": 1, "prob": (0.5, 0.3, 0.2), "box": (100, 100, 100, 100)}])
    draw_marks(image, table, [0])
    longest = []
    for colour in colours_of(table.classes):
        bars = (image[:, 210:] == rgb(colour)).all(axis=2)
        longest.append(bars.sum(axis=1).max())
    np.testing.assert_allclose(longest, np.array([0.5, 0.3, 0.2]) * 56, atol=1)  # 4 letters of 14


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(*[st.floats(-1e12, 1e12)] * 2, *[st.floats(0, 1e12)] * 2), min_size=1, max_size=8
    ),
    st.tuples(st.integers(2, 200), st.integers(2, 200)),
    st.booleans(),
)
def test_any_box_can_be_drawn_and_covered(boxes, size, known):
    rows = [{"frame": 1, "face_id": k, "box": box} for k, box in enumerate(boxes)]
    for row in rows:
        row |= {"prob": (0.2, 0.3, 0.5)} if known else {}
    table = table_of([*rows, {"frame": 1, "face_id": 99, "box": [np.nan] * 4, "prob": (1, 0, 0)}])
    image = np.zeros((*size, 3), np.uint8)
    draw_marks(image, table, range(len(table)))
    HiddenFaces(table).cover(image, 0.0)


def test_names_of_classes_may_be_of_any_language():
    pictures = []
    for name in ("Überraschung", "Uberraschung"):
        image = np.zeros((240, 320, 3), np.uint8)
        rows = [{"frame": 1, "prob": (1.0, 0.0), "box": BOX, "raw": (1.0, 0.0)}]
        draw_marks(image, table_of(rows, classes=(name, "b")), [0])
        pictures.append(image)
    assert (pictures[0] != pictures[1]).any()


def test_what_cannot_be_rendered(tmp_path, monkeypatch):
    video = write_coded(tmp_path / "a.avi", 5)
    table = table_of_frames(5)
    with pytest.raises(FerJaxError, match=r"written as .mp4 or .avi"):
        render_video(table, video, tmp_path / "out.mkv")
    with pytest.raises(FerJaxError, match="is the video itself"):
        render_video(table, video, video)
    with pytest.raises(FerJaxError, match="no such file"):
        render_video(table, tmp_path / "none.mp4", tmp_path / "out.mp4")
    two = table_of([{"frame": 1, "video": "a"}, {"frame": 1, "video": "b"}])
    with pytest.raises(FerJaxError, match="of 2 videos"):
        render_video(two, video, tmp_path / "out.mp4")

    class FullDisk:
        """No subclass: OpenCV's own types crash as one."""

        def __init__(self, *arguments):
            self.writer, self.left = real(*arguments), 3
            self.isOpened, self.release = self.writer.isOpened, self.writer.release

        def write(self, image):
            self.left -= 1
            if self.left >= 0:
                self.writer.write(image)

    real = cv2.VideoWriter
    monkeypatch.setattr(render.cv2, "VideoWriter", FullDisk)
    with pytest.raises(FerJaxError, match="3 of 5 frames could be written"):
        render_video(table, video, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]


def test_a_damaged_video_is_told(tmp_path):
    video = write_coded(tmp_path / "a.avi", 30)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    notes = render_video(table_of_frames(30), video, tmp_path / "out.mp4")
    assert any("frames could be decoded" in note for note in notes)
    assert 5 < len(frames_of(tmp_path / "out.mp4")[0]) < 30
    assert frames_of(tmp_path / "out.mp4")[0][0].shape == (SIZE[1], SIZE[0], 3)
