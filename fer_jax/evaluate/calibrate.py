"""Fits a calibration on a split, says what it is worth on other videos, fits it to a bundle."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_jax.bundle import read_document
from fer_jax.errors import FerJaxError
from fer_jax.ops.calibration import expected_calibration_error, fit_calibration
from fer_jax.predict.confidence import calibrated, log_probabilities


def calibrate(
    kind: str,
    probabilities: Float[np.ndarray, "rows class"],
    labels: Int[np.ndarray, "rows"],
    group: Int[np.ndarray, "rows"],
    *,
    refers_to: str,
    smoothing: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fits a calibration, and measures it on groups that it was not fitted on.

    A bundle keeps what was fitted; `fer-jax predict` applies it.

    Args:
        kind: one of `ops.calibration.CALIBRATIONS`.
        probabilities: rows that add up to 1.
        labels: of the rows, none of them -1.
        group: the number of the row's film or person; halves of them are fitted for each other.
        refers_to: `frames` or `smoothed`: what the rows are.
        smoothing: the filter of smoothed rows and its `fill`, as a bundle's `smoothing` holds them.

    Returns:
        `calibration`, the field of a bundle; and the calibration error `before`, `after` on the
        same rows, and `after_left_out` where each half of the groups is scaled as fitted on the
        other one (None where there is a single group).
    """
    calibration = _fitted(kind, probabilities, labels)
    after = calibrated(probabilities, calibration)
    numbers = np.unique(group)
    left_out = None
    if len(numbers) > 1:
        half: Bool[np.ndarray, "rows"] = np.isin(group, numbers[::2])
        others = np.empty_like(after)
        for part in (half, ~half):
            fitted = _fitted(kind, probabilities[~part], labels[~part])
            others[part] = calibrated(probabilities[part], fitted)
        left_out = _error(others, labels)
    return {
        "calibration": calibration
        | {"of": "log_probabilities", "refers_to": refers_to}
        | ({"smoothing": smoothing} if smoothing else {}),
        "before": _error(probabilities, labels),
        "after": _error(after, labels),
        "after_left_out": left_out,
    }


def bundle_order(path: str | os.PathLike[str], classes: tuple[str, ...]) -> list[int]:
    """Where each class of a bundle is among those of a calibration that it is to hold.

    Args:
        path: the bundle.
        classes: in the order of the calibration's numbers.

    Returns:
        Indices into `classes`.

    Raises:
        FerJaxError: no bundle, or one of other classes.
    """
    _, fields, _ = read_document(Path(path))
    own = fields["labels"].classes if fields["labels"] else ()
    if sorted(own) != sorted(classes):
        raise FerJaxError(
            f"{path}: its classes are {', '.join(own) or 'none'}, the calibration is of "
            f"{', '.join(classes)}; calibrate on labels of the bundle's own classes"
        )
    return [classes.index(name) for name in own]


def in_bundle_order(
    path: str | os.PathLike[str], calibration: dict[str, Any], classes: tuple[str, ...]
) -> dict[str, Any]:
    """A calibration as a bundle's field holds it, for `bundle.update_document`.

    Args:
        path: the bundle.
        calibration: from `calibrate`.
        classes: in the order of its numbers.

    Returns:
        The calibration, its numbers in the order of the bundle's classes.

    Raises:
        FerJaxError: as `bundle_order`.
    """
    order = bundle_order(path, classes)
    return {
        name: [value[i] for i in order] if isinstance(value, list) else value
        for name, value in calibration.items()
    }


def _fitted(kind: str, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    found = fit_calibration(kind, log_probabilities(probabilities), labels)
    numbers = {name: np.asarray(value, np.float64).tolist() for name, value in found.items()}
    return {"kind": kind, **numbers}


def _error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(expected_calibration_error(probabilities.astype(np.float32), labels))
