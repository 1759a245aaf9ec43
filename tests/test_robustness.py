"""Faces with a region covered: the boxes, the paired comparison, and the scores of evaluate."""

import json

import numpy as np
import pytest
import sklearn.metrics
from affwild2_trees import write_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import CLASSES as EXPRESSIONS
from pictures import write_picture
from tiny_bundles import noise_faces, write_tiny_bundle, write_tiny_two_view_bundle

import fer_jax
from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData, select
from fer_jax.data.images import decode_image
from fer_jax.evaluate.intervals import compare_images
from fer_jax.faces.covering import REGIONS, cover, region_box

# The five points in a face of 112 pixels, and which region each is of.
POINTS = {
    "eyes": [(38.2946, 51.6963), (73.5318, 51.5014)],
    "nose": [(56.0252, 71.7366)],
    "mouth": [(41.5493, 92.3655), (70.7299, 92.2041)],
}


def macro_f1(truth, guess, classes=8):
    return sklearn.metrics.f1_score(
        truth, guess, labels=range(classes), average="macro", zero_division=0
    )


@pytest.mark.parametrize("size", [56, 112, 224])
def test_a_box_holds_its_own_points_and_no_others(size):
    scale = size / 112
    boxes = {region: region_box(region, size) for region in REGIONS}
    for region, (left, top, right, bottom) in boxes.items():
        assert 0 < left < right < size
        assert 0 < top < bottom < size
        for name, points in POINTS.items():
            for x, y in points:
                inside = left + 3 < x * scale < right - 3 and top + 3 < y * scale < bottom - 3
                outside = not (left < x * scale < right and top < y * scale < bottom)
                assert inside if name == region else outside
    assert boxes["eyes"][3] == boxes["nose"][1]
    assert boxes["nose"][3] == boxes["mouth"][1]


def test_boxes_in_numbers():
    """From the template's numbers: the eyes lie 35.24 pixels apart."""
    assert region_box("eyes", 112) == (23, 42, 90, 63)
    assert region_box("nose", 112) == (42, 63, 71, 82)
    assert region_box("mouth", 112) == (31, 82, 82, 103)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.sampled_from(REGIONS)), st.integers(20, 150), st.integers(0, 9))
def test_a_region_is_grey_and_the_rest_is_as_it_was(regions, size, seed):
    face = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    before = face.copy()
    expected = face.copy()
    for region in regions:
        left, top, right, bottom = region_box(region, size)
        for y in range(top, bottom):
            for x in range(left, right):
                expected[y, x] = 128
    np.testing.assert_array_equal(cover(face, sorted(regions)), expected)
    np.testing.assert_array_equal(face, before)


