"""Predictions and labels of frames: every way in, what is refused, and a plain loop beside."""

import numpy as np
import pytest
from affwild2_trees import write_frames, write_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.cli.main import main
from fer_jax.errors import FerJaxError
from fer_jax.evaluate.frames import (
    FrameLabels,
    FrameProbabilities,
    read_frame_probabilities,
    read_labels,
    timeline,
)
from fer_jax.labels import LabelSpace, label_space
from fer_jax.predict.table import PredictionTable

SPACE = label_space("affwild2_expr")
LABELS = {"b": [0, -1, 7, 7], "a_left": [3, 3], "c": [5]}


def write_table(path, rows, classes=SPACE.classes, seed=0, **columns):
    """A prediction table of (video, frame) pairs; returns its probabilities."""
    raw = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), len(rows))
    fields = {
        "time_s": np.zeros(len(rows)),
        "face_id": np.zeros(len(rows)),
        "box": np.tile([0.0, 0, 9, 9], (len(rows), 1)),
        "status": ["ok"] * len(rows),
        "fill": ["none"] * len(rows),
        "raw": raw,
    }
    table = PredictionTable.from_probabilities(
        classes,
        video=[video for video, _ in rows],
        frame=[frame for _, frame in rows],
        **fields | columns,
    )
    table.to_csv(path)
    return table.raw


def _as_rows(found: FrameLabels) -> list[tuple[str, int, int]]:
    return list(zip(found.video.tolist(), found.frame.tolist(), found.label.tolist(), strict=True))


def _expected(videos=LABELS) -> list[tuple[str, int, int]]:
    return [(v, i, x) for v in sorted(videos) for i, x in enumerate(videos[v], 1)]


@pytest.fixture
def root(tmp_path):
    for video, labels in LABELS.items():
        write_labels(tmp_path / "aff", "validation", video, labels)
    write_labels(tmp_path / "aff", "train", "d", [1, 1])
    sample = "image_location," + ",".join(SPACE.classes) + "\nx/00001.jpg,0\n"
    (tmp_path / "aff" / "sample.txt").write_text(sample)
    write_frames(tmp_path / "aff", "b", [2, 3])
    write_frames(tmp_path / "aff", "a_left", [1])
    write_frames(tmp_path / "aff", "c", [1])
    write_frames(tmp_path / "aff", "d", [1, 2])
    return tmp_path / "aff"


def test_labels_of_aff_wild2s_own_files(root):
    challenge = root / "6th_ABAW_Annotations" / "EXPR_Recognition_Challenge"
    for path in (root, challenge, challenge / "Validation_Set"):
        found = read_labels(path)
        assert _as_rows(found) == _expected()
        assert found.labels is SPACE
    assert _as_rows(read_labels(root, "train")) == [("d", 1, 1), ("d", 2, 1)]
    one = read_labels(challenge / "Validation_Set" / "b.txt")
    assert _as_rows(one) == _expected({"b": LABELS["b"]})


