import sys
from pathlib import Path

import numpy as np
import pytest

from fer_jax.data.examples import Example, Fault
from fer_jax.data.image_folder import read_csv, read_image_folder, read_unlabelled
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("expw")  # Anger, Disgust, Fear, Happiness, Sadness, Surprise, Neutral

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")


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


def test_without_labels_all_pictures_are_training_faces_whatever_their_folders(tmp_path):
    _touch(tmp_path, "b.PNG", "happy/a.jpg", "validation/fear/c.webp", "notes.txt")
    _touch(tmp_path, ".hidden.jpg", ".git/x.jpg", "happy/.thumbs/y.jpg")
    examples, faults = read_unlabelled(tmp_path)
    names = ["b.PNG", "happy/a.jpg", "validation/fear/c.webp"]
    assert [(e.name, e.label, e.split) for e in examples] == [(name, -1, "train") for name in names]
    assert faults == []
    assert {e.source for e in examples} == {tmp_path.name}
    with pytest.raises(FerJaxError, match="notes: holds no image"):
        (tmp_path / "notes").mkdir()
        read_unlabelled(tmp_path / "notes")


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


@linux_only
def test_names_that_are_no_text_are_faults(tmp_path):
    folder = tmp_path / "caf\udce9"
    _touch(folder, "fear/a.jpg", "fear/caf\udce9.jpg", "fear/two\nlines.jpg")
    examples, faults = read_image_folder(folder, SPACE)
    assert _listed(examples) == [("fear/a.jpg", "train", "Fear")]
    assert examples[0].source == "caf\ufffd"
    assert faults == [
        Fault("fear/caf\udce9.jpg", "its name is no text: rename it", "train"),
        Fault("fear/two\nlines.jpg", "its name has a line break: rename it", "train"),
    ]


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


def test_semicolons_may_be_between_the_fields(tmp_path):
    _touch(tmp_path, "a,b.jpg")
    (tmp_path / "list.csv").write_bytes("path;label;split\r\na,b.jpg;Fear;test".encode("utf-8-sig"))
    examples, faults = read_csv(tmp_path / "list.csv", tmp_path, SPACE)
    assert _listed(examples) == [("a,b.jpg", "test", "Fear")]
    assert faults == []


def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path):
    _touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = _csv(tmp_path, 'path,label\na.jpg,fear\n"b.jpg,fear\nc.jpg,anger\n')
    examples, faults = read_csv(path, tmp_path, SPACE)
    assert _listed(examples) == [("a.jpg", "train", "Fear"), ("c.jpg", "train", "Anger")]
    assert [fault.reason.split(":")[0] for fault in faults] == ["line 3"]


def test_a_path_too_long_for_a_file_is_a_fault(tmp_path):
    _touch(tmp_path, "a.jpg")
    _, faults = read_csv(
        _csv(tmp_path, f"path,label\na.jpg,fear\n{'x' * 5000},fear\n"), tmp_path, SPACE
    )
    assert [fault.reason for fault in faults] == ["line 3: no such file"]


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
    with pytest.raises(FerJaxError, match="not text in UTF-8"):
        read_csv(tmp_path / "x.csv", tmp_path, SPACE)


def test_the_subject_may_be_any_column_that_is_there(tmp_path):
    _touch(tmp_path, "a.jpg")
    path = _csv(tmp_path, "path,label,photo\na.jpg,fear,p1\n")
    examples, _ = read_csv(path, tmp_path, SPACE, subject_column="photo")
    assert examples[0].subject == "p1"
    with pytest.raises(FerJaxError, match="has no column person"):
        read_csv(path, tmp_path, SPACE, subject_column="person")


def test_votes_stand_beside_a_label_or_for_it(tmp_path):
    _touch(tmp_path, *(f"{name}.jpg" for name in "abcdefghi"))
    path = _csv(
        tmp_path,
        "path,label,votes_happy,votes_Anger,votes_NEUTRAL\n"
        "a.jpg,Fear,3,1,0\n"
        "b.jpg,,0.25,,0.75\n"
        "c.jpg,Fear,,,\n"
        "d.jpg,,,,\n"
        "e.jpg,,0,0,0\n"
        "f.jpg,,1,-1,0\n"
        "g.jpg,,many,1,0\n"
        "h.jpg,,1,0,0\nh.jpg,,0,1,0\n"
        "i.jpg,,1,0,0\ni.jpg,,1,0,0\n",
    )
    examples, faults = read_csv(path, tmp_path, SPACE)
    # Anger, Disgust, Fear, Happiness, Sadness, Surprise, Neutral
    assert [(one.name, one.label, one.votes) for one in examples] == [
        ("a.jpg", 2, (1, 0, 0, 3, 0, 0, 0)),
        ("b.jpg", -1, (0, 0, 0, 0.25, 0, 0, 0.75)),
        ("c.jpg", 2, ()),
        ("i.jpg", -1, (0, 0, 0, 1, 0, 0, 0)),
    ]
    said = (
        "contradicts itself: line 9 says no class by votes 0 0 0 1 0 0 0 (train), "
        "line 10 says no class by votes 1 0 0 0 0 0 0 (train)"
    )
    unlabelled = f"label '' is not in the space expw; one of {', '.join(SPACE.classes)}"
    assert [(fault.name, fault.reason) for fault in faults] == [
        ("d.jpg", f"line 5: {unlabelled}"),
        ("e.jpg", f"line 6: {unlabelled}"),
        ("f.jpg", "line 7: votes_Anger '-1' is negative"),
        ("g.jpg", "line 8: votes_happy 'many' is not a number"),
        ("h.jpg", said),
        ("h.jpg", said),
        ("i.jpg", "line 12: listed already in line 11"),
    ]


def test_votes_make_the_label_column_needless(tmp_path):
    _touch(tmp_path, "a.jpg")
    examples, faults = read_csv(_csv(tmp_path, "path,votes_sad\na.jpg,2\n"), tmp_path, SPACE)
    assert faults == []
    assert (examples[0].label, examples[0].votes) == (-1, (0, 0, 0, 0, 2, 0, 0))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("votes_Contempt", "column votes_Contempt: label 'Contempt' is not in the space expw"),
        ("votes_happy,votes_Happiness", "two columns with votes for Happiness; keep one"),
    ],
)
def test_votes_must_be_for_classes_and_once_each(tmp_path, columns, words):
    with pytest.raises(FerJaxError, match=words):
        read_csv(_csv(tmp_path, f"path,label,{columns}\na.jpg,fear,1,1\n"), tmp_path, SPACE)
