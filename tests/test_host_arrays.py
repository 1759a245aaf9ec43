"""Arrays that XLA on a CPU takes without a copy, in memory and in unnamed files."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from fer_jax import host_arrays
from fer_jax.host_arrays import aligned_array, array_in_file

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 7, 11)])
@pytest.mark.parametrize("dtype", [FLOAT, np.dtype(np.float16)])
def test_both_are_plain_arrays_on_an_aligned_address(shape, dtype, tmp_path):
    for array in (aligned_array(shape, dtype), array_in_file(tmp_path, shape, dtype)):
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.ctypes.data % 64 == 0
        array[...] = 3
        assert (array == 3).all()
    assert not list(tmp_path.iterdir())


def test_jax_takes_them_as_they_are(tmp_path):
    for array in (aligned_array((64, 64), FLOAT), array_in_file(tmp_path, (64, 64), FLOAT)):
        taken = jax.device_put(array, jax.devices("cpu")[0])
        assert taken.unsafe_buffer_pointer() == array.ctypes.data


def test_what_lies_in_a_file_is_no_anonymous_memory(tmp_path):
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell")

    def anonymous():
        return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1])

    before = anonymous()
    array = array_in_file(tmp_path, (50, 1 << 20), np.dtype(np.uint8))
    array[...] = 1
    assert anonymous() - before < 10 << 20
    other = aligned_array((50, 1 << 20), np.dtype(np.uint8))
    other[...] = 1
    assert anonymous() - before > 40 << 20  # the process may let go of something meanwhile


@pytest.mark.parametrize("tool", ["posix_fallocate", "memmap"])
def test_memory_serves_where_a_file_cannot(tool, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    owner = host_arrays.np if tool == "memmap" else host_arrays.os
    monkeypatch.setattr(owner, tool, full, raising=False)
    array = array_in_file(tmp_path, (3, 5), FLOAT)
    array[...] = 1
    assert array.ctypes.data % 64 == 0
    assert array_in_file(tmp_path / "absent", (3,), FLOAT).shape == (3,)


def test_systems_that_reserve_nothing_write_zeros(tmp_path, monkeypatch):
    monkeypatch.delattr(host_arrays.os, "posix_fallocate", raising=False)
    size = (1 << 20) + 5
    array = array_in_file(tmp_path, (size,), np.dtype(np.uint8))
    assert len(array) == size
    assert not array.any()
