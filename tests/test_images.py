import io

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_jax.data.images import (
    ImageError,
    cut_square,
    decode_image,
    encode_image,
    is_lossless,
    sharpness,
)


def _encode(image: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth, so that JPEG keeps it, with three unlike channels and no symmetry."""
    rows, columns = np.mgrid[0:40, 0:60]
    return np.stack([rows * 6, columns * 4, 255 - rows * 3], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff"])
def test_lossless_formats_come_back_exactly_in_rgb(picture, kind):
    np.testing.assert_array_equal(decode_image(_encode(picture, kind)), picture)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_formats_are_as_pillow_reads_them(picture, kind):
    encoded = _encode(picture, kind, quality=95)
    pillow = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), int)
    # Decoders differ by up to 2 levels (measured); swapped channels by more than 100.
    assert np.abs(decode_image(encoded).astype(int) - pillow).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _encode(picture, "jpeg", quality=100, subsampling=0, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    decoded = decode_image(encoded)
    assert decoded.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
    assert np.abs(decoded.astype(int) - np.asarray(upright, int)).max() <= 4


def test_grey_palette_and_sixteen_bits_become_rgb(picture):
    grey = picture[..., 0]
    repeated = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(decode_image(_encode(grey, "png")), repeated)
    np.testing.assert_array_equal(
        decode_image(_encode(grey.astype(np.uint16) * 257, "png")), repeated
    )
    palette = Image.fromarray(picture).quantize(16)
    file = io.BytesIO()
    palette.save(file, "png")
    np.testing.assert_array_equal(decode_image(file.getvalue()), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparent_pixels_are_laid_over_black(picture, kind):
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:20], alpha[20:30] = 0, 128
    encoded = _encode(
        np.dstack([picture, alpha]),
        kind,
        **({"lossless": True, "exact": True} if kind == "webp" else {}),
    )
    decoded = decode_image(encoded)
    assert decoded[:20].max() == 0
    expected = picture[20:30] * (128 / 255)
    assert np.abs(decoded[20:30] - expected).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(decoded[30:], picture[30:])


def test_what_is_no_image_is_refused(picture):
    jpeg, png = _encode(picture, "jpeg"), _encode(picture, "png")
    with pytest.raises(ImageError, match="is empty"):
        decode_image(b"")
    with pytest.raises(ImageError, match="not an image"):
        decode_image(b"path,label\n")
    for encoded in (jpeg[: len(jpeg) * 3 // 4], jpeg[:-2], png[: len(png) // 2], png[:-8]):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(encoded)
    for encoded in (jpeg[:100], png[:20]):
        with pytest.raises(ImageError):
            decode_image(encoded)


def test_a_damaged_png_is_refused(picture):
    png = bytearray(_encode(picture, "png"))
    png[len(png) // 2] ^= 1
    with pytest.raises(ImageError, match=r"damaged .checksum of its chunk IDAT"):
        decode_image(bytes(png))


def test_a_whole_thumbnail_does_not_hide_a_truncated_jpeg(picture):
    whole = _encode(picture, "jpeg", quality=95)
    thumbnail = _encode(picture[:8, :8], "jpeg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert decode_image(with_thumbnail).shape == picture.shape
    with pytest.raises(ImageError, match="truncated"):
        decode_image(with_thumbnail[: -len(whole) // 3])


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("restart", [0, 2])
def test_a_film_after_a_jpeg_is_passed_over(picture, progressive, restart):
    """As telephones store it: whatever bytes a film has, they say nothing of the picture."""
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    whole = cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()
    film = b"\x00\x00\x00\x18ftypmp42" + b"\xff\xda\x00\x08" * 9
    np.testing.assert_array_equal(decode_image(whole + film), decode_image(whole))
    for encoded in (whole[: len(whole) * 2 // 3], whole[:-2], whole[:-1]):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(encoded)


def test_encoding_goes_both_ways(picture):
    np.testing.assert_array_equal(decode_image(encode_image(picture, lossless=True)), picture)
    jpeg = encode_image(picture, lossless=False)
    assert np.abs(decode_image(jpeg).astype(int) - picture).mean() < 2
    assert is_lossless(encode_image(picture, lossless=True))
    assert not is_lossless(jpeg)


def test_the_square_is_pillows_crop(picture):
    # Box 20x10 about (30, 20), margin 1.5: side 30 about the same centre.
    square = cut_square(picture, (20.0, 15.0, 40.0, 25.0), 1.5)
    expected = np.asarray(Image.fromarray(picture).crop((15, 5, 45, 35)))
    np.testing.assert_array_equal(square, expected)


def test_outside_of_the_picture_is_black(picture):
    square = cut_square(picture, (-10.0, -10.0, 10.0, 10.0), 2.0)
    expected = np.asarray(Image.fromarray(picture).crop((-20, -20, 20, 20)))
    np.testing.assert_array_equal(square, expected)
    assert square[:20].max() == 0
    assert square[20:, 20:].max() > 0


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((10, 10, 10, 20), "empty box"),
        ((20, 10, 10, 20), "empty box"),
        ((70, 10, 80, 20), "lies outside"),
        ((0, -30, 10, -20), "lies outside"),
        ((-500, -500, 500, 500), "far larger"),
    ],
)
def test_impossible_boxes_are_refused(picture, box, reason):
    with pytest.raises(ImageError, match=reason):
        cut_square(picture, tuple(float(edge) for edge in box), 1.2)


def test_a_blurred_face_is_less_sharp(picture):
    import cv2

    noisy = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert sharpness(cv2.GaussianBlur(noisy, (0, 0), 2)) < 0.01 * sharpness(noisy)
