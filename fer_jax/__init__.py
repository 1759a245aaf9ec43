"""Facial expression recognition in JAX: convert, fine-tune, fuse, smooth, score, label.

`fer_jax.load(path)` opens a bundle. Everything else is imported from its own module, so that
`import fer_jax` stays light: see docs/architecture.md.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from fer_jax.predict.recognizer import load

        return load
    raise AttributeError(f"module 'fer_jax' has no attribute {name!r}")
