"""Writes a state dict as `torch.save` does, without torch.

A `.pth` is an uncompressed zip archive: `data.pkl` rebuilds every tensor on a storage of its own,
the storages are `data/0`, `data/1`, ... in the order of the names.
`torch.load(weights_only=True)` reads it.

Source: PyTorch `torch/serialization.py` (`_save`) and `caffe2/serialize/inline_container.h`.
"""

import math
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
}
Layout = Mapping[str, tuple[tuple[int, ...], np.dtype]]

_ROOT = "archive"
_ALIGNMENT = 64  # of the storages in the file, as torch has it; not kept beyond 2 GiB each


def write_pth(
    path: str | os.PathLike[str],
    layout: Layout,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    wrapper: str | None = None,
) -> None:
    """Writes a state dict, holding one tensor in memory at a time.

    Args:
        path: the file to write.
        layout: name -> (shape, dtype) of every tensor, in order; dtypes of `STORAGES`.
        tensors: (name, values) in the same order.
        wrapper: key that the state dict stands under, as MAE's `model`; None for none.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", _pickle(layout, wrapper))
        _add(archive, "byteorder", b"little")
        pairs = zip(layout.items(), tensors, strict=True)
        for number, ((name, (shape, dtype)), (given, values)) in enumerate(pairs):
            if (given, values.shape, values.dtype) != (name, shape, dtype):
                raise ValueError(f"{given} {values.shape} {values.dtype} where {name} is announced")
            raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            _add(archive, f"data/{number}", raw.data)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds a member whose data begin at a multiple of 64; an extra field fills the gap."""
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")  # dated 1980: the same weights, the same file
    info.file_size = len(data)
    begin = archive.start_dir + zipfile.sizeFileHeader + len(info.filename.encode()) + 4
    gap = -begin % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
    with archive.open(info, "w") as member:
        member.write(data)


def _pickle(layout: Layout, wrapper: str | None) -> bytes:
    """The pickle, protocol 2, of `{name: tensor}` or of `{wrapper: {name: tensor}}`."""
    items = b"".join(
        _string(name) + _tensor(number, shape, dtype)
        for number, (name, (shape, dtype)) in enumerate(layout.items())
    )
    state_dict = b"}(" + items + b"u"
    value = state_dict if wrapper is None else b"}(" + _string(wrapper) + state_dict + b"u"
    return b"\x80\x02" + value + b"."


def _tensor(number: int, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """`_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    kind = _global("torch", STORAGES[dtype])
    key, count = _string(str(number)), _integer(math.prod(shape))
    storage = b"(" + _string("storage") + kind + key + _string("cpu") + count + b"tQ"
    hooks = _global("collections", "OrderedDict") + b")R"
    arguments = storage + _integer(0) + _tuple(shape) + _tuple(strides) + b"\x89" + hooks
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _string(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
