"""Damage to what `fer-jax predict` reads: what every file may suffer, and what only videos may.

Every function takes a generator and a path to an honest file and damages it in place; what comes of
it may still be readable.
"""

import struct
from pathlib import Path

import checkpoint_mutations as mutations
import cv2
import numpy as np
from input_damage import PICTURES, VIDEOS, Damage, Random, rewrite

_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# Where containers say how long, how large and how many: MP4's boxes, AVI's chunks.
_BOXES = tuple(
    b"stsz stts stsc stco stss stsd mdhd mvhd tkhd elst trun tfhd trex mdat moov trak avcC".split()
)
_CHUNKS = tuple(b"RIFF avih strh strf idx1 LIST movi 00dc".split())


def _bytes_at_the_end(rng: Random, data: bytes) -> bytes:
    """What a second program, or a second recording, left behind the file."""
    if rng.random() < 0.3:
        return data + data[: rng.integers(1, len(data) + 1)]
    return data + rng.bytes(int(2 ** rng.uniform(0, 14)))


def _blocks_zeroed(rng: Random, data: bytes) -> bytes:
    """Sectors of 512 bytes that a disk lost."""
    found = bytearray(data)
    for sector in rng.integers(-(-len(data) // 512), size=int(rng.integers(1, 6))).tolist():
        part = found[512 * sector : 512 * (sector + 1)]
        found[512 * sector : 512 * (sector + 1)] = bytes(len(part))
    return bytes(found)


def _last_bytes_gone(rng: Random, data: bytes) -> bytes:
    return data[: max(1, len(data) - int(2 ** rng.uniform(0, 10)))]


def _lies(rng: Random, data: bytes) -> bytes:
    """One to three fields of a container say something extreme, or something slightly wrong."""
    found = bytearray(data)
    names = [name for name in (*_BOXES, *_CHUNKS) if name in data]
    for _ in range(rng.integers(1, 4)):
        if names:
            name = names[rng.integers(len(names))]
            at = data.index(name) + 4 * int(rng.integers(-1, 14))
            order = "little" if name in _CHUNKS else "big"
        else:
            at, order = int(rng.integers(min(len(data), 512))), "big"
        at = min(max(at, 0), max(0, len(data) - 4))
        before = int.from_bytes(found[at : at + 4], order)
        value = int(rng.choice(_EXTREMES)) if rng.random() < 0.7 else before + 1
        found[at : at + 4] = (value & 0xFFFFFFFF).to_bytes(4, order)
    return bytes(found[: len(data)])


def _huge_frames(rng: Random, data: bytes) -> bytes:
    """Frames that promise up to 65535 pixels a side, in the frame itself or in the header."""
    found = bytearray(data)
    sides = rng.integers(4_000, 65_536, 2).tolist()
    at = data.find(b"\xff\xc0", int(rng.integers(len(data))))
    at = at if at >= 0 else data.find(b"\xff\xc0")
    header = data.find(b"strf")
    entry = max(data.find(name) for name in (b"mp4v", b"avc1", b"png "))
    if at >= 0 and rng.random() < 0.7:
        found[at + 5 : at + 9] = struct.pack(">HH", *sides)
    elif header >= 0:
        found[header + 12 : header + 20] = struct.pack("<II", *sides)
    elif entry >= 0:
        found[entry + 28 : entry + 32] = struct.pack(">HH", *sides)
    elif data[:4] == b"GIF8":
        found[6:10] = struct.pack("<HH", *sides)
    else:
        return mutations.flip(rng, data, 0, 400)
    return bytes(found[: len(data)])


def _other_frames(rng: Random, path: Path) -> None:
    """Motion JPEG in which one frame has another size; other files are joined with themselves."""
    data = path.read_bytes()
    places = [at for at in _places(data, b"00dc") if data[at + 8 : at + 11] == b"\xff\xd8\xff"]
    if not places:
        path.write_bytes(data + data)
        return
    at = places[rng.integers(len(places))]
    length = int.from_bytes(data[at + 4 : at + 8], "little")
    frame = cv2.imdecode(np.frombuffer(data[at + 8 : at + 8 + length], np.uint8), cv2.IMREAD_COLOR)
    small = cv2.resize(frame, ((64, 48), (8, 8), (150, 200))[rng.integers(3)])
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 30])[1].tobytes()
    encoded = encoded[:length] + bytes(max(0, length - len(encoded)))
    path.write_bytes(data[: at + 8] + encoded + data[at + 8 + length :])


def _places(data: bytes, name: bytes) -> list[int]:
    found, at = [], data.find(name)
    while at >= 0:
        found.append(at)
        at = data.find(name, at + 4)
    return found


def beginning_and_end(rng: Random, first: bytes, second: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return first[: rng.integers(1, len(first))] + second[rng.integers(len(second)) :]


EVERYWHERE: dict[str, Damage] = {
    "the last bytes gone": rewrite(_last_bytes_gone),
    "sectors zeroed": rewrite(_blocks_zeroed),
    "bytes taken out": rewrite(mutations.delete),
    "bytes written twice": rewrite(mutations.duplicate),
    "bytes exchanged": rewrite(mutations.exchange),
    "bytes at the end": rewrite(_bytes_at_the_end),
}
OF_VIDEOS: dict[str, Damage] = {
    **VIDEOS,
    **EVERYWHERE,
    "fields that lie": rewrite(_lies),
    "huge frames": rewrite(_huge_frames),
    "frames of other sizes": _other_frames,
}
OF_PICTURES: dict[str, Damage] = {**PICTURES, **EVERYWHERE}
