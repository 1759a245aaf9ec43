import collections
import csv
import os
from pathlib import Path

import numpy as np
import pytest
from collection_trees import pixel_text, pixels, reasons, touch, write

from fer_jax.data.collections.ferplus import read_ferplus
from fer_jax.data.collections.mapping import map_examples
from fer_jax.data.examples import LeftOut
from fer_jax.data.images import decode_image
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

CHOICES = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
OFFICIAL = f"Usage,Image name,{CHOICES}\n"
# image name and ten counts; the third row is one that the official list leaves without a name
ROWS = [
    ("fer0000000.png", "Training", "4,0,0,1,3,2,0,0,0,0"),
    ("fer0000001.png", "Training", "6,0,1,1,0,0,0,0,2,0"),
    ("", "Training", "0,0,0,0,0,0,0,0,0,10"),
    ("fer0000002.png", "PublicTest", "0,0,0,0,0,0,0,7,3,0"),
    ("fer0000003.png", "PrivateTest", "0,5,5,0,0,0,0,0,0,0"),
    ("fer0000004.png", "PrivateTest", "0,1,0,0,0,0,0,0,3,6"),
    ("fer0000005.png", "PrivateTest", "0,0,0,0,0,0,10,0,0,0"),
    ("fer0000006.png", "PrivateTest", "0,0,0,0,0,0,0,0,9,1"),
]
FOLDERS = {
    "Training": "FER2013Train",
    "PublicTest": "FER2013Valid",
    "PrivateTest": "FER2013Test",
}
MAJORITY = {  # key: split, label, votes
    "FER2013Train/fer0000001.png": ("train", 0, (6, 0, 1, 1, 0, 0, 0, 0)),
    "FER2013Valid/fer0000002.png": ("validation", 7, (0, 0, 0, 0, 0, 0, 0, 7)),
    "FER2013Test/fer0000005.png": ("test", 6, (0, 0, 0, 0, 0, 0, 10, 0)),
}
VOTES = {
    **MAJORITY,
    "FER2013Train/fer0000000.png": ("train", 0, (4, 0, 0, 1, 3, 2, 0, 0)),
    "FER2013Test/fer0000003.png": ("test", -1, (0, 5, 5, 0, 0, 0, 0, 0)),
}
NO_FACE = {
    "fer2013new.csv:4": "line 4: voted not a face by 10 of 10",
    "FER2013Test/fer0000004.png": "line 7: voted not a face by 6 of 10",
    "FER2013Test/fer0000006.png": "line 9: nobody named a class",
}


def _write_list(folder, rows=ROWS):
    lines = [f"{usage},{name},{counts}\n" for name, usage, counts in rows]
    return write(folder / "fer2013new.csv", OFFICIAL + "".join(lines))


def _with_pictures(folder, parent=""):
    _write_list(folder)
    touch(folder, *(f"{parent}{FOLDERS[usage]}/{name}" for name, usage, _ in ROWS if name))
    return folder


