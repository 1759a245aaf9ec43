"""Damage: bits, cuts and exchanged pieces, of whole files and of what lies inside them.

Every function takes a generator and an honest file and returns the damaged bytes. Damage inside a
`.pth` comes twice, with stale checksums and with right ones, which is what an attacker writes.
"""

import io
import struct
import zipfile
from collections.abc import Callable

import checkpoint_seeds as seeds
import numpy as np
from checkpoint_seeds import Seed

Random = np.random.Generator
Mutation = Callable[[Random, Seed], bytes]


def flip(rng: Random, data: bytes, begin: int = 0, end: int | None = None) -> bytes:
    """Flips 1 to 64 bits, most often few, between two positions."""
    damaged = bytearray(data)
    end = len(data) if end is None else min(end, len(data))
    for bit in rng.integers(8 * begin, 8 * max(end, begin + 1), int(2 ** rng.uniform(0, 6))):
        damaged[bit // 8] ^= 1 << int(bit) % 8
    return bytes(damaged)


def cut(rng: Random, data: bytes) -> bytes:
    """Ends at any byte."""
    return data[: rng.integers(len(data))]


def insert(rng: Random, data: bytes) -> bytes:
    """Puts 1 to 256 random bytes anywhere."""
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(int(2 ** rng.uniform(0, 8))) + data[at:]


def delete(rng: Random, data: bytes) -> bytes:
    """Takes out a range."""
    begin, end = _range(rng, data)
    return data[:begin] + data[end:]


def duplicate(rng: Random, data: bytes) -> bytes:
    """Writes a range twice."""
    begin, end = _range(rng, data)
    return data[:end] + data[begin:]


def zero(rng: Random, data: bytes) -> bytes:
    """Overwrites a range with zeros, as a lost disk block."""
    begin, end = _range(rng, data)
    return data[:begin] + bytes(end - begin) + data[end:]


def exchange(rng: Random, data: bytes) -> bytes:
    """Exchanges two ranges of one length."""
    begin, end = _range(rng, data)
    other = int(rng.integers(len(data) - (end - begin) + 1))
    changed = bytearray(data)
    piece, other_piece = data[begin:end], data[other : other + end - begin]
    changed[other : other + end - begin] = piece
    changed[begin:end] = other_piece
    return bytes(changed)


BYTE_DAMAGE = (flip, cut, insert, delete, duplicate, zero, exchange)


def _range(rng: Random, data: bytes) -> tuple[int, int]:
    length = min(len(data), int(2 ** rng.uniform(0, 11)))
    begin = int(rng.integers(len(data) - length + 1))
    return begin, begin + length


def whole(damage: Callable[[Random, bytes], bytes]) -> Mutation:
    """Damage to the whole file."""
    return lambda rng, seed: damage(rng, seed.data)


def flip_head(rng: Random, seed: Seed) -> bytes:
    """Flips bits of the first bytes: the first member's header, or a safetensors header."""
    return flip(rng, seed.data, 0, 64 if seed.is_zip else 8 + _header_length(seed.data))


def flip_directory(rng: Random, seed: Seed) -> bytes:
    """Flips bits of the zip's central directory, or the eight bytes that tell a header's length."""
    if not seed.is_zip:
        return flip(rng, seed.data, 0, 8)
    with zipfile.ZipFile(io.BytesIO(seed.data)) as file:
        return flip(rng, seed.data, file.start_dir)


def flip_local_headers(rng: Random, seed: Seed) -> bytes:
    """Flips bits of the header before one member."""
    if not seed.is_zip:
        return flip_head(rng, seed)
    with zipfile.ZipFile(io.BytesIO(seed.data)) as file:
        infos = file.infolist()
    at = infos[rng.integers(len(infos))].header_offset
    return flip(rng, seed.data, at, at + 30)


def directory_lies(rng: Random, seed: Seed) -> bytes:
    """Sets a field of the central directory or of its end to an extreme value."""
    data = bytearray(seed.data)
    if not seed.is_zip:
        data[:8] = int(rng.choice([0, 1, 2**31, 2**63 - 1])).to_bytes(8, "little")
        return bytes(data)
    with zipfile.ZipFile(io.BytesIO(seed.data)) as file:
        at, count = file.start_dir, len(file.infolist())
    if rng.random() < 0.3:
        end = seed.data.rindex(b"PK\x05\x06")
        offset, size = [(4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)][rng.integers(6)]
        at = end + offset
    else:
        for _ in range(rng.integers(count)):
            at += 46 + sum(struct.unpack_from("<3H", seed.data, at + 28))
        fields = [(6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)]
        offset, size = fields[rng.integers(len(fields))]
        at += offset
    small = int(rng.integers(1, 100))
    value = int(rng.choice([0, 1, small, 2 ** (8 * size) - 1, 2 ** (8 * size - 1)]))
    data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def members_of(seed: Seed) -> dict[str, bytes]:
    """The members of a `.pth`, without the folder that they lie in."""
    with zipfile.ZipFile(io.BytesIO(seed.data)) as file:
        names = {name.partition("/")[2]: name for name in file.namelist()}
        infos = file.infolist()
        if not any(info.CRC for info in infos):
            return {n: _stored(seed.data, file.getinfo(full)) for n, full in names.items()}
        return {name: file.read(full) for name, full in names.items()}


def _stored(data: bytes, info: zipfile.ZipInfo) -> bytes:
    lengths = sum(struct.unpack_from("<2H", data, info.header_offset + 26))
    begin = info.header_offset + 30 + lengths
    return data[begin : begin + info.file_size]


def pickle_damage(rng: Random, seed: Seed) -> bytes:
    """Damages the pickle (of safetensors: the JSON) and makes checksums and lengths right again."""
    damage = BYTE_DAMAGE[rng.integers(len(BYTE_DAMAGE))]
    if not seed.is_zip:
        length = _header_length(seed.data)
        header = damage(rng, seed.data[8 : 8 + length])
        return len(header).to_bytes(8, "little") + header + seed.data[8 + length :]
    members = members_of(seed)
    members["data.pkl"] = damage(rng, members["data.pkl"])
    return _rebuilt(rng, members)


def opcode_damage(rng: Random, seed: Seed) -> bytes:
    """Changes one to four single bytes of the pickle to opcodes; checksums are right."""
    if not seed.is_zip:
        return flip_head(rng, seed)
    members = members_of(seed)
    pickled = bytearray(members["data.pkl"])
    opcodes = b"(.012FIJKLMNPQRSTUVXabcde}ghij]lopqrstu\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89"
    opcodes += b"\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"
    for _ in range(rng.integers(1, 5)):
        pickled[rng.integers(2, len(pickled))] = opcodes[rng.integers(len(opcodes))]
    members["data.pkl"] = bytes(pickled)
    return _rebuilt(rng, members)


def swap_members(rng: Random, seed: Seed) -> bytes:
    """Exchanges the contents, or the names, of two members; or loses or renames one."""
    if not seed.is_zip:
        return exchange(rng, seed.data)
    pairs = list(members_of(seed).items())
    first, second = rng.choice(len(pairs), 2, replace=False)
    match rng.integers(4):
        case 0:
            (name, data), (other, other_data) = pairs[first], pairs[second]
            pairs[first], pairs[second] = (name, other_data), (other, data)
        case 1:
            del pairs[first]
        case 2:
            pairs[first] = (pairs[second][0] + "x", pairs[first][1])
        case 3:
            pairs[first] = (pairs[first][0], pairs[first][1] + rng.bytes(4))
    return _rebuilt(rng, pairs)


def member_damage(rng: Random, seed: Seed) -> bytes:
    """Damages one storage's bytes, or the tensors' bytes, and makes the checksums right again."""
    if not seed.is_zip:
        return flip(rng, seed.data, 8 + _header_length(seed.data))
    members = members_of(seed)
    names = [name for name in members if name.startswith("data/") and members[name]]
    name = names[rng.integers(len(names))]
    damage = (flip, zero, cut)[rng.integers(3)]
    members[name] = damage(rng, members[name])
    return _rebuilt(rng, members)


def splice(rng: Random, seed: Seed) -> bytes:
    """The beginning of this file and the end of another."""
    others = seeds.make_seeds()
    other = others[rng.integers(len(others))].data
    return seed.data[: rng.integers(len(seed.data))] + other[rng.integers(len(other)) :]


def _rebuilt(rng: Random, members: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    deflated = rng.random() < 0.25
    compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    return seeds.archive(members, compression=compression)
