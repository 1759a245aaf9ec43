"""Faces, what a masked autoencoder sees of them, and what it makes of that, as one picture."""

import os

import numpy as np
from jaxtyping import Float, Float32

from fer_jax.atomic import atomic_file
from fer_jax.models.mae import patchify, unpatchify

_HIDDEN = 0.75  # grey
_ROWS = ("original", "masked", "reconstructed")
_INCHES = 1.1  # of a face


def paint(
    faces: Float[np.ndarray, "b s s 3"],
    prediction: Float[np.ndarray, "b n d"],
    mask: Float[np.ndarray, "b n"],
    *,
    patch_size: int,
    norm_pix: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[Float32[np.ndarray, "b s s 3"], Float32[np.ndarray, "b s s 3"]]:
    """What is seen of faces, and the same with the hidden patches painted in.

    With `norm_pix` a prediction says nothing of a patch's mean and deviation: those of the original
    are taken, as in MAE's own pictures.

    Args:
        faces: normalised.
        prediction: of all patches, as `models.mae.apply` gives it.
        mask: 1 where a patch is hidden.
        patch_size: pixels.
        norm_pix: of the model.
        mean: of the normalisation.
        std: of the normalisation.

    Returns:
        RGB in [0, 1]: hidden patches grey, and painted.
    """
    patches = np.asarray(patchify(faces, patch_size))
    if norm_pix:
        variance = patches.var(axis=-1, keepdims=True, ddof=1)
        prediction = prediction * np.sqrt(variance + 1e-6) + patches.mean(axis=-1, keepdims=True)
    hidden = mask[..., None] > 0
    whole = np.asarray(unpatchify(np.where(hidden, prediction, patches), patch_size))
    shown = np.asarray(patchify(in_colour(faces, mean, std), patch_size))
    seen = unpatchify(np.where(hidden, np.float32(_HIDDEN), shown), patch_size)
    return np.asarray(seen), in_colour(whole, mean, std)


def in_colour(
    images: Float[np.ndarray, "b s s 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[np.ndarray, "b s s 3"]:
    """Normalised images as RGB in [0, 1]."""
    rgb = images * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return np.clip(rgb, 0, 1).astype(np.float32)


def draw_reconstructions(
    path: str | os.PathLike[str],
    original: Float[np.ndarray, "b s s 3"],
    seen: Float[np.ndarray, "b s s 3"],
    painted: Float[np.ndarray, "b s s 3"],
) -> None:
    """Writes the three rows, a column for each face, as PNG.

    Args:
        path: the file, written aside and renamed.
        original: RGB in [0, 1].
        seen: from `paint`.
        painted: from `paint`.
    """
    from matplotlib.figure import Figure

    number = len(original)
    figure = Figure(figsize=(_INCHES * number + 0.3, _INCHES * 3), dpi=120)
    axes = figure.subplots(3, number, squeeze=False)
    for row, images, name in zip(axes, (original, seen, painted), _ROWS, strict=True):
        for place, image in zip(row, images, strict=True):
            place.imshow(image, interpolation="nearest")
            place.set_xticks([])
            place.set_yticks([])
            place.spines[:].set_visible(False)
        row[0].set_ylabel(name, fontsize=9)
    left = 0.3 / (_INCHES * number + 0.3)
    figure.subplots_adjust(left, 0.01, 0.995, 0.99, wspace=0.03, hspace=0.03)
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png")
