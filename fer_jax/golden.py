"""The golden sample of a bundle: a few inputs and what its models made of them in float32.

It is computed again when a bundle is loaded, so that a wrong kernel, order or file is noticed
before it is used.
"""

import dataclasses
import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, UInt8

from fer_jax.bundle_schema import Bundle, View
from fer_jax.errors import FerJaxError
from fer_jax.forward import bundle_function, preprocess
from fer_jax.labels import LabelSpace
from fer_jax.models import mae
from fer_jax.models.fusion import FusionConfig, TokenFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import ViTConfig

# Largest difference over largest value. Other machines, batch sizes and compilers in float32 are
# within 1e-5; tanh GELU is 1e-3, and a TPU's or a GPU's default precision 3e-4 and more.
GOLDEN_TOLERANCE = 1e-4

_SEED = 20240319
_GRID = (4, 3)  # of drawn patch maps; their sides differ, so that a swap shows
_PLAIN = {"dtype": "float32", "scan_layers": True, "remat": "none", "attention": "xla"}

Arrays = dict[str, np.ndarray]
Program = Callable[[Mapping[str, Any], dict[str, np.ndarray]], dict[str, Array]]


def golden_inputs(bundle: Bundle, faces: UInt8[np.ndarray, "b h w 3"] | None = None) -> Arrays:
    """What a bundle is tried on: `faces`, or for a fusion the features of its sources.

    Args:
        bundle: whose kind decides.
        faces: to be used instead of two drawn ones.
    """
    if bundle.views:
        return {"faces": drawn_faces() if faces is None else faces}
    return drawn_features(bundle.models["fusion"][0])


def drawn_faces() -> UInt8[np.ndarray, "2 112 112 3"]:
    """Two pictures with large and small structure, made of integers: the same everywhere."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    coarse = generator.integers(0, 192, (2, 7, 7, 3), dtype=np.uint8)
    fine = generator.integers(0, 64, (2, 112, 112, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2) + fine


def drawn_features(config: FusionConfig, number: int = 2) -> Arrays:
    """Features of each source, in [-2, 2), made of integers: the same everywhere."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    rows = (number, *_GRID) if isinstance(config, TokenFusionConfig) else (number,)
    return {
        name: (generator.integers(-128, 128, (*rows, width)) / 64).astype(np.float32)
        for name, width in zip(config.sources, config.widths, strict=True)
    }


def mae_noise(batch: int, patches: int) -> Float32[np.ndarray, "batch patches"]:
    """Each row a permutation over the number of patches: no ties, so the same order everywhere."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    rows = [generator.permutation(patches) for _ in range(batch)]
    return (np.stack(rows) / patches).astype(np.float32)


def plain(config: ModelConfig) -> ModelConfig:
    """The configuration for results that can be compared: float32, no matter of speed."""
    if isinstance(config, MAEConfig):
        return dataclasses.replace(config, encoder=plain(config.encoder))
    return dataclasses.replace(config, **_PLAIN) if isinstance(config, ViTConfig) else config


def golden_outputs(
    bundle: Bundle, inputs: Mapping[str, np.ndarray], program: Program | None = None
) -> Arrays:
    """What a bundle's models make of golden inputs, in float32 at the highest precision.

    Args:
        bundle: the models.
        inputs: from `golden_inputs`.
        program: from `compile_golden`, if it was compiled before.

    Returns:
        `features_<model>` and, by kind, `logits` or `prediction` (MAE's, with fixed noise).
    """
    with jax.default_matmul_precision("highest"):
        outputs = (program or _program_of(bundle))(bundle.params, dict(inputs))
    return {name: np.asarray(values) for name, values in outputs.items()}


def compile_golden(bundle: Bundle) -> Program:
    """Compiles the program of `golden_outputs` for the drawn inputs, before there are parameters.

    Args:
        bundle: its parameters may be `jax.ShapeDtypeStruct`s: only shapes and dtypes are used.
    """
    given = (bundle.params, golden_inputs(bundle))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
    with jax.default_matmul_precision("highest"):
        return _program_of(bundle).lower(*shapes).compile()


def read_golden(path: Path, bundle: Bundle) -> tuple[Arrays, Arrays]:
    """Reads the golden sample of a bundle: its inputs and outputs.

    Raises:
        FerJaxError: the file is truncated, damaged or holds no inputs.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FerJaxError(f"{path}: truncated or damaged; convert or train again") from error
    names = ("faces",) if bundle.views else bundle.models["fusion"][0].sources
    inputs = {name: golden.pop(name) for name in names if name in golden}
    if bundle.views:
        faces = inputs.get("faces")
        if faces is None or faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[-1] != 3:
            raise FerJaxError(f"{path}: holds no uint8 faces; convert or train again")
    elif len(inputs) < len(names) or any(x.dtype != np.float32 for x in inputs.values()):
        raise FerJaxError(f"{path}: holds no float32 features; convert or train again")
    return inputs, golden


def verify_golden(
    path: Path,
    bundle: Bundle,
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    tolerance: float,
) -> None:
    """Computes a golden sample again.

    Raises:
        FerJaxError: an output differs by more than `tolerance` of its largest value.
    """
    outputs = golden_outputs(bundle, inputs)
    if {n: v.shape for n, v in outputs.items()} != {n: v.shape for n, v in expected.items()}:
        raise FerJaxError(f"{path}: does not fit the model; convert or train again")
    for name, values in outputs.items():
        difference = np.abs(values - expected[name]).max()
        allowed = tolerance * np.abs(expected[name]).max()
        if not difference <= allowed:  # NaN is no match either
            raise FerJaxError(
                f"{path.parent}: {name} of its golden sample differ by {difference:.3g}, "
                f"{allowed:.3g} is allowed; the files do not belong together, or this machine "
                "computes wrongly: convert or train again"
            )


def _program_of(bundle: Bundle) -> jax.stages.Wrapped:
    configs = tuple((name, config) for name, (config, _) in bundle.models.items())
    return _program(bundle.kind, bundle.labels, configs, tuple(bundle.views.items()))


@functools.lru_cache(maxsize=8)
def _program(
    kind: str,
    labels: LabelSpace | None,
    configs: tuple[tuple[str, ModelConfig], ...],
    views: tuple[tuple[str, View], ...],
) -> jax.stages.Wrapped:
    """The jitted program of a golden sample; kept, so that saving and loading share it."""
    models = {name: (plain(config), {}) for name, config in configs}
    bundle = Bundle(kind=kind, labels=labels, models=models, views=dict(views))
    function = bundle_function(bundle)

    def run(params: Mapping[str, Any], given: dict[str, Array]) -> dict[str, Array]:
        inputs = {name: preprocess(view, given["faces"]) for name, view in views} or given
        logits, features = function(params, inputs)
        outputs = {f"features_{name}": values for name, values in features.items()}
        if logits is not None:
            outputs["logits"] = logits
        if kind == "mae":
            config = models["main"][0]
            noise = mae_noise(len(inputs["main"]), config.encoder.grid**2)
            found = mae.apply(mae.build(config), params["main"], inputs["main"], noise)
            outputs["prediction"] = found.prediction
        return outputs

    return jax.jit(run)
