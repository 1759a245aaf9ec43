"""Hostile zip archives and hostile safetensors headers. Every function returns a whole file."""

import functools
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

import checkpoint_seeds as seeds
import numpy as np
from checkpoint_seeds import dict_of, pickle_of, storage, tensor, text

Random = np.random.Generator
_MIB = 1 << 20
_VALUES = np.arange(6, dtype=np.float32).tobytes()


def _model(count: int = 6, stored: str = "0") -> bytes:
    return dict_of({"model": dict_of({"cls_token": tensor(storage(text(stored), count), (2, 3))})})


@functools.cache
def _deflated_zeros(mebibytes: int) -> tuple[bytes, int]:
    """(deflate stream, CRC) of zeros, a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(mebibytes):
        crc = zlib.crc32(bytes(_MIB), crc)
    return block * mebibytes + packer.flush(), crc


def real_bomb(rng: Random) -> bytes:
    """Some hundred MiB of zeros in some hundred KiB, as a storage or as the pickle."""
    size = int(rng.choice([16, 60, 65, 256, 512]))
    stream, crc = _deflated_zeros(size)
    where = ["data/0", "data.pkl", "byteorder", "data/1"][rng.integers(4)]
    parts = {"data.pkl": pickle_of(_model(size * _MIB // 4)), "byteorder": b"little", "data/0": b""}
    parts[where] = stream
    data = bytearray(seeds.archive(parts))
    claimed = size * _MIB if rng.random() < 0.7 else int(rng.choice([24, 2**31, 4 * size]))
    return _patched(data, "archive/" + where, [(8, "<H", 8), (14, "<I", crc), (22, "<I", claimed)])


def _patched(data: bytearray, name: str, fields: list[tuple[int, str, int]]) -> bytes:
    """Sets fields, given by their place in a local header, there and in the central directory."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        at = file.start_dir
        for info in file.infolist():
            if info.filename == name:
                for offset, kind, value in fields:
                    struct.pack_into(kind, data, info.header_offset + offset, value)
                    struct.pack_into(kind, data, at + offset + 2, value)
            at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return bytes(data)


def _good() -> bytearray:
    return bytearray(seeds.pth_of(_model(), {"0": _VALUES}))


