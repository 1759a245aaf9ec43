"""Draws docs/images/two_views.png: the two views of a face, and two ways to fuse them.

    python tools/draw_method.py

The face is drawn, and cut by the functions that cut every face. The same version of matplotlib
gives the same bytes.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from fer_jax.atomic import atomic_file
from fer_jax.data.face_drawing.features import draw_face
from fer_jax.data.face_drawing.parameters import Pose, Scene
from fer_jax.data.synthetic import sample_expression, synthetic_identity
from fer_jax.ops.views import EYES, MOUTH, cut_view, view_images_host

OUT = Path(__file__).parent.parent / "docs" / "images" / "two_views.png"
WIDTH, HEIGHT = 11.6, 7.95  # inches, which are the unit of every place below
DPI = 120
SIZE = 224  # pixels of a view; the face is drawn as large
GRID = 14  # patches along a side
INK, QUIET, PAPER, LINE = "#1b2430", "#55606e", "#f3f7fb", "#8b96a3"
MAIN, AUX, BOTH = "#1f5f8b", "#b4432f", "#6a4c93"


def draw(path: str | os.PathLike[str]) -> None:
    """Writes the picture.

    Args:
        path: of the PNG, written aside and renamed.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    _draw_views(axes)
    _draw_entry(axes)
    _draw_token(axes)
    canvas.draw()
    # Six bits a channel: as good to look at, and a third smaller.
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(pixels & 0xFC | pixels >> 6)
    with atomic_file(path) as partial:
        picture.save(partial, format="png", optimize=True)


def _face() -> np.ndarray:
    expression = sample_expression("Happiness", np.random.default_rng(15))
    person, rng = synthetic_identity(0, 15), np.random.default_rng(0)
    return draw_face(person, expression, Pose(), Scene(), rng, SIZE)


def _draw_views(axes: Axes) -> None:
    face = _face()
    x, y, side = 0.3, 4.95, 2.1
    _title(axes, 0.3, 7.6, "Two views of one aligned face")
    _picture(axes, face, x, y, side, side)
    for left, top, right, bottom in (EYES, MOUTH):
        corner = (x + left / 100 * side, y + side - bottom / 100 * side)
        size = ((right - left) / 100 * side, (bottom - top) / 100 * side)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=AUX, linewidth=2.2))
    _label(axes, x + side / 2, y - 0.2, "aligned face, $w \\times h$", color=INK)
    _label(axes, x + side / 2, y - 0.45, "eyes $(0.2w, 0.35h)$ to $(0.8w, 0.55h)$", size=9.5)
    _label(axes, x + side / 2, y - 0.68, "mouth $(0.2w, 0.7h)$ to $(0.8w, 0.9h)$", size=9.5)

    rows = {"main": (6.1, MAIN), "aux": (4.35, AUX)}
    view = {"main": "main", "aux": "eyes_mouth"}
    for name, (bottom, color) in rows.items():
        middle = bottom + 0.65
        images = view_images_host(face, view[name], SIZE, "bicubic_antialias")
        _picture(axes, np.clip(images, 0, 255).astype(np.uint8), 4.65, bottom, 1.3, 1.3, color)
        _patches(axes, 4.65, bottom, 1.3)
        _arrow(axes, (5.95, middle), (6.45, middle))
        _box(axes, 6.45, middle - 0.42, 1.4, 0.84, f"ViT-B/16\n{name} encoder", color)
        _arrow(axes, (7.85, middle + 0.22), (8.3, middle + 0.22))
        _arrow(axes, (7.85, middle - 0.27), (8.3, middle - 0.27))
        _strip(axes, 8.35, middle + 0.13, 0.95, 0.18, color)
        _label(axes, 9.45, middle + 0.22, f"pooled, $f_{{{name}}}$: 768", ha="left")
        _map(axes, 8.35, middle - 0.5, 0.46, color)
        _label(axes, 8.95, middle - 0.27, r"patch map: $14 \times 14 \times 768$", ha="left")
    _label(axes, 5.3, 7.55, rf"main view, ${SIZE} \times {SIZE}$", color=MAIN)
    _label(axes, 5.3, 5.8, rf"auxiliary view, ${SIZE} \times {SIZE}$", color=AUX)

    _arrow(axes, (2.4, 6.5), (4.6, 6.75))
    cut = cut_view(face, "eyes_mouth")
    wide, high = 1.05, 1.05 * cut.shape[0] / cut.shape[1]
    _picture(axes, cut, 2.95, 5.0 - high / 2, wide, high, AUX)
    _arrow(axes, (2.4, 5.45), (2.95, 5.2))
    _arrow(axes, (4.0, 5.0), (4.6, 5.0))
    _label(axes, 3.48, 4.47, "cut and stacked,", size=9.5)
    _label(axes, 3.48, 4.25, "$0.6w \\times 0.4h$", size=9.5)


