"""What a drawn face is made of: who it is, what it expresses, how it is held and how it is seen.

All lengths are pixels of the aligned 112 x 112 face, angles are degrees, colours are RGB in
[0, 255]. Action units (AU) are those of the Facial Action Coding System.
"""

import dataclasses

import numpy as np

Colour = tuple[float, float, float]

HAIR_STYLES = (
    "bald",
    "receding",
    "buzz",
    "short",
    "side_part",
    "fringe",
    "long",
    "long_parted",
    "curly",
    "afro",
    "tied_back",
    "headscarf",
    "beanie",
)
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
GLASSES = ("none", "thin_round", "thick_square", "half_rim")
OCCLUDERS = ("none", "hand", "microphone", "strand", "cup", "bar")

_SKIN_TONES = np.array(
    [
        (252, 226, 206),
        (243, 201, 172),
        (224, 172, 136),
        (188, 132, 96),
        (140, 92, 64),
        (92, 60, 46),
    ],
    np.float64,
)
_HAIR_COLOURS = np.array(
    [
        (26, 22, 24),
        (46, 32, 26),
        (84, 54, 36),
        (122, 78, 46),
        (146, 66, 36),
        (206, 166, 100),
        (232, 206, 150),
        (150, 148, 150),
        (226, 224, 222),
        (64, 98, 172),
        (196, 84, 136),
    ],
    np.float64,
)
_HAIR_SHARE = np.array([4, 4, 3, 2, 1.5, 2, 1.2, 1.5, 1.2, 0.4, 0.4])
_IRIS_COLOURS = np.array(
    [(70, 44, 28), (104, 66, 36), (112, 120, 62), (84, 134, 160), (112, 128, 140), (60, 110, 84)],
    np.float64,
)
_LIPSTICKS = np.array([(190, 30, 50), (214, 84, 110), (132, 28, 58), (176, 96, 84)], np.float64)
_LIGHT_BROWS = np.array(
    [(236, 214, 168), (232, 230, 226), (214, 186, 130), (236, 178, 196), (170, 196, 226)],
    np.float64,
)
_LIGHT_LIPS = np.array([(238, 160, 160), (226, 140, 156), (238, 190, 172)], np.float64)


@dataclasses.dataclass(frozen=True)
class Expression:
    """Action units and a few more, each 0 (at rest) to 1 (as far as it goes) unless said otherwise.

    Args:
        inner_brow_raise: AU1. outer_brow_raise: AU2. brow_lower: AU4, lowered and drawn together.
        upper_lid_raise: AU5. lid_tighten: AU7. lid_droop: heavy upper lids, AU43 in part.
        cheek_raise: AU6. nose_wrinkle: AU9. upper_lip_raise: AU10.
        lip_corner_pull: AU12. lip_corner_depress: AU15. chin_raise: AU17.
        lip_pucker: AU18. lip_stretch: AU20. lip_press: AU24. lips_part: AU25.
        jaw_drop: AU26 and AU27. tongue_out: AU19. cheek_puff: AU34.
        mouth_asymmetry: -1 (only the image's left half of the mouth moves) to 1 (only the right).
        brow_asymmetry: the same for the brows.
        blink_left: the eye at the image's left, 1 is shut. blink_right: the other one.
        gaze_x: -1 (image left) to 1. gaze_y: -1 (up) to 1 (down).
    """

    inner_brow_raise: float = 0.0
    outer_brow_raise: float = 0.0
    brow_lower: float = 0.0
    upper_lid_raise: float = 0.0
    lid_tighten: float = 0.0
    lid_droop: float = 0.0
    cheek_raise: float = 0.0
    nose_wrinkle: float = 0.0
    upper_lip_raise: float = 0.0
    lip_corner_pull: float = 0.0
    lip_corner_depress: float = 0.0
    chin_raise: float = 0.0
    lip_pucker: float = 0.0
    lip_stretch: float = 0.0
    lip_press: float = 0.0
    lips_part: float = 0.0
    jaw_drop: float = 0.0
    tongue_out: float = 0.0
    cheek_puff: float = 0.0
    mouth_asymmetry: float = 0.0
    brow_asymmetry: float = 0.0
    blink_left: float = 0.0
    blink_right: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0

    def brow_share(self, sign: float) -> float:
        """How much of the brows' movement one side makes, 0 to 1; `sign` is -1 at image left."""
        return min(max(1 + sign * self.brow_asymmetry, 0.0), 1.0)

    def mouth_share(self, sign: float) -> float:
        """How much of the mouth's movement one side makes, 0 to 1; `sign` is -1 at image left."""
        return min(max(1 + sign * self.mouth_asymmetry, 0.0), 1.0)

    def toward(self, other: "Expression", amount: float) -> "Expression":
        """Returns the expression `amount` of the way to `other`: (1 - amount) self + amount other.

        >>> Expression().toward(Expression(jaw_drop=0.8), 0.5).jaw_drop
        0.4
        """
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Expression(*((1 - amount) * mine + amount * theirs for mine, theirs in pairs))


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who is drawn: colours, geometry as factors or offsets of an average face, and habits."""

    skin: Colour
    lip: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    cloth: Colour
    hair_style: str
    beard: str
    glasses: str
    glasses_colour: Colour
    texture_seed: int  # of freckles, curls and strands
    face_width: float = 1.0
    jaw_width: float = 1.0
    chin_length: float = 0.0
    eye_distance: float = 0.0
    eye_width: float = 1.0
    eye_opening: float = 1.0
    eye_tilt: float = 0.0
    eye_line: float = 0.0
    lid_crease: float = 0.5
    lashes: float = 0.3
    brow_height: float = 0.0
    brow_thickness: float = 1.0
    brow_arch: float = 0.0
    brow_tilt: float = 0.0
    nose_width: float = 1.0
    nose_length: float = 0.0
    mouth_width: float = 1.0
    mouth_height: float = 0.0
    mouth_curve: float = 0.0
    upper_lip: float = 1.0
    lower_lip: float = 1.0
    age: float = 0.2
    freckles: float = 0.0
    blush: float = 0.2
    style: tuple[float, ...] = ()  # how strongly this person uses each field of Expression

    def expressed(self, expression: Expression) -> Expression:
        """Returns the expression in this person's manner: each field times its own habit."""
        if not self.style:
            return expression
        pairs = zip(vars(expression).values(), self.style, strict=True)
        return Expression(*(value * habit for value, habit in pairs))


