import math
import random
from pathlib import Path

import numpy as np
import pytest
from collection_trees import pixel_text, touch, write
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.collections import READERS
from fer_jax.data.collections.mapping import map_examples
from fer_jax.data.examples import Example, LeftOut
from fer_jax.data.listing import PictureFolder, read_index
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, label_space


def _example(label, votes=(), name="a.png"):
    return Example(Path(name), name, label, "train", votes=votes)


# ---- the registry


def test_the_registry_is_whole_and_cannot_be_changed(tmp_path):
    assert list(READERS) == [
        "rafdb",
        "affectnet",
        "affectnet7",
        "expw",
        "fer2013",
        "ferplus",
        "ferplus_votes",
    ]
    for reader in READERS.values():
        assert reader.space in LABEL_SPACES
        assert reader.layout
        assert "\n" not in reader.layout
        with pytest.raises(FerJaxError, match="looked for"):
            reader.read(tmp_path)
    with pytest.raises(TypeError):
        READERS["mine"] = READERS["expw"]


# ---- mapping


def test_classes_meet_by_name():
    examples = [_example(label, name=f"{label}.png") for label in (0, 7, 3, -1)]
    mapped, left_out = map_examples(examples, "affectnet8", "affwild2_expr")
    # AffectNet: Neutral, Happiness, Sadness, Surprise; Aff-Wild2: Neutral 0, Surprise 6.
    assert [(one.name, one.label) for one in mapped] == [("0.png", 0), ("3.png", 6), ("-1.png", -1)]
    assert left_out == [
        LeftOut("7.png", "class Contempt has no counterpart in affwild2_expr", "train")
    ]


def test_votes_move_with_their_classes_and_lost_ones_are_dropped():
    # FER+: Neutral, Happiness, Surprise, Sadness, Anger, Disgust, Fear, Contempt.
    examples = [
        _example(0, (6, 1, 0, 0, 0, 2, 0, 1), "a"),
        _example(-1, (3, 3, 0, 0, 0, 0, 1, 3), "b"),
        _example(7, (4, 0, 0, 0, 0, 0, 0, 6), "c"),
        _example(-1, (0, 0, 0, 0, 0, 0, 0, 2), "d"),
        _example(4, (0, 0, 0, 0, 0, 0, 0, 2), "e"),
    ]
    mapped, left_out = map_examples(examples, "ferplus", "affwild2_expr")
    # Aff-Wild2: Neutral, Anger, Disgust, Fear, Happiness, Sadness, Surprise, Other.
    assert [(one.name, one.label, one.votes) for one in mapped] == [
        ("a", 0, (6, 0, 2, 0, 1, 0, 0, 0)),
        ("b", -1, (3, 0, 0, 1, 3, 0, 0, 0)),
        ("e", 1, ()),
    ]
    assert [(fault.name, fault.reason) for fault in left_out] == [
        ("c", "class Contempt has no counterpart in affwild2_expr"),
        ("d", "its votes have no counterpart in affwild2_expr"),
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(LABEL_SPACES)),
    st.sampled_from(sorted(LABEL_SPACES)),
    st.lists(st.tuples(st.integers(-1, 6), st.lists(st.integers(0, 9), min_size=8, max_size=8))),
)
def test_nothing_is_lost_and_names_stay(source, target, faces):
    source, target = label_space(source), label_space(target)
    examples = [_example(label, tuple(votes[: len(source)])) for label, votes in faces]
    mapped, left_out = map_examples(examples, source, target)
    assert len(mapped) + len(left_out) == len(examples)
    kept = iter(mapped)
    for one in examples:
        names = {name: vote for name, vote in zip(source.classes, one.votes, strict=True) if vote}
        there = {name: vote for name, vote in names.items() if name in target.classes}
        if one.label >= 0:
            stays = source.classes[one.label] in target.classes
        else:
            stays = bool(there) or not names
        if not stays:
            continue
        other = next(kept)
        assert {n: v for n, v in zip(target.classes, other.votes, strict=False) if v} == there
        if one.label >= 0:
            assert target.classes[other.label] == source.classes[one.label]
        else:
            assert other.label == -1
    assert next(kept, None) is None


def test_what_is_not_of_the_space_is_refused():
    with pytest.raises(FerJaxError, match="label 7 is outside the space expw"):
        map_examples([_example(7)], "expw", "affwild2_expr")
    with pytest.raises(FerJaxError, match=r"a\.png: has votes for 8 classes, expw has 7"):
        map_examples([_example(0, (1.0,) * 8)], "expw", "affwild2_expr")


# ---- damage


@pytest.mark.parametrize(
    ("text", "good"),
    [("1", 0), ("7", 6), ("007", 6)],
)
def test_numbers_of_classes(text, good):
    assert read_index(text, "label", 7, first=1) == good


