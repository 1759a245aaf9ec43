"""Bootstrap intervals of the scores and paired tests, from confusion matrices alone."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import scipy.stats
from jaxtyping import Float, Float64, Int

from fer_jax.errors import FerJaxError
from fer_jax.ops.metrics import accuracy, balanced_accuracy, f1_by_class
from fer_jax.ops.resampling import bootstrap_sums, swapped_sums

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
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    return _intervals(drawn, ends, level, resamples, seed)


def bootstrap_videos(
    confusions: Int[np.ndarray, "video class class"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Percentile bootstrap over videos: as many as there are are drawn, whole.

    Frames of a video are alike, so how far a score would move with other videos is what an
    interval must say. The percentiles lie a little further out than the level says, by Student's
    t of so many videos: a resample varies less than the videos that it stands for, and few videos
    would promise too much. A class that few videos show is missing from some resamples, where its
    F1 is 0: its interval is wide, and rightly so.

    Args:
        confusions: counts of each video, a row for each true class.
        resamples: how many.
        level: of the interval, such as 0.95.
        seed: of the draw.

    Returns:
        The intervals.

    Raises:
        FerJaxError: no frame, or a single video.

    Example:
        >>> one = np.array([[4, 1], [1, 4]])
        >>> bootstrap_videos(np.stack([one, one, 2 * one])).accuracy.round(6).tolist()
        [0.8, 0.8]

    Source:
        Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69
        (2015), section 4.5.
    """
    _check(confusions)
    drawn = draw_videos(confusions.astype(np.int32), resamples=resamples, seed=seed)
    # A resample of videos without a label in them has no accuracy.
    ends = ends_over_videos(level, int((confusions.sum((1, 2)) > 0).sum()))
    return _intervals(drawn[drawn.sum((1, 2)) > 0], ends, level, resamples, seed)


def ends_over_videos(level: float, videos: int) -> Float64[np.ndarray, "2"]:
    """Which quantiles of resamples of so many videos hold the true value that often.

    Args:
        level: such as 0.95.
        videos: two or more.

    Returns:
        `[low, high]`, a little outside of `[(1 - level) / 2, (1 + level) / 2]`.

    Example:
        >>> ends_over_videos(0.95, 10).round(4).tolist()
        [0.0086, 0.9914]
    """
    reach = scipy.stats.t.ppf((1 + level) / 2, videos - 1) * (videos / (videos - 1)) ** 0.5
    return np.array([scipy.stats.norm.cdf(-reach), scipy.stats.norm.cdf(reach)])


