"""Files that are small and ask for much, or that two readers could read in two ways: refused.

`tools/checkpoint_campaign.py` found most of these.
"""

import json
import zipfile

import numpy as np
import pytest
from pth_files import Stored, opcodes, refused, state_dict, tensor, write_parts, write_pth

from fer_jax.convert import pickle_machine, pth_archive
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.pickle_machine import RefusedPickleError, read_pickle
from fer_jax.convert.pth import SYMBOLS


def test_small_pickles_cannot_become_large_or_slow():
    def refuse(code: bytes, said: str) -> None:
        with pytest.raises(RefusedPickleError, match=said):
            read_pickle(b"\x80\x02" + code + b".", SYMBOLS, id)

    refuse(b"]" * (pickle_machine._MAX_STEPS + 1), "opcodes")  # 64 bytes of memory for each byte
    text = opcodes(("x" * (1 << 20), "latin1"))
    refuse(b"c_codecs\nencode\nq\x00" + text + b"q\x01" + b"h\x00h\x01R" * 99, "over and over")
    refuse(b"}" + opcodes((1, 2)) + b"Ns", "a int as a dictionary's key")  # all of one hash


def test_wrappers_and_prefixes_end(tmp_path):
    itself = b"}q\x00" + opcodes("model") + b"h\x00s"
    path = write_parts(tmp_path / "itself.pth", b"\x80\x02" + itself + b".")
    assert "no tensors under" in refused(path)
    level = b"}(" + opcodes("beside") + b"N" + opcodes("model")
    deep = level * 9 + opcodes({"a": tensor(Stored("0", 3), (3,))}) + b"u" * 9
    path = write_parts(tmp_path / "deep.pth", b"\x80\x02" + deep + b".", {"data/0": bytes(12)})
    assert "no tensors under" in refused(path)
    value, storages = state_dict({"module." * 20 + "a": np.zeros(3, np.float32)})
    path = write_pth(tmp_path / "prefixes.pth", {"model": value}, storages)
    assert list(open_checkpoint(path).tensors) == ["module." * 12 + "a"]


@pytest.mark.parametrize("name", ["x" * 201, "\x1b[2J", "a\nb", "\u202e"])
def test_names_can_be_shown(tmp_path, name):
    value, storages = state_dict({name: np.zeros(3, np.float32)})
    assert "holds a tensor named" in refused(write_pth(tmp_path / "x.pth", value, storages))
    beside = {"model": state_dict({"a": np.zeros(3, np.float32)})[0], name: 3}
    checkpoint = open_checkpoint(write_pth(tmp_path / "y.pth", beside, storages))
    assert all(len(key) < 110 and key.isprintable() for key in checkpoint.beside)
    wrong = {"w": tensor(Stored(name, 3), (3,))}
    assert "lacks its part" in refused(write_pth(tmp_path / "z.pth", wrong, storages))


def test_more_tensors_than_any_vit_has(tmp_path):
    tensors = {f"w{i}": tensor(Stored("0", 1), ()) for i in range(10_001)}
    tensors["large"] = tensor(Stored("1", 10_001), (10_001,))  # a file of some size
    parts = {"0": np.zeros(1, np.float32), "1": np.zeros(10_001, np.float32)}
    assert "holds 10002 tensors" in refused(write_pth(tmp_path / "x.pth", tensors, parts))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_torch_does_not_write_is_not_unpacked(tmp_path, compression):
    value, storages = state_dict({"a": np.zeros(500, np.float32)})
    path = write_pth(tmp_path / "a.pth", value, storages, compression=compression)
    assert "compressed in a way that torch does not write" in refused(path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (8, 1, "is encrypted"),
        (8, 0x40, "is encrypted"),
        (8, 0x20, "in a way that torch does not write"),
        (10, 12, "in a way that torch does not write"),
        (24, 21, "has 21 bytes for 5 x float32"),
        (42, 0, "overlaps"),
        (42, 7, "overlaps"),
    ],
)
def test_a_directory_that_lies(tmp_path, field, value, said):
    model, storages = state_dict({"a": np.zeros(5, np.float32)})
    path = write_pth(tmp_path / "a.pth", model, storages, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # of the last member, data/0
    data[at + field : at + field + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)
    assert said in refused(path)


def test_a_directory_of_millions_is_not_read(tmp_path, monkeypatch):
    model, storages = state_dict({"a": np.zeros(5, np.float32)})
    path = write_pth(tmp_path / "a.pth", model, storages)
    monkeypatch.setattr(pth_archive, "_MAX_DIRECTORY", 100)
    assert "its directory claims" in refused(path)


def test_a_name_before_a_part_must_be_its_own(tmp_path):
    model, storages = state_dict({"a": np.zeros(5, np.float32)})
    path = write_pth(tmp_path / "a.pth", model, storages)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"archive/data/0", b"archive/data/1", 1))
    assert "is not where the zip file says" in refused(path)


def test_overlapping_parts(tmp_path):
    """Four thousand storages of one range would be checked for four thousand times its size."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        tensors = {f"w{i}": tensor(Stored(str(i), 6), ()) for i in range(2)}
        archive.writestr("archive/data.pkl", b"\x80\x02" + opcodes(tensors) + b".")
        archive.writestr("archive/data/0", bytes(24))
        twin = zipfile.ZipInfo("archive/data/1")
        first = archive.getinfo("archive/data/0")
        twin.file_size = twin.compress_size = 24
        twin.header_offset, twin.CRC = first.header_offset, first.CRC
        archive.filelist.append(twin)
    assert "overlaps another" in refused(tmp_path / "x.pth")


ENTRY = {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [24, 24]}
ONE = json.dumps({"a": ENTRY})


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (f"{ONE[:-1]}, {ONE[1:]}", "a key stands twice"),
        (json.dumps({"a": ENTRY | {"shape": [1] * 99 + [6]}}), "dimension"),
        (json.dumps({"a": ENTRY, "b": EMPTY | {"shape": [0, 2**60, 2**60]}}), "too big"),
        (json.dumps({"a": ENTRY, "\x1b[2J": EMPTY}), "holds a tensor named"),
        (json.dumps({"a": ENTRY | {"dtype": "\x1b[2J"}}), "truncated, damaged or no safetensors"),
        (ONE + " " * (9 << 20), "its header claims"),
    ],
)
def test_headers_that_the_safetensors_package_lets_pass(tmp_path, header, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(24))
    message = refused(path)
    assert said in message
    assert message.isprintable()
