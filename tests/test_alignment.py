"""Alignment against least squares in float64, known moves, and a filter that never aliases."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fer_jax.data.face_drawing.anatomy import face_points
from fer_jax.data.face_drawing.features import draw_face
from fer_jax.data.face_drawing.parameters import sample_pose, sample_scene
from fer_jax.data.synthetic import sample_expression, synthetic_identity
from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import (
    TEMPLATE,
    align,
    aligned_side,
    alignment_error,
    similarity,
    template,
    template_name,
    transform,
)
from fer_jax.faces.detector import Detector

COORDINATES = st.floats(-2000, 2000, width=32)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=5, max_size=5)


def move(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The 2x3 matrix of a turn by `angle` radians, a scale and a shift."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([(c, -s, shift[0]), (s, c, shift[1])])


def least_squares(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of (a, b, tx, ty) in x' = a x - b y + tx, y' = b x + a y + ty, by lstsq on ten equations."""
    zero, one = np.zeros(len(points)), np.ones(len(points))
    x, y = points.T
    rows = np.stack([np.stack([x, -y, one, zero]), np.stack([y, x, zero, one])])
    rows = rows.transpose(2, 0, 1).reshape(-1, 4)
    a, b, tx, ty = np.linalg.lstsq(rows, targets.ravel(), rcond=None)[0]
    return np.array([(a, -b, tx), (b, a, ty)])


def test_template_is_arcface():
    """The numbers of ArcFace, and of the model card of Aff-Wild2's aligned faces."""
    expected = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366)]
    expected += [(41.5493, 92.3655), (70.7299, 92.2041)]
    np.testing.assert_array_equal(TEMPLATE, expected)
    np.testing.assert_allclose(template(112), expected, atol=1e-12)
    assert template_name(112) == "arcface_112"
    assert template_name(224) == "arcface_224"
    # At twice the size pixel 0 covers what pixels 0 and 1 cover: its middle is at 0.5.
    np.testing.assert_allclose(template(224), np.array(expected) * 2 + 0.5, atol=1e-12)


@settings(deadline=None)
@given(points=POINTS)
def test_similarity_is_the_least_squares_solution(points):
    points = np.array(points, np.float64)
    assume(np.ptp(points, axis=0).max() > 1)
    expected = least_squares(points, TEMPLATE)
    try:
        matrix = similarity(points, TEMPLATE)
    except FerJaxError:
        spread = np.hypot(*(points - points.mean(axis=0)).T)
        # Points that fit a mirrored face best: the best factor is about zero.
        assert np.hypot(expected[0, 0], expected[1, 0]) * np.linalg.norm(spread) < 0.1
        return
    np.testing.assert_allclose(matrix, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@settings(deadline=None)
@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.02, 50),
    x=st.floats(-5000, 5000),
    y=st.floats(-5000, 5000),
)
def test_known_moves_are_recovered(angle, scale, x, y):
    known = move(angle, scale, (x, y))
    points = transform(known, TEMPLATE)
    np.testing.assert_allclose(similarity(TEMPLATE, points), known, rtol=1e-9, atol=1e-8)
    back = similarity(points, TEMPLATE)
    np.testing.assert_allclose(transform(back, points), TEMPLATE, atol=1e-8)
    assert aligned_side(points) == pytest.approx(112 * scale, rel=1e-9)
    assert alignment_error(points) < 1e-9


def test_a_mirrored_face_is_not_mirrored_back():
    mirrored = np.array([112, 0]) + TEMPLATE * np.array([-1, 1])
    matrix = similarity(mirrored, TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0
    assert alignment_error(mirrored) > 0.5
    assert alignment_error(mirrored[[1, 0, 2, 4, 3]]) < 0.02


def test_alignment_error_by_hand():
    """An eye that is moved takes the mean, the turn and the scale along."""
    points = TEMPLATE.copy()
    points[0] += 3.0
    moved = transform(least_squares(points, TEMPLATE), points) - TEMPLATE
    distance = np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
    expected = np.sqrt((moved**2).sum() / 5) / distance
    assert alignment_error(points) == pytest.approx(expected, rel=1e-9)
    assert 0.01 < expected < 0.1


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.full((5, 2), 77.7),
        np.full((5, 2), np.nan),
        np.array([[0, 0], [1, 1], [2, 2], [np.inf, 0], [3, 3]]),
    ],
)
def test_points_that_cannot_be_aligned_are_refused(points):
    image = np.zeros((50, 50, 3), np.uint8)
    for call in (lambda: align(image, points), lambda: aligned_side(points)):
        with pytest.raises(FerJaxError, match="cannot be aligned"):
            call()


def test_an_aligned_face_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    np.testing.assert_array_equal(align(image, TEMPLATE), image)


def test_shift_and_half_turn_are_exact():
    image = np.random.default_rng(1).integers(0, 256, (150, 160, 3), np.uint8)
    face = align(image, TEMPLATE + np.array([30, 25]))
    np.testing.assert_array_equal(face, image[25:137, 30:142])
    turned = np.array([111.0, 111.0]) - TEMPLATE
    np.testing.assert_array_equal(align(image[:112, :112], turned), image[111::-1, 111::-1])