def test_labels_of_a_data_set_count_frames_without_a_face(root, tmp_path, capsys):
    assert main(["prepare", "affwild2", str(root), "--out", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    assert _as_rows(read_labels(tmp_path / "data")) == _expected()
    # Where only the faces are known, those that have one.
    (tmp_path / "data" / "annotations.npz").unlink()
    with_face = [("a_left", 1, 3), ("b", 3, 7), ("c", 1, 5)]
    assert _as_rows(read_labels(tmp_path / "data")) == with_face
    with pytest.raises(FerJaxError, match=r"has no split 'test'"):
        read_labels(tmp_path / "data", "test")


def test_labels_of_a_csv_file(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("split,label,frame,video\nval,7,3,b\nval,happy,1,b\nval,,2,b\ntrain,1,1,a\n")
    assert _as_rows(read_labels(path, "val")) == [("b", 1, 4), ("b", 2, -1), ("b", 3, 7)]
    path.write_text("video,frame,label\nb,1,0\n")
    assert _as_rows(read_labels(path, "any")) == [("b", 1, 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,label\na,1\n", "has no column 'frame'"),
        ("video,frame,label\na,one,1\n", "line 2: frame 'one' is no number"),
        ("video,frame,label\na,1,8\n", "line 2: label 8 is outside -1 to 7"),
        ("video,frame,label\na,1,Bored\n", "line 2: label 'Bored' is not in the space"),
        ("video,frame,label\na,1,--1\n", "line 2: label '--1' is not in the space"),
        ("video,frame,label\na,1,²\n", "line 2: label '²' is not in the space"),
        ("video,frame,label\na,9999999999999999999,1\n", "frame '9999999999999999999' is no num"),
        ("video,frame,label\n" + "a" * 140_000 + ",1,1\n", r"line 2: no CSV \(field larger"),
        ("video,frame,label\na,0,1\n", "frame 0 of a; frames are counted from 1"),
        ("video,frame,label\na,1,1\na,1,1\n", "frame 1 of a is there twice"),
        ("video,frame,label\n", "has no frame"),
        ("video,frame,label,split\na,1,1,train\n", r"split 'validation' \(there: train\)"),
    ],
)
def test_csv_that_cannot_be_trusted(tmp_path, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(FerJaxError, match=message) as error:
        read_labels(tmp_path / "labels.csv")
    assert str(tmp_path / "labels.csv") in str(error.value)


def test_annotations_that_cannot_be_trusted(root, tmp_path):
    with pytest.raises(FerJaxError, match=r"split 'test' \(there: train, validation\)"):
        read_labels(root, "test")
    with pytest.raises(FerJaxError, match="no such file or folder"):
        read_labels(tmp_path / "nowhere")
    write_labels(root, "validation", "e", [1, "x", 1])
    with pytest.raises(FerJaxError, match=r"e\.txt: line 3: 'x' is no class number"):
        read_labels(root)
    write_labels(tmp_path, "train", "a", [1])
    folder = next(tmp_path.rglob("a.txt")).parent
    (folder / "README.txt").write_text("Labels of the challenge.\n")
    with pytest.raises(FerJaxError, match=r"README\.txt: .* move it elsewhere if it is none"):
        read_labels(folder)


def test_probabilities_of_tables(tmp_path):
    raw = write_table(
        tmp_path / "one.csv",
        [("clips/b.mp4", 2), ("clips/b.mp4", 1), ("clips/b.mp4", 3), ("clips/b.mp4", 3)],
        status=["ok", "no_face", "low_quality", "ok"],
        box=[[0, 0, 9, 9], [np.nan] * 4, [0, 0, 5, 5], [0, 0, 6, 5]],
        face_id=[0, -1, 1, 0],
    )
    shuffled = SPACE.classes[::-1]
    other = write_table(tmp_path / "two.csv", [("crops/a_left/00007.jpg", 1)], shuffled, seed=1)
    found = read_frame_probabilities([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert found.classes == SPACE.classes
    assert found.video.tolist() == ["a_left", "b", "b"]
    assert found.frame.tolist() == [7, 2, 3]
    np.testing.assert_array_equal(found.probabilities, np.stack([other[0, ::-1], raw[0], raw[3]]))
    assert found.notes == ("1 smaller faces of frames with several are left out.",)
    assert len(read_frame_probabilities(tmp_path)) == 3  # the folder


def test_probabilities_of_text_files(tmp_path):
    path = tmp_path / "submission.txt"
    header = "image_location," + ",".join(SPACE.classes)
    path.write_text(f"{header}\nb/00002.jpg,4\nb/00001.jpg,0\nb/00003.jpg,-1\n")
    found = read_frame_probabilities(path)
    assert found.video.tolist() == ["b", "b"]
    assert found.frame.tolist() == [1, 2]
    np.testing.assert_array_equal(found.probabilities, np.eye(8)[[0, 4]])
    path.write_text("image_location,Happy,Other\nb/00000.jpg,1,0\nb/00009.jpg,0.25,0.75\n")
    found = read_frame_probabilities([path])
    assert found.classes == ("Happiness", "Other")
    assert found.probabilities.tolist() == [[0.25, 0.75]]
    assert found.notes[0].startswith("1 predictions of a frame 0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_location,A,B\nb/1.jpg,0\n", r"line 2: 'b/1\.jpg' is not like <video>"),
        ("b/00001.jpg,8\n", "line 1: '8' is neither a class number below 8 nor 8 prob"),
        ("b/00001.jpg,0.5,0.5\n", "'0.5,0.5' is neither"),
        ("image_location,A,B\nb/00001.jpg,3,-2\n", "frame 1 of b: the numbers are no prob"),
        ("image_location,A,B\nb/00001.jpg,1,1\n", "they add up to 2; apply a softmax"),
        ("image_location,A,A\nb/00001.jpg,1,0\n", "names a class twice"),
        ("what,is,this\n", "not a prediction table"),
        ("b/00001.jpg," + "1" * 140_000 + "\n", r"line 1: no CSV \(field larger"),
        ("b/00001.jpg,1\nb/00002.jpg,1\nb/00001.jpg,3\n", "frame 1 of b is there twice"),
        ("b/00001.jpg,1\nb/00001.jpg,-1\n", "frame 1 of b is there twice"),
        ("x/b/00001.jpg,1\ny/b/00002.jpg,1\n", "b is both x/b and y/b"),
    ],
)
def test_predictions_that_cannot_be_trusted(tmp_path, content, message):
    (tmp_path / "p.txt").write_text(content)
    with pytest.raises(FerJaxError, match=message) as error:
        read_frame_probabilities(tmp_path / "p.txt")
    assert str(tmp_path / "p.txt") in str(error.value)


def test_names_of_videos_end_where_their_extension_begins(tmp_path):
    names = ("a.x", "a.y", "v.1", "v.2.MP4", "d/c.avi", "w")
    raw = write_table(tmp_path / "p.csv", [(name, 1) for name in names])
    # As Excel saves it.
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "p.csv").read_bytes())
    found = read_frame_probabilities(tmp_path / "p.csv")
    assert found.video.tolist() == ["a.x", "a.y", "c", "v.1", "v.2", "w"]
    np.testing.assert_array_equal(found.probabilities, raw[[0, 1, 4, 2, 3, 5]])
    assert found.notes == ()
    write_table(tmp_path / "p.csv", [("d/v.mp4", 1), ("d/v.avi", 1)])
    with pytest.raises(FerJaxError, match=r"v is both d/v\.mp4 and d/v\.avi"):
        read_frame_probabilities(tmp_path / "p.csv")
    write_table(tmp_path / "p.csv", [("v", 1), ("v", 1)])
    with pytest.raises(FerJaxError, match=r"p\.csv: frame 1 of v is there twice"):
        read_frame_probabilities(tmp_path / "p.csv")


def test_files_that_do_not_go_together(tmp_path):
    write_table(tmp_path / "1.csv", [("a/b.mp4", 1)])
    write_table(tmp_path / "2.csv", [("b.mp4", 1)])
    with pytest.raises(FerJaxError, match=r"2\.csv: frame 1 of b is in .*1\.csv too"):
        read_frame_probabilities(tmp_path)
    write_table(tmp_path / "2.csv", [("c.mp4", 1)], label_space("expw").classes)
    with pytest.raises(FerJaxError, match=r"2\.csv: its classes Anger.* are not those of the fi"):
        read_frame_probabilities(tmp_path)
    write_table(tmp_path / "3.csv", [("x/b.mp4", 1), ("y/b.mp4", 2)])
    with pytest.raises(FerJaxError, match=r"b is both x/b\.mp4 and y/b\.mp4"):
        read_frame_probabilities(tmp_path / "3.csv")
    for nothing in ([], [tmp_path / "none.csv"]):
        with pytest.raises(FerJaxError, match=r"no such file|were named"):
            read_frame_probabilities(nothing)


def _labels(videos, space=SPACE) -> FrameLabels:
    rows = _expected(videos)
    video = np.asarray([row[0] for row in rows], object)
    frame = np.asarray([row[1] for row in rows], np.int64)
    return FrameLabels(space, video, frame, np.asarray([row[2] for row in rows], np.int32))


def _predictions(rows, classes=SPACE.classes, seed=0) -> FrameProbabilities:
    rows = sorted(rows)
    raw = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), len(rows))
    video = np.asarray([row[0] for row in rows], object)
    frame = np.asarray([row[1] for row in rows], np.int64)
    return FrameProbabilities(tuple(classes), video, frame, raw.astype(np.float32))


