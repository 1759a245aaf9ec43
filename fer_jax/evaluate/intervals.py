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
    """Ends of the intervals, `[low, high]` each; see `interval`.

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


def interval(
    value: float,
    drawn: Float[np.ndarray, "resamples"],
    left_out: Float[np.ndarray, "groups"],
    *,
    counts: Int[np.ndarray, "groups"] | None = None,
    level: float = LEVEL,
) -> Float64[np.ndarray, "2"]:
    """The ends of an interval, from what a figure is on resamples and without each video.

    Plain percentiles hold the truth too seldom where few videos show a class: it is missing from
    some resamples, where its F1 is 0, so resamples lie below the figure, and the figure below the
    truth. The ends are therefore quantiles that are corrected for that bias and for the skew that
    single videos bring (BCa). They lie a little further out than the level says, by Student's t: a
    resample varies less than what it stands for, and few videos would promise too much. As many
    degrees of freedom are counted as videos make up the variance.

    Args:
        value: of the figure on everything.
        drawn: of each resample.
        left_out: with one video (or image) less, for each that counts.
        counts: how many there are alike, where not each is named by itself.
        level: how often the interval should hold the true value.

    Returns:
        `[low, high]`; `value` is never outside of it.

    Example:
        >>> drawn = np.random.default_rng(0).normal(0.5, 0.1, 10_000)
        >>> interval(0.5, drawn, np.linspace(0.49, 0.51, 50)).round(2).tolist()
        [0.3, 0.7]

    Source:
        Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987); Hesterberg, What Teachers
        Should Know About the Bootstrap, The American Statistician 69 (2015), section 4.5;
        Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    counts = np.ones(len(left_out)) if counts is None else counts
    number = int(counts.sum())
    pull = np.average(left_out, weights=counts) - left_out
    spread = (counts * pull**2).sum()
    skew, freedom = 0.0, number - 1
    if spread > 0:
        skew = (counts * pull**3).sum() / (6 * spread**1.5)
        kurtosis = number * (counts * pull**4).sum() / spread**2
        freedom = min(2 * number / max(kurtosis - 1, 1e-9), number - 1)
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = scipy.stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    reach = bias + _reach(level, number, freedom) * np.array([-1, 1])
    # A reach beyond 1 / skew takes in every resample.
    ends = scipy.stats.norm.cdf(bias + reach / np.maximum(1 - skew * reach, 1e-9))
    low, high = np.quantile(drawn, ends)
    return np.array([min(low, value), max(high, value)])


def _reach(level: float, number: int, freedom: float | int) -> float:
    """How many standard deviations of resamples of so many an interval reaches to either side."""
    less = max(number - 1, 1)
    return scipy.stats.t.ppf((1 + level) / 2, max(freedom, 1)) * (number / less) ** 0.5


def bootstrap(
    confusion: Int[np.ndarray, "class class"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Bootstrap over images, with the ends of `interval`.

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
        [0.71, 0.87]

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    total = int(confusion.sum())
    if total == 0:
        raise FerJaxError("no image was scored, so there is no interval; choose another split")
    rng = np.random.default_rng(seed)
    shares = confusion.reshape(-1) / total
    drawn = rng.multinomial(total, shares, resamples).reshape(-1, *confusion.shape)
    kinds, counts = _kinds(confusion)
    return _intervals(confusion, drawn, confusion - kinds, counts, level, resamples, seed)


def bootstrap_videos(
    confusions: Int[np.ndarray, "video class class"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Bootstrap over videos: as many as there are are drawn, whole; the ends are of `interval`.

    Frames of a video are alike, so how far a score would move with other videos is what an
    interval must say.

    Args:
        confusions: counts of each video, a row for each true class; of people who share a film,
            together (`frame_scores.of_films`).
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
    """
    _check(confusions)
    drawn = draw_videos(confusions.astype(np.int32), resamples=resamples, seed=seed)
    # A resample of videos without a label in them has no accuracy.
    drawn = drawn[drawn.sum((1, 2)) > 0]
    total = confusions.sum(axis=0)
    return _intervals(total, drawn, without_each(confusions), None, level, resamples, seed)


def without_each(
    confusions: Int[np.ndarray, "video class class"],
) -> Int[np.ndarray, "labelled class class"]:
    """The sum of all videos but one, for each video that has a label."""
    return confusions.sum(axis=0) - confusions[confusions.sum((1, 2)) > 0]


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
    reach = _reach(level, videos, videos - 1)
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
        first: confusion matrix of each video; of people who share a film, together.
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
    left_out = _macro(without_each(first)) - _macro(without_each(second))
    difference = float(_macro(first.sum(axis=0)) - _macro(second.sum(axis=0)))
    low, high = interval(difference, drawn, left_out, level=level).tolist()
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
    difference = float(_between(counts.reshape(shape))[0])
    kinds, times = _kinds(counts.reshape(shape[1:]))
    left_out = _between(counts.reshape(shape) - kinds)
    low, high = interval(difference, _between(drawn), left_out, counts=times, level=level).tolist()
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


def _kinds(
    counts: Int[np.ndarray, "*table"],
) -> tuple[Int[np.ndarray, "kinds *table"], Int[np.ndarray, "kinds"]]:
    """A table of each single kind of image that there is, and how many there are of it."""
    single = np.eye(counts.size, dtype=np.int64).reshape(-1, *counts.shape)
    there = counts.reshape(-1) > 0
    return single[there], counts.reshape(-1)[there]


def _intervals(
    total: Int[np.ndarray, "class class"],
    drawn: Int[np.ndarray, "resamples class class"],
    left_out: Int[np.ndarray, "groups class class"],
    counts: Int[np.ndarray, "groups"] | None,
    level: float,
    resamples: int,
    seed: int,
) -> Intervals:
    def ends(figure: Callable) -> Float64[np.ndarray, "2"]:
        value, *others = (figure(table) for table in (total, drawn, left_out))
        return interval(float(value), *others, counts=counts, level=level)

    return Intervals(
        macro_f1=ends(_macro),
        accuracy=ends(accuracy),
        balanced_accuracy=ends(balanced_accuracy),
        f1=np.stack([ends(lambda t, i=i: f1_by_class(t)[..., i]) for i in range(len(total))]),
        level=level,
        resamples=resamples,
        seed=seed,
    )
