"""Tables of features: the same as a recognizer's, bit for bit after an interruption, or refused."""

import json
import shutil

import numpy as np
import pytest
from pictures import write_picture
from tiny_bundles import noise_faces, write_tiny_bundle

import fer_jax
from fer_jax.bundle import bundle_hash
from fer_jax.cli.main import main
from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.examples import Example
from fer_jax.data.features import FeatureTable, FeatureWriter
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.train.extract import extract

NUMBER = 21  # no multiple of a batch
VOTES = (0.0, 3.0, 7.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extract")
    examples = []
    for i, face in enumerate(noise_faces(NUMBER)):
        path = folder / "src" / f"{i:02d}.png"
        write_picture(path, face)
        split = "validation" if i % 3 == 0 else "train"
        votes = VOTES if i % 2 else ()
        examples.append(Example(path, path.name, i % 7, split, video="clip", frame=i, votes=votes))
    build(examples, [], label_space("expw"), folder / "data")
    write_tiny_bundle(folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def table(folder):
    return extract(folder / "bundle", folder / "data", folder / "table", batch_size=8)


def test_rows_are_what_a_recognizer_makes_of_the_stored_faces(folder, table):
    data = FaceData.open(folder / "data")
    faces = np.stack([noise_faces(NUMBER)[int(key[:2])] for key in data.index["key"]])
    expected = fer_jax.load(folder / "bundle").features(faces)["main"]
    # Resized in one go, and one by one on the host: 2e-6 was seen, of values to 4.
    np.testing.assert_allclose(table.features, expected, atol=2e-5)
    for name in ("key", "label", "split", "video", "frame"):
        np.testing.assert_array_equal(table.index[name], data.index[name])
    voted = [int(key[:2]) % 2 == 1 for key in table.index["key"]]
    assert table.index["voted"].tolist() == voted
    np.testing.assert_array_equal(table.votes, np.outer(voted, VOTES).astype(np.float32))
    assert table.label_space == label_space("expw")


def test_killed_and_started_again_it_equals_an_uninterrupted_run(folder, table, monkeypatch):
    """The second run begins at the third batch, and begins anew for another bundle."""
    write, written = FeatureWriter.write, []

    def interrupted(self, rows):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(len(rows))
        write(self, rows)

    arguments = (folder / "bundle", folder / "data", folder / "again")
    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(*arguments, batch_size=8)
    assert not (folder / "again").exists()
    progress = json.loads((folder / "again.partial" / "progress.json").read_text())
    assert progress["rows"] == 16
    counted = []
    monkeypatch.setattr(
        FeatureWriter, "write", lambda self, rows: (counted.append(len(rows)), write(self, rows))
    )
    again = extract(*arguments, batch_size=8)
    assert counted == [5]
    assert np.array_equal(again.features, table.features)
    assert not (folder / "again.partial").exists()


def test_what_is_left_of_another_bundle_is_not_trusted(folder, tmp_path, monkeypatch):
    other = write_tiny_bundle(tmp_path / "other", seed=5)
    expected = extract(other, folder / "data", tmp_path / "expected", batch_size=8)

    def stop(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(folder / "bundle", folder / "data", tmp_path / "table", batch_size=8)
    found = extract(other, folder / "data", tmp_path / "table", batch_size=8)
    assert np.array_equal(found.features, expected.features)


def test_maps_of_patches_and_half_the_space(folder, table):
    options = {"batch_size": 8, "patches": True, "dtype": "float16"}
    maps = extract(folder / "bundle", folder / "data", folder / "maps", **options)
    assert maps.features.shape == (NUMBER, 2, 2, 48)
    assert maps.features.dtype == np.float16
    # The pooled feature is the mean of the patches, then fc_norm: undone up to scale and shift.
    mean = np.asarray(maps.features, np.float64).mean((1, 2))
    normed = (mean - mean.mean(-1, keepdims=True)) / mean.std(-1, keepdims=True)
    bundle = fer_jax.load(folder / "bundle").bundle
    norm = bundle.models["main"][1]["fc_norm"]
    expected = normed * np.asarray(norm["scale"]) + np.asarray(norm["bias"])
    # float16 has eleven bits: 3e-3 was seen.
    np.testing.assert_allclose(expected, table.features, atol=2e-2)


def test_the_command_says_what_it_made_and_refuses_to_replace_it(folder, capsys):
    arguments = ["extract", "--bundle", str(folder / "bundle"), "--data", str(folder / "data")]
    out = str(folder / "commanded")
    assert main([*arguments, "--out", out, "--batch-size", "8"]) == 0
    assert "21 features of 48 numbers (train 14, validation 7)" in capsys.readouterr().out
    assert main([*arguments, "--out", out]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--out", out, "--model", "aux", "--overwrite"]) == 1
    assert "has no encoder 'aux'; its encoders are main" in capsys.readouterr().err


def test_rows_are_found_by_key(folder, table, tmp_path):
    keys = table.index["key"][[5, 0, 20]]
    assert table.rows_of(keys).tolist() == [5, 0, 20]
    with pytest.raises(FerJaxError, match=r"no features of 1 of 2 faces, such as nobody\.png"):
        table.rows_of(np.array([keys[0], "nobody.png"]))
    rng = np.random.default_rng(0)
    order = rng.permutation(NUMBER)
    features = rng.normal(size=(NUMBER, 3))
    np.savez(tmp_path / "own.npz", key=table.index["key"][order], features=features[order])
    own = FeatureTable.open(tmp_path / "own.npz")
    np.testing.assert_array_equal(
        own.features[own.rows_of(table.index["key"])], features.astype(np.float32)
    )


def test_what_is_no_table_says_so(folder, table, tmp_path):
    with pytest.raises(FerJaxError, match="is no table of features"):
        FeatureTable.open(tmp_path / "nowhere")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(FerJaxError, match="is no table of features"):
        FeatureTable.open(tmp_path / "text.npz")
    np.savez(tmp_path / "twice.npz", key=np.array(["a", "a"]), features=np.zeros((2, 3)))
    with pytest.raises(FerJaxError, match="a key stands there twice"):
        FeatureTable.open(tmp_path / "twice.npz")
    np.savez(tmp_path / "short.npz", key=np.array(["a"]), features=np.zeros((2, 3)))
    with pytest.raises(FerJaxError, match="1 keys and 2 rows"):
        FeatureTable.open(tmp_path / "short.npz")


def test_a_bundle_is_known_by_what_it_computes(tmp_path):
    """Neither where it lies nor its scores matter; how faces are prepared does."""
    write_tiny_bundle(tmp_path / "a", "affwild2_expr")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    document = json.loads((tmp_path / "b" / "bundle.json").read_text())
    document["scores"] = {"selection_macro_f1": 1.0}
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(document))
    assert bundle_hash(tmp_path / "b") == bundle_hash(tmp_path / "a")
    document["views"]["main"]["mean"] = [0.4, 0.4, 0.4]
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(document))
    assert bundle_hash(tmp_path / "b") != bundle_hash(tmp_path / "a")
