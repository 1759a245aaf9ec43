"""A second reader, made of Python's own zipfile, pickle and json, to judge the first by.

It is not safe for hostile files in general; the campaign calls it only for files that the reader
under test has loaded, and even then no name of the pickle is imported.
"""

import codecs
import collections
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

_STORAGES = {
    **{"DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16},
    **{"BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32},
    **{"ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8},
    **{"BoolStorage": np.bool_, "UntypedStorage": np.uint8},
    **{"ComplexFloatStorage": np.complex64, "ComplexDoubleStorage": np.complex128},
}
_DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
}


def read_independently(path: Path, source_keys: dict[str, str]) -> dict[str, np.ndarray]:
    """The tensors that a file holds where the first reader found its own.

    Args:
        path: the file.
        source_keys: the first reader's names -> where in the file it says that they stand.

    Returns:
        All tensors of that place, by the first reader's names, or by their own if it missed them.

    Raises:
        Exception: of any kind; the file cannot be read.
    """
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    places = _of_zip(path) if is_zip else [_of_safetensors(path)]
    wanted = set(source_keys.values())
    for tensors in places:
        if wanted <= tensors.keys():
            names = {source: name for name, source in source_keys.items()}
            _check_prefix(source_keys)
            return {names.get(source, source): array for source, array in tensors.items()}
    raise ValueError(f"no place holds {sorted(wanted)[:3]}")


def _check_prefix(source_keys: dict[str, str]) -> None:
    """What was taken off the names is one prefix, of the known words."""
    prefixes = {source.removesuffix(name) for name, source in source_keys.items()}
    words = {"model", "state_dict", "model_state_dict", "module", "_orig_mod"}
    if len(prefixes) != 1 or not set(prefixes.pop().split(".")) <= words | {""}:
        raise ValueError("the names were changed otherwise than by taking off a prefix")


def _of_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin].decode("utf-8"), object_pairs_hook=_no_key_twice)
    header.pop("__metadata__", None)
    tensors, ranges = {}, []
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        ranges.append((first, last))
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        values = np.frombuffer(data[begin + first : begin + last], dtype)
        tensors[name] = values.reshape(entry["shape"])
    end = 0
    for first, last in sorted(ranges):
        if first != end or last < first:
            raise ValueError("tensors overlap, or leave a gap")
        end = last
    if begin + end != len(data):
        raise ValueError("the tensors do not fill the file")
    return tensors


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _of_zip(path: Path) -> list[dict[str, np.ndarray]]:
    """The tensors at the top, and in the wrappers within."""
    with zipfile.ZipFile(path) as archive:
        if not any(info.CRC for info in archive.infolist()):
            for info in archive.infolist():
                info.CRC = None  # torch wrote no checksums
        (found,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        root = found.removesuffix("data.pkl")
        value = _Unpickler(archive, root).load()
    places = []
    waiting = [((), value)]
    while waiting and len(places) < 64:
        outer, inner = waiting.pop(0)
        if isinstance(inner, dict):
            arrays = {k: v for k, v in inner.items() if isinstance(v, np.ndarray)}
            places.append({".".join([*outer, k]): v for k, v in arrays.items() if type(k) is str})
            waiting += [((*outer, k), v) for k, v in inner.items() if type(k) is str]
    return places


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, the one in Python, with stand-ins for every name."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """A dictionary's attributes are let fall; the reader's OrderedDict is a plain one."""
        if isinstance(self.stack[-2], dict):
            self.stack.pop()
        else:
            super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _rebuild
        if name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch._tensor":
            return lambda function, _type, arguments, _state: function(*arguments)
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        if module == "torch" and name in np.sctypeDict:
            return np.dtype(name)
        if module == "torch" and name == "Size":
            return tuple
        if module == "collections":
            return {"defaultdict": _default}.get(name) or getattr(collections, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda value, encoding: codecs.encode(value, encoding)
        return _Inert

    def persistent_load(self, key: Any) -> tuple[np.dtype, bytes]:
        kind, dtype, name, _, count = key
        data = self.archive.read(f"{self.root}data/{name}")
        if kind != "storage" or len(data) != count * dtype.itemsize:
            raise ValueError("a storage is not what it says")
        return dtype, data


class _Inert:
    """Takes any arguments and any state."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _default(_factory: Any = None, *arguments: Any) -> dict[Any, Any]:
    return dict(*arguments)


def _rebuild(
    stored: tuple[np.dtype, bytes], offset: int, size: Any, stride: Any, *more: Any
) -> np.ndarray:
    dtype, data = stored
    if len(more) > 2 and isinstance(more[2], np.dtype):
        dtype = more[2]
    if 0 in size:
        return np.empty(size, dtype)
    strides = [step * dtype.itemsize for step in stride]
    return np.ndarray(size, dtype, data, offset * dtype.itemsize, strides)
