"""The model card: what it says of a bundle is what the bundle and the reports hold."""

import dataclasses
import json

import numpy as np
import pytest
from pictures import write_picture
from tiny_bundles import noise_faces, tiny_bundle, tiny_two_view_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.data.builder import build
from fer_jax.data.examples import Example
from fer_jax.labels import label_space

NUMBER = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    rng, examples = np.random.default_rng(0), []
    for i, face in enumerate(noise_faces(NUMBER)):
        path = folder / "src" / f"{i:02d}.png"
        write_picture(path, face)
        examples.append(Example(path, path.name, int(rng.integers(7)), "test"))
    build(examples, [], label_space("expw"), folder / "faces")
    first = {"made_by": "fer-jax convert", "source": {"file": "vit.pth", "sha256": "abc"}}
    config = {"epochs": 7, "loss": {"name": "focal"}, "optimizer": {"learning_rate": 0.25}}
    trained = {"made_by": "fer-jax train", "config": config, "backbone": first}
    provenance = {"made_by": "fer-jax fuse", "encoders": {"main": trained, "aux": first}}
    bundle = tiny_two_view_bundle("entry")
    bundle = dataclasses.replace(bundle, provenance=provenance, license="research only")
    save_bundle(bundle, folder / "two")
    save_bundle(tiny_bundle("affwild2_expr"), folder / "eight")
    arguments = ["evaluate", "--bundle", folder / "two", "--data", folder / "faces"]
    assert main([*map(str, arguments), "--split", "test", "--out", str(folder / "scores")]) == 0
    return folder


def test_the_card_says_what_was_measured(folder, tmp_path, capsys):
    (tmp_path / "notes.md").write_text("## Known failures\n\nHats.\n")
    arguments = ["card", folder / "two", "--scores", folder / "scores"]
    arguments += ["--notes", tmp_path / "notes.md", "--out", tmp_path / "CARD.md"]
    assert main(list(map(str, arguments))) == 0
    text = (tmp_path / "CARD.md").read_text()
    metrics = json.loads((folder / "scores" / "metrics.json").read_text())
    for name in ("accuracy", "macro_f1"):
        value, low, high = (metrics[name][key] for key in ("value", "low", "high"))
        assert f"{value:.3f} ({low:.3f} to {high:.3f})" in text
    assert f"{metrics['confidence']['calibration_error']:.3f}" in text
    assert "faces, test" in text
    assert "research only" in text
    steps = [line for line in text.splitlines() if line[:3] in ("1. ", "2. ", "3. ", "4. ")]
    assert steps[0].startswith("1. `fer-jax fuse`")
    assert "main: `fer-jax train`: epochs 7; peak rate for 256 faces 0.25; loss focal" in steps[1]
    assert "main: `fer-jax convert`: `vit.pth`, SHA-256 `abc`" in steps[2]
    assert steps[3].startswith("4. aux: `fer-jax convert`")
    assert "no window was tuned on labelled video" in text
    assert "It knows no class `Other`" in text
    assert "## Known failures\n\nHats." in text
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_bundle_that_knows_other_and_was_not_scored(folder, tmp_path):
    assert main(["card", str(folder / "eight"), "--out", str(tmp_path / "c.md")]) == 0
    text = (tmp_path / "c.md").read_text()
    assert "Not measured." in text
    assert "It knows no class `Other`" not in text


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        ("eight", ["--scores", "scores"], "scores of another bundle"),
        ("two", ["--scores", "faces"], "holds no scores of single images"),
        ("faces", [], "bundle.json"),
    ],
)
def test_what_does_not_belong_is_refused(folder, tmp_path, capsys, bundle, options, message):
    options = [str(folder / one) if one in ("scores", "faces") else one for one in options]
    assert main(["card", str(folder / bundle), *options, "--out", str(tmp_path / "c.md")]) == 1
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert message in printed
    assert not (tmp_path / "c.md").exists()
