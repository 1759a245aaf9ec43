"""Reading videos: frames written here and counted there, and files with every kind of damage."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_jax.faces.containers import missing_bytes
from fer_jax.faces.detector import Detector
from fer_jax.faces.videos import VideoError, VideoReader, read_video

FORMATS = [("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v")]


def level(number: int) -> int:
    """The grey of frame `number`, 17 from its neighbours'; compression changes it by up to 6."""
    return 10 + number * 17 % 230


def write_video(
    path: Path, codec: str, frames: int = 30, fps: float = 25.0, size: tuple[int, int] = (96, 64)
) -> Path:
    """Frame `number` is grey of `level(number)`, with a red patch in its upper left corner."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for number in range(1, frames + 1):
        image = np.full((size[1], size[0], 3), level(number), np.uint8)
        image[: size[1] // 4, : size[0] // 4] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


def damaged(path: Path, seed: int, changes: int) -> Path:
    """A copy in which some bytes are others."""
    rng = np.random.default_rng(seed)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[rng.integers(0, len(content), changes)] = rng.integers(0, 256, changes)
    copy = path.with_stem(f"damaged{seed}")
    copy.write_bytes(content.tobytes())
    return copy


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    copy = path.with_stem("cut")
    copy.write_bytes(content[: int(len(content) * share)])
    return copy


@pytest.mark.parametrize(("extension", "codec"), FORMATS)
@pytest.mark.parametrize("count", [1, 2, 30, 101])
def test_every_frame_once_and_in_order(tmp_path, extension, codec, count):
    reader = read_video(write_video(tmp_path / f"grey.{extension}", codec, count))
    assert reader.size == (96, 64)
    assert reader.fps == pytest.approx(25.0)
    frames = list(reader)
    assert [frame.number for frame in frames] == list(range(1, count + 1))
    assert reader.count == count
    assert reader.fault == ""
    for frame in frames:
        assert frame.image.shape == (64, 96, 3)
        assert frame.image.dtype == np.uint8
        assert abs(frame.image[32:, 48:].mean() - level(frame.number)) < 7
        red = frame.image[2:14, 2:22].reshape(-1, 3).mean(axis=0)
        assert red[0] > 200 > 60 > red[1:].max()
    times = [frame.time_s for frame in frames]
    np.testing.assert_allclose(times, np.arange(count) / 25, atol=2e-3)  # Matroska counts in ms


def test_each_iteration_begins_at_the_first_frame(tmp_path):
    reader = read_video(write_video(tmp_path / "grey.avi", "MJPG", 12))
    for frame in reader:
        if frame.number == 5:
            break
    assert reader.count == 5
    assert [frame.number for frame in reader] == list(range(1, 13))
    assert reader.count == 12


@pytest.mark.parametrize("fps", [12.5, 23.976, 60.0])
def test_times_follow_the_rate(tmp_path, fps):
    reader = read_video(write_video(tmp_path / "grey.mp4", "mp4v", 40, fps))
    assert reader.fps == pytest.approx(fps, rel=1e-3)
    times = [frame.time_s for frame in reader]
    np.testing.assert_allclose(times, np.arange(40) / fps, atol=1e-3)


@pytest.mark.parametrize("name", ["12:30.mp4", "a %03d b.mp4", "Fräulein 映画.mp4", "-x.mp4"])
def test_names_are_nothing_but_names(tmp_path, name, monkeypatch):
    write_video(tmp_path / "grey.mp4", "mp4v", 7).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(read_video(name))) == 7


def test_series_of_pictures_is_no_video(tmp_path):
    """Other readers of OpenCV take a missing `shot_01.avi` for pictures shot_01 to shot_99."""
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"shot_{number:02d}.jpg"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(VideoError, match="no such file"):
        read_video(tmp_path / "shot_%02d.jpg")


@pytest.mark.parametrize(
    ("turn", "matrix"),
    [
        (1, (0, 1, 0, -1, 0, 0)),  # clockwise quarter turns for showing
        (2, (-1, 0, 0, 0, -1, 0)),
        (3, (0, -1, 0, 1, 0, 0)),
    ],
)
def test_rotation_is_applied(tmp_path, turn, matrix):
    """Phones store portraits lying down, with a matrix in the track's header."""
    path = write_video(tmp_path / "grey.mp4", "mp4v", 5)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, u, c, d, v = (value * 65536 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, u, c, d, v, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))
    reader = read_video(path)
    assert reader.size == ((64, 96) if turn % 2 else (96, 64))
    frame = next(iter(reader))
    assert frame.image.shape[:2] == reader.size[::-1]
    rows, columns = np.nonzero(frame.image[..., 0].astype(int) - frame.image[..., 1] > 100)
    corner = rows.mean() > frame.image.shape[0] / 2, columns.mean() > frame.image.shape[1] / 2
    # From the upper left clockwise: upper right, lower right, lower left.
    assert corner == {1: (False, True), 2: (True, True), 3: (True, False)}[turn]


