"""Scores where a region of each face is covered, beside those of the whole faces."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from fer_jax.data.pipeline import FaceData
from fer_jax.errors import UsageError
from fer_jax.evaluate.filters import Filter
from fer_jax.evaluate.frame_scores import Predicted, confusions_of_videos, of_films, predicted
from fer_jax.evaluate.frames import Timeline
from fer_jax.evaluate.intervals import compare_images, compare_videos
from fer_jax.faces.covering import REGIONS, cover
from fer_jax.ops.metrics import f1_by_class

_TEMPLATE = "arcface_"  # of faces that the boxes of regions fit


def parse_regions(text: str) -> tuple[str, ...]:
    """Reads `eyes,mouth,eyes+mouth`: what is covered, one after the other; `+` at a time.

    Raises:
        UsageError: a region that is not known.

    Example:
        >>> parse_regions("eyes,eyes+mouth")
        ('eyes', 'eyes+mouth')
    """
    found = tuple(part.strip() for part in text.split(","))
    for part in found:
        if not set(part.split("+")) <= set(REGIONS):
            raise UsageError(
                f"--cover {part!r}: must be of {', '.join(REGIONS)}, with commas between what is "
                "scored apart, such as eyes,mouth, and + between what is covered at a time"
            )
    return found


def covers(data: FaceData, regions: Sequence[str]) -> dict[str, Callable]:
    """For each region what is done to a face.

    Args:
        data: whose faces are meant.
        regions: of `parse_regions`.

    Returns:
        A function of an aligned face.

    Raises:
        UsageError: the faces are not aligned to the five-point template.
    """
    if regions and not data.template.startswith(_TEMPLATE):
        raise UsageError(
            f"{data.path}: its faces are aligned as {data.template!r}, so where their eyes are is "
            "not known; use faces on the five-point template, or leave out --cover"
        )
    return {one: functools.partial(cover, regions=one.split("+")) for one in regions}


def covered_frames(
    joined: Timeline,
    ways: Sequence[Predicted],
    covered: Mapping[str, Timeline],
    fill: str,
    smoothing: Filter | None,
) -> list[dict[str, Any]]:
    """The field `covered` of metrics.json, of frames of videos.

    Args:
        joined: predictions of whole faces, and labels.
        ways: single frames, and smoothed if wished.
        covered: the same of covered faces, by region.
        fill: how frames without a prediction get one.
        smoothing: the filter of the second way.

    Returns:
        For each region its `scores`, by way: macro-F1, and how it differs from that of whole faces,
        paired, over all labelled frames. The ends of the interval are None with a single video.
    """
    everything = np.ones(len(joined), bool)
    found = []
    for region, other in covered.items():
        scores = {}
        for way in ways:
            theirs = predicted(other, fill, smoothing if way.rows == "smoothed" else None)
            pair = [
                confusions_of_videos(joined, one.probabilities, everything) for one in (theirs, way)
            ]
            pair = [of_films(joined.videos, confusions) for confusions in pair]
            scores[way.rows] = _score(*(confusions.sum(axis=0) for confusions in pair))
            if int((pair[0].sum((1, 2)) > 0).sum()) > 1:
                scores[way.rows] |= dataclasses.asdict(compare_videos(*pair))
        found.append({"region": region, "scores": scores})
    return found


def covered_images(
    labels: Int[np.ndarray, "n"],
    choice: Int[np.ndarray, "n"],
    covered: Mapping[str, Int[np.ndarray, "n"]],
    classes: int,
) -> list[dict[str, Any]]:
    """The field `covered` of metrics.json, of single images, as of `covered_frames`.

    Args:
        labels: true classes.
        choice: predicted ones, of whole faces.
        covered: the same of covered faces, by region.
        classes: how many.
    """
    found = []
    for region, other in covered.items():
        both = dataclasses.asdict(compare_images(labels, other, choice, classes))
        pair = [np.zeros((classes, classes), np.int64) for _ in range(2)]
        for confusion, chosen in zip(pair, (other, choice), strict=True):
            np.add.at(confusion, (labels, chosen), 1)
        found.append({"region": region, "scores": {"images": _score(*pair) | both}})
    return found


def _score(covered: np.ndarray, whole: np.ndarray) -> dict[str, Any]:
    ours, theirs = (float(f1_by_class(one).mean()) for one in (covered, whole))
    return {"macro_f1": ours, "difference": ours - theirs, "low": None, "high": None}
