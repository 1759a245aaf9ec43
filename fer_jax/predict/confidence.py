"""Probabilities that mean what they say: a bundle's calibration, applied."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fer_jax.ops.calibration import apply_calibration

_FLOOR = 1e-7  # of a probability, so that its logarithm is a number
_ROWS = 4096  # at once, so that one program serves tables of any length
_NUMBERS = {"temperature": ("temperature",), "vector": ("scale", "offset")}

Calibrate = Callable[[Float[np.ndarray, "rows class"]], Float[np.ndarray, "rows class"]]


def log_probabilities(probabilities: Float[np.ndarray, "rows class"]) -> np.ndarray:
    """What a calibration scales: logarithms, of nothing below 1e-7.

    Args:
        probabilities: rows that add up to 1.

    Returns:
        float32 of the same shape.
    """
    return np.log(np.maximum(probabilities, _FLOOR)).astype(np.float32)


def calibrated(
    probabilities: Float[np.ndarray, "rows class"], calibration: Mapping[str, Any]
) -> Float[np.ndarray, "rows class"]:
    """Probabilities under the calibration that a bundle holds.

    Args:
        probabilities: of single frames or smoothed, as `calibration["refers_to"]` says.
        calibration: the field of a bundle.

    Returns:
        Calibrated probabilities, float64.
    """
    parameters = {name: np.asarray(calibration[name]) for name in _NUMBERS[calibration["kind"]]}
    parts = [np.zeros((0, probabilities.shape[1]))]
    for start in range(0, len(probabilities), _ROWS):
        part = log_probabilities(probabilities[start : start + _ROWS])
        padded = np.pad(part, ((0, _ROWS - len(part)), (0, 0)))
        logits = np.asarray(apply_calibration(padded, parameters), np.float64)[: len(part)]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        parts.append(odds / odds.sum(axis=1, keepdims=True))
    return np.concatenate(parts)


def stored_calibration(
    calibration: Mapping[str, Any] | None, smoothing: Mapping[str, Any] | None
) -> tuple[Calibrate | None, Calibrate | None, str]:
    """What a bundle's calibration does to rows that are smoothed in some way.

    Args:
        calibration: the field of a bundle.
        smoothing: what is done to the rows, as a bundle's field `smoothing` holds it.

    Returns:
        What is applied to single frames, and to smoothed rows, None for nothing; and one sentence
        that says what a confidence is.
    """
    if calibration is None:
        return None, None, "Confidence is the model's own; this bundle has no calibration."
    apply = functools.partial(calibrated, calibration=calibration)
    if calibration["refers_to"] == "frames":
        return apply, None, "Confidence is calibrated for single frames."
    if calibration.get("smoothing") == smoothing:
        return None, apply, "Confidence is calibrated for rows that are smoothed in this way."
    otherwise = "the bundle's calibration is of rows that were smoothed in another way"
    return None, None, f"Confidence is not calibrated: {otherwise}."
