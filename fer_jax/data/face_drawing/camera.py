"""What surrounds a drawn face, and what light and camera make of it."""

import cv2
import numpy as np

from fer_jax.data.face_drawing.brush import Brush, disc, fill, stroke
from fer_jax.data.face_drawing.geometry import HEAD_AXES
from fer_jax.data.face_drawing.parameters import Scene

_LIGHT_CELLS = 20


def background(scene: Scene, side: int) -> np.ndarray:
    """Blurred patches of colour and a few shapes, uint8 [side, side, 3]."""
    rng = np.random.default_rng(scene.seed)
    cells = int(rng.integers(2, 6))
    base = rng.uniform(30, 225) + rng.normal(0, 22, 3)
    spread = rng.uniform(5, 40)
    patches = base + rng.normal(0, spread, (cells, cells, 1)) + rng.normal(0, 12, (cells, cells, 3))
    patches = np.clip(patches, 0, 255).astype(np.uint8)
    kernel = cv2.INTER_LINEAR if rng.random() < 0.85 else cv2.INTER_NEAREST
    canvas = cv2.resize(patches, (side, side), interpolation=kernel)
    for _ in range(int(rng.integers(0, 5))):
        colour, at = rng.uniform(0, 255, 3), rng.uniform(-0.1, 1.1, 2) * side
        if rng.random() < 0.5:
            disc(canvas, at, rng.uniform(0.05, 0.25) * side, colour)
        else:
            end = at + rng.normal(0, 0.5, 2) * side
            stroke(canvas, np.stack([at, end]), colour, rng.uniform(0.02, 0.12) * side)
    return canvas


def occlude(brush: Brush) -> None:
    """Puts something in front of a part of the face, if the scene asks for it."""
    kind = brush.scene.occluder
    if kind == "none":
        return
    rng = np.random.default_rng((brush.scene.seed, 1))
    canvas, unit = brush.canvas, brush.unit
    mouth = brush.points("mouth")[3]
    side = 1.0 if rng.random() < 0.5 else -1.0

    def near(x: float, y: float) -> np.ndarray:
        return mouth + np.array((side * x, y)) * unit

    if kind == "hand":
        skin = brush.skin * 0.94
        palm = near(rng.uniform(26, 38), rng.uniform(8, 22))
        for k in range(4):
            tip = palm + np.array((-side * (10 + 2.5 * k), -16 + 7.5 * k)) * unit
            base = palm + np.array((side * 6, -10 + 6 * k)) * unit
            stroke(canvas, np.stack([base, tip]), skin * (0.66, 0.58, 0.56), 8.6 * unit)
            stroke(canvas, np.stack([base, tip]), skin, 7.2 * unit)
        disc(canvas, palm + np.array((side * 8, 4)) * unit, 14 * unit, skin)
    elif kind == "microphone":
        head = near(rng.uniform(6, 16), rng.uniform(12, 18))
        stroke(canvas, np.stack([head, near(34, 60)]), (40, 40, 44), 7 * unit)
        disc(canvas, head, 8 * unit, (70, 70, 76))
        disc(canvas, head + np.array((-2, -2)) * unit, 4.5 * unit, (110, 110, 118))
    elif kind == "strand":
        hair = np.array(brush.identity.hair)
        for _ in range(3):
            start, end = (
                near(rng.uniform(2, 14), -84),
                near(rng.uniform(22, 34), rng.uniform(-30, 0)),
            )
            bend = near(rng.uniform(18, 30), -56)
            part = np.linspace(0, 1, 12)[:, None]
            curve = (1 - part) ** 2 * start + 2 * part * (1 - part) * bend + part**2 * end
            stroke(canvas, curve, hair * rng.uniform(0.8, 1.2), rng.uniform(1, 2.5) * unit)
    elif kind == "cup":
        colour = rng.uniform(30, 240, 3)
        low = near(rng.uniform(14, 24), rng.uniform(4, 12))
        box = np.array([(-9, 0), (9, 0), (7, 40), (-7, 40)]) * unit + low
        fill(canvas, box, colour)
        stroke(canvas, box[:2], colour * 0.7, 2 * unit)
    else:
        start = rng.uniform(0, 1, 2) * canvas.shape[0]
        end = start + rng.normal(0, 0.6, 2) * canvas.shape[0]
        stroke(canvas, np.stack([start, end]), rng.uniform(0, 255, 3), rng.uniform(3, 7) * unit)


def photograph(brush: Brush, rng: np.random.Generator, size: int) -> np.ndarray:
    """Light, reduction to `size` pixels, blur, noise and compression; uint8 [size, size, 3]."""
    scene = brush.scene
    picture = cv2.resize(brush.canvas, (size, size), interpolation=cv2.INTER_AREA)
    light = cv2.resize(_light(brush), (size, size), interpolation=cv2.INTER_CUBIC)
    if scene.grey:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    lit = cv2.multiply(picture, light, dtype=cv2.CV_32F)
    if scene.contrast != 1:
        lit = cv2.addWeighted(lit, scene.contrast, lit, 0, 118 * (1 - scene.contrast))
    if scene.blur > 0.25:
        lit = cv2.GaussianBlur(lit, (0, 0), scene.blur * size / 112)
    if scene.noise > 0:
        lit = add_grain(lit, scene.noise, rng)
    picture = cv2.convertScaleAbs(cv2.max(lit, 0))
    if scene.jpeg:
        # OpenCV would take RGB for BGR; JPEG treats the three alike but for chroma, so swap.
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, scene.jpeg))[1]
        picture = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return picture


def add_grain(lit: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Adds noise whose distribution is a triangle of half width `noise`; float32."""
    # The sum of two uniform bytes: a triangle about 255, as wide as 2 x 255.
    raw = np.frombuffer(rng.bytes(2 * lit.size), np.uint8).reshape(2, *lit.shape)
    grain = cv2.add(raw[0], raw[1], dtype=cv2.CV_32F)
    return cv2.addWeighted(lit, 1.0, grain, noise / 255, -noise)


def lambert(scene: Scene, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Lambert's law on the head's ellipsoid at (u, v) = (x / a, y / b); float64, as u and v."""
    azimuth, elevation = np.deg2rad((scene.azimuth, scene.elevation))
    to_light = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    a, b, c = HEAD_AXES
    r2 = u * u + v * v
    # Normals of the ellipsoid; beyond its rim they point sideways.
    w = np.sqrt(np.maximum(1 - r2, 0.02))
    normal = np.stack(np.broadcast_arrays(u / a, v / b, w / c), axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.maximum(normal @ to_light, 0)
    return scene.gain * (scene.ambient + 1.35 * (1 - scene.ambient) * diffuse)


def _light(brush: Brush) -> np.ndarray:
    """Light on the head and about it, times uneven patches; float32 [n, n, 3]."""
    scene, projection = brush.scene, brush.projection
    n = _LIGHT_CELLS
    centres = (np.arange(n) + 0.5) * brush.canvas.shape[0] / n - projection.offset[:, None]
    x, y = centres[0][None, :] / projection.unit, centres[1][:, None] / projection.unit
    light = lambert(scene, x / HEAD_AXES[0], y / HEAD_AXES[1])
    if scene.unevenness > 0:
        rng = np.random.default_rng((scene.seed, 2))
        patches = np.exp(rng.normal(0, scene.unevenness, (4, 4))).astype(np.float32)
        light = light * cv2.resize(patches, (n, n), interpolation=cv2.INTER_CUBIC)
    return (light[..., None] * np.array(scene.cast)).astype(np.float32)
