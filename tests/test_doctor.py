import html.parser
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from affwild2_trees import CHALLENGE, HEADER, picture, write_frames, write_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.cli.main import main
from fer_jax.data.affwild2 import LABELS
from fer_jax.data.doctor import examine
from fer_jax.data.doctor_counts import STATES, STRIP_LENGTH, check_video, percent
from fer_jax.data.doctor_findings import FRAME_TOLERANCE, KINDS, SEVERITIES, some
from fer_jax.data.doctor_page import write_page
from fer_jax.data.doctor_pictures import Pictures
from fer_jax.data.doctor_report import as_dict, report_text
from fer_jax.errors import FerJaxError

ALL = list(range(8))


@pytest.fixture
def tree(tmp_path):
    """Four annotated videos, two for the test, and nothing to complain about."""
    root = tmp_path / "affwild2"
    for split, video in (
        ("train", "1-30-1280x720"),
        ("train", "2_left"),
        ("train", "2_right"),
        ("validation", "3"),
    ):
        write_labels(root, split, video, ALL)
        write_frames(root, video, range(1, 9))
    for video in ("8", "9"):
        write_frames(root, video, range(1, 4), crops="cropped_aligned_new_50_vids")
    (root / "batch1").mkdir()
    for video in ("1-30-1280x720", "2", "3", "8", "9"):
        (root / "batch1" / f"{video}.mp4").touch()
    (root / "Expression_Recognition_Challenge_test_set_release.txt").write_text("8\n9\n")
    rows = [f"{video}/{number:05d}.jpg,0" for video in ("8", "9") for number in (1, 2, 3)]
    (root / "sample.txt").write_text("\n".join([f"image_location,{HEADER}", *rows, ""]))
    return root


def _found(root, **options) -> set[tuple[str, str]]:
    return {(one.kind, one.where) for one in examine(root, **options).findings}


def _finding(root, kind):
    (finding,) = [one for one in examine(root).findings if one.kind == kind]
    return finding


def test_a_clean_tree_has_no_findings(tree, capsys):
    assert _found(tree) == set()
    assert _found(tree, open_pictures=False) == set()
    assert main(["doctor", str(tree)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "no errors, no warnings, no notes; it can be trained on" in out


def _corrupt(root):
    """Of the eight pictures, one is cut short, one is empty, one is no picture at all."""
    folder = root / "cropped_aligned" / "1-30-1280x720"
    for number, content in ((2, None), (3, b""), (4, b"no picture")):
        path = folder / f"{number:05d}.jpg"
        path.write_bytes(path.read_bytes()[:400] if content is None else content)


def _labels(video, labels, split="train", **options):
    return lambda root: write_labels(root, split, video, labels, **options)


def _copy_video(root):
    """Video 3 (validation) shows 1 (train) again, re-encoded and a little smaller."""
    for number in range(1, 9):
        image = cv2.imread(str(root / "cropped_aligned" / "1-30-1280x720" / f"{number:05d}.jpg"))
        small = cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA)
        back = cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC)
        path = str(root / "cropped_aligned" / "3" / f"{number:05d}.jpg")
        assert cv2.imwrite(path, back, [cv2.IMWRITE_JPEG_QUALITY, 60])


def _leak(root):
    """The two people of video 2 come into different splits."""
    annotations = root / CHALLENGE
    shutil.move(annotations / "Train_Set" / "2_left.txt", annotations / "Validation_Set")


def _remove(*names):
    def plant(root):
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def _flat(root):
    image = np.full((112, 112, 3), 7, np.uint8)
    assert cv2.imwrite(str(root / "cropped_aligned" / "3" / "00005.jpg"), image)


def _small(root):
    image = picture(77, 1, side=90)
    assert cv2.imwrite(str(root / "cropped_aligned" / "3" / "00005.jpg"), image)


def _frame_zero(root):
    path = root / "cropped_aligned" / "3"
    for number in range(8):
        (path / f"{number + 1:05d}.jpg").rename(path / f"{number:05d}.jpg")


