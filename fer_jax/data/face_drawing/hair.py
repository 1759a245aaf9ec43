"""Hair, headwear, beards and glasses of a drawn face."""

import cv2
import numpy as np

from fer_jax.data.face_drawing.brush import Brush
from fer_jax.data.face_drawing.geometry import HEAD_AXES, spline
from fer_jax.data.face_drawing.parameters import Identity

# Where hair meets the forehead, from the image's left to its right: x, y, x, y ... on the head.
# fmt: off
_HAIRLINES = {
    style: np.array(numbers, np.float64).reshape(-1, 2)
    for style, numbers in {
        "receding": (-46, -22, -43, -36, -33, -52, -20, -57, -8, -51,
                     8, -51, 20, -57, 33, -52, 43, -36, 46, -22),
        "buzz": (-46, -16, -42, -36, -32, -46, -14, -50, 14, -50, 32, -46, 42, -36, 46, -16),
        "short": (-46, -14, -42, -32, -33, -43, -14, -45, 4, -48, 30, -44, 42, -33, 46, -14),
        "side_part": (-46, -12, -41, -30, -26, -36, -6, -42, 12, -50,
                      20, -55, 30, -48, 41, -34, 46, -12),
        "fringe": (-46, -8, -41, -29, -31, -37, -24, -41, -14, -39, -4, -42,
                   6, -39, 16, -42, 26, -39, 34, -37, 41, -29, 46, -8),
        "long": (-50, 70, -45, 30, -43, -8, -39, -30, -24, -44, 0, -48,
                 24, -44, 39, -30, 43, -8, 45, 30, 50, 70),
        "long_parted": (-52, 70, -44, 30, -42, 2, -38, -22, -22, -42, -2, -55,
                        18, -44, 37, -24, 42, 2, 44, 30, 52, 70),
        "curly": (-46, -8, -42, -28, -31, -42, -12, -46, 12, -46, 31, -42, 42, -28, 46, -8),
        "afro": (-46, -8, -42, -28, -31, -42, -12, -46, 12, -46, 31, -42, 42, -28, 46, -8),
        "tied_back": (-46, -18, -42, -34, -28, -48, -10, -54,
                      10, -54, 28, -48, 42, -34, 46, -18),
        "beanie": (-50, -22, -42, -36, -22, -42, 0, -44, 22, -42, 42, -36, 50, -22),
        "headscarf": (-30, 44, -40, 22, -43, -8, -38, -34, -20, -46, 0, -49,
                      20, -46, 38, -34, 43, -8, 40, 22, 30, 44, 0, 54),
    }.items()
}
# fmt: on


def paint_hair_behind(brush: Brush) -> None:
    """Paints what hangs or stands out behind the head."""
    person, w = brush.identity, HEAD_AXES[0] * brush.identity.face_width
    dark = np.array(person.hair) * 0.72
    if person.hair_style in ("long", "long_parted"):
        mane = [(0, -88, -10), (0.9 * w, -72, -10), (1.2 * w, -30, -12), (1.28 * w, 30, -14)]
        mane += [(1.3 * w, 120, -14), (-1.3 * w, 120, -14), (-1.28 * w, 30, -14)]
        mane += [(-1.2 * w, -30, -12), (-0.9 * w, -72, -10)]
        brush.fill(brush.project(mane, rim=True), dark)
    elif person.hair_style == "afro":
        brush.disc(brush.project([(0, -34, -10)], rim=True)[0], 1.42 * w, dark)
    elif person.hair_style == "curly":
        brush.disc(brush.project([(0, -26, -10)], rim=True)[0], 1.2 * w, dark)
    elif person.hair_style == "headscarf":
        scarf = [(0, -84, -6), (0.85 * w, -68, -6), (1.16 * w, -20, -8), (1.08 * w, 36, -8)]
        scarf += [(1.3 * w, 120, -8), (-1.3 * w, 120, -8), (-1.08 * w, 36, -8)]
        scarf += [(-1.16 * w, -20, -8), (-0.85 * w, -68, -6)]
        brush.fill(brush.project(scarf, rim=True), np.array(person.cloth) * 0.8)


def nape_colour(person: Identity) -> np.ndarray:
    """Colour of a head seen from behind."""
    if person.hair_style == "bald":
        return np.array(person.skin) * 0.94
    if person.hair_style == "headscarf":
        return np.array(person.cloth) * 0.8
    if person.hair_style == "beanie":
        return np.array(person.cloth)
    return np.array(person.hair)