_VIDEOS = st.dictionaries(
    st.sampled_from("vwxyz"), st.lists(st.integers(-1, 7), min_size=1, max_size=6), min_size=1
)
_PAIRS = st.sets(st.tuples(st.sampled_from("uvwxyz"), st.integers(1, 9)))


@settings(deadline=None, max_examples=60)
@given(_VIDEOS, _PAIRS)
def test_timeline_equals_a_plain_loop(videos, pairs):
    pairs = pairs | {(min(videos), 1)}
    predictions, expected = _predictions(pairs), []
    found = timeline(predictions, _labels(videos))
    of = dict(zip(sorted(pairs), predictions.probabilities.tolist(), strict=True))
    for number, name in enumerate(sorted(videos)):
        last = max([len(videos[name]), *(frame for video, frame in pairs if video == name)])
        for frame in range(1, last + 1):
            label = videos[name][frame - 1] if frame <= len(videos[name]) else -1
            expected.append((number, frame, label, of.get((name, frame))))
    assert found.videos == tuple(sorted(videos))
    columns = (found.segment, found.frame, found.label, found.observed, found.probabilities)
    assert [column.dtype for column in columns] == ["int32", "int64", "int32", *["float32"] * 2]
    rows = [
        (s, f, y, p if o else None)
        for s, f, y, o, p in zip(*(column.tolist() for column in columns), strict=True)
    ]
    assert rows == expected
    assert not found.probabilities[found.observed == 0].any()
    beside = {name for name, _ in pairs} - set(videos)
    assert any("passed over" in note for note in found.notes) == bool(beside)
    without = set(videos) - {name for name, _ in pairs}
    assert any("have no prediction" in note for note in found.notes) == bool(without)