@dataclasses.dataclass(frozen=True)
class Pose:
    """How the head is held: zero everywhere puts the five points on the template.

    Args:
        yaw: degrees, positive turns to the image's right. pitch: positive looks down.
        roll: degrees, positive turns clockwise. x, y: shift. scale: 1 is the aligned face.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where and by what the face is seen: light, surroundings and camera.

    Args:
        azimuth: where the light comes from, degrees, positive from the image's right.
        elevation: degrees above the horizon. ambient: share of light without direction.
        gain: brightness. contrast: about mid grey. cast: a factor for each colour.
        unevenness: spread of patches of light and shade across the image.
        seed: of the background, of those patches and of the occluder's place.
        occluder: one of OCCLUDERS. grey: whether the camera sees no colour.
        blur: standard deviation, pixels. noise: half width of its distribution, grey levels.
        jpeg: quality 1 to 100, or 0 for none.
    """

    azimuth: float = 0.0
    elevation: float = 30.0
    ambient: float = 0.6
    gain: float = 1.0
    contrast: float = 1.0
    cast: Colour = (1.0, 1.0, 1.0)
    unevenness: float = 0.0
    seed: int = 0
    occluder: str = "none"
    grey: bool = False
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int = 0


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draws a person; two generators in the same state give the same person."""

    def spread(centre: float, deviation: float) -> float:
        return float(centre + deviation * np.clip(rng.standard_normal(), -2.2, 2.2))

    tone = rng.beta(0.6, 0.6) * (len(_SKIN_TONES) - 1.001)
    below, part = int(tone), tone - int(tone)
    skin = (1 - part) * _SKIN_TONES[below] + part * _SKIN_TONES[below + 1]
    skin = np.clip(skin * rng.normal(1, (0.03, 0.035, 0.05)), 20, 255)
    feminine = rng.random() < 0.5
    age = rng.beta(1.3, 2.2)
    share = _HAIR_SHARE.copy()
    share[7:9] *= 0.2 + 4 * age
    share[3:7] *= 1.3 - 0.22 * tone  # fair hair is rarer over dark skin
    hair = _HAIR_COLOURS[rng.choice(len(share), p=share / share.sum())] * rng.normal(1, 0.08)
    bright = skin.mean()
    light_brows = rng.random() < np.clip((165 - bright) / 60, 0.04, 0.75)
    if light_brows:
        brow = _LIGHT_BROWS[rng.integers(len(_LIGHT_BROWS))] * rng.normal(1, 0.06)
        if rng.random() < 0.6:
            hair = brow * rng.uniform(0.8, 1.0)
    else:
        brow = np.minimum(hair, 0.75 * skin) * rng.uniform(0.5, 0.85)
    lip = skin * (0.86, 0.62, 0.64) + (14, 2, 6)
    if rng.random() < np.clip((165 - bright) / 60, 0.0, 0.7):
        strength = rng.uniform(0.4, 0.8)
        lip = (1 - strength) * lip + strength * _LIGHT_LIPS[rng.integers(len(_LIGHT_LIPS))]
    elif feminine and rng.random() < 0.5:
        strength = rng.uniform(0.5, 0.95)
        lip = (1 - strength) * lip + strength * _LIPSTICKS[rng.integers(len(_LIPSTICKS))]
    if feminine:
        styles = ("fringe", "long", "long_parted", "curly", "afro", "tied_back", "headscarf")
        styles = (*styles, "short", "side_part", "beanie", "long")
        beard = "none"
    else:
        styles = ("bald", "receding", "buzz", "short", "short", "side_part", "fringe", "curly")
        styles = (*styles, "beanie", "afro", "long_parted")
        beard = BEARDS[rng.choice(len(BEARDS), p=(0.45, 0.18, 0.1, 0.09, 0.18))]
    return Identity(
        skin=_colour(skin),
        lip=_colour(lip),
        hair=_colour(hair),
        brow=_colour(brow),
        iris=_colour(_IRIS_COLOURS[rng.choice(6, p=_iris_share(tone))] * rng.normal(1, 0.1)),
        cloth=_colour(rng.uniform(20, 240, 3)),
        hair_style=str(rng.choice(styles)),
        beard=beard,
        glasses=GLASSES[rng.choice(len(GLASSES), p=(0.74, 0.1, 0.1, 0.06))],
        glasses_colour=_colour(rng.uniform(10, 110, 3) if rng.random() < 0.8 else (196, 160, 90)),
        texture_seed=int(rng.integers(2**31)),
        face_width=spread(1, 0.055),
        jaw_width=spread(0.97 if feminine else 1.03, 0.06),
        chin_length=spread(0, 2.2),
        eye_distance=spread(0, 0.9),
        eye_width=spread(1.06 if feminine else 1.0, 0.07),
        eye_opening=spread(1.05 if feminine else 0.97, 0.1),
        eye_tilt=spread(0.6, 0.9),
        eye_line=spread(0, 0.8),
        lid_crease=float(rng.uniform(0, 1)),
        lashes=float(rng.uniform(0.5, 1) if feminine else rng.uniform(0.1, 0.4)),
        brow_height=spread(0, 1.1),
        brow_thickness=spread(0.85 if feminine else 1.15, 0.22),
        brow_arch=spread(0.4 if feminine else 0, 0.8),
        brow_tilt=spread(0, 0.9),
        nose_width=spread(0.95 if feminine else 1.05, 0.12),
        nose_length=spread(0, 1.5),
        mouth_width=spread(1, 0.09),
        mouth_height=spread(0, 1.0),
        mouth_curve=spread(0, 0.8),
        upper_lip=spread(1.1 if feminine else 0.9, 0.25),
        lower_lip=spread(1.1 if feminine else 0.9, 0.22),
        age=float(age),
        freckles=float(max(0.0, rng.uniform(-2.5, 1))) if tone < 3 else 0.0,
        blush=float(rng.uniform(0, 0.6 if feminine else 0.3)),
        style=tuple(np.clip(rng.normal(1, 0.13, len(dataclasses.fields(Expression))), 0.7, 1.3)),
    )


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draws what alignment on five points leaves: turns of the head, small errors in plane."""
    turn = np.clip(rng.standard_normal(6), -2.2, 2.2)
    return Pose(
        yaw=float(13 * turn[0]),
        pitch=float(7 * turn[1]),
        roll=float(5.5 * turn[2]),
        x=float(2.0 * turn[3]),
        y=float(2.0 * turn[4]),
        scale=float(1 + 0.05 * turn[5]),
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws light, surroundings and camera, from a studio to a bad telephone."""
    bad_camera = rng.random() < 0.2
    return Scene(
        azimuth=float(rng.uniform(-80, 80)),
        elevation=float(rng.uniform(-25, 70)),
        ambient=float(rng.uniform(0.4, 0.85)),
        gain=float(np.exp(0.16 * np.clip(rng.standard_normal(), -2, 2))),
        contrast=float(np.exp(rng.normal(0, 0.1))),
        cast=_colour(np.exp(rng.normal(0, 0.05, 3))),
        unevenness=float(rng.uniform(0, 0.2)),
        seed=int(rng.integers(2**31)),
        occluder=str(rng.choice(OCCLUDERS[1:])) if rng.random() < 0.08 else "none",
        grey=bool(rng.random() < 0.06),
        blur=float(rng.uniform(0.6, 1.3) if bad_camera else rng.uniform(0, 0.5)),
        noise=float(rng.uniform(8, 26) if bad_camera else rng.uniform(0, 9)),
        jpeg=int(rng.integers(35, 96)),
    )


def _iris_share(tone: float) -> np.ndarray:
    brown = 1 + tone
    share = np.array([brown, brown, 1, 1.2, 0.6, 0.5])
    return share / share.sum()


def _colour(values: np.ndarray | Colour) -> Colour:
    red, green, blue = (float(v) for v in values)
    return (red, green, blue)
