"""Damage to the inputs of `fer-jax prepare`: pictures, annotation files, videos.

Every function takes a generator and a path to an honest file and damages it in place. What comes of
it may still be readable: a flipped bit in a JPEG changes a picture, and nothing tells.
"""

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

Random = np.random.Generator
Damage = Callable[[Random, Path], None]


def rewrite(change: Callable[[Random, bytes], bytes]) -> Damage:
    """Damage to a file from a change of its bytes."""

    def damage(rng: Random, path: Path) -> None:
        path.write_bytes(change(rng, path.read_bytes()))

    return damage


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.integers(len(data))]


def _flip(rng: Random, data: bytes) -> bytes:
    found = bytearray(data)
    for bit in rng.integers(8 * len(data), size=int(2 ** rng.uniform(0, 7))):
        found[bit // 8] ^= 1 << int(bit) % 8
    return bytes(found)


def _flip_the_head(rng: Random, data: bytes) -> bytes:
    head = min(len(data), 640)
    return _flip(rng, data[:head]) + data[head:]


def _zeros(rng: Random, data: bytes) -> bytes:
    """A hole, as an interrupted download leaves it."""
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, len(data) - start + 1))
    return data[:start] + bytes(length) + data[start + length :]


def _insert(rng: Random, data: bytes) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]


def _noise(rng: Random, data: bytes) -> bytes:
    return rng.bytes(len(data))


def _text(rng: Random, data: bytes) -> bytes:
    page = b"<html><body>404 Not Found</body></html>\n"
    return page * int(rng.integers(1, 30))


def _empty(rng: Random, path: Path) -> None:
    path.write_bytes(b"")


def _folder(rng: Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dead_link(rng: Random, path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def _link_to_itself(rng: Random, path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _pipe(rng: Random, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _gone(rng: Random, path: Path) -> None:
    path.unlink()


# Pictures ---------------------------------------------------------------------------------------


def _huge_header(rng: Random, path: Path) -> None:
    """A JPEG header that promises up to 65535 x 65535 pixels."""
    data = bytearray(path.read_bytes())
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    if frame > 0:
        sides = rng.integers(8_000, 65_536, 2).tolist()
        data[frame + 5 : frame + 9] = struct.pack(">HH", *sides)
    path.write_bytes(bytes(data))


def _png_bomb(rng: Random, path: Path) -> None:
    """A small PNG that unpacks to hundreds of megabytes."""
    side = int(rng.integers(6_000, 20_000))

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20), 9)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _odd_format(rng: Random, path: Path) -> None:
    """Another format, depth or number of channels below the same name: all of them can be read."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    forms = (
        (".png", grey),
        (".png", image.astype(np.uint16) * 257),
        (".png", np.dstack([image, grey])),
        (".bmp", image),
        (".webp", image),
        (".tiff", image.astype(np.uint16) * 257),
        (".jpg", grey),
    )
    extension, pixels = forms[rng.integers(len(forms))]
    path.write_bytes(cv2.imencode(extension, pixels)[1].tobytes())


def _odd_size(rng: Random, path: Path) -> None:
    """One pixel, a line, or a banner."""
    shape = ((1, 1), (1, 300), (300, 1), (2, 3), (3, 2000))[rng.integers(5)]
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())


# Annotations ------------------------------------------------------------------------------------


def _lines(change: Callable[[Random, list[bytes]], list[bytes]]) -> Damage:
    return rewrite(lambda rng, data: b"\n".join(change(rng, data.split(b"\n"))))


def _odd_line(rng: Random, lines: list[bytes]) -> list[bytes]:
    odd = (b"8", b"-2", b"255", b"1.5", b"nan", b"Happiness", b"1,2", b"", b"\x00", b"+3", b"0x3")
    lines[rng.integers(1, max(2, len(lines)))] = odd[rng.integers(len(odd))]
    return lines


def _other_header(rng: Random, lines: list[bytes]) -> list[bytes]:
    names = lines[0].strip().split(b",")
    rng.shuffle(names)
    lines[0] = b",".join(names[: rng.integers(1, len(names) + 1)])
    return lines


def _no_header(rng: Random, lines: list[bytes]) -> list[bytes]:
    return lines[1:]


def _cut_lines(rng: Random, lines: list[bytes]) -> list[bytes]:
    return lines[: rng.integers(1, len(lines))]


def _endless_line(rng: Random, lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], b"1" * int(rng.integers(10_000, 1_000_000)), *lines[3:]]


def _utf16(rng: Random, path: Path) -> None:
    path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16"))


PICTURES: dict[str, Damage] = {
    "cut": rewrite(_cut),
    "flipped bits": rewrite(_flip),
    "flipped bits in the head": rewrite(_flip_the_head),
    "a hole of zeros": rewrite(_zeros),
    "bytes put in": rewrite(_insert),
    "noise": rewrite(_noise),
    "a web page": rewrite(_text),
    "empty": _empty,
    "huge in its header": _huge_header,
    "a bomb": _png_bomb,
    "another format": _odd_format,
    "another size": _odd_size,
    "a folder": _folder,
    "a dead link": _dead_link,
    "a link to itself": _link_to_itself,
    "a pipe": _pipe,
    "gone": _gone,
}
ANNOTATIONS: dict[str, Damage] = {
    "cut": rewrite(_cut),
    "flipped bits": rewrite(_flip),
    "bytes put in": rewrite(_insert),
    "noise": rewrite(_noise),
    "a web page": rewrite(_text),
    "empty": _empty,
    "an odd line": _lines(_odd_line),
    "another header": _lines(_other_header),
    "no header": _lines(_no_header),
    "fewer lines": _lines(_cut_lines),
    "a line without end": _lines(_endless_line),
    "UTF-16": _utf16,
    "a folder": _folder,
    "a dead link": _dead_link,
    "a link to itself": _link_to_itself,
    "a pipe": _pipe,
    "gone": _gone,
}
VIDEOS: dict[str, Damage] = {
    "cut": rewrite(_cut),
    "flipped bits": rewrite(_flip),
    "flipped bits in the head": rewrite(_flip_the_head),
    "a hole of zeros": rewrite(_zeros),
    "bytes put in": rewrite(_insert),
    "noise": rewrite(_noise),
    "a web page": rewrite(_text),
    "empty": _empty,
    "a folder": _folder,
    "a dead link": _dead_link,
    "a link to itself": _link_to_itself,
    "a pipe": _pipe,
    "gone": _gone,
}


def restore(honest: Path, path: Path) -> None:
    """Puts the honest file back, whatever stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    shutil.copyfile(honest, path)
