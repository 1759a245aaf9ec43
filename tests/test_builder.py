import csv
import dataclasses
import json
import sys

import numpy as np
import pytest
from pictures import CLASSES, write_colors, write_picture
from PIL import Image

from fer_jax.data.builder import build, build_units
from fer_jax.data.cleaning import Cleaning
from fer_jax.data.dataset import FaceData
from fer_jax.data.examples import Example, Fault, LeftOut
from fer_jax.data.image_folder import read_image_folder
from fer_jax.data.images import decode_image
from fer_jax.data.staging import Look
from fer_jax.data.units import listed_units
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("expw")


@pytest.fixture
def photo() -> np.ndarray:
    """Smooth, with no symmetry."""
    rows, columns = np.mgrid[0:80, 0:120]
    return np.stack([rows * 3, columns * 2, 255 - rows - columns], axis=-1).astype(np.uint8)


@pytest.fixture
def colors(tmp_path):
    """Twenty pictures to train on, ten to validate, as examples."""
    write_colors(tmp_path / "src", range(20))
    write_colors(tmp_path / "src", range(20, 30), split="validation")
    examples, faults = read_image_folder(tmp_path / "src", SPACE)
    assert not faults
    return examples


def _leftovers(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("src", "data"))


def test_records_index_and_files_agree(tmp_path, colors):
    # Listed with the splits mixed up.
    mixed = [*colors[1::2], *colors[::2]]
    assert build(mixed, [], SPACE, tmp_path / "data") == []
    data = FaceData.open(tmp_path / "data")
    assert len(data) == len(data.records) == 30
    assert sorted(data.index["key"]) == sorted(example.name for example in colors)
    by_key = {example.name: example for example in colors}
    for row in range(len(data)):
        record, key = data.records[row], str(data.index["key"][row])
        assert record["key"].decode() == key
        # Stored byte for byte.
        assert bytes(record["image"]) == by_key[key].path.read_bytes()
        assert record["label"] == data.index["label"][row] == int(key[-8:-4]) % 7
        assert CLASSES[record["label"]] in key
        assert record["split"].decode() == data.index["split"][row] == key.split("/")[0]
        assert record["template"].decode() == "as_is"
        assert record["votes"].tolist() == [0.0] * 7
        assert record["quality"]["size"] == data.index["size"][row] == 24
        assert np.isnan(record["quality"]["score"])
        assert record["source"].decode() == "src"
    assert data.index["position"].tolist() == [*range(20), *range(10)]
    assert data.template == "as_is"
    assert json.loads((tmp_path / "data/faces.json").read_text())["splits"] == {
        "train": 20,
        "validation": 10,
    }
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "faces",
        "faces.json",
        "index.npz",
    ]
    assert _leftovers(tmp_path) == []
    assert "tensorflow" not in sys.modules


def test_everything_known_about_a_face_is_kept(tmp_path, photo):
    write_picture(tmp_path / "src" / "a.png", photo)
    example = Example(
        path=tmp_path / "src" / "a.png",
        name="a.png",
        label=2,
        split="test",
        subject="änna",
        video="clip",
        frame=7,
        source="web",
        box=(40.0, 20.0, 80.0, 50.0),
        score=0.75,
        face_id=3,
    )
    build([example], [], SPACE, tmp_path / "data", margin=1.5)
    data = FaceData.open(tmp_path / "data")
    record = data.records[0]
    assert record["key"].decode() == data.index["key"][0] == "a.png#3"
    assert record["subject"].decode() == data.index["subject"][0] == "änna"
    assert record["video"].decode() == data.index["video"][0] == "clip"
    assert record["frame"] == data.index["frame"][0] == 7
    assert record["face_id"] == data.index["face_id"][0] == 3
    assert record["source"].decode() == data.index["source"][0] == "web"
    assert record["template"].decode() == data.template == "box_square_1.5"
    assert record["quality"]["score"] == data.index["score"][0] == 0.75
    assert record["quality"]["size"] == data.index["size"][0] == 40
    # 60 pixels about (60, 35): cut by Pillow for comparison, and exact since png stays png.
    expected = np.asarray(Image.fromarray(photo).crop((30, 5, 90, 65)))
    np.testing.assert_array_equal(decode_image(record["image"]), expected)


