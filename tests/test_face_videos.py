"""`fer-jax prepare videos`: faces without labels from any videos."""

import cv2
import numpy as np
import pytest
from moving_faces import SIZE, motion, moving_frames, photo

from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData
from fer_jax.data.face_videos import face_videos
from fer_jax.data.images import decode_image
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import template, transform
from fer_jax.faces.detector import Detector
from fer_jax.train.pretrain_config import default_config, freeze
from fer_jax.train.pretrain_rows import open_faces

EVERY = 4
AWAY = range(8, 12)


def write_video(path, pictures):
    """Motion JPEG, of which every frame comes out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, SIZE)
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One video of one face that is away for a while; one of nobody; one that is hidden."""
    folder = tmp_path_factory.mktemp("films") / "films"
    pictures = [frame.image for frame in moving_frames(20, away=AWAY)]
    write_video(folder / "deep" / "er" / "a.avi", pictures)
    write_video(folder / "nobody.avi", [np.full_like(pictures[0], 90)] * 6)
    write_video(folder / ".hidden" / "b.avi", pictures[:4])
    (folder / "notes.txt").write_text("no video")
    return folder


def prepare(folder, out, *options):
    command = ["prepare", "videos", str(folder), "--out", str(out), "--workers", "0"]
    return main([*command, "--every", str(EVERY), *options])


@pytest.fixture(scope="module")
def data(folder):
    assert prepare(folder, folder.parent / "data", "--no-clean") == 0
    return FaceData.open(folder.parent / "data")


def test_every_fourth_frame_gives_its_aligned_face(data):
    wanted = [index + 1 for index in range(0, 20, EVERY) if index not in AWAY]
    assert data.index["frame"].tolist() == wanted
    assert set(data.index["split"]) == {"train"}
    assert (data.index["label"] == -1).all()
    names = ("video", "subject", "source", "template")
    for name, value in zip(names, ("deep/er/a.avi",) * 2 + ("films", "arcface_112"), strict=True):
        assert set(data.index[name]) == {value}
    assert data.index["key"][0] == "deep/er/a.avi/00001.jpg"
    assert (data.index["score"] > 0.6).all()
    # Faces are where the photo's own face comes to lie, whichever frame they are of.
    (points,) = Detector()(photo()).points[:1]
    for row, number in enumerate(wanted):
        face = decode_image(data.records.image(row))
        assert face.shape == (112, 112, 3)
        shown = transform(motion(number - 1), points)
        side = np.hypot(*(shown[1] - shown[0])) / np.hypot(*(template(112)[1] - template(112)[0]))
        assert data.index["size"][row] == pytest.approx(112 * side, rel=0.1)
        (found,) = Detector()(cv2.resize(face, (336, 336))).points[:1]
        assert np.abs(found / 3 - template(112)).max() < 6


def test_two_faces_of_a_frame_are_numbered_from_the_left(tmp_path):
    half = cv2.resize(photo(), None, fx=0.3, fy=0.3)[: SIZE[1], : SIZE[0] // 2]
    picture = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    for start, blue in ((0, 1.0), (SIZE[0] // 2, 0.6)):
        picture[: len(half), start : start + half.shape[1]] = half * (1.0, 1.0, blue)
    write_video(tmp_path / "two.avi", [picture] * 2)
    (video,) = face_videos(tmp_path / "two.avi", every=1)[0]
    first, second, *rest = video.examples()
    assert [one.key for one in (first, second)] == ["two.avi/00001.jpg", "two.avi/00001.jpg#1"]
    assert len(rest) == 2
    blue = [decode_image(one.encoded)[..., 2].mean() for one in (first, second)]
    assert blue[0] > 1.2 * blue[1]


def test_pretraining_reads_it(data, folder):
    config = default_config()
    config.data, config.selection, config.batch_size = str(folder.parent / "data"), 0.0, 4
    rows, probe = open_faces(freeze(config))
    assert sum(len(kept) for _, kept in rows.train) == len(data)
    assert (probe, rows.template) == (None, "arcface_112")


def test_cleaning_leaves_out_small_faces_unless_told(folder, tmp_path, capsys):
    assert prepare(folder, tmp_path / "data", "--min-size", "300") == 1
    assert "no face can be used: " in capsys.readouterr().err
    assert prepare(folder, tmp_path / "data", "--min-size", "8", "--min-sharpness", "0") == 0
    said = capsys.readouterr().out
    assert "no label" in said
    assert "Happiness" not in said
    assert (tmp_path / "data" / "cleaning.csv").exists()
    assert not (tmp_path / "data.staging").exists()


def test_a_damaged_video_stops_the_run_or_gives_what_it_has(folder, tmp_path, capsys):
    whole = (folder / "deep" / "er" / "a.avi").read_bytes()
    films = tmp_path / "films"
    films.mkdir()
    (films / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (films / "empty.mp4").write_bytes(b"")
    assert prepare(films, tmp_path / "data", "--no-clean") == 1
    assert "cut.avi: is truncated by" in capsys.readouterr().err
    assert (tmp_path / "data.staging").exists()
    assert prepare(films, tmp_path / "data", "--no-clean", "--skip-bad") == 0
    skipped = (tmp_path / "data" / "skipped.csv").read_text()
    assert "cut.avi" in skipped
    assert "empty.mp4" in skipped
    assert len(FaceData.open(tmp_path / "data")) >= 1


def test_what_changes_the_faces_is_looked_at_again(folder):
    prints = {
        (every, size): face_videos(folder, every=every, size=size)[0][0].fingerprint()
        for every, size in ((1, 112), (2, 112), (1, 128))
    }
    assert len(set(prints.values())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every 0 must be at least 1"),
        ({"size": 8}, r"size 8 is not in 32..1024"),
        ({"source": "absent"}, "absent: no such folder or video"),
        ({"source": "."}, r"\.: holds no video"),
    ],
)
def test_wrong_use(options, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FerJaxError, match=message):
        face_videos(**{"source": folder, **options})
