import os
import signal
import sys

import numpy as np
import pytest
from affwild2_trees import CHALLENGE, HEADER, write_frames, write_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data import affwild2
from fer_jax.data.affwild2 import (
    SPLITS,
    find_layout,
    frame_name,
    list_frames,
    read_annotation,
    read_sample,
    read_test_list,
    source_video,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs links, pipes, any names")


@pytest.fixture
def impatient():
    """Whoever waits for a pipe is interrupted."""

    def interrupt(*_):
        raise RuntimeError("waits for somebody to write to a pipe")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _annotation(tmp_path, content: bytes):
    path = tmp_path / "video.txt"
    path.write_bytes(content)
    return read_annotation(path)


def test_a_label_belongs_to_the_frame_of_its_line(tmp_path):
    content = HEADER.encode() + b"\n-1\n0\n7\n3\n"
    annotation = _annotation(tmp_path, content)
    assert annotation.faults == ()
    assert annotation.labels.dtype == np.int8
    assert annotation.labels.tolist() == [-1, 0, 7, 3]


def test_the_header_is_the_official_order():
    assert label_space("affwild2_expr").classes == tuple(HEADER.split(","))
    assert HEADER.split(",")[4] == "Happiness"


@pytest.mark.parametrize(
    "content",
    [
        HEADER.encode() + b"\r\n1\r\n-1\r\n2\r\n",
        HEADER.encode() + b"\n1  \n -1\n2\t\n\n\n",
        b"\xef\xbb\xbf" + HEADER.encode() + b"\n1\n-1\n2",
        b" " + HEADER.replace(",", ", ").upper().encode() + b" \n1\n-1\n2\n \n",
        (HEADER + "\n1\n-1\n2\n").encode("utf-16"),
        HEADER.encode() + b"\r1\r-1\r2\r",
    ],
)
def test_what_is_meant_the_same_reads_the_same(tmp_path, content):
    annotation = _annotation(tmp_path, content)
    assert annotation.faults == ()
    assert annotation.labels.tolist() == [1, -1, 2]


@pytest.mark.parametrize(
    ("body", "labels", "fault"),
    [
        (b"1\nx\n2\n", [1, -1, 2], "line 3: 'x' is no class number (-1 to 7)"),
        (b"1\n8\n2\n", [1, -1, 2], "line 3: '8' is no class number (-1 to 7)"),
        (b"1\n-2\n2\n", [1, -1, 2], "line 3: '-2' is no class number (-1 to 7)"),
        (b"1\n\n2\n", [1, -1, 2], "line 3: empty"),
        (b"1\n2.0\n2\n", [1, -1, 2], "line 3: '2.0' is no class number (-1 to 7)"),
        (b"1\n1,0\n2\n", [1, -1, 2], "line 3: '1,0' is no class number (-1 to 7)"),
        (b"1\n9\n9\n9\n2\n", [1, -1, -1, -1, 2], "lines 3 to 5: '9' is no class number (-1 to 7)"),
        (b"1\n\xff\x00\n2\n", [1, -1, 2], "line 3: '\ufffd\\x00' is no class number (-1 to 7)"),
    ],
)
def test_an_unreadable_line_keeps_its_place_and_is_named(tmp_path, body, labels, fault):
    annotation = _annotation(tmp_path, HEADER.encode() + b"\n" + body)
    assert annotation.labels.tolist() == labels
    assert annotation.faults == (fault,)


def test_different_bad_neighbours_are_two_faults(tmp_path):
    annotation = _annotation(tmp_path, HEADER.encode() + b"\na\nb\n1\nb\n")
    assert [fault.split(" is")[0] for fault in annotation.faults] == [
        "line 2: 'a'",
        "line 3: 'b'",
        "line 5: 'b'",
    ]


def test_headers_that_are_not_the_official_one(tmp_path):
    swapped = HEADER.replace("Anger,Disgust", "Disgust,Anger")
    annotation = _annotation(tmp_path, swapped.encode() + b"\n1\n")
    assert "another order" in annotation.faults[0]
    assert annotation.labels.tolist() == [1]
    annotation = _annotation(tmp_path, b"valence,arousal\n0.1,0.2\n")
    assert len(annotation.faults) == 2
    assert "the header is not Neutral" in annotation.faults[0]
    annotation = _annotation(tmp_path, b"3\n4\n")
    assert "no header" in annotation.faults[0]
    assert annotation.labels.tolist() == [3, 4]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \r\n"])
def test_an_empty_annotation(tmp_path, content):
    annotation = _annotation(tmp_path, content)
    assert annotation.faults == ("is empty",)
    assert annotation.labels.shape == (0,)


def test_an_annotation_of_a_size_that_none_has(tmp_path):
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(1 << 27)
    assert read_annotation(path).faults == ("is 128 MiB, which no annotation is",)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_labels_and_faults(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    annotation = read_annotation(path)
    assert annotation.labels.ndim == 1
    assert ((annotation.labels >= -1) & (annotation.labels <= 7)).all()
    assert annotation.faults or content.lstrip(b"\xef\xbb\xbf \t").lower().startswith(b"neutral")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 7), min_size=1, max_size=50))