def test_a_jpeg_with_a_box_is_cut_and_stays_a_jpeg(tmp_path, photo):
    write_picture(tmp_path / "a.jpg", photo)
    example = Example(tmp_path / "a.jpg", "a.jpg", 0, "train", box=(90.0, 30.0, 130.0, 60.0))
    build([example], [], SPACE, tmp_path / "data", margin=1.0)
    encoded = FaceData.open(tmp_path / "data").records[0]["image"]
    assert encoded.startswith(b"\xff\xd8")
    face = decode_image(encoded).astype(int)
    expected = np.asarray(Image.fromarray(photo).crop((90, 25, 130, 65)), int)
    # Two JPEG codings; black begins at column 30.
    assert np.abs(face - expected)[:, :28].mean() < 3
    assert face[:, 33:].max() < 12


def test_grouped_and_mixed_templates_are_told(tmp_path, colors):
    colors[0] = dataclasses.replace(colors[0], box=(2.0, 2.0, 20.0, 20.0))
    build(colors, [], SPACE, tmp_path / "data", template="arcface_112")
    data = FaceData.open(tmp_path / "data")
    assert data.template == "mixed"
    assert sorted(set(data.index["template"])) == ["arcface_112", "box_square_1.2"]


def test_all_faults_are_reported_at_once_and_nothing_is_written(tmp_path, colors):
    colors[3].path.write_bytes(b"no picture")
    colors[5].path.write_bytes(colors[5].path.read_bytes()[:60])
    colors[7].path.unlink()
    colors[9] = dataclasses.replace(colors[9], box=(50.0, 50.0, 60.0, 60.0))
    listed = [Fault(f"x{i}.jpg", "line 3: no such file") for i in range(3)]
    with pytest.raises(FerJaxError) as caught:
        build(colors, listed, SPACE, tmp_path / "data")
    message = str(caught.value)
    assert message.startswith("7 of 33 pictures cannot be used: x0.jpg: line 3: no such file; x1")
    assert colors[3].name in message
    assert "and 2 more" in message
    assert "--skip-bad" in message
    assert "\n" not in message
    assert not (tmp_path / "data").exists()
    assert _leftovers(tmp_path) == []


def test_what_is_skipped_is_listed(tmp_path, colors):
    colors[3].path.write_bytes(b"no picture")
    colors[5].path.unlink()
    bad = Fault("x.jpg", "line 3: label 'a, b' is not in the space")
    skipped = build(colors, [bad], SPACE, tmp_path / "data", skip_bad=True)
    assert len(skipped) == 3
    with (tmp_path / "data" / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "reason"],
            [bad.name, bad.reason],
            [colors[3].name, "is not an image that can be decoded"],
            [colors[5].name, "cannot be read (No such file or directory)"],
        ]
    data = FaceData.open(tmp_path / "data")
    assert len(data) == 28
    assert not {colors[3].name, colors[5].name} & set(data.index["key"].tolist())


def _cleaned(examples, faults, out, **options):
    """What comes of a run whose rules reject nothing by themselves."""
    rules = Cleaning(min_score=0, min_size=0, min_sharpness=0, duplicate_distance=-1)
    units = listed_units(examples)
    return build_units(units, faults, SPACE, out, look=Look(), cleaning=rules, **options)


