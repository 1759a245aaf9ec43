"""RandAugment on uint8 images, with timm's increasing operations written as tables and warps.

Ten strengths in 0..10 as in timm's `rand-m9-mstd0.5-inc1`, the recipe of MAE's fine-tuning: each
layer draws one of fifteen operations and applies it with probability 1/2, at a strength drawn
around the magnitude.

Source: timm `data/auto_augment.py`; Pillow's definitions of the operations.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "height width 3"]

# ImageNet's mean colour: neutral for the usual normalisations, and what timm fills with.
FILL = (124, 116, 104)
MAX_MAGNITUDE = 10.0
_STRENGTH_STD = 0.5
_PROBABILITY = 0.5
_levels = np.arange(256)


def _blend_table(factor: float, base: float) -> UInt8[np.ndarray, "256"]:
    """Pillow's blend of every grey level with one level: in float32, truncated, not rounded."""
    levels = np.float32(base) + np.float32(factor) * (_levels.astype(np.float32) - np.float32(base))
    return np.clip(levels, 0, 255).astype(np.uint8)


def _lookup(image: Image, table: np.ndarray) -> Image:
    return cv2.LUT(image, table)


def brightness(image: Image, factor: float) -> Image:
    """Blends with black; a factor of 1 changes nothing."""
    return _lookup(image, _blend_table(factor, 0.0))


def contrast(image: Image, factor: float) -> Image:
    """Blends with the mean grey level."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return _lookup(image, _blend_table(factor, float(math.floor(grey.mean() + 0.5))))


def color(image: Image, factor: float) -> Image:
    """Blends with the grey image."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1.0 - factor, 0.0)


def sharpen(image: Image, factor: float) -> Image:
    """Blends with a smoothed image (Pillow's SMOOTH kernel); the outermost pixels stay."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5.0
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel / kernel.sum())[1:-1, 1:-1]
    return cv2.addWeighted(image, factor, smooth, 1.0 - factor, 0.0)


def auto_contrast(image: Image) -> Image:
    """Stretches each channel to the full range."""
    tables = np.empty((1, 256, 3), np.uint8)
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    for channel in range(3):
        span = int(high[channel]) - int(low[channel])
        stretched = (_levels - int(low[channel])) * (255.0 / span) if span else _levels
        tables[0, :, channel] = np.clip(stretched, 0, 255).astype(np.uint8)
    return _lookup(image, tables)


def equalize(image: Image) -> Image:
    """Flattens the histogram of each channel, as Pillow does."""
    tables = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        used = counts[counts > 0]
        step = (int(used.sum()) - int(used[-1])) // 255
        table = _levels
        if len(used) > 1 and step:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            table = np.minimum((step // 2 + before) // step, 255)
        tables[0, :, channel] = table
    return _lookup(image, tables)


def invert(image: Image) -> Image:
    """The negative."""
    return 255 - image


def posterize(image: Image, bits: int) -> Image:
    """Keeps the highest bits of each channel."""
    return image & np.uint8(256 - 2 ** (8 - bits))


def solarize(image: Image, threshold: int) -> Image:
    """Inverts the levels from the threshold on."""
    return _lookup(image, np.where(_levels < threshold, _levels, 255 - _levels).astype(np.uint8))


def solarize_add(image: Image, added: int, threshold: int = 128) -> Image:
    """Lightens the levels below the threshold."""
    table = np.where(_levels < threshold, np.minimum(_levels + added, 255), _levels)
    return _lookup(image, table.astype(np.uint8))


def _warp(image: Image, matrix: list[list[float]]) -> Image:
    """Moves pixels bilinearly; the matrix leads from an output to an input position.

    Positions are of pixel corners, as Pillow's; OpenCV's are of pixel centres.
    """
    inverse = np.asarray(matrix, np.float64)
    inverse[:, 2] += inverse[:, :2].sum(axis=1) * 0.5 - 0.5
    height, width = image.shape[:2]
    return cv2.warpAffine(
        image,
        inverse,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=FILL,
    )


def shear_x(image: Image, factor: float) -> Image:
    """Shifts each row by `factor` of its height in the image."""
    return _warp(image, [[1.0, factor, 0.0], [0.0, 1.0, 0.0]])


def shear_y(image: Image, factor: float) -> Image:
    """Shifts each column by `factor` of its place in the row."""
    return _warp(image, [[1.0, 0.0, 0.0], [factor, 1.0, 0.0]])


def translate_x(image: Image, fraction: float) -> Image:
    """Shifts to the left by a fraction of the width."""
    return _warp(image, [[1.0, 0.0, fraction * image.shape[1]], [0.0, 1.0, 0.0]])


def translate_y(image: Image, fraction: float) -> Image:
    """Shifts upwards by a fraction of the height."""
    return _warp(image, [[1.0, 0.0, 0.0], [0.0, 1.0, fraction * image.shape[0]]])


def rotate(image: Image, degrees: float) -> Image:
    """Turns counter-clockwise about the centre."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    y, x = image.shape[0] / 2, image.shape[1] / 2
    return _warp(image, [[cos, -sin, x - x * cos + y * sin], [sin, cos, y - x * sin - y * cos]])


