import collections
import dataclasses
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from affwild2_trees import write_frames
from pictures import write_colors, write_picture
from PIL import Image

from fer_jax.data.affwild2_units import CropFolder, Person
from fer_jax.data.examples import Example, Fault
from fer_jax.data.images import encode_image, sharpness
from fer_jax.data.staging import Look, stage
from fer_jax.data.units import Listed, listed_units
from fer_jax.errors import FerJaxError

OPENED = collections.Counter()


class Watched(Listed):
    """A unit that counts how often its pictures are listed."""

    def examples(self):
        OPENED[self.name] += 1
        return super().examples()


def _examples(folder: Path, count: int) -> list[Example]:
    write_colors(folder, range(count))
    paths = sorted(folder.rglob("*.png"))
    return [Example(path, path.name, i % 7, "train") for i, path in enumerate(paths)]


def five_units(folder: Path, kind: type[Listed]) -> list[Listed]:
    """Ten pictures that are there already, two in a unit."""
    paths = sorted(folder.rglob("*.png"))
    examples = [Example(path, path.name, 0, "train") for path in paths]
    return [kind(str(i), tuple(examples[2 * i : 2 * i + 2])) for i in range(5)]


def _stage(units, folder, look=None, **options):
    return stage(units, folder, look or Look(), 7, **options)