def test_written_labels_read_back(tmp_path_factory, labels):
    root = tmp_path_factory.getbasetemp() / "back"
    annotation = read_annotation(write_labels(root, "train", "video", labels))
    assert annotation.labels.tolist() == labels
    assert annotation.faults == ()


def test_a_missing_annotation_is_said_in_one_line(tmp_path):
    with pytest.raises(FerJaxError, match=r"none\.txt: cannot be read \(No such file") as caught:
        read_annotation(tmp_path / "none.txt")
    assert "\n" not in str(caught.value)


@linux_only
def test_a_pipe_is_no_annotation_and_is_not_waited_for(tmp_path, impatient):
    path = write_labels(tmp_path, "train", "a", [0])
    for pipe in (path.with_name("b.txt"), tmp_path / "notes.txt"):
        os.mkfifo(pipe)
    with pytest.raises(FerJaxError, match=r"b\.txt: is no file") as caught:
        read_annotation(path.with_name("b.txt"))
    assert "\n" not in str(caught.value)
    layout = find_layout(tmp_path)
    assert set(layout.annotations["train"]) == {"a", "b"}
    assert layout.sample is None


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("6-30-1920x1080_left", ("6-30-1920x1080", "left")),
        ("135-24-1920x1080_right", ("135-24-1920x1080", "right")),
        ("video10_1", ("video10_1", "")),
        ("leftover", ("leftover", "")),
        ("a_left_b", ("a_left_b", "")),
        ("_left", ("_left", "")),
        ("a_right_left", ("a_right", "left")),
    ],
)
def test_source_video(video, expected):
    assert source_video(video) == expected


def test_frames_are_those_named_as_frames(tmp_path):
    for name in ("00003.jpg", "00001.jpg", "123456.jpg", "00000.jpg"):
        (tmp_path / name).touch()
    strangers = ["1.jpg", "00002.png", "000004.jpg", "00005.JPG", ".DS_Store", "0000a.jpg"]
    strangers += ["\N{ARABIC-INDIC DIGIT ONE}0001.jpg", "99999999999.jpg"]
    for name in strangers:
        (tmp_path / name).touch()
    (tmp_path / "00007.jpg").mkdir()
    frames = list_frames(tmp_path)
    assert frames.numbers.dtype == np.int32
    assert frames.numbers.tolist() == [0, 1, 3, 123456]
    assert frames.strangers == tuple(sorted([*strangers, "00007.jpg"]))
    assert all(frames.path(number).is_file() for number in frames.numbers.tolist())
    with pytest.raises(FerJaxError, match="nowhere: cannot be read"):
        list_frames(tmp_path / "nowhere")


@given(st.integers(0, 999_999))
def test_a_frame_has_one_name(number):
    name = frame_name(number)
    assert int(name.removesuffix(".jpg")) == number
    assert len(name) == 9 or number > 99_999


def test_the_test_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfvideo1 \r\n video2_left\r\n\r\nvideo1\r\n")
    assert read_test_list(path) == ("video1", "video2_left")


