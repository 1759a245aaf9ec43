from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.examples import Example
from fer_jax.data.image_folder import (
    move_fraction,
    read_csv,
    read_image_folder,
    split_off,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("expw")  # Anger, Disgust, Fear, Happiness, Sadness, Surprise, Neutral


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def _listed(examples: list[Example]) -> list[tuple[str, str, str]]:
    return [(e.name, e.split, SPACE.classes[e.label]) for e in examples]


def _csv(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


# ---- folders


def test_class_folders_take_names_aliases_and_any_case(tmp_path):
    _touch(tmp_path, "happy/b.PNG", "happy/deeper/a.jpg", "SADNESS/c.jpeg", "Neutral/d.webp")
    _touch(tmp_path, "happy/.hidden.jpg", "happy/Thumbs.db", ".git/Anger/x.jpg")
    examples, faults = read_image_folder(tmp_path, SPACE)
    assert _listed(examples) == [
        ("Neutral/d.webp", "train", "Neutral"),
        ("SADNESS/c.jpeg", "train", "Sadness"),
        ("happy/b.PNG", "train", "Happiness"),
        ("happy/deeper/a.jpg", "train", "Happiness"),
    ]
    assert faults == []
    assert all(e.path.is_file() and e.box is None for e in examples)


def test_split_folders_come_above_class_folders(tmp_path):
    _touch(tmp_path, "train/fear/a.jpg", "validation/anger/b.jpg", "notes/readme.jpg")
    examples, faults = read_image_folder(tmp_path, SPACE)
    assert _listed(examples) == [
        ("train/fear/a.jpg", "train", "Fear"),
        ("validation/anger/b.jpg", "validation", "Anger"),
    ]
    assert faults == []


def test_a_folder_that_is_no_class_is_a_fault_of_each_picture(tmp_path):
    _touch(tmp_path, "train/fear/a.jpg", "train/Contempt/b.jpg", "train/Contempt/c.jpg")
    examples, faults = read_image_folder(tmp_path, SPACE)
    assert _listed(examples) == [("train/fear/a.jpg", "train", "Fear")]
    assert [fault.name for fault in faults] == ["train/Contempt/b.jpg", "train/Contempt/c.jpg"]
    assert faults[0].reason == "folder 'Contempt' is no class of expw"


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(FerJaxError, match="absent: no such folder"):
        read_image_folder(tmp_path / "absent", SPACE)
    with pytest.raises(FerJaxError, match=r"named after a class of expw \(Anger, .*rename"):
        read_image_folder(tmp_path, SPACE)
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(FerJaxError, match=r"or pass --csv .*labels\.csv"):
        read_image_folder(tmp_path, SPACE)
    with pytest.raises(FerJaxError, match="is a file, not a folder"):
        read_image_folder(tmp_path / "labels.csv", SPACE)
    (tmp_path / "anger").mkdir()
    with pytest.raises(FerJaxError, match="class folders hold no image"):
        read_image_folder(tmp_path, SPACE)


def test_a_split_must_have_a_plain_name(tmp_path):
    _touch(tmp_path, "my split/anger/b.jpg")
    with pytest.raises(FerJaxError, match="'my split' cannot name a split"):
        read_image_folder(tmp_path, SPACE)


# ---- CSV files


def test_all_columns_are_read(tmp_path):
    _touch(tmp_path, "a.jpg", "b.jpg")
    path = _csv(
        tmp_path,
        "label,path,split,subject,video,frame,source,confidence,"
        "box_left,box_top,box_right,box_bottom,more\n"
        "happy,a.jpg,validation,anna,clip,12,web,0.5,1,2.5,30,40,ignored\n"
        "Anger,b.jpg,,,,,,,,,,,\n",
    )
    examples, faults = read_csv(path, tmp_path, SPACE)
    assert faults == []
    first, second = examples
    assert first == Example(
        path=tmp_path / "a.jpg",
        name="a.jpg",
        label=3,
        split="validation",
        subject="anna",
        video="clip",
        frame=12,
        source="web",
        box=(1.0, 2.5, 30.0, 40.0),
        score=0.5,
    )
    assert (second.label, second.split, second.box, second.frame) == (0, "train", None, 0)
    assert second.source == tmp_path.name
    assert np.isnan(second.score)


def test_spreadsheet_files_with_a_byte_order_mark_and_spaces_are_read(tmp_path):
    _touch(tmp_path, "ä b.jpg")
    (tmp_path / "list.csv").write_bytes("path, label\r\nä b.jpg, Fear\r\n".encode("utf-8-sig"))
    examples, faults = read_csv(tmp_path / "list.csv", tmp_path, SPACE)
    assert _listed(examples) == [("ä b.jpg", "train", "Fear")]
    assert faults == []


def test_several_faces_of_one_picture_are_told_apart(tmp_path):
    _touch(tmp_path, "a.jpg", "b.jpg")
    path = _csv(
        tmp_path,
        "path,label,box_left,box_top,box_right,box_bottom\n"
        "a.jpg,fear,0,0,9,9\nb.jpg,fear,0,0,9,9\na.jpg,anger,20,0,29,9\n",
    )
    examples, faults = read_csv(path, tmp_path, SPACE)
    assert [(e.key, e.face_id) for e in examples] == [("a.jpg", 0), ("b.jpg", 0), ("a.jpg#1", 1)]
    assert faults == []


def test_every_bad_row_is_a_fault_with_its_line(tmp_path):
    _touch(tmp_path, *(f"{name}.jpg" for name in "abcdefg"))
    path = _csv(
        tmp_path,
        "path,label,frame,box_left,box_top,box_right,box_bottom\n"
        "a.jpg,Fear,,,,,\n"
        "b.jpg,Contempt,,,,,\n"
        "absent.jpg,Fear,,,,,\n"
        ",Fear,,,,,\n"
        "c.jpg,Fear,1.5,,,,\n"
        "d.jpg,Fear,,1,2,three,4\n"
        "e.jpg,Fear,,1,2,3,\n"
        "f.jpg,Fear\n"
        "g.jpg,Fear,,,,,,surplus\n"
        "d.jpg,,,,,,\n",
    )
    examples, faults = read_csv(path, tmp_path, SPACE)
    assert _listed(examples) == [("a.jpg", "train", "Fear")]
    reasons = {(fault.name, fault.reason.split(":")[0]): fault.reason for fault in faults}
    assert len(faults) == 9
    for name, line, words in [
        ("b.jpg", 3, "'Contempt' is not in the space expw"),
        ("absent.jpg", 4, "no such file"),
        ("(no path)", 5, "has no path"),
        ("c.jpg", 6, "frame '1.5' is not a whole number"),
        ("d.jpg", 7, "box_right 'three' is not a number"),
        ("e.jpg", 8, "box_bottom '' is not a number"),
        ("f.jpg", 9, "more or fewer fields"),
        ("g.jpg", 10, "more or fewer fields"),
        ("d.jpg", 11, "label ''"),
    ]:
        assert words in reasons[name, f"line {line}"]


def test_faces_listed_twice_are_kept_once_and_contradictions_not_at_all(tmp_path):
    _touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = _csv(
        tmp_path,
        "path,label,split\n"
        "a.jpg,fear,train\nb.jpg,anger,train\n./a.jpg,Fear,train\n"
        "b.jpg,sad,train\nc.jpg,fear,train\nc.jpg,fear,validation\n",
    )
    examples, faults = read_csv(path, tmp_path, SPACE)
    assert _listed(examples) == [("a.jpg", "train", "Fear")]
    assert [(fault.name, fault.reason) for fault in faults] == [
        ("a.jpg", "line 4: listed already in line 2"),
        *[("b.jpg", "contradicts itself: line 3 says Anger (train), line 5 says Sadness (train)")]
        * 2,
        *[("c.jpg", "contradicts itself: line 6 says Fear (train), line 7 says Fear (validation)")]
        * 2,
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.jpg,fear\n", "has no column path; its columns are file, label"),
        ("path;label\na.jpg;fear\n", "has no column path, label"),
        ("path,label,box_left\na.jpg,fear,1\n", "no column box_top, box_right, box_bottom"),
        ("", "has no column path, label; its columns are none"),
        ("path,label\n", "a header and no rows"),
        ("path,label,split\na.jpg,fear,all\n", "'all' cannot name a split"),
    ],
)
def test_unusable_files_are_refused(tmp_path, text, words):
    _touch(tmp_path, "a.jpg")
    with pytest.raises(FerJaxError, match=words):
        read_csv(_csv(tmp_path, text), tmp_path, SPACE)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(FerJaxError, match=r"none\.csv: no such file"):
        read_csv(tmp_path / "none.csv", tmp_path, SPACE)
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe\x00,fear\n")
    with pytest.raises(FerJaxError, match="not a CSV file in UTF-8"):
        read_csv(tmp_path / "x.csv", tmp_path, SPACE)


def test_the_subject_may_be_any_column_that_is_there(tmp_path):
    _touch(tmp_path, "a.jpg")
    path = _csv(tmp_path, "path,label,photo\na.jpg,fear,p1\n")
    examples, _ = read_csv(path, tmp_path, SPACE, subject_column="photo")
    assert examples[0].subject == "p1"
    with pytest.raises(FerJaxError, match="has no column person"):
        read_csv(path, tmp_path, SPACE, subject_column="person")


# ---- splitting


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=40),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 100),
)
def test_groups_stay_whole_and_neither_part_is_empty(sizes, fraction, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    labels = rng.integers(0, 3, len(groups))
    mask = split_off(groups, labels, fraction, seed)
    assert 0 < mask.sum() < len(mask)
    assert not set(groups[mask]) & set(groups[~mask])
    # The same faces whatever order they come in.
    order = rng.permutation(len(groups))
    np.testing.assert_array_equal(
        split_off(groups[order], labels[order], fraction, seed), mask[order]
    )


def test_single_faces_are_split_class_by_class():
    labels = np.repeat([0, 1, 2], [1000, 200, 30])
    keys = np.array([f"k{i}" for i in range(len(labels))])
    mask = split_off(keys, labels, 0.1, 0)
    assert np.bincount(labels[mask]).tolist() == [100, 20, 3]
    assert not np.array_equal(mask, split_off(keys, labels, 0.1, 1))


def test_subjects_are_split_nearly_class_by_class():
    errors = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        subjects = np.array([f"s{i}" for i in rng.integers(0, 150, 3000)])
        labels = rng.choice(4, 3000, p=[0.5, 0.3, 0.15, 0.05])
        mask = split_off(subjects, labels, 0.2, seed)
        errors.append(np.abs(np.bincount(labels[mask]) - 0.2 * np.bincount(labels)).sum())
    # Subjects of 20 faces each: 9 faces off at the median, 29 for subjects drawn blindly.
    assert np.median(errors) < 15


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(FerJaxError, match="between 0 and 1"):
        split_off(np.array(["a", "b"]), np.array([0, 1]), fraction, 0)


def test_one_subject_cannot_be_split():
    with pytest.raises(FerJaxError, match="1 group of faces cannot be split"):
        split_off(np.array(["a", "a"]), np.array([0, 1]), 0.5, 0)


def test_moving_a_fraction_takes_whole_subjects_of_the_training_part():
    examples = [
        Example(Path(f"{i}.jpg"), f"{i}.jpg", i % 2, "train" if i < 90 else "test", f"s{i // 3}")
        for i in range(99)
    ]
    moved = move_fraction(examples, "validation", 0.2, 0)
    validation = [e for e in moved if e.split == "validation"]
    assert 15 <= len(validation) <= 21
    assert all(int(e.name.split(".")[0]) < 90 for e in validation)
    subjects = {e.subject for e in validation}
    assert not subjects & {e.subject for e in moved if e.split == "train"}
    assert [(e.name, e.label, e.subject) for e in moved] == [
        (e.name, e.label, e.subject) for e in examples
    ]
    with pytest.raises(FerJaxError, match="already have a split 'test'"):
        move_fraction(examples, "test", 0.2, 0)
    with pytest.raises(FerJaxError, match="'va/l' cannot name a split"):
        move_fraction(examples, "va/l", 0.2, 0)