def test_frame_of_8k(tmp_path):
    path = write_video(tmp_path / "large.avi", "MJPG", 2, size=(7680, 4320))
    frames = list(read_video(path))
    assert [frame.image.shape for frame in frames] == [(4320, 7680, 3)] * 2


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("Dear Sir or Madam,\n" * 200)
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(50_000))
    whole = write_video(tmp_path / "whole.mp4", "mp4v")
    headless = cut(whole, 0.6)  # the index of frames is at the end
    reasons = {
        tmp_path / "missing.mp4": "no such file",
        tmp_path / "folder.mp4": "is a folder",
        tmp_path / "empty.mp4": "no video stream",
        tmp_path / "text.mp4": "no video stream",
        tmp_path / "noise.avi": "no video stream",
        headless: "truncated by",
    }
    for path, reason in reasons.items():
        with pytest.raises(VideoError) as caught:
            read_video(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_file_without_a_frame_is_said(tmp_path):
    """The header is whole, the pictures are gone."""
    path = write_video(tmp_path / "grey.avi", "MJPG", 5)
    content = path.read_bytes()
    start = content.index(b"movi") + 4
    path.write_bytes(content[:start] + bytes(len(content) - start))
    with pytest.raises(VideoError, match=r"no frame|no video stream"):
        read_video(path)


@pytest.mark.parametrize(("extension", "codec"), [("avi", "MJPG"), ("mkv", "mp4v")])
@pytest.mark.parametrize("share", [0.4, 0.8, 0.97])
def test_truncated_file_gives_what_it_has_and_says_so(tmp_path, extension, codec, share):
    whole = write_video(tmp_path / f"grey.{extension}", codec, 60)
    lost = whole.stat().st_size - int(whole.stat().st_size * share)
    reader = read_video(cut(whole, share))
    frames = list(reader)
    # At 97 % only the index at the end is gone.
    assert 60 * share - 12 < len(frames) <= (60 if share > 0.9 else 59)
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    for frame in frames[:-1]:
        assert abs(frame.image[32:, 48:].mean() - level(frame.number)) < 7
    assert f"truncated by {lost} bytes" in reader.fault
    assert f"{len(frames)} frames" in reader.fault


@pytest.mark.parametrize(("extension", "codec"), FORMATS)
def test_missing_bytes_by_count(tmp_path, extension, codec):
    path = write_video(tmp_path / f"grey.{extension}", codec, 20)
    content = path.read_bytes()
    assert missing_bytes(path) == 0
    for cut_off in (1, 100, len(content) // 3):
        path.write_bytes(content[:-cut_off])
        # The index that ends an MP4 is a box of its own: if all of it is gone nobody knows of it.
        assert missing_bytes(path) == cut_off or (extension == "mp4" and cut_off > 100)
        assert 0 < missing_bytes(path) <= cut_off
    path.write_bytes(content + b"something that was appended \x00\x01\x02")
    assert missing_bytes(path) == 0


class Capture:
    """Stands in for a file: frames with given time stamps in ms; None cannot be decoded."""

    def __init__(self, stamps, announced=None, fps=10.0):
        self.stamps, self.fps = list(stamps), fps
        self.announced = len(stamps) if announced is None else announced
        self.position = -1

    def read(self):
        self.position += 1
        if self.position >= len(self.stamps) or self.stamps[self.position] is None:
            return False, None
        return True, np.zeros((4, 6, 3), np.uint8)

    def get(self, name):
        if name == cv2.CAP_PROP_POS_MSEC:
            return self.stamps[self.position]
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.announced}[name]

    def release(self):
        pass


def frames_of(tmp_path, monkeypatch, *args, **options):
    """(numbers, times, fault) of a video with such time stamps."""
    path = tmp_path / "any.raw"
    path.write_bytes(b"any")
    monkeypatch.setattr(VideoReader, "_open", lambda _: Capture(*args, **options))
    reader = read_video(path)
    frames = list(reader)
    times = [round(frame.time_s, 6) for frame in frames]
    return [frame.number for frame in frames], times, reader.fault


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([0, 100, 200, 300], [0, 0.1, 0.2, 0.3]),
        ([0, 90, 230, 290], [0, 0.09, 0.23, 0.29]),  # a rate that varies
        ([0, 0, 0, 0], [0, 0.1, 0.2, 0.3]),
        ([-5, -5, 210, 310], [0, 0.1, 0.21, 0.31]),
        ([0, 100, 50, 300], [0, 0.1, 0.2, 0.3]),
        ([np.nan, np.inf, 250, 200], [0, 0.1, 0.25, 0.35]),
    ],
)
def test_times_grow_whatever_the_stamps(tmp_path, monkeypatch, stamps, times):
    numbers, found, fault = frames_of(tmp_path, monkeypatch, stamps)
    assert numbers == [1, 2, 3, 4]
    assert found == pytest.approx(times)
    assert fault == ""


