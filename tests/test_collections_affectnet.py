import numpy as np
import pytest
from collection_trees import labelled, reasons, touch, write
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.collections import affectnet
from fer_jax.data.collections.affectnet import read_affectnet
from fer_jax.data.examples import LeftOut
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

SPACE = label_space("affectnet8")
# From AffectNet's readme; 8, 9 and 10 are None, Uncertain and Non-face.
NAMES = ["Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt"]

HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,"
    "expression,valence,arousal\n"
)


def _face(folder, name, number, value):
    touch(folder, f"{name}/images/{number}.jpg")
    path = folder / name / "annotations" / f"{number}_exp.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        np.save(path, value)


def test_arrays_of_numbers_and_of_text(tmp_path):
    values = [
        np.array("0"),
        np.array(1),
        np.array([2]),
        np.array(3.0),
        np.array(b"4"),
        np.array(5, np.uint8),
        np.array(6, ">i4"),
        np.array(["7"]),
    ]
    for number, value in enumerate(values):
        _face(tmp_path, "train_set", number * 5, value)
        touch(tmp_path, f"train_set/annotations/{number * 5}_val.npy")
    _face(tmp_path, "val_set", 0, np.array("6"))
    examples, faults = read_affectnet(tmp_path)
    assert faults == []
    assert labelled(examples, SPACE) == [
        *((f"train_set/images/{n * 5}.jpg", "train", NAMES[n]) for n in range(8)),
        ("val_set/images/0.jpg", "validation", "Anger"),
    ]
    assert all(one.path.is_file() and one.source == "affectnet" for one in examples)


def test_what_is_no_class_is_left_out_and_no_fault(tmp_path):
    for number in range(6, 12):
        _face(tmp_path, "train_set", number, np.array(number))
    _face(tmp_path, "val_set", 0, np.array(0))
    examples, faults = read_affectnet(tmp_path)
    assert [one.label for one in examples] == [6, 7, 0]
    assert reasons(faults) == {
        "train_set/images/8.jpg": "is marked None, which is no class",
        "train_set/images/9.jpg": "is marked Uncertain, which is no class",
        "train_set/images/10.jpg": "is marked Non-face, which is no class",
        "train_set/images/11.jpg": "11_exp.npy holds no number from 0 to 10",
    }
    assert [isinstance(fault, LeftOut) for fault in faults] == [True, True, True, False]
    examples, faults = read_affectnet(tmp_path, classes=7)
    assert [one.label for one in examples] == [6, 0]
    assert reasons(faults)["train_set/images/7.jpg"] == "class Contempt is not among the 7"
    assert label_space("affectnet7").classes == SPACE.classes[:7]
    with pytest.raises(FerJaxError, match="7 or 8 classes, not 6"):
        read_affectnet(tmp_path, classes=6)


def test_damaged_arrays_are_faults(tmp_path):
    good = np.array(3)
    damaged = [
        b"",
        b"junk",
        np.array([1, 2]),
        np.array([[1]]),
        np.array("happy"),
        np.array(2.5),
        np.array(np.nan),
        np.array(-1),
        np.array(10**12),
    ]
    for number, value in enumerate(damaged):
        _face(tmp_path, "train_set", number, value)
    _face(tmp_path, "train_set", 99, good)
    whole = (tmp_path / "train_set/annotations/99_exp.npy").read_bytes()
    _face(tmp_path, "train_set", 100, whole[:-1])
    _face(tmp_path, "train_set", 101, whole + b"12345678")
    # What would be unpickled by numpy.load is never looked into.
    np.save(tmp_path / "train_set/annotations/102_exp.npy", np.array({}), allow_pickle=True)
    touch(tmp_path, "train_set/images/102.jpg")
    examples, faults = read_affectnet(tmp_path)
    assert [one.name for one in examples] == ["train_set/images/99.jpg"]
    named = reasons(faults)
    assert named.pop("val_set/annotations") == "no such folder"
    assert named == {
        f"train_set/images/{n}.jpg": f"{n}_exp.npy holds no number from 0 to 10"
        for n in (*range(len(damaged)), 100, 101, 102)
    }


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 135), st.integers(0, 8))
def test_no_bytes_can_stop_the_parser(junk, position, cut):
    whole = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (), }".ljust(127)
        + b"\n"
        + bytes([3, 0, 0, 0, 0, 0, 0, 0])
    )
    assert affectnet._label(whole) == 3
    for damaged in (whole[:position] + junk + whole[position + cut :], junk):
        label = affectnet._label(damaged)
        assert label is None or 0 <= label <= 10


