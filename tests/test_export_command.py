"""`fer-jax export`: the file, what is said of it, what is refused; nothing is left half done."""

import dataclasses
import hashlib
import json
import re

import cv2
import jax
import jaxtyping
import numpy as np
import pytest
from jax import export
from tiny_bundles import (
    noise_faces,
    tiny_bundle,
    tiny_two_view_bundle,
    write_tiny_bundle,
)

from fer_jax.bundle import Bundle, bundle_hash, save_bundle
from fer_jax.cli.main import main
from fer_jax.errors import FerJaxError
from fer_jax.export import parity, program, stablehlo
from fer_jax.models import mae
from fer_jax.predict.recognizer import Recognizer

# A number of faces that is not known when tracing is no int, as annotations of fusions have it.
pytestmark = pytest.mark.usefixtures("annotations_off")

HOST = 2e-6  # resizing on the host: as in test_stablehlo.py


def of_template(bundle: Bundle, template: str) -> Bundle:
    views = {
        name: dataclasses.replace(view, template=template) for name, view in bundle.views.items()
    }
    return dataclasses.replace(bundle, views=views)


def run(blob: bytes, faces: np.ndarray) -> dict[str, np.ndarray]:
    """As somebody without fer_jax runs it."""
    found = export.deserialize(bytearray(blob)).call(faces)
    return {name: np.asarray(values) for name, values in found.items()}