def test_images_are_compared_in_pairs():
    """Against scikit-learn, and against drawing and swapping images one by one."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 120)
    first = np.where(rng.random(120) < 0.7, labels, rng.integers(0, 4, 120))
    second = np.where(rng.random(120) < 0.6, first, rng.integers(0, 4, 120))
    found = compare_images(labels, first, second, 4)
    difference = macro_f1(labels, first, 4) - macro_f1(labels, second, 4)
    assert found.difference == pytest.approx(difference, abs=1e-12)
    drawn, swapped = [], []
    for _ in range(600):
        i = rng.integers(0, 120, 120)
        drawn.append(macro_f1(labels[i], first[i], 4) - macro_f1(labels[i], second[i], 4))
        turn = rng.random(120) < 0.5
        one, other = np.where(turn, second, first), np.where(turn, first, second)
        swapped.append(macro_f1(labels, one, 4) - macro_f1(labels, other, 4))
    # Of 600 draws: the ends are known to about 0.2 of the spread.
    spread = np.std(drawn)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert abs(found.low - low) < 0.35 * spread
    assert abs(found.high - high) < 0.35 * spread
    assert found.p_value == pytest.approx(np.mean(np.abs(swapped) >= abs(difference)), abs=0.05)
    same = compare_images(labels, first, first, 4)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


# --- of data sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("covered")
    seed = 0
    for video, length in {"a": 12, "b": 9, "c": 10}.items():
        write_labels(folder / "aff", "validation", video, [k % 8 for k in range(length)])
        for number in range(1, length + 1):
            path = folder / "aff" / "cropped_aligned" / video / f"{number:05d}.jpg"
            write_picture(path, noise_faces(1, seed=(seed := seed + 1))[0])
    write_labels(folder / "aff", "train", "t", [1])
    write_picture(folder / "aff/cropped_aligned/t/00001.jpg", noise_faces(1, seed=99)[0])
    for i in range(40):
        path = folder / "images" / "validation" / EXPRESSIONS[i % 7] / f"{i}.png"
        write_picture(path, noise_faces(1, seed=200 + i)[0])
    write_picture(folder / "images" / "train" / "Fear" / "0.png", noise_faces(1)[0])
    images = ["prepare", "images", str(folder / "images"), "--labels", "expw", "--out"]
    for command in (
        ["prepare", "affwild2", str(folder / "aff"), "--out", str(folder / "videos"), "--no-clean"],
        [*images, str(folder / "pictures"), "--template", "arcface_112"],
        [*images, str(folder / "as_is")],
    ):
        assert main([*command, "--workers", "0"]) == 0
    write_tiny_two_view_bundle(folder / "two", labels="affwild2_expr")
    write_tiny_bundle(folder / "one", "expw")
    return folder


def evaluate(folder, bundle, data, *arguments):
    named = ["--bundle", str(folder / bundle), "--data", str(folder / data)]
    return main(["evaluate", *named, *map(str, arguments)])


def choices(folder, bundle, data, regions):
    """Label and choice of each face, covered by hand, one at a time."""
    recognizer = fer_jax.load(folder / bundle, batch_size=1)
    data = FaceData.open(folder / data)
    truth, guess = [], []
    for row in select(data, "validation"):
        face = decode_image(data.records.image(int(row)))
        for region in regions:
            left, top, right, bottom = region_box(region, len(face))
            face[top:bottom, left:right] = 128
        truth.append(int(data.index["label"][row]))
        guess.append(int(recognizer.logits(face[None])[0].argmax()))
    return truth, guess


def test_frames_of_covered_faces(folder, tmp_path):
    options = ("--cover", "eyes,mouth+nose", "--smooth", "box:3", "--out", tmp_path / "out")
    assert evaluate(folder, "two", "videos", *options) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    whole = metrics["results"]["frames"]["all"]["macro_f1"]["value"]
    assert whole == pytest.approx(macro_f1(*choices(folder, "two", "videos", [])), abs=1e-12)
    assert [one["region"] for one in metrics["covered"]] == ["eyes", "mouth+nose"]
    for one, regions in zip(metrics["covered"], (["eyes"], ["mouth", "nose"]), strict=True):
        assert list(one["scores"]) == ["frames", "smoothed"]
        score = one["scores"]["frames"]
        expected = macro_f1(*choices(folder, "two", "videos", regions))
        assert score["macro_f1"] == pytest.approx(expected, abs=1e-12)
        assert score["difference"] == pytest.approx(expected - whole, abs=1e-12)
        assert score["low"] <= score["difference"] <= score["high"]
        assert score["difference"] != 0
    for name in ("table.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "With mouth and nose covered, smoothed by box of 3: macro-F1" in text


def test_images_of_covered_faces(folder, tmp_path, capsys):
    assert evaluate(folder, "one", "pictures", "--cover", "nose", "--out", tmp_path / "out") == 0
    assert "With nose covered: macro-F1" in capsys.readouterr().out
    (one,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["covered"]
    truth, covered = choices(folder, "one", "pictures", ["nose"])
    _, whole = choices(folder, "one", "pictures", [])
    score = one["scores"]["images"]
    assert score["macro_f1"] == pytest.approx(macro_f1(truth, covered, 7), abs=1e-12)
    assert score["difference"] == pytest.approx(
        macro_f1(truth, covered, 7) - macro_f1(truth, whole, 7), abs=1e-12
    )
    assert covered != whole
    assert score["low"] <= score["difference"] <= score["high"]


def test_what_cannot_be_covered(folder, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    assert evaluate(folder, "one", "as_is", "--cover", "nose", *out) == 2
    assert "its faces are aligned as 'as_is', so where their eyes are" in capsys.readouterr().err
    assert evaluate(folder, "one", "pictures", "--cover", "ears", *out) == 2
    assert "--cover 'ears': must be of eyes, nose, mouth" in capsys.readouterr().err
    named = ["--predictions", "p.csv", "--labels", "l", "--out", "o"]
    assert main(["evaluate", *named, "--cover", "eyes"]) == 2
    assert "--cover needs the faces themselves" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
