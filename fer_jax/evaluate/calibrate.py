"""Fits a calibration on a split, says what it is worth on other videos, and stores it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_jax.atomic import atomic_file
from fer_jax.bundle import DOCUMENT_FILE, read_document
from fer_jax.errors import FerJaxError
from fer_jax.ops.calibration import (
    apply_calibration,
    expected_calibration_error,
    fit_calibration,
)

_FLOOR = 1e-7  # of a probability, so that its logarithm is a number


def log_probabilities(probabilities: Float[np.ndarray, "rows class"]) -> np.ndarray:
    """What a calibration scales: logarithms, of nothing below 1e-7.

    Args:
        probabilities: rows that add up to 1.

    Returns:
        float32 of the same shape.
    """
    return np.log(np.maximum(probabilities, _FLOOR)).astype(np.float32)


def calibrated(
    probabilities: Float[np.ndarray, "rows class"], calibration: dict[str, Any]
) -> Float[np.ndarray, "rows class"]:
    """Probabilities under the calibration that a bundle holds.

    Args:
        probabilities: of single frames or smoothed, as `calibration["refers_to"]` says.
        calibration: the field of a bundle.

    Returns:
        Calibrated probabilities, float64.
    """
    parameters = {name: np.asarray(calibration[name]) for name in _NUMBERS[calibration["kind"]]}
    logits = np.asarray(apply_calibration(log_probabilities(probabilities), parameters), np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


_NUMBERS = {"temperature": ("temperature",), "vector": ("scale", "offset")}


def calibrate(
    kind: str,
    probabilities: Float[np.ndarray, "rows class"],
    labels: Int[np.ndarray, "rows"],
    group: Int[np.ndarray, "rows"],
    *,
    refers_to: str,
) -> dict[str, Any]:
    """Fits a calibration, and measures it on groups that it was not fitted on.

    Args:
        kind: one of `ops.calibration.CALIBRATIONS`.
        probabilities: rows that add up to 1.
        labels: of the rows, none of them -1.
        group: the number of the row's video; halves of them are fitted for each other.
        refers_to: `frames` or `smoothed`: what the rows are.

    Returns:
        `calibration`, the field of a bundle; and the calibration error `before`, `after` on the
        same rows, and `after_left_out` where each half of the groups is scaled as fitted on the
        other one (None where there is a single group).
    """
    calibration = _fitted(kind, probabilities, labels, refers_to)
    after = calibrated(probabilities, calibration)
    numbers = np.unique(group)
    left_out = None
    if len(numbers) > 1:
        half: Bool[np.ndarray, "rows"] = np.isin(group, numbers[::2])
        others = np.empty_like(after)
        for part in (half, ~half):
            fitted = _fitted(kind, probabilities[~part], labels[~part], refers_to)
            others[part] = calibrated(probabilities[part], fitted)
        left_out = _error(others, labels)
    return {
        "calibration": calibration,
        "before": _error(probabilities, labels),
        "after": _error(after, labels),
        "after_left_out": left_out,
    }


def store_calibration(
    path: str | os.PathLike[str],
    calibration: dict[str, Any],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Writes a calibration into bundle.json; weights and golden sample stay as they are.

    Args:
        path: the bundle.
        calibration: from `calibrate`.
        classes: in the order of its numbers.

    Returns:
        What was written, its numbers in the order of the bundle's classes.

    Raises:
        FerJaxError: no bundle, or one of other classes.
    """
    path = Path(path)
    _, fields, _ = read_document(path)
    own = fields["labels"].classes if fields["labels"] else ()
    if sorted(own) != sorted(classes):
        raise FerJaxError(
            f"{path}: its classes are {', '.join(own) or 'none'}, the calibration is of "
            f"{', '.join(classes)}; calibrate on labels of the bundle's own classes"
        )
    order = [classes.index(name) for name in own]
    stored = {
        name: [value[i] for i in order] if isinstance(value, list) else value
        for name, value in calibration.items()
    }
    document = json.loads((path / DOCUMENT_FILE).read_text(encoding="utf-8"))
    document["calibration"] = stored
    with atomic_file(path / DOCUMENT_FILE) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return stored


def _fitted(
    kind: str, probabilities: np.ndarray, labels: np.ndarray, refers_to: str
) -> dict[str, Any]:
    found = fit_calibration(kind, log_probabilities(probabilities), labels)
    numbers = {name: np.asarray(value, np.float64).tolist() for name, value in found.items()}
    return {"kind": kind, **numbers, "of": "log_probabilities", "refers_to": refers_to}


def _error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(expected_calibration_error(probabilities.astype(np.float32), labels))
