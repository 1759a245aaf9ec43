"""Losses for imbalanced classes, in a form that is exact over any sharding.

Each takes class indices or distributions as targets and returns `(loss_sum, denominator)`: added
over all devices or steps first, and divided last. One sample is taken without a batch axis, several
with any number of them. `classification_loss` chooses one by name.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

LOSSES = ("cross_entropy", "focal", "logit_adjusted")
CLASS_WEIGHT_SCHEMES = ("none", "neutral", "balanced", "max", "effective")

# Host arrays are as welcome as device arrays, and as the scalars that numpy takes out of them.
_Array = Array | np.ndarray | np.generic


def weighted_cross_entropy(
    logits: Float[_Array, "*batch class"],
    targets: Int[_Array, "*batch"] | Float[_Array, "*batch class"],
    *,
    class_weights: Float[_Array, "class"] | None = None,
    label_smoothing: float = 0.0,
    mask: Bool[_Array, "*batch"] | Float[_Array, "*batch"] | None = None,
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
        FerJaxError: `label_smoothing` outside [0, 1]; targets that do not fit the logits.

    Example:
        >>> loss_sum, count = weighted_cross_entropy(jnp.zeros((2, 4)), jnp.array([3, -1]))
        >>> round(float(loss_sum), 4), float(count)
        (1.3863, 1.0)
        >>> round(float(weighted_cross_entropy(jnp.zeros(4), jnp.array(3))[0]), 4)  # one sample
        1.3863

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """
    return _summed(jax.nn.log_softmax, logits, targets, class_weights, label_smoothing, mask)