def _frames(video, numbers, **options):
    return lambda root: write_frames(root, video, numbers, **options)


def _write(name, text):
    def plant(root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return plant


def _no_fear(root):
    for video in ("1-30-1280x720", "2_left", "2_right"):
        write_labels(root, "train", video, [0, 1, 2, 2, 4, 5, 6, 7])


_SAMPLE = f"image_location,{HEADER}\n"
_NINE = "".join(f"9/{number:05d}.jpg,0\n" for number in (1, 2, 3))
_SWAPPED = HEADER.replace("Fear,Happiness", "Happiness,Fear")
_LIST = "Expression_Recognition_Challenge_test_set_release.txt"
# What is planted, and all that is to be found then.
PLANTED = {
    "bad line": (
        _labels("3", [0, 1, "x", *ALL[3:]], "validation"),
        {("annotation", "3"), ("pictures_without_label", "validation")},
    ),
    "label 8": (
        _labels("3", [8, *ALL[1:]], "validation"),
        {("annotation", "3"), ("pictures_without_label", "validation")},
    ),
    "header": (_labels("3", ALL, "validation", header=_SWAPPED), {("annotation", "3")}),
    "no header": (_labels("3", ALL, "validation", header=None), {("annotation", "3")}),
    "from zero": (
        _frame_zero,
        {
            ("from_zero", "3"),
            ("labels_without_picture", "validation"),
            ("pictures_without_label", "validation"),
        },
    ),
    "beyond": (
        _frames("3", range(9, 10 + FRAME_TOLERANCE)),
        {("beyond_labels", "3"), ("pictures_without_label", "validation")},
    ),
    "a frame or three more": (
        _frames("3", range(9, 9 + FRAME_TOLERANCE)),
        {("frame_count", "3"), ("pictures_without_label", "validation")},
    ),
    "in two splits": (_labels("3", ALL), {("two_splits", "3")}),
    "trained and tested": (
        _write(_LIST, "8\n9\n3\n"),
        {("two_splits", "3"), ("test_list_and_sample", "in the test list only")},
    ),
    "no folder": (_remove("cropped_aligned/3"), {("no_pictures", "3")}),
    "empty folder": (
        lambda root: _remove(*(f"cropped_aligned/3/{number:05d}.jpg" for number in range(1, 9)))(
            root
        ),
        {("no_pictures", "3")},
    ),
    "another edition": (
        _labels("3", [0, *ALL[:-1]], "validation", challenge="x/EXPR_Classification_Challenge"),
        {("ambiguous", "x/EXPR_Classification_Challenge/Validation_Set")},
    ),
    "crops twice": (
        _frames("3", [1], crops="cropped_aligned_new_50_vids"),
        {("ambiguous", "cropped_aligned_new_50_vids")},
    ),
    "corrupted": (_corrupt, {("corrupted", "1-30-1280x720")}),
    "copied": (_copy_video, {("duplicates", "1-30-1280x720 | 3")}),
    "leak": (_leak, {("shared_video", "2")}),
    "gap": (
        _remove("cropped_aligned/3/00004.jpg", "cropped_aligned/3/00005.jpg"),
        {("labels_without_picture", "validation")},
    ),
    "size": (_small, {("size", "3")}),
    "no crops": (
        _remove("cropped_aligned", "cropped_aligned_new_50_vids"),
        {("no_crops", "crops")},
    ),
    "no annotations": (
        _remove(f"{CHALLENGE}/Validation_Set"),
        {("no_annotations", "validation"), ("without_annotation", "crops")},
    ),
    "no Fear": (_no_fear, {("empty_class", "Fear")}),
    "test video without crops": (
        _remove("cropped_aligned_new_50_vids/9"),
        {("test_without_crops", "test")},
    ),
    "test list of another edition": (
        _write(_LIST, "8\n"),
        {("test_list_and_sample", "in the sample file only")},
    ),
    "sample of another edition": (
        _write("sample.txt", _SAMPLE + _NINE),
        {("test_list_and_sample", "in the test list only")},
    ),
    "broken sample": (_write("sample.txt", _SAMPLE + "9.jpg,0\n"), {("unreadable", "sample.txt")}),
    "video twice": (_write("batch2/3.avi", ""), {("several", "batch2")}),
    "stray": (_frames("7", [1], crops="faces"), {("strays", "faces")}),
    "-1": (
        _labels("3", [-1, -1, *ALL[2:]], "validation"),
        {("pictures_without_label", "validation")},
    ),
    "all -1": (
        _labels("3", [-1] * 8, "validation"),
        {("unlabelled_video", "3"), ("pictures_without_label", "validation")},
    ),
    "no annotation": (_frames("7", [1, 2]), {("without_annotation", "crops")}),
    "flat": (_flat, {("flat", "3")}),
    "stranger": (_write("cropped_aligned/3/Thumbs.db", ""), {("strangers", "3")}),
    "no annotation file": (
        _write(f"{CHALLENGE}/Train_Set/notes.doc", ""),
        {("strangers", f"{CHALLENGE}/Train_Set/notes.doc")},
    ),
    "sample row without picture": (
        _remove("cropped_aligned_new_50_vids/9/00002.jpg"),
        {("sample_without_picture", "test")},
    ),
    "no video file": (_remove("batch1/2.mp4"), {("no_video_file", "videos")}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_and_nothing_else(tree, name):
    plant, expected = PLANTED[name]
    plant(tree)
    examination = examine(tree, workers=2)
    assert {(one.kind, one.where) for one in examination.findings} == expected
    assert examination.failed == any(KINDS[kind].severity == "error" for kind, _ in expected)
    assert main(["doctor", str(tree)]) == int(examination.failed)


def test_every_kind_is_planted_once():
    found = {kind for _, expected in PLANTED.values() for kind, _ in expected}
    assert found == set(KINDS)
    assert {kind.severity for kind in KINDS.values()} == set(SEVERITIES)


def test_findings_say_how_many_and_where(tree):
    _copy_video(tree)
    _corrupt(tree)
    finding = _finding(tree, "corrupted")
    assert finding.count == 3
    assert "3 of 8 pictures" in finding.message
    assert [detail.split()[0] for detail in finding.details] == [
        "00002.jpg",
        "00003.jpg",
        "00004.jpg",
    ]
    assert finding.details[1] == "00003.jpg is empty"
    finding = _finding(tree, "duplicates")
    # The frames of a video are alike, so each of the copy's eight finds one of the five left.
    assert "in both: 5 of the first (train), 8 of the second (validation)" in finding.message
    assert finding.details[0] == "1-30-1280x720/00001.jpg = 3/00001.jpg"
    _frames("3", [20])(tree)
    assert "8 labels, but pictures up to number 20" in _finding(tree, "beyond_labels").message


def test_names_only_opens_nothing(tree):
    _corrupt(tree)
    _copy = tree / "cropped_aligned" / "3" / "00001.jpg"
    _copy.write_bytes(b"")
    assert _found(tree, open_pictures=False) == set()


def test_the_loose_crops_are_examined_when_asked_for(tree):
    write_frames(tree, "3", range(1, 9), crops="cropped")
    assert _found(tree) == set()
    examination = examine(tree, crops="cropped")
    assert examination.crops == "cropped"
    assert [one.where for one in examination.findings if one.kind == "no_pictures"] == [
        "1-30-1280x720",
        "2_left",
        "2_right",
    ]
    with pytest.raises(FerJaxError, match="has no folder cropped; there is cropped_aligned"):
        shutil.rmtree(tree / "cropped")
        examine(tree, crops="cropped")


def _recount(root, split):
    """The counts of a split from the files alone, a line and a name at a time."""
    counts = dict.fromkeys(("lines", "labels", "labels_with_picture", "pictures", "unlabelled"), 0)
    counts["pictures_without_label"] = 0
    classes = [0] * 8
    folder = root / CHALLENGE / {"train": "Train_Set", "validation": "Validation_Set"}[split]
    for path in folder.glob("*.txt"):
        labels = [int(line) for line in path.read_text().split("\n")[1:] if line.strip()]
        pictures = {file.name for file in (root / "cropped_aligned" / path.stem).glob("*.jpg")}
        counts["pictures"] += len(pictures)
        for number, label in enumerate(labels, 1):
            there = f"{number:05d}.jpg" in pictures
            counts["lines"] += 1
            counts["labels"] += label >= 0
            counts["unlabelled"] += label < 0
            counts["labels_with_picture"] += there and label >= 0
            classes[max(label, 0)] += there and label >= 0
            counts["pictures_without_label"] += there and label < 0
        beyond = {f"{number:05d}.jpg" for number in range(1, len(labels) + 1)}
        counts["pictures_without_label"] += len(pictures - beyond)
    return counts, classes


def test_counts_equal_an_independent_recount(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        split = "validation" if i % 3 == 0 else "train"
        lines = int(rng.integers(1, 300))
        write_labels(tmp_path, split, f"v{i}", rng.integers(-1, 8, lines).tolist())
        last = lines + int(rng.integers(-5, 6))
        numbers = np.flatnonzero(rng.random(max(last, 1)) > 0.2) + 1
        write_frames(tmp_path, f"v{i}", numbers.tolist(), empty=True)
    report = as_dict(examine(tmp_path, open_pictures=False))
    for split in ("train", "validation"):
        counts, classes = _recount(tmp_path, split)
        found = report["splits"][split]
        assert {name: found[name] for name in counts} == counts
        assert list(found["pictured_of_class"].values()) == classes
        assert list(found["pictured_of_class"]) == HEADER.split(",")
        assert found["labels_without_picture"] == counts["labels"] - counts["labels_with_picture"]
    train = np.array(_recount(tmp_path, "train")[1], np.float64)
    weights = report["class_weights"]
    for scheme, expected in {
        "none": np.ones(8),
        "neutral": train[0] / train,
        "balanced": train.sum() / (8 * train),
        "max": train.max() / train,
    }.items():
        np.testing.assert_allclose(list(weights[scheme].values()), expected, rtol=1e-6)
    videos = {one["video"]: one for one in report["videos"]}
    assert sum(one["labels"] for one in videos.values()) == sum(
        report["splits"][split]["labels"] for split in report["splits"]
    )


@settings(max_examples=80, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 7), max_size=600),
    numbers=st.sets(st.integers(1, 700), max_size=300),
    data=st.data(),
)
def test_a_strip_loses_no_frame(labels, numbers, data):
    bad = data.draw(st.sets(st.sampled_from(sorted(numbers)), max_size=5)) if numbers else set()
    pictures = Pictures(np.zeros((0, 32), np.uint8), dict.fromkeys(bad, "is empty"), 0, {})
    array = np.array(labels, np.int8)
    check = check_video("v", "train", array, np.array(sorted(numbers), np.int32), pictures)
    length = max(len(labels), max(numbers, default=0))
    assert check.strip.shape == (min(length, STRIP_LENGTH), len(STATES))
    if not length:
        return
    starts = [part * length // len(check.strip) for part in range(len(check.strip))] + [length]
    for part, shares in enumerate(check.strip):
        frames = range(starts[part] + 1, starts[part + 1] + 1)
        labelled = {f for f in frames if f <= len(labels) and labels[f - 1] >= 0}
        there, broken = numbers & set(frames), bad & set(frames)
        expected = [
            len((labelled & there) - broken),
            len(labelled - there),
            len(there - labelled),
            len(broken),
        ]
        np.testing.assert_array_equal(shares > 0, np.array(expected) > 0)
        np.testing.assert_allclose(shares / 255, np.array(expected) / len(frames), atol=1 / 255)
    assert check.labels_without_image == sum(
        label >= 0 and frame not in numbers for frame, label in enumerate(labels, 1)
    )
    assert check.images_without_label == sum(
        number > len(labels) or labels[number - 1] < 0 for number in numbers
    )


def test_one_missing_frame_of_many_shows_in_the_strip():
    labels = np.zeros(240 * 1000, np.int8)
    numbers = np.delete(np.arange(1, len(labels) + 1, dtype=np.int32), 12_345)
    strip = check_video("v", "train", labels, numbers, Pictures.none()).strip
    assert np.flatnonzero(strip[:, STATES.index("no picture")]).tolist() == [12]
    assert (strip[:, STATES.index("labelled")] >= 254).all()


def test_the_reports_agree(tree, tmp_path, capsys):
    for name in ("corrupted", "gap", "leak", "no folder"):
        PLANTED[name][0](tree) if name != "no folder" else _labels("4", ALL)(tree)
    out = tmp_path / "report"
    assert main(["doctor", str(tree), "--out", str(out)]) == 1
    text = capsys.readouterr().out
    report = json.loads((out / "doctor.json").read_text())
    assert report["failed"]
    page = (out / "doctor.html").read_text()
    for finding in report["findings"]:
        assert finding["message"] in text
        assert finding["where"] in page
        assert KINDS[finding["kind"]].title in page
    assert report["splits"]["train"]["labels"] == 8 * 3
    assert "1-30-1280x720" in page
    assert main(["doctor", str(tree), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    for one in (printed, report):
        del one["seconds"]
    assert printed == report


class _Page(html.parser.HTMLParser):
    """Notes what an HTML file would load, and whether its tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_whole_file(tree, tmp_path):
    _labels("<b>&", [0, 99])(tree)
    for i in range(40):
        _labels(f"many{i}", [0, 1])(tree)
    path = tmp_path / "doctor.html"
    write_page(path, examine(tree))
    page = _Page()
    page.feed(path.read_text())
    assert page.open == []
    assert len(page.sources) == 4 + 1 + 40
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "<b>&</b>" not in path.read_text()
    assert "&lt;b&gt;&amp;" in path.read_text()
    assert "http" not in path.read_text()


def test_names_that_are_no_text(tree, tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")
    try:
        _labels(name, [0, "x"])(tree)
    except OSError:
        pytest.skip("this file system takes text only")
    assert main(["doctor", str(tree), "--out", str(tmp_path / "out")]) == 1
    assert "caf?: line 3" in capsys.readouterr().out
    assert "caf?" in (tmp_path / "out" / "doctor.html").read_text()
    findings = json.loads((tmp_path / "out" / "doctor.json").read_text())["findings"]
    assert name in {finding["where"] for finding in findings}


def test_a_text_of_many_findings_stays_short(tree):
    for i in range(40):
        _labels(f"many{i}", [0, "x"])(tree)
    text = report_text(examine(tree))
    assert "and 32 more in doctor.json" in text
    assert text.count("many") < 40


def test_a_tree_without_pictures_or_labels(tmp_path):
    write_frames(tmp_path, "1", [1, 2])
    examination = examine(tmp_path)
    assert not examination.failed
    text = report_text(examination)
    assert "no annotation of train is there" in text
    write_page(tmp_path / "doctor.html", examination)
    assert "There is no label to count" in (tmp_path / "doctor.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["{root}/nowhere"], 1, "is no folder"),
        (["{root}"], 1, "nothing of Aff-Wild2 is in it"),
        (["{root}", "--workers", "0"], 2, "--workers 0 decodes nothing"),
        (["{root}", "--crops", "none"], 2, "--crops"),
    ],
)
def test_wrong_use_is_said_in_one_line(tmp_path, capsys, arguments, code, match):
    assert main(["doctor", *(one.format(root=tmp_path) for one in arguments)]) == code
    error = capsys.readouterr().err
    assert match in error
    assert "Traceback" not in error


def test_shares_are_never_rounded_to_nothing_or_all():
    assert percent(0, 10) == "0.0 %"
    assert percent(1, 100_000) == "<0.1 %"
    assert percent(99_999, 100_000) == ">99.9 %"
    assert percent(10, 10) == "100.0 %"
    assert percent(0, 0) == "0.0 %"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert len(LABELS) == 8