@pytest.mark.parametrize("text", ["", "0", "8", "-1", "1.0", "²", "٣", "0000000005000", "1" * 5000])
def test_numbers_that_are_no_class(text):
    with pytest.raises(FerJaxError, match="not a number from 1 to 7"):
        read_index(text, "label", 7, first=1)


def _tree(folder):
    """Every collection, small; returns the lists that can be damaged."""
    touch(folder / "rafdb", *(f"basic/Image/aligned/train_{n}_aligned.jpg" for n in range(9)))
    touch(folder / "affectnet/Manually_Annotated_Images", *(f"{n}.jpg" for n in range(9)))
    touch(folder / "expw/origin", *(f"{n}.jpg" for n in range(9)))
    touch(folder / "ferplus/train", *(f"{n}.png" for n in range(9)))
    choices = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    columns = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks"
    lists = {
        "rafdb/basic/EmoLabel/list_patition_label.txt": [f"train_{n}.jpg 3" for n in range(9)],
        "affectnet/training.csv": [
            f"{columns},expression,valence,arousal",
            *(f"{n}.jpg,1,2,30,40,1;2,3,0.5,0.5" for n in range(9)),
        ],
        "expw/label.lst": [f"{n}.jpg 0 1 2 30 40 99.5 4" for n in range(9)],
        "fer2013/fer2013.csv": [
            "emotion,pixels,Usage",
            *(f"{n % 7},{pixel_text(n)},Training" for n in range(2)),
        ],
        "ferplus/votes.csv": [
            f"path,split,{choices}",
            *(f"train/{n}.png,train,0,0,8,0,0,0,0,0,1,1" for n in range(9)),
        ],
    }
    for name, lines in lists.items():
        write(folder / name, "\n".join(lines) + "\n")
    return {name: (folder / name).read_bytes() for name in lists}


def _damage(content, rng):
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            content[at : at + rng.randint(1, 30)] = b""
        elif kind == 1:
            content[at:at] = rng.choice([b'"', b"\0", b"\r", b"\n", b",", b" ", b"\xff\xfe", b"/"])
        elif kind == 2 and at < len(content):
            content[at] = rng.randrange(256)
        elif kind == 3:
            content[at:at] = content[at : at + 50]
        else:
            content[at:at] = b"9" * rng.choice([1, 20, 400, 5000])
    return bytes(content)


def test_damaged_lists_are_refused_in_one_line_or_read_with_every_line_accounted_for(tmp_path):
    lists = _tree(tmp_path)
    for name in lists:
        examples, faults = READERS[name.split("/")[0]].read(tmp_path / name.split("/")[0])
        assert examples
        assert [fault.name for fault in faults if fault.name != "validation.csv"] == []
    rng = random.Random(0)
    refused = []
    read = faulty = 0
    for _ in range(120):
        for name, content in lists.items():
            collection = name.split("/")[0]
            damaged = _damage(content, rng)
            (tmp_path / name).write_bytes(damaged)
            try:
                examples, faults = READERS[collection].read(tmp_path / collection)
            except FerJaxError as error:
                refused.append(str(error))
                continue
            read += 1
            faulty += bool(faults)
            text = damaged.decode("utf-8-sig", errors="replace")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            lines = sum(bool(line.strip()) for line in text.split("\n"))
            header = collection in ("fer2013", "ferplus")
            # AffectNet's header may be damaged into a line that has one.
            assert len(examples) + len(faults) >= lines - (header or collection == "affectnet")
            assert all(fault.name and fault.reason for fault in faults)
            assert all(
                one.path.is_file() and one.label >= 0 and not math.isinf(one.score)
                for one in examples
            )
        (tmp_path / name).write_bytes(content)
    assert read > 400
    assert faulty > 300
    assert len(refused) > 20
    assert not any("\n" in message for message in refused)


def test_one_listing_tells_what_exists(tmp_path):
    touch(tmp_path, "a/b ü.jpg", "a/.hidden.jpg", "a/notes.txt", "top.PNG", "a/deeper/c.jpg")
    folder = PictureFolder(tmp_path)
    assert "a/b ü.jpg" in folder
    assert "top.PNG" in folder
    for name in ("a/deeper", "a", "", "/", "absent/x.jpg", "a/absent.jpg", "a\0/b", "x" * 5000):
        assert name not in folder
    assert "x" * 5000 + "/y.jpg" not in folder
    assert folder.pictures("a") == ["a/b ü.jpg"]
    assert folder.pictures("") == ["top.PNG"]
    assert folder.pictures("absent") == []


def test_votes_are_plain_numbers():
    mapped, _ = map_examples([_example(0, tuple(np.arange(8.0)))], "ferplus", "affwild2_expr")
    assert all(isinstance(vote, float) for vote in mapped[0].votes)