def test_a_face_whose_neighbour_cannot_be_cut_stays_in_training(tmp_path, photo):
    write_picture(tmp_path / "a.png", photo)
    face = Example(tmp_path / "a.png", "a.png", 0, "train", box=(10.0, 10.0, 60.0, 60.0))
    outside = dataclasses.replace(face, box=(500.0, 10.0, 560.0, 60.0), face_id=1)
    built = _cleaned([face, outside], [], tmp_path / "data")
    assert FaceData.open(tmp_path / "data").index["key"].tolist() == ["a.png"]
    assert built.rejects.summary().endswith(
        "1 of 2 training pictures left out (50.00%): corrupted 1 (50.00%)"
    )
    with (tmp_path / "data/cleaning.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["reason"]) == ("a.png#1", "corrupted")
    # The other way round.
    first, second = (dataclasses.replace(one, face_id=1 - one.face_id) for one in (face, outside))
    _cleaned([second, first], [], tmp_path / "other")
    assert FaceData.open(tmp_path / "other").index["key"].tolist() == ["a.png#1"]


def test_cleaning_answers_for_pictures_that_it_saw_only(tmp_path, colors):
    """Not for what a list says wrong, nor for what a collection's rules leave out."""
    colors[3].path.write_bytes(b"no picture")
    colors[25].path.write_bytes(b"no picture")
    left_out = LeftOut("x.png", "no class has 6 of 10 votes", "train")
    twice = Fault(colors[5].name, "line 9: listed already in line 6", "train")
    with pytest.raises(FerJaxError, match=f"^2 of .*: listed already .*; {colors[25].name}: is"):
        _cleaned(colors, [left_out, twice], tmp_path / "data")
    built = _cleaned(colors, [left_out, twice], tmp_path / "data", skip_bad=True)
    assert built.rejects.counts() == {"corrupted": 1}
    assert built.rejects.trained == 20
    data = FaceData.open(tmp_path / "data")
    gone = {example.name for example in (colors[3], colors[25])}
    assert set(data.index["key"]) == {example.name for example in colors} - gone
    for name, expected in [
        ("cleaning.csv", [colors[3].name]),
        ("skipped.csv", ["x.png", colors[5].name, colors[25].name]),
    ]:
        with (tmp_path / "data" / name).open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == expected
    # The collection's rules alone stop nobody.
    assert not _cleaned(colors[:20], [left_out], tmp_path / "rules").skipped[1:]


def test_the_index_tells_which_faces_have_votes(tmp_path, colors):
    colors[2] = dataclasses.replace(colors[2], votes=(0, 5, 5, 0, 0, 0, 0), label=-1)
    colors[4] = dataclasses.replace(colors[4], votes=(0, 0, 0, 0, 0, 0, 0.5))
    build(colors, [], SPACE, tmp_path / "data")
    data = FaceData.open(tmp_path / "data")
    assert data.index["voted"].dtype == bool
    voted = {str(key) for key in data.index["key"][data.index["voted"]]}
    assert voted == {colors[2].name, colors[4].name}
    assert data.index["voted"].tolist() == [data.records.votes(row).any() for row in range(30)]


def test_a_split_may_lose_all_its_pictures_but_not_all_splits(tmp_path, colors):
    for example in colors[20:]:
        example.path.write_bytes(b"")
    build(colors, [], SPACE, tmp_path / "data", skip_bad=True)
    assert set(FaceData.open(tmp_path / "data").index["split"]) == {"train"}
    for example in colors[:20]:
        example.path.write_bytes(b"")
    with pytest.raises(FerJaxError, match=r"no face can be used: .* is empty"):
        build(colors, [], SPACE, tmp_path / "other", skip_bad=True)
    assert not (tmp_path / "other").exists()


def test_an_existing_data_set_is_replaced_only_when_asked(tmp_path, colors):
    build(colors[:5], [], SPACE, tmp_path / "data")
    with pytest.raises(FerJaxError, match="exists already"):
        build(colors, [], SPACE, tmp_path / "data")
    assert len(FaceData.open(tmp_path / "data")) == 5
    build(colors, [], SPACE, tmp_path / "data", overwrite=True)
    assert len(FaceData.open(tmp_path / "data")) == 30
    assert _leftovers(tmp_path) == []


def test_a_failed_replacement_leaves_the_old_data_set(tmp_path, colors):
    build(colors[:5], [], SPACE, tmp_path / "data")
    colors[7].path.unlink()
    with pytest.raises(FerJaxError, match="1 of 30 pictures"):
        build(colors, [], SPACE, tmp_path / "data", overwrite=True)
    assert len(FaceData.open(tmp_path / "data")) == 5
    assert _leftovers(tmp_path) == []


@pytest.mark.parametrize("margin", [0.0, -1.0, 11.0, float("nan")])
def test_impossible_margins_are_refused(tmp_path, colors, margin):
    with pytest.raises(FerJaxError, match=r"margin .* is not in"):
        build(colors, [], SPACE, tmp_path / "data", margin=margin)


def test_two_builds_write_the_same_bytes(tmp_path, colors):
    for name in ("one", "two"):
        build(colors, [], SPACE, tmp_path / name)
    for path in sorted((tmp_path / "one").rglob("*array_record*")):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()
