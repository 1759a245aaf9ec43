"""Reads PyTorch's zip-format `.pth` without PyTorch, memory-mapped, and runs nothing of the file.

A `.pth` is an uncompressed zip: `data.pkl` says how tensors lie in the storages `data/0`,
`data/1`, ... The pickle goes through `pickle_machine`; storages are mapped when they are first
looked at, so what is not used is not read.

Source: torch `torch/serialization.py`, `torch/_utils.py`.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from fer_jax.convert.pickle_machine import (
    MAX_BYTES,
    NotAllowedError,
    Record,
    RefusedPickleError,
    Symbol,
    check_key,
    inert,
    read_pickle,
    shown,
)
from fer_jax.convert.pth_archive import Archive, open_archive
from fer_jax.errors import FerJaxError

_RESAVE = (
    "if you trust it, load it with torch and save its state_dict alone "
    "(torch.save(model.state_dict(), NEW))"
)
_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.UntypedStorage": "uint8",
    "torch.storage.UntypedStorage": "uint8",
}


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A tensor of a file that is read when asked for.

    Attributes:
        shape: of the tensor.
        dtype: numpy's, or ml_dtypes' bfloat16.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _storage: "_Storage"
    _offset: int
    _strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor's values."""
        return _product(self.shape) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """The values: a read-only view of the mapped file where the file is not compressed."""
        flat = self._storage.values(self.dtype)[self._offset :]
        strides = tuple(stride * self.dtype.itemsize for stride in self._strides)
        if _product(self.shape) == 0:
            return np.empty(self.shape, self.dtype)
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


