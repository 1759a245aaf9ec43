"""A data set of drawn faces: eight expressions, any number of people, no licence to ask for.

Each class is a few mixes of action units of its own, since people frown with the mouth shut and
with bared teeth; the mixes overlap in every single feature (open mouths, lowered brows, wide eyes),
so that only their combination tells the class.
"""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.atomic import atomic_directory
from fer_jax.data.face_drawing.features import draw_face
from fer_jax.data.face_drawing.parameters import (
    Expression,
    Identity,
    sample_identity,
    sample_pose,
    sample_scene,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

LABEL_SPACE = "affwild2_expr"
CLASSES = label_space(LABEL_SPACE).classes

_Mix = dict[str, tuple[float, float]]
_FROWN: _Mix = {"brow_lower": (0.7, 1.0), "lid_tighten": (0.2, 0.7)}
_RAISED: _Mix = {"inner_brow_raise": (0.7, 1.0), "outer_brow_raise": (0.7, 1.0)}
_GRIEF: _Mix = {"inner_brow_raise": (0.7, 1.0), "brow_lower": (0.1, 0.35), "lid_droop": (0.3, 0.8)}
_TERROR: _Mix = {
    "inner_brow_raise": (0.75, 1.0),
    "outer_brow_raise": (0.15, 0.4),
    "brow_lower": (0.25, 0.45),
    "upper_lid_raise": (0.7, 1.0),
}
_CREASED: _Mix = {"nose_wrinkle": (0.7, 1.0), "brow_lower": (0.2, 0.6), "lid_tighten": (0.4, 0.9)}

_MIXES: dict[str, tuple[_Mix, ...]] = {
    "Neutral": (
        {},
        {"lips_part": (0.2, 0.6)},
        {"jaw_drop": (0.05, 0.15), "lips_part": (0.2, 0.5)},  # caught in mid word
        {"lid_droop": (0.1, 0.3)},
    ),
    "Anger": (
        {**_FROWN, "lip_press": (0.6, 1.0), "chin_raise": (0.0, 0.4)},
        {
            **_FROWN,
            "upper_lid_raise": (0.2, 0.6),
            "lips_part": (0.8, 1.0),
            "upper_lip_raise": (0.3, 0.6),
            "lip_corner_depress": (0.2, 0.6),
            "lip_stretch": (0.2, 0.5),
        },
        {
            **_FROWN,
            "upper_lid_raise": (0.3, 0.7),
            "jaw_drop": (0.45, 0.8),
            "lips_part": (0.8, 1.0),
            "upper_lip_raise": (0.2, 0.6),
        },
    ),
    "Disgust": (
        {**_CREASED, "upper_lip_raise": (0.5, 0.9), "lip_corner_depress": (0.3, 0.7)},
        {**_CREASED, "upper_lip_raise": (0.7, 1.0), "lips_part": (0.6, 1.0)},
        {
            **_CREASED,
            "upper_lip_raise": (0.5, 0.8),
            "tongue_out": (0.5, 0.9),
            "lips_part": (0.6, 1.0),
            "lip_corner_depress": (0.2, 0.5),
        },
    ),
    "Fear": (
        {**_TERROR, "lip_stretch": (0.6, 1.0), "lips_part": (0.6, 1.0)},
        {**_TERROR, "lip_stretch": (0.6, 1.0), "lips_part": (0.7, 1.0), "jaw_drop": (0.2, 0.5)},
        {
            **_TERROR,
            "lip_stretch": (0.6, 0.9),
            "lip_press": (0.0, 0.3),
            "lip_corner_depress": (0.0, 0.4),
        },
    ),
    "Happiness": (
        {"lip_corner_pull": (0.7, 1.0), "cheek_raise": (0.4, 0.9)},
        {"lip_corner_pull": (0.7, 1.0), "cheek_raise": (0.5, 1.0), "lips_part": (0.7, 1.0)},
        {
            "lip_corner_pull": (0.7, 1.0),
            "cheek_raise": (0.5, 1.0),
            "lips_part": (0.8, 1.0),
            "jaw_drop": (0.3, 0.6),
            "inner_brow_raise": (0.0, 0.4),
            "outer_brow_raise": (0.0, 0.5),
        },
    ),
    "Sadness": (
        {**_GRIEF, "lip_corner_depress": (0.6, 1.0), "chin_raise": (0.2, 0.7)},
        {**_GRIEF, "lip_corner_depress": (0.5, 0.9), "lips_part": (0.3, 0.8), "gaze_y": (0.4, 1.0)},
        {**_GRIEF, "lip_corner_depress": (0.5, 0.9), "lip_press": (0.3, 0.7), "gaze_y": (0.0, 0.8)},
    ),
    "Surprise": (
        {**_RAISED, "upper_lid_raise": (0.5, 1.0), "jaw_drop": (0.6, 1.0), "lips_part": (0.5, 0.9)},
        {**_RAISED, "upper_lid_raise": (0.5, 1.0), "jaw_drop": (0.3, 0.6), "lips_part": (0.3, 0.6)},
        {
            **_RAISED,
            "upper_lid_raise": (0.4, 0.9),
            "jaw_drop": (0.3, 0.6),
            "lip_pucker": (0.5, 0.8),
            "lips_part": (0.5, 0.9),
        },
    ),
    "Other": (
        {"lip_pucker": (0.8, 1.0), "blink_left": (0.9, 1.0), "blink_right": (0.9, 1.0)},
        {
            "cheek_puff": (0.7, 1.0),
            "lip_press": (0.6, 1.0),
            "blink_left": (0.9, 1.0),
            "blink_right": (0.9, 1.0),
        },
        {
            "tongue_out": (0.8, 1.0),
            "lips_part": (0.5, 1.0),
            "jaw_drop": (0.2, 0.5),
            "wink": (0.3, 1.0),
        },
        {"wink": (1.0, 1.0), "lip_corner_pull": (0.3, 0.7), "mouth_asymmetry": (0.7, 1.0)},
        {
            "smirk": (1.0, 1.0),
            "lip_corner_pull": (0.7, 1.0),
            "outer_brow_raise": (0.8, 1.0),
            "inner_brow_raise": (0.4, 0.7),
        },
    ),
}


def sample_expression(label: str, rng: np.random.Generator) -> Expression:
    """Draws a face of a class: one of its mixes, each action unit in its range, and small noise.

    Args:
        label: class name or alias of the space affwild2_expr.
        rng: two generators in the same state give the same expression.

    Raises:
        FerJaxError: no such class.
    """
    name = CLASSES[label_space(LABEL_SPACE).index(label)]
    mixes = _MIXES[name]
    mix = mixes[rng.integers(len(mixes))]
    fields = list(vars(Expression()))
    unrest = np.abs(rng.normal(0, 0.06, len(fields)))
    values = dict(zip(fields, unrest.tolist(), strict=True))
    for field in ("blink_left", "blink_right", "tongue_out", "cheek_puff", "lip_pucker"):
        values[field] = 0.0
    values["gaze_x"] = float(np.clip(rng.normal(0, 0.4), -1, 1))
    values["gaze_y"] = float(np.clip(rng.normal(0, 0.25), -1, 1))
    values["mouth_asymmetry"] = float(np.clip(rng.normal(0, 0.15), -0.4, 0.4))
    values["brow_asymmetry"] = float(np.clip(rng.normal(0, 0.12), -0.4, 0.4))
    side = 1.0 if rng.random() < 0.5 else -1.0
    drawn = {field: float(rng.uniform(*limits)) for field, limits in mix.items()}
    if drawn.pop("wink", 0.0) > 0.5:
        values["blink_right" if side > 0 else "blink_left"] = 1.0
        drawn["mouth_asymmetry"] = drawn.get("mouth_asymmetry", 0.3)
    if drawn.pop("smirk", 0.0):
        drawn["mouth_asymmetry"] = float(rng.uniform(0.8, 1.0))
        drawn["brow_asymmetry"] = float(rng.uniform(0.8, 1.0))
    for field in ("mouth_asymmetry", "brow_asymmetry"):
        if field in drawn:
            drawn[field] *= side
    return Expression(**(values | drawn))


def synthetic_identity(seed: int, subject: int) -> Identity:
    """The person number `subject` of the data set `seed`."""
    return sample_identity(np.random.default_rng((seed, subject)))


def synthetic_face(
    seed: int, subject: int, sample: int, *, size: int = 112
) -> tuple[UInt8[np.ndarray, "{size} {size} 3"], str]:
    """Draws one face of a data set and names its class.

    The picture depends on the arguments alone, not on how many others are drawn. Classes take
    turns: sample k of every person shows class k modulo 8.

    Args:
        seed: the data set.
        subject: the person.
        sample: which picture of the person.
        size: pixels of the square picture.

    Returns:
        The RGB picture and the class name.
    """
    label = CLASSES[sample % len(CLASSES)]
    rng = np.random.default_rng((seed, subject, sample))
    expression = sample_expression(label, rng)
    pose, scene = sample_pose(rng), sample_scene(rng)
    face = draw_face(synthetic_identity(seed, subject), expression, pose, scene, rng, size)
    return face, label


def write_synthetic_faces(
    folder: str | os.PathLike[str],
    *,
    identities: int,
    images_per_identity: int,
    size: int = 112,
    seed: int = 0,
    validation_fraction: float = 0.2,
    overwrite: bool = False,
) -> Path:
    """Draws a labelled image folder: `<split>/<Class>/*.png` and `labels.csv`.

    Args:
        folder: where to write; it appears when it is whole.
        identities: number of people; nobody is in both splits.
        images_per_identity: pictures of each person; multiples of 8 balance the classes.
        size: pixels of the square pictures.
        seed: of everything.
        validation_fraction: share of people in the split `validation`; the others are in `train`.
        overwrite: replace a folder that exists.

    Returns:
        The folder. `labels.csv` in it has the columns path, label, split, subject.

    Raises:
        FerJaxError: impossible numbers, or the folder exists.
    """
    if identities < 1 or images_per_identity < 1:
        raise FerJaxError(f"{identities=}, {images_per_identity=}: both must be at least 1")
    if size < 16:
        raise FerJaxError(f"{size=}: a face needs at least 16 pixels")
    if seed < 0:
        raise FerJaxError(f"{seed=}: must not be negative")
    held_out = round(identities * validation_fraction)
    if not 0 <= validation_fraction < 1 or held_out >= identities:
        raise FerJaxError(
            f"{validation_fraction=} of {identities=} leaves nobody to train on; choose less"
        )
    if validation_fraction > 0 and held_out == 0:
        raise FerJaxError(
            f"{validation_fraction=} of {identities=} is nobody; ask for more identities"
        )
    folder = Path(folder)
    with atomic_directory(folder, marker="labels.csv", overwrite=overwrite) as partial:
        rows = []
        for split in ("train", "validation") if held_out else ("train",):
            for name in CLASSES:
                (partial / split / name).mkdir(parents=True)
        for subject in range(identities):
            split = "train" if subject < identities - held_out else "validation"
            for sample in range(images_per_identity):
                face, label = synthetic_face(seed, subject, sample, size=size)
                path = f"{split}/{label}/person{subject:04d}_{sample:03d}.png"
                _write_png(partial / path, face)
                rows.append((path, label, split, f"person{subject:04d}"))
        with open(partial / "labels.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("path", "label", "split", "subject"))
            writer.writerows(rows)
    return folder


def _write_png(path: Path, picture: np.ndarray) -> None:
    # Noise does not compress: the lowest level is as small as the default, and four times faster.
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", bgr, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1]
    path.write_bytes(encoded.tobytes())