def _with_pixels(folder, usages=None):
    _write_list(folder)
    usages = usages or [usage for _, usage, _ in ROWS]
    rows = [f"0,{pixel_text(n)},{usage}" for n, usage in enumerate(usages)]
    write(folder / "fer2013.csv", "\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return folder


def _read(folder, **options):
    examples, faults = read_ferplus(folder, **options)
    assert {one.source for one in examples} <= {"ferplus"}
    return {one.key: (one.split, one.label, one.votes) for one in examples}, faults


@pytest.mark.parametrize("make", [_with_pixels, _with_pictures])
def test_the_majority_rule(tmp_path, make):
    examples, faults = _read(make(tmp_path))
    assert examples == MAJORITY
    assert reasons(faults) == {
        "FER2013Train/fer0000000.png": "line 2: no class has 6 of 10 votes, Neutral has 4",
        "FER2013Test/fer0000003.png": "line 6: no class has 6 of 10 votes, Happiness has 5",
        **NO_FACE,
    }
    assert all(isinstance(fault, LeftOut) for fault in faults)
    examples, _ = _read(tmp_path, votes_needed=8)
    assert list(examples) == ["FER2013Test/fer0000005.png"]


@pytest.mark.parametrize("make", [_with_pixels, _with_pictures])
def test_all_votes_are_kept_with_a_label_where_one_class_leads(tmp_path, make):
    examples, faults = _read(make(tmp_path), rule="votes")
    assert examples == VOTES
    assert reasons(faults) == NO_FACE


def test_rows_belong_together_by_their_order_and_not_by_their_names(tmp_path):
    # The third image is without a name, so the number in the fourth one's name is its row less 1.
    examples, _ = read_ferplus(_with_pixels(tmp_path), rule="votes")
    rows = {name: row for row, (name, _, _) in enumerate(ROWS)}
    assert len(examples) == 5
    for one in examples:
        row = rows[one.name.split("/")[1]]
        np.testing.assert_array_equal(decode_image(one.read())[..., 0], pixels(row))


@pytest.mark.parametrize("parent", ["data/", "images/"])
def test_pictures_in_other_folders(tmp_path, parent):
    examples, faults = read_ferplus(_with_pictures(tmp_path, parent))
    assert {one.name for one in examples} == set(MAJORITY)
    assert all(one.path.is_file() for one in examples)
    assert len(faults) == 5


def test_lists_of_unequal_length_are_refused(tmp_path):
    _with_pixels(tmp_path)
    with (tmp_path / "fer2013.csv").open("a") as file:
        file.write(f"0,{pixel_text(0)},Training\n")
    with pytest.raises(FerJaxError, match=r"fer2013\.csv: line 10 has no counterpart"):
        read_ferplus(tmp_path)
    _write_list(tmp_path, [*ROWS, ROWS[0], ROWS[0]])
    with pytest.raises(FerJaxError, match=r"fer2013new\.csv: line 11 has no counterpart"):
        read_ferplus(tmp_path)


def test_rows_whose_parts_differ_and_bad_pixels_are_faults(tmp_path):
    usages = [usage for _, usage, _ in ROWS]
    _with_pixels(tmp_path, ["PublicTest", "PublicTest", *usages[2:]])
    path = tmp_path / "fer2013.csv"
    lines = path.read_text().splitlines()
    lines[4] = "0,1 2 3,PublicTest"
    lines[7] = "0"
    path.write_text("\n".join(lines))
    examples, faults = _read(tmp_path)
    assert examples == {}
    named = reasons(faults)
    assert named["FER2013Train/fer0000001.png"] == (
        "line 3: its pixels in line 3: is of PublicTest, its votes are of train"
    )
    assert named["FER2013Valid/fer0000002.png"] == (
        "line 5: its pixels in line 5: has 3 pixels, not 2304"
    )
    assert named["FER2013Test/fer0000005.png"] == (
        "line 8: its pixels in line 8: has more or fewer fields than the header"
    )
    assert sum(isinstance(fault, LeftOut) for fault in faults) == 5


def test_the_form_with_paths(tmp_path):
    touch(tmp_path, "train/a.png", "train/b ü.png", "test/c.png", "test/d.png", "elsewhere/x.png")
    header = f"path,split,{CHOICES}\r\n"
    write(
        tmp_path / "votes.csv",
        header + "train/a.png,train,0,9,0,0,0,0,0,0,1,0\r\n"
        "train/b ü.png,train,0,2,0,8,0,0,0,0,0,0\r\n"
        "train/e.png,train,0,2,0,8,0,0,0,0,0,0\r\n"
        "test/c.png,test set,0,0,0,0,0,0,6,0,0,0\r\n"
        "test/c.png,test,0,0,0,0,0,0,6,-1,0,0\r\n"
        "test/c.png,test,0,0,0,0,0,0,six,0,0,0\r\n"
        "test/c.png,test,0,0,0,0,0,0,6,0,0\r\n"
        ",test,0,0,0,0,0,0,6,0,0,0\r\n"
        "test/c.png,test,0,0,0,0,0,0,6,0,4,0\r\n",
        "utf-8-sig",
    )
    examples, faults = _read(tmp_path)
    assert examples == {
        "train/a.png": ("train", 1, (0, 9, 0, 0, 0, 0, 0, 0)),
        "train/b ü.png": ("train", 3, (0, 2, 0, 8, 0, 0, 0, 0)),
        "test/c.png": ("test", 6, (0, 0, 0, 0, 0, 0, 6, 0)),
    }
    assert reasons(faults) == {
        "train/e.png": "line 4: no such file",
        "votes.csv:5": "line 5: column split: 'test set' cannot name a split; use letters, "
        "digits and _, such as train, validation, test",
        "votes.csv:6": "line 6: has a negative number of votes",
        "votes.csv:7": "line 7: fear 'six' is not a number",
        "votes.csv:8": "line 8: has more or fewer fields than the header",
        "votes.csv:9": "line 9: has no image name",
        "test/d.png": "has no votes in votes.csv",
    }


def test_names_that_come_twice(tmp_path):
    touch(tmp_path, "train/a.png", "train/b.png")
    write(
        tmp_path / "votes.csv",
        f"path,split,{CHOICES}\n"
        "train/a.png,train,0,9,0,0,0,0,0,0,1,0\n"
        "train/b.png,train,0,9,0,0,0,0,0,0,1,0\n"
        "train/a.png,train,0,9,0,0,0,0,0,0,1,0\n"
        "train/b.png,train,0,0,0,0,0,0,0,0,0,10\n",
    )
    examples, faults = _read(tmp_path)
    votes = (0, 9, 0, 0, 0, 0, 0, 0)
    assert examples == {
        "train/a.png": ("train", 1, votes),
        "train/a.png#1": ("train", 1, votes),
    }
    said = "line 3 says 0 9 0 0 0 0 0 0 1 0, line 5 says 0 0 0 0 0 0 0 0 0 10"
    assert [(fault.name, fault.reason) for fault in faults] == [
        ("train/b.png", f"contradicts itself: {said}")
    ] * 2


def test_other_folders_and_rules_are_refused(tmp_path):
    with pytest.raises(FerJaxError, match=r"no FER\+; looked for fer2013new\.csv, or votes\.csv"):
        read_ferplus(tmp_path)
    _write_list(tmp_path)
    with pytest.raises(FerJaxError, match=r"no pictures beside fer2013new\.csv; looked for fer2"):
        read_ferplus(tmp_path)
    with pytest.raises(FerJaxError, match="rule 'most': not one of majority, votes"):
        read_ferplus(tmp_path, rule="most")
    for votes_needed in (5, 11):
        with pytest.raises(FerJaxError, match=f"{votes_needed} of 10 votes are no majority"):
            read_ferplus(tmp_path, votes_needed=votes_needed)
    write(tmp_path / "fer2013new.csv", "Usage,Image name,neutral\n")
    touch(tmp_path, "FER2013Train/a.png")
    with pytest.raises(FerJaxError, match=r"has no column happiness, surprise, .*, nf; its first"):
        read_ferplus(tmp_path)


@pytest.fixture(scope="module")
def real():
    folder = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "ferplus"
    if not (folder / "votes.csv").is_file():
        pytest.skip("FER_JAX_SHARED_DATA/ferplus holds no votes.csv")
    return folder


@pytest.mark.shared_data
def test_the_real_majority(real):
    examples, faults = read_ferplus(real)
    splits = collections.Counter(one.split for one in examples)
    assert splits == {"train": 21_811, "validation": 2_862, "test": 2_729}
    # Of all rows each is an example or a fault.
    assert len(examples) + len(faults) == 35_714
    # 21,811 rows are 21,809 pictures: two are listed twice, with the same votes.
    assert len({one.name for one in examples if one.split == "train"}) == 21_809
    assert sorted(one.key for one in examples if one.face_id) == [
        "train/fer0006953.png#1",
        "train/fer0011785.png#1",
    ]
    # One is listed as a face in one row and as none in another: it is a warning sign.
    assert {fault.name for fault in faults if not isinstance(fault, LeftOut)} == {
        "test/fer0033120.png"
    }
    label_of = {one.name: one.label for one in examples}
    with (real / "votes.csv").open() as file:
        classes = list(label_space("ferplus").classes)
        for row in csv.DictReader(file):
            if row["path"] in label_of:
                assert int(row[classes[label_of[row["path"]]].lower()]) >= 6


@pytest.mark.shared_data
def test_the_real_votes(real):
    examples, faults = read_ferplus(real, rule="votes")
    splits = collections.Counter(one.split for one in examples)
    # All rows less three that name no class and one that contradicts one of these.
    assert splits == {"train": 28_559, "validation": 3_579, "test": 3_572}
    assert len(faults) == 4
    votes = np.array([one.votes for one in examples])
    labels = np.array([one.label for one in examples])
    ordered = np.sort(votes, axis=1)
    np.testing.assert_array_equal(labels < 0, ordered[:, -1] == ordered[:, -2])
    np.testing.assert_array_equal(labels[labels >= 0], votes.argmax(axis=1)[labels >= 0])
    mapped, left_out = map_examples(examples, "ferplus", "affwild2_expr")
    assert len(mapped) + len(left_out) == len(examples)
    assert np.sum(labels == 7) <= len(left_out) < np.sum(labels == 7) + 100