@dataclasses.dataclass(frozen=True)
class _Storage:
    archive: Archive
    key: str
    dtype: np.dtype
    count: int

    def values(self, dtype: np.dtype) -> np.ndarray:
        values = self.archive.member(f"data/{self.key}")
        return values[: values.size // dtype.itemsize * dtype.itemsize].view(dtype)


def _product(numbers: tuple[int, ...]) -> int:
    product = 1  # of Python integers, which do not overflow
    for number in numbers:
        product *= number
    return product


def _integers(value: Any) -> tuple[int, ...]:
    """A tuple of non-negative integers, as sizes and strides are."""
    if type(value) is Record and value.name == "torch.Size":
        value = value.arguments[0]
    if type(value) is not tuple or not all(type(n) is int and 0 <= n < 1 << 48 for n in value):
        raise RefusedPickleError("a tensor's size, stride or offset is not a list of numbers")
    if len(value) > 32:
        raise RefusedPickleError(f"a tensor has {len(value)} dimensions")
    return value


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    if type(storage) is not _Storage:
        raise RefusedPickleError("a tensor without a storage")
    return _checked_tensor(storage, storage.dtype, storage.count, offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> TensorRef:
    if type(storage) is not _Storage or storage.dtype != np.uint8 or type(dtype) is not Symbol:
        raise RefusedPickleError("a tensor without a storage or a dtype")
    kind = _DTYPES.get(dtype.name.removeprefix("torch."))
    if kind is None:
        raise RefusedPickleError(f"a tensor of the dtype {dtype.name}, which is not supported")
    return _checked_tensor(storage, kind, storage.count // kind.itemsize, offset, size, stride)


def _checked_tensor(
    storage: _Storage, dtype: np.dtype, count: int, offset: Any, size: Any, stride: Any
) -> TensorRef:
    (offset,) = _integers((offset,))
    size, stride = _integers(size), _integers(stride)
    if len(size) != len(stride):
        raise RefusedPickleError("a tensor's size and stride differ in length")
    elements = _product(size)
    if not elements and _product(tuple(n for n in size if n)) >= 1 << 48:  # too large for numpy
        raise RefusedPickleError("a tensor has impossible dimensions")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if elements and (last >= count or elements > count):
        raise RefusedPickleError(
            f"a tensor of shape {size} reaches beyond its storage of {count} values"
        )
    return TensorRef(size, dtype, storage, offset, stride)


def _rebuild_parameter(data: Any, *_: Any) -> TensorRef:
    if type(data) is not TensorRef:
        raise RefusedPickleError("a parameter without a tensor")
    return data


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> TensorRef:
    if type(function) is not Symbol or function not in _REBUILDS.values():
        raise RefusedPickleError("a tensor of a class of its own")
    return function.make(*arguments)


def _mapping(*arguments: Any) -> dict[Any, Any]:
    items = arguments[0] if arguments else ()
    pairs = list(items.items()) if type(items) is dict else items
    return {check_key(key): value for key, value in pairs}


def _default_mapping(_factory: Any = None, *arguments: Any) -> dict[Any, Any]:
    return _mapping(*arguments)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise RefusedPickleError(f"bytes in the encoding {str(encoding)[:40]!r}")
    return text.encode(encoding)


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    """A Python number of a numpy scalar, as training loops leave in `best_acc` or `args`."""
    if type(dtype) is Record and type(data) is bytes and dtype.arguments[:1]:
        code = dtype.arguments[0]
        if type(code) is str and len(code) == 2 and code[0] in "fiub":
            values = np.frombuffer(data, np.dtype("<" + code))
            return values.item()
    return Record("numpy.scalar", (dtype,))


_REBUILDS = {
    "torch._utils._rebuild_tensor": Symbol("_rebuild_tensor", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Symbol("_rebuild_tensor_v2", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": Symbol("_rebuild_tensor_v3", _rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": Symbol("_rebuild_parameter", _rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Symbol("_rebuild_parameter", _rebuild_parameter),
}
_INERT = (
    *("argparse.Namespace", "types.SimpleNamespace", "torch.Size", "torch.device", "numpy.dtype"),
    *("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "pathlib.Path"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath", "datetime.timedelta"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
)
_PLAIN = ("dict", "list", "int", "float", "str", "bool")
SYMBOLS: dict[str, Symbol] = {
    **_REBUILDS,
    "torch._tensor._rebuild_from_type_v2": Symbol("_rebuild_from_type_v2", _rebuild_from_type),
    "torch.Tensor": Symbol("torch.Tensor"),
    "torch.nn.parameter.Parameter": Symbol("torch.nn.parameter.Parameter"),
    **{name: Symbol(name) for name in _STORAGES},
    **{f"torch.{name}": Symbol(f"torch.{name}") for name in _DTYPES},
    "collections.OrderedDict": Symbol("collections.OrderedDict", _mapping),
    "collections.Counter": Symbol("collections.Counter", _mapping),
    "collections.defaultdict": Symbol("collections.defaultdict", _default_mapping),
    "_codecs.encode": Symbol("_codecs.encode", _encode),
    "numpy.core.multiarray.scalar": Symbol("numpy.scalar", _numpy_scalar),
    "numpy._core.multiarray.scalar": Symbol("numpy.scalar", _numpy_scalar),
    "numpy.ndarray": Symbol("numpy.ndarray"),
    **{name: inert(name) for name in _INERT},
    # Protocol 2 writes Python 2's name of builtins.
    **{
        f"{module}.{name}": Symbol(name)
        for module in ("builtins", "__builtin__")
        for name in _PLAIN
    },
}


def read_pth(path: str | os.PathLike[str]) -> Any:
    """Reads what `torch.save` wrote: plain containers, `TensorRef`s and inert `Record`s.

    Args:
        path: a zip-format file (torch 1.6 and later).

    Returns:
        The saved value; tensors are read when `numpy()` is called.

    Raises:
        FerJaxError: the file is not of `torch.save`, is damaged, or holds objects that are neither
            tensors nor plain containers; nothing of it was run.
    """
    path = Path(path)
    archive = open_archive(path)
    if "constants.pkl" in archive.infos:
        raise FerJaxError(f"{path}: a TorchScript program, not weights; {_RESAVE}")
    if "byteorder" in archive.infos and archive.size("byteorder") < 16:
        order = bytes(archive.member("byteorder")).decode("latin1")
        if order != "little":
            raise FerJaxError(f"{path}: its byte order is {order!r}, not 'little'; {_RESAVE}")
    if archive.size("data.pkl") > MAX_BYTES:
        raise archive.damaged(f"its pickle claims {archive.size('data.pkl')} bytes")
    data = bytes(archive.member("data.pkl"))
    try:
        return read_pickle(data, SYMBOLS, lambda key: _storage(archive, key))
    except NotAllowedError as error:
        raise FerJaxError(
            f"{path}: its pickle names {error}, which is no tensor or plain container; "
            f"nothing was run; {_RESAVE}"
        ) from error
    except RefusedPickleError as error:
        raise FerJaxError(f"{path}: {error}; nothing was run; save or download it again") from error


def _storage(archive: Archive, key: Any) -> _Storage:
    """The storage of a persistent id: ("storage", type, key, device, count)."""
    if type(key) is not tuple or len(key) != 5 or key[0] != "storage":
        raise RefusedPickleError("an object outside the pickle that is no storage")
    _, kind, name, _, count = key
    if type(kind) is not Symbol or kind.name not in _STORAGES or type(name) is not str:
        raise RefusedPickleError("a storage without a type or a name")
    dtype = _DTYPES[_STORAGES[kind.name]]
    (count,) = _integers((count,))
    held = archive.size(f"data/{name}")
    if held != count * dtype.itemsize:
        raise RefusedPickleError(f"storage {shown(name)} has {held} bytes for {count} x {dtype}")
    return _Storage(archive, name, dtype, count)