def test_columns_say_what_was_seen(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", image)
    made = encode_image(image[:20], lossless=True)

    class Faulty(Listed):
        def examples(self):
            yield from super().examples()
            yield Fault("e", "line 3: no", "validation")

    units = [
        Faulty(
            "one",
            (
                Example(tmp_path / "a.png", "a.png", 2, "train", votes=(1, 2, 3, 4, 0, 0, 0)),
                Example(tmp_path / "a.png", "b", -1, "test", box=(10, 10, 30, 30), score=0.25),
                Example(tmp_path / "a.png", "c", 1, "train", encoded=made, template="t", size=9),
                Example(tmp_path / "none.png", "d", 1, "train", face_id=2),
            ),
        )
    ]
    (part,) = _stage(units, tmp_path / "staging", Look(margin=1.0, template="whole"))
    names = ("key", "label", "template", "size", "score", "votes", "sharpness")
    found = {name: column.tolist() for name, column in part.columns(*names).items()}
    assert found["key"] == ["a.png", "b", "c"]
    assert found["label"] == [2, -1, 1]
    assert found["template"] == ["whole", "box_square_1", "t"]
    assert found["size"] == [40, 20, 9]
    assert np.isnan(found["score"][0])
    assert found["score"][1] == 0.25
    assert found["votes"] == [[1, 2, 3, 4, 0, 0, 0], [0] * 7, [0] * 7]
    assert found["sharpness"][0] == pytest.approx(sharpness(image), rel=1e-6)
    assert part.faults == (Fault("e", "line 3: no", "validation"),)
    # Told under the face's key: others of its picture may be good.
    assert part.corrupted == (Fault("d#2", "cannot be read (No such file or directory)", "train"),)
    assert part.columns("voted")["voted"].tolist() == [True, False, False]
    whole, cut, kept = part.encoded([0, 1, 2])
    assert whole == (tmp_path / "a.png").read_bytes()
    assert kept == made
    decoded = np.asarray(Image.open(io.BytesIO(cut)))
    np.testing.assert_array_equal(decoded, image[10:30, 10:30])


def test_only_what_is_new_or_changed_is_looked_at_again(tmp_path):
    OPENED.clear()
    examples = _examples(tmp_path / "src", 9)
    units = [Watched(str(i), tuple(examples[3 * i : 3 * i + 3])) for i in range(3)]
    first = _stage(units, tmp_path / "staging")
    _stage(units, tmp_path / "staging")
    assert OPENED == {"0": 1, "1": 1, "2": 1}
    # Another picture, another label, another way of looking.
    time.sleep(0.01)
    write_picture(examples[0].path, np.zeros((30, 30, 3), np.uint8))
    units[1] = Watched("1", (dataclasses.replace(examples[3], label=6), *examples[4:6]))
    second = _stage(units, tmp_path / "staging")
    assert OPENED == {"0": 2, "1": 2, "2": 1}
    assert second[0].columns("size")["size"][0] == 30 != first[2].columns("size")["size"][0]
    _stage(units, tmp_path / "staging", Look(template="other"))
    assert OPENED == {"0": 3, "1": 3, "2": 2}


@pytest.mark.parametrize("damage", ["half", "empty", "bytes"])
def test_a_part_that_is_not_whole_is_made_again(tmp_path, damage):
    OPENED.clear()
    example = dataclasses.replace(_examples(tmp_path / "src", 1)[0], box=(2.0, 2.0, 20.0, 20.0))
    units = [Watched("0", (example,))]
    (part,) = _stage(units, tmp_path / "staging")
    (before,) = part.encoded([0])
    target = part.path.with_suffix(".faces") if damage == "bytes" else part.path
    content = target.read_bytes()
    target.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    (part,) = _stage(units, tmp_path / "staging")
    assert OPENED == {"0": 2}
    assert list(part.encoded([0])) == [before]


def test_processes_see_what_threads_see(tmp_path):
    examples = _examples(tmp_path / "src", 12)
    examples[5].path.write_bytes(b"no picture")
    examples[7] = dataclasses.replace(examples[7], box=(2.0, 2.0, 20.0, 20.0))
    units = [Listed(str(i), tuple(examples[4 * i : 4 * i + 4])) for i in range(3)]
    here = _stage(units, tmp_path / "here")
    there = _stage(units, tmp_path / "there", workers=2)
    for one, other in zip(here, there, strict=True):
        assert one.faults == other.faults == ()
        assert one.corrupted == other.corrupted
        for name in ("key", "label", "hash", "sharpness", "start", "length"):
            np.testing.assert_array_equal(one.columns(name)[name], other.columns(name)[name])
        rows = range(one.faces)
        assert list(one.encoded(rows)) == list(other.encoded(rows))


def test_a_killed_run_loses_the_part_in_hand_only(tmp_path):
    """Killed without warning in its third part; the next run lists that one and those after it."""
    _examples(tmp_path / "src", 10)
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_staging import Watched, five_units, _stage

        class Deadly(Watched):
            def examples(self):
                for i, example in enumerate(super().examples()):
                    if self.name == "2" and i == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield example

        folder = Path({str(tmp_path)!r})
        _stage(five_units(folder / "src", Deadly), folder / "staging")
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    OPENED.clear()
    parts = _stage(five_units(tmp_path / "src", Watched), tmp_path / "staging")
    assert OPENED == {"2": 1, "3": 1, "4": 1}
    assert [part.faces for part in parts] == [2] * 5


@pytest.mark.parametrize("change", ["longer", "same length", "gone"])
def test_a_picture_that_changes_before_it_is_stored_is_looked_at_by_the_next_run(tmp_path, change):
    OPENED.clear()
    (example,) = _examples(tmp_path / "src", 1)
    units = [Watched("0", (example,))]
    (part,) = _stage(units, tmp_path / "staging")
    content, times = example.path.read_bytes(), example.path.stat()
    if change == "gone":
        example.path.unlink()
    else:
        more = b"more" if change == "longer" else b""
        example.path.write_bytes(bytes(reversed(content)) + more)
        # Not even its time tells.
        os.utime(example.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(
        FerJaxError, match=r"(has changed|directory\)), since it was looked at; run"
    ):
        list(part.encoded([0]))
    example.path.write_bytes(content)
    os.utime(example.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (part,) = _stage(units, tmp_path / "staging")
    assert OPENED == {"0": 2}
    assert list(part.encoded([0])) == [content]


def test_kept_bytes_that_changed_are_not_stored(tmp_path):
    example = dataclasses.replace(_examples(tmp_path / "src", 1)[0], box=(2.0, 2.0, 20.0, 20.0))
    (part,) = _stage([Listed("0", (example,))], tmp_path / "staging")
    kept = part.path.with_suffix(".faces")
    kept.write_bytes(bytes(kept.stat().st_size))
    with pytest.raises(FerJaxError, match="has changed, since it was looked at; run again"):
        list(part.encoded([0]))


def test_what_comes_while_a_part_is_looked_at_makes_it_an_old_one(tmp_path):
    folder = write_frames(tmp_path, "a", [1, 2])
    person = Person("a", "train", np.zeros(3, np.int8))

    @dataclasses.dataclass(frozen=True, eq=False)
    class Growing(CropFolder):
        def examples(self):
            yield from super().examples()
            write_frames(tmp_path, "a", [3])

    (part,) = _stage([Growing(person, folder, "t", False)], tmp_path / "staging")
    assert part.faces == 2
    (part,) = _stage([CropFolder(person, folder, "t", False)], tmp_path / "staging")
    assert part.faces == 3


@pytest.mark.parametrize("length", ["same", "other"])
def test_a_picture_that_is_repaired_in_place_is_looked_at_again(tmp_path, length):
    folder = write_frames(tmp_path, "a", [1, 2])
    units = [CropFolder(Person("a", "train", np.zeros(2, np.int8)), folder, "t", False)]
    path, before = folder / "00001.jpg", folder.stat().st_mtime_ns
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)) if length == "same" else good[:500])
    (part,) = _stage(units, tmp_path / "staging")
    assert [fault.name for fault in part.corrupted] == ["a/00001.jpg"]
    time.sleep(0.01)
    path.write_bytes(good)
    assert folder.stat().st_mtime_ns == before  # which tells of names alone
    (part,) = _stage(units, tmp_path / "staging")
    assert part.corrupted == ()
    assert part.faces == 2