def test_the_sample_file(tmp_path):
    path = tmp_path / "sample.txt"
    rows = ["b/00001.jpg,0", "b/00002.jpg,0", "a_left/00010.jpg,3", "", "b/100000.jpg,1"]
    path.write_text("\r\n".join(["image_location," + HEADER, *rows]))
    sample = read_sample(path)
    assert sample.videos == ("b", "a_left")
    assert sample.frames["b"].tolist() == [1, 2, 100000]
    assert sample.frames["a_left"].tolist() == [10]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "line 1 is not"),
        ("image_location,valence,arousal\na/00001.jpg,0\n", "line 1 is not"),
        (f"image_location,{HEADER}\na/00001.jpg,0\na/frame2.jpg,0\n", "line 3: 'a/frame2.jpg'"),
        (f"image_location,{HEADER}\n00001.jpg,0\n", r"line 2: '00001\.jpg'"),
    ],
)
def test_a_sample_file_that_is_none(tmp_path, content, match):
    path = tmp_path / "sample.txt"
    path.write_text(content)
    with pytest.raises(FerJaxError, match=match) as caught:
        read_sample(path)
    assert "\n" not in str(caught.value)


def test_the_official_layout(tmp_path):
    train = write_labels(tmp_path, "train", "1-30-1280x720", [0])
    validation = write_labels(tmp_path, "validation", "2_left", [1])
    for other in ("VA_Estimation_Challenge", "AU_Detection_Challenge"):
        challenge = f"6th_ABAW_Annotations/{other}"
        write_labels(tmp_path, "train", "va_only", [0], challenge=challenge)
    first = write_frames(tmp_path, "1-30-1280x720", [1], empty=True)
    second = write_frames(tmp_path, "2_left", [1], crops="cropped_aligned_new_50_vids", empty=True)
    loose = write_frames(tmp_path, "2_left", [1], crops="cropped", empty=True)
    for name in ("batch1/1-30-1280x720.mp4", "batch2/2.avi", "new_vids/3.MP4"):
        path = tmp_path / name
        path.parent.mkdir()
        path.touch()
    names = tmp_path / "names_of_videos_in_each_test_set"
    names.mkdir()
    for challenge in ("Action_Unit_Detection", "Expression_Recognition", "Valence_Arousal"):
        (names / f"{challenge}_Challenge_test_set_release.txt").write_text("9\n")
    sample = tmp_path / "prediction.txt"
    sample.write_text(f"image_location,{HEADER}\n9/00001.jpg,0\n")

    layout = find_layout(tmp_path)
    assert layout.annotations == {
        "train": {"1-30-1280x720": train},
        "validation": {"2_left": validation},
    }
    assert set(layout.annotations) == set(SPLITS.values())
    assert layout.crops == {
        "cropped_aligned": {"1-30-1280x720": first, "2_left": second},
        "cropped": {"2_left": loose},
    }
    assert {stem: path.name for stem, path in layout.videos.items()} == {
        "1-30-1280x720": "1-30-1280x720.mp4",
        "2": "2.avi",
        "3": "3.MP4",
    }
    assert layout.test_list == names / "Expression_Recognition_Challenge_test_set_release.txt"
    assert layout.sample == sample
    assert layout.strays == layout.faults == ()


@pytest.mark.parametrize(
    "challenge",
    [
        "6th ABAW Annotations/EXPR_Classification_Challenge",
        "Third ABAW Annotations/Third ABAW Annotations/EXPR_Classification_Challenge",
        "ABAW Annotations/EXPR Recognition Challenge",
        "annotations/EXPR_Recognition_Challenge",
        "EXPR_Recognition_Challenge/EXPR_Recognition_Challenge",
        "8th_ABAW_Annotations/EXPR_Recognition_Challenge (1)",
    ],
)
@pytest.mark.parametrize("split", ["Train_Set", "Train Set", "train_set", "Training_Set"])
def test_spellings_of_the_annotations(tmp_path, challenge, split):
    path = write_labels(tmp_path, split, "video", [0], challenge=challenge)
    (path.parent / ".DS_Store").touch()
    (path.parent / "._video.txt").touch()
    layout = find_layout(tmp_path)
    assert layout.annotations["train"] == {"video": path}
    assert layout.faults == ()


@pytest.mark.parametrize(
    "crops",
    [
        "cropped_aligned",
        "cropped_aligned/cropped_aligned",
        "cropped_aligned/cropped_aligned_new_50_vids",
        "cropped_aligned_new_50_vids/cropped_aligned_new_50_vids",
        "batch1 (1)/cropped_aligned",
        "cropped_aligned_images/cropped_aligned",
        "cropped_aligned (1)",
        "Cropped Aligned/batch2",
        "cropped/cropped_aligned",
    ],
)
def test_where_crops_may_be(tmp_path, crops):
    folder = write_frames(tmp_path, "video", [1], crops=crops, empty=True)
    layout = find_layout(tmp_path)
    assert layout.crops == {"cropped_aligned": {"video": folder}}
    assert layout.faults == layout.strays == ()


