"""Bundles with random weights, small enough to run in milliseconds."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.bundle import Bundle, View, save_bundle
from fer_jax.labels import LabelSpace, label_space
from fer_jax.models import fusion, vit


def tiny_bundle(
    labels: LabelSpace | str | None = "expw",
    *,
    view: str = "main",
    seed: int = 0,
    width: int = 48,
) -> Bundle:
    """A classifier, or an encoder where `labels` is None; its predictions vary with the image."""
    space = label_space(labels) if isinstance(labels, str) else labels
    config = vit.ViTConfig(
        image_size=32,
        patch_size=16,
        width=width,
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


def tiny_two_view_bundle(
    variant: str = "entry", labels: str = "expw", *, seed: int = 0, **options: Any
) -> Bundle:
    """Two tiny encoders and a fusion of them, of the kind `two_view`; its predictions vary.

    `options` are the fusion's. Both encoders have one size, but weights and widths of their own.
    """
    encoders = {
        "main": tiny_bundle(None, seed=seed),
        "aux": tiny_bundle(None, view="eyes_mouth", seed=seed + 1, width=36),
    }
    models = {name: encoder.models["main"] for name, encoder in encoders.items()}
    space = label_space(labels)
    widths = {name: config.width for name, (config, _) in models.items()}
    if variant == "entry":
        options = {"width": 24, "hidden": 16} | options
    config = fusion.fusion_config(variant, widths, len(space), **options)
    shapes = jax.eval_shape(lambda: fusion.init(config, jax.random.key(0)))
    rng = np.random.default_rng(seed + 2)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes)
    return Bundle(
        kind="two_view",
        models=models | {"fusion": (config, params)},
        views={name: encoder.views["main"] for name, encoder in encoders.items()},
        labels=space,
        license="none: random numbers",
        provenance={"source": "tests/tiny_bundles.py"},
    )


def write_tiny_two_view_bundle(path: Path, variant: str = "entry", **options: Any) -> Path:
    """Saves a tiny bundle of two views, and returns its path."""
    save_bundle(tiny_two_view_bundle(variant, **options), path)
    return path
