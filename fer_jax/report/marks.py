"""What is drawn on a frame: a box around each face, its label, and a bar for each expression."""

import dataclasses
import functools
import os
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from fer_jax.colours import GROUND, INK, colours_of, rgb, text_colour
from fer_jax.predict.table import PredictionTable

_TEXT_SHARE = 0.035  # of the frame's shorter side
_SMALLEST_TEXT = 11  # pixels: what can be read at all
_MOST_BARS = 4  # faces with bars; of the others only box and label are drawn
_PANEL, _OPACITY = rgb("#f6f8fa"), 0.85  # light: the expressions' colours are darker than it
_TRACK = rgb("#cdd5de")
_FAR = 2**14  # pixels: what OpenCV can still draw to

_Image = UInt8[np.ndarray, "height width 3"]
_Box = Float64[np.ndarray, "4"]  # left, top, width, height


@dataclasses.dataclass(frozen=True)
class _Style:
    """Sizes in pixels, in proportion to the frame."""

    text: int
    small: int
    line: int
    pad: int

    @classmethod
    def of(cls, height: int, width: int) -> "_Style":
        text = max(_SMALLEST_TEXT, round(_TEXT_SHARE * min(height, width)))
        return cls(text, max(9, round(0.8 * text)), max(2, round(text / 8)), max(2, text // 4))


def draw_marks(
    image: _Image, table: PredictionTable, rows: Sequence[int], *, numbered: bool = False
) -> None:
    """Draws what a table says of one frame onto it.

    Text and lines grow with the frame, so that they can be read on 240 lines and on 4K. Bars are
    drawn of the four largest faces. A row with a label but without a box, whose frame was filled
    in, is named in the corner.

    Args:
        image: RGB; changed in place.
        table: predictions.
        rows: those of this frame.
        numbered: whether each face's number is shown.
    """
    style = _Style.of(*image.shape[:2])
    boxed = [row for row in rows if np.isfinite(table.box[row]).all()]
    boxed.sort(key=lambda row: -table.box[row, 2] * table.box[row, 3])
    colours = [*colours_of(table.classes), GROUND]
    for row in boxed[:_MOST_BARS]:
        if np.isfinite(table.prob[row]).all():
            _draw_bars(image, table.box[row], table.classes, table.prob[row], colours, style)
    for row in reversed(boxed):  # the largest face's on top
        colour = colours[table.label[row]]
        _draw_box(image, table.box[row], colour, style)
        who = [str(table.face_id[row])] if numbered else []
        if words := who + _words(table, row):
            _draw_tag(image, table.box[row], words, colour, style)
    corner = 0
    for row in rows:
        if row not in boxed and table.label[row] >= 0:
            words = [*_words(table, row), "(filled in)"]
            where = np.array([style.pad, corner, 0.0, 0.0])
            corner += _draw_tag(image, where, words, colours[table.label[row]], style, inside=True)


def _words(table: PredictionTable, row: int) -> list[str]:
    if table.label[row] < 0:
        return []
    return [table.classes[table.label[row]], f"{table.confidence[row]:.2f}"]


def _draw_box(image: _Image, box: _Box, colour: str, style: _Style) -> None:
    left, top, width, height = (float(side) for side in box)
    ends = np.clip([left, top, left + width, top + height], -_FAR, _FAR)
    left, top, right, bottom = np.rint(ends).astype(int).tolist()
    corners = (left, top), (right, bottom)
    # Light around dark or dark around light, so that it is seen on any ground.
    cv2.rectangle(image, *corners, rgb(text_colour(colour)), 2 * style.line)
    cv2.rectangle(image, *corners, rgb(colour), style.line)


def _draw_tag(
    image: _Image, box: _Box, words: Sequence[str], colour: str, style: _Style, *,
    inside: bool = False,
) -> int:  # fmt: skip
    """Above the box, within the frame; gives its height."""
    masks = [_text(word, style.text) for word in words]  # few, so that they are made only once
    space = style.text // 3
    height = masks[0].shape[0] + 2 * style.pad
    width = sum(mask.shape[1] + space for mask in masks) - space + 2 * style.pad
    left = max(0, min(round(float(box[0])), image.shape[1] - width))
    top = round(float(box[1])) - (0 if inside else height)
    top = max(0, min(top, image.shape[0] - height))
    _fill(image, (left, top, width, height), rgb(colour), 1.0)
    for mask in masks:
        _paint(image, mask, left + style.pad, top + style.pad, rgb(text_colour(colour)))
        left += mask.shape[1] + space
    return height


def _draw_bars(
    image: _Image,
    box: _Box,
    classes: Sequence[str],
    prob: Float32[np.ndarray, "classes"],
    colours: Sequence[str],
    style: _Style,
) -> None:
    """A panel beside the box: to its right, or to its left where there is more room."""
    names = [_text(name, style.small) for name in classes]
    wide = max(name.shape[1] for name in names)
    bar, row = 4 * style.small, round(1.35 * style.small)
    width = wide + bar + 3 * style.pad
    height = row * len(names) + 2 * style.pad
    left, top, box_width, _ = (round(float(side)) for side in box)
    beside = left + box_width + style.pad
    if beside + width > image.shape[1] and left > image.shape[1] - left - box_width:
        beside = left - style.pad - width
    beside = max(0, min(beside, image.shape[1] - width))
    top = max(0, min(top, image.shape[0] - height))
    _fill(image, (beside, top, width, height), _PANEL, _OPACITY)
    for i, name in enumerate(names):
        y = top + style.pad + i * row
        _paint(image, name, beside + style.pad, y + (row - name.shape[0]) // 2, rgb(INK))
        x, thick = beside + wide + 2 * style.pad, max(2, round(0.7 * row))
        y += (row - thick) // 2
        _fill(image, (x, y, bar, thick), _TRACK, 1.0)
        _fill(image, (x, y, round(bar * float(prob[i])), thick), rgb(colours[i]), 1.0)


def _fill(
    image: _Image, box: tuple[int, int, int, int], colour: Sequence[int], opacity: float
) -> None:
    left, top, width, height = box
    region = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if opacity == 1:
        region[:] = colour
    else:
        region[:] = np.rint(region * (1 - opacity) + np.array(colour) * opacity)


def _paint(image: _Image, mask: np.ndarray, left: int, top: int, colour: Sequence[int]) -> None:
    """Text, cut where it leaves the frame."""
    region = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    share = mask[: region.shape[0], : region.shape[1], None] / np.float32(255)
    region[:] = np.rint(region * (1 - share) + np.array(colour) * share)


@functools.lru_cache(maxsize=1024)
def _text(words: str, size: int) -> np.ndarray:
    """How much of each pixel is covered by words, all as high as any word of this size."""
    from PIL import Image, ImageDraw

    font = _font(size)
    words = words.encode("utf-8", "replace").decode().replace("\n", " ")
    ascent, descent = font.getmetrics()
    picture = Image.new("L", (max(1, round(font.getlength(words))), ascent + descent))
    ImageDraw.Draw(picture).text((0, 0), words, fill=255, font=font)
    return np.asarray(picture)


@functools.cache
def _font(size: int):
    # OpenCV's own letters are lines without any beyond ASCII; matplotlib brings a font.
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(os.path.join(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
