"""The mini Aff-Wild2: layout, labels and films are recounted from the disk, by other means."""

import collections
import csv
import hashlib
import io
import json
from pathlib import Path

import cv2
import make_mini_affwild2
import numpy as np
import pytest
from mini_trees import (
    EVERYTHING,
    HEADER,
    alike,
    annotations_of,
    crops_of,
    decode,
    everything_in,
    films_of,
    lines_of,
    make,
    picture_of,
    smallest_in,
    stem_of,
    to_template,
)

from fer_jax.data import mini_affwild2
from fer_jax.data.mini_affwild2 import (
    Mark,
    Planted,
    read_planted,
    write_mini_affwild2,
)
from fer_jax.data.mini_filming import shoot
from fer_jax.data.mini_plan import plan_videos
from fer_jax.data.synthetic import synthetic_identity
from fer_jax.errors import FerJaxError


@pytest.fixture
def everything(tmp_path_factory) -> tuple[Path, Planted]:
    return everything_in(tmp_path_factory.getbasetemp())


@pytest.fixture
def smallest(tmp_path_factory) -> tuple[Path, Planted]:
    return smallest_in(tmp_path_factory.getbasetemp())


def test_the_layout_is_the_official_one(everything):
    root, planted = everything
    assert {path.name for path in root.iterdir()} == {
        "6th_ABAW_Annotations",
        "CVPR_6th_ABAW_Expr_test_set_sample.txt",
        "Expression_Recognition_Challenge_test_set_release.txt",
        "batch1",
        "batch2",
        "cropped",
        "cropped_aligned",
        "cropped_aligned_new_50_vids",
        "new_vids",
        "planted.json",
        "planted_points.npz",
    }
    annotations, crops, films = annotations_of(root), crops_of(root), films_of(root)
    listed = set(
        (root / "Expression_Recognition_Challenge_test_set_release.txt").read_text().split()
    )
    assert len(films) == 9
    assert {path.suffix for path in films.values()} == {".mp4", ".avi"}
    assert {stem_of(name) for name in {*annotations, *crops}} == set(films)
    assert set(crops_of(root, "cropped")) < set(crops)
    assert {split for split, _ in annotations.values()} == {"train", "validation"}
    assert listed
    assert not listed & set(annotations)
    # The record says what a recount finds.
    facts = {video.name: video for video in planted.videos}
    assert set(facts) == {*annotations, *crops}
    for name, video in facts.items():
        split = "test" if name in listed else annotations.get(name, ("",))[0]
        assert video.split == split
        assert root / video.file == films[stem_of(name)]
        assert video.labels == (
            len(lines_of(annotations[name][1])) - 1 if name in annotations else 0
        )
        assert video.images == len(crops.get(name, ()))
        assert bool(video.crops) == (name in crops)
        assert bool(video.loose) == (name in crops_of(root, "cropped"))
    assert read_planted(root) == planted


def test_crops_are_112_pixels_and_loose_ones_are_larger_than_a_face(smallest):
    root, _ = smallest
    sizes = collections.Counter(
        picture_of(path).shape for frames in crops_of(root).values() for path in frames.values()
    )
    assert set(sizes) == {(112, 112, 3)}
    loose = crops_of(root, "cropped")
    assert loose
    for name, frames in loose.items():
        assert set(frames) == set(crops_of(root)[name])
        shapes = {picture_of(path).shape for path in frames.values()}
        assert len(shapes) > 3, "a box follows the face's size"
        assert all(min(h, w) > 40 and max(h, w) <= 384 for h, w, _ in shapes)


def test_labels_are_one_an_image_number_and_often_one_more(smallest):
    root, planted = smallest
    more = {mark.video: mark.frame for mark in planted.traits["extra_label"]}
    seen, differences = set(), set()
    for name, (_, path) in annotations_of(root).items():
        header, *rows = lines_of(path)
        assert header == HEADER
        labels = [int(row) for row in rows]
        seen |= set(labels)
        frames = len(decode(films_of(root)[stem_of(name)]))
        differences.add(len(labels) - frames)
        assert (len(labels) > frames) == (name in more)
        assert more.get(name, frames + 1) == frames + 1
        # Expressions last: half a second but at the ends, where films and stretches of -1 cut.
        changes = np.flatnonzero(np.diff([label for label in labels if label >= 0])) + 1
        assert (np.diff(changes) >= 10).all()
        stretches = {
            frame
            for mark in planted.traits["unlabelled"]
            if mark.video == name
            for frame in range(mark.frame, mark.frame + mark.count)
        }
        unlabelled = {k for k, label in enumerate(labels, 1) if label == -1}
        assert unlabelled - {frames + 1} == stretches - {frames + 1}
    assert differences == {0, 1}
    assert -1 in seen
    assert len(seen) >= 6
    raw = [path.read_bytes() for _, path in annotations_of(root).values()]
    assert any(b"\r\n" in text for text in raw)
    assert any(b"\r\n" not in text for text in raw)
    assert any(text.endswith((b"\n\n", b"\r\n\r\n")) for text in raw)


