"""A picture of what cleaning leaves out: a few faces of each reason, to be looked at."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS = 10
_ROWS = 2
SHOWN = COLUMNS * _ROWS  # of each reason
_INCH = 1.05


def write_contact_sheet(
    path: Path,
    title: str,
    groups: Sequence[tuple[str, Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"] | None]]]],
) -> None:
    """Draws thumbnails in groups.

    Args:
        path: the PNG file to write.
        title: above everything.
        groups: (heading, [(caption, RGB picture, or None if it cannot be decoded), ...]), at most
            `SHOWN` pictures of each are drawn.
    """
    rows = [-(-min(len(pictures), SHOWN) // COLUMNS) for _, pictures in groups]
    lines = textwrap.wrap(title, 100)
    inches = 0.25 * len(lines) + 0.2 + sum(0.35 + 1.25 * _INCH * count for count in rows)
    with matplotlib.rc_context({"font.family": "sans-serif", "text.parse_math": False}):
        font = font_manager.findfont(font_manager.FontProperties())
        glyphs = font_manager.get_font(font).get_charmap()
        figure = Figure(figsize=(COLUMNS * _INCH + 0.4, inches), dpi=110)
        FigureCanvasAgg(figure)
        width, height = figure.get_size_inches()
        y = height - 0.15
        for line in lines:
            figure.text(0.2 / width, y / height, line, fontsize=11, va="top", weight="bold")
            y -= 0.25
        for (heading, pictures), count in zip(groups, rows, strict=True):
            figure.text(0.2 / width, (y - 0.08) / height, heading, fontsize=10, va="top")
            y -= 0.35
            for i, (caption, picture) in enumerate(pictures[:SHOWN]):
                left = 0.2 + (i % COLUMNS) * _INCH
                bottom = y - (i // COLUMNS + 1) * 1.25 * _INCH + 0.25 * _INCH
                box = (left / width, bottom / height, 0.95 * _INCH / width, 0.95 * _INCH / height)
                _draw(figure.add_axes(box), _shown(caption, glyphs), picture)
            y -= count * 1.25 * _INCH
        figure.savefig(path)


def _draw(axes, caption: str, picture: np.ndarray | None) -> None:
    if picture is None:
        axes.set_facecolor("0.9")
        axes.text(0.5, 0.5, "?", ha="center", va="center", fontsize=18, color="0.5")
    else:
        axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(caption, fontsize=4.5, labelpad=2)


def _shown(caption: str, glyphs: Mapping[int, int]) -> str:
    """The end of a caption; what the font has no sign for becomes U+FFFD."""
    caption = caption if len(caption) <= 24 else f"…{caption[-23:]}"
    return "".join(sign if ord(sign) in glyphs else "\ufffd" for sign in caption)
