import pytest
from collection_trees import labelled, reasons, touch, write

from fer_jax.data.collections.rafdb import SPACE, read_rafdb
from fer_jax.errors import FerJaxError

# From RAF-DB's readme, counted from 1.
NAMES = ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"]


def _official(folder, base="basic/", list_name="EmoLabel/list_patition_label.txt"):
    lines = []
    for number in range(1, len(NAMES) + 1):
        split = "test" if number == 7 else "train"
        lines.append(f"{split}_{number:05d}.jpg {number}")
        touch(folder, f"{base}Image/aligned/{split}_{number:05d}_aligned.jpg")
        touch(folder, f"{base}Image/original/{split}_{number:05d}.jpg")
    write(folder / base / list_name, "\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("base", "list_name", "start"),
    [
        ("basic/", "EmoLabel/list_patition_label.txt", ""),
        ("basic/", "EmoLabel/list_patition_label.txt", "basic"),
        ("basic/", "list_patition_label.txt", ""),
        ("", "list_partition_label.txt", ""),
    ],
)
def test_the_official_form_in_all_its_places(tmp_path, base, list_name, start):
    _official(tmp_path, base, list_name)
    examples, faults = read_rafdb(tmp_path / start)
    assert faults == []
    prefix = "" if start else base
    assert labelled(examples, SPACE) == [
        (
            f"{prefix}Image/aligned/{split}_{number:05d}_aligned.jpg",
            split,
            NAMES[number - 1],
        )
        for number, split in zip(range(1, 8), ["train"] * 6 + ["test"], strict=True)
    ]
    assert all(one.path.is_file() and one.box is None for one in examples)
    assert {one.source for one in examples} == {"rafdb"}


def test_original_photos_come_with_their_boxes(tmp_path):
    _official(tmp_path)
    boxes = tmp_path / "basic/Annotation/boundingbox"
    for number in range(1, 7):
        write(boxes / f"train_{number:05d}_boundingbox.txt", f"{number}.5 2 30 40.25 \n")
    write(boxes / "test_00007_boundingbox.txt", "1 2 3\n")
    examples, faults = read_rafdb(tmp_path, pictures="original")
    assert [one.box for one in examples] == [(n + 0.5, 2.0, 30.0, 40.25) for n in range(1, 7)]
    assert examples[0].name == "basic/Image/original/train_00001.jpg"
    assert reasons(faults) == {
        "test_00007.jpg": "line 7: test_00007_boundingbox.txt has 3 numbers, not left, top, "
        "right, bottom"
    }
    (boxes / "train_00001_boundingbox.txt").unlink()
    _, faults = read_rafdb(tmp_path, pictures="original")
    assert "cannot be read (No such file" in reasons(faults)["train_00001.jpg"]


def test_every_bad_line_is_named(tmp_path):
    folder = tmp_path / "basic/Image/aligned"
    touch(folder, "train_1_aligned.jpg", "train_2_aligned.jpg", "train_3_aligned.jpg")
    touch(folder, "train_é 4.jpg", "dev_5_aligned.jpg", "train_6_aligned.jpg", "train_7.jpg")
    touch(folder, "stray.jpg", "train_8_aligned.jpg", ".hidden.jpg")
    write(
        tmp_path / "basic/EmoLabel/list_patition_label.txt",
        "train_1.jpg 1\r\ntrain_2.jpg 8\r\n\r\ntrain_3.jpg 0\r\ntrain_é 4.jpg 4\r\n"
        "dev_5.jpg 5\r\ntrain_6.jpg\r\ntrain_9.jpg 7\r\ntrain_7.jpg\t7\r\ntrain_1.jpg 1\r\n"
        "train_8.jpg 2\r\ntrain_8.jpg 3\r\n",
        "utf-8-sig",
    )
    examples, faults = read_rafdb(tmp_path)
    assert labelled(examples, SPACE) == [
        ("basic/Image/aligned/train_1_aligned.jpg", "train", "Surprise"),
        ("basic/Image/aligned/train_é 4.jpg", "train", "Happiness"),
        ("basic/Image/aligned/train_7.jpg", "train", "Neutral"),
    ]
    assert [
        (fault.name.removeprefix("basic/Image/aligned/"), fault.reason) for fault in faults
    ] == [
        ("train_2.jpg", "line 2: label '8' is not a number from 1 to 7"),
        ("train_3.jpg", "line 4: label '0' is not a number from 1 to 7"),
        ("dev_5.jpg", "line 6: 'dev_5.jpg' begins with neither train_ nor test_"),
        ("train_6.jpg", "line 7: has no label"),
        ("train_9.jpg", "line 8: no such file"),
        ("train_1_aligned.jpg", "line 10: listed already in line 1"),
        *[
            (
                "train_8_aligned.jpg",
                "contradicts itself: line 11 says Fear (train), line 12 says Disgust (train)",
            )
        ]
        * 2,
        ("stray.jpg", "is not in list_patition_label.txt"),
    ]


