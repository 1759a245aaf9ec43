"""Faces followed between searches, against the motion that moved them."""

import cv2
import numpy as np
import pytest
from moving_faces import frame_of, motion, moving_frames, photo

from fer_jax.errors import FerJaxError
from fer_jax.faces.detector import Detector
from fer_jax.faces.following import Follower


class CountingDetector(Detector):
    """Says how often it was asked."""

    calls = coarse = 0

    def __call__(self, image, *, coarse=False):
        self.calls += 1
        self.coarse += coarse
        return super().__call__(image, coarse=coarse)


@pytest.fixture(scope="module")
def frames():
    return moving_frames(30)


def _followed(frames, search_every):
    detector = CountingDetector(max_side=320)
    follower = Follower(detector, search_every=search_every)
    return [follower(frame.time_s, frame.image) for frame in frames], detector.calls


def test_one_search_in_so_many_and_one_face_throughout(frames):
    for every, searches in ((1, 30), (5, 6), (10, 3)):
        found, calls = _followed(frames, every)
        assert calls == searches
        assert [[face.face_id for face in faces] for faces in found] == [[0]] * 30


def test_points_move_as_the_picture_does(frames):
    found, _ = _followed(frames, 10)
    eyes = np.linalg.norm(found[0][0].points[1] - found[0][0].points[0])
    for index, faces in enumerate(found):
        searched = index // 10 * 10
        at_search, now = (np.vstack([motion(i), [0, 0, 1]]) for i in (searched, index))
        moved = (now @ np.linalg.inv(at_search))[:2]
        points = found[searched][0].points @ moved[:, :2].T + moved[:, 2]
        # Nine frames drift by 7 pixels; measured: 0.02 of the distance of the eyes at most.
        assert np.abs(faces[0].points - points).max() < 0.05 * eyes
        left, top, right, bottom = faces[0].box
        assert left < points[:, 0].min() < points[:, 0].max() < right
        assert top < points[:, 1].min() < points[:, 1].max() < bottom


def test_a_cut_is_searched_at_once_and_who_comes_back_keeps_the_number():
    frames = moving_frames(30, away=range(7, 15))
    found, calls = _followed(frames, 5)
    numbers = [[face.face_id for face in faces] for faces in found]
    # Gone in the very frame in which it goes, back in that in which it comes.
    assert numbers == [[0]] * 7 + [[]] * 8 + [[0]] * 15
    assert calls <= 8


def test_a_size_that_changes_is_searched(frames):
    follower = Follower(Detector(max_side=320), search_every=9)
    follower(0.0, frames[0].image)
    larger = np.repeat(np.repeat(frames[0].image, 2, axis=0), 2, axis=1)
    (face,) = follower(0.04, larger)
    assert face.box[2] - face.box[0] > 1.5 * 60
    # Also where both are shrunk to the same picture for the flow.
    big, bigger = (cv2.resize(frames[0].image, None, fx=scale, fy=scale) for scale in (2, 4))
    detector = CountingDetector(max_side=320)
    follower = Follower(detector, search_every=9)
    follower(0.0, big)
    (face,) = follower(0.04, bigger)
    assert detector.calls == 2
    assert face.box[2] - face.box[0] > 3 * 60


def test_two_faces_are_followed_apart():
    image = photo()
    pictures = []
    for index in range(12):
        left, right = (frame_of(image, motion(index, left=x)) for x in (-60.0, 110.0))
        pictures.append(np.concatenate([left[:, :150], right[:, 130:]], axis=1))
    follower = Follower(Detector(max_side=320), search_every=4)
    found = [follower(index / 25, picture) for index, picture in enumerate(pictures)]
    assert [len(faces) for faces in found] == [2] * 12
    sides = [[face.box[0] < 140 for face in faces] for faces in found]
    assert sides == [sides[0]] * 12
    assert sorted(sides[0]) == [False, True]


def test_a_number_of_frames_that_is_none_is_refused():
    with pytest.raises(FerJaxError, match="search_every=0 must be at least 1"):
        Follower(Detector(), search_every=0)


def test_a_face_that_flows_nowhere_is_lost(frames):
    """Flow always finds something in noise; the way back does not lead home."""
    rng = np.random.default_rng(0)
    detector = CountingDetector(max_side=320)
    follower = Follower(detector, search_every=30)
    assert len(follower(0.0, frames[0].image)) == 1
    noise = rng.integers(0, 256, frames[0].image.shape, dtype=np.uint8)
    assert follower(0.04, noise) == []
    assert detector.calls == 2


def test_large_faces_are_searched_coarsely_but_for_one_search_in_five(frames):
    detector = CountingDetector()
    whole, follower = Detector(), Follower(detector, search_every=2)
    for index, frame in enumerate(frames[:24]):
        image = cv2.resize(frame.image, None, fx=2, fy=2)
        (face,) = follower(frame.time_s, image)
        if index % 2 == 0:
            fine = whole(image)
            eyes = np.linalg.norm(fine.points[0, 1] - fine.points[0, 0])
            # Measured: 0.041 of the distance of the eyes at most.
            assert np.abs(face.points - fine.points[0]).max() < 0.07 * eyes
    assert (detector.calls, detector.coarse) == (12, 9)
    # Gone: a coarse search that does not find everybody again is followed by a whole one.
    assert follower(1.0, np.full_like(image, 90)) == []
    assert (detector.calls, detector.coarse) == (14, 10)
