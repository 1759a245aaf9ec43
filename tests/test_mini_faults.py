"""Faults planted in a mini Aff-Wild2: all that a search of the disk finds is on the record."""

import collections
import hashlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from mini_trees import (
    HEADER,
    alike,
    annotations_of,
    crops_of,
    decode,
    everything_in,
    face_detector,
    find_faces,
    lines_of,
    marked,
    picture_of,
    sharpness_of,
    smallest_in,
    stem_of,
)

from fer_jax.data.mini_affwild2 import (
    FAULTS,
    HARD_FAULTS,
    SOFT_FAULTS,
    Mark,
    Planted,
)
from fer_jax.data.mini_faults import Reel, draw_non_face, plant
from fer_jax.data.mini_plan import plan_videos


@pytest.fixture
def everything(tmp_path_factory) -> tuple[Path, Planted]:
    return everything_in(tmp_path_factory.getbasetemp())


@pytest.fixture
def smallest(tmp_path_factory) -> tuple[Path, Planted]:
    return smallest_in(tmp_path_factory.getbasetemp())


def test_faces_are_found_in_crops_and_frames_and_not_in_what_is_no_face(everything):
    root, planted = everything
    detector = face_detector()
    bad = marked(planted, "corrupt_image", "non_face", "blurred", "low_resolution")
    for video in planted.videos:
        if not video.crops:
            continue
        for number, path in list(crops_of(root)[video.name].items())[::6]:
            if (video.name, number) not in bad:
                assert (
                    find_faces(detector, picture_of(path)[..., ::-1].copy())[:, 14].max() > 0.6
                ), path
    for name, number in marked(planted, "non_face"):
        picture = picture_of(crops_of(root)[name][number])[..., ::-1].copy()
        for border in (0, 28):
            padded = cv2.copyMakeBorder(picture, *(border,) * 4, cv2.BORDER_CONSTANT)
            assert (find_faces(detector, padded)[:, 14] < 0.5).all()
    points = np.load(root / "planted_points.npz")
    for video in planted.videos[::3]:
        for at, frame in list(zip(points[video.name], decode(root / video.file), strict=True))[::9]:
            if np.isnan(at).any():
                continue
            found = find_faces(detector, frame)
            found = found[found[:, 14] > 0.6, 4:14].reshape(-1, 5, 2)
            errors = np.linalg.norm(found - at, axis=-1).mean(-1) / np.linalg.norm(at[1] - at[0])
            # Measured 0.10 of the eyes' distance in the median, 0.27 at most.
            assert errors.min() < 0.4


def test_non_faces_are_as_sharp_as_faces(everything):
    rng = np.random.default_rng(0)
    assert min(sharpness_of(draw_non_face(rng, objects=k % 7)) for k in range(20)) > 200


def test_every_planted_image_is_what_its_mark_says(everything):
    root, planted = everything
    crops = crops_of(root)
    assert planted.skipped == ()
    assert set(planted.faults) == set(FAULTS)
    damaged = [
        (mark.video, mark.frame)
        for kind in SOFT_FAULTS[2:-1]
        for mark in planted.faults[kind]
        if mark.frame
    ]
    assert len(damaged) == len(set(damaged)), "two faults on one frame"
    broken = set()
    for name, frames in crops.items():
        for number, path in frames.items():
            try:
                PIL.Image.open(path).load()
            except OSError:
                broken.add((name, number))
    assert broken == marked(planted, "corrupt_image")
    assert {m.detail for m in planted.faults["corrupt_image"]} >= {"truncated", "an empty file"}
    clean = [
        sharpness_of(picture_of(path))
        for name, frames in crops.items()
        for number, path in frames.items()
        if (name, number) not in damaged
    ]
    soft = [
        sharpness_of(picture_of(crops[name][number]))
        for name, number in marked(planted, "blurred", "low_resolution")
    ]
    # Measured: 34 at most against 185 at least; in a tree of 40 videos 37 against 73.
    assert max(soft) < 0.6 * min(clean)
    for mark in planted.faults["low_resolution"]:
        side = int(mark.detail.split()[0])
        picture = picture_of(crops[mark.video][mark.frame])
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        again = cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC)
        # Nothing is lost by shrinking it once more.
        assert np.abs(again.astype(float) - picture).mean() < 4  # measured: 2.2 at most
    small_images = {
        (name, number)
        for name, frames in crops_of(root, "cropped").items()
        for number, path in frames.items()
        if picture_of(path).shape[1] < 40
    }
    assert small_images == marked(planted, "small_image")


