import json
import pickle
import shutil

import numpy as np
import pytest
from pictures import write_colors

from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData, select, split_selection
from fer_jax.data.image_folder import read_image_folder
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_colors(folder / "src", range(70))
    write_colors(folder / "src", range(70, 80), split="validation")
    space = label_space("expw")
    build(*read_image_folder(folder / "src", space), space, folder / "data")
    return folder / "data"


@pytest.fixture
def copy(prepared, tmp_path):
    """A data set to break."""
    return shutil.copytree(prepared, tmp_path / "data")


@pytest.fixture
def data(prepared):
    return FaceData.open(prepared)


def test_readers_travel_without_their_records(data):
    expected = data.records[5]
    reader = pickle.loads(pickle.dumps(data.records))
    assert len(pickle.dumps(data.records)) < 1000
    assert reader[5]["image"] == expected["image"]


def test_a_missing_or_foreign_folder_is_refused(tmp_path):
    with pytest.raises(FerJaxError, match="nowhere: no such data set; make one with `fer-jax"):
        FaceData.open(tmp_path / "nowhere")
    with pytest.raises(FerJaxError, match=r"has no faces\.json, so is no data set"):
        FaceData.open(tmp_path)


def _edit(folder, **changes):
    path = folder / "faces.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _break_json(folder):
    (folder / "faces.json").write_text("{")


def _drop_index(folder):
    (folder / "index.npz").unlink()


def _cut_index(folder):
    path = folder / "index.npz"
    path.write_bytes(path.read_bytes()[:500])


def _shorten_index(folder):
    with np.load(folder / "index.npz") as columns:
        shorter = {name: columns[name][:-1] for name in columns.files}
    np.savez(folder / "index.npz", **shorter)


def _drop_shards(folder):
    shutil.rmtree(folder / "faces")


def _drop_a_shard(folder):
    next(folder.glob("faces/*/*train*")).unlink()


def _cut_a_shard(folder):
    path = next(folder.glob("faces/*/*train*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _swap_shards(folder):
    train, validation = (next(folder.glob(f"faces/*/*-{s}*")) for s in ("train", "validation"))
    shutil.copy(validation, train)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_break_json, r"faces\.json: is damaged"),
        (lambda folder: _edit(folder, format="fer_jax faces 0"), "format 'fer_jax faces 0' is not"),
        (lambda folder: _edit(folder, classes=["A"]), "classes A are not those of the label space"),
        (_drop_index, "is not a whole data set"),
        (_cut_index, "is not a whole data set"),
        (_shorten_index, "lists 79 faces, the shards hold 80"),
        (_drop_shards, "is not a whole data set"),
        (_drop_a_shard, "is not a whole data set"),
        (_cut_a_shard, "is not a whole data set"),
        (_swap_shards, "lists 80 faces, the shards hold 20"),
    ],
)
def test_a_damaged_data_set_is_refused(copy, damage, words):
    damage(copy)
    with pytest.raises(FerJaxError, match=words) as caught:
        FaceData.open(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "fer-jax prepare" in str(caught.value)


def test_a_data_set_from_before_votes_were_told_has_none(copy):
    with np.load(copy / "index.npz") as columns:
        older = {name: columns[name] for name in columns.files if name != "voted"}
    np.savez(copy / "index.npz", **older)
    data = FaceData.open(copy)
    assert data.index["voted"].tolist() == [False] * 80


def test_select_gives_the_rows_of_a_split(data):
    train, validation = select(data, "train"), select(data, "validation")
    assert (data.index["split"][train] == "train").all()
    assert sorted([*train, *validation]) == list(range(80))
    with pytest.raises(FerJaxError, match=r"no split 'test'; its splits are train \(70\), valid"):
        select(data, "test")


def test_select_leaves_out_faces_without_a_label(data):
    data.index["label"] = data.index["label"].copy()
    data.index["label"][:3] = -1
    assert select(data, "train").min() == 3
    assert select(data, "train", labelled=False).min() == 0
    data.index["label"][:] = -1
    with pytest.raises(FerJaxError, match="no face of split 'train' has a label"):
        select(data, "train")


def test_a_selection_part_is_stratified_and_deterministic(data):
    rows = select(data, "train")
    train, selection = split_selection(data, rows, 0.2, 0)
    assert sorted([*train, *selection]) == rows.tolist()
    assert np.bincount(data.index["label"][selection]).tolist() == [2] * 7
    again = split_selection(data, rows, 0.2, 0)
    np.testing.assert_array_equal(selection, again[1])
    assert not np.array_equal(selection, split_selection(data, rows, 0.2, 1)[1])


@pytest.mark.parametrize("column", ["subject", "video"])
def test_a_selection_part_takes_whole_subjects_or_videos(data, column):
    names = np.where(np.arange(80) % 2 == 0, "", [f"{i // 8}" for i in range(80)])
    data.index[column] = names
    rows = select(data, "train")
    train, selection = split_selection(data, rows, 0.3, 0)
    assert not set(names[train]) & set(names[selection]) - {""}
    assert len(selection) == pytest.approx(21, abs=3)


@pytest.mark.parametrize("change", ["label", "subject", "shard"])
def test_a_fingerprint_is_of_what_is_stored_and_not_of_where(data, copy, change):
    assert FaceData.open(copy).fingerprint() == data.fingerprint()
    changed = FaceData.open(copy)
    if change == "shard":
        shard = max((copy / "faces" / "1.0.0").glob("*array_record*"))
        shard.write_bytes(shard.read_bytes() + b"0")
    else:
        column = changed.index[change].copy()
        column[3] = 6 if change == "label" else "x"
        changed.index[change] = column
    assert changed.fingerprint() != data.fingerprint()