def test_a_folder_that_cannot_be_listed_is_told_and_tried_again(tmp_path, monkeypatch):
    folder = write_frames(tmp_path, "a", [1])
    units = [CropFolder(Person("a", "train", np.zeros(1, np.int8)), folder, "t", False)]
    scandir = os.scandir

    def guarded(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", guarded)
        (part,) = _stage(units, tmp_path / "staging")
        assert part.faces == 0
        assert [fault.name for fault in part.faults] == ["a"]
    (part,) = _stage(units, tmp_path / "staging")
    assert (part.faces, part.faults) == (1, ())


def test_scores_that_are_there_do_for_those_who_ask_for_none(tmp_path):
    OPENED.clear()
    units = [Watched("0", tuple(_examples(tmp_path / "src", 1)))]
    _stage(units, tmp_path / "staging")
    (part,) = _stage(units, tmp_path / "staging", Look(detect=True))
    assert OPENED == {"0": 2}
    scored = part.columns("score")["score"]
    assert not np.isnan(scored).any()
    (part,) = _stage(units, tmp_path / "staging")
    assert OPENED == {"0": 2}
    np.testing.assert_array_equal(part.columns("score")["score"], scored)


def test_lists_come_in_parts_whose_names_are_unique(tmp_path):
    example = Example(tmp_path / "a.png", "a", 0, "train")
    units = listed_units([dataclasses.replace(example, name=str(i)) for i in range(2500)])
    assert [len(unit) for unit in units] == [1024, 1024, 452]
    assert [one.name for unit in units for one in unit.listed] == [str(i) for i in range(2500)]
    with pytest.raises(FerJaxError, match="same name"):
        _stage([units[0], units[0]], tmp_path / "staging")


@pytest.mark.parametrize("margin", [0.0, -1.0, 11.0, float("nan")])
def test_impossible_margins_are_refused(margin):
    with pytest.raises(FerJaxError, match=r"margin .* is not in \(0, 10\]"):
        Look(margin=margin)
