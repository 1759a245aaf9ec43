"""Normalisation of images by the mean and standard deviation that a model was trained with."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped

# Of RGB in [0, 1]: ImageNet's, and what the MAE-Face lab's own downstream code uses.
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mae_face": (
        (0.49895147, 0.41043906, 0.36561476),
        (0.29708471, 0.26990031, 0.26525996),
    ),
}

_Array = Array | np.ndarray


def normalize(
    images: Shaped[_Array, "*batch height width 3"], mean: Sequence[float], std: Sequence[float]
) -> Float32[_Array, "*batch height width 3"]:
    """Computes `(x / 255 - mean) / std`, channel by channel.

    Args:
        images: RGB, uint8 or float in [0, 255]; one, or with leading axes.
        mean: of each channel, for images in [0, 1].
        std: of each channel.

    Returns:
        float32 images; numpy in, numpy out, else jax.

    Example:
        >>> normalize(np.full((1, 1, 3), 255), (0.5, 0.0, 1.0), (0.5, 1.0, 2.0)).tolist()
        [[[1.0, 1.0, 0.0]]]
    """
    xp = np if isinstance(images, np.ndarray) else jnp
    shape = (*[1] * (images.ndim - 1), 3)
    means, stds = (xp.asarray(row, np.float32).reshape(shape) for row in (mean, std))
    return (xp.asarray(images, np.float32) / np.float32(255) - means) / stds
