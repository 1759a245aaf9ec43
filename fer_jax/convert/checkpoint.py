"""Opens any checkpoint: finds its tensors, whatever wraps them, and says what else is inside."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.convert.pickle_machine import shown
from fer_jax.convert.pth import TensorRef, read_pth
from fer_jax.errors import FerJaxError
from fer_jax.safetensors_file import read_safetensors

# Keys that hold the state dict, in the order in which they are tried.
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
# What data-parallel training, torch.compile and Lightning put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")

_MAX_WRAPPERS = 8  # and prefixes; a file can hold itself, and so be endless
_MAX_TENSORS = 10_000  # a ViT has a few hundred
_MAX_NAME = 200  # characters

# First bytes of what people pass by mistake -> what it is, and what to do.
_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file; run `git lfs pull`"),
    (b"<", "a web page or XML, not a checkpoint; download the file itself"),
    (b"\x89HDF", "an HDF5 file (Keras); save the PyTorch model's state_dict"),
    (b"GGUF", "a GGUF file; get the .pth or .safetensors of the model"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"\x89PNG", "a picture; pass the checkpoint"),
    (b"\xff\xd8\xff", "a picture; pass the checkpoint"),
)
_LEGACY = (
    "in PyTorch's format from before version 1.6, which only PyTorch reads; save it again with "
    "torch.save(torch.load(OLD, map_location='cpu', weights_only=False), NEW) if you trust it"
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file and what was found around them.

    Attributes:
        path: the file.
        format: `pth` | `safetensors`.
        tensors: by name, prefixes such as `module.` taken off; read when asked for.
        source_keys: each tensor's name as it stands in the file.
        beside: what else the file holds: name -> what it is.
    """

    path: Path
    format: str
    tensors: dict[str, TensorRef | np.ndarray]
    source_keys: dict[str, str]
    beside: dict[str, str]

    def values(self, name: str) -> np.ndarray:
        """A tensor's values; mapped where possible, so read-only."""
        tensor = self.tensors[name]
        return tensor.numpy() if isinstance(tensor, TensorRef) else tensor

    def sha256(self) -> str:
        """The file's SHA-256, in hexadecimal."""
        return file_sha256(self.path)


def file_sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a `.pth` (zip format) or `.safetensors` file by its content; its name does not matter.

    Args:
        path: the file.

    Returns:
        Its tensors; the wrapper keys `model`, `state_dict` and the like and the prefixes `module.`,
        `_orig_mod.` and the like are seen through.

    Raises:
        FerJaxError: the file is truncated, damaged, foreign, or holds no tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise FerJaxError(f"{path}: a folder; pass the .pth or .safetensors file itself")
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise FerJaxError(f"{path}: is empty; save or download it again")
    for signature, what in _FOREIGN:
        if start.startswith(signature):
            raise FerJaxError(f"{path}: {what}")
    if start[:2] == b"PK":
        return _of_pickled(path, read_pth(path))
    if start[8:9] == b"{":
        return _named(path, "safetensors", read_safetensors(path), (), {})
    if start[:1] == b"\x80" or start[257:262] == b"ustar":  # a pickle; a tar of before 0.1.10
        raise FerJaxError(f"{path}: {_LEGACY}")
    raise FerJaxError(
        f"{path}: no .pth (zip format) or .safetensors file, it begins with {start[:8]!r}; "
        "check the path"
    )


def _of_pickled(path: Path, value: Any) -> Checkpoint:
    beside: dict[str, str] = {}
    wrappers: list[str] = []
    while isinstance(value, dict) and len(wrappers) < _MAX_WRAPPERS:
        inner = [key for key in WRAPPERS if isinstance(value.get(key), dict)]
        if not inner:
            break
        outside = {_beside(wrappers, k): v for k, v in value.items() if k != inner[0]}
        beside |= {name: _describe(name, one) for name, one in outside.items()}
        wrappers.append(inner[0])
        value = value[inner[0]]
    tensors = {}
    if isinstance(value, dict):
        tensors = {k: v for k, v in value.items() if isinstance(v, TensorRef) and type(k) is str}
        others = {_beside(wrappers, k): v for k, v in value.items() if k not in tensors}
        beside |= {name: _describe(name, one) for name, one in others.items()}
    if not tensors:
        found = ", ".join(list(beside)[:8]) or f"a {type(value).__name__}"
        raise FerJaxError(
            f"{path}: no tensors under {' or '.join(WRAPPERS)} or at the top, found {found}; "
            "save the state_dict alone"
        )
    size = path.stat().st_size
    claimed = sum(tensor.nbytes for tensor in tensors.values())
    if claimed > 4 * size:  # views of one storage; a model shares a few tensors, not all
        raise FerJaxError(
            f"{path}: its tensors claim {claimed} bytes, the file has {size}; "
            "save the state_dict with .clone() on each tensor"
        )
    return _named(path, "pth", tensors, tuple(wrappers), beside)


def _beside(wrappers: list[str], key: Any) -> str:
    return ".".join([*wrappers, shown(str(key))])


def _describe(name: str, value: Any) -> str:
    kinds = {
        "optimizer": "the optimizer's state",
        "scaler": "the loss scaler's state",
        "lr_scheduler": "the schedule's state",
        "args": "the training's arguments",
        "epoch": "the training's position",
        "model_ema": "another copy of the weights",
    }
    what = kinds.get(name.rpartition(".")[2])
    return what or f"a {type(value).__name__}, not a tensor of the model"


def _named(
    path: Path,
    format_: str,
    tensors: dict[str, Any],
    wrappers: tuple[str, ...],
    beside: dict[str, str],
) -> Checkpoint:
    if not tensors:
        raise FerJaxError(f"{path}: holds no tensors; check the path")
    if len(tensors) > _MAX_TENSORS:
        raise FerJaxError(f"{path}: holds {len(tensors)} tensors; save the state_dict of one model")
    for name in tensors:
        if len(name) > _MAX_NAME or not name.isprintable():
            raise FerJaxError(
                f"{path}: holds a tensor named {shown(name)}; save or download it again"
            )
    prefix = ""
    for _ in range(_MAX_WRAPPERS):
        starts = (prefix + p for p in PREFIXES)
        prefix = next((s for s in starts if all(n.startswith(s) for n in tensors)), prefix)
    stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    sources = {name.removeprefix(prefix): ".".join([*wrappers, name]) for name in tensors}
    return Checkpoint(path, format_, stripped, sources, beside)
