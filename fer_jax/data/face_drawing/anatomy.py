"""How action units move the features of a face: the control points of everything drawn.

The numbers are anatomy by eye: pixels of the aligned face, for an action unit at its full.
"""

import numpy as np
from jaxtyping import Float

from fer_jax.data.face_drawing.geometry import (
    EYE_X,
    EYE_Y,
    HEAD_AXES,
    MOUTH_X,
    MOUTH_Y,
    NOSE_Y,
    Projection,
)
from fer_jax.data.face_drawing.parameters import Expression, Identity, Pose

SIDES = ((-1.0, "left"), (1.0, "right"))
"""Sign of x and name of the two halves of the face, as seen in the image."""

Point = tuple[float, float, float]


def face_points(
    identity: Identity, expression: Expression, pose: Pose, *, size: int = 112
) -> Float[np.ndarray, "5 2"]:
    """Eyes, nose tip and mouth corners of a drawn face.

    Args:
        identity: who.
        expression: what the face does.
        pose: how the head is held.
        size: pixels of the square picture.

    Returns:
        (x, y) in pixels, in the order of the template: left in the image first.
    """
    shape = lay_out(identity, expression)
    corners = [(shape[f"eye_{side}"][0], shape[f"eye_{side}"][4]) for _, side in SIDES]
    eyes = [np.mean(pair, axis=0) for pair in corners]
    points = np.array([*eyes, shape["nose_tip"][0], shape["mouth"][0], shape["mouth"][6]])
    return Projection(identity, pose, size)(points, False)


def lay_out(identity: Identity, expression: Expression) -> dict[str, list[Point]]:
    """Control points of every feature by name: (x, y, height above the head's surface).

    Names that start with `rim_` lie on the outline of the head and give (x, y, z) instead.
    """
    e = identity.expressed(expression)
    shape = _head(identity, e) | _nose(identity, e) | _mouth(identity, e)
    for sign, side in SIDES:
        shape |= _eye(identity, e, sign, side) | _brow(identity, e, sign, side)
    return shape


def _mirrored(points: list[Point]) -> list[Point]:
    """The points, then their mirror images in reverse: an outline from its right half."""
    return [*points, *((-x, y, z) for x, y, z in reversed(points))]


def _head(identity: Identity, e: Expression) -> dict[str, list[Point]]:
    width = HEAD_AXES[0] * identity.face_width
    jaw = width * identity.jaw_width
    drop = 8.5 * e.jaw_drop - 1.2 * e.chin_raise + identity.chin_length
    puff = 8 * e.cheek_puff
    half = [
        (0.55 * width, -62, 6),
        (0.9 * width, -42, 4),
        (width, -14, 2),
        (0.475 * (width + jaw) + 0.6 * puff, 8, 4),
        (0.83 * jaw + puff, 25 + 0.4 * drop, 8),
        (0.6 * jaw + 0.5 * puff, 40 + 0.8 * drop, 16),
        (0.27 * jaw, 49 + drop, 26),
    ]
    crown = [(0.62 * width, -76, -2), (1.02 * width, -50, -6), (1.1 * width, -18, -8)]
    shape: dict[str, list[Point]] = {
        "rim_face": [(0, -68, 8), *half, (0, 51 + drop, 28), *_mirrored(half)[7:]],
        "rim_ears": _mirrored([(width, -12, -4), (width, -2, -4)]),
        "rim_skull": [(0, -84, 0), *_mirrored(crown)],
        "chin": [(0, 38 + drop, 0)],
    }
    for sign, side in SIDES:
        cheek = EYE_Y + 20 - 3.5 * e.cheek_raise - 1.5 * e.lip_corner_pull
        shape[f"cheek_{side}"] = [(sign * 24, cheek, 0)]
        shape[f"hollow_{side}"] = [(sign * (29 + 2 * e.cheek_puff), EYE_Y + 37, 0)]
    return shape


