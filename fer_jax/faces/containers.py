"""Whether the end of a video file is missing, by the sizes that its container states."""

import os
from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
# The boxes that stand at the top of an MP4 or QuickTime file.
_BOXES = frozenset(
    b"ftyp moov mdat free skip wide udta meta moof mfra sidx styp ssix emsg prft uuid pdin".split()
)


def missing_bytes(path: Path) -> int:
    """How many bytes of a video file are missing at its end.

    Args:
        path: an MP4 or QuickTime, AVI, Matroska or GIF file; of others nothing is known.

    Returns:
        The number of bytes by which the file is shorter than its container says; 1 for a GIF
        without its end mark; 0 if nothing is missing or known.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"RIFF":
            end = _riff_end(file, size)
        elif start[:4] == _EBML:
            end = _matroska_end(file)
        elif start[:4] == b"GIF8":
            file.seek(max(0, size - 1))
            end = size if file.read(1) == b"\x3b" else size + 1
        elif start[4:8] in _BOXES:
            end = _mp4_end(file, size)
        else:
            end = 0
    return max(0, end - size)


def is_avi(path: Path) -> bool:
    """Whether a file begins as AVI files do.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"AVI "


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Where the last box ends: (size, name) one after the other, 1 for a 64-bit size after."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4])
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:])
        # 0 is to the end of the file; what has no such name was appended by somebody.
        if length < 8 or header[4:8] not in _BOXES:
            return size
        position += length
    return position


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk ends; long AVI files have several."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF":
            break
        position += 8 + int.from_bytes(header[4:], "little")
    return position


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends, 0 where a live recording left its size open."""
    file.seek(4)
    header = _element_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    length = _element_size(file)
    return 0 if length is None else file.tell() + length


def _element_size(file: BinaryIO) -> int | None:
    """A Matroska number: as many zero bits as bytes follow, a one, the value; all ones: unknown."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    bits = 7 * (9 - first[0].bit_length())
    value = int.from_bytes(first + file.read(bits // 7 - 1)) & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
