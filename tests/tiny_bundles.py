"""Bundles with random weights, small enough to run in milliseconds."""

from pathlib import Path

import jax
import numpy as np

from fer_jax.bundle import Bundle, View, save_bundle
from fer_jax.labels import LabelSpace, label_space
from fer_jax.models import vit


def tiny_bundle(
    labels: LabelSpace | str | None = "expw", *, view: str = "main", seed: int = 0
) -> Bundle:
    """A classifier, or an encoder where `labels` is None; its predictions vary with the image."""
    space = label_space(labels) if isinstance(labels, str) else labels
    config = vit.ViTConfig(
        image_size=32,
        patch_size=16,
        width=48,
        depth=2,
        num_heads=3,
        num_classes=0 if space is None else len(space),
        pool="avg",
    )
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    main = View(
        template="as_is",
        crop_source="drawn",
        view=view,
        image_size=32,
        resize="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return Bundle(
        kind="encoder" if space is None else "classifier",
        models={"main": (config, params)},
        views={"main": main},
        labels=space,
        license="none: random numbers",
        provenance={"source": "tests/tiny_bundles.py"},
    )


def write_tiny_bundle(path: Path, labels: str | None = "expw", **options) -> Path:
    """Saves a tiny bundle, and returns its path."""
    save_bundle(tiny_bundle(labels, **options), path)
    return path


def noise_faces(number: int, *, size: int = 40, seed: int = 0) -> np.ndarray:
    """Pictures of coarse coloured noise, uint8 [number, size, size, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (number, 5, 5, 3), dtype=np.uint8)
    return coarse.repeat(size // 5, axis=1).repeat(size // 5, axis=2)