def _eye(identity: Identity, e: Expression, sign: float, side: str) -> dict[str, list[Point]]:
    cx, cy = sign * (EYE_X + identity.eye_distance), EYE_Y + identity.eye_line
    half = 10.6 * identity.eye_width
    up = 1 + 0.75 * e.upper_lid_raise - 0.35 * e.lid_tighten - 0.55 * e.lid_droop
    up = 5.4 * identity.eye_opening * up - 0.5 * e.cheek_raise - 0.8 * e.nose_wrinkle
    down = 1 + 0.2 * e.upper_lid_raise - 0.55 * e.lid_tighten - 0.75 * e.cheek_raise
    down = 4.4 * identity.eye_opening * down - 0.6 * e.nose_wrinkle
    # A shut eye is a line that bows down, a little below the middle.
    shut = min(e.blink_left if side == "left" else e.blink_right, 1.0)
    up = (1 - shut) * max(up, 0.9) - 1.6 * shut
    down = (1 - shut) * max(down, -0.8) + 2.1 * shut
    # Sad brows pull the inner part of the lid up, angry ones push it down.
    slant = 1.5 * e.inner_brow_raise * (1 - 0.6 * e.outer_brow_raise) - 2.1 * e.brow_lower
    slant *= 1 - shut
    tilt = identity.eye_tilt - 1.1 * e.lid_droop * e.inner_brow_raise

    def lid(along: float, height: float) -> Point:
        """A point from the inner corner (-1) to the outer corner (1)."""
        return (cx + sign * half * along, cy - tilt * along - height, 0.5)

    crease = max(up, 0.5) + 2.2 + 1.2 * identity.lid_crease + 1.6 * e.upper_lid_raise
    bag = max(down, 0) + 3.4
    iris = cy - 0.25 * tilt - 0.3 + 1.6 * e.gaze_y + 0.15 * (down - up)
    return {
        f"eye_{side}": [
            lid(-1, -0.7),
            lid(-0.55, 0.72 * up + 0.7 * slant),
            lid(0, up + 0.25 * slant),
            lid(0.55, 0.8 * up - 0.3 * slant),
            lid(1, 0),
            lid(0.55, -0.85 * down),
            lid(0, -down),
            lid(-0.55, -0.75 * down),
        ],
        f"iris_{side}": [(cx + 2.6 * e.gaze_x, iris, 0.5)],
        f"crease_{side}": [
            *(lid(-0.9, 0.6 * crease), lid(0, crease)),
            *(lid(0.7, 0.75 * crease), lid(1.1, 0.8)),
        ],
        f"bag_{side}": [lid(-0.8, -0.7 * bag), lid(0, -bag), lid(0.8, -0.75 * bag)],
        f"crow_{side}": [lid(1.25, 0), lid(1.25, -1.5), lid(1.75, 2.4), lid(1.75, -3.4)],
        f"socket_{side}": [(cx, cy - 4 + 3 * e.brow_lower, 0)],
    }


def _brow(identity: Identity, e: Expression, sign: float, side: str) -> dict[str, list[Point]]:
    part = e.brow_share(sign)
    inner, outer = 9.6 * e.inner_brow_raise * part, 8.6 * e.outer_brow_raise * part
    down = 6.8 * e.brow_lower * (1.3 - 0.3 * part) + 2.2 * e.nose_wrinkle
    arch, tilt = identity.brow_arch + 0.8 * e.outer_brow_raise, 0.5 * identity.brow_tilt
    x = EYE_X + identity.eye_distance
    y = EYE_Y + identity.eye_line - 13.6 - identity.brow_height
    # (x, y, thickness) from the inner end to the outer one.
    middle = [
        (x - 9.6 - 3 * e.brow_lower, y + 0.6 - inner + down - tilt, 1.05),
        (x - 4, y - 0.6 - 0.85 * inner - 0.25 * outer + 0.75 * down - 0.2 * arch, 1.15),
        (x + 3, y - 1.6 - 0.35 * inner - 0.8 * outer + 0.3 * down - arch, 0.9),
        (x + 8.5, y - 0.6 - outer + 0.1 * down - 0.3 * arch, 0.55),
        (x + 12.5, y + 2.2 - 0.9 * outer + tilt, 0.12),
    ]
    thick = 2.5 * identity.brow_thickness
    above = [(sign * x, y - thick * w, 2) for x, y, w in middle]
    below = [(sign * x, y + thick * w, 2) for x, y, w in reversed(middle)]
    return {f"brow_{side}": above + below}


