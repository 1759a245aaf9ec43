"""Drawn people in motion: expressions that last, heads that move, faces cut from frames."""

import dataclasses

import cv2
import numpy as np
import pytest
from mini_trees import (
    TEMPLATE,
    alike,
    face_detector,
    find_faces,
)

from fer_jax.data.face_drawing.features import draw_face
from fer_jax.data.face_drawing.film import Actor, Film, frame_points
from fer_jax.data.face_drawing.motion import Absence, move, perform, sample_spans
from fer_jax.data.face_drawing.parameters import Expression, Pose, Scene
from fer_jax.data.synthetic import synthetic_identity


@pytest.mark.parametrize("fps", [24.0, 29.97])
def test_spans_last_from_half_a_second_to_three(fps):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        frames = int(rng.integers(24, 400))
        spans = sample_spans(rng, frames, fps)
        assert spans.sum() == frames
        assert spans.max() <= 3 * fps
        assert len(spans) == 1 or spans.min() >= round(0.5 * fps)


def test_expressions_persist_and_change_smoothly_in_the_middle_of_the_change():
    smile, gape = Expression(lip_corner_pull=1.0), Expression(jaw_drop=1.0)
    spans, fps = np.array([30, 40, 25]), 25.0
    played = perform([smile, gape, smile], spans, fps, np.random.default_rng(0))
    pull = np.array([e.lip_corner_pull for e in played])
    drop = np.array([e.jaw_drop for e in played])
    assert len(played) == 95
    # The label's turn is the expression's: 30 is the first frame of the second span.
    assert pull[29] > drop[29]
    assert drop[30] > pull[30]
    assert pull[:24].min() > 0.75
    assert drop[36:64].min() > 0.75
    assert pull[36:64].max() == 0
    # A change takes 0.28 s; the steepest step of its curve is 1.5 / 7 frames.
    assert np.abs(np.diff(pull)).max() < 0.23
    lids = np.array([e.blink_left for e in perform([smile], np.array([500]), fps, _rng(1))])
    assert 4 < (np.diff((lids > 0.5).astype(int)) == 1).sum() < 16
    assert 0.02 < (lids > 0.5).mean() < 0.2


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_heads_move_smoothly_and_leave_when_they_are_told_to():
    room = {"aspect": 4 / 3, "centre": 0.5, "reach": 0.12, "scales": (0.4, 0.6)}
    absences = [Absence(30, 40, turned=False), Absence(120, 40, turned=True)]
    poses, turned = move(200, 25.0, _rng(0), **room, absences=absences)
    # Centre of the face as a share of the frame's width.
    x = (np.array([pose.x for pose in poses]) + 56) / 112 / room["aspect"]
    yaw = np.array([pose.yaw for pose in poses])
    scale = np.array([pose.scale for pose in poses])
    assert ((x < -0.1) | (x > 1.1))[45:55].all()
    assert (np.abs(x - 0.5) < 0.2)[[*range(30), *range(71, 200)]].all()
    assert np.flatnonzero(turned).min() > 125
    assert np.flatnonzero(turned).max() < 160
    assert turned[135:145].all()
    assert np.abs(yaw[turned]).min() > 40
    assert 0.4 <= scale.min() < scale.max() <= 0.6
    quiet = np.r_[0:30, 71:120, 161:200]
    assert np.abs(np.diff(yaw))[quiet[:-1]].max() < 6
    assert np.ptp(yaw[quiet]) > 8


def test_an_aligned_face_has_its_points_on_the_template_and_frames_are_half_the_plate():
    film = Film(Scene(), 320, 240)
    actor = Actor(synthetic_identity(0, 0), Expression(), Pose(roll=12, x=15, y=4, scale=0.5))
    points = frame_points(actor, 240)
    plate = np.zeros((480, 640, 3), np.uint8)
    for x, y in points:
        # A spot of the frame is twice as far from the plate's corner, not from its first centre.
        cv2.circle(plate, (round(2 * x + 0.5), round(2 * y + 0.5)), 3, (255, 255, 255), -1)
    face = film.aligned_face(plate, points, _rng(0)).astype(float).mean(-1)
    frame = film.frame(plate, _rng(0)).astype(float).mean(-1)
    assert frame.shape == (240, 320)
    for (tx, ty), (fx, fy) in zip(TEMPLATE, points, strict=True):
        for picture, x, y in ((face, tx, ty), (frame, fx, fy)):
            rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
            near = picture * (np.hypot(columns - x, rows - y) < 8)
            # The five points of a person are not quite those of the template: up to 2 pixels.
            assert np.hypot((near * columns).sum() / near.sum() - x, 0) < 2.2
            assert np.hypot((near * rows).sum() / near.sum() - y, 0) < 2.2
    # The aligned face of a drawn person is the drawn face: compare with one drawn alone.
    upright = dataclasses.replace(actor, pose=Pose(x=15, y=4, scale=0.5))
    crop = film.aligned_face(film.expose([upright]), frame_points(upright, 240), _rng(0))
    assert alike(crop[30:100, 25:87], _drawn_alone(upright)[30:100, 25:87]) > 0.95


def _drawn_alone(actor: Actor) -> np.ndarray:
    return draw_face(actor.identity, actor.expression, Pose(), Scene(), _rng(0))


def test_someone_seen_from_behind_has_no_face_and_someone_before_hides_someone_behind():
    film = Film(Scene(seed=3), 320, 240)
    who, other = synthetic_identity(0, 1), synthetic_identity(0, 2)
    pose = Pose(x=18, scale=0.5)
    front = film.expose([Actor(who, Expression(), pose)])
    behind = film.expose([Actor(who, Expression(), pose, turned=True)])
    detector = face_detector()
    assert find_faces(detector, film.frame(front, _rng(0)))[:, 14].max() > 0.8
    assert (find_faces(detector, film.frame(behind, _rng(0)))[:, 14] < 0.5).all()
    both = film.expose([Actor(other, Expression(), pose), Actor(who, Expression(), pose)])
    x, y = (2 * frame_points(Actor(who, Expression(), pose), 240)[2]).astype(int)
    inner = (slice(y - 30, y + 30), slice(x - 30, x + 30))
    assert alike(both[inner], front[inner]) > 0.98
    # The light of a head stays on people: beside a bald one the backdrop is as it was.
    bald = film.expose([Actor(dataclasses.replace(who, hair_style="bald"), Expression(), pose)])
    beside = (slice(y - 40, y + 20), slice(x - 136, x - 121))
    np.testing.assert_array_equal(bald[beside], film.expose([])[beside])
    assert not np.array_equal(bald[inner], film.expose([])[inner])