def test_copies_between_videos_are_those_marked(everything):
    root, planted = everything
    places = collections.defaultdict(set)
    for name, frames in crops_of(root).items():
        for number, path in frames.items():
            if number and path.stat().st_size:
                places[hashlib.sha256(path.read_bytes()).hexdigest()].add((name, number))
    text = marked(planted, "corrupt_image")
    equal = {frozenset(same) for same in places.values() if len(same) > 1 and not same & text}
    assert equal == {
        frozenset({(m.video, m.frame), (m.other_video, m.other_frame)})
        for m in planted.faults["duplicate_image"]
    }
    # The frames beside a copied one are not it. Measured: 0.979 at most, where neighbours in a film
    # reach 0.995.
    broken = marked(planted, "corrupt_image")
    for mark in planted.faults["duplicate_image"]:
        original = picture_of(crops_of(root)[mark.other_video][mark.other_frame])
        for number, path in crops_of(root)[mark.other_video].items():
            if number != mark.other_frame and (mark.other_video, number) not in broken:
                assert alike(original, picture_of(path)) < 0.985
    (copy,) = planted.faults["copied_video"]
    split = {video.name: video.split for video in planted.videos}
    assert (split[copy.video], split[copy.other_video]) == ("validation", "train")
    frames, originals = crops_of(root)[copy.video], crops_of(root)[copy.other_video]
    assert set(frames) == set(originals)
    for number in list(frames)[::7]:
        assert frames[number].read_bytes() != originals[number].read_bytes()
        assert alike(picture_of(frames[number]), picture_of(originals[number])) > 0.99
    annotations = annotations_of(root)
    assert lines_of(annotations[copy.video][1]) == lines_of(annotations[copy.other_video][1])


def test_a_leak_puts_two_people_of_one_film_into_two_splits(everything, smallest):
    for root, planted in (everything, smallest):
        sides = collections.defaultdict(set)
        for name, (split, _) in annotations_of(root).items():
            sides[stem_of(name)].add(split)
        leaks = {stem for stem, splits in sides.items() if len(splits) > 1}
        assert leaks == {stem_of(mark.video) for mark in planted.faults.get("leak", ())}
    assert leaks == set(), "none was asked for"


def test_every_broken_annotation_is_what_its_mark_says(everything):
    root, planted = everything
    annotations, crops = annotations_of(root), crops_of(root)
    found = collections.defaultdict(set)
    labelled = {}
    for name, (_, path) in annotations.items():
        header, *rows = lines_of(path)
        labelled[name] = len(rows)
        if header != HEADER:
            assert sorted(header.split(",")) == sorted(HEADER.split(","))
            found["wrong_header"].add((name, 0))
        for number, row in enumerate(rows, 1):
            if not row.removeprefix("-").isdigit():
                found["malformed_line"].add((name, number))
            elif not -1 <= int(row) <= 7:
                found["label_out_of_range"].add((name, number))
        if name not in crops:
            found["no_crops"].add((name, 0))
        elif beyond := [number for number in crops[name] if number > len(rows)]:
            found["frames_beyond_labels"].add((name, min(beyond)))
            (mark,) = planted.faults["frames_beyond_labels"]
            assert mark.count == len(beyond)
    listed = set(
        (root / "Expression_Recognition_Challenge_test_set_release.txt").read_text().split()
    )
    for name, frames in crops.items():
        if name not in annotations and name not in listed:
            found["no_annotation"].add((name, 0))
        if 0 in frames:
            found["frame_zero"].add((name, 0))
        folder = next(iter(frames.values())).parent
        if len(list(folder.iterdir())) > len(frames):
            found["stranger_file"].add((name, 0))
    assert dict(found) == {kind: marked(planted, kind) for kind in HARD_FAULTS}


def test_without_faults_nothing_is_wrong(smallest):
    root, planted = smallest
    assert planted.faults == {}
    assert planted.skipped == ()
    for frames in crops_of(root).values():
        assert 0 not in frames
        for path in frames.values():
            assert sharpness_of(picture_of(path)) > 60
    assert set(crops_of(root)) >= set(annotations_of(root))


def test_what_finds_no_place_is_said_and_the_leak_always_does():
    plan = plan_videos(5, (24, 24), 0, leak=True, copy=True)
    reels = [
        Reel(person, video, Path("x"), Path("x"), None, [1, 2], [])
        for video in plan
        for person in video.people
    ]
    kinds = ("leak", "copied_video", "no_crops", "no_annotation")
    planted = plant(reels, kinds, np.random.default_rng(0))
    assert {kind: len(marks) for kind, marks in planted.items()} == dict(
        zip(kinds, (1, 0, 0, 0), strict=True)
    )


def test_marks_name_frames_of_the_video(everything):
    _, planted = everything
    frames = {video.name: video.frames for video in planted.videos}
    for marks in (*planted.faults.values(), *planted.traits.values()):
        for mark in marks:
            assert isinstance(mark, Mark)
            assert 0 <= mark.frame <= frames[mark.video] + 1
            assert not mark.other_video or mark.other_video in frames