def _nose(identity: Identity, e: Expression) -> dict[str, list[Point]]:
    tip = NOSE_Y + identity.nose_length - 1.6 * e.nose_wrinkle
    half = 7.8 * identity.nose_width * (1 + 0.22 * e.nose_wrinkle + 0.1 * e.upper_lip_raise)
    wing = tip + 3.2 - 2.4 * e.nose_wrinkle
    shape: dict[str, list[Point]] = {
        "nose_tip": [(0, tip, 10)],
        "nose_base": [(0, tip + 6.2, 5)],
        "ridge": [(0, -18, 4), (0, -10, 6), (0, tip - 2, 9)],
    }
    for s, side in SIDES:
        shape[f"nose_{side}"] = [
            *((s * 3.4, -20, 2), (s * 3, -11, 4), (s * 4, tip - 6, 6)),
            *((s * 0.95 * half, wing - 3, 3), (s * 1.02 * half, wing + 0.4, 2)),
            *((s * 0.7 * half, wing + 2.2, 3), (s * 0.3 * half, tip + 4.9, 6)),
        ]
        shape[f"flank_{side}"] = [(s * 5, -14, 2), (s * 5.5, tip - 5, 3), (s * 8, tip, 1)]
        shape[f"nostril_{side}"] = [(s * 0.48 * half, wing + 1.5, 5)]
        inside, outside = [(s * 2.5, -19, 4), (s * 2.5, -16, 4)], [(s * 6.5, -15.5, 2)]
        shape[f"bridge_{side}"] = [*inside, *outside, (s * 6.5, -12.5, 2)]
        shape[f"frown_{side}"] = [(s * 2.3, -34, 1), (s * 2.9, -29, 2), (s * 2.2, -24, 2)]
    return shape


def _mouth_corner(identity: Identity, e: Expression, sign: float) -> tuple[float, float, float]:
    """Signed half width, height of the corner, and how much of the movement this side makes."""
    part = e.mouth_share(sign)
    pull, depress, stretch = (
        part * unit for unit in (e.lip_corner_pull, e.lip_corner_depress, e.lip_stretch)
    )
    half = 1 + 0.34 * pull + 0.36 * stretch + 0.04 * depress - 0.5 * e.lip_pucker
    half -= 0.16 * e.jaw_drop + 0.14 * e.cheek_puff + 0.05 * e.chin_raise
    y = MOUTH_Y + identity.mouth_height - identity.mouth_curve
    y += 6.5 * depress - 8.6 * pull + 1.4 * stretch + 2.2 * e.jaw_drop + 0.8 * e.tongue_out
    return sign * MOUTH_X * identity.mouth_width * half, y, part


