"""How far confidence can be believed, and what is gained by naming only what is sure."""

import math
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from fer_jax.evaluate.intervals import LEVEL
from fer_jax.ops.calibration import expected_calibration_error

COVERAGES = (1.0, 0.8, 0.5, 0.2)


def confidence_fields(
    probabilities: Float[np.ndarray, "n class"], labels: Int[np.ndarray, "n"], note: str
) -> dict[str, Any]:
    """The field `confidence` of metrics.json, of single images.

    Args:
        probabilities: as the bundle gives them, calibrated if it is.
        labels: true classes.
        note: a sentence on what the confidence is.

    Returns:
        `calibration_error`; and `kept`, see `kept_accuracy`.
    """
    confidence = probabilities.max(axis=1)
    error = expected_calibration_error(probabilities.astype(np.float32), labels)
    return {
        "note": note,
        "calibration_error": float(error),
        "kept": kept_accuracy(confidence, probabilities.argmax(axis=1) == labels),
    }


def kept_accuracy(
    confidence: Float[np.ndarray, "n"], correct: Bool[np.ndarray, "n"]
) -> list[dict[str, float]]:
    """The accuracy of the surest images, where the others get no label.

    Args:
        confidence: of each image.
        correct: whether its label is right.

    Returns:
        For each of `COVERAGES`: the `coverage`, rounded up to whole images, the least `confidence`
        of those kept (what `fer-jax predict --abstain` would be), their `accuracy`, and the ends
        `low`, `high` of its interval.

    Example:
        >>> found = kept_accuracy(np.array([0.9, 0.8, 0.6, 0.4]), np.array([1, 1, 0, 0], bool))
        >>> [(one["coverage"], one["accuracy"]) for one in found]
        [(1.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.25, 1.0)]

    Source:
        The interval: Wilson, JASA 22 (1927).
    """
    order = np.argsort(-confidence, kind="stable")
    found = []
    for coverage in COVERAGES:
        number = max(1, math.ceil(coverage * len(order) - 1e-9))
        kept = order[:number]
        right = int(correct[kept].sum())
        ends = scipy.stats.binomtest(right, number).proportion_ci(LEVEL, method="wilson")
        found.append(
            {
                "coverage": number / len(order),
                "confidence": float(confidence[kept[-1]]),
                "accuracy": right / number,
                "low": float(ends.low),
                "high": float(ends.high),
            }
        )
    return found
