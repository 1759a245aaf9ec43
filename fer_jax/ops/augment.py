"""Mixup and CutMix on the device, one draw for the whole batch, as timm's `Mixup` in batch mode."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped, UInt32

from fer_jax.errors import FerJaxError


def mix(
    key: Key[Array, ""] | UInt32[Array, "2"],
    images: Shaped[Array, "batch height width channels"],
    soft_targets: Float[Array, "batch classes"],
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    switch_probability: float = 0.5,
    probability: float = 1.0,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    r"""Mixes each image with its mirror in the batch, image i with image B - 1 - i.

    With $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ mixup makes
    $\lambda x_i + (1 - \lambda) x_{B-1-i}$. CutMix replaces a rectangle of area
    $(1 - \lambda) H W$ about a uniformly drawn centre, cut off at the border, and then sets
    $\lambda$ to the share that is left. Targets are mixed with the same $\lambda$.

    Args:
        key: of all draws.
        images: of any number type and scale.
        soft_targets: one-hot or soft labels; label smoothing commutes with mixing.
        mixup_alpha: of mixup's Beta distribution; 0 turns mixup off.
        cutmix_alpha: of CutMix's; 0 turns it off.
        switch_probability: of CutMix, where both are on.
        probability: that a batch is mixed at all.

    Returns:
        float32 images, and the targets that belong to them.

    Raises:
        FerJaxError: an alpha is negative, a probability is not in [0, 1], or there is no batch.

    Source: timm `data/mixup.py`, mode `batch`; Zhang et al. 2017, Yun et al. 2019.
    """
    if mixup_alpha < 0 or cutmix_alpha < 0:
        raise FerJaxError(f"{mixup_alpha=} and {cutmix_alpha=} must not be negative; 0 is off")
    if not (0 <= switch_probability <= 1 and 0 <= probability <= 1):
        raise FerJaxError(f"{switch_probability=} and {probability=} must be in [0, 1]")
    if images.ndim != 4 or soft_targets.ndim != 2:
        raise FerJaxError(
            f"images of {images.shape} and targets of {soft_targets.shape}: images are mixed with "
            "others of a batch; give (batch, height, width, channels) and (batch, classes)"
        )
    images = images.astype(jnp.float32)
    if not (mixup_alpha or cutmix_alpha):
        return images, soft_targets
    keys = jax.random.split(key, 5)
    if mixup_alpha and cutmix_alpha:
        use_cutmix = jax.random.uniform(keys[0]) < switch_probability
        alpha = jnp.where(use_cutmix, cutmix_alpha, mixup_alpha)
    else:
        use_cutmix = jnp.asarray(bool(cutmix_alpha))
        alpha = jnp.asarray(cutmix_alpha or mixup_alpha)
    mixed = jax.random.uniform(keys[1]) < probability
    kept = jnp.where(mixed, jax.random.beta(keys[2], alpha, alpha), 1.0)

    height, width = images.shape[1:3]
    rows = _interval(keys[3], height, kept)
    columns = _interval(keys[4], width, kept)
    inside = rows[:, None] & columns[None, :]
    kept = jnp.where(use_cutmix, 1.0 - inside.mean(), kept)
    # One weight a pixel serves both: constant for mixup, 0 in the rectangle and 1 outside of it.
    weight = jnp.where(use_cutmix, 1.0 - inside.astype(jnp.float32), kept)[None, :, :, None]
    images = images * weight + images[::-1] * (1.0 - weight)
    return images, soft_targets * kept + soft_targets[::-1] * (1.0 - kept)


def _interval(key: Array, size: int, kept: Array) -> Array:
    """Which of `size` pixels a side of the rectangle covers: sqrt(1 - kept) of them, clipped."""
    length = jnp.floor(size * jnp.sqrt(1.0 - kept)).astype(jnp.int32)
    centre = jax.random.randint(key, (), 0, size)
    pixels = jnp.arange(size)
    return (pixels >= centre - length // 2) & (pixels < centre + length // 2)