def paint_hair_in_front(brush: Brush) -> None:
    """Paints hair or headwear over the forehead and the sides of the face."""
    person = brush.identity
    style = person.hair_style
    if style == "bald":
        return
    hairline = _HAIRLINES[style] * (person.face_width, 1)
    edge = brush.projection(np.column_stack([hairline, np.full(len(hairline), 1.0)]), False)
    if style == "headscarf":
        _paint_scarf(brush, edge)
        return
    curve = spline(len(edge), False) @ edge
    skull = brush.points("rim_skull")
    low = 3 if style.startswith("long") or style in ("fringe", "afro", "curly", "beanie") else 2
    crown = np.stack([*skull[low:0:-1], skull[0], *skull[6 : 6 - low : -1]])
    crown = spline(len(crown), False) @ crown
    colour = np.array(person.cloth if style == "beanie" else person.hair)
    if style == "buzz":
        colour = 0.6 * colour + 0.4 * brush.skin
    sides = []
    if style.startswith("long"):
        outer = brush.project([(62, 70, -8), (-62, 70, -8)], rim=True)
        brush.fill(np.concatenate([curve, outer[:1], crown, outer[1:]]), colour)
        sides = [(-1, -44), (1, 44)]
    else:
        brush.fill(np.concatenate([curve, crown]), colour)
    texture = np.random.default_rng(person.texture_seed)
    if style in ("curly", "afro"):
        for at in curve[::3]:
            shift = texture.uniform(-2.5, 2.5, 2) * brush.unit
            brush.disc(at + shift, texture.uniform(3, 5.5), colour * texture.uniform(0.86, 1.16))
        return
    if style == "beanie":
        brush.line(curve, colour * 0.75, 4)
        for k in range(2, len(curve) - 2, 4):
            up = 2 * skull[0] - curve[k] + (curve[k] - skull[0]) * 1.6
            brush.line(np.stack([curve[k], 0.6 * curve[k] + 0.4 * up]), colour * 0.85, 0.8)
        return
    middle = 0.5 * (skull[0] + skull[1] * 0.5 + skull[6] * 0.5)
    top = np.abs(spline(len(hairline), False) @ hairline[:, 0]) < 31
    for at in curve[top][::3]:
        tone = texture.uniform(0.72, 1.3)
        start = at + texture.uniform(-1.5, 1.5, 2) * brush.unit
        brush.line(np.stack([start, 0.55 * start + 0.45 * middle]), colour * tone, 0.9)
    for sign, x in sides:
        for _ in range(4):
            top = brush.project([(x + sign * texture.uniform(0, 8), -18, -2)], rim=True)[0]
            end = brush.project([(x + sign * texture.uniform(0, 12), 60, -4)], rim=True)[0]
            brush.line(np.stack([top, end]), colour * texture.uniform(0.75, 1.25), 0.9)


def paint_beard(brush: Brush) -> None:
    """Paints a beard or a moustache; the lips go over it."""
    person = brush.identity
    if person.beard == "none":
        return
    rim = brush.points("rim_face")
    moustache = brush.points("moustache")
    jaw = spline(9, False) @ rim[4:13]
    cheek_left, cheek_right = brush.project([(-34, 14, 0), (34, 14, 0)])
    upper = np.stack([cheek_left, moustache[0], moustache[9], moustache[8], moustache[7]])
    upper = np.concatenate([upper, moustache[6:7], cheek_right[None]])
    area = np.concatenate([jaw, spline(len(upper), False) @ upper])
    if person.beard == "stubble":
        hair = np.array(person.hair)
        tone = 0.72 + 0.18 * hair / 255
        brush.tint(area, tuple(tone))
        return
    colour = 0.9 * np.array(person.hair) + 0.1 * brush.skin
    if person.beard == "full":
        brush.fill(area, colour)
    if person.beard == "goatee":
        chin = brush.points("under_lip")
        bottom = rim[[7, 8, 9]]
        patch = np.stack([chin[0], chin[1], chin[2], bottom[0], bottom[1], bottom[2]])
        brush.fill(spline(6, True) @ patch, colour)
    brush.fill(spline(len(moustache), True) @ moustache, colour * 0.94)


def paint_glasses(brush: Brush) -> None:
    """Paints spectacles about the eyes."""
    person = brush.identity
    if person.glasses == "none":
        return
    colour = np.array(person.glasses_colour)
    width = {"thin_round": 1.0, "thick_square": 2.4, "half_rim": 1.6}[person.glasses]
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    power = 1.0 if person.glasses == "thin_round" else 0.55
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    ring = np.sign(ring) * np.abs(ring) ** power
    ring *= (12.2, 12.0) if person.glasses == "thin_round" else (13.2, 10.2)
    eye = 17.6 + person.eye_distance
    for sign in (-1.0, 1.0):
        shifted = np.add(ring, (sign * (eye + 0.6), -16.4))
        at = np.column_stack([shifted, np.full(28, 4.0)])
        rim = brush.projection(at, False)
        if person.glasses == "half_rim":
            brush.line(rim[13:], colour, width)
        else:
            brush.line(np.concatenate([rim, rim[:1]]), colour, width)
        hinge = brush.project([(sign * (eye + 13), -19, 4)])[0]
        temple = brush.project([(sign * 47, -17, 0)], rim=True)[0]
        brush.line(np.stack([hinge, temple]), colour * 0.9, width)
    bridge = brush.project([(-5.5, -18.5, 6), (0, -20.3, 9), (5.5, -18.5, 6)])
    brush.line(spline(3, False) @ bridge, colour, width)


def _paint_scarf(brush: Brush, edge: np.ndarray) -> None:
    skull = brush.points("rim_skull")
    low = brush.project([(60, 40, -6), (48, 90, 0), (-48, 90, 0), (-60, 40, -6)], rim=True)
    outer = np.concatenate([skull[:4], low, skull[4:]])
    outer = spline(len(outer), True) @ outer
    inner = spline(len(edge), True) @ edge
    colour = np.array(brush.identity.cloth)
    contours = [np.rint(c * 16).astype(np.int32) for c in (outer, inner)]
    cv2.fillPoly(brush.canvas, contours, tuple(colour.tolist()), cv2.LINE_AA, 4)
    brush.line(np.concatenate([inner, inner[:1]]), colour * 0.7, 1.5)
    middle = inner.mean(0)
    for at in inner[::7]:
        brush.line(np.stack([at, middle + 1.3 * (at - middle)]), colour * 0.82, 0.9)
