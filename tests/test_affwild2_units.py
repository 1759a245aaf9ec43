"""What crops and videos hand on, and what about a tree stops them."""

import os
import sys
from pathlib import Path

import pytest
from affwild2_trees import CHALLENGE, write_frames, write_labels

from fer_jax.data.affwild2_units import Collection, crop_units
from fer_jax.data.affwild2_videos import video_units
from fer_jax.data.examples import Example, Fault
from fer_jax.errors import FerJaxError

LABELS = {"a": [0, 1], "b": [2, -1], "c": [3, 4]}


@pytest.fixture
def tree(tmp_path):
    """Two people to train on, one to validate with."""
    for video, labels in LABELS.items():
        write_labels(tmp_path, "validation" if video == "c" else "train", video, labels)
        write_frames(tmp_path, video, [1, 2], empty=True)
        path = tmp_path / "batch1" / f"{video}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def _locked(monkeypatch, *folders: Path) -> None:
    """Folders that must not be read; the rights of files do not bind root."""
    scandir = os.scandir

    def guarded(path):
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)


def _names(found: Collection) -> list[str]:
    return [unit.name for unit in found.units]


def _faults(found: Collection) -> dict[str, str]:
    return {fault.name: fault.reason for fault in found.faults}


def test_a_whole_tree_has_no_faults(tree):
    for read in (crop_units, video_units):
        found = read(tree)
        assert sorted(_names(found)) == ["a", "b", "c"]
        assert found.faults == ()


@pytest.mark.parametrize("read", [crop_units, video_units])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_two_editions_that_differ_are_never_chosen_between(tree, read, skip_bad):
    other = "5th_ABAW_Annotations/EXPR_Classification_Challenge"
    write_labels(tree, "train", "b", LABELS["b"], challenge=other)
    assert _faults(read(tree, skip_bad=skip_bad)) == {}  # the same, twice
    write_labels(tree, "train", "a", [1, 1], challenge=other)
    with pytest.raises(FerJaxError, match="is there twice: 6th_ABAW") as caught:
        read(tree, skip_bad=skip_bad)
    assert "5th_ABAW_Annotations" in str(caught.value)
    assert "(a); remove" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_pictures_twice_stop_those_who_take_them(tree, skip_bad):
    write_frames(tree, "a", [1], crops="cropped", empty=True)
    write_frames(tree, "a", [1], crops="cropped_new_50_vids", empty=True)
    options = {"skip_bad": skip_bad}
    assert _faults(crop_units(tree, **options)) == {}
    with pytest.raises(FerJaxError, match="is there twice: cropped_new_50_vids"):
        crop_units(tree, kind="cropped", **options)
    (tree / "batch2").mkdir()
    (tree / "batch2" / "a.avi").touch()
    assert _faults(crop_units(tree, **options)) == {}
    with pytest.raises(FerJaxError, match="is there twice: batch2"):
        video_units(tree, **options)


@pytest.mark.parametrize("read", [crop_units, video_units])
def test_a_split_that_cannot_be_read_is_not_just_missing(tree, monkeypatch, read):
    name = f"{CHALLENGE}/Validation_Set"
    _locked(monkeypatch, tree / name)
    with pytest.raises(FerJaxError, match=rf"{name}: cannot be read \(Perm.*--skip-bad"):
        read(tree)
    found = read(tree, skip_bad=True)
    assert sorted(_names(found)) == ["a", "b"]
    assert "Permission denied" in _faults(found)[name]


def test_only_what_would_be_stored_counts(tree, monkeypatch):
    _locked(monkeypatch, tree / "cropped_aligned")
    assert _faults(video_units(tree)) == {}
    with pytest.raises(FerJaxError, match="cropped_aligned: cannot be read"):
        crop_units(tree)


@pytest.mark.skipif(sys.platform != "linux", reason="needs links and any names")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (f"{CHALLENGE}/Train_Set/0.txt", f"{CHALLENGE}/Train_Set/0.txt"),
        ("cropped_aligned/0", "cropped_aligned/0"),
        (f"{CHALLENGE}/Train_Set/\udce9.txt", f"{CHALLENGE}/Train_Set/\\xe9.txt"),
        ("cropped_aligned/\udce9", "cropped_aligned/\\xe9"),
    ],
)
def test_what_cannot_be_listed_stops_or_is_named(tree, name, shown):
    if shown == name:
        (tree / name).symlink_to(tree / name)
    elif name.endswith(".txt"):
        write_labels(tree, "train", Path(name).stem, [0])
    else:
        write_frames(tree, Path(name).name, [1], empty=True)
    with pytest.raises(FerJaxError, match="--skip-bad") as caught:
        crop_units(tree)
    assert shown in str(caught.value)
    for unlabelled in (False, True):
        found = crop_units(tree, skip_bad=True, unlabelled=unlabelled)
        assert sorted(_names(found)) == ["a", "b", "c"]
        assert list(_faults(found)) == [shown]
        for unit in found.units:
            unit.fingerprint()


def test_stray_pictures_are_named_and_stop_nothing(tree):
    (tree / "00001.jpg").touch()
    write_frames(tree, "a", [1], crops="faces", empty=True)
    found = crop_units(tree)
    assert sorted(_names(found)) == ["a", "b", "c"]
    assert list(_faults(found)) == [".", "faces/a"]


def test_a_folder_that_cannot_be_read_is_a_fault_of_its_person(tree, monkeypatch):
    (unit,) = [unit for unit in crop_units(tree).units if unit.name == "b"]
    _locked(monkeypatch, tree / "cropped_aligned" / "b")
    (fault,) = unit.examples()
    assert isinstance(fault, Fault)
    assert (fault.name, fault.split) == ("b", "")
    assert fault.reason.startswith("cannot be read (Permission denied)")
    (unit,) = [unit for unit in crop_units(tree).units if unit.name == "a"]
    assert [example.label for example in unit.examples() if isinstance(example, Example)] == [0, 1]