@pytest.mark.parametrize("fps", [0.0, -1.0, np.nan, 90_000.0])
def test_rate_that_is_not_sane(tmp_path, monkeypatch, fps):
    assert frames_of(tmp_path, monkeypatch, [0, 0, 0], fps=fps)[1] == [0, 0.04, 0.08]


def test_numbers_leap_over_what_cannot_be_decoded(tmp_path, monkeypatch):
    """Else each label after the damage would belong to another frame."""
    numbers, times, fault = frames_of(tmp_path, monkeypatch, [0, 100, None, 300, None, None, 600])
    assert numbers == [1, 2, 4, 7]
    assert times == pytest.approx([0, 0.1, 0.3, 0.6])
    assert fault == "seems damaged; 4 of 7 frames could be decoded"
    # One failure for three frames that are gone, and one where none is.
    numbers, _, fault = frames_of(tmp_path, monkeypatch, [0, None, 400, None, 500], announced=6)
    assert numbers == [1, 5, 6]
    assert fault == "seems damaged; 3 of 6 frames could be decoded"
    # A stamp that is beyond the file's length is not believed.
    assert frames_of(tmp_path, monkeypatch, [0, None, 1e9, 1e9 + 100])[0] == [1, 4, 5]
    # Without time stamps each failure is a frame.
    assert frames_of(tmp_path, monkeypatch, [0, 0, None, 0])[0] == [1, 2, 4]
    assert frames_of(tmp_path, monkeypatch, [None, None, 200, 300], announced=4)[0] == [3, 4]