def focal_loss(
    logits: Float[_Array, "*batch class"],
    targets: Int[_Array, "*batch"] | Float[_Array, "*batch class"],
    *,
    gamma: float = 2.0,
    class_weights: Float[_Array, "class"] | None = None,
    label_smoothing: float = 0.0,
    mask: Bool[_Array, "*batch"] | Float[_Array, "*batch"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    r"""Cross-entropy in which what is classified well already counts little.

    Each ``log p_c`` of `weighted_cross_entropy` becomes

    .. math:: (1 - p_c)^\gamma \log p_c

    so that ``gamma = 0`` is that function, and soft targets weigh the terms of their classes. The
    class weights are the paper's alpha; the denominator is `weighted_cross_entropy`'s.

    Args:
        logits: any float type; computed in float32.
        targets: class indices, where -1 leaves the sample out; or one distribution a sample.
        gamma: at least 0, a Python number.
        class_weights: none means 1 for each.
        label_smoothing: in [0, 1], a Python number.
        mask: as in `weighted_cross_entropy`.

    Returns:
        `(loss_sum, denominator)`, float32 scalars.

    Raises:
        FerJaxError: `gamma` below 0, or `label_smoothing` outside [0, 1].

    Example:
        >>> sure, unsure = jnp.array([[3.0, 0.0]]), jnp.array([[0.2, 0.0]])
        >>> [round(float(focal_loss(x, jnp.array([0]))[0]), 4) for x in (sure, unsure)]
        [0.0001, 0.1212]

    Source:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5.
    """
    if not gamma >= 0:
        raise FerJaxError(f"{gamma=} is below 0; give 0 for plain cross-entropy, or 2")

    def modulated(logits: Float[Array, "batch class"], axis: int) -> Float[Array, "batch class"]:
        log_probabilities = jax.nn.log_softmax(logits, axis=axis)
        # Away from 0, where the derivative of a fractional power is infinite.
        others = jnp.maximum(-jnp.expm1(log_probabilities), 1e-20)
        return others**gamma * log_probabilities

    scores = modulated if gamma else jax.nn.log_softmax
    return _summed(scores, logits, targets, class_weights, label_smoothing, mask)


def logit_adjusted_cross_entropy(
    logits: Float[_Array, "*batch class"],
    targets: Int[_Array, "*batch"] | Float[_Array, "*batch class"],
    *,
    log_prior: Float[_Array, "class"],
    tau: float = 1.0,
    class_weights: Float[_Array, "class"] | None = None,
    label_smoothing: float = 0.0,
    mask: Bool[_Array, "*batch"] | Float[_Array, "*batch"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    r"""Cross-entropy of ``softmax(logits + tau log prior)``; at inference the logits stay bare.

    What is learned is then the classes' evidence apart from how common they were in training: with
    ``tau = 1`` the largest bare logit is the choice with the least balanced error.

    Args:
        logits: any float type; computed in float32.
        targets: class indices, where -1 leaves the sample out; or one distribution a sample.
        log_prior: log of each class' share of the training samples, from `log_prior`.
        tau: how much of it, a Python number; 0 is `weighted_cross_entropy`.
        class_weights: none means 1 for each; beside a prior they correct for the same thing twice.
        label_smoothing: in [0, 1], a Python number.
        mask: as in `weighted_cross_entropy`.

    Returns:
        `(loss_sum, denominator)`, float32 scalars.

    Raises:
        FerJaxError: `label_smoothing` outside [0, 1].

    Example:
        >>> prior = log_prior(np.array([90, 10]))
        >>> loss, _ = logit_adjusted_cross_entropy(
        ...     jnp.zeros((1, 2)), jnp.array([1]), log_prior=prior
        ... )
        >>> round(float(loss), 4)  # -log 0.1
        2.3026

    Source:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, equation 10.
    """

    def adjusted(logits: Float[Array, "batch class"], axis: int) -> Float[Array, "batch class"]:
        shift = tau * jnp.asarray(log_prior, jnp.float32)[None, :]
        return jax.nn.log_softmax(logits + shift, axis=axis)

    return _summed(adjusted, logits, targets, class_weights, label_smoothing, mask)


def classification_loss(
    name: str,
    logits: Float[_Array, "*batch class"],
    targets: Int[_Array, "*batch"] | Float[_Array, "*batch class"],
    *,
    gamma: float = 2.0,
    log_prior: Float[_Array, "class"] | None = None,
    tau: float = 1.0,
    class_weights: Float[_Array, "class"] | None = None,
    label_smoothing: float = 0.0,
    mask: Bool[_Array, "*batch"] | Float[_Array, "*batch"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """One of `LOSSES` by name, as a config gives it.

    Args:
        name: `cross_entropy` | `focal` | `logit_adjusted`.
        logits: any float type; computed in float32.
        targets: class indices, where -1 leaves the sample out; or one distribution a sample.
        gamma: of `focal`.
        log_prior: of `logit_adjusted`, which needs it.
        tau: of `logit_adjusted`.
        class_weights: none means 1 for each.
        label_smoothing: in [0, 1], a Python number.
        mask: as in `weighted_cross_entropy`.

    Returns:
        `(loss_sum, denominator)`, float32 scalars.

    Raises:
        FerJaxError: an unknown name, no prior where one is needed, or a number out of its range.

    Example:
        >>> loss_sum, count = classification_loss("focal", jnp.zeros((1, 2)), jnp.array([1]))
        >>> round(float(loss_sum), 4)  # (1 - 0.5)^2 log 2
        0.1733
    """
    common = {"class_weights": class_weights, "label_smoothing": label_smoothing, "mask": mask}
    if name == "cross_entropy":
        return weighted_cross_entropy(logits, targets, **common)
    if name == "focal":
        return focal_loss(logits, targets, gamma=gamma, **common)
    if name == "logit_adjusted":
        if log_prior is None:
            raise FerJaxError("the loss 'logit_adjusted' needs log_prior; make it by `log_prior`")
        return logit_adjusted_cross_entropy(logits, targets, log_prior=log_prior, tau=tau, **common)
    raise FerJaxError(f"no loss {name!r}; one of {', '.join(LOSSES)}")


def _summed(
    scores: Callable[..., Float[Array, "batch class"]],
    logits: Float[_Array, "*batch class"],
    targets: Int[_Array, "*batch"] | Float[_Array, "*batch class"],
    class_weights: Float[_Array, "class"] | None,
    label_smoothing: float,
    mask: Bool[_Array, "*batch"] | Float[_Array, "*batch"] | None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Minus the weighted, smoothed targets times `scores(logits)`, and what to divide it by."""
    if not 0 <= label_smoothing <= 1:
        raise FerJaxError(f"{label_smoothing=} is outside [0, 1]; give a share such as 0.1")
    shape, classes = logits.shape, logits.shape[-1]
    if targets.shape not in (shape, shape[:-1]):
        raise FerJaxError(
            f"targets of shape {targets.shape} for logits of {shape}; give indices of "
            f"{shape[:-1]}, or distributions of {shape}"
        )
    if mask is not None and mask.shape != shape[:-1]:
        raise FerJaxError(f"a mask of shape {mask.shape} for logits of {shape}; give {shape[:-1]}")
    hard = targets.ndim < logits.ndim
    logits = logits.reshape(-1, classes)
    batch = logits.shape[0]
    targets = targets.reshape(logits.shape[: 1 if hard else 2])
    if class_weights is None:
        weights = jnp.ones((1, classes), jnp.float32)
    else:
        weights = jnp.asarray(class_weights, jnp.float32)[None, :]
    rows = jnp.ones(shape[:-1], jnp.float32) if mask is None else jnp.asarray(mask, jnp.float32)
    rows = rows.reshape(-1)
    if hard:
        rows = jnp.where(targets == -1, 0.0, rows)
    used = rows > 0
    # Rows left out may hold anything, NaN too: they are zeroed before the softmax, for 0 x NaN
    # would come back in the gradient.
    logits = jnp.where(used[:, None], jnp.asarray(logits, jnp.float32), 0.0)
    log_probabilities = scores(logits, axis=-1)

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


def log_prior(
    counts: Int[_Array, "class"], space: LabelSpace | None = None
) -> Float32[np.ndarray, "class"]:
    """Log of each class' share of the training samples, for `logit_adjusted_cross_entropy`.

    Args:
        counts: samples of each class, in the order of the logits.
        space: the classes by name, for errors.

    Returns:
        The logarithms, computed in float64.

    Raises:
        FerJaxError: a class without samples, or counts over another space.

    Example:
        >>> np.exp(log_prior(np.array([30, 10]))).tolist()
        [0.75, 0.25]
    """
    counts = _checked(counts, space, "log_prior")
    return np.log(counts / counts.sum()).astype(np.float32)


def class_weights(
    counts: Int[_Array, "class"],
    scheme: str,
    space: LabelSpace | None = None,
    *,
    beta: float = 0.9999,
) -> Float32[np.ndarray, "class"]:
    """Class weights from the number of training samples of each class.

    With `n_c` samples of class `c`, `N` in all and `C` classes: `none` 1, `neutral`
    `n_neutral / n_c`, `balanced` `N / (C n_c)`, `max` `n_max / n_c`; these three differ by a factor
    only, which matters for soft targets and not for hard ones. `effective` takes for `n_c` the
    effective number of samples `(1 - beta^n_c) / (1 - beta)`, and its weights add up to `C`.

    Args:
        counts: samples of each class, in the order of the logits.
        scheme: one of `CLASS_WEIGHT_SCHEMES`.
        space: the classes by name, for errors; `neutral` needs it, since the place of Neutral
            differs from space to space.
        beta: of `effective`, in [0, 1]: 0 gives 1 for each class, 1 the inverse of its samples.

    Returns:
        The weights, computed in float64.

    Raises:
        FerJaxError: an unknown scheme; a class without samples; `neutral` without a class Neutral;
            `beta` out of its range.

    Example:
        >>> class_weights(np.array([30, 10, 20]), "max").tolist()
        [1.0, 3.0, 1.5]

    Source:
        `effective`: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR
        2019.
    """
    if scheme not in CLASS_WEIGHT_SCHEMES:
        raise FerJaxError(
            f"no class-weight scheme {scheme!r}; one of {', '.join(CLASS_WEIGHT_SCHEMES)}"
        )
    if scheme == "none":
        return np.ones(_of_space(counts, space).size, np.float32)
    counts = _checked(counts, space, scheme)
    if scheme == "effective":
        return _effective_weights(counts, beta)
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


def _effective_weights(counts: np.ndarray, beta: float) -> Float32[np.ndarray, "class"]:
    if not 0 <= beta <= 1:
        raise FerJaxError(f"{beta=} is outside [0, 1]; give a number such as 0.9999")
    if beta == 1:
        effective = counts
    elif beta == 0:
        effective = np.ones_like(counts)
    else:
        effective = np.expm1(counts * np.log(beta)) / (beta - 1)
    weights = 1 / effective
    return (weights * len(counts) / weights.sum()).astype(np.float32)


def _of_space(counts: Int[_Array, "class"], space: LabelSpace | None) -> np.ndarray:
    counts = np.asarray(counts, np.float64)
    if space is not None and len(space) != counts.size:
        raise FerJaxError(
            f"{counts.size} counts for the {len(space)} classes of {space.name}; "
            "count over that space"
        )
    return counts


def _checked(counts: Int[_Array, "class"], space: LabelSpace | None, use: str) -> np.ndarray:
    counts = _of_space(counts, space)
    empty = np.flatnonzero(counts <= 0)
    if empty.size:
        names = [space.classes[i] if space else f"number {i}" for i in empty]
        raise FerJaxError(
            f"no sample of class {', '.join(names)}: {use!r} has no weight for it; "
            "add samples, or do without"
        )
    return counts
