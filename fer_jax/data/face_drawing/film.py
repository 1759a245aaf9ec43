"""Drawn people before one camera: whole frames of a film, and the faces cut out of them.

A frame is painted and lit at twice its size, on the plate. Frame and crops are both taken from the
plate, each with the camera's noise: so a crop shows what detection and alignment find in the frame,
as sharp as if the film had been shot at twice the size.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.data.face_drawing.anatomy import face_points
from fer_jax.data.face_drawing.brush import Brush
from fer_jax.data.face_drawing.camera import add_grain, background, lambert
from fer_jax.data.face_drawing.features import paint_from_behind, paint_person
from fer_jax.data.face_drawing.geometry import HEAD_AXES, TEMPLATE, similarity
from fer_jax.data.face_drawing.parameters import Expression, Identity, Pose, Scene

_SUPERSAMPLING = 2
_LIGHT_STEP = 20  # pixels of the plate for one cell of the light


@dataclasses.dataclass(frozen=True)
class Actor:
    """One person in one frame.

    Attributes:
        identity: who.
        expression: what the face does.
        pose: how the head is held; `Projection` of a square as high as the frame says where.
        turned: whether the back of the head is seen.
    """

    identity: Identity
    expression: Expression
    pose: Pose
    turned: bool = False


class Film:
    """A place that is filmed by a camera at rest, under a light that does not change.

    Args:
        scene: light, surroundings and camera; compression is left to those who store the pictures.
        width: pixels of a frame.
        height: pixels of a frame.
    """

    def __init__(self, scene: Scene, width: int, height: int) -> None:
        self.scene, self.width, self.height = scene, width, height
        size = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
        self._backdrop = background(scene, max(size))[: size[1], : size[0]].copy()
        patches = np.random.default_rng((scene.seed, 2)).normal(0, scene.unevenness, (4, 5))
        cells = (size[0] // _LIGHT_STEP, size[1] // _LIGHT_STEP)
        self._patches = cv2.resize(np.exp(patches).astype(np.float32), cells)
        self._lit_backdrop = self._lit(self._backdrop, [])

    def expose(self, actors: list[Actor]) -> UInt8[np.ndarray, "rows columns 3"]:
        """Paints and lights a frame at twice its size, RGB; the first actor stands behind."""
        plate = self._backdrop.copy()
        brushes = [
            Brush(plate, actor.identity, actor.expression, actor.pose, self.scene)
            for actor in actors
        ]
        for actor, brush in zip(actors, brushes, strict=True):
            (paint_from_behind if actor.turned else paint_person)(brush)
        # The light of a head falls on people alone, or its halo would wander over the backdrop.
        people = cv2.cvtColor(cv2.absdiff(plate, self._backdrop), cv2.COLOR_RGB2GRAY)
        return cv2.copyTo(self._lit(plate, brushes), people, self._lit_backdrop.copy())

    def frame(
        self, plate: UInt8[np.ndarray, "rows columns 3"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The frame as the camera stores it."""
        size = (self.width, self.height)
        return self._develop(cv2.resize(plate, size, interpolation=cv2.INTER_AREA), rng)

    def aligned_face(
        self,
        plate: UInt8[np.ndarray, "rows columns 3"],
        points: Float[np.ndarray, "5 2"],
        rng: np.random.Generator,
        size: int = 112,
    ) -> UInt8[np.ndarray, "{size} {size} 3"]:
        """The face with its five points, in pixels of the frame, on the template."""
        fine = 2 * size
        turn, shift = similarity(_on_plate(points), _on_plate(TEMPLATE * (size / 112)))
        matrix = np.array([(turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag)])
        face = cv2.warpAffine(plate, matrix, (fine, fine), flags=cv2.INTER_LINEAR)
        return self._develop(cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA), rng)

    def loose_face(
        self,
        plate: UInt8[np.ndarray, "rows columns 3"],
        points: Float[np.ndarray, "5 2"],
        rng: np.random.Generator,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The upright box about a face and some of its surroundings, as large as in the frame."""
        eyes, mouth = points[:2].mean(0), points[3:].mean(0)
        reach = 1.75 * np.linalg.norm(mouth - eyes)
        x, y = 0.45 * eyes + 0.55 * mouth
        box = np.rint([x - 0.85 * reach, y - 1.15 * reach, x + 0.85 * reach, y + reach]).astype(int)
        left, top, right, bottom = np.clip(box, 0, (self.width, self.height) * 2)
        return self.frame(plate, rng)[top:bottom, left:right]

    def _lit(self, plate: np.ndarray, brushes: list[Brush]) -> np.ndarray:
        """The plate in the scene's light, as the camera's film takes it."""
        scene = self.scene
        if scene.grey:
            plate = cv2.cvtColor(cv2.cvtColor(plate, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        light = cv2.resize(self._light(brushes), plate.shape[1::-1])
        plate = cv2.multiply(plate, light, dtype=cv2.CV_8U)
        if scene.contrast != 1:
            level = 118 * (1 - scene.contrast)
            plate = cv2.addWeighted(plate, scene.contrast, plate, 0, level)
        return plate

    def _light(self, brushes: list[Brush]) -> Float[np.ndarray, "n m 3"]:
        """Each head is lit as an ellipsoid; away from the heads the light is even."""
        scene = self.scene
        columns, rows = self._patches.shape[1], self._patches.shape[0]
        light = np.full((rows, columns), scene.gain * (scene.ambient + 0.7 * (1 - scene.ambient)))
        for brush in brushes:
            projection = brush.projection
            x = (np.arange(columns) + 0.5) * _LIGHT_STEP - projection.offset[0]
            y = (np.arange(rows) + 0.5) * _LIGHT_STEP - projection.offset[1]
            u = x[None, :] / (projection.unit * HEAD_AXES[0])
            v = y[:, None] / (projection.unit * HEAD_AXES[1])
            near = np.clip(2.2 - (u * u + v * v), 0, 1)
            light = (1 - near) * light + near * lambert(scene, u, v)
        return (light[..., None] * self._patches[..., None] * scene.cast).astype(np.float32)

    def _develop(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.scene.blur > 0.25:
            picture = cv2.GaussianBlur(picture, (0, 0), self.scene.blur)
        if self.scene.noise > 0:
            grainy = add_grain(picture.astype(np.float32), self.scene.noise, rng)
            picture = cv2.convertScaleAbs(cv2.max(grainy, 0))
        return picture


def frame_points(actor: Actor, height: int) -> Float[np.ndarray, "5 2"]:
    """The five points of a face, (x, y) in pixels of a frame; they may lie outside of it."""
    return face_points(actor.identity, actor.expression, actor.pose, size=height)


def _on_plate(points: np.ndarray) -> np.ndarray:
    """Pixel centres lie at whole numbers for OpenCV, so twice the size is not twice the number."""
    return _SUPERSAMPLING * points + 0.5
