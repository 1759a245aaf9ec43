"""Weighted cross-entropy as torch computes it, in a form that is exact over any sharding."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

CLASS_WEIGHT_SCHEMES = ("none", "neutral", "balanced", "max")

# Host arrays are as welcome as device arrays.
_Array = Array | np.ndarray


def weighted_cross_entropy(
    logits: Float[_Array, "batch class"],
    targets: Int[_Array, "batch"] | Float[_Array, "batch class"],
    *,
    class_weights: Float[_Array, "class"] | None = None,
    label_smoothing: float = 0.0,
    mask: Bool[_Array, "batch"] | Float[_Array, "batch"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    r"""Cross-entropy with class weights, as a sum and what to divide it by.

    With ``p = softmax(logits)``, weights ``w``, smoothing ``e`` and ``C`` classes, a sample gives

    .. math::
        \text{hard:}\quad -(1 - e)\, w_y \log p_y - \tfrac{e}{C} \sum_c w_c \log p_c
        \qquad\text{over}\quad w_y

        \text{soft:}\quad -\sum_c w_c \left((1 - e)\, t_c + \tfrac{e}{C}\right) \log p_c
        \qquad\text{over}\quad 1

    and `loss_sum / denominator` is what `torch.nn.CrossEntropyLoss(reduction="mean")` returns:
    torch divides by the sum of weights for hard targets, by the number of samples for soft ones.
    Add both over all devices (or steps) first and divide last; a mean of means is another number.

    Args:
        logits: any float type; computed in float32.
        targets: class indices, where -1 leaves the sample out; or one distribution a sample.
        class_weights: none means 1 for each.
        label_smoothing: e, in [0, 1], a Python number.
        mask: False or 0 leaves a row out, whatever it holds (padding); a fraction scales it.

    Returns:
        `(loss_sum, denominator)`, float32 scalars; both 0 where every row is left out. An index
        outside [-1, C) makes the sum NaN, since a jitted function cannot raise.

    Raises:
        FerJaxError: `label_smoothing` outside [0, 1].

    Example:
        >>> loss_sum, count = weighted_cross_entropy(jnp.zeros((2, 4)), jnp.array([3, -1]))
        >>> round(float(loss_sum), 4), float(count)
        (1.3863, 1.0)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """
    if not 0 <= label_smoothing <= 1:
        raise FerJaxError(f"{label_smoothing=} is outside [0, 1]; give a share such as 0.1")
    batch, classes = logits.shape
    hard = targets.ndim == 1
    if class_weights is None:
        weights = jnp.ones((1, classes), jnp.float32)
    else:
        weights = jnp.asarray(class_weights, jnp.float32)[None, :]
    rows = jnp.ones(batch, jnp.float32) if mask is None else jnp.asarray(mask, jnp.float32)
    if hard:
        rows = jnp.where(targets == -1, 0.0, rows)
    used = rows > 0
    # Rows left out may hold anything, NaN too: they are zeroed before the softmax, for 0 x NaN
    # would come back in the gradient.
    logits = jnp.where(used[:, None], jnp.asarray(logits, jnp.float32), 0.0)
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)

    if hard:
        # A mask and not a gather: it shards with the batch, and -inf of another class stays out.
        is_target = targets[:, None] == jnp.arange(classes)[None, :]
        target_weights = jnp.where(is_target, weights, 0.0).sum(axis=-1)
        losses = -jnp.where(is_target, weights * log_probabilities, 0.0).sum(axis=-1)
        if label_smoothing:
            smooth = -(weights * log_probabilities).sum(axis=-1)
            losses = (1 - label_smoothing) * losses + label_smoothing / classes * smooth
        outside = (targets < -1) | (targets >= classes)
        losses = jnp.where(outside, jnp.nan, losses)
    else:
        targets = jnp.where(used[:, None], jnp.asarray(targets, jnp.float32), 0.0)
        targets = (1 - label_smoothing) * targets + label_smoothing / classes
        target_weights = jnp.ones(batch, jnp.float32)
        losses = -(weights * targets * log_probabilities).sum(axis=-1)
    loss_sum = jnp.where(used, rows * losses, 0.0).sum()
    return loss_sum, (rows * target_weights).sum()


def class_weights(
    counts: Int[_Array, "class"], scheme: str, space: LabelSpace | None = None
) -> Float32[np.ndarray, "class"]:
    """Class weights from the number of training samples of each class.

    With `n_c` samples of class `c`, `N` in all and `C` classes: `none` 1, `neutral`
    `n_neutral / n_c`, `balanced` `N / (C n_c)`, `max` `n_max / n_c`. The three differ by a factor
    only, which matters for soft targets and not for hard ones.

    Args:
        counts: samples of each class, in the order of the logits.
        scheme: one of `CLASS_WEIGHT_SCHEMES`.
        space: the classes by name, for errors; `neutral` needs it, since the place of Neutral
            differs from space to space.

    Returns:
        The weights, computed in float64.

    Raises:
        FerJaxError: an unknown scheme; a class without samples; `neutral` without a class Neutral.

    Example:
        >>> class_weights(np.array([30, 10, 20]), "max").tolist()
        [1.0, 3.0, 1.5]
    """
    if scheme not in CLASS_WEIGHT_SCHEMES:
        raise FerJaxError(
            f"no class-weight scheme {scheme!r}; one of {', '.join(CLASS_WEIGHT_SCHEMES)}"
        )
    counts = np.asarray(counts, np.float64)
    if space is not None and len(space) != counts.size:
        raise FerJaxError(
            f"{counts.size} counts for the {len(space)} classes of {space.name}; "
            "count over that space"
        )
    if scheme == "none":
        return np.ones(counts.size, np.float32)
    empty = np.flatnonzero(counts <= 0)
    if empty.size:
        names = [space.classes[i] if space else f"number {i}" for i in empty]
        raise FerJaxError(
            f"no sample of class {', '.join(names)}: the scheme {scheme!r} has no weight for it; "
            "add samples, or use the scheme 'none'"
        )
    if scheme == "neutral":
        if space is None:
            raise FerJaxError(
                "the scheme 'neutral' needs the label space, to know which class is Neutral; "
                "pass it, or use the scheme 'balanced'"
            )
        reference = counts[space.index("Neutral")]
    elif scheme == "balanced":
        reference = counts.mean()
    else:
        reference = counts.max()
    return (reference / counts).astype(np.float32)
