"""Summaries as a picture: how long each person showed each expression."""

import os
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.colours import GROUND, INK, QUIET, colours_of, text_colour
from fer_jax.report.summary import WHOLE, Summary
from fer_jax.report.words import clock, short_name

_MOST = 40
_LEAST_NAMED = 0.06  # the share from which a part has room for its number
_NAME = 34  # characters


def draw_summaries(path: str | os.PathLike[str], summaries: Sequence[Summary]) -> None:
    """Draws a bar for each person of each video and segment, its parts the shares of time.

    Args:
        path: of the PNG, written aside and renamed.
        summaries: of one set of classes, at least one; the first 40 are drawn.
    """
    # The object interface: no pyplot, so no window system and no state shared with the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = summaries[:_MOST]
    row, top, bottom = 0.34, 0.95, 0.35  # inches
    width, height = 10.0, top + row * len(shown) + bottom
    left, right = 2.9, 1.25
    figure = Figure(figsize=(width, height), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, row * len(shown) / height)
    )
    categories = shown[0].categories
    colours = [*colours_of(shown[0].classes), GROUND]
    _draw_bars(axes, np.array([one.share for one in shown]), colours)
    for place, one in enumerate(shown):
        axes.text(-0.015, place, _name(one, shown), ha="right", va="center", size=9, color=INK)
        axes.text(
            1.015, place, f"{_length(one)}, {100 * one.seen:.0f} %", ha="left", va="center",
            size=8.5, color=QUIET,
        )  # fmt: skip
    axes.text(1.015, -0.75, "length, face seen", ha="left", va="center", size=8.5, color=QUIET)
    title = "Share of time with each expression"
    figure.text(0.15 / width, 1 - 0.2 / height, title, size=14, weight="bold", color=INK, va="top")
    _draw_keys(figure, categories, colours, 1 - 0.6 / height)
    if len(summaries) > _MOST:
        more = f"and {len(summaries) - _MOST:,} more rows in summary.csv"
        figure.text(left / width, 0.12 / height, more, size=9, color=QUIET, va="center")
    with atomic_file(path) as partial:
        # No version of matplotlib in the file: the same summaries give the same bytes.
        figure.savefig(partial, format="png", metadata={"Software": None})


def _draw_bars(axes, shares: np.ndarray, colours: Sequence[str]) -> None:
    places = np.arange(len(shares))
    begins = np.cumsum(shares, axis=1) - shares
    for category, colour in enumerate(colours):
        share = shares[:, category]
        axes.barh(
            places, share, left=begins[:, category], height=0.74, color=colour,
            edgecolor="white", linewidth=0.8,
        )  # fmt: skip
        for place in np.flatnonzero(share >= _LEAST_NAMED):
            axes.text(
                begins[place, category] + share[place] / 2, place, f"{100 * share[place]:.0f}",
                ha="center", va="center", size=8.5, color=text_colour(colour),
            )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_frame_on(False)


def _draw_keys(figure, categories: Sequence[str], colours: Sequence[str], y: float) -> None:
    from matplotlib.patches import Patch

    # matplotlib takes a leading underscore for a name that is not to be shown.
    keys = [
        Patch(
            facecolor=colour,
            edgecolor="#c3cad3",
            linewidth=0.5,
            label=f"\u200b{short_name(name, 20)}",
        )
        for name, colour in zip(categories, colours, strict=True)
    ]
    figure.legend(
        handles=keys, loc="center left", bbox_to_anchor=(0.005, y), ncols=len(keys), fontsize=8.5,
        frameon=False, handlelength=1, handleheight=1, handletextpad=0.4, columnspacing=1.1,
        labelcolor=INK,
    )  # fmt: skip


def _name(one: Summary, shown: Sequence[Summary]) -> str:
    """Video, face and segment, as far as there are several."""
    faces = {other.face_id for other in shown if other.video == one.video}
    more = [f"face {one.face_id}"] if len(faces) > 1 else []
    more += [one.segment] if one.segment != WHOLE else []
    rest = "".join(f", {text}" for text in more)
    return short_name(PurePath(one.video).name, max(8, _NAME - len(rest))) + short_name(
        rest, _NAME - 8
    )


def _length(one: Summary) -> str:
    return clock(one.length) if one.unit == "s" else f"{one.length:,.0f} frames"