def test_the_test_list_of_another_challenge_is_none(tmp_path):
    write_labels(tmp_path, "train", "a", [0])
    (tmp_path / "Action_Unit_Detection_Challenge_test_set_release.txt").write_text("9\n")
    assert find_layout(tmp_path).test_list is None
    plain = tmp_path / "ABAW test set release.txt"
    plain.write_text("9\n")
    assert find_layout(tmp_path).test_list == plain


def test_folders_of_frames_are_not_listed(tmp_path, monkeypatch):
    folder = write_frames(tmp_path, "video", [1, 2, 3], empty=True)
    scandir = os.scandir

    def guarded(path):
        assert os.fspath(path) != str(folder), "a folder of frames was listed"
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert find_layout(tmp_path).crops["cropped_aligned"] == {"video": folder}


def test_what_is_there_twice_is_said_once_a_folder(tmp_path):
    first = {}
    for video in ("a", "b", "c"):
        challenge = "5th_ABAW_Annotations/EXPR_Classification_Challenge"
        first[video] = write_labels(tmp_path, "train", video, [0, 1], challenge=challenge)
        write_labels(tmp_path, "train", video, [0, 1 if video == "c" else 2])
        write_frames(tmp_path, video, [1], empty=True)
        write_frames(tmp_path, video, [1], crops="cropped_aligned_new_50_vids", empty=True)
    for batch in ("batch1", "batch2"):
        (tmp_path / batch).mkdir()
        (tmp_path / batch / "a.mp4").touch()
    layout = find_layout(tmp_path)
    assert layout.annotations["train"] == first
    assert layout.videos == {"a": tmp_path / "batch1" / "a.mp4"}
    faults = {fault.part: fault for fault in layout.faults}
    assert len(layout.faults) == 3
    assert {fault.kind for fault in layout.faults} == {"twice"}
    assert faults["annotations"].name == f"{CHALLENGE}/Train_Set"
    assert faults["annotations"].reason.startswith("2 in it are in 5th_ABAW_Annotations/")
    assert "(a, b)" in faults["annotations"].reason  # c says the same in both
    assert faults["cropped_aligned"].name == "cropped_aligned_new_50_vids"
    assert "3 in it" in faults["cropped_aligned"].reason
    assert faults["videos"].name == "batch2"


def test_the_same_annotations_twice_are_no_fault(tmp_path):
    for challenge in (CHALLENGE, f"copy/{CHALLENGE}"):
        write_labels(tmp_path, "train", "a", [0, 1], challenge=challenge)
    assert find_layout(tmp_path).faults == ()


def test_the_sample_among_own_submissions(tmp_path):
    write_labels(tmp_path, "train", "a", [0])
    for name in ("CVPR_6th_ABAW_Expr_test_set_sample.txt", "ours.txt"):
        (tmp_path / name).write_text(f"image_location,{HEADER}\n")
    layout = find_layout(tmp_path)
    assert layout.sample == tmp_path / "CVPR_6th_ABAW_Expr_test_set_sample.txt"
    assert layout.faults == ()
    (tmp_path / "CVPR_6th_ABAW_Expr_test_set_sample.txt").unlink()
    (tmp_path / "yours.txt").write_text(f"image_location,{HEADER}\n")
    (fault,) = find_layout(tmp_path).faults
    assert (fault.kind, fault.part, fault.name) == ("twice", "sample", "ours.txt")
    assert "yours.txt" in fault.reason


def test_pictures_outside_of_crops_are_strays(tmp_path):
    write_labels(tmp_path, "train", "a", [0])
    stray = write_frames(tmp_path, "a", [1], crops="faces", empty=True)
    for i in range(50):
        (tmp_path / "cropped_aligned" / f"v{i}").mkdir(parents=True)
        (tmp_path / "cropped_aligned" / f"{i:05d}.jpg").touch()
    layout = find_layout(tmp_path)
    assert layout.strays == (tmp_path / "cropped_aligned", stray)
    assert set(layout.crops["cropped_aligned"]) == {f"v{i}" for i in range(50)}


