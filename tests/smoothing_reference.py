"""What smoothing is, written down again: float64 loops over frames and windows."""

import numpy as np


def taps(kernel, back, ahead, width=None):
    distance = np.abs(np.arange(-back, ahead + 1))
    reach = max(back, ahead)
    width = width or max(reach, 1) / 3
    return {
        "box": np.ones(len(distance)),
        "majority": np.ones(len(distance)),
        "gaussian": np.exp(-(distance**2) / (2 * width**2)),
        "triangular": (reach + 1 - distance) / (reach + 1),
        "exponential": np.exp(-distance / width),
    }[kernel]


def smooth_reference(
    values, weights, segments, kernel, window, lookahead=None, stride=1, width=None
):
    """As `fer_jax.ops.smoothing.smooth`, of one flat array."""
    ahead = window // 2 if lookahead is None else lookahead
    back = window - 1 - ahead
    values, weights = values.astype(np.float64), weights.astype(np.float64)
    if kernel == "majority":
        values = np.eye(values.shape[1])[values.argmax(1)]
    out = np.zeros_like(values)
    for video in np.unique(segments):
        rows = np.flatnonzero(segments == video)
        for i, row in enumerate(rows):
            i -= i % stride
            window_rows = rows[max(i - back, 0) : i + ahead + 1]
            seen = window_rows[weights[window_rows] > 0]
            if not len(seen):
                continue
            if kernel == "median":
                out[row] = np.median(values[seen], axis=0)
            else:
                k = taps(kernel, back, ahead, width)[seen - rows[i] + back] * weights[seen]
                out[row] = (k[:, None] * values[seen]).sum(0) / k.sum()
    return out


def ragged(seed, lengths, classes=4, gaps=0.25, fractions=False):
    """Probabilities, weights and segments of videos of these lengths."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    values = rng.dirichlet(np.full(classes, 0.5), total).astype(np.float32)
    weights = (rng.random(total) >= gaps).astype(np.float32)
    if fractions:
        weights *= rng.random(total, np.float32)
    segments = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return values, weights, segments
