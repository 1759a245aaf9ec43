"""The release format: weights, and everything that is needed to use them rightly.

A bundle is a folder of three files. `params.safetensors` holds one tensor a block under PyTorch's
names, prefixed by the view it serves (`main/blocks.0.attn.qkv.weight`). `bundle.json` holds the
models' sizes, how faces are prepared for each view, the labels and where all of it came from.
`golden.npz` holds a few faces and what the models made of them in float32; they are computed again
when a bundle is loaded, so that a wrong kernel, order or file is noticed before it is used.
"""

import dataclasses
import functools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from fer_jax.atomic import atomic_directory
from fer_jax.bundle_schema import Bundle, View, from_json, to_json
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace
from fer_jax.models import vit
from fer_jax.models.torch_layout import from_torch_layout, layout, to_torch_layout
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.normalize import normalize
from fer_jax.ops.resize import resize
from fer_jax.ops.views import cut_view
from fer_jax.safetensors_file import read_safetensors, write_safetensors

__all__ = [
    "Bundle",
    "View",
    "bundle_function",
    "forward",
    "load_bundle",
    "preprocess",
    "read_document",
    "save_bundle",
]

PARAMS_FILE = "params.safetensors"
DOCUMENT_FILE = "bundle.json"
GOLDEN_FILE = "golden.npz"
FILES = (DOCUMENT_FILE, PARAMS_FILE, GOLDEN_FILE)

# Largest difference over largest value. Other machines, batch sizes and compilers in float32 are
# within 1e-5; tanh GELU is 1e-3, and a TPU's or a GPU's default precision 3e-4 and more.
GOLDEN_TOLERANCE = 1e-4

Outputs = tuple[Float[Array, "b classes"] | None, dict[str, Float[Array, "b width"]]]


def preprocess(
    view: View, faces: Shaped[Array | np.ndarray, "b h w 3"]
) -> Float[Array, "b size size 3"]:
    r"""Prepares aligned faces for a model: $(\mathrm{resize}(\mathrm{cut}(x)) / 255 - m) / s$.

    Args:
        view: what the model takes.
        faces: whole aligned faces, RGB, uint8 or float in [0, 255]. The view is cut here.

    Returns:
        Normalised float32 images. Pure; jits with `view` closed over.
    """
    images = resize(cut_view(faces, view.view), view.image_size, view.resize)
    return normalize(images, view.mean, view.std)


def bundle_function(
    bundle: Bundle,
) -> Callable[[Mapping[str, Params], Mapping[str, Float[Array, "b size size 3"]]], Outputs]:
    """The bundle's model as a pure function of its parameters and normalised images.

    Args:
        bundle: only its configurations are used.

    Returns:
        A function (`bundle.params`, {"main": images, ...}) -> (logits, features): logits
        (batch, classes), None for kinds without labels; features {"main": pooled, ...} float32.
    """
    graphs = {name: vit.build(config) for name, (config, _) in bundle.models.items()}

    def function(
        params: Mapping[str, Params], inputs: Mapping[str, Float[Array, "b size size 3"]]
    ) -> Outputs:
        outputs = {name: vit.apply(graphs[name], params[name], inputs[name]) for name in graphs}
        features = {name: found["pooled"] for name, (_, found) in outputs.items()}
        return outputs["main"][0], features

    return function


def forward(bundle: Bundle, faces: Shaped[Array | np.ndarray, "b h w 3"]) -> Outputs:
    """Runs a bundle on aligned faces; pure.

    Args:
        bundle: a loaded bundle.
        faces: whole aligned faces, RGB, uint8 or float in [0, 255].

    Returns:
        Logits (None for kinds without labels), and pooled features by model.
    """
    inputs = {name: preprocess(view, faces) for name, view in bundle.views.items()}
    return bundle_function(bundle)(bundle.params, inputs)


def save_bundle(
    bundle: Bundle,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    golden_faces: UInt8[np.ndarray, "b h w 3"] | None = None,
) -> None:
    """Writes a bundle; what stands at `path` afterwards is whole.

    Args:
        bundle: what to write.
        path: a folder that does not exist, or is empty.
        overwrite: replace a folder that exists.
        golden_faces: faces for the golden sample; drawn from a seed if not given.

    Raises:
        FerJaxError: the folder exists, or the model's outputs are not finite.
    """
    faces = _drawn_faces() if golden_faces is None else golden_faces
    with atomic_directory(path, marker=DOCUMENT_FILE, overwrite=overwrite) as folder:
        golden = _golden_outputs(bundle, faces)
        if not all(np.isfinite(values).all() for values in golden.values()):
            raise FerJaxError(f"{path}: the model's outputs are not finite; nothing was written")
        write_safetensors(folder / PARAMS_FILE, _layout(bundle.models), _tensors(bundle))
        np.savez(folder / GOLDEN_FILE, faces=faces, **golden)
        document = to_json(bundle, {"tolerance": GOLDEN_TOLERANCE})
        text = json.dumps(document, indent=2, allow_nan=False)
        (folder / DOCUMENT_FILE).write_text(text + "\n", encoding="utf-8")