def test_timeline_over_shared_classes():
    expw = label_space("expw").classes
    predictions = _predictions([("b", 1), ("b", 2)], expw)
    found = timeline(predictions, _labels({"b": [0, 7, 4]}))
    assert found.classes == SPACE.classes[:7]
    assert found.label.tolist() == [0, -1, 4]
    expected = predictions.probabilities[:, [expw.index(name) for name in found.classes]]
    np.testing.assert_array_equal(found.probabilities[:2], expected)
    assert found.notes == (
        "1 frames of Other are not scored: no prediction can name it.",
    )  # fmt: skip
    eight = _predictions([("b", 1)])
    eight.probabilities[0] = [0.1, 0, 0, 0, 0.3, 0, 0, 0.6]
    found = timeline(eight, _labels({"b": [0]}, LabelSpace("two", ("Happy", "Neutral"))))
    np.testing.assert_allclose(found.probabilities, [[0.75, 0.25]], rtol=1e-6)
    assert found.notes[0].endswith("the choice was among Happy, Neutral only.")


def test_timeline_that_cannot_be():
    with pytest.raises(FerJaxError, match="no video is in both: the labels are of a and 1 more"):
        timeline(_predictions([("z", 1)]), _labels({"a": [1], "b": [1]}))
    with pytest.raises(FerJaxError, match="share only the class Neutral"):
        timeline(_predictions([("a", 1)]), _labels({"a": [1]}, LabelSpace("x", ("Neutral", "Y"))))
    with pytest.raises(FerJaxError, match="frame 900000000 of a"):
        timeline(_predictions([("a", 900_000_000)]), _labels({"a": [1]}))
