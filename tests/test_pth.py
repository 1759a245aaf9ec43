"""The torch-free reader: what PyTorch wrote is read exactly; damage and malice are refused."""

import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pth_files import (
    Call,
    Global,
    Stored,
    namespace,
    opcodes,
    read_all,
    refused,
    state_dict,
    tensor,
    write_parts,
    write_pth,
)

from fer_jax.convert import pickle_machine
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.pickle_machine import Record, RefusedPickleError, read_pickle
from fer_jax.convert.pth import SYMBOLS, TensorRef, read_pth
from fer_jax.errors import FerJaxError

TESTDATA = Path(__file__).parent / "testdata"
GOLDEN = TESTDATA / "torch_save.pth"


def test_reads_what_torch_wrote():
    expected = np.load(TESTDATA / "torch_save.npz")
    value = read_pth(GOLDEN)
    assert sorted(value["model"]) == sorted(expected.files)
    for name in expected.files:
        array = value["model"][name].numpy()
        if name not in ("bfloat16", "uint16"):  # numpy's file holds these in a wider dtype
            assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array.astype(expected[name].dtype), expected[name])
    assert value["model"]["bfloat16"].dtype.name == "bfloat16"
    assert value["epoch"] == 7
    assert value["best"] == 0.5
    assert value["args"].name == "argparse.Namespace"
    assert value["args"].state["lr"] == 1e-3
    assert isinstance(value["args"].state["output_dir"], Record)
    assert isinstance(value["optimizer"]["state"][0]["exp_avg"], TensorRef)


def test_reads_what_live_torch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pth"
        torch.save({"model": model.state_dict()}, path, pickle_protocol=protocol)
        checkpoint = open_checkpoint(path)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(checkpoint.values(name), value.numpy())
    torch.save(model.state_dict(), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert "before version 1.6" in refused(tmp_path / "legacy.pth")
    torch.save(model, tmp_path / "model.pth")
    assert "torch.nn.modules.container.Sequential" in refused(tmp_path / "model.pth")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), tmp_path / "unchecked.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    checkpoint = open_checkpoint(tmp_path / "unchecked.pth")
    np.testing.assert_array_equal(checkpoint.values("0.bias"), model[0].bias.detach().numpy())


def test_tensors_are_views_of_the_file():
    value = read_pth(GOLDEN)["model"]["contiguous"]
    assert not value.numpy().flags.owndata
    assert not value.numpy().flags.writeable
    mapped = value._storage.archive.mapped
    assert isinstance(mapped, np.memmap)
    assert np.shares_memory(value.numpy(), mapped)


def test_torch_is_not_imported():
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fer_jax.convert.pth import read_pth\n"
        f"print(len(read_pth({str(GOLDEN)!r})['model']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "13"