def load_bundle(path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Reads a bundle and checks it against its golden sample.

    Args:
        path: the folder.
        verify: run the golden sample; False saves that time and checks everything else.

    Returns:
        The bundle, its parameters on the host.

    Raises:
        FerJaxError: no bundle, a file or field is missing or wrong, or the golden sample differs.
    """
    path = Path(path)
    configs, fields, tolerance = read_document(path)
    tensors = read_safetensors(path / PARAMS_FILE)
    try:
        models = {
            name: (config, _params(config, name, tensors)) for name, config in configs.items()
        }
        left = [name for name in tensors if name.split("/")[0] not in configs]
        if left:
            raise ValueError(f"not part of the bundle: {', '.join(left)}")
        bundle = Bundle(models=models, **fields)
    except (FerJaxError, ValueError) as error:
        raise FerJaxError(f"{path}: {error}; convert or train again") from error
    golden = _read_golden(path / GOLDEN_FILE)
    if verify:
        _verify(path, bundle, golden, tolerance)
    return bundle


def read_document(path: Path) -> tuple[dict[str, ViTConfig], dict[str, Any], float]:
    """What bundle.json says: the models' sizes, the other fields of `Bundle`, the tolerance.

    Raises:
        FerJaxError: a file of the bundle is missing, or a field is missing or wrong.
    """
    for name in FILES:
        if not (path / name).is_file():
            raise FerJaxError(f"{path}: no bundle, {name} is missing; {_hint(path)}")
    try:
        return from_json(json.loads((path / DOCUMENT_FILE).read_text(encoding="utf-8")))
    except (FerJaxError, ValueError) as error:
        raise FerJaxError(f"{path / DOCUMENT_FILE}: {error}") from error


def _hint(path: Path) -> str:
    if not path.exists():
        return "check the path"
    if path.is_file():
        return "`fer-jax convert` makes a bundle of a .pth or .safetensors file"
    if (path / "bundle").is_dir():
        return f"perhaps {path / 'bundle'} is meant"
    return "`fer-jax convert` and `fer-jax train` make bundles"


def _layout(
    models: Mapping[str, tuple[ViTConfig, Params]],
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {
        f"{key}/{name}": entry
        for key, (config, _) in models.items()
        for name, entry in layout(config).items()
    }


def _tensors(bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
    for key, (config, params) in bundle.models.items():
        for name, values in to_torch_layout(params, config):
            yield f"{key}/{name}", values


def _params(config: ViTConfig, key: str, tensors: Mapping[str, np.ndarray]) -> Params:
    prefix = f"{key}/"
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    wrong = [f"{prefix}{n}: {t.dtype}" for n, t in own.items() if t.dtype != config.param_dtype]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}, where the model has {config.param_dtype}")
    return from_torch_layout(own, config)


def _drawn_faces() -> UInt8[np.ndarray, "2 112 112 3"]:
    """Two pictures with large and small structure, made of integers: the same everywhere."""
    generator = np.random.Generator(np.random.PCG64(20240319))
    coarse = generator.integers(0, 192, (2, 7, 7, 3), dtype=np.uint8)
    fine = generator.integers(0, 64, (2, 112, 112, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2) + fine


def _golden_outputs(bundle: Bundle, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Features of every model and the logits, in float32 at the highest precision."""
    configs = tuple((name, config) for name, (config, _) in bundle.models.items())
    program = _golden_program(bundle.kind, bundle.labels, configs, tuple(bundle.views.items()))
    with jax.default_matmul_precision("highest"):
        logits, features = program(bundle.params, faces)
    outputs = {f"features_{name}": np.asarray(values) for name, values in features.items()}
    return outputs if logits is None else outputs | {"logits": np.asarray(logits)}


@functools.lru_cache(maxsize=8)
def _golden_program(
    kind: str,
    labels: LabelSpace | None,
    configs: tuple[tuple[str, ViTConfig], ...],
    views: tuple[tuple[str, View], ...],
) -> Callable[[Mapping[str, Params], np.ndarray], Outputs]:
    """The compiled program of a golden sample; kept, so that saving and loading share it."""
    plain = {"dtype": "float32", "scan_layers": True, "remat": "none", "attention": "xla"}
    models = {name: (dataclasses.replace(config, **plain), {}) for name, config in configs}
    bundle = Bundle(kind=kind, labels=labels, models=models, views=dict(views))
    function = bundle_function(bundle)

    def run(params: Mapping[str, Params], faces: Array) -> Outputs:
        inputs = {name: preprocess(view, faces) for name, view in views}
        return function(params, inputs)

    return jax.jit(run)


def _read_golden(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FerJaxError(f"{path}: truncated or damaged; convert or train again") from error
    faces = golden.get("faces")
    if faces is None or faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[-1] != 3:
        raise FerJaxError(f"{path}: holds no uint8 faces; convert or train again")
    return golden


def _verify(path: Path, bundle: Bundle, golden: Mapping[str, np.ndarray], tolerance: float) -> None:
    outputs = _golden_outputs(bundle, golden["faces"])
    expected = {name: values for name, values in golden.items() if name != "faces"}
    if {n: v.shape for n, v in outputs.items()} != {n: v.shape for n, v in expected.items()}:
        raise FerJaxError(f"{path / GOLDEN_FILE}: does not fit the model; convert or train again")
    for name, values in outputs.items():
        difference = np.abs(values - expected[name]).max()
        allowed = tolerance * np.abs(expected[name]).max()
        if not difference <= allowed:  # NaN is no match either
            raise FerJaxError(
                f"{path}: {name} of its golden sample differ by {difference:.3g}, "
                f"{allowed:.3g} is allowed; the files do not belong together, or this machine "
                "computes wrongly: convert or train again"
            )
