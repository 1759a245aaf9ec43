"""The recognizer against the bundle's pure function, and `fer-jax predict`."""

import functools
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from pictures import write_picture
from test_table import assert_tables_equal
from tiny_bundles import noise_faces, tiny_bundle, write_tiny_bundle

import fer_jax
from fer_jax.bundle import forward, preprocess
from fer_jax.cli.main import main
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.predict.recognizer import Recognizer, load, softmax
from fer_jax.predict.table import read_csv

EXPW = label_space("expw").classes
_NOWHERE = "no such picture, video or folder; check the path"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def recognizer(path):
    return load(path, batch_size=4)


@pytest.fixture
def folder(tmp_path):
    """Five pictures of different sizes, in two folders."""
    for i, size in enumerate((40, 25, 60, 35, 80)):
        name = f"{'ab'[i % 2]}/{i}.png"
        write_picture(tmp_path / "faces" / name, noise_faces(1, size=size, seed=i)[0])
    return tmp_path / "faces"


def _forward(bundle):
    return jax.jit(functools.partial(forward, bundle))


def test_logits_equal_the_pure_function(recognizer):
    faces = noise_faces(9)
    logits, features = _forward(recognizer.bundle)(faces)
    # float32 on both sides, in another batch shape, resized by numpy: measured 6e-7 of 2.
    np.testing.assert_allclose(recognizer.logits(faces), logits, atol=5e-6)
    found = recognizer.features(faces)
    assert found.keys() == features.keys() == {"main"}
    np.testing.assert_allclose(found["main"], features["main"], atol=5e-6)
    assert len({*np.argmax(logits, axis=1).tolist()}) > 1  # the model does look at the faces


def test_view_is_cut_before_it_is_resized():
    bundle = tiny_bundle(view="eyes_mouth")
    faces = noise_faces(3, size=50)
    expected, _ = _forward(bundle)(faces)
    np.testing.assert_allclose(Recognizer(bundle).logits(faces), expected, atol=5e-6)


def test_prepared_input_gives_the_same_logits(recognizer):
    faces = noise_faces(6)
    inputs = recognizer.prepare(faces)
    np.testing.assert_array_equal(recognizer.logits_normalized(inputs), recognizer.logits(faces))
    # Against the device's preprocessing: measured 1.2e-6.
    expected = preprocess(recognizer.bundle.views["main"], faces)
    np.testing.assert_allclose(inputs["main"], expected, atol=5e-6)
    on_device = {"main": jax.numpy.asarray(inputs["main"])}
    np.testing.assert_array_equal(recognizer.logits_normalized(on_device), recognizer.logits(faces))


@pytest.mark.parametrize("number", [1, 3, 4, 5, 11])
def test_same_bits_whatever_the_batch(recognizer, number):
    faces = noise_faces(11)
    whole = recognizer.logits(faces)
    order = np.random.default_rng(number).permutation(11)[:number]
    np.testing.assert_array_equal(recognizer.logits(faces[order]), whole[order])
    np.testing.assert_array_equal(
        recognizer.features(faces[order])["main"], recognizer.features(faces)["main"][order]
    )


def test_computes_in_float32_at_highest_precision(path):
    """A CPU shows no difference, so the program itself is read."""
    for recognizer, wanted in (
        (load(path, verify=False), True),
        (Recognizer(tiny_bundle()), True),
        (load(path, verify=False, precision="default"), False),
    ):
        inputs = {"main": np.zeros((8, 32, 32, 3), np.float32)}
        program = recognizer._function.lower(recognizer._params, inputs).as_text()
        products = [line for line in program.splitlines() if "dot_general" in line]
        assert len(products) > 5
        assert all(("precision = [HIGHEST, HIGHEST]" in line) == wanted for line in products)
        assert "bf16" not in program


def test_bfloat16_is_only_near(path, recognizer):
    faces = noise_faces(4)
    exact, near = recognizer.logits(faces), load(path, dtype="bfloat16", verify=False).logits(faces)
    assert near.dtype == np.float32
    difference = np.abs(near - exact).max() / np.abs(exact).max()
    assert 1e-4 < difference < 0.1


def test_no_face_gives_no_rows(recognizer):
    nothing = np.zeros((0, 20, 20, 3), np.uint8)
    assert recognizer.logits(nothing).shape == (0, 7)
    assert recognizer.features(nothing)["main"].shape == (0, 48)


@pytest.mark.parametrize(
    ("faces", "found"),
    [
        (np.zeros((2, 20, 20, 3), np.float32), r"float32 of the shape \(2, 20, 20, 3\)"),
        (np.zeros((2, 3, 20, 20), np.uint8), r"uint8 of the shape \(2, 3, 20, 20\)"),
        (np.zeros((20, 20), np.uint8), r"uint8 of the shape \(20, 20\)"),
    ],
)
def test_what_is_no_face_is_refused(recognizer, faces, found):
    with pytest.raises(FerJaxError, match=f"faces are {found}; give uint8 RGB"):
        recognizer.predict(faces)


def test_wrong_views_are_refused(recognizer):
    with pytest.raises(FerJaxError, match="the view 'main' is missing"):
        recognizer.logits_normalized({"aux": np.zeros((1, 32, 32, 3), np.float32)})
    with pytest.raises(FerJaxError, match=r"shape \(1, 24, 24, 3\); give .* \(batch, 32, 32, 3\)"):
        recognizer.logits_normalized({"main": np.zeros((1, 24, 24, 3), np.float32)})


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"precision": "low"}, {"batch_size": 0}])
def test_unknown_options_are_refused(options):
    with pytest.raises(FerJaxError, match=next(iter(options))):
        Recognizer(tiny_bundle(), **options)