class _Command:
    """Pickles as a call of os.system."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_a_command_runs_nothing(tmp_path, protocol):
    mark = tmp_path / "ran"
    data = pickle.dumps({"model": _Command(f"touch {mark}")}, protocol=protocol)
    message = refused(write_parts(tmp_path / "evil.pth", data))
    assert not mark.exists()
    if protocol >= 2:
        assert "posix.system" in message
        assert "nothing was run" in message
    pickle.loads(data)  # and the pickle is not blank: Python's own reader does run it
    assert mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("builtins.eval", "builtins.getattr", "os.system", "torch.load", "torch.hub.load"),
        *("runpy.run_path", "numpy.load", "builtins.__import__", "torch.nn.modules.module.Module"),
    ],
)
def test_names_off_the_list_are_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    value = {"model": {}, "args": Call(Global(module, attribute), ("x",))}
    assert f"names {name}," in refused(write_pth(tmp_path / "x.pth", value, {}))


def test_names_on_the_list_only_make_containers():
    """Nothing in the table is a function of another package, whose behaviour we would not know."""
    for symbol in SYMBOLS.values():
        assert symbol.make is None or symbol.make.__module__.startswith("fer_jax.convert.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (tensor(Stored("0", 6), (2, 4)), "beyond its storage"),
        (tensor(Stored("0", 6), (2, 3), (3, 2)), "beyond its storage"),
        (tensor(Stored("0", 6), (2, 3), offset=1), "beyond its storage"),
        (tensor(Stored("0", 6), (1 << 40,), (0,)), "beyond its storage"),
        (tensor(Stored("0", 6), (1 << 47, 1 << 47, 1 << 47), (0, 0, 0)), "beyond its storage"),
        (tensor(Stored("0", 6), (1 << 47, 0, 1 << 47), (1, 1, 1)), "impossible dimensions"),
        (tensor(Stored("0", 6), (2, 3), (-3, 1)), "not a list of numbers"),
        (tensor(Stored("0", 6), (2, 3), (3,)), "differ in length"),
        (tensor(Stored("0", 6), (1,) * 40, (1,) * 40), "40 dimensions"),
        (tensor(Stored("0", 6), "ab", (3, 1)), "not a list of numbers"),
        (tensor(Stored("0", 7), (2, 3)), "24 bytes for 7 x float32"),
        (tensor(Stored("1", 6), (2, 3)), "lacks its part data/1"),
        (tensor(Stored(("0",), 6), (2, 3)), "without a type or a name"),
        (Call(Global("torch._utils", "_rebuild_tensor_v2"), (1, 0, (), ())), "without a storage"),
        (Call(Global("torch._utils", "_rebuild_tensor_v2"), ()), "damaged at byte"),
        (Call(Global("torch", "float32"), ()), "calls torch.float32"),
        (Call(Global("torch", "FloatStorage"), (1 << 60,)), "calls torch.FloatStorage"),
        (Call(Global("_codecs", "encode"), ("x", "rot13")), "encoding 'rot13'"),
    ],
)
def test_tensors_must_lie_in_their_storage(tmp_path, value, said):
    path = write_pth(tmp_path / "x.pth", {"w": value}, {"0": np.zeros(6, np.float32)})
    assert said in refused(path)


def test_views_of_one_storage_cannot_pile_up(tmp_path):
    value = {f"w{i}": tensor(Stored("0", 100_000), (100_000,)) for i in range(9)}
    path = write_pth(tmp_path / "x.pth", value, {"0": np.zeros(100_000, np.float32)})
    assert "its tensors claim 3600000 bytes" in refused(path)


def test_damage_is_found(tmp_path):
    value, storages = state_dict({"a": np.arange(9, dtype=np.float32)})
    good = write_pth(tmp_path / "good.pth", {"model": value}, storages)
    np.testing.assert_array_equal(open_checkpoint(good).values("a"), np.arange(9))
    data = good.read_bytes()
    path = tmp_path / "bad.pth"
    for length in (0, 1, 3, 40, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path)
    at = data.index(np.arange(9, dtype=np.float32).tobytes()) + 6
    path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    assert "does not match its checksum" in refused(path)


def test_any_flipped_bit_is_an_error_or_harmless(tmp_path):
    array = np.arange(9, dtype=np.float32)
    value, storages = state_dict({"a": array})
    checkpoint = {"model": value, "args": namespace(lr=0.1)}
    data = write_pth(tmp_path / "good.pth", checkpoint, storages).read_bytes()
    path = tmp_path / "flipped.pth"
    refusals = 0
    for bit in np.random.default_rng(0).choice(len(data) * 8, 300, replace=False):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            values = read_all(path)
        except FerJaxError:
            refusals += 1
        else:  # a date or an attribute of the zip file, or a name
            np.testing.assert_array_equal(next(iter(values.values())), array)
    assert refusals > 150


def test_pickles_cannot_hang_or_grow():
    def refuse(code: bytes, said: str) -> None:
        with pytest.raises(RefusedPickleError, match=said):
            read_pickle(b"\x80\x02" + code + b".", SYMBOLS, id)

    # t = (t, t) sixty times over, then hashed: 2 ** 60 steps
    refuse(b"}" + _doubled(60) + b"Ns", "key")
    refuse(b"r\xff\xff\xff\xff", "damaged")  # a memo of 4 G entries in Python's C reader
    refuse(b"]" + b"r\xff\xff\xff\xff" + b"j\xff\xff\xff\xfe", "damaged")
    refuse(b"\x96" + (1 << 40).to_bytes(8, "little"), "BYTEARRAY8|damaged")
    refuse(b"\x8b" + (1 << 30).to_bytes(4, "little"), "damaged")
    refuse(b"X\xff\xff\xff\x7fabc", "damaged")
    refuse(b"}" + opcodes((1 << 61) - 1) + b"Ns", "key")
    refuse(b"(", "value is missing|left over")
    refuse(b"t", "mark is missing")
    refuse(b"", "damaged")
    refuse(b"N" * 3, "left over")
    refuse(b"(K\x01o", "opcode OBJ")
    refuse(b"K\x01}b", "sets the state of a int")
    with pytest.raises(RefusedPickleError, match="damaged at byte 2"):
        read_pickle(b"\x80\x02N", SYMBOLS, id)
    with pytest.raises(RefusedPickleError, match="more than"):
        read_pickle(b"N" * (pickle_machine.MAX_BYTES + 1), SYMBOLS, id)


def test_copying_over_and_over_ends(monkeypatch):
    """An OrderedDict of one large list, again and again: cheap to write and slow to make."""
    monkeypatch.setattr(pickle_machine, "_MAX_WORK", 10_000)
    pairs = b"](" + b"".join(opcodes((i, None)) for i in range(500)) + b"e"
    copies = b"ccollections\nOrderedDict\nq\x01" + pairs + b"q\x02"
    copies += b"h\x01h\x02\x85R" * 200
    with pytest.raises(RefusedPickleError, match="over and over"):
        read_pickle(b"\x80\x02" + copies + b".", SYMBOLS, id)


def _doubled(times: int) -> bytes:
    """t = (t, t), `times` deep."""
    code = b"K\x01"
    for i in range(times):
        code += b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86"
    return code


def test_compressed_files_are_read_within_a_bound(tmp_path):
    array = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    value, storages = state_dict({"a": array})
    path = write_pth(tmp_path / "a.pth", value, storages, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(open_checkpoint(path).values("a"), array)
    # 96 MB of zeros in 94 kB: allowed are 64 MiB, or eight times the file
    bomb = write_pth(
        tmp_path / "bomb.pth",
        {"a": tensor(Stored("0", 24_000_000), (3,))},
        {"0": np.zeros(24_000_000, np.float32)},
        compression=zipfile.ZIP_DEFLATED,
    )
    assert "claims 96000000 bytes when unpacked" in refused(bomb)


def test_what_is_no_checkpoint_is_named(tmp_path):
    cases = {
        "version https://git-lfs.github.com/spec/v1\noid": "git lfs pull",
        "<!DOCTYPE html><html>": "a web page",
        "\x89HDF\r\n": "HDF5",
        "GGUF....": "GGUF",
        "hello there, this is text": "no .pth (zip format) or .safetensors",
        "": "is empty",
        "PK\x03\x04 but no more": "truncated or damaged",
    }
    for content, said in cases.items():
        path = tmp_path / "x.pth"
        path.write_bytes(content.encode("latin1"))
        assert said in refused(path)
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert "not one of torch.save" in refused(tmp_path / "x.npz")
    assert "a folder" in refused(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "missing.pth")


def test_other_archives_of_torch_are_named(tmp_path):
    pickled = b"\x80\x02}."
    script = write_parts(tmp_path / "script.pt", pickled, {"constants.pkl": pickled})
    assert "TorchScript" in refused(script)
    assert "'big', not 'little'" in refused(
        write_parts(tmp_path / "big.pth", pickled, {"byteorder": b"big"})
    )
    assert "no tensors under" in refused(write_parts(tmp_path / "empty.pth", pickled))
    value, storages = state_dict({"a": np.zeros(3, np.float32)})
    path = write_pth(tmp_path / "teacher.pth", {"teacher": value, "student": value}, storages)
    assert "found teacher, student" in refused(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"123456789012")
    assert "twice" in refused(path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("wrappers", [(), ("model",), ("state_dict",), ("model", "state_dict")])
def test_wrappers_are_seen_through(tmp_path, prefix, wrappers):
    value, storages = state_dict({f"{prefix}a.weight": np.arange(3, dtype=np.float32)})
    for wrapper in reversed(wrappers):
        value = {wrapper: value, "epoch": 3, "args": namespace(lr=0.1)}
    checkpoint = open_checkpoint(write_pth(tmp_path / "x.pth", value, storages))
    assert list(checkpoint.tensors) == ["a.weight"]
    assert checkpoint.source_keys["a.weight"] == ".".join([*wrappers, f"{prefix}a.weight"])
    assert len(checkpoint.beside) == 2 * len(wrappers)
    np.testing.assert_array_equal(checkpoint.values("a.weight"), [0, 1, 2])


def test_safetensors_are_read_by_content(tmp_path):
    from safetensors.numpy import save_file

    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1, 2], np.float16),
        "c": np.array([[7]], np.int64),
        "d": np.zeros((0, 2), np.float32),
    }
    path = tmp_path / "named.pth"
    save_file(arrays, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "safetensors"
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint.values(name), array)
    data = path.read_bytes()
    for damaged in (data[:-1], data[:60], data + b"x", data.replace(b"F32", b"F99")):
        path.write_bytes(damaged)
        assert "truncated, damaged or no safetensors" in refused(path)
    path.write_bytes((1 << 60).to_bytes(8, "little") + data[8:])
    assert "its header claims 1152921504606846976 bytes" in refused(path)


def test_moved_file(tmp_path):
    """Names do not matter: torch writes the file's stem into the archive, people rename files."""
    path = tmp_path / "renamed.bin"
    shutil.copy(GOLDEN, path)
    assert "contiguous" in open_checkpoint(path).tensors
