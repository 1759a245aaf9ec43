"""Scores from one confusion matrix: integers on the device, ratios in float64 on the host."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int, Int32

from fer_jax.errors import FerJaxError

# Host arrays are as welcome as device arrays, and as the scalars that numpy takes out of them.
_Array = Array | np.ndarray | np.generic


def confusion_matrix(
    labels: Int[_Array, "*batch"],
    predictions: Int[_Array, "*batch"],
    num_classes: int,
    mask: Bool[_Array, "*batch"] | Float[_Array, "*batch"] | None = None,
) -> Int32[Array, "num_classes num_classes"]:
    """Counts how often each class was taken for each other.

    Args:
        labels: the truth, of one sample or many; -1, and anything outside the classes, is not
            counted.
        predictions: class indices; outside the classes they are not counted.
        num_classes: a Python number.
        mask: False or 0 leaves a row out (padding).

    Returns:
        Counts, a row for each true class, a column for each predicted one; add them over batches
        and devices.

    Raises:
        FerJaxError: labels, predictions and mask of different shapes.

    Example:
        >>> confusion_matrix(jnp.array([0, 1, 1, -1]), jnp.array([0, 0, 1, 1]), 2).tolist()
        [[1, 0], [1, 1]]
        >>> confusion_matrix(jnp.array(1), jnp.array(0), 2).tolist()  # one sample
        [[0, 0], [1, 0]]
    """
    shape = labels.shape
    if not shape == predictions.shape == (shape if mask is None else mask.shape):
        raise FerJaxError(
            f"labels are {shape}, predictions {predictions.shape} and the mask "
            f"{None if mask is None else mask.shape}; give one shape"
        )
    classes = jnp.arange(num_classes)[None, :]
    truth = labels.reshape(-1)[:, None] == classes
    if mask is not None:
        truth &= jnp.asarray(mask).astype(bool).reshape(-1)[:, None]
    predicted = predictions.reshape(-1)[:, None] == classes
    # One-hot products: a reduction over the batch, which shards and has no order to depend on.
    return jnp.einsum(
        "bt,bp->tp",
        truth.astype(jnp.int32),
        predicted.astype(jnp.int32),
        preferred_element_type=jnp.int32,
    )


# What numpy reduces to is a scalar, and not an array, where no axis is left.
_Numbers = np.ndarray | np.generic


def _ratio(numerator: _Numbers, denominator: _Numbers, otherwise: float) -> np.ndarray:
    safe = np.where(denominator > 0, denominator, 1)
    return np.where(denominator > 0, numerator / safe, otherwise)


def f1_by_class(
    confusion: Int[np.ndarray, "*resamples class class"],
) -> Float64[np.ndarray, "*resamples class"]:
    """F1 of each class, `2 TP / (2 TP + FP + FN)`; 0 for a class neither present nor predicted.

    Args:
        confusion: one matrix, or a stack of them; a row for each true class.

    Returns:
        F1 of each class.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return _ratio(2 * hits, confusion.sum(-1) + confusion.sum(-2), otherwise=0.0)


def accuracy(confusion: Int[np.ndarray, "*resamples class class"]) -> np.ndarray:
    """The share of samples on the diagonal; NaN where there is no sample."""
    hits = np.trace(confusion, axis1=-2, axis2=-1).astype(np.float64)
    return _ratio(hits, confusion.sum((-2, -1)), otherwise=np.nan)


def balanced_accuracy(confusion: Int[np.ndarray, "*resamples class class"]) -> np.ndarray:
    """The mean recall over the classes that have samples; NaN where none has."""
    support = confusion.sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    recall = _ratio(hits, support, otherwise=0.0)
    return _ratio(recall.sum(-1), (support > 0).sum(-1), otherwise=np.nan)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one confusion matrix says; shares in [0, 1], float64.

    Attributes:
        macro_f1: the mean of the F1s of **all** classes, present or not, as ABAW scores.
        accuracy: the share that is right.
        balanced_accuracy: the mean recall of the classes that have samples.
        f1: one for each class.
        precision: one for each class; 0 where the class was never predicted.
        recall: one for each class; 0 where the class has no sample.
        support: samples of each class, int64.
    """

    macro_f1: float
    accuracy: float
    balanced_accuracy: float
    f1: Float64[np.ndarray, "class"]
    precision: Float64[np.ndarray, "class"]
    recall: Float64[np.ndarray, "class"]
    support: Int[np.ndarray, "class"]


def scores(confusion: Int[_Array, "class class"]) -> Scores:
    """All scores of a confusion matrix, equal to scikit-learn's with `zero_division=0`.

    Args:
        confusion: a row for each true class, a column for each predicted one.

    Returns:
        The scores.

    Example:
        >>> found = scores(np.array([[3, 1], [0, 4]]))
        >>> found.accuracy, found.f1.round(3).tolist()
        (0.875, [0.857, 0.889])
    """
    confusion = np.asarray(confusion).astype(np.int64)
    hits = np.diagonal(confusion).astype(np.float64)
    f1 = f1_by_class(confusion)
    return Scores(
        macro_f1=float(f1.mean()),
        accuracy=float(accuracy(confusion)),
        balanced_accuracy=float(balanced_accuracy(confusion)),
        f1=f1,
        precision=_ratio(hits, confusion.sum(0), otherwise=0.0),
        recall=_ratio(hits, confusion.sum(1), otherwise=0.0),
        support=confusion.sum(1),
    )
