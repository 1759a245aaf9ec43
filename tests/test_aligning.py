"""`fer-jax prepare --align`: against the template, other faces, and pictures of nobody."""

import cv2
import numpy as np
import pytest
from moving_faces import SIZE, frame_of, motion, photo

from fer_jax.cli.main import main
from fer_jax.data.aligning import align_picture
from fer_jax.data.dataset import FaceData
from fer_jax.data.images import decode_image
from fer_jax.faces.alignment import template
from fer_jax.faces.detector import Detector


@pytest.fixture(scope="module")
def shifted():
    """A picture with a face at its side."""
    return frame_of(photo(), motion(0, left=130.0))


def test_a_face_comes_to_lie_on_the_template(shifted):
    found = align_picture(shifted, None, 1.2, 112)
    assert found.score > 0.6
    again = Detector()(found.face).points[0]
    assert np.abs(again - template(112)).max() < 8  # measured: 5.3
    as_it_is = Detector()(cv2.resize(shifted, (112, 112))).points[0]
    assert np.abs(as_it_is - template(112)).max() > 20


def test_the_face_in_the_box_is_meant():
    small, large = frame_of(photo(), motion(0)), cv2.resize(photo(), None, fx=2, fy=2)
    both = np.zeros((large.shape[0], large.shape[1] + SIZE[0], 3), np.uint8)
    both[: SIZE[1], : SIZE[0]] = small
    both[:, SIZE[0] :] = large
    box = tuple(Detector()(small).boxes[0].tolist())
    side = align_picture(small, None, 1.2, 112).side
    assert align_picture(both, box, 1.2, 112).side == pytest.approx(side, rel=0.05)  # 0.012
    assert align_picture(both, None, 1.2, 112).side > 4 * side


@pytest.mark.parametrize("box", [None, (10.0, 20.0, 50.0, 60.0)])
def test_a_picture_without_a_face_is_taken_as_it_is(box):
    image = np.tile(np.arange(120, dtype=np.uint8)[:, None, None], (1, 120, 3))
    found = align_picture(image, box, 1.0, 112)
    assert found.score == 0
    assert found.side == (120 if box is None else 40)
    # The gradient of the picture, or of the square in it.
    first, last = (0, 119) if box is None else (20, 59)
    assert abs(int(found.face[0, 0, 0]) - first) <= 1
    assert abs(int(found.face[-1, -1, 0]) - last) <= 1


def test_prepare_stores_aligned_faces(shifted, tmp_path, capsys):
    for name, image in (("a", shifted), ("b", np.full((60, 60, 3), 90, np.uint8))):
        folder = tmp_path / "faces" / "happiness"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])
    arguments = ["prepare", "images", str(tmp_path / "faces"), "--labels", "expw", "--align"]
    assert main([*arguments, "--out", str(tmp_path / "data")]) == 0
    data = FaceData.open(tmp_path / "data")
    assert data.template == "arcface_112"
    scores = dict(zip(data.index["key"].tolist(), data.index["score"].tolist(), strict=True))
    assert scores["happiness/a.png"] > 0.6
    assert scores["happiness/b.png"] == 0
    whole = align_picture(shifted, None, 1.2, 112)
    row = data.index["key"].tolist().index("happiness/a.png")
    np.testing.assert_array_equal(decode_image(data.records.image(row)), whole.face)
    # Cleaning can leave out those without a face.
    out = str(tmp_path / "clean")
    assert main([*arguments, "--clean", "--min-sharpness", "0", "--out", out]) == 0
    assert FaceData.open(out).index["key"].tolist() == ["happiness/a.png"]
    assert main([*arguments, "--template", "x", "--out", str(tmp_path / "o")]) == 2
    assert "drop --align" in capsys.readouterr().err
    assert main([*arguments, "8", "--out", str(tmp_path / "o")]) == 1
    assert "size 8 is not in 32..1024" in capsys.readouterr().err
