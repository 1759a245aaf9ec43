"""The window search as a picture: macro-F1 over the window, and what the choice is worth."""

import os
from typing import Any

from fer_jax.atomic import atomic_file

_INK, _QUIET, _FAINT = "#1b2430", "#6b7684", "#e6eaef"
_LEFT_OUT = "#b4432f"
# Told apart by lightness and marker, too: prints may be grey, and eyes differ.
_STYLES = (
    ("#103d5e", "o"),
    ("#2f7f6f", "s"),
    ("#8a6fb0", "^"),
    ("#c98a1b", "D"),
    ("#5b9bd5", "v"),
    ("#7a7a7a", "P"),
)


def draw_search(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Draws the curve of each kernel (and stride), and the gain of each class.

    Args:
        path: of the PNG, written aside and renamed.
        document: from `evaluate.window_search.search_document`.
    """
    # The object interface: no pyplot, so no window system and no state shared with the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 5.2), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    curves, gains = figure.subplots(1, 2, width_ratios=(2.4, 1))
    _draw_curves(curves, document)
    _draw_gains(gains, document)
    with atomic_file(path) as partial:
        # No version of matplotlib in the file: the same scores give the same bytes.
        figure.savefig(partial, format="png", metadata={"Software": None})


def _draw_curves(axes, document: dict[str, Any]) -> None:
    judged, chosen = document["left_out"], document["smoothing"]
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for one in document["grid"][1:]:
        lines.setdefault((one["kernel"], one["stride"]), []).append(
            (one["window"], one["macro_f1"])
        )
    strides = {stride for _, stride in lines}
    axes.axhspan(judged["low"], judged["high"], color=_LEFT_OUT, alpha=0.08, linewidth=0)
    axes.axhline(
        judged["macro_f1"], color=_LEFT_OUT, linewidth=1.4,
        label=f"chosen on other videos: {judged['macro_f1']:.4f}",
    )  # fmt: skip
    plain = document["without"]["macro_f1"]
    axes.axhline(
        plain, color=_QUIET, linewidth=1.2, linestyle=(0, (4, 3)), label=f"no filter: {plain:.4f}"
    )
    for i, ((kernel, stride), points) in enumerate(sorted(lines.items(), key=str)):
        color, marker = _STYLES[i % len(_STYLES)]
        windows, scores = zip(*sorted(points), strict=True)
        name = kernel if len(strides) == 1 else f"{kernel}, every {stride}"
        axes.plot(windows, scores, color=color, marker=marker, markersize=4, label=name, zorder=3)
    if chosen["window"] > 1:
        best = document["chosen_on_all"]["macro_f1"]
        axes.plot(
            chosen["window"], best, "o", markersize=13, markerfacecolor="none",
            markeredgecolor=_INK, markeredgewidth=1.6, zorder=4,
        )  # fmt: skip
        axes.annotate(
            f"{chosen['kernel']} of {chosen['window']}", (chosen["window"], best), (0, 12),
            textcoords="offset points", ha="center", color=_INK, size=10,
        )  # fmt: skip
    axes.set_xscale("log")
    windows = sorted({one["window"] for one in document["grid"][1:]})
    axes.set_xticks(windows, [str(window) for window in windows], size=8.5)
    axes.minorticks_off()
    axes.margins(y=0.12)
    axes.set_xlabel("window, frames", color=_QUIET)
    axes.set_title(
        f"macro-F1 of all {document['videos']} videos by window", loc="left", size=12, color=_INK
    )
    axes.legend(fontsize=8.5, frameon=False, loc="best")
    _quiet(axes)


def _draw_gains(axes, document: dict[str, Any]) -> None:
    classes = document["classes"]
    places = range(len(classes))
    gains = [one["gain"] for one in classes]
    colors = ["#2f7f6f" if gain >= 0 else _LEFT_OUT for gain in gains]
    axes.barh(places, gains, height=0.6, color=colors)
    axes.axvline(0, color=_INK, linewidth=0.8)
    for place, gain in zip(places, gains, strict=True):
        axes.annotate(
            f"{gain:+.3f}", (gain, place), (4 if gain >= 0 else -4, 0), va="center",
            textcoords="offset points", ha="left" if gain >= 0 else "right", size=9, color=_INK,
        )  # fmt: skip
    axes.set_yticks(places, [one["name"] for one in classes])
    axes.invert_yaxis()
    axes.margins(x=0.28)
    axes.set_title("gain in F1, left-out videos", loc="left", size=12, color=_INK)
    _quiet(axes)


def _quiet(axes) -> None:
    axes.grid(color=_FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelcolor=_INK, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
