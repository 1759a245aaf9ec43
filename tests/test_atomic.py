"""Outputs are whole or absent."""

import pytest

from fer_jax.atomic import atomic_directory, atomic_file, remove_partials
from fer_jax.errors import FerJaxError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "x.csv"
    with atomic_file(target) as partial:
        assert partial.suffix == ".csv"
        partial.write_text("one")
        assert not target.exists()
    with atomic_file(target) as partial:
        partial.write_text("two")
        assert target.read_text() == "one"
    assert target.read_text() == "two"
    assert names(target.parent) == ["x.csv"]
    assert target.stat().st_mode & 0o444 == 0o444


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.csv"]


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "out"
    with atomic_directory(target, marker="a") as partial:
        (partial / "a").write_text("a")
        assert not target.exists()
    assert names(target) == ["a"]
    assert names(tmp_path) == ["out"]


def test_a_folder_in_use_is_kept_unless_told(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("")
    with (
        pytest.raises(FerJaxError, match="out: exists already"),
        atomic_directory(target, marker="mine"),
    ):
        pytest.fail("must not be entered")
    with (
        pytest.raises(RuntimeError),
        atomic_directory(target, marker="mine", overwrite=True) as partial,
    ):
        (partial / "half").write_text("")
        raise RuntimeError
    assert names(target) == ["mine"]
    with atomic_directory(target, marker="mine", overwrite=True) as partial:
        (partial / "new").write_text("")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["out"]


def test_a_folder_of_another_kind_is_never_replaced(tmp_path):
    """`--overwrite` on a folder of photographs must not cost the photographs."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("")
    refused = pytest.raises(FerJaxError, match=r"holds no bundle\.json, so it will not be replaced")
    with refused, atomic_directory(tmp_path / "photos", marker="bundle.json", overwrite=True):
        pytest.fail("must not be entered")
    assert names(tmp_path / "photos") == ["me.jpg"]


def test_a_full_disk_names_the_target(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(FerJaxError, match="out: is a file"),
        atomic_directory(tmp_path / "out", marker="a"),
    ):
        pytest.fail("must not be entered")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".out.partial-abc", ".out.partial-x[1]", ".other.partial-abc", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    (tmp_path / ".out.partial-file").write_text("")
    remove_partials(tmp_path / "out")
    assert names(tmp_path) == [".other.partial-abc", "out"]