def _kaggle(folder):
    for number in range(1, 8):
        touch(folder, f"DATASET/train/{number}/train_{number}_aligned.jpg")
        touch(folder, f"DATASET/test/{number}/test_{number}_aligned.jpg")
    return folder


@pytest.mark.parametrize("start", ["", "DATASET"])
def test_class_folders_as_on_kaggle(tmp_path, start):
    examples, faults = read_rafdb(_kaggle(tmp_path) / start)
    assert faults == []
    prefix = "" if start else "DATASET/"
    assert labelled(examples, SPACE) == [
        (f"{prefix}{split}/{number}/{split}_{number}_aligned.jpg", split, NAMES[number - 1])
        for split in ("train", "test")
        for number in range(1, 8)
    ]


def test_lists_beside_class_folders_must_agree(tmp_path):
    _kaggle(tmp_path)
    touch(tmp_path, "DATASET/train/8/x.jpg", "DATASET/train/2/train_5_aligned.jpg")
    write(
        tmp_path / "train_labels.csv",
        "image,label\ntrain_1_aligned.jpg,1\ntrain_2_aligned.jpg,3\ntrain_9_aligned.jpg,1\n"
        "train_3_aligned.jpg,x\ntrain_4_aligned.jpg\ntrain_1_aligned.jpg,1\n",
    )
    write(tmp_path / "DATASET/test_labels.csv", "image,label\ntest_1_aligned.jpg,2\n")
    examples, faults = read_rafdb(tmp_path)
    left = {one.path.name for one in examples}
    assert left == {
        *(f"train_{n}_aligned.jpg" for n in (1, 3, 4, 6, 7)),
        *(f"test_{n}_aligned.jpg" for n in range(2, 8)),
    }
    assert [(fault.name, fault.reason, fault.split) for fault in faults] == [
        ("DATASET/train/8/x.jpg", "class folder '8' is not a number from 1 to 7", "train"),
        *[
            (
                f"DATASET/train/{number}/train_5_aligned.jpg",
                "contradicts itself: DATASET/train/2/train_5_aligned.jpg, "
                "DATASET/train/5/train_5_aligned.jpg",
                "train",
            )
            for number in (2, 5)
        ],
        (
            "train_2_aligned.jpg",
            "train_labels.csv line 3: says Disgust, its folder says otherwise",
            "train",
        ),
        (
            "train_9_aligned.jpg",
            "train_labels.csv line 4: no such file, or one that contradicts its folder",
            "train",
        ),
        (
            "train_3_aligned.jpg",
            "train_labels.csv line 5: label 'x' is not a number from 1 to 7",
            "train",
        ),
        (
            "(no image)",
            "train_labels.csv line 6: has more or fewer fields than the header",
            "train",
        ),
        ("train_1_aligned.jpg", "train_labels.csv line 7: listed already in line 2", "train"),
        (
            "test_1_aligned.jpg",
            "test_labels.csv line 2: says Fear, its folder says otherwise",
            "test",
        ),
    ]


def test_a_split_that_is_absent_is_named(tmp_path):
    touch(tmp_path, "train/1/a.jpg")
    examples, faults = read_rafdb(tmp_path)
    assert [one.name for one in examples] == ["train/1/a.jpg"]
    assert reasons(faults) == {"test": "no such folder"}


def test_other_folders_are_refused_saying_what_was_looked_for(tmp_path):
    with pytest.raises(FerJaxError, match="no such folder; name the folder"):
        read_rafdb(tmp_path / "absent")
    touch(tmp_path, "notes.txt", "x/y.jpg")
    words = (
        r"holds no RAF-DB; looked for basic/EmoLabel/list_patition_label\.txt, or "
        r"DATASET/train/1 to 7; found notes\.txt, x; name"
    )
    with pytest.raises(FerJaxError, match=words):
        read_rafdb(tmp_path)
    write(tmp_path / "EmoLabel/list_patition_label.txt", "train_1.jpg 1\n")
    with pytest.raises(FerJaxError, match="holds no folder Image/aligned of RAF-DB"):
        read_rafdb(tmp_path)
    touch(tmp_path, "Image/original/train_1.jpg")
    with pytest.raises(FerJaxError, match="holds no folder Annotation/boundingbox of RAF-DB"):
        read_rafdb(tmp_path, pictures="original")
    with pytest.raises(FerJaxError, match="pictures 'cropped': not one of aligned, original"):
        read_rafdb(tmp_path, pictures="cropped")
    _kaggle(tmp_path / "k")
    with pytest.raises(FerJaxError, match="aligned pictures only"):
        read_rafdb(tmp_path / "k", pictures="original")
