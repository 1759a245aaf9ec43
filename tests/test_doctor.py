import shutil
import tracemalloc

import numpy as np
import pytest
from affwild2_faults import PLANTED, clean_tree, copy_video, corrupt, frames_of
from affwild2_trees import CHALLENGE, HEADER, write_frames, write_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.cli.main import main
from fer_jax.data.doctor import examine
from fer_jax.data.doctor_counts import STATES, STRIP_LENGTH, check_video
from fer_jax.data.doctor_findings import KINDS, SEVERITIES
from fer_jax.data.doctor_pictures import Pictures
from fer_jax.data.doctor_report import as_dict
from fer_jax.errors import FerJaxError


@pytest.fixture
def tree(tmp_path):
    return clean_tree(tmp_path / "affwild2")


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
    # Nothing in these trees is a face: tests/test_affwild2_end_to_end.py plants what is none.
    assert found == set(KINDS) - {"non_face"}
    assert {kind.severity for kind in KINDS.values()} == set(SEVERITIES)


def test_findings_say_how_many_and_where(tree):
    copy_video(tree)
    corrupt(tree)
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
    frames_of("3", [20])(tree)
    assert "8 labels, but pictures up to number 20" in _finding(tree, "beyond_labels").message


def test_names_only_opens_nothing(tree):
    corrupt(tree)
    picture = tree / "cropped_aligned" / "3" / "00001.jpg"
    picture.write_bytes(b"")
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
    pictures = Pictures(np.zeros((0, 32), np.uint8), dict.fromkeys(bad, "is empty"), 0, {}, {})
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


def test_one_absurd_number_does_not_fill_the_memory():
    """Nine digits are the most that a name may have."""
    labels = np.array([3, -1, 3, 0, 5], np.int8)
    numbers = np.array([0, 1, 2, 4, 6, 20_230_101, 999_999_999], np.int32)
    pictures = Pictures(np.zeros((0, 32), np.uint8), {999_999_999: "is empty"}, 0, {}, {})
    tracemalloc.start()
    check = check_video("v", "train", labels, numbers, pictures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert check.labels.tolist() == [1, 0, 0, 2, 0, 1, 0, 0]
    assert check.pictured.tolist() == [1, 0, 0, 1, 0, 0, 0, 0]  # frames 1 and 4
    assert check.images_without_label == 5  # frames 0, 2, 6 and the two absurd ones
    assert (check.images, check.first_image, check.last_image) == (7, 0, 999_999_999)
    # Of 1,005 frames a part of the strip has four: the first holds frames 1 to 4.
    assert check.strip.shape == (STRIP_LENGTH, len(STATES))
    np.testing.assert_array_equal(check.strip[0], [128, 64, 64, 0])