def test_missing_frames_are_those_marked_and_the_face_is_mostly_out_of_sight(smallest):
    root, planted = smallest
    missing = collections.defaultdict(set)
    for mark in planted.traits["missing"]:
        missing[mark.video] |= set(range(mark.frame, mark.frame + mark.count))
    points = np.load(root / "planted_points.npz")
    out_of_sight = not_found = 0
    for name, frames in crops_of(root).items():
        total = len(decode(films_of(root)[stem_of(name)]))
        assert set(range(1, total + 1)) - set(frames) == missing[name]
        assert points[name].shape == (total, 5, 2)
        unseen = {k + 1 for k in np.flatnonzero(np.isnan(points[name]).any((1, 2)))}
        assert unseen <= missing[name]
        out_of_sight += len(unseen)
        not_found += len(missing[name] - unseen)
    assert out_of_sight > 5
    assert not_found < out_of_sight


def test_two_people_share_a_film_and_stand_on_their_sides(everything, smallest):
    for root, planted in (everything, smallest):
        pairs = [m for m in planted.traits["two_people"] if m.video.endswith("_left")]
        assert pairs
        points = np.load(root / "planted_points.npz")
        for mark in pairs:
            assert stem_of(mark.video) == stem_of(mark.other_video)
            assert stem_of(mark.video) in films_of(root)
            assert np.nanmax(points[mark.video][..., 0]) < np.nanmin(
                points[mark.other_video][..., 0]
            )


def test_a_crop_is_the_aligned_face_of_its_frame(smallest):
    root, planted = smallest
    points = np.load(root / "planted_points.npz")
    likeness, other_frames = [], []
    for video in planted.videos:
        film = decode(root / video.file)
        crops = crops_of(root)[video.name]
        for number in list(crops)[:: len(crops) // 6]:
            at = points[video.name][number - 1]
            face = cv2.warpAffine(film[number - 1], to_template(at), (112, 112))[..., ::-1]
            inner = (slice(24, 104), slice(20, 92))
            likeness.append(alike(face[inner], picture_of(crops[number])[inner]))
        numbers = sorted(crops)
        one, other = (picture_of(crops[numbers[k]]) for k in (0, -1))
        other_frames.append(alike(one, other))
    # Measured 0.95 to 1.00; what is lost is resolution and the error of the five points.
    assert min(likeness) > 0.9
    assert np.median(other_frames) < 0.8


def test_the_sample_has_a_row_for_each_frame_of_the_test_videos(everything):
    root, planted = everything
    names = (root / "Expression_Recognition_Challenge_test_set_release.txt").read_text().split()
    text = (root / "CVPR_6th_ABAW_Expr_test_set_sample.txt").read_text()
    header, *rows = csv.reader(io.StringIO(text))
    assert ",".join(header) == f"image_location,{HEADER}"
    locations = [location for location, label in rows if 0 <= int(label) <= 7]
    more = {mark.video for mark in planted.traits["extra_label"]}
    assert locations == [
        f"{name}/{k:05d}.jpg"
        for name in names
        for k in range(1, len(decode(films_of(root)[stem_of(name)])) + 1 + (name in more))
    ]
    assert all(set(crops_of(root)[name]) <= set(range(1, len(locations) + 1)) for name in names)


def _contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.suffix in (".jpg", ".txt", ".json")
    }


def test_the_seed_decides_every_byte(everything, tmp_path):
    root, _ = everything
    said = make(tmp_path / "again", *EVERYTHING)
    assert _contents(tmp_path / "again") == _contents(root)
    assert len(_contents(root)) > 200
    assert f"{sum(len(frames) for frames in crops_of(root).values())} aligned crops" in said
    assert "stranger_file: 1" in said
    assert "no place" not in said