def _mouth(identity: Identity, e: Expression) -> dict[str, list[Point]]:
    corners = [_mouth_corner(identity, e, sign) for sign, _ in SIDES]
    parted = min(1.0, e.lips_part)
    pull = e.lip_corner_pull * 0.5 * (corners[0][2] + corners[1][2])  # at the middle
    upper = MOUTH_Y + identity.mouth_height + 1.4 * pull * (1 - parted)
    upper -= 3.4 * e.upper_lip_raise + 1.8 * e.chin_raise + 0.8 * parted
    upper -= e.lip_corner_depress + 1.2 * e.jaw_drop
    opening = 17 * e.jaw_drop + 2.6 * parted + 2.4 * e.upper_lip_raise * min(1.0, 2 * parted)
    opening += parted * (3.2 * pull + 2.6 * e.lip_stretch + 2.6 * e.lip_corner_depress)
    lower = upper + opening
    # The edges are y = centre + (corner - centre) x^power: 2 is a lens, more is a square mouth,
    # as of lips that are bared, stretched or pulled open.
    power = 2 + 1.6 * parted * max(e.lip_stretch, e.upper_lip_raise) + e.jaw_drop
    low_power = power + 0.7 * pull * parted + 1.2 * e.jaw_drop
    full = 1 - 0.72 * e.lip_press - 0.25 * e.lip_stretch - 0.2 * pull
    full = max(full - 0.17 * e.jaw_drop, 0.2) + 0.55 * e.lip_pucker - 0.15 * e.cheek_puff
    top = 3.3 * identity.upper_lip * max(full - 0.25 * e.upper_lip_raise, 0.2)
    bottom = 4.3 * identity.lower_lip * (max(full, 0.2) + 0.12 * e.chin_raise)
    bulge = 1 + 3 * e.lip_pucker

    def edge(centre: float, exponent: float, thick: float = 0, lobe: float = 1) -> list[Point]:
        """From the left corner to the right one; `thick` is the lip outside of it."""
        points = []
        for k, along in enumerate((1, 0.62, 0.27, 0, 0.27, 0.62, 1)):
            x, corner, _ = corners[0 if k < 3 else 1]
            lift = thick * (0, 0.68, 1.05, lobe)[min(k, 6 - k)]
            y = centre + (corner - centre) * along**exponent - lift
            points.append((along * x * (1.06 if thick and along == 1 else 1), y, bulge))
        return points

    inner_top, inner_bottom = edge(upper, power), edge(lower, low_power)
    outer_top = edge(upper, power, top, 0.9)
    outer_bottom = edge(lower, low_power, -bottom, 1.04)
    show = 3.6 * max(pull, e.upper_lip_raise, 0.75 * e.lip_stretch, 0.3)
    teeth = min(show, 0.62 * opening)
    low_teeth = min(3.4 * max(e.lip_stretch, e.lip_corner_depress), 0.34 * opening)
    tip = lower + 0.9 * bottom + 7.5 * e.tongue_out
    brim, under = (-3, 1.2, 1.6, 1, 1.6, 1.2, -3), lower + bottom
    moustache = [
        (x * 1.12, y - 0.8 * top - k, 1) for (x, y, _), k in zip(inner_top, brim, strict=True)
    ]
    return _folds(e, corners) | {
        "mouth": inner_top + inner_bottom[-2:0:-1],
        "mouth_line": inner_top,
        "lips": outer_top + outer_bottom[-2:0:-1],
        "lower_lip": inner_bottom + outer_bottom[::-1],
        "teeth": inner_top + [(0.9 * x, y + teeth, z) for x, y, z in inner_top[::-1]],
        "low_teeth": inner_bottom + [(0.9 * x, y - low_teeth, z) for x, y, z in inner_bottom[::-1]],
        "tongue": [(0, lower + 4.5 - 0.1 * opening, 2)],
        "tongue_out": [
            *((-5.2, lower - 0.4, 3), (-5.4, 0.5 * (lower + tip), 4), (-3.2, tip - 0.8, 4)),
            *((0, tip, 4), (3.2, tip - 0.8, 4)),
            *((5.4, 0.5 * (lower + tip), 4), (5.2, lower - 0.4, 3)),
        ],
        "under_lip": [(-6, under + 2.2, 0), (0, under + 3.2, 0), (6, under + 2.2, 0)],
        "moustache": [
            *moustache,
            *((9.5, upper - top - 5.2, 1), (0, upper - top - 5.6, 3), (-9.5, upper - top - 5.2, 1)),
        ],
    }


def _folds(e: Expression, corners: list[tuple[float, float, float]]) -> dict[str, list[Point]]:
    """The folds from nose to mouth, and those below the corners of the mouth."""
    wing = 6.2 - 1.8 * e.nose_wrinkle - 0.6 * e.upper_lip_raise
    shape: dict[str, list[Point]] = {}
    for (x, y, part), (sign, side) in zip(corners, SIDES, strict=True):
        wide = abs(x) + 4.5 + 1.8 * e.lip_corner_pull * part
        middle = 0.55 * abs(x) + 7.5 + 1.6 * e.upper_lip_raise
        shape[f"fold_{side}"] = [
            *((sign * 8.4, wing - 2.5, 2), (sign * middle, 0.45 * (wing + y) - 1, 1)),
            *((sign * wide, y - 1.5, 0), (sign * (wide + 0.3), y + 0.5, 0)),
        ]
        shape[f"dimple_{side}"] = [(x + sign * 2.2, y - 1.6, 0), (x + sign * 2.6, y + 1.6, 0)]
        shape[f"marionette_{side}"] = [(x + sign, y + 1.5, 0), (x + sign * 2.4, y + 6.5, 0)]
    return shape
