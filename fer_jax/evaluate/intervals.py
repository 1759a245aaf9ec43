"""Bootstrap intervals of the scores, from the confusion matrix alone."""

import dataclasses

import numpy as np
from jaxtyping import Float64, Int

from fer_jax.errors import FerJaxError
from fer_jax.ops.metrics import accuracy, balanced_accuracy, f1_by_class

RESAMPLES = 10_000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Ends of the percentile intervals, `[low, high]` each.

    Attributes:
        macro_f1: of the mean F1 of all classes.
        accuracy: of the share that is right.
        balanced_accuracy: of the mean recall of the classes with samples.
        f1: of each class.
        level: how often such an interval holds the true value.
        resamples: how many were drawn.
        seed: with which they can be drawn again.
    """

    macro_f1: Float64[np.ndarray, "2"]
    accuracy: Float64[np.ndarray, "2"]
    balanced_accuracy: Float64[np.ndarray, "2"]
    f1: Float64[np.ndarray, "class 2"]
    level: float
    resamples: int
    seed: int


def bootstrap(
    confusion: Int[np.ndarray, "class class"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Percentile bootstrap over images.

    Drawing N images with replacement and counting them is the same as drawing the cells of the
    confusion matrix from a multinomial distribution, so the resampling is exact and costs
    `resamples x class x class` numbers however many images there are. It takes images to be
    independent of each other: for frames of one video they are not, and the interval is too narrow.

    Args:
        confusion: counts, a row for each true class.
        resamples: how many matrices to draw.
        level: of the interval, such as 0.95.
        seed: of the draw.

    Returns:
        The intervals.

    Raises:
        FerJaxError: the matrix counts no image.

    Example:
        >>> bootstrap(np.array([[40, 10], [10, 40]])).accuracy.tolist()
        [0.72, 0.88]

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    total = int(confusion.sum())
    if total == 0:
        raise FerJaxError("no image was scored, so there is no interval; choose another split")
    rng = np.random.default_rng(seed)
    shares = confusion.reshape(-1) / total
    drawn = rng.multinomial(total, shares, resamples).reshape(-1, *confusion.shape)
    f1 = f1_by_class(drawn)
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    return Intervals(
        macro_f1=np.quantile(f1.mean(axis=-1), ends),
        accuracy=np.quantile(accuracy(drawn), ends),
        balanced_accuracy=np.quantile(balanced_accuracy(drawn), ends),
        f1=np.quantile(f1, ends, axis=0).T,
        level=level,
        resamples=resamples,
        seed=seed,
    )
