"""Confidence of single images: against plain loops and Wilson's formula; bundles compared."""

import dataclasses
import json
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_picture
from tiny_bundles import noise_faces, tiny_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.examples import Example
from fer_jax.evaluate.abstaining import COVERAGES, kept_accuracy
from fer_jax.labels import label_space
from fer_jax.predict.recognizer import Recognizer, softmax

NUMBER = 40


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_the_surest_are_kept(pairs):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    ranked = sorted(pairs, key=lambda pair: -pair[0])
    for coverage, found in zip(COVERAGES, kept_accuracy(confidence, correct), strict=True):
        number = max(1, math.ceil(round(coverage * len(pairs), 6)))
        share = sum(right for _, right in ranked[:number]) / number
        assert found["accuracy"] == share
        assert found["coverage"] == number / len(pairs)
        assert found["confidence"] == ranked[number - 1][0]
        # Wilson's interval, written out.
        z = 1.959963984540054
        middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
        reach = z / (1 + z**2 / number)
        reach *= math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
        assert found["low"] == pytest.approx(max(0, middle - reach), abs=1e-9)
        assert found["high"] == pytest.approx(min(1, middle + reach), abs=1e-9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("abstaining")
    rng, examples = np.random.default_rng(0), []
    for i, face in enumerate(noise_faces(NUMBER)):
        path = folder / "src" / f"{i:02d}.png"
        write_picture(path, face)
        examples.append(Example(path, path.name, int(rng.integers(7)), "validation"))
    build(examples, [], label_space("expw"), folder / "data")
    calibration = {"kind": "temperature", "temperature": 3.0, "refers_to": "frames"}
    calibration["of"] = "log_probabilities"
    bundle = tiny_bundle("expw")
    save_bundle(dataclasses.replace(bundle, calibration=calibration), folder / "cooled")
    save_bundle(tiny_bundle("expw", seed=5), folder / "other")
    return folder


def probabilities(folder, name, temperature=1.0):
    data = FaceData.open(folder / "data")
    faces = np.stack([noise_faces(NUMBER)[int(key[:2])] for key in data.index["key"].tolist()])
    bundle = tiny_bundle("expw", seed=5) if name == "other" else tiny_bundle("expw")
    logits = Recognizer(bundle).logits(faces)
    return softmax(logits / np.float32(temperature)), data.index["label"]


def test_confidence_is_the_calibrated_one(folder, tmp_path):
    arguments = ["evaluate", "--bundle", folder / "cooled", "--data", folder / "data"]
    assert main([*map(str, arguments), "--out", str(tmp_path / "m")]) == 0
    found = json.loads((tmp_path / "m" / "metrics.json").read_text())["confidence"]
    assert found["note"] == "Confidence is calibrated for single frames."
    own, label = probabilities(folder, "cooled", 3.0)
    confidence, correct = own.max(axis=1), own.argmax(axis=1) == label
    error = 0.0
    for low in np.arange(15) / 15:
        mine = (confidence > low) & (confidence <= low + 1 / 15)
        if mine.any():
            error += mine.mean() * abs(correct[mine].mean() - confidence[mine].mean())
    assert found["calibration_error"] == pytest.approx(error, abs=1e-5)
    half = found["kept"][2]
    assert half["accuracy"] == correct[np.argsort(-confidence)][:20].mean()


def test_two_bundles_on_the_same_images(folder, tmp_path, capsys):
    arguments = ["evaluate", "--bundle", folder / "cooled", "--data", folder / "data"]
    arguments += ["--compare", folder / "other", "--out", tmp_path / "m"]
    assert main(list(map(str, arguments))) == 0
    assert f"Against {folder / 'other'}: macro-F1 differs by" in capsys.readouterr().out
    found = json.loads((tmp_path / "m" / "metrics.json").read_text())["compared_with"]["images"]
    f1 = []
    for name in ("cooled", "other"):
        own, label = probabilities(folder, name)
        chosen = own.argmax(axis=1)
        f1.append(
            sklearn.metrics.f1_score(
                label, chosen, average="macro", labels=range(7), zero_division=0
            )
        )
    assert found["difference"] == pytest.approx(f1[0] - f1[1], abs=1e-12)
    assert found["low"] <= found["difference"] <= found["high"]
    arguments[-3] = folder / "src"
    assert main([*map(str, arguments), "--overwrite"]) == 2
    assert "name one other bundle" in capsys.readouterr().err