def _draw_entry(axes: Axes) -> None:
    _panel(axes, 0.2, 0.2, 5.35, 3.45)
    _title(axes, 0.4, 3.38, "entry")
    _label(axes, 1.05, 3.37, "of the ABAW6 entry's code, on pooled features", ha="left")
    top, middle, bottom = 2.45, 1.55, 0.65
    for y, name, letter, number, color in (
        (top, "main", "a", 1, MAIN),
        (bottom, "aux", "b", 2, AUX),
    ):
        _strip(axes, 0.4, y - 0.09, 0.62, 0.18, color)
        _label(axes, 0.71, y - 0.27, f"$f_{{{name}}}$", color=color, size=11)
        _arrow(axes, (1.04, y), (1.24, y))
        _box(axes, 1.24, y - 0.2, 0.46, 0.4, f"$W_{number}$", color)
        _arrow(axes, (1.7, y), (1.95, y))
        _node(axes, 2.1, y, f"${letter}$", color)
        _arrow(axes, (2.12, y + (0.16 if y < middle else -0.16)), (2.32, middle + (
            -0.2 if y < middle else 0.2)))  # fmt: skip
        _arrow(axes, (2.25, y), (3.1, y))
    _box(axes, 2.12, middle - 0.2, 0.46, 0.4, "$W_k$", BOTH)
    _arrow(axes, (2.58, middle), (3.1, middle))
    _label(axes, 2.83, middle + 0.13, "$k$", color=BOTH, size=11)
    _box(axes, 3.1, 0.4, 0.98, 2.3, "", INK)
    for y, name, color in ((top, "value", MAIN), (middle, "key", BOTH), (bottom, "query", AUX)):
        _label(axes, 3.18, y, name, ha="left", color=color)
    _label(axes, 3.59, 2.0, "attention of\nnumbers", size=9.5)
    _label(axes, 3.59, 1.1, "1024 tokens\nof width 1", size=9.5)
    _arrow(axes, (4.08, middle), (4.3, middle))
    _node(axes, 4.45, middle, "+", INK)
    axes.plot((2.1, 2.1, 4.45), (top + 0.15, 2.95, 2.95), color=LINE, linewidth=1.4)
    _arrow(axes, (4.45, 2.95), (4.45, middle + 0.15))
    _label(axes, 3.4, 3.07, "skip", size=9.5)
    _arrow(axes, (4.6, middle), (4.78, middle))
    _box(axes, 4.78, middle - 0.45, 0.62, 0.9, "1024\n→ 512\n→ 8", INK)
    _label(axes, 5.09, middle - 0.62, "8 logits", color=INK)


