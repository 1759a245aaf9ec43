"""What happens to a training face on the host: crop, flip, RandAugment, random erasing."""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.data.randaugment import FILL, MAX_MAGNITUDE, rand_augment
from fer_jax.errors import FerJaxError

# ImageNet's standard deviation in grey levels: what erased pixels scatter with.
_NOISE_STD = (58.395, 57.12, 57.375)
_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training faces vary. All draws come from the generator that is handed in.

    Attributes:
        crop_scale: range of the crop's area, as a fraction of the view's.
        crop_ratio: range of the crop's width / height, drawn on a logarithmic scale.
        flip: mirror half of the faces.
        randaugment_layers: operations of RandAugment for each face; 0 turns it off.
        randaugment_magnitude: their strength, 0 to 10.
        erasing: probability that a rectangle is replaced by noise.

    Raises:
        FerJaxError: a value is out of its range.
    """

    crop_scale: tuple[float, float] = (0.8, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    randaugment_layers: int = 0
    randaugment_magnitude: float = 9.0
    erasing: float = 0.0

    def __post_init__(self):
        checks = {
            "crop_scale": 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1,
            "crop_ratio": 0 < self.crop_ratio[0] <= self.crop_ratio[1],
            "randaugment_layers": self.randaugment_layers >= 0,
            "randaugment_magnitude": 0 <= self.randaugment_magnitude <= MAX_MAGNITUDE,
            "erasing": 0 <= self.erasing <= 1,
        }
        for name, good in checks.items():
            if not good:
                raise FerJaxError(
                    f"augmentation.{name}={getattr(self, name)} is out of range: scales in (0, 1] "
                    "and ascending, ratios positive and ascending, layers from 0, magnitude in "
                    "0..10, erasing in 0..1"
                )


def flips(rng: np.random.Generator, augmentation: Augmentation) -> bool:
    """Draws whether a face is mirrored, in all of its views alike."""
    return augmentation.flip and rng.random() < 0.5


def augment(
    view: UInt8[np.ndarray, "height width 3"],
    rng: np.random.Generator,
    *,
    image_size: int,
    augmentation: Augmentation,
    mirrored: bool,
) -> UInt8[np.ndarray, "size size 3"]:
    """Makes a training image of a view, in timm's order.

    Args:
        view: uint8 RGB, cut from the aligned face.
        rng: where all randomness comes from.
        image_size: side of the square that comes out, in pixels.
        augmentation: what to do.
        mirrored: whether to flip it; `flips` draws that, once for all views of a face.

    Returns:
        uint8 RGB.
    """
    image = _random_resized_crop(view, rng, image_size, augmentation)
    if mirrored:
        image = cv2.flip(image, 1)
    if augmentation.randaugment_layers:
        image = rand_augment(
            image,
            rng,
            layers=augmentation.randaugment_layers,
            magnitude=augmentation.randaugment_magnitude,
        )
    if rng.random() < augmentation.erasing:
        image = _erase(image, rng)
    return image


def _random_resized_crop(
    view: np.ndarray, rng: np.random.Generator, size: int, augmentation: Augmentation
) -> np.ndarray:
    """Crops a random rectangle and resizes it in one call.

    Where it grows, by bicubic interpolation (INTER_CUBIC, a = -0.75). Where it shrinks by less
    than two, bilinearly: that passes over no pixel, is as near to Pillow's antialiased bicubic as
    averages over areas are (0.7 to 0.9 levels), and five times as fast. Else by averaging areas.
    """
    height, width = view.shape[:2]
    top, left, rows, columns = crop_box(height, width, rng, augmentation)
    crop = view[top : top + rows, left : left + columns]
    side = max(rows, columns)
    if side <= size:
        kernel = cv2.INTER_CUBIC
    else:
        kernel = cv2.INTER_LINEAR if side < 2 * size else cv2.INTER_AREA
    return cv2.resize(crop, (size, size), interpolation=kernel)


def crop_box(
    height: int, width: int, rng: np.random.Generator, augmentation: Augmentation
) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) of a random crop, as torchvision draws it.

    The drawn ratio is relative to the view's own, so that a view that is not square, such as
    eyes over mouth, is distorted no more than a face.
    """
    low, high = (math.log(ratio) for ratio in augmentation.crop_ratio)
    least, most = augmentation.crop_scale
    # `random` is four times as fast as `uniform` and `integers`, and this is done for every face.
    for _ in range(_TRIES):
        area = least + (most - least) * rng.random()
        ratio = math.exp(low + (high - low) * rng.random())
        columns = round(width * math.sqrt(area * ratio))
        rows = round(height * math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(rng.random() * (height - rows + 1))
            left = int(rng.random() * (width - columns + 1))
            return top, left, rows, columns
    return 0, 0, height, width


def _erase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replaces one rectangle by noise of ImageNet's mean and deviation, pixel by pixel.

    This is timm's RandomErasing in mode `pixel` (an area of 2 to 33 %), which adds unit noise
    after normalising; here the noise is cut off at 0 and 255.
    """
    height, width = image.shape[:2]
    for _ in range(_TRIES):
        area = rng.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < rows < height and 0 < columns < width:
            top = int(rng.integers(height - rows + 1))
            left = int(rng.integers(width - columns + 1))
            noise = rng.standard_normal((rows, columns, 3), np.float32)
            noise = noise * np.asarray(_NOISE_STD, np.float32) + np.asarray(FILL, np.float32)
            image = image.copy()
            image[top : top + rows, left : left + columns] = np.clip(np.rint(noise), 0, 255)
            return image
    return image
