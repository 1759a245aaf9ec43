"""Safetensors files: written tensor by tensor, read as views of the mapped file.

The `safetensors` package checks a header when a file is opened; its numpy interface would copy the
tensors and cannot hand out bfloat16, so the values are mapped here.

Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from fer_jax.errors import FerJaxError

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_MAX_HEADER = 8 << 20  # bytes; a tensor takes about a hundred
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Maps a safetensors file.

    Args:
        path: the file.

    Returns:
        Read-only views of the file by name; nothing is read until it is looked at.

    Raises:
        FerJaxError: the file is truncated, foreign, or holds a dtype that numpy cannot.
    """
    path = Path(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise FerJaxError(f"{path}: its header claims {length} bytes; save or download it again")
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass  # checks the header: sizes, bounds, overlaps, gaps
    except safetensors.SafetensorError as error:
        raise _damaged(path, str(error)) from error
    mapped = np.memmap(path, np.uint8, "r")
    try:
        header = json.loads(bytes(mapped[8 : 8 + length]), object_pairs_hook=_no_key_twice)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    data = mapped[8 + length :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise FerJaxError(
                f"{path}: {name[:100]!r} has the dtype {entry['dtype']}; save it as float32"
            )
        begin, end = entry["data_offsets"]
        values = data[begin:end].view(_DTYPES[entry["dtype"]])
        try:
            tensors[name] = np.asarray(values).reshape(entry["shape"])
        except ValueError as error:  # too many dimensions, or an empty one beside immense ones
            raise _damaged(path, str(error)) from error
    return tensors


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in its header")
    return found


def _damaged(path: Path, reason: str) -> FerJaxError:
    quoted = repr(reason[:200])[1:-1]  # it may quote the file
    return FerJaxError(
        f"{path}: truncated, damaged or no safetensors file ({quoted}); save or download it again"
    )


def write_safetensors(
    path: str | os.PathLike[str],
    layout: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterable[tuple[str, np.ndarray]],
) -> None:
    """Writes a safetensors file, holding one tensor in memory at a time.

    Args:
        path: the file to write.
        layout: name -> (shape, dtype) of every tensor, in order.
        tensors: (name, values) in the same order.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, (shape, dtype) in layout.items():
        end = offset + math.prod(shape) * dtype.itemsize
        entry = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        header[name] = entry
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the values begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, (shape, dtype)), (given, values) in zip(layout.items(), tensors, strict=True):
            if (given, values.shape, values.dtype) != (name, shape, dtype):
                raise ValueError(f"{given} {values.shape} {values.dtype} where {name} is announced")
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