def test_outside_the_picture_is_black():
    image = np.full((112, 112, 3), 200, np.uint8)
    face = align(image, TEMPLATE - np.array([40, 0]))
    assert (face[:, :40] == 0).all()
    assert (face[:, 40:] == 200).all()


@pytest.mark.parametrize("factor", [2, 3, 4, 7, 8])
def test_shrinking_by_a_whole_factor_is_the_mean_of_blocks(factor):
    rng = np.random.default_rng(factor)
    image = rng.integers(0, 256, (112 * factor, 112 * factor, 3), np.uint8)
    blocks = image.reshape(112, factor, 112, factor, 3).astype(np.float64).mean(axis=(1, 3))
    face = align(image, template(112 * factor))
    # Rounding alone; seen: 0.5.
    assert np.abs(face - blocks).max() <= 1.0


@pytest.mark.parametrize("scale", [1.3, 2.0, 2.7, 5.5, 9.0, 31.0])
@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_that_are_too_fine_turn_grey(scale, angle, axis):
    """Stripes of one pixel: sampled without a filter they would show false patterns."""
    side = int(150 * scale)
    image = np.zeros((side, side, 3), np.uint8)
    image[(slice(None), slice(None, None, 2)) if axis else slice(None, None, 2)] = 255
    known = move(angle, scale, (0.0, 0.0))
    known[:, 2] = side / 2 - known[:, :2] @ np.array([55.5, 55.5]) + 0.3
    face = align(image, transform(known, TEMPLATE)).astype(np.float64)
    # The mean of an area lets through |sin(pi f) / (pi f)| of f pairs of stripes, f = scale / 2.
    assert np.abs(face[8:-8, 8:-8] - 127.5).max() < 127.5 / (np.pi * scale / 2) + 2


def test_detail_that_fits_is_kept():
    """Stripes of eight pixels, at a third of the size: the filter is no blur."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[:, np.arange(400) // 12 % 2 == 0] = 255
    face = align(image, transform(move(0.0, 3.0, (10.0, 10.0)), TEMPLATE))
    assert (face < 10).mean() > 0.4
    assert (face > 245).mean() > 0.4


@pytest.mark.parametrize("scale", [0.8, 2.5, 12.0])
def test_a_dot_lands_where_the_points_say(scale):
    """Whatever way the scale takes: enlarged, sampled, or shrunk before."""
    known = move(0.3, scale, (70.0 * scale, 5.0 * scale))
    side = int(200 * scale)
    y, x = np.mgrid[:side, :side]
    for target in ((30.0, 40.0), (80.0, 70.0)):
        at = transform(known, np.array([target]))[0]
        dot = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * (3 * scale) ** 2))
        image = np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2)
        face = align(image, transform(known, TEMPLATE))[..., 0].astype(np.float64)
        rows, columns = np.mgrid[:112, :112]
        found = (face * columns).sum() / face.sum(), (face * rows).sum() / face.sum()
        assert np.hypot(*np.subtract(found, target)) < 0.02  # seen: 0.005


def test_picture_that_is_wider_than_opencv_can_warp():
    image = np.zeros((200, 40_000, 3), np.uint8)
    image[:, 38_000:] = 200
    face = align(image, TEMPLATE + np.array([38_000 - 56, 20]))
    assert (face[:, :50] == 0).all()
    assert (face[:, 62:] == 200).all()


def test_twice_the_size_is_twice_the_resolution():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (900, 900, 3), np.uint8), (0, 0), 6)
    points = transform(move(0.2, 4.4, (250.0, 120.0)), TEMPLATE)
    small, large = align(image, points), align(image, points, 224)
    halved = large.reshape(112, 2, 112, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).max() < 2.5  # seen: 1.3; half a pixel's shift makes 6


def test_drawn_faces_are_aligned_to_the_template():
    """The points of the drawing are known; the detector's are near them (in pixels of 112)."""
    detector, apart = Detector(), []
    for subject in range(12):
        rng = np.random.default_rng(subject)
        expression = sample_expression("Neutral", rng)
        pose, scene = sample_pose(rng), sample_scene(rng)
        identity = synthetic_identity(0, subject)
        picture = draw_face(identity, expression, pose, scene, rng, 224)
        truth = face_points(identity, expression, pose, size=224)
        # The drawn points themselves fit the template but for pose and anatomy.
        assert alignment_error(truth) < 0.25
        faces = detector(picture)
        assert len(faces) == 1
        assert alignment_error(faces.points[0]) < 0.25
        by_detector = transform(similarity(faces.points[0], TEMPLATE), truth)
        by_truth = transform(similarity(truth, TEMPLATE), truth)
        apart.append(np.hypot(*(by_detector - by_truth).T).mean())
    print(np.round(apart, 1))
    assert np.median(apart) < 3
    assert max(apart) < 6