def _small_tree(root):
    """Twelve people: wherever a folder's listing breaks off, some are behind."""
    people = {f"person{i}" for i in range(12)}
    for video in people:
        write_labels(root, "train", video, [0, 1])
        write_frames(root, video, [1], empty=True)
        path = root / "batch1" / f"{video}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return people


def _all_is_found(layout, people):
    assert set(layout.annotations["train"]) == people
    assert set(layout.crops["cropped_aligned"]) == people
    assert set(layout.videos) == people


@linux_only
@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"{CHALLENGE}/Train_Set/0.txt", "annotations"),
        (f"{CHALLENGE}/Other_Set", "annotations"),
        ("cropped_aligned/loop", "cropped_aligned"),
        ("batch1/loop.mp4", "videos"),
        ("batch1/loop", "root"),
        ("loop", "root"),
    ],
)
def test_a_link_to_itself_hides_nothing_and_is_named(tmp_path, name, part):
    people = _small_tree(tmp_path)
    (tmp_path / name).symlink_to(tmp_path / name)
    layout = find_layout(tmp_path)
    _all_is_found(layout, people)
    (fault,) = layout.faults
    assert (fault.name, fault.kind, fault.part) == (name, "unreadable", part)
    assert "Too many levels of symbolic links" in fault.reason


@pytest.mark.parametrize("folder", ["", "batch1", f"{CHALLENGE}/Train_Set", "cropped_aligned"])
def test_a_lone_picture_beside_the_folders_hides_nothing(tmp_path, folder):
    people = _small_tree(tmp_path)
    (tmp_path / folder / "00001.jpg").touch()
    (tmp_path / folder / "00002.jpg").touch()
    layout = find_layout(tmp_path)
    _all_is_found(layout, people)
    if folder.endswith("Train_Set"):
        assert [fault.kind for fault in layout.faults] == ["strangers"] * 2
    else:
        assert layout.strays == (tmp_path / folder,)
        assert layout.faults == ()


def test_of_a_folder_of_frames_in_a_strange_place_the_first_are_enough(tmp_path, monkeypatch):
    _small_tree(tmp_path)
    stray = write_frames(tmp_path, "a", range(1, 3001), crops="faces", empty=True)
    looked_at = []
    frame_number = affwild2.frame_number
    monkeypatch.setattr(
        affwild2, "frame_number", lambda name: looked_at.append(name) or frame_number(name)
    )
    assert find_layout(tmp_path).strays == (stray,)
    # The first thousand names are judged once while listing and, up to the first, once after.
    assert len(set(looked_at)) < 1100


@linux_only
@pytest.mark.parametrize(
    ("name", "shown", "part"),
    [
        (f"{CHALLENGE}/Train_Set/b\udce9.txt", f"{CHALLENGE}/Train_Set/b\\xe9.txt", "annotations"),
        ("cropped_aligned/b\udce9/", "cropped_aligned/b\\xe9", "cropped_aligned"),
        ("batch1/b\udce9.mp4", "batch1/b\\xe9.mp4", "videos"),
        ("b\udce9/", "b\\xe9", "root"),
        ("b\udce9.docx", "", ""),
    ],
)
def test_names_that_are_no_text_are_faults(tmp_path, name, shown, part):
    people = _small_tree(tmp_path)
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.touch()
    layout = find_layout(tmp_path)
    _all_is_found(layout, people)
    found = [(fault.name, fault.kind, fault.part) for fault in layout.faults]
    assert found == ([(shown, "unreadable", part)] if shown else [])
    assert all("rename it" in fault.reason for fault in layout.faults)


def test_the_challenge_folder_itself_and_links(tmp_path):
    path = write_labels(tmp_path, "train", "a", [0])
    assert find_layout(path.parent.parent).annotations["train"] == {"a": path}
    folder = write_frames(tmp_path / "disk", "a", [1], empty=True)
    (tmp_path / "cropped_aligned").symlink_to(folder.parent)
    (tmp_path / "cropped_aligned" / "back").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "a.mp4").touch()
    layout = find_layout(tmp_path)
    assert set(layout.crops["cropped_aligned"]) == {"a", "back"}
    assert layout.faults == ()


def test_a_folder_that_is_not_aff_wild2(tmp_path):
    (tmp_path / "cropped").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FerJaxError, match="nothing of Aff-Wild2 is in it") as caught:
        find_layout(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FerJaxError, match="is no folder"):
        find_layout(tmp_path / "notes.txt")
