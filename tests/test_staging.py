import collections
import dataclasses
import io
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import write_colors, write_picture
from PIL import Image

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
                Example(tmp_path / "none.png", "d", 1, "train"),
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
    assert part.faults == (
        Fault("d", "cannot be read (No such file or directory)", "train"),
        Fault("e", "line 3: no", "validation"),
    )
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
        assert one.faults == other.faults
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


def test_a_picture_that_changes_before_it_is_stored_is_not_stored(tmp_path):
    (example,) = _examples(tmp_path / "src", 1)
    (part,) = _stage([Listed("0", (example,))], tmp_path / "staging")
    example.path.write_bytes(example.path.read_bytes() + b"more")
    with pytest.raises(FerJaxError, match=r"has changed since it was looked at; run again"):
        list(part.encoded([0]))
    example.path.unlink()
    with pytest.raises(FerJaxError, match=r"cannot be read .* since it was looked at"):
        list(part.encoded([0]))


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