def softmax64(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def test_a_calibration_of_smoothed_rows_is_not_applied(tmp_path, capsys):
    calibration = {"kind": "temperature", "temperature": 3.0, "refers_to": "smoothed"}
    bundle = dataclasses.replace(tiny_bundle(), calibration=calibration)
    save_bundle(bundle, tmp_path / "bundle")
    assert exported(tmp_path / "bundle", tmp_path / "m.stablehlo") == 0
    assert "the bundle's calibration is of smoothed rows, not applied" in capsys.readouterr().out
    found = run((tmp_path / "m.stablehlo").read_bytes(), noise_faces(3, size=40))
    np.testing.assert_allclose(
        found["probabilities"], softmax64(found["logits"]), rtol=0, atol=1e-6
    )


def exported(bundle, out, *more) -> int:
    return main(["export", str(bundle), str(out), "--face-size", "40", *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle of two views of a template, exported as one line does it."""
    folder = tmp_path_factory.mktemp("whole")
    save_bundle(of_template(tiny_two_view_bundle(), "arcface_112"), folder / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        assert main(["export", str(folder / "bundle"), str(folder / "model.stablehlo")]) == 0
    return folder


def test_the_document_says_what_the_file_is(whole):
    about = json.loads((whole / "model.json").read_text())
    blob = (whole / "model.stablehlo").read_bytes()
    assert sorted(path.name for path in whole.iterdir()) == [
        "bundle",
        "model.json",
        "model.stablehlo",
    ]
    assert about["sha256"] == hashlib.sha256(blob).hexdigest()
    assert about["bytes"] == len(blob)
    assert about["bundle_sha256"] == bundle_hash(whole / "bundle")
    assert (about["format"], about["format_version"]) == ("fer_jax stablehlo", 1)
    assert about["license"] == "none: random numbers"
    assert about["provenance"] == {"source": "tests/tiny_bundles.py"}
    assert about["jax_version"] == jax.__version__
    given = about["input"]
    assert given["shape"] == ["batch, 1 or more", 112, 112, 3]
    assert (given["dtype"], given["color_order"]) == ("uint8", "RGB")
    assert given["template"] == "arcface_112"
    assert given["template_points"][2] == [56.0252, 71.7366]  # the nose
    back = export.deserialize(bytearray(blob))
    assert about["platforms"] == list(back.platforms)
    assert about["calling_convention_version"] == back.calling_convention_version
    found = run(blob, noise_faces(2, size=40).repeat(3, 1).repeat(3, 2)[:, :112, :112])
    assert {name: ["batch", v.shape[1]] for name, v in found.items()} == {
        name: one["shape"] for name, one in about["outputs"].items()
    }
    assert len(about["classes"]) == found["logits"].shape[1]


def test_the_parity_holds_and_is_written_down(whole):
    about = json.loads((whole / "model.json").read_text())["parity"]
    assert about["faces"] == "100 drawn faces"
    assert about["batch_sizes"] == [1, 3, 8]
    assert about["tolerance"] == 1e-6
    assert len(about["comparisons"]) == 8
    for one in about["comparisons"]:
        if "computed here" in one["what"]:
            assert one["floor"] == 0
            assert one["difference"] <= 1e-6
        assert one["difference"] <= one["allowed"] <= 5e-6


def test_figures_are_printed(tmp_path, capsys):
    save_bundle(tiny_bundle(None), tmp_path / "bundle")
    assert exported(tmp_path / "bundle", tmp_path / "m.stablehlo", "--platforms", "cpu") == 0
    printed = capsys.readouterr().out
    for what in ("golden sample, computed here", "100 drawn faces, Recognizer"):
        assert re.search(rf"  {what}: features +\d\.\de[-+]\d\d  \(allowed 1e-06", printed)
    assert "takes uint8 RGB faces (batch, 40, 40, 3), aligned as 'as_is'" in printed
    assert export.deserialize(bytearray((tmp_path / "m.stablehlo").read_bytes())).platforms == (
        "cpu",
    )


def test_pictures_of_a_folder_serve_too(tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "faces").mkdir()
    for number, face in enumerate(noise_faces(6, size=60)):
        cv2.imwrite(str(tmp_path / "faces" / f"{number}.png"), face[..., ::-1])
    arguments = ("--faces", str(tmp_path / "faces"))
    assert exported(tmp_path / "bundle", tmp_path / "m.stablehlo", *arguments) == 0
    about = json.loads((tmp_path / "m.json").read_text())["parity"]
    assert about["faces"] == "6 faces of the folder"
    assert about["batch_sizes"] == [1, 2, 3]
    faces = parity.folder_faces(tmp_path / "faces", 60)
    np.testing.assert_array_equal(faces, noise_faces(6, size=60))


def test_the_size_is_that_of_the_template(tmp_path):
    """The golden sample, of 112 pixels, is then compared in a file of its own."""
    save_bundle(of_template(tiny_bundle(), "arcface_50"), tmp_path / "bundle")
    assert main(["export", str(tmp_path / "bundle"), str(tmp_path / "m.stablehlo")]) == 0
    about = json.loads((tmp_path / "m.json").read_text())
    assert about["input"]["shape"][1:] == [50, 50, 3]
    assert [one["what"] for one in about["parity"]["comparisons"]][:1] == [
        "golden sample, computed here"
    ]
    faces = noise_faces(3, size=50)
    wanted = Recognizer(tiny_bundle()).logits(faces)
    assert off(run((tmp_path / "m.stablehlo").read_bytes(), faces)["logits"], wanted) < HOST


def refused(capsys, *arguments) -> tuple[int, str]:
    code = main(["export", *map(str, arguments)])
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1, line
    return code, line.removeprefix("fer-jax export: ")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.mark.parametrize(
    ("out", "more", "code", "said"),
    [
        ("m.bin", (), 2, "m.bin: must end in .stablehlo"),
        ("folder.stablehlo", (), 2, "is a folder; name a file"),
        ("nowhere/m.stablehlo", (), 1, "nowhere: no such folder; make it first"),
        ("taken.stablehlo", (), 1, "taken.stablehlo: exists already; pass --overwrite"),
        ("beside.stablehlo", (), 1, "beside.json: exists already; pass --overwrite"),
        ("m.stablehlo", ("--platforms", "cpu,gpu"), 2, "'gpu' must be one of cpu, tpu, cuda"),
        ("m.stablehlo", ("--platforms", "tpu"), 2, "runs on this machine's cpu; add it"),
        ("m.stablehlo", ("--platforms", "cpu,cpu"), 2, "names one twice"),
        ("m.stablehlo", ("--platforms", ""), 2, "'' must be one of"),
        ("m.stablehlo", ("--face-size", "8"), 2, "--face-size=8: must lie in 16 to 1024"),
        ("m.stablehlo", ("--face-size", "5000"), 2, "must lie in 16 to 1024"),
        ("m.stablehlo", ("--faces", "nothing"), 1, "nothing: no such picture, video or folder"),
        ("m.stablehlo", ("--faces", "films"), 1, "films: holds no picture; name a folder of"),
        ("m.stablehlo", ("--faces", "bad"), 1, "a.png: is not an image that can be decoded; remo"),
    ],
)
def test_wrong_use_is_one_line(out, more, code, said, bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.stablehlo").mkdir()
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"no video")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    (tmp_path / "taken.stablehlo").write_text("mine")
    (tmp_path / "beside.json").write_text("mine")
    before = sorted(tmp_path.iterdir())
    found, line = refused(capsys, bundle, out, *more)
    assert (found, said in line) == (code, True), line
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken.stablehlo").read_text() == "mine"


def tiny_mae() -> Bundle:
    encoder = tiny_bundle(None)
    size = dataclasses.replace(encoder.models["main"][0], pool="cls")
    config = mae.MAEConfig(size, decoder_width=32, decoder_depth=1, decoder_num_heads=2)
    params = jax.tree.map(np.asarray, mae.init(config, jax.random.key(0)))
    return dataclasses.replace(encoder, kind="mae", models={"main": (config, params)})


def tiny_fusion() -> Bundle:
    two = tiny_two_view_bundle()
    models = {"fusion": two.models["fusion"]}
    return dataclasses.replace(two, kind="fusion", models=models, views={})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (tiny_mae, "is a masked autoencoder, which paints faces"),
        (tiny_fusion, "is a fusion, which takes the features of encoders"),
    ],
)
def test_bundles_without_faces_or_answers_are_refused(make, said, tmp_path, capsys):
    save_bundle(make(), tmp_path / "bundle")
    code, line = refused(capsys, tmp_path / "bundle", tmp_path / "m.stablehlo")
    assert code == 2
    assert said in line
    assert not (tmp_path / "m.stablehlo").exists()


def test_other_failures_are_one_line(bundle, tmp_path, monkeypatch, capsys):
    out = tmp_path / "m.stablehlo"
    assert refused(capsys, tmp_path / "none", out)[0] == 1
    two = tiny_two_view_bundle()
    views = two.views | {"aux": dataclasses.replace(two.views["aux"], template="arcface_112")}
    save_bundle(dataclasses.replace(two, views=views), tmp_path / "mixed")
    code, line = refused(capsys, tmp_path / "mixed", out)
    assert (code, "no one face serves them" in line) == (1, True)
    monkeypatch.setattr(program, "_MOST_BYTES", 1000)
    code, line = refused(capsys, bundle, out, "--face-size", 40)
    assert (code, "one file holds less than 2" in line) == (1, True)
    monkeypatch.setitem(__import__("sys").modules, "flatbuffers", None)
    code, line = refused(capsys, bundle, out)
    assert (code, "pip install flatbuffers" in line) == (1, True)
    assert not out.exists()


def test_what_differs_is_not_written(bundle, tmp_path, monkeypatch, capsys):
    """A tenth of the tolerance over it is enough."""

    def wrong(blob):
        right = program.loaded(blob)

        def call(faces):
            found = right(faces)
            found["logits"] = found["logits"] + 1.1e-6 * np.abs(found["logits"]).max()
            return found

        return call

    monkeypatch.setattr(stablehlo, "loaded", wrong)
    code, line = refused(capsys, bundle, tmp_path / "m.stablehlo", "--face-size", 40)
    assert code == 1
    assert "not written, logits differ (golden sample, computed here) by 1." in line
    assert not list(tmp_path.iterdir())


def test_a_golden_sample_of_another_machine_is_no_failure(tmp_path):
    """Its outputs are up to 1e-5 off; what this machine is off by itself is said, and allowed."""
    write_tiny_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "golden.npz"
    with np.load(path) as file:
        golden = dict(file)
    golden["logits"] = golden["logits"] * np.float32(1 + 1e-5)
    np.savez(path, **golden)
    assert exported(tmp_path / "bundle", tmp_path / "m.stablehlo") == 0
    rows = json.loads((tmp_path / "m.json").read_text())["parity"]["comparisons"]
    stored = next(row for row in rows if row["what"] == "golden sample, as stored")
    assert stored["floor"] == pytest.approx(1e-5, rel=0.1)
    assert stored["difference"] == pytest.approx(1e-5, rel=0.1)


def test_overwrite_replaces_both(bundle, tmp_path):
    out, about = tmp_path / "m.stablehlo", tmp_path / "m.json"
    out.write_text("old")
    about.write_text("old")
    assert exported(bundle, out, "--overwrite") == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == json.loads(about.read_text())["sha256"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("difference", "floor", "passed"),
    [
        (1e-6, 0.0, True),
        (1.01e-6, 0.0, False),
        (3.9e-6, 3e-6, True),
        (4.1e-6, 3e-6, False),
        (0.0, 2e-4, False),  # host and device do not compute the same
        (float("nan"), 0.0, False),
        (0.0, float("nan"), False),
        (float("inf"), float("inf"), False),
    ],
)
def test_what_is_allowed(difference, floor, passed):
    assert parity.Comparison("faces", "logits", difference, floor).passed is passed


def test_batch_sizes_add_up():
    assert parity.batch_sizes(100) == [1, 3] + [8] * 12
    for number in range(1, 30):
        assert sum(parity.batch_sizes(number)) == number


def test_sizes_of_faces_too_small_for_a_view_are_told():
    with pytest.raises(FerJaxError, match="too small for the view 'eyes_mouth'"):
        program.serialized(tiny_two_view_bundle(), 1, 1)