def overlapping(rng: Random) -> bytes:
    """Many members that all are one range of the file; each would be checked on its own."""
    members = int(2 ** rng.uniform(1, 12))
    size = int(2 ** rng.uniform(2, 20)) // 4 * 4
    values = bytes(size)
    pairs = {f"w{i}": tensor(storage(text(str(i)), size // 4), ()) for i in range(members)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), pickle_of(dict_of(pairs)))
        archive.writestr(zipfile.ZipInfo("archive/data/0"), values)
        first = archive.getinfo("archive/data/0")
        for i in range(1, members):
            info = zipfile.ZipInfo(f"archive/data/{i}")
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.file_size = info.compress_size = size
            archive.filelist.append(info)
    return file.getvalue()


def many_packed(rng: Random) -> bytes:
    """Thousands of tensors, each packed by itself."""
    count = int(2 ** rng.uniform(6, 13.5))
    pairs = {f"w{i}": tensor(storage(text(str(i)), 6), (6,)) for i in range(count)}
    values = {str(i): _VALUES for i in range(count)}
    return seeds.pth_of(dict_of(pairs), values, compression=zipfile.ZIP_DEFLATED)


def many_entries(rng: Random) -> bytes:
    """Up to 65,000 empty members beside a model."""
    entries = {f"x/{i}": b"" for i in range(int(2 ** rng.uniform(6, 15.9)))}
    return seeds.archive({"data.pkl": pickle_of(_model()), "data/0": _VALUES, **entries})


def names(rng: Random) -> bytes:
    """Members with absolute, climbing, nested, unprintable, long or repeated names."""
    strange = ("../../evil", "/etc/passwd", "..\\evil", "a/" * 200 + "data.pkl", "data/data.pkl")
    strange += ("\x1b[2J", "a\nb", "x" * 60_000, "data/0", "data.pkl", "byteorder", "constants.pkl")
    name = strange[rng.integers(len(strange))]
    stored = name.removeprefix("data/") if rng.random() < 0.5 else "0"
    value = dict_of({"model": dict_of({"w": tensor(storage(text(stored), 6), (2, 3))})})
    pairs = [("data.pkl", pickle_of(value)), ("data/0", _VALUES), (name, _VALUES)]
    root = ["archive/", "/", "../", "a/b/c/", ""][rng.integers(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about the repeated name
        return seeds.archive(pairs, root=root)


def header_lies(rng: Random) -> bytes:
    """One member encrypted, in an unknown compression, of a wrong size, checksum or version."""
    name = ["archive/data.pkl", "archive/data/0", "archive/byteorder"][rng.integers(3)]
    fields = (
        (6, "<H", int(rng.choice([1, 8, 0x20, 0x40, 0x41, 0x800, 0x2000]))),
        (8, "<H", int(rng.choice([1, 6, 8, 9, 12, 14, 19, 93, 95, 97, 98, 99, 65535]))),
        (14, "<I", int(rng.integers(2**32))),
        (18, "<I", int(rng.choice([0, 1, 25, 2**31, 2**32 - 1]))),
        (22, "<I", int(rng.choice([0, 1, 25, 2**31, 2**32 - 1]))),
        (4, "<H", int(rng.choice([45, 99, 255, 65535]))),
    )
    chosen = [fields[i] for i in rng.choice(6, int(rng.integers(1, 4)), replace=False)]
    data = _good()
    if rng.random() < 0.3:
        value = {"0": bytes(4000)}
        data = bytearray(seeds.pth_of(_model(1000), value, compression=zipfile.ZIP_DEFLATED))
    return _patched(data, name, chosen)


def compressions(rng: Random) -> bytes:
    """Members really in bzip2 or LZMA, whole or damaged; torch never writes them."""
    kind = [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][rng.integers(2)]
    data = bytearray(seeds.pth_of(_model(1000), {"0": bytes(4000)}, compression=kind))
    for _ in range(rng.integers(0, 3)):
        data[rng.integers(40, 300)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def zip64_lies(rng: Random) -> bytes:
    """A zip64 extra field or end record whose 64-bit numbers lie."""
    huge = int(rng.choice([0, 24, 2**31, 2**32, 2**62, 2**63 - 1]))
    members = [("data.pkl", pickle_of(_model())), ("data/0", _VALUES), ("byteorder", b"little")]
    data = bytearray(seeds.archive(members))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        at, infos = file.start_dir, file.infolist()
    if rng.random() < 0.5:
        end = data.rindex(b"PK\x05\x06")
        record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, end - at, at)
        record = bytearray(record)
        struct.pack_into("<Q", record, int(rng.choice([4, 24, 32, 40, 48])), huge)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, int(rng.choice([end, huge])), 1)
        return bytes(data[:end] + record + locator + data[end:])
    field = struct.pack("<2H3Q", 1, 24, *(huge if rng.random() < 0.5 else 24 for _ in range(3)))
    for info in infos[: rng.integers(len(infos))]:
        at += 46 + len(info.filename)
    struct.pack_into("<H", data, at + 30, len(field))
    for offset in (20, 24, 42):
        struct.pack_into("<I", data, at + offset, 2**32 - 1)
    at += 46 + struct.unpack_from("<H", data, at + 28)[0]
    data[at:at] = field
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 12, struct.unpack_from("<I", data, end + 12)[0] + len(field))
    return bytes(data)


class _Pipe:
    """A file that cannot seek."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def streamed(rng: Random) -> bytes:
    """Written to a pipe: sizes stand after the data; some of them wrong."""
    file = _Pipe()
    with zipfile.ZipFile(file, "w") as archive:
        parts = {"data.pkl": pickle_of(_model()), "data/0": _VALUES}
        for name, values in parts.items():
            archive.writestr(zipfile.ZipInfo("archive/" + name), values)
    data = bytearray(file.written)
    at = data.index(b"PK\x07\x08")
    if rng.random() < 0.7:
        data[at + int(rng.integers(16))] ^= 0xFF
    return bytes(data)


def safetensors_headers(rng: Random) -> bytes:
    """A header that is absurd in one way."""
    builders: tuple[Callable[[Random], bytes], ...] = (
        lambda r: _headed(b"{}", length=2 ** int(r.integers(20, 64))),
        lambda r: _headed(b"{" + b" " * 80, length=100_000_000 + int(r.integers(-1, 2))),
        lambda r: _headed(b"{}" + b" " * int(2 ** r.uniform(10, 25))),
        lambda r: _headed(b'{"a":' + b"[" * int(2 ** r.uniform(2, 20))),
        lambda r: _headed(b'{"__metadata__":{"a":"b"}}'),
        lambda r: _headed(b'{"__metadata__":' + b'{"a":' * 200 + b"}" * 201),
        lambda r: _entry(r, shape=[_number(r), _number(r)]),
        lambda r: _entry(r, shape=[0, abs(_number(r)), abs(_number(r))]),
        lambda r: _entry(r, shape=[1] * int(2 ** r.uniform(4, 12)) + [6]),
        lambda r: _entry(r, shape=[6.0]),
        lambda r: _entry(r, shape=[float("nan")]),
        lambda r: _entry(r, shape="6"),
        lambda r: _entry(r, data_offsets=[_number(r), _number(r)]),
        lambda r: _entry(r, data_offsets=[24, 0]),
        lambda r: _entry(r, data_offsets=[0]),
        lambda r: _entry(r, dtype=str(r.choice(["F99", "C64", "F8_E4M3", "", "f32", "F32 "]))),
        lambda r: _entry(r, dtype=["F32"]),
        lambda r: _entry(r, more=[[0]] * int(2 ** r.uniform(0, 18))),
        lambda r: _entry(r, name="module." * int(2 ** r.uniform(0, 17)) + "w"),
        lambda r: _entry(r, name=["", "\x1b[2J", "a\nb", "\u202e", "__metadata__"][r.integers(5)]),
        lambda r: _headed(_ONE.replace(b'"dtype"', b'"digits":1%s,"dtype"' % _z(r))),
        lambda r: _headed(_TWICE),
        lambda r: _headed(_TWICE.replace(b"[6]", b"[2,3]", 1)),
        lambda r: _headed(_ONE.replace(b'"a"', b'"\xff\xfe"')),
        lambda r: _headed(_ONE.replace(b'"a"', b'"\\ud800"')),
        lambda r: _headed(b"\xef\xbb\xbf" + _ONE),
        lambda r: _headed(_ONE + b"garbage"),
        lambda r: _headed(_ONE.replace(b":[6]", b':[6],"shape":[3]')),
        lambda r: _overlaps(r),
        lambda r: _many(r),
    )
    return builders[rng.integers(len(builders))](rng)


_ONE = b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}'
_TWICE = _ONE[:-1] + b"," + _ONE[1:]


def _z(rng: Random) -> bytes:
    return b"0" * int(2 ** rng.uniform(2, 18))


def _number(rng: Random) -> int:
    exact = (0, -1, 24, 25, 2**31, 2**32, 2**53 + 1, 2**60, 2**61, 2**63, 2**64, 10**40)
    return exact[rng.integers(len(exact))]


def _headed(header: bytes, values: bytes = _VALUES, length: int | None = None) -> bytes:
    length = len(header) if length is None else length
    return min(length, 2**64 - 1).to_bytes(8, "little") + header + values


def _entry(rng: Random, name: str = "a", **changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes
    values = _VALUES if 0 not in np.atleast_1d(entry["shape"]).tolist() else b""
    if not values and "data_offsets" not in changes:
        entry["data_offsets"] = [0, 0]
    return _headed(json.dumps({name: entry}).encode(), values)


def _overlaps(rng: Random) -> bytes:
    first, second = sorted(rng.integers(0, 25, 2).tolist())
    ranges = {"a": [0, second], "b": [first, 24]}
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in ranges.items()
    }
    return _headed(json.dumps(header).encode())


def _many(rng: Random) -> bytes:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = {f"blocks.{i}.norm1.weight": one for i in range(int(2 ** rng.uniform(8, 18)))}
    return _headed(json.dumps(header, separators=(",", ":")).encode(), b"")