def test_another_seed_gives_another_film_of_other_people(tmp_path):
    plan = plan_videos(5, (24, 24), 0, leak=False, copy=False)[-1]
    shots = [shoot(tmp_path / str(seed), plan, seed)[0] for seed in (3, 4)]
    assert not np.array_equal(shots[0].points, shots[1].points)
    one, other = (_contents(tmp_path / str(seed)) for seed in (3, 4))
    assert not set(one.values()) & set(other.values())
    assert synthetic_identity(3, 0) != synthetic_identity(4, 0)
    names = [
        {p.name for v in plan_videos(5, (24, 24), seed, leak=False, copy=False) for p in v.people}
        for seed in (3, 4)
    ]
    assert names[0] != names[1]


@pytest.mark.parametrize("videos", [5, 7, 8, 20, 40, 300])
def test_plans_of_all_sizes(videos):
    plan = plan_videos(videos, (60, 150), 0, leak=True, copy=True)
    people = [person for video in plan for person in video.people]
    splits = collections.Counter(person.split for person in people)
    assert set(splits) == {"train", "validation", "test"}
    assert splits["train"] >= 0.5 * len(people)
    assert len({person.name for person in people}) == len(people)
    copies = [video for video in plan if video.copied]
    assert len(copies) == (videos >= 8)
    assert len({p.subject for p in people}) == len(people) - len(copies)
    for video in plan:
        assert 60 <= video.frames <= 150
        for person in video.people:
            assert sum(length for _, length in person.spans) == video.frames
            assert len(person.labels) == video.frames + person.extra_label
    endings = {person.name.rpartition("_")[2] for person in people}
    assert {"left", "right"} <= endings
    names = {person.name for person in people}
    alone = {n for n in names if n.endswith("_left") and f"{stem_of(n)}_right" not in names}
    mixed = {n for n in names if f"{n}_right" in names}
    assert (len(alone), len(mixed)) == ((1, 1) if videos >= 20 else (0, 0))
    if videos >= 40:
        for split in ("train", "validation"):
            shown = {label for p in people if p.split == split for label in p.labels}
            assert shown >= set(range(8)), split


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"videos": 4}, "videos=4"),
        ({"frames": (10, 20)}, "frames=(10, 20)"),
        ({"frames": (60, 50)}, "frames=(60, 50)"),
        ({"seed": -1}, "seed=-1"),
        ({"faults": "some"}, "faults='some'"),
        ({"faults": ("leak", "moths")}, "faults='moths'"),
    ],
)
def test_impossible_wishes_are_refused_in_one_line(tmp_path, arguments, words):
    with pytest.raises(FerJaxError) as error:
        write_mini_affwild2(tmp_path / "mini", **arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(root, *_):
        (root / "batch1").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mini_affwild2, "shoot", fail)
    with pytest.raises(OSError, match="No space left"):
        write_mini_affwild2(tmp_path / "mini", videos=5, frames=(24, 24))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FerJaxError, match=r"holds no planted\.json"):
        write_mini_affwild2(tmp_path, videos=5, frames=(24, 24), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_record_that_is_none_is_refused_in_one_line(tmp_path):
    with pytest.raises(FerJaxError, match=r"planted\.json: cannot be read"):
        read_planted(tmp_path)
    (tmp_path / "planted.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(FerJaxError, match=r"planted\.json: cannot be read"):
        read_planted(tmp_path)


def test_the_tool_says_what_has_no_place_and_refuses(tmp_path, capsys, monkeypatch):
    record = Planted(0, (), {"leak": (Mark("a_left"),)}, {}, ("no_crops",))
    asked = []
    monkeypatch.setattr(
        make_mini_affwild2, "write_mini_affwild2", lambda *a, **k: asked.append((a, k)) or record
    )
    assert make_mini_affwild2.main(["mini", "--faults", "leak,no_crops", "--videos", "5"]) == 0
    assert make_mini_affwild2.main(["mini", "--no-faults", "--frames", "30", "40"]) == 0
    said = capsys.readouterr().out
    assert "leak: 1" in said
    assert "no place for: no_crops" in said
    assert asked[0][1]["faults"] == ["leak", "no_crops"]
    assert (asked[0][1]["videos"], asked[1][1]["frames"]) == (5, (30, 40))
    assert asked[1][1]["faults"] == "none"
    monkeypatch.undo()
    assert make_mini_affwild2.main([str(tmp_path / "mini"), "--faults", "moths"]) == 1
    assert "'moths'" in capsys.readouterr().err
