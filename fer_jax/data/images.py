"""Encoded images in, RGB arrays out, and back: what a decoder must get right for faces."""

import re
import struct
import zlib

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.errors import FerJaxError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# What is no image is said by ImageError, in one line; OpenCV would print several more.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# In a scan: what is neither an escaped 0xff, nor one to fill, nor a marker to start again.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MOST_PIXELS = 1 << 27  # OpenCV would take 3 GB for what a few bytes of a header promise


class ImageError(FerJaxError):
    """Bytes that are no image; the message says why and names no file."""


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes an image to RGB.

    The EXIF orientation is applied, so that a portrait stands upright. Grey becomes three equal
    channels, 16 bits become 8, and transparent pixels are laid over black (the colours hidden
    below them are arbitrary).

    Args:
        encoded: the content of an image file.

    Returns:
        The image, uint8 in [0, 255].

    Raises:
        ImageError: the bytes are empty, truncated or no image that OpenCV reads.
    """
    if not encoded:
        raise ImageError("is empty")
    _check_whole(encoded)
    _check_size(encoded)
    return decode_checked(encoded)


def decode_checked(encoded: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """As `decode_image`, a tenth faster, of bytes that were decoded once before.

    A record is such: it was decoded when it was stored, and ArrayRecord keeps checksums.

    Raises:
        ImageError: the bytes are no image that OpenCV reads.
    """
    buffer = np.frombuffer(encoded, np.uint8)
    try:
        if _has_alpha(encoded):
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            if image is not None and image.ndim == 3 and image.shape[-1] == 4:
                return _over_black(image)
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # such as a header that promises more than 2^30 pixels
        raise ImageError(f"is not decodable ({error.err})") from error
    if image is None:
        raise ImageError("is not an image that can be decoded")
    return image


def encode_image(
    image: UInt8[np.ndarray, "height width 3"], *, lossless: bool, quality: int = 95
) -> bytes:
    """Encodes an RGB image as PNG, or as JPEG.

    Args:
        image: uint8 RGB.
        lossless: PNG instead of JPEG.
        quality: of the JPEG, 0 to 100.

    Returns:
        The content of an image file.
    """
    extension, options = (".png", []) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    done, encoded = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ImageError(f"cannot be encoded as {extension}")
    return encoded.tobytes()


def is_lossless(encoded: bytes) -> bool:
    """Whether the bytes are of a format other than JPEG and WebP."""
    return not encoded.startswith((_JPEG, b"RIFF"))


def cut_square(
    image: UInt8[np.ndarray, "height width 3"],
    box: tuple[float, float, float, float],
    margin: float,
) -> UInt8[np.ndarray, "side side 3"]:
    """Cuts the square about a box: nothing is resized, and what lies outside the image is black.

    Args:
        image: uint8 RGB.
        box: (left, top, right, bottom) in pixels of the image as it is displayed.
        margin: the square's side as a multiple of the box's longer side.

    Returns:
        The square, its side rounded to whole pixels.

    Raises:
        ImageError: the box is empty, or lies outside the image.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = box
    if not (np.isfinite(box).all() and right > left and bottom > top):
        raise ImageError(f"has an empty box {_box_text(box)}")
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise ImageError(f"is {width}x{height}, its box {_box_text(box)} lies outside")
    side = max(1, round(max(right - left, bottom - top) * margin))
    if side > 4 * max(height, width):
        raise ImageError(f"is {width}x{height}, its box {_box_text(box)} is far larger")
    x = round((left + right) / 2 - side / 2)
    y = round((top + bottom) / 2 - side / 2)
    square = np.zeros((side, side, 3), np.uint8)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if x1 <= x0 or y1 <= y0:
        raise ImageError(f"is {width}x{height}, its box {_box_text(box)} lies outside")
    square[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    return square


def sharpness(image: UInt8[np.ndarray, "height width 3"]) -> float:
    """The variance of the Laplacian of the grey face at 112x112 pixels; a blurred one is low."""
    small = cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _check_whole(encoded: bytes) -> None:
    """Refuses a JPEG or PNG that ends early: OpenCV would hand back a picture that is part grey."""
    if encoded.startswith(_JPEG):
        if not _jpeg_ends(encoded):
            raise ImageError("is truncated")
    elif encoded.startswith(_PNG):
        _check_chunks(encoded)


def _jpeg_ends(jpeg: bytes) -> bool:
    """Whether the picture's own end marker is there; a telephone may have put a film after it."""
    position = 2
    while position + 4 <= len(jpeg):
        marker, kind, length = struct.unpack(">BBH", jpeg[position : position + 4])
        if marker != 0xFF:  # no segment: the last start and end in what is left decide
            return jpeg.rfind(b"\xff\xd9", position) > jpeg.rfind(b"\xff\xda", position)
        if kind == 0xFF:  # a fill byte
            position += 1
            continue
        if kind == 0xD9:
            return True
        position += 2 + length
        if kind == 0xDA:  # a scan, in which 0xff is always escaped, or a marker to start again
            found = _MARKER.search(jpeg, position)
            if found is None:
                return False
            position = found.start()
    return jpeg[position : position + 2] == b"\xff\xd9"


def _check_chunks(png: bytes) -> None:
    """Compares the checksums of a PNG's chunks, of which libpng complains on stderr only."""
    position, kind = len(_PNG), b""
    while kind != b"IEND":
        header = png[position : position + 8]
        if len(header) < 8:
            raise ImageError("is truncated")
        length, kind = struct.unpack(">I4s", header)
        end = position + 8 + length
        checksum = png[end : end + 4]
        if len(checksum) < 4:
            raise ImageError("is truncated")
        # Lower case marks what a decoder may pass over, such as a date.
        if kind[:1].isupper() and zlib.crc32(png[position + 4 : end]) != int.from_bytes(checksum):
            raise ImageError(f"is damaged (checksum of its chunk {kind.decode('latin-1')})")
        position = end + 4


def _check_size(encoded: bytes) -> None:
    """Refuses a JPEG or PNG that announces more pixels than any photo has."""
    if encoded.startswith(_PNG):
        width, height = struct.unpack(">II", encoded[16:24])
    elif encoded.startswith(_JPEG):
        height, width = _jpeg_size(encoded)
    else:
        return
    if height * width > _MOST_PIXELS:
        raise ImageError(f"announces {width}x{height} pixels, which no photo has")


def _jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(height, width) as the frame's header says, zeros if none is found."""
    position = 2
    while position + 9 <= len(jpeg):
        marker, kind, length = struct.unpack(">BBH", jpeg[position : position + 4])
        if marker != 0xFF:
            break
        if kind == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return struct.unpack(">HH", jpeg[position + 5 : position + 9])
        else:
            position += 2 + length
    return 0, 0


def _has_alpha(encoded: bytes) -> bool:
    if encoded.startswith(_PNG):
        return encoded[25:26] in (b"\x04", b"\x06") or b"tRNS" in encoded[:2048]
    return encoded.startswith((b"RIFF", b"II*\x00", b"MM\x00*"))


def _over_black(image: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    scale = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1.0
    image = image.astype(np.float32) / scale
    rgb = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB) * image[..., 3:]
    return np.rint(rgb * 255).astype(np.uint8)


def _box_text(box: tuple[float, float, float, float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
