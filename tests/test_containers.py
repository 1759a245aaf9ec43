"""What containers say of their length, read from files as their own walks define them."""

import struct

import pytest

from fer_jax.faces.containers import is_broken, missing_bytes

PACKETS = b"".join(b"\x47" + bytes([n]) * 187 for n in range(5))


def windows_media(size):
    """The header of a Windows Media file whose properties state a size."""
    header = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(14)
    properties = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + bytes(24)
    start = header + properties + struct.pack("<Q", size)
    return start + bytes(max(0, 400 - len(start)))


def flash(*lengths, kind=9):
    """Tags of these lengths, each after the length of the one before."""
    file, before = b"FLV\x01\x01" + struct.pack(">I", 9), 0
    for length in lengths:
        tag = bytes([kind]) + length.to_bytes(3, "big") + bytes(7 + length)
        file, before = file + struct.pack(">I", before) + tag, len(tag)
    return file + struct.pack(">I", before)


def gif(*images, end=b"\x3b"):
    """A GIF with a table of four colours, a comment, and images of these blocks of data."""
    file = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x81, 0, 0) + bytes(12) + b"\x21\xfe\x03abc\0"
    for blocks in images:
        data = b"".join(bytes([n]) + b"\x2c" * n for n in blocks)
        file += b"\x2c" + bytes(8) + b"\x80" + bytes(6) + b"\x02" + data + b"\0"
    return file + end


def box(name, length=8):
    return struct.pack(">I", length) + name + bytes(length - 8)


@pytest.mark.parametrize("cut_off", [1, 50, 187, 188, 200])
def test_a_transport_stream_ends_with_a_whole_packet(tmp_path, cut_off):
    path = tmp_path / "a.ts"
    path.write_bytes(PACKETS)
    assert missing_bytes(path) == 0
    path.write_bytes(PACKETS[:-cut_off])
    assert missing_bytes(path) == cut_off % 188


def test_windows_media_states_its_size(tmp_path):
    path = tmp_path / "a.wmv"
    path.write_bytes(windows_media(400))
    assert missing_bytes(path) == 0
    path.write_bytes(windows_media(1000))
    assert missing_bytes(path) == 600
    path.write_bytes(windows_media(0))  # live
    assert missing_bytes(path) == 0


def test_flash_is_a_chain_of_tags(tmp_path):
    path = tmp_path / "a.flv"
    whole = flash(30, 5, 70)
    path.write_bytes(whole)
    assert missing_bytes(path) == 0
    path.write_bytes(whole[:-14])
    assert missing_bytes(path) == 10  # but for the length that stands at the end
    path.write_bytes(whole + b"something else" * 3)
    assert missing_bytes(path) == 0


def test_the_blocks_of_a_gif_follow_each_other(tmp_path):
    path = tmp_path / "a.gif"
    whole = gif((5, 255), (9,))
    for content, missing, broken in (
        (whole, 0, False),
        (whole + b"appended", 0, False),
        (gif((5, 255), (9,), end=b""), 1, True),
        (whole[:50], 1, True),
        (gif((5, 255), end=b"\x77\x3b"), 0, True),
        (b"GIF8", 1, True),
    ):
        path.write_bytes(content)
        assert (missing_bytes(path), is_broken(path)) == (missing, broken)


def test_fragments_after_something_else_are_lost(tmp_path):
    path = tmp_path / "a.mp4"
    whole = box(b"ftyp") + box(b"moov", 20) + box(b"moof", 20) + box(b"mdat", 90)
    more = box(b"moof", 20) + box(b"mdat", 40) + box(b"mfra")
    for content, broken in (
        (whole + more, False),
        (whole + b"something that was appended", False),
        (whole[:-7] + more, True),
        (whole[:-7] + box(b"free", 20) + box(b"mfra"), True),
        (box(b"ftyp") + struct.pack(">I", 0) + b"mdatmoof....", False),  # all the rest
    ):
        path.write_bytes(content)
        assert is_broken(path) == broken