def test_pictures_and_labels_without_each_other_are_named(tmp_path):
    _face(tmp_path, "train_set", 1, np.array(1))
    _face(tmp_path, "train_set", 2, np.array(1))
    touch(tmp_path, "train_set/images/3.jpg", "train_set/images/2.png", "val_set/annotations/x")
    (tmp_path / "train_set/images/1.jpg").unlink()
    examples, faults = read_affectnet(tmp_path)
    assert [one.name for one in examples] == ["train_set/images/2.jpg"]
    assert reasons(faults) == {
        "train_set/images/1.jpg": "no such file",
        "train_set/images/2.png": "has the number of train_set/images/2.jpg",
        "train_set/images/3.jpg": "has no label annotations/3_exp.npy",
    }


@pytest.mark.parametrize("lists", ["", "Manually_Annotated_file_lists/"])
@pytest.mark.parametrize(
    "images", ["Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", ""]
)
def test_csv_lists_with_and_without_a_header(tmp_path, lists, images):
    touch(tmp_path / images, "1/a.jpg", "2/b ü.JPG", "1/c.jpg")
    write(
        tmp_path / f"{lists}training.csv",
        HEADER + "1/a.jpg,10,20,100,110,1;2,3,0.1,0.2\n2/b ü.JPG,1,2,3,4,,7,0,0\n",
    )
    # As the official one is.
    write(tmp_path / f"{lists}validation.csv", "1/c.jpg,5,6,7,8,1;2,0,0.1,0.2\r\n", "utf-8-sig")
    examples, faults = read_affectnet(tmp_path)
    assert faults == []
    assert labelled(examples, SPACE) == [
        ("1/c.jpg", "validation", "Neutral"),
        ("1/a.jpg", "train", "Surprise"),
        ("2/b ü.JPG", "train", "Contempt"),
    ]
    assert [one.box for one in examples] == [(5, 6, 12, 14), (10, 20, 110, 130), (1, 2, 4, 6)]
    assert all(one.path.is_file() for one in examples)


def test_every_bad_csv_line_is_named(tmp_path):
    touch(tmp_path / "Manually_Annotated_Images", *(f"{name}.jpg" for name in "abcdefghi"))
    rest = ",1,2,3,4,,"
    write(
        tmp_path / "training.csv",
        HEADER
        + f"a.jpg{rest}0,0,0\nb.jpg{rest}9,0,0\nc.jpg{rest}11,0,0\nd.jpg{rest}x,0,0\n"
        + f"e.jpg,1,2,3,wide,,0,0,0\nf.jpg,1,2\n\nabsent.jpg{rest}0,0,0\n{rest}0,0,0\n"
        + f"g.jpg{rest}1,0,0\ng.jpg{rest}1,0,0\nh.jpg{rest}1,0,0\nh.jpg{rest}2,0,0\n"
        + f'"i.jpg{rest}1,0,0\n',
    )
    examples, faults = read_affectnet(tmp_path)
    assert labelled(examples, SPACE) == [
        ("a.jpg", "train", "Neutral"),
        ("g.jpg", "train", "Happiness"),
    ]
    assert [(fault.name, fault.reason) for fault in faults] == [
        ("b.jpg", "training.csv line 3: is marked Uncertain, which is no class"),
        ("c.jpg", "training.csv line 4: expression '11' is not a number from 0 to 10"),
        ("d.jpg", "training.csv line 5: expression 'x' is not a number from 0 to 10"),
        ("e.jpg", "training.csv line 6: face_height 'wide' is not a number"),
        ("f.jpg", "training.csv line 7: has 3 fields, not 9"),
        ("absent.jpg", "training.csv line 9: no such file"),
        ("(no path)", "training.csv line 10: no such file"),
        ("i.jpg,1,2,3,4,,1,0,0", "training.csv line 15: has 1 fields, not 9"),
        ("validation.csv", "no such file"),
        ("g.jpg", "line 12: listed already in line 11"),
        *[
            (
                "h.jpg",
                "contradicts itself: line 13 says Happiness (train), line 14 says Sadness (train)",
            )
        ]
        * 2,
    ]
    assert [isinstance(fault, LeftOut) for fault in faults] == [True] + [False] * 11


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FerJaxError, match=r"no AffectNet; looked for train_set/annotations, or tr"):
        read_affectnet(tmp_path)
    write(tmp_path / "training.csv", HEADER.replace("face_x", "x"))
    with pytest.raises(FerJaxError, match=r"training\.csv: has no column face_x"):
        read_affectnet(tmp_path)
