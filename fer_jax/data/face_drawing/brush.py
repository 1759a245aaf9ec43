"""The canvas of one face: projected control points, smooth curves, and shapes drawn from them."""

import cv2
import numpy as np

from fer_jax.data.face_drawing.anatomy import lay_out
from fer_jax.data.face_drawing.geometry import Projection, spline
from fer_jax.data.face_drawing.parameters import Expression, Identity, Pose, Scene

_FRACTION_BITS = 4  # OpenCV takes coordinates in 1/16 pixel
_SHADE_STEP = 4  # canvas pixels for one pixel of the layer of soft shadows
_NEUTRAL = 128


class Brush:
    """Draws features by name onto a canvas, whose height is the size of the aligned face's square.

    Attributes:
        canvas: uint8 [height, width, 3], RGB.
        unit: canvas pixels for one pixel of the aligned face.
        expression: what the face does, in the manner of the person.
        skin: colour, float64 [3].
        opening: gap between the lips, pixels of the aligned face.
    """

    def __init__(
        self,
        canvas: np.ndarray,
        identity: Identity,
        expression: Expression,
        pose: Pose,
        scene: Scene,
    ) -> None:
        self.canvas, self.identity, self.scene = canvas, identity, scene
        self.expression = identity.expressed(expression)
        self.projection = Projection(identity, pose, canvas.shape[0])
        self.unit = self.projection.unit
        self.skin = np.array(identity.skin)
        rows, columns = (-(-side // _SHADE_STEP) for side in canvas.shape[:2])
        self._shade = np.full((rows, columns, 3), _NEUTRAL, np.uint8)
        self._points: dict[str, np.ndarray] = {}
        shape = lay_out(identity, expression)
        self.opening = shape["lower_lip"][3][1] - shape["mouth_line"][3][1]
        for rim in (False, True):
            names = [name for name in shape if name.startswith("rim_") is rim]
            stacked = [point for name in names for point in shape[name]]
            projected = self.projection(np.array(stacked, np.float64), rim)
            start = 0
            for name in names:
                self._points[name] = projected[start : start + len(shape[name])]
                start += len(shape[name])

    def points(self, name: str) -> np.ndarray:
        """Control points of a feature, (x, y) in canvas pixels."""
        return self._points[name]

    def project(self, points: list, rim: bool = False) -> np.ndarray:
        """Projects further control points of the head's frame to canvas pixels."""
        return self.projection(np.array(points, np.float64), rim)

    def curve(self, name: str, closed: bool = True) -> np.ndarray:
        """A smooth curve through the control points of a feature."""
        points = self._points[name]
        return spline(len(points), closed) @ points

    def fill(self, outline: str | np.ndarray, colour: object) -> None:
        """Fills a feature, or a polygon of canvas pixels."""
        outline = self.curve(outline) if isinstance(outline, str) else outline
        fill(self.canvas, outline, colour)

    def line(self, curve: str | np.ndarray, colour: object, width: float) -> None:
        """Draws an open curve; `width` in pixels of the aligned face."""
        curve = self.curve(curve, closed=False) if isinstance(curve, str) else curve
        stroke(self.canvas, curve, colour, width * self.unit)

    def crease(self, curve: str | np.ndarray, amount: float, width: float = 1.0) -> None:
        """Draws a line in the skin, from invisible (0) to deep (1)."""
        if amount > 0.04:
            dark = self.skin * (0.52, 0.42, 0.4)
            amount = min(amount, 1.0)
            self.line(curve, (1 - amount) * self.skin + amount * dark, width)

    def disc(self, centre: np.ndarray, radius: float, colour: object) -> None:
        """Draws a filled circle; `radius` in pixels of the aligned face."""
        disc(self.canvas, centre, radius * self.unit, colour)

    def shade(self, centre: np.ndarray, axes: tuple[float, float], amount: float) -> None:
        """Lays a soft elliptic shadow (amount > 0) or highlight (< 0) on the skin."""
        middle = tuple(_fixed(centre / _SHADE_STEP).tolist())
        size = tuple(int(a * self.unit / _SHADE_STEP * 2**_FRACTION_BITS) for a in axes)
        cv2.ellipse(
            self._shade, middle, size, 0, 0, 360, _tone(amount), -1, cv2.LINE_AA, _FRACTION_BITS
        )

    def shade_curve(self, name: str, width: float, amount: float) -> None:
        """Lays a soft shadow along an open curve."""
        curve = self.curve(name, closed=False) / _SHADE_STEP
        stroke(self._shade, curve, _tone(amount), width * self.unit / _SHADE_STEP)

    def tint(self, outline: np.ndarray, factors: tuple[float, float, float]) -> None:
        """Multiplies the colours inside a polygon of canvas pixels, with soft edges."""
        fill(self._shade, outline / _SHADE_STEP, tuple(_NEUTRAL * f for f in factors))

    def apply_shades(self) -> None:
        """Multiplies the canvas by the blurred layer of shadows; what follows has none."""
        soft = cv2.GaussianBlur(self._shade, (0, 0), max(0.55 * self.unit, 0.4))
        soft = cv2.resize(soft, self.canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        cv2.multiply(self.canvas, soft, self.canvas, scale=1 / _NEUTRAL)


def fill(canvas: np.ndarray, outline: np.ndarray, colour: object) -> None:
    """Fills a polygon of (x, y) pixels with smooth edges."""
    cv2.fillPoly(canvas, [_fixed(outline)], _rgb(colour), cv2.LINE_AA, _FRACTION_BITS)


def stroke(canvas: np.ndarray, curve: np.ndarray, colour: object, width: float) -> None:
    """Draws a curve of (x, y) pixels, `width` pixels wide."""
    pixels = max(1, round(width))
    # OpenCV's smooth wide lines are slow, and the canvas is reduced afterwards anyway.
    kind = cv2.LINE_AA if pixels == 1 else cv2.LINE_8
    cv2.polylines(canvas, [_fixed(curve)], False, _rgb(colour), pixels, kind, _FRACTION_BITS)


def disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: object) -> None:
    """Draws a filled circle about (x, y), in pixels."""
    at = tuple(_fixed(centre).tolist())
    size = int(radius * 2**_FRACTION_BITS)
    cv2.circle(canvas, at, size, _rgb(colour), -1, cv2.LINE_AA, _FRACTION_BITS)


def inside(
    canvas: np.ndarray, outline: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The part of the canvas around a polygon, to be painted on and laid back through its mask.

    Returns:
        The part (a view), a mask uint8 of the same height and width, and the (x, y) of its corner;
        None where the polygon lies outside the canvas.
    """
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 2, canvas.shape[1::-1])
    if (high - low).min() < 2:
        return None
    part = canvas[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(outline - low)], 255, cv2.LINE_8, _FRACTION_BITS)
    return part, mask, low


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**_FRACTION_BITS).astype(np.int32)


def _rgb(colour: object) -> list[float] | tuple[float, ...]:
    return colour.tolist() if isinstance(colour, np.ndarray) else colour


def _tone(amount: float) -> tuple[float, float, float]:
    """Shadows in skin are warmer than the skin."""
    if amount < 0:
        return (_NEUTRAL * (1 - amount),) * 3
    return (_NEUTRAL * (1 - 0.8 * amount), _NEUTRAL * (1 - amount), _NEUTRAL * (1 - 1.06 * amount))