def _draw_token(axes: Axes) -> None:
    _panel(axes, 5.75, 0.2, 5.65, 3.45)
    _title(axes, 5.95, 3.38, "token")
    _label(axes, 6.65, 3.37, "our interpretation of the paper, on patch maps", ha="left")
    middle = 1.7
    for y, color in ((1.85, MAIN), (0.95, AUX)):
        _map(axes, 5.98, y, 0.6, color)
    _label(axes, 6.28, 0.66, "with their\nembeddings", size=9.5)
    _arrow(axes, (6.6, middle), (6.87, middle))
    for x, lines, name in (
        (6.87, "self-\nattention", "all tokens\nof both views"),
        (8.34, "local\ngates", "$3 \\times 3$ places\nof one map"),
    ):
        _box(axes, x, middle - 0.45, 0.92, 0.9, lines, BOTH)
        _label(axes, x + 0.46, middle - 0.8, name, size=9.5)
        _arrow(axes, (x + 0.92, middle), (x + 1.07, middle))
        _node(axes, x + 1.21, middle, "+", INK)
        start = x - 0.13
        axes.plot((start, start, x + 1.21), (middle, 2.6, 2.6), color=LINE, linewidth=1.4)
        _arrow(axes, (x + 1.21, 2.6), (x + 1.21, middle + 0.15))
        _label(axes, x + 0.5, 2.72, "skip", size=9.5)
        _arrow(axes, (x + 1.35, middle), (x + 1.5, middle))
    _box(axes, 9.82, middle - 0.45, 0.78, 0.9, "mean\nconcat\nupdown", INK)
    _label(axes, 10.21, middle - 0.75, "merge, by\none of these", size=9.5)
    _arrow(axes, (10.6, middle), (10.73, middle))
    _box(axes, 10.73, middle - 0.45, 0.55, 0.9, "mean\nnorm\nlinear", INK)
    _label(axes, 10.98, middle - 0.62, "8 logits", color=INK)


def _title(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="left", va="center", size=12.5, weight="bold", color=INK)


def _label(
    axes: Axes, x: float, y: float, text: str, *, size=10.5, color=QUIET, ha="center"
) -> None:
    axes.text(x, y, text, ha=ha, va="center", size=size, color=color, zorder=5)


def _panel(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=PAPER, edgecolor="#d5dbe2", linewidth=1,
    )  # fmt: skip
    axes.add_patch(shape)


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str
) -> None:
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.07",
        facecolor="white", edgecolor=color, linewidth=1.6, zorder=3,
    )  # fmt: skip
    axes.add_patch(shape)
    _label(axes, x + width / 2, y + height / 2, text, color=INK)


def _node(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.plot(
        x, y, "o", markersize=20, markerfacecolor="white", markeredgecolor=color,
        markeredgewidth=1.6, zorder=4,
    )  # fmt: skip
    _label(axes, x, y, text, color=color, size=11.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": LINE, "linewidth": 1.4, "mutation_scale": 11}
    axes.annotate("", end, start, arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=2)


def _picture(
    axes: Axes, image: np.ndarray, x: float, y: float, width: float, height: float,
    color: str | None = None,
) -> None:  # fmt: skip
    axes.imshow(image, extent=(x, x + width, y, y + height), interpolation="antialiased")
    # imshow takes the axes for those of a picture.
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="auto")
    if color:
        frame = Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=1.6)
        axes.add_patch(frame)


def _patches(axes: Axes, x: float, y: float, side: float) -> None:
    """The grid of patches over a view."""
    for i in range(1, GRID):
        at = i / GRID * side
        axes.plot((x + at, x + at), (y, y + side), color="white", linewidth=0.5, alpha=0.45)
        axes.plot((x, x + side), (y + at, y + at), color="white", linewidth=0.5, alpha=0.45)


def _strip(axes: Axes, x: float, y: float, width: float, height: float, color: str) -> None:
    """A vector: cells of different strength."""
    cells = round(width / height * 1.6)
    shades = np.random.default_rng(1).uniform(0.15, 0.9, cells)
    for i, shade in enumerate(shades):
        corner = (x + i * width / cells, y)
        axes.add_patch(Rectangle(corner, width / cells, height, color=color, alpha=shade, lw=0))
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=color, linewidth=1))


def _map(axes: Axes, x: float, y: float, side: float, color: str) -> None:
    """A map of patches."""
    cells, step = 7, side / 7
    shades = np.random.default_rng(2).uniform(0.15, 0.9, (cells, cells))
    for (i, j), shade in np.ndenumerate(shades):
        corner = (x + i * step, y + j * step)
        axes.add_patch(Rectangle(corner, step, step, color=color, alpha=shade, lw=0))
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=color, linewidth=1))


def main(arguments: list[str] | None = None) -> int:
    """Writes the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draws the two views and their fusion.")
    parser.add_argument("--out", default=str(OUT), help=f"the PNG to write ({OUT.name} of docs)")
    path = Path(parser.parse_args(arguments).out)
    draw(path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
