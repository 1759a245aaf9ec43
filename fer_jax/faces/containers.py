"""Whether the end of a video file is missing, by the sizes that its container states."""

import os
from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEADER = 1 << 16  # bytes in which the file's properties are looked for
_TS_PACKET = 188
_WHOLE, _CUT, _BROKEN = "whole", "cut", "broken"
_PIECE = 1 << 20  # bytes read at once
# The boxes that stand at the top of an MP4 or QuickTime file.
_BOXES = frozenset(
    b"ftyp moov mdat free skip wide udta meta moof mfra sidx styp ssix emsg prft uuid pdin".split()
)


def missing_bytes(path: Path) -> int:
    """How many bytes of a video file are missing at its end.

    Args:
        path: an MP4 or QuickTime, AVI, Matroska, Windows Media, Flash or GIF file, or an MPEG
            transport stream, which ends with a whole packet; of others nothing is known.

    Returns:
        The number of bytes by which the file is shorter than its container says; 1 for a GIF
        without its end mark; 0 if nothing is missing or known.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(_TS_PACKET + 1)
        file.seek(0)
        if start[:4] == b"RIFF":
            end = _riff_end(file, size)
        elif start[:4] == _EBML:
            end = _matroska_end(file)
        elif start[:4] == b"GIF8":
            end = size + (_gif(file) == _CUT)
        elif start[4:8] in _BOXES:
            end = _mp4_end(file, size)
        elif start[:16] == _ASF:
            end = _asf_end(file)
        elif start[:3] == b"FLV":
            end = _flash_end(file, size)
        elif start[:1] == start[_TS_PACKET:] == b"\x47":
            end = -(-size // _TS_PACKET) * _TS_PACKET
        else:
            end = 0
    return max(0, end - size)


def is_broken(path: Path) -> bool:
    """Whether the parts of a file do not follow each other to its end, as far as is known.

    Args:
        path: a GIF, whose blocks must, or a fragmented MP4, in which after something else no
            fragment or index of them may come; of others nothing is known.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"GIF8":
            return _gif(file) != _WHOLE
        if start[4:8] in _BOXES:
            file.seek(min(_mp4_boxes(file, os.path.getsize(path))[0], os.path.getsize(path)))
            rest = iter(lambda: file.read(_PIECE), b"")
            return any(b"moof" in piece or b"mfra" in piece for piece in rest)
    return False


def is_avi(path: Path) -> bool:
    """Whether a file begins as AVI files do.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"AVI "


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Where the last box ends; the file's end where it is open, or something else follows."""
    end, whole = _mp4_boxes(file, size)
    return end if whole else size


def _mp4_boxes(file: BinaryIO, size: int) -> tuple[int, bool]:
    """Where the chain of boxes ends, and whether nothing but boxes is there.

    A box is (size, name): 1 for a 64-bit size after the name, 0 for all the rest of the file.
    """
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4])
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:])
        if length == 0 and header[4:8] in _BOXES:
            return size, True
        if length < 8 or header[4:8] not in _BOXES:
            return position, False  # appended by somebody, or damaged
        position += length
    return position, True


def _gif(file: BinaryIO) -> str:
    """Whether the blocks follow each other to the end mark, behind which anything may come."""
    header = file.read(13)
    _skip_colours(file, header[10] if len(header) == 13 else 0)
    while kind := file.read(1):
        if kind == b"\x3b":
            return _WHOLE
        if kind == b"\x2c":
            place = file.read(9)
            _skip_colours(file, place[-1] if len(place) == 9 else 0)
        elif kind != b"\x21":
            return _BROKEN
        file.seek(1, os.SEEK_CUR)  # of an image the code size, of others what they are
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)
    return _CUT


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


def _skip_colours(file: BinaryIO, flags: int) -> None:
    """Passes over a GIF's table of colours, if its flags say that there is one."""
    file.seek(3 << (flags & 7) + 1 if flags & 0x80 else 0, os.SEEK_CUR)


def _asf_end(file: BinaryIO) -> int:
    """The size that the file's properties state; 0 where a live recording left it open."""
    header = file.read(_ASF_HEADER)
    at = header.find(_ASF_FILE)
    return int.from_bytes(header[at + 40 : at + 48], "little") if at >= 0 else 0


def _flash_end(file: BinaryIO, size: int) -> int:
    """Where the last tag ends: what came before, kind, length, eight bytes, content."""
    position = 9
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        if header[4] & 0x1F not in (8, 9, 18):  # sound, video, data
            return size
        position += 15 + int.from_bytes(header[5:8])
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
