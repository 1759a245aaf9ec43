"""Soft labels of a teacher: against the recognizer's own probabilities, mixed by hand."""

import json

import numpy as np
import pytest
from pictures import write_picture
from tiny_bundles import noise_faces, write_tiny_bundle

import fer_jax
from fer_jax.cli.main import main
from fer_jax.data.augment import Augmentation
from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.examples import Example
from fer_jax.data.pipeline import train_batches
from fer_jax.labels import label_space

NUMBER = 12
VOTES = (0.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def kind_of(i):
    """In turn: a label, votes beside it, and votes without one."""
    return ("label", "votes", "tie")[i % 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    examples = []
    for i, face in enumerate(noise_faces(NUMBER)):
        path = folder / "src" / f"{i:02d}.png"
        write_picture(path, face)
        votes = () if kind_of(i) == "label" else VOTES
        label = -1 if kind_of(i) == "tie" else i % 7
        split = "validation" if i >= 9 else "train"
        examples.append(Example(path, path.name, label, split, votes=votes))
    build(examples, [], label_space("expw"), folder / "data")
    for i, face in enumerate(noise_faces(NUMBER)):
        write_picture(folder / "t" / f"{i:02d}.png", 255 - face)
    examples = [
        Example(folder / "t" / e.name, e.name, e.label, e.split, votes=e.votes) for e in examples
    ]
    build(examples, [], label_space("expw"), folder / "other")
    write_tiny_bundle(folder / "teacher")
    return folder


def probabilities(folder, faces, temperature):
    logits = fer_jax.load(folder / "teacher").logits(faces).astype(np.float64) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seen", [False, True])
def test_votes_are_the_mixture(folder, tmp_path, capsys, seen):
    arguments = ["distill", folder / "data", "--teacher", folder / "teacher", "--weight", "0.75"]
    arguments += ["--temperature", "2", "--out", tmp_path / "taught"]
    if seen:
        arguments += ["--seen", folder / "other"]
    assert main(list(map(str, arguments))) == 0
    assert "9 training faces with the teacher's votes; it names" in capsys.readouterr().out
    before, after = FaceData.open(folder / "data"), FaceData.open(tmp_path / "taught")
    for name in ("key", "label", "split", "position", "template", "size"):
        np.testing.assert_array_equal(after.index[name], before.index[name])
    faces = np.stack([noise_faces(NUMBER)[int(key[:2])] for key in before.index["key"].tolist()])
    teacher = probabilities(folder, 255 - faces if seen else faces, 2.0)
    for row, key in enumerate(before.index["key"].tolist()):
        number, votes = int(key[:2]), after.records.votes(row)
        assert after.records.image(row) == before.records.image(row)
        if before.index["split"][row] != "train":
            np.testing.assert_array_equal(votes, before.records.votes(row))
            continue
        own = {"label": np.eye(7)[number % 7]}.get(kind_of(number), np.array(VOTES) / 4)
        # Resized one by one on the host, and in a batch: 1e-6 was seen.
        np.testing.assert_allclose(votes, 0.25 * own + 0.75 * teacher[row], atol=2e-5)
        assert after.index["voted"][row]
    document = json.loads((tmp_path / "taught" / "faces.json").read_text())
    assert document["distilled"]["weight"] == 0.75


def test_training_takes_them_as_targets(folder, tmp_path):
    """A face with neither label nor votes learns from the teacher alone."""
    data = folder / "data"
    arguments = ["distill", str(data), "--teacher", str(folder / "teacher"), "--weight", "1"]
    assert main([*arguments, "--out", str(tmp_path / "taught")]) == 0
    taught = FaceData.open(tmp_path / "taught")
    rows = np.flatnonzero(taught.index["split"] == "train")
    batch = next(
        iter(
            train_batches(
                [(taught, rows)], views={"image": "main"}, image_size=32, batch_size=9,
                augmentation=Augmentation(), votes=True, seed=0,
            )
        )
    )  # fmt: skip
    np.testing.assert_allclose(batch["votes"].sum(axis=1), 1, atol=1e-5)
    assert (batch["votes"].max(axis=1) < 1).all()


def test_what_cannot_be_is_told_in_a_line(folder, tmp_path, capsys):
    write_tiny_bundle(tmp_path / "other", labels="affwild2_expr")
    small = folder / "src"
    out = ["--out", str(tmp_path / "o")]
    data, teacher = str(folder / "data"), ["--teacher", str(folder / "teacher")]
    for arguments, message in (
        ([data, *teacher, "--weight", "0", *out], "weight 0 must be above 0"),
        ([data, *teacher, "--temperature", "0", *out], "temperature 0 must be above 0"),
        ([data, "--teacher", str(tmp_path / "other"), *out], "prepare the data with the teacher's"),
        ([str(small), *teacher, *out], "has no faces.json"),
        ([data, *teacher, "--out", data], "exists already"),
    ):
        assert main(["distill", *arguments]) in (1, 2)
        printed = capsys.readouterr().err
        assert len(printed.splitlines()) == 1
        assert message in printed
    assert not (tmp_path / "o").exists()


def test_faces_that_the_teacher_cannot_see_are_told(folder, tmp_path, capsys):
    path = folder / "src" / "00.png"
    build([Example(path, "00.png", 0, "train")], [], label_space("expw"), tmp_path / "one")
    arguments = ["distill", str(folder / "data"), "--teacher", str(folder / "teacher")]
    arguments += ["--seen", str(tmp_path / "one"), "--out", str(tmp_path / "o")]
    assert main(arguments) == 1
    assert "has not 8 of the 9 training faces, such as 01.png" in capsys.readouterr().err