def _signed(rng: np.random.Generator, value: float) -> float:
    return -value if rng.random() < 0.5 else value


def _enhancement(rng: np.random.Generator, strength: float) -> float:
    return max(0.1, 1.0 + _signed(rng, 0.9 * strength))


# What an operation makes of a strength in 0..1: timm's "increasing" scales, where more is stronger.
Operation = Callable[[Image, np.random.Generator, float], Image]
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, rng, s: auto_contrast(image),
    "equalize": lambda image, rng, s: equalize(image),
    "invert": lambda image, rng, s: invert(image),
    "rotate": lambda image, rng, s: rotate(image, _signed(rng, 30.0 * s)),
    # timm keeps no bit at all at full strength, which is a black image; we keep one.
    "posterize": lambda image, rng, s: posterize(image, max(1, 4 - int(4 * s))),
    "solarize": lambda image, rng, s: solarize(image, 256 - int(256 * s)),
    "solarize_add": lambda image, rng, s: solarize_add(image, min(128, int(110 * s))),
    "color": lambda image, rng, s: color(image, _enhancement(rng, s)),
    "contrast": lambda image, rng, s: contrast(image, _enhancement(rng, s)),
    "brightness": lambda image, rng, s: brightness(image, _enhancement(rng, s)),
    "sharpness": lambda image, rng, s: sharpen(image, _enhancement(rng, s)),
    "shear_x": lambda image, rng, s: shear_x(image, _signed(rng, 0.3 * s)),
    "shear_y": lambda image, rng, s: shear_y(image, _signed(rng, 0.3 * s)),
    "translate_x": lambda image, rng, s: translate_x(image, _signed(rng, 0.45 * s)),
    "translate_y": lambda image, rng, s: translate_y(image, _signed(rng, 0.45 * s)),
}
_NAMES = tuple(OPERATIONS)


def rand_augment(image: Image, rng: np.random.Generator, *, layers: int, magnitude: float) -> Image:
    """Applies random operations.

    Args:
        image: uint8 RGB.
        rng: where all randomness comes from.
        layers: how many operations are drawn, each applied with probability 1/2.
        magnitude: their strength, 0 to 10; each is drawn from N(magnitude, 0.5).

    Returns:
        An image of the same size.
    """
    for _ in range(layers):
        name = _NAMES[rng.integers(len(_NAMES))]
        applied = rng.random() < _PROBABILITY
        strength = np.clip(rng.normal(magnitude, _STRENGTH_STD), 0.0, MAX_MAGNITUDE)
        if applied:
            image = OPERATIONS[name](image, rng, float(strength) / MAX_MAGNITUDE)
    return image
