"""The head on which a face is drawn, and its way into the picture.

The head's frame is that of the aligned 112 x 112 face: x to the image's right, y down, z toward
the viewer, in pixels, with the origin in the middle of the head. A face without expression and
pose has its eyes, nose tip and mouth corners on the five-point template (method of ArcFace).
"""

import functools

import numpy as np
from jaxtyping import Float

from fer_jax.data.face_drawing.parameters import Identity, Pose

TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
    np.float64,
)
"""Eyes, nose tip and mouth corners (left in the image first) in a 112 x 112 face: (x, y)."""

HEAD_AXES = (44.0, 62.0, 46.0)
EYE_X, EYE_Y, NOSE_Y, MOUTH_X, MOUTH_Y = 17.6, -18.4, 1.7, 14.6, 22.3


def depth(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Depth of the head's surface: z = c sqrt(1 - (x/a)^2 - (y/b)^2), 0 outside the ellipsoid."""
    a, b, c = HEAD_AXES
    return c * np.sqrt(np.maximum(1 - (x / a) ** 2 - (y / b) ** 2, 0))


class Projection:
    """From the head's frame to image pixels: turn, align on five points, then move in plane."""

    def __init__(self, identity: Identity, pose: Pose, size: int) -> None:
        yaw, pitch = np.deg2rad(pose.yaw), np.deg2rad(pose.pitch)
        sy, cy, sp, cp = np.sin(yaw), np.cos(yaw), np.sin(pitch), np.cos(pitch)
        surface = np.array([(cy, 0.0, sy), (-sy * sp, cp, cy * sp)])
        # The outline of a turned ellipsoid keeps its width; only what lies off its rim shifts.
        outline = np.array([(1.0, 0.0, sy), (0.0, 1.0, sp)])
        move = similarity(_lift(_rest_points(identity)) @ surface.T, TEMPLATE - 56)
        roll = pose.scale * np.exp(1j * np.deg2rad(pose.roll))
        turn, shift = move[0] * roll, move[1] * roll + complex(pose.x, pose.y) + (56 + 56j)
        plane = np.array([(turn.real, -turn.imag), (turn.imag, turn.real)]) * (size / 112)
        self.surface = plane @ surface
        self.outline = plane @ outline
        self.offset = np.array([shift.real, shift.imag]) * (size / 112)
        self.unit = abs(turn) * size / 112  # image pixels for one pixel of the head's frame

    def __call__(self, points: Float[np.ndarray, "n 3"], rim: bool) -> Float[np.ndarray, "n 2"]:
        """Projects points (x, y, height above the surface), or (x, y, z) of the rim."""
        if rim:
            return points @ self.outline.T + self.offset
        return _lift(points) @ self.surface.T + self.offset


@functools.lru_cache(maxsize=64)
def spline(points: int, closed: bool) -> Float[np.ndarray, "m n"]:
    """Matrix from control points to a Catmull-Rom curve through them (6 steps a segment).

    p(t) = 1/2 (1 t t^2 t^3) ((0 2 0 0) (-1 0 1 0) (2 -5 4 -1) (-1 3 -3 1)) (p0 p1 p2 p3)
    """
    steps = np.arange(6) / 6
    powers = np.stack([np.ones(6), steps, steps**2, steps**3], axis=1)
    basis = 0.5 * np.array([(0, 2, 0, 0), (-1, 0, 1, 0), (2, -5, 4, -1), (-1, 3, -3, 1)])
    segments = points if closed else points - 1
    matrix = np.zeros((6 * segments + (not closed), points))
    for segment in range(segments):
        for k in range(4):
            at = segment + k - 1
            at = at % points if closed else min(max(at, 0), points - 1)
            matrix[6 * segment : 6 * segment + 6, at] += powers @ basis[:, k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def similarity(
    points: Float[np.ndarray, "n 2"], targets: Float[np.ndarray, "n 2"]
) -> tuple[complex, complex]:
    """Least-squares a, b of target = a point + b in the complex plane (Umeyama, no reflection)."""
    p, t = points @ (1, 1j), targets @ (1, 1j)
    centred = p - p.mean()
    turn = np.vdot(centred, t - t.mean()) / np.vdot(centred, centred)
    return turn, t.mean() - turn * p.mean()


def _rest_points(identity: Identity) -> Float[np.ndarray, "5 3"]:
    eye_x, eye_y = EYE_X + identity.eye_distance, EYE_Y + identity.eye_line
    mouth_x, mouth_y = MOUTH_X * identity.mouth_width, MOUTH_Y + identity.mouth_height
    nose = NOSE_Y + identity.nose_length
    return np.array(
        [
            (-eye_x, eye_y, 0.5),
            (eye_x, eye_y, 0.5),
            (0.0, nose, 10.0),
            (-mouth_x, mouth_y, 1.0),
            (mouth_x, mouth_y, 1.0),
        ]
    )


def _lift(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Replaces the height above the head's surface by z."""
    lifted = points.copy()
    lifted[:, 2] += depth(points[:, 0], points[:, 1])
    return lifted