@pytest.mark.parametrize(
    ("stamps", "announced", "damaged"),
    [
        ([0, 100, 200], 3, False),
        ([0, 100, 250, 290], 4, False),  # a rate that varies
        ([100 * k for k in range(95)], 98, False),  # an edit list hides some
        ([100 * k for k in range(80)], 98, True),
        ([0, 100, 300, 400], 5, True),  # one is gone, and its time is empty
        ([0, 100, 200], 0, False),
    ],
)
def test_what_counts_as_damage(tmp_path, monkeypatch, stamps, announced, damaged):
    numbers, _, fault = frames_of(tmp_path, monkeypatch, stamps, announced)
    assert numbers == list(range(1, len(stamps) + 1))
    assert bool(fault) == damaged


_READ_ALL = """
import sys
from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import read_video
for path in sys.argv[1:]:
    try:
        reader = read_video(path)
        numbers = [frame.number for frame in reader]
        assert numbers == sorted(set(numbers)) and reader.count == len(numbers)
    except FerJaxError:
        pass
print("done")
"""


def test_damaged_files_neither_stop_nor_print(tmp_path):
    """Thirty files with random damage, and what is no video; the file descriptor is read."""
    paths = [tmp_path / "text.mp4", tmp_path / "missing.mp4"]
    paths[0].write_text("no video\n" * 500)
    for extension, codec in FORMATS:
        whole = write_video(tmp_path / f"grey.{extension}", codec, 25)
        paths.append(cut(whole, 0.5))
        paths += [damaged(whole, seed, 3 * 4 ** (seed % 4)) for seed in range(9)]
    environment = {k: v for k, v in os.environ.items() if k != "OPENCV_FFMPEG_LOGLEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, *map(str, paths)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    # FFmpeg would have much to say, and says it to those who ask.
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, *map(str, paths)],
        capture_output=True,
        text=True,
        env={**environment, "OPENCV_FFMPEG_LOGLEVEL": "24"},
    )
    assert len((done.stdout + done.stderr).splitlines()) > 5


def shared_videos() -> Path:
    folder = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "videos"
    if not (folder / "no_face.mp4").is_file():
        pytest.skip("FER_JAX_SHARED_DATA/videos holds no no_face.mp4")
    return folder


# (frames by PyAV 18.1 and its own FFmpeg, announced by the file, time of the last frame)
REAL = {
    "WolfgangLanger_Pexels.mp4": (472, 472, 19.6446),
    "clm_cap13_edit2.mp4": (765, 765, 30.56),
    "face_noface.mov": (169, 169, 6.3604),  # 26.4 frames a second, between 24 and 73
    "intel_asl_no.mkv": (66, 66, 2.167),
    "intel_asl_yes.mkv": (65, 66, 2.134),
    "intel_female-and-male.gif": (56, 56, 4.58),
    "intel_male.gif": (62, 62, 5.08),
    "no_face.mp4": (95, 98, 3.9167),  # an edit list hides three
    "noface_face.mov": (169, 169, 6.3453),
    "single_face.mp4": (72, 72, 2.3667),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_real_videos_are_counted_as_by_another_decoder(name):
    count, announced, last_s = REAL[name]
    reader = read_video(shared_videos() / name)
    times = [frame.time_s for frame in reader]
    assert (reader.count, reader.announced, reader.fault) == (count, announced, "")
    assert times[0] == 0
    assert times[-1] == pytest.approx(last_s, abs=1e-3)
    assert (np.diff(times) > 0).all()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("face_noface.mov", 0.35, 0.65),
        ("noface_face.mov", 0.35, 0.65),
        ("no_face.mp4", 0.0, 0.0),
        ("single_face.mp4", 1.0, 1.0),
        ("WolfgangLanger_Pexels.mp4", 1.0, 1.0),
    ],
)
def test_faces_of_real_videos(name, low, high):
    """Seen in each fifth frame: 0.41, 0.41, 0, 1, 1."""
    detector = Detector()
    frames = [f.image for f in read_video(shared_videos() / name) if f.number % 5 == 1]
    share = np.mean([len(detector(image)) > 0 for image in frames])
    print(name, share)
    assert low <= share <= high