def test_encoder_has_features_and_names_nothing():
    encoder = Recognizer(tiny_bundle(labels=None), path="my/encoder")
    faces = noise_faces(3)
    assert encoder.features(faces)["main"].shape == (3, 48)
    inputs = encoder.prepare(faces)
    for refused in (encoder.logits, encoder.predict, lambda _: encoder.logits_normalized(inputs)):
        with pytest.raises(
            FerJaxError, match=r"my/encoder: is of the kind 'encoder'.*fer-jax train"
        ):
            refused(faces)
    with pytest.raises(FerJaxError, match="names no expressions"):
        _ = encoder.classes


def test_load_is_at_the_top(path):
    assert fer_jax.load(path, verify=False).classes == EXPW


def test_folder_file_list_and_array_agree(recognizer, folder):
    table = recognizer.predict(folder, crops=True)
    files = sorted(folder.rglob("*.png"))
    assert table.video.tolist() == [str(file) for file in files]
    assert table.classes == EXPW
    assert table.status.tolist() == ["ok"] * 5
    assert table.face_id.tolist() == [0] * 5
    assert table.frame.tolist() == [1] * 5
    for row, file in enumerate(files):
        face = cv2.imread(str(file))[..., ::-1]
        expected = softmax(recognizer.logits(face[None]))[0]
        np.testing.assert_array_equal(table.raw[row], expected)
        np.testing.assert_array_equal(table.prob[row], expected)
        assert table.label[row] == expected.argmax()
        assert table.labels[row] == EXPW[expected.argmax()]
        assert table.confidence[row] == expected.max()
        assert table.box[row].tolist() == [0, 0, face.shape[1], face.shape[0]]
        np.testing.assert_array_equal(recognizer.predict(file, crops=True).raw[0], expected)
        np.testing.assert_array_equal(recognizer.predict(face, crops=True).raw[0], expected)
    listed = recognizer.predict([str(files[3]), folder], crops=True)
    np.testing.assert_array_equal(listed.raw, table.raw[[3, *range(5)]])


def test_softmax():
    logits = np.array([[1000.0, 0.0], [-3.0, -3.0]], np.float32)
    np.testing.assert_array_equal(softmax(logits), [[1, 0], [0.5, 0.5]])
    logits = np.random.default_rng(0).normal(0, 4, (9, 8)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits), jax.nn.softmax(logits), rtol=1e-6)


def test_file_that_is_no_image_keeps_its_row(recognizer, folder):
    (folder / "a" / "1.png").write_bytes(b"no picture")
    (folder / "b" / "7.jpg").write_bytes(b"")
    problems = []
    table = recognizer.predict(folder, crops=True, on_problem=problems.append)
    assert len(table) == 7
    lost = np.flatnonzero(table.status == "no_face")
    assert [table.video[i].split("faces/")[1] for i in lost] == ["a/1.png", "b/7.jpg"]
    for i in lost:
        assert np.isnan(table.raw[i]).all()
        assert np.isnan(table.box[i]).all()
        assert np.isnan(table.confidence[i])
        assert (table.label[i], table.labels[i], table.face_id[i]) == (-1, "", -1)
    assert len(problems) == 2
    assert all("\n" not in line for line in problems)
    assert problems[0].startswith(f"{folder}/a/1.png: is not an image")
    with pytest.warns(UserWarning, match=r"7\.jpg: is empty"):
        recognizer.predict(folder / "b" / "7.jpg", crops=True)


def test_missing_paths_and_empty_folders_are_refused(recognizer, tmp_path):
    with pytest.raises(FerJaxError, match=r"nowhere\.png: no such picture, video or folder"):
        recognizer.predict(tmp_path / "nowhere.png")
    (tmp_path / ".hidden.png").write_bytes(b"")
    with pytest.raises(FerJaxError, match=r"no picture or video in this folder; name .* \.jpg"):
        recognizer.predict(tmp_path)
    with pytest.raises(FerJaxError, match="nothing was named"):
        recognizer.predict([])


def test_command_writes_the_table(path, recognizer, folder, tmp_path, capsys):
    out = tmp_path / "out" / "x.csv"
    command = ["predict", str(folder), "--crops", "--bundle", str(path), "--out", str(out)]
    assert main([*command, "--batch-size", "4"]) == 0
    assert_tables_equal(read_csv(out), recognizer.predict(folder, crops=True))
    printed = capsys.readouterr()
    assert "x.csv: 5 rows: " in printed.out
    assert printed.err == ""


def test_command_goes_on_after_a_bad_file(path, folder, tmp_path, capsys):
    (folder / "a" / "1.png").write_bytes(b"no picture")
    out = tmp_path / "x.csv"
    command = ["predict", str(folder), "--crops", "--bundle", str(path), "--out", str(out)]
    assert main(command) == 1
    assert read_csv(out).status.tolist() == ["ok", "no_face", "ok", "ok", "ok", "ok"]
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert f"fer-jax predict: {folder}/a/1.png: is not an image" in printed.err
    assert "no face 1" in printed.out


@pytest.mark.parametrize(
    ("images", "out", "code", "message"),
    [
        ("nowhere.png", "x.csv", 1, f"nowhere.png: {_NOWHERE}"),
        ("faces", "x.txt", 2, "--out x.txt: must end with .csv or .jsonl, or be a folder"),
    ],
)
def test_command_refuses_in_one_line(
    path, folder, tmp_path, capsys, monkeypatch, images, out, code, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", images, "--bundle", str(path), "--out", out]) == code
    assert capsys.readouterr().err == f"fer-jax predict: {message}\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["faces"]


def test_help_says_how_it_is_used_and_loads_no_jax():
    code = (
        "import sys; from fer_jax.cli.main import main; main(['predict', '--help']);"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "each picture is one face" in done.stdout
