"""The release format: weights, and everything that is needed to use them rightly.

A bundle is a folder of three files. `params.safetensors` holds one tensor a block under PyTorch's
names, prefixed by the view it serves, or `fusion/` (`main/blocks.0.attn.qkv.weight`). `bundle.json`
holds the models' sizes, how faces are prepared for each view, the labels and where all of it came
from. `golden.npz` holds a few faces and what the models made of them (`golden.py`). A converted
bundle has `report.json` and `report.md` as well: the proof that it computes what its source
computes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fer_jax.atomic import atomic_directory, atomic_file
from fer_jax.bundle_schema import Bundle, View, from_json, to_json
from fer_jax.errors import FerJaxError
from fer_jax.forward import bundle_function, forward, preprocess
from fer_jax.golden import (
    GOLDEN_TOLERANCE,
    Program,
    golden_inputs,
    golden_outputs,
    read_golden,
    verify_golden,
)
from fer_jax.models.torch_layout import ModelConfig, from_torch_layout, layout, to_torch_layout
from fer_jax.models.vit import Params
from fer_jax.safetensors_file import read_safetensors, write_safetensors

__all__ = [
    "Bundle",
    "View",
    "bundle_function",
    "bundle_hash",
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


def save_bundle(
    bundle: Bundle,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    golden_faces: UInt8[np.ndarray, "b h w 3"] | None = None,
    documents: Mapping[str, str] | None = None,
    program: Callable[[], Program] | None = None,
) -> None:
    """Writes a bundle; what stands at `path` afterwards is whole.

    Args:
        bundle: what to write.
        path: a folder that does not exist, or is empty.
        overwrite: replace a folder that exists.
        golden_faces: faces for the golden sample; drawn from a seed if not given.
        documents: texts to write beside, by file name.
        program: waits for what `compile_golden` makes, if it is under way; of the drawn faces.

    Raises:
        FerJaxError: the folder exists, or the model's outputs are not finite.
    """
    inputs = golden_inputs(bundle, golden_faces)
    with atomic_directory(path, marker=DOCUMENT_FILE, overwrite=overwrite) as folder:
        write_safetensors(folder / PARAMS_FILE, _layout(bundle.models), _tensors(bundle))
        outputs = golden_outputs(bundle, inputs, program() if program else None)
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise FerJaxError(f"{path}: the model's outputs are not finite; nothing was written")
        np.savez(folder / GOLDEN_FILE, **inputs, **outputs)
        document = to_json(bundle, {"tolerance": GOLDEN_TOLERANCE})
        text = json.dumps(document, indent=2, allow_nan=False)
        (folder / DOCUMENT_FILE).write_text(text + "\n", encoding="utf-8")
        for name, content in (documents or {}).items():
            (folder / name).write_text(content, encoding="utf-8")


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
    inputs, expected = read_golden(path / GOLDEN_FILE, bundle)
    if verify:
        verify_golden(path / GOLDEN_FILE, bundle, inputs, expected, tolerance)
    return bundle


def read_document(path: Path) -> tuple[dict[str, ModelConfig], dict[str, Any], float]:
    """What bundle.json says: the models' sizes, the other fields of `Bundle`, the tolerance.

    Raises:
        FerJaxError: a file of the bundle is missing, or a field is missing or wrong.
    """
    for name in FILES:
        if not (path / name).is_file():
            raise FerJaxError(f"{path}: no bundle, {name} is missing; {_hint(path)}")
    try:
        return from_json(json.loads((path / DOCUMENT_FILE).read_text(encoding="utf-8")))
    except (FerJaxError, ValueError, RecursionError) as error:
        raise FerJaxError(f"{path / DOCUMENT_FILE}: {error}") from error


def update_document(path: str | os.PathLike[str], **fields: Any) -> None:
    """Replaces fields of bundle.json; weights and golden sample stay as they are.

    Args:
        path: the bundle.
        fields: by their names in the file, as plain values.
    """
    path = Path(path) / DOCUMENT_FILE
    document = json.loads(path.read_text(encoding="utf-8")) | fields
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _hint(path: Path) -> str:
    if not path.exists():
        return "check the path"
    if path.is_file():
        return "`fer-jax convert` makes a bundle of a .pth or .safetensors file"
    if (path / "bundle").is_dir():
        return f"perhaps {path / 'bundle'} is meant"
    return "`fer-jax convert` and `fer-jax train` make bundles"


def _layout(
    models: Mapping[str, tuple[ModelConfig, Params]],
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


def _params(config: ModelConfig, key: str, tensors: Mapping[str, np.ndarray]) -> Params:
    prefix = f"{key}/"
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    wrong = [f"{prefix}{n}: {t.dtype}" for n, t in own.items() if t.dtype != config.param_dtype]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}, where the model has {config.param_dtype}")
    return from_torch_layout(own, config)


def bundle_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of what a bundle computes: parameters, models, how faces are prepared."""
    with (Path(path) / PARAMS_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    document = json.loads((Path(path) / DOCUMENT_FILE).read_text(encoding="utf-8"))
    used = {name: document.get(name) for name in ("models", "views", "labels")}
    digest.update(json.dumps(used, sort_keys=True).encode())
    return digest.hexdigest()
