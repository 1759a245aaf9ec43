"""Drawings of the report on frames: F1 of each class, reliability, and videos as strips."""

import base64
import html
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from fer_jax.colours import GROUND, INK, LINE, QUIET, rgb

MAIN, SINGLE = "#1f5f8b", "#e0a458"
_STRIP_WIDTH = 900  # pixels; a longer video shows every n-th frame
_SVG = 'font-family="system-ui, sans-serif"'


def f1_drawing(results: Sequence[tuple[str, str, list[dict[str, Any]]]]) -> str:
    """F1 of each class with its interval, one line for each way to predict.

    Args:
        results: name, colour and the classes' figures of each way.

    Returns:
        An SVG.
    """
    classes = [one["name"] for one in results[0][2]]
    left, width, step = 110, 560, 15
    row = len(results) * step + 16
    height = len(classes) * row + 24
    shapes = []
    for tick in np.linspace(0, 1, 6):
        x = left + width * tick
        shapes.append(
            f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 22}" stroke="{LINE}"/>'
            f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle" fill="{QUIET}">{tick:.1f}'
            "</text>"
        )
    for i, name in enumerate(classes):
        top = i * row + 8
        middle = top + len(results) * step / 2 + 4
        shapes.append(
            f'<text x="{left - 12}" y="{middle:.1f}" text-anchor="end" fill="{INK}">'
            f"{html.escape(name)}</text>"
        )
        for k, (_, colour, figures) in enumerate(results):
            one, y = figures[i], top + (k + 0.5) * step
            if one["f1_low"] is not None:
                low, high = (left + width * one[end] for end in ("f1_low", "f1_high"))
                shapes.append(
                    f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{colour}" '
                    'stroke-width="3" stroke-opacity="0.4" stroke-linecap="round"/>'
                )
            x = left + width * one["f1"]
            shapes.append(
                f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="{colour}"/>'
                f'<text x="{left + width + 16 + 46 * k}" y="{middle:.1f}" fill="{colour}">'
                f"{one['f1']:.2f}</text>"
            )
    return _svg(left + width + 120, height, "F1 of each class", shapes)


def reliability_drawing(reliability: dict[str, Any], title: str, side: int = 190) -> str:
    """How often rows of a confidence are right: dots on the diagonal are as sure as they should be.

    Args:
        reliability: bins and error, of metrics.json.
        title: a short line.
        side: of the square, pixels.

    Returns:
        An SVG; the area of a dot is the share of frames in it.
    """
    left, top = 30, 26
    total = max(sum(one["frames"] for one in reliability["bins"]), 1)
    shapes = [
        f'<text x="{left}" y="14" fill="{INK}" font-weight="600">{html.escape(title)}</text>',
        f'<text x="{left + side}" y="14" text-anchor="end" fill="{QUIET}">'
        f"{reliability['error']['value']:.3f}</text>",
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#fbfcfd" '
        f'stroke="{LINE}"/>',
        f'<line x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}" stroke="#cbd2d9"/>',
    ]
    for tick in (0, 0.5, 1):
        x, y = left + side * tick, top + side * (1 - tick)
        shapes.append(
            f'<text x="{x}" y="{top + side + 15}" text-anchor="middle" fill="{QUIET}" '
            f'font-size="11">{tick:g}</text><text x="{left - 6}" y="{y + 4}" text-anchor="end" '
            f'fill="{QUIET}" font-size="11">{tick:g}</text>'
        )
    points = []
    for one in reliability["bins"]:
        x, y = left + side * one["confidence"], top + side * (1 - one["right"])
        radius = max(2.0, 15 * (one["frames"] / total) ** 0.5)
        points.append(f"{x:.1f},{y:.1f}")
        shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{MAIN}" '
            f'fill-opacity="0.55"><title>{one["frames"]:,} frames, sure of '
            f"{one['confidence']:.2f}, right {one['right']:.2f}</title></circle>"
        )
    shapes.append(
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{MAIN}" stroke-opacity="0.5"/>'
    )
    return _svg(left + side + 14, top + side + 22, title, shapes, fixed=True)


def strip_picture(rows: Sequence[np.ndarray], colours: Sequence[str]) -> str:
    """Classes over time, one line of colours above another.

    Args:
        rows: class indices of each frame, -1 for none; all of one length.
        colours: of the classes.

    Returns:
        The address of a PNG that holds itself.
    """
    palette = np.array([rgb(colour) for colour in (*colours, GROUND)], np.uint8)
    frames = len(rows[0])
    shown = np.arange(min(frames, _STRIP_WIDTH)) * frames // min(frames, _STRIP_WIDTH)
    white = np.full((1, len(shown), 3), 255, np.uint8)
    lines = [part for row in rows for part in (*[palette[row[shown]][None]] * 4, white)]
    picture = np.concatenate(lines[:-1])[..., ::-1]
    return data_address(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])


def data_address(png: bytes | np.ndarray) -> str:
    """The address of a picture that holds itself."""
    return "data:image/png;base64," + base64.b64encode(bytes(png)).decode()


def _svg(
    width: float, height: float, label: str, shapes: Sequence[str], *, fixed: bool = False
) -> str:
    size = f'width="{width}" height="{height}"' if fixed else 'width="100%"'
    return (
        f'<svg viewBox="0 0 {width} {height}" {size} font-size="13" {_SVG} role="img" '
        f'aria-label="{html.escape(label)}">{"".join(shapes)}</svg>'
    )
