"""Predictions of every frame of some videos, with or without a face."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32

from fer_jax.predict.table import FILLS, PredictionTable

MOST_FRAMES = 50_000_000  # 19 days at 30 frames a second: a number of that size is no frame


def of_classes(
    probabilities: Float32[np.ndarray, "rows class"],
    columns: Sequence[int] | Int[np.ndarray, "shared"],
) -> Float32[np.ndarray, "rows shared"]:
    """Probabilities of some of the classes, scaled to add up to 1.

    Args:
        probabilities: of all classes.
        columns: of those that are wanted, in their new order.

    Returns:
        Their probabilities; a row that is all of other classes says nothing of these: equal parts.
    """
    chosen = probabilities[:, columns]
    if len(columns) == probabilities.shape[1]:
        return chosen
    total = chosen.sum(axis=1, keepdims=True)
    return np.where(total > 0, chosen / np.where(total > 0, total, 1), 1 / len(columns)).astype(
        np.float32
    )


def every_frame_table(
    classes: Sequence[str],
    videos: Sequence[str],
    segment: Int32[np.ndarray, "rows"],
    frame: Int[np.ndarray, "rows"],
    seen: Bool[np.ndarray, "rows"],
    raw: Float32[np.ndarray, "rows class"],
    prob: Float32[np.ndarray, "rows class"],
    fill: Int8[np.ndarray, "rows"],
) -> PredictionTable:
    """The prediction table of frames of which nothing else is known: no times, no boxes.

    Args:
        classes: display names.
        videos: names, in the order of `segment`.
        segment: the number of the row's video.
        frame: counted from 1.
        seen: whether there is a prediction.
        raw: of single frames; what is not seen is left out.
        prob: smoothed and filled.
        fill: index into `predict.table.FILLS`.

    Returns:
        The table, a row for each frame.
    """
    nothing = np.full(len(segment), np.nan)
    return PredictionTable.from_probabilities(
        classes,
        video=np.asarray(videos, object)[segment],
        frame=frame,
        time_s=nothing,
        face_id=np.where(seen, 0, -1),
        box=np.stack([nothing] * 4, axis=1),
        status=np.where(seen, "ok", "no_face").astype(object),
        fill=np.asarray(FILLS, object)[fill],
        raw=np.where(seen[:, None], raw, np.float32(np.nan)),
        prob=prob,
    )
