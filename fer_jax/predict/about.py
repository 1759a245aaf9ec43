"""Which bundle was run, and how: what a report says of it."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax

from fer_jax.bundle import PARAMS_FILE, View
from fer_jax.predict.recognizer import Recognizer


def bundle_fields(recognizer: Recognizer) -> dict[str, Any]:
    """Which bundle was run, and how it was computed.

    Args:
        recognizer: that ran it.

    Returns:
        `bundle` and `computed`, fields of a JSON file.
    """
    bundle = recognizer.bundle
    params = None if recognizer.path is None else recognizer.path / PARAMS_FILE
    return {
        "bundle": {
            "path": None if recognizer.path is None else str(recognizer.path),
            "kind": bundle.kind,
            "params_sha256": None if params is None else file_sha256(params),
            "license": bundle.license,
            "provenance": bundle.provenance,
            "views": {name: _plain(view) for name, view in bundle.views.items()},
        },
        "computed": {
            "backend": jax.default_backend(),
            "jax_version": jax.__version__,
            "dtype": recognizer.dtype,
            "matmul_precision": recognizer.precision,
        },
    }


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(view: View) -> dict[str, Any]:
    fields = dataclasses.asdict(view)
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()
    }
