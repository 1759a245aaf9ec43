import collections
import os
from pathlib import Path

import pytest
from collection_trees import labelled, touch, write

from fer_jax.data.collections.expw import SPACE, read_expw
from fer_jax.errors import FerJaxError

# From the readme of label.lst.
NAMES = ["Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral"]


@pytest.mark.parametrize("list_name", ["label.lst", "label/label.lst", "data/label/label.lst"])
@pytest.mark.parametrize("images", ["image/origin", "data/image/origin", "origin", "image"])
def test_the_official_list(tmp_path, list_name, images):
    lines = []
    for number in range(7):
        touch(tmp_path, f"{images}/photo_{number}.jpg")
        # name id top left right bottom confidence label
        lines.append(f"photo_{number}.jpg {number % 2} 20 10 110 130 5{number}.5 {number}")
    write(tmp_path / list_name, "\n".join(lines))
    examples, faults = read_expw(tmp_path)
    assert faults == []
    assert labelled(examples, SPACE) == [
        (f"{images}/photo_{n}.jpg" + ("#1" if n % 2 else ""), "train", NAMES[n]) for n in range(7)
    ]
    assert {one.box for one in examples} == {(10.0, 20.0, 110.0, 130.0)}
    assert [one.score for one in examples] == [50.5, 51.5, 52.5, 53.5, 54.5, 55.5, 56.5]
    assert [one.subject for one in examples] == [f"photo_{n}.jpg" for n in range(7)]
    assert all(one.path.is_file() and one.source == "expw" for one in examples)


def test_every_bad_line_is_named_and_faces_keep_their_numbers(tmp_path):
    touch(tmp_path, *(f"origin/{name}.jpg" for name in "abcdefgh"), "origin/two words é.jpg")
    touch(tmp_path, "origin/without_faces.jpg")
    write(
        tmp_path / "label.lst",
        "a.jpg 2 1 2 30 40 9 0\r\n"
        "a.jpg 0 1 50 80 40 9 1\r\n"
        "two words é.jpg\t0 1 2 30 40 9 6\r\n"
        "b.jpg 0 1 2 30 40 9 7\r\n"
        "c.jpg 0 1 two 30 40 9 0\r\n"
        "d.jpg x 1 2 30 40 9 0\r\n"
        "e.jpg 0 1 2 30 40 nan 0\r\n"
        "\r\n"
        "f.jpg 0 1 2 30 40 0\r\n"
        "absent.jpg 0 1 2 30 40 9 0\r\n"
        "a.jpg 2 1 2 30 40 9 0\r\n"
        "g.jpg 0 1 2 30 40 9 0\r\n"
        "g.jpg 0 1 2 30 40 9 1\r\n"
        "h.jpg 0 1 2 30 40 9 0\r\n"
        "h.jpg 0 1 2 30 41 9 0\r\n"
        "one\r\n",
        "utf-8-sig",
    )
    examples, faults = read_expw(tmp_path)
    assert labelled(examples, SPACE) == [
        ("origin/a.jpg#2", "train", "Anger"),
        ("origin/a.jpg", "train", "Disgust"),
        ("origin/two words é.jpg", "train", "Neutral"),
        ("origin/h.jpg", "train", "Anger"),
    ]
    assert [(fault.name, fault.reason) for fault in faults] == [
        ("b.jpg", "line 4: label '7' is not a number from 0 to 6"),
        ("c.jpg", "line 5: left 'two' is not a number"),
        ("d.jpg", "line 6: face id 'x' is not a number from 0 to 99999"),
        ("e.jpg", "line 7: confidence 'nan' is not a number"),
        ("f.jpg", "line 9: has 7 fields, not 8"),
        ("absent.jpg", "line 10: no such file"),
        ("h.jpg", "line 15: face 0 has another box in line 14"),
        ("one", "line 16: has 1 fields, not 8"),
        ("origin/a.jpg", "line 11: listed already in line 1"),
        *[
            (
                "origin/g.jpg",
                "contradicts itself: line 12 says Anger (train), line 13 says Disgust (train)",
            )
        ]
        * 2,
    ]


def test_the_form_with_a_csv_file(tmp_path):
    touch(tmp_path, "train/a_0.jpg", "train/a_1.jpg")
    write(
        tmp_path / "labels.csv",
        "path,split,label,confidence,photo,box_left,box_top,box_right,box_bottom\n"
        "train/a_0.jpg,train,anger,22.9,a.jpg,28,29,141,142\n"
        "train/a_1.jpg,train,fear,1,a.jpg,1,2,3,4\n"
        "train/b_1.jpg,train,fear,1,b.jpg,1,2,3,4\n",
    )
    examples, faults = read_expw(tmp_path)
    assert labelled(examples, SPACE) == [
        ("train/a_0.jpg", "train", "Anger"),
        ("train/a_1.jpg", "train", "Fear"),
    ]
    assert [(one.subject, one.source, one.score) for one in examples] == [
        ("a.jpg", "expw", 22.9),
        ("a.jpg", "expw", 1.0),
    ]
    assert examples[0].box == (28, 29, 141, 142)
    assert [fault.name for fault in faults] == ["train/b_1.jpg"]


def test_other_folders_are_refused(tmp_path):
    touch(tmp_path, *(f"{n}.txt" for n in range(9)))
    words = r"holds no ExpW; looked for label\.lst, or .*; found 0\.txt, .*7\.txt, \.\.\.; name"
    with pytest.raises(FerJaxError, match=words):
        read_expw(tmp_path)
    write(tmp_path / "label.lst", "a.jpg 0 1 2 30 40 9 0\n")
    with pytest.raises(FerJaxError, match=r"holds no photos of ExpW; looked for image/origin"):
        read_expw(tmp_path)


@pytest.mark.shared_data
def test_the_real_faces():
    folder = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "expw_faces"
    if not (folder / "labels.csv").is_file():
        pytest.skip("FER_JAX_SHARED_DATA/expw_faces holds no labels.csv")
    examples, faults = read_expw(folder)
    assert faults == []
    # What the file's own columns add up to, by awk.
    assert collections.Counter(one.split for one in examples) == {"train": 3938, "validation": 637}
    names = collections.Counter(SPACE.classes[one.label] for one in examples)
    assert names["Anger"] == 551 + 93
    assert names["Surprise"] == 561 + 101
    splits = collections.defaultdict(set)
    for one in examples:
        splits[one.subject].add(one.split)
    assert len(splits) == 4331
    assert all(len(of_photo) == 1 for of_photo in splits.values())