def draw_videos(
    tables: Int[np.ndarray, "video *table"] | Float[np.ndarray, "video *table"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Sums of tables over resamples of videos; equal seeds draw the same videos.

    Args:
        tables: one for each video; whole numbers are added exactly, up to 2^31.
        resamples: how many.
        seed: of the draw.

    Returns:
        `[resamples, *table]`.
    """
    return np.asarray(_bootstrap_sums(jax.random.key(seed), tables, resamples))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A paired comparison of two predictors on the same frames, by macro-F1.

    Attributes:
        difference: the first one's macro-F1 less the second one's.
        low: lower end of its interval, of resamples of videos that both share.
        high: upper end.
        p_value: how often a difference as large comes about when the two are swapped in each video
            at random; two-sided.
        level: of the interval.
        resamples: how many were drawn.
        seed: with which they can be drawn again.
    """

    difference: float
    low: float
    high: float
    p_value: float
    level: float
    resamples: int
    seed: int


def compare_videos(
    first: Int[np.ndarray, "video class class"],
    second: Int[np.ndarray, "others class class"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compares two predictors over the same videos.

    Args:
        first: confusion matrix of each video.
        second: of the other predictor, in the same order and of the same frames.
        resamples: of the interval and of the test.
        level: of the interval.
        seed: of the draws.

    Returns:
        The comparison.

    Raises:
        FerJaxError: the two were scored on other videos or labels, or there is a single video.

    Source:
        Paired bootstrap: Berg-Kirkpatrick et al., EMNLP 2012. Swaps: Yeh, COLING 2000.
    """
    if len(first) != len(second) or (first.sum(axis=2) != second.sum(axis=2)).any():
        raise FerJaxError("the two were scored on other videos or labels; score both on the same")
    _check(first)
    draw = functools.partial(draw_videos, resamples=resamples, seed=seed)
    drawn = _macro(draw(first.astype(np.int32))) - _macro(draw(second.astype(np.int32)))
    videos = int((first.sum((1, 2)) > 0).sum())
    low, high = np.quantile(drawn, ends_over_videos(level, videos)).tolist()
    difference = float(_macro(first.sum(axis=0)) - _macro(second.sum(axis=0)))
    sums = _swapped_sums(
        jax.random.key(seed), first.astype(np.int32), second.astype(np.int32), resamples
    )
    swapped = np.abs(_macro(np.asarray(sums[0])) - _macro(np.asarray(sums[1])))
    # As far apart, but for the rounding of a sum of shares.
    as_far = int((swapped >= abs(difference) - 1e-12).sum())
    # All ways to swap hold the true one; a draw of them is counted together with it.
    every = len(swapped) < resamples or len(swapped) == 2 ** len(first)
    p_value = as_far / len(swapped) if every else (as_far + 1) / (len(swapped) + 1)
    return Comparison(difference, low, high, p_value, level, resamples, seed)


def compare_images(
    labels: Int[np.ndarray, "n"],
    first: Int[np.ndarray, "n"],
    second: Int[np.ndarray, "n"],
    classes: int,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compares two predictors over the same images, taken as independent of each other.

    Images are drawn by what they are: true class and both predictions, counted exactly as
    `bootstrap` counts them. For the test each image's two predictions are swapped at random.

    Args:
        labels: true classes.
        first: predicted classes.
        second: of the other predictor.
        classes: how many.
        resamples: of the interval and of the test.
        level: of the interval.
        seed: of the draws.

    Returns:
        The comparison.

    Raises:
        FerJaxError: there is no image.
    """
    if not len(labels):
        raise FerJaxError("no image was scored, so there is no interval; choose another split")
    cells = (labels.astype(np.int64) * classes + first) * classes + second
    counts = np.bincount(cells, minlength=classes**3)
    rng = np.random.default_rng(seed)
    shape = (-1, classes, classes, classes)
    drawn = rng.multinomial(len(labels), counts / len(labels), resamples).reshape(shape)
    low, high = np.quantile(_between(drawn), [(1 - level) / 2, (1 + level) / 2]).tolist()
    difference = float(_between(counts.reshape(shape))[0])
    swapped = rng.binomial(counts, 0.5, (resamples, classes**3)).reshape(shape)
    swapped = counts.reshape(shape) - swapped + swapped.swapaxes(2, 3)
    as_far = int((np.abs(_between(swapped)) >= abs(difference) - 1e-12).sum())
    p_value = (as_far + 1) / (resamples + 1)
    return Comparison(difference, low, high, p_value, level, resamples, seed)


def _between(tables: Int[np.ndarray, "tables true first second"]) -> np.ndarray:
    """How much more macro-F1 the first has than the second, of each table of counts."""
    return _macro(tables.sum(axis=3)) - _macro(tables.sum(axis=2))


_bootstrap_sums: Callable = jax.jit(bootstrap_sums, static_argnums=2)
_swapped_sums: Callable = jax.jit(swapped_sums, static_argnums=3)


def _macro(confusions: Int[np.ndarray, "*resamples class class"]) -> np.ndarray | np.float64:
    return f1_by_class(confusions).mean(axis=-1)


def _check(confusions: Int[np.ndarray, "video class class"]) -> None:
    if not confusions.sum():
        raise FerJaxError("no frame was scored, so there is no interval; choose other labels")
    if (videos := int((confusions.sum((1, 2)) > 0).sum())) < 2:
        raise FerJaxError(
            f"{videos} video was scored: an interval over videos needs at least two; add videos"
        )


def _intervals(
    drawn: Int[np.ndarray, "resamples class class"],
    ends: Float64[np.ndarray, "2"],
    level: float,
    resamples: int,
    seed: int,
) -> Intervals:
    f1 = f1_by_class(drawn)
    return Intervals(
        macro_f1=np.quantile(f1.mean(axis=-1), ends),
        accuracy=np.quantile(accuracy(drawn), ends),
        balanced_accuracy=np.quantile(balanced_accuracy(drawn), ends),
        f1=np.quantile(f1, ends, axis=0).T,
        level=level,
        resamples=resamples,
        seed=seed,
    )
