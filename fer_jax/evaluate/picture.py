"""The confusion matrix as a picture: counts, per cent of each true class, and F1 beside it."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from fer_jax.atomic import atomic_file
from fer_jax.ops.metrics import scores

_INK = "#1b2430"
_SOFT = "#465160"
_QUIET = "#6b7684"
_FAINT = "#c3cad3"
_HIT = "#1f5f8b"
# From paper to deep blue: one hue, monotone in lightness, so that it survives a grey print.
_SCALE = (
    (0.0, "#f7f9fb"),
    (0.1, "#e3edf4"),
    (0.3, "#aed0e6"),
    (0.5, "#7db3d6"),
    (0.6, "#3f86b4"),
    (0.8, "#1f5f8b"),
    (1.0, "#103d5e"),
)
_DARK_FROM = 0.55  # the share from which white reads better than ink


def draw_confusion(
    path: str | os.PathLike[str],
    confusion: Int[np.ndarray, "class class"],
    classes: Sequence[str],
    *,
    title: str,
    subtitle: Sequence[str],
    f1_intervals: Float64[np.ndarray, "class 2"] | None = None,
    unit: str = "images",
) -> None:
    """Draws a confusion matrix and writes it as PNG.

    Each cell says which share of a true class was taken for which class, in whole per cent, and
    the count below it. The colour is the share, so classes of any size compare. Beside each row
    stands its F1 with its interval.

    Args:
        path: the file, written aside and renamed.
        confusion: counts, a row for each true class.
        classes: display names.
        title: one short line.
        subtitle: longer lines, cut short where they do not fit.
        f1_intervals: `[low, high]` of each class.
        unit: what is counted.
    """
    # The object interface: no pyplot, so no window system and no state shared with the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    number = len(classes)
    cell = 0.92  # inches
    left, right, top, bottom = 1.55, 0.35, 1.55 + 0.21 * len(subtitle), 0.55
    strip, gap = 1.9, 0.3
    width = left + number * cell + gap + strip + right
    height = top + number * cell + bottom
    figure = Figure(figsize=(width, height), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    box = (left / width, bottom / height, number * cell / width, number * cell / height)
    matrix = figure.add_axes(box)
    bars = figure.add_axes((box[0] + box[2] + gap / width, box[1], strip / width, box[3]))

    figure.text(0.3 / width, 1 - 0.34 / height, title, size=17, weight="bold", color=_INK, va="top")
    for i, line in enumerate(subtitle):
        y = 1 - (0.74 + 0.21 * i) / height
        line = _shorten(line, int(12 * width))
        figure.text(0.3 / width, y, line, size=10.5, color=_QUIET, va="top")
    _draw_cells(matrix, confusion, classes)
    _draw_bars(bars, confusion, f1_intervals)
    note = f"cells: per cent of the true class, and {unit}"
    figure.text(box[0], 0.2 / height, note, size=9, color=_QUIET, va="center")
    with atomic_file(path) as partial:
        # No version of matplotlib in the file: the same scores give the same bytes.
        figure.savefig(partial, format="png", metadata={"Software": None})


def _draw_cells(axes, confusion: np.ndarray, classes: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    number = len(classes)
    support = confusion.sum(axis=1)
    share = confusion / np.maximum(support, 1)[:, None]
    axes.imshow(
        share, cmap=LinearSegmentedColormap.from_list("share", _SCALE), vmin=0, vmax=1, zorder=0
    )
    for row in range(number):
        for column in range(number):
            count = int(confusion[row, column])
            dark = share[row, column] > _DARK_FROM
            hit = row == column
            if not count:
                zero = "\N{EN DASH}" if not support[row] else "0"
                axes.text(column, row, zero, ha="center", va="center", size=10, color=_FAINT)
                continue
            axes.text(
                column,
                row - 0.1,
                _percent(share[row, column]),
                ha="center",
                va="center",
                size=14 if hit else 12,
                weight="bold" if hit else "normal",
                color="white" if dark else _INK,
            )
            axes.text(
                column,
                row + 0.24,
                f"{count:,}",
                ha="center",
                va="center",
                size=8.5,
                color="#e8f1f7" if dark else _INK if share[row, column] > 0.3 else _SOFT,
            )
    for edge in np.arange(number + 1) - 0.5:
        axes.axhline(edge, color="white", linewidth=1.6, zorder=1)
        axes.axvline(edge, color="white", linewidth=1.6, zorder=1)
    for i in np.flatnonzero(support):
        axes.add_patch(
            Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=_HIT, linewidth=1.5)
        )
    axes.set(xlim=(-0.5, number - 0.5), ylim=(number - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_frame_on(False)
    for i, name in enumerate(classes):
        axes.text(i, -0.62, name, ha="center", va="bottom", size=10.5, color=_INK)
        axes.text(-0.62, i - 0.09, name, ha="right", va="center", size=10.5, color=_INK)
        axes.text(
            -0.62, i + 0.17, f"{support[i]:,}", ha="right", va="center", size=8.5, color=_QUIET
        )
    axes.text(
        (number - 1) / 2, -0.98, "predicted", ha="center", va="bottom", size=10.5, color=_QUIET
    )
    axes.text(-0.62, -0.62, "true", ha="right", va="bottom", size=10.5, color=_QUIET)


def _draw_bars(axes, confusion: np.ndarray, intervals: np.ndarray | None) -> None:
    f1 = scores(confusion).f1
    rows = np.arange(len(f1))
    axes.barh(rows, np.ones_like(f1), height=0.3, color="#eef2f6")
    axes.barh(rows, f1, height=0.3, color="#7fb1d2")
    if intervals is not None:
        axes.hlines(rows, intervals[:, 0], intervals[:, 1], color=_HIT, linewidth=2)
    for row, value in zip(rows, f1, strict=True):
        axes.text(1.06, row, f"{value:.2f}", ha="left", va="center", size=10.5, color=_INK)
    mean = f1.mean()
    axes.axvline(mean, color=_INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.text(0, -0.62, f"F1, mean {mean:.3f}", ha="left", va="bottom", size=10.5, color=_QUIET)
    axes.set(xlim=(0, 1.35), ylim=(len(f1) - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_frame_on(False)


def _shorten(line: str, characters: int) -> str:
    if len(line) <= characters:
        return line
    half = (characters - 1) // 2
    return f"{line[:half]}\N{HORIZONTAL ELLIPSIS}{line[-half:]}"


def _percent(share: float) -> str:
    # What is there is never shown as nothing, and what is not all is never shown as all.
    if share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"
