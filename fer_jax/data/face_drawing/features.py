"""Draws a face: the parametric person, expression, pose and scene become an RGB picture.

Shapes are filled at twice the size with OpenCV, soft shadows lie on a layer of their own, then
light, blur, noise and JPEG are laid over the reduced picture.
"""

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.data.face_drawing.anatomy import SIDES
from fer_jax.data.face_drawing.brush import Brush, disc, fill, inside, stroke
from fer_jax.data.face_drawing.camera import background, occlude, photograph
from fer_jax.data.face_drawing.geometry import HEAD_AXES, spline
from fer_jax.data.face_drawing.hair import (
    nape_colour,
    paint_beard,
    paint_glasses,
    paint_hair_behind,
    paint_hair_in_front,
)
from fer_jax.data.face_drawing.parameters import Expression, Identity, Pose, Scene

_SUPERSAMPLING = 2


def draw_face(
    identity: Identity,
    expression: Expression,
    pose: Pose,
    scene: Scene,
    rng: np.random.Generator,
    size: int = 112,
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Draws one face.

    Args:
        identity: who.
        expression: what the face does.
        pose: how the head is held.
        scene: light, surroundings, camera.
        rng: used for the camera's noise only; all else is in the other arguments.
        size: pixels of the square picture.

    Returns:
        RGB; a face at rest in a neutral pose has its five points on the template.

    >>> from fer_jax.data.face_drawing.parameters import sample_identity
    >>> rng = np.random.default_rng(0)
    >>> draw_face(sample_identity(rng), Expression(jaw_drop=1), Pose(), Scene(), rng).shape
    (112, 112, 3)
    """
    canvas = background(scene, size * _SUPERSAMPLING)
    brush = Brush(canvas, identity, expression, pose, scene)
    paint_person(brush)
    return photograph(brush, rng, size)


def paint_person(brush: Brush) -> None:
    """Paints the person onto the brush's canvas, and what the scene holds before the face."""
    paint_hair_behind(brush)
    _paint_head(brush)
    _paint_creases(brush)
    _paint_nose(brush)
    paint_beard(brush)
    _paint_lips(brush)
    _shade_face(brush)
    brush.apply_shades()
    _paint_mouth(brush)
    for _, side in SIDES:
        _paint_eye(brush, side)
        brush.fill(f"brow_{side}", brush.identity.brow)
    paint_hair_in_front(brush)
    paint_glasses(brush)
    occlude(brush)


def paint_from_behind(brush: Brush) -> None:
    """Paints the person as seen from behind: hair, or a bald head, and no face."""
    _paint_head(brush)
    paint_hair_behind(brush)
    colour = nape_colour(brush.identity)
    outline = np.concatenate([brush.curve("rim_face"), brush.curve("rim_skull")])
    brush.fill(cv2.convexHull(outline.astype(np.float32))[:, 0], colour)


def _paint_head(brush: Brush) -> None:
    skin, w = brush.skin, HEAD_AXES[0] * brush.identity.face_width
    neck = [(-0.62 * w, 25, -6), (0.62 * w, 25, -6), (0.7 * w, 120, -6), (-0.7 * w, 120, -6)]
    brush.fill(brush.project(neck, rim=True), skin * (0.72, 0.68, 0.67))
    cloth = [(-2 * w, 190, 0), (-1.7 * w, 82, -4), (-0.66 * w, 63, -2), (0, 74, 8)]
    cloth += [(0.66 * w, 63, -2), (1.7 * w, 82, -4), (2 * w, 190, 0)]
    brush.fill(brush.project(cloth, rim=True), brush.identity.cloth)
    for at in brush.points("rim_ears"):
        brush.disc(at, 7.2, skin * (0.9, 0.84, 0.84))
    brush.fill("rim_face", skin)


def _paint_creases(brush: Brush) -> None:
    e, person = brush.expression, brush.identity
    old = max(person.age - 0.35, 0) * 1.3
    raised = max(e.inner_brow_raise * 0.8, e.outer_brow_raise)
    for k, y in enumerate((-38, -43, -48)):
        lift = 3.0 * raised
        reach = 15 + 3 * k
        forehead = [(-reach, y - lift + 1.5, 0), (-0.4 * reach, y - lift - 0.6, 0)]
        forehead += [(0.4 * reach, y - lift - 0.6, 0), (reach, y - lift + 1.5, 0)]
        brush.crease(
            spline(4, False) @ brush.project(forehead), 0.62 * raised - 0.12 + 0.45 * old, 0.9
        )
    for sign, side in SIDES:
        brush.crease(f"frown_{side}", 0.95 * e.brow_lower - 0.1 + 0.35 * old, 1.2)
        bridge = brush.points(f"bridge_{side}")
        for k in range(2):
            brush.crease(bridge[[k, k + 2]], 0.85 * e.nose_wrinkle - 0.1, 1.1)
        crow = brush.points(f"crow_{side}")
        for k in range(2):
            brush.crease(crow[[k, k + 2]], 0.6 * e.cheek_raise - 0.1 + 0.5 * old, 0.8)
        fold, marionette = _fold_depths(e, sign)
        brush.crease(f"fold_{side}", 0.75 * fold - 0.12 + 0.55 * old, 1.2)
        brush.crease(f"marionette_{side}", 0.6 * marionette - 0.1 + 0.4 * old, 1.0)
        brush.crease(
            f"bag_{side}", 0.3 + 0.3 * old + 0.3 * e.cheek_raise + 0.2 * e.lid_tighten, 0.8
        )
    if person.freckles > 0.05:
        texture = np.random.default_rng(person.texture_seed)
        count = int(30 * person.freckles)
        x, y = texture.normal(0, 15, count), texture.normal(0, 5.5, count)
        colour = 0.75 * brush.skin + 0.25 * np.array((120, 60, 30))
        for at in brush.projection(np.stack([x, y, np.zeros(count)], 1), False):
            brush.disc(at, 0.6, colour)


def _fold_depths(e: Expression, sign: float) -> tuple[float, float]:
    """How deep one side's folds are, beside the nose and below the corner of the mouth."""
    part = e.mouth_share(sign)
    beside = max(0.8 * part * e.lip_corner_pull, e.nose_wrinkle, 0.7 * e.upper_lip_raise)
    return beside, part * e.lip_corner_depress


def _paint_nose(brush: Brush) -> None:
    dark = brush.skin * (0.42, 0.3, 0.28)
    away = np.sin(np.deg2rad(brush.scene.azimuth))
    for sign, side in SIDES:
        wing = spline(7, False) @ brush.points(f"nose_{side}")
        brush.crease(wing[12:], 0.55, 1.1)
        brush.crease(wing[:13], max(0.0, -0.35 * sign * away), 1.4)
        brush.disc(brush.points(f"nostril_{side}")[0], 1.6, dark)


def _paint_lips(brush: Brush) -> None:
    lip = np.array(brush.identity.lip)
    brush.fill("lips", lip * 0.9)
    brush.fill("lower_lip", lip * 1.04)


def _shade_face(brush: Brush) -> None:
    """Soft shadows and highlights; those drawn later cover those drawn before."""
    e, person = brush.expression, brush.identity
    away = np.sin(np.deg2rad(brush.scene.azimuth))
    forehead = brush.project([(0, -40, 0)])[0]
    brush.shade(forehead, (22, 9), -0.06)
    for sign, side in SIDES:
        centre = {n: brush.points(f"{n}_{side}")[0] for n in ("cheek", "hollow", "socket")}
        brush.shade(centre["hollow"], (7, 10), 0.05 + 0.12 * person.age - 0.3 * e.cheek_puff)
        glow = -0.05 - 0.13 * e.cheek_raise
        brush.shade(centre["cheek"], (10, 8), glow)
        ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        disc_ring = np.stack([9 * np.cos(ring), 6 * np.sin(ring)], 1) * brush.unit
        blush = person.blush
        tint = (1 - glow, 1 - glow - 0.26 * blush, 1 - glow - 0.2 * blush)
        brush.tint(centre["cheek"] + disc_ring, tint)
        brush.shade(centre["socket"], (12, 8.5), 0.11 + 0.14 * e.brow_lower + 0.06 * person.age)
        brush.shade_curve(f"bag_{side}", 2.5, 0.1 + 0.14 * person.age)
        fold, marionette = _fold_depths(e, sign)
        brush.shade_curve(f"fold_{side}", 3.5, 0.07 + 0.17 * fold + 0.1 * person.age)
        brush.shade_curve(f"marionette_{side}", 3, 0.04 + 0.12 * marionette)
        brush.shade_curve(f"flank_{side}", 4, 0.11 - 0.1 * sign * away)
    brush.shade_curve("ridge", 2.6, -0.12)
    brush.shade(brush.points("nose_tip")[0], (3, 2.4), -0.16)
    brush.shade(brush.points("nose_base")[0], (6.5, 2.4), 0.2)
    brush.shade_curve("under_lip", 3.2, 0.17 + 0.14 * e.chin_raise)
    brush.shade(brush.points("chin")[0], (8, 5), -0.07)


def _paint_mouth(brush: Brush) -> None:
    e, person = brush.expression, brush.identity
    lip = np.array(person.lip)
    mouth = brush.curve("mouth")
    parts = inside(brush.canvas, mouth)
    if parts is not None and brush.opening > 0.7:
        part, mask, corner = parts
        picture = np.empty_like(part)
        picture[:] = (58, 18, 22)
        disc(picture, brush.points("tongue")[0] - corner, 7.5 * brush.unit, (186, 84, 88))
        white = np.array((240, 236, 226)) * (1 - 0.12 * person.age * np.array((0.6, 0.8, 1.4)))
        if brush.opening > 1.6:
            if e.lip_stretch > 0.3 or e.lip_corner_depress * e.lips_part > 0.3:
                fill(picture, brush.curve("low_teeth") - corner, white * 0.93)
            fill(picture, brush.curve("teeth") - corner, white)
        cv2.copyTo(picture, mask, part)
    line = lip * (0.42, 0.3, 0.32)
    brush.line("mouth_line", line, 1.3 if brush.opening < 0.7 else 0.8)
    low = brush.points("lower_lip")
    shine = 0.72 * lip + 0.28 * 255
    brush.line(0.5 * (low[2:5] + low[-3:-6:-1]), shine, 1.0 if e.lip_press < 0.5 else 0.5)
    if e.tongue_out > 0.15:
        brush.fill("tongue_out", (214, 104, 110))
        tip = brush.points("tongue_out")
        middle = np.stack([0.5 * (tip[0] + tip[6]), 0.3 * (tip[0] + tip[6]) / 2 + 0.7 * tip[3]])
        brush.line(middle, (178, 72, 82), 0.9)


def _paint_eye(brush: Brush, side: str) -> None:
    person = brush.identity
    points = brush.points(f"eye_{side}")
    outline = brush.curve(f"eye_{side}")
    upper = outline[:25]
    gap = np.linalg.norm(points[2] - points[6]) / brush.unit
    parts = inside(brush.canvas, outline)
    dark = np.array((30, 22, 20)) * 0.6 + 0.25 * brush.skin
    if gap > 1.0 and parts is not None:
        part, mask, corner = parts
        eye = np.empty_like(part)
        eye[:] = (236, 234, 232)
        iris = brush.points(f"iris_{side}")[0] - corner
        ring = np.array(person.iris)
        disc(eye, iris, 5.3 * brush.unit, ring * 0.55)
        disc(eye, iris, 4.3 * brush.unit, ring)
        disc(eye, iris, 2.3 * brush.unit, (14, 12, 14))
        # The lid throws a shadow on the upper part of the eyeball.
        stroke(eye, upper - corner, np.array((150, 140, 140)) * 0.8, 1.6 * brush.unit)
        disc(eye, iris + np.array((1.3, -1.5)) * brush.unit, 0.95 * brush.unit, (252, 252, 252))
        cv2.copyTo(eye, mask, part)
        brush.line(outline[24:], brush.skin * (0.62, 0.5, 0.5), 0.8)
    brush.crease(f"crease_{side}", 0.25 + 0.45 * person.lid_crease, 0.9)
    brush.line(upper, dark, 1.1 + 1.2 * person.lashes)
    if person.lashes > 0.55:
        flick = points[4] + 0.28 * (points[4] - points[3])
        brush.line(np.stack([points[4], flick]), dark, 1.0)
