"""Arrays on the host that a CPU's XLA takes as they are, and that need not stay in memory."""

import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

_ALIGNMENT = 64  # bytes; an array that begins elsewhere is copied before XLA works on it


def aligned_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array in memory, its values not set, that XLA on a CPU uses without a copy."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + size].view(dtype).reshape(shape)


def array_in_file(folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The same in a mapped file without a name; in memory where `folder` has no room for it.

    The system can write such an array out when memory runs short, and takes it back when the
    process ends, however it ends.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file, size)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError:  # a full disk, a folder that is read-only, a file system that maps nothing
        return aligned_array(shape, dtype)


def _reserve(file: IO[bytes], size: int) -> None:
    """Takes the room on the disk now: a disk found full at a store to the map is a crash."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    block = bytes(1 << 20)
    for begin in range(0, size, len(block)):
        file.write(block[: size - begin])
    file.flush()
