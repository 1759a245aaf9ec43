"""Draws how pre-training went: the masked loss, and what the frozen features are worth.

    python tools/draw_pretraining.py run/log.jsonl --out pretraining.png

Several logs are drawn together, such as of runs that begin from different weights; each is named
after its folder.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fer_jax.atomic import atomic_file
from fer_jax.errors import FerJaxError

COLOURS = ("#1f5f8b", "#b4432f", "#6a4c93", "#2f7d4f", "#8a6d1d")
INK, QUIET = "#1b2430", "#55606e"
PANELS = (
    ("masked_loss", "masked loss of held-out faces", "mean squared error"),
    ("probe_accuracy", "linear probe on held-out faces", "accuracy"),
    ("knn_accuracy", "20 nearest neighbours", "accuracy"),
)


def read_log(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The evaluations of a run, by epoch; of an epoch that was run twice the last.

    Args:
        path: its log.jsonl.

    Raises:
        FerJaxError: there is none in it.
    """
    found = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row.get("group") == "selection" and "masked_loss" in row:
                found[row["epoch"]] = row
    if not found:
        raise FerJaxError(f"{path}: holds no evaluation of `fer-jax pretrain`")
    return [found[epoch] for epoch in sorted(found)]


def draw(logs: dict[str, Sequence[dict[str, float]]], out: str | os.PathLike[str]) -> None:
    """Writes the picture.

    Args:
        logs: of `read_log`, by name.
        out: the PNG.
    """
    shown = [
        panel for panel in PANELS if any(panel[0] in row for log in logs.values() for row in log)
    ]
    figure = Figure(figsize=(4.2 * len(shown), 3.4), dpi=120, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for axes, (field, title, unit) in zip(
        figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
    ):
        for colour, (name, log) in zip(COLOURS, logs.items(), strict=False):
            rows = [row for row in log if field in row]
            axes.plot(
                [row["epoch"] for row in rows], [row[field] for row in rows],
                color=colour, marker="o", markersize=3, label=name,
            )  # fmt: skip
        _dress(axes, title, unit)
    if len(logs) > 1:
        figure.axes[0].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    canvas.draw()
    with atomic_file(out) as partial:
        figure.savefig(partial, format="png")


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("epoch", fontsize=9, color=QUIET)
    axes.set_ylabel(unit, fontsize=9, color=QUIET)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def main(argv: Sequence[str]) -> int:
    """Draws; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draws how pre-training went.")
    parser.add_argument("logs", metavar="LOG", nargs="+", help="log.jsonl of a run")
    parser.add_argument("--out", required=True, help="the PNG")
    options = parser.parse_args(argv)
    if len(options.logs) > len(COLOURS):
        parser.error(f"at most {len(COLOURS)} logs at once")
    try:
        draw(
            {Path(path).resolve().parent.name: read_log(path) for path in options.logs}, options.out
        )
    except (FerJaxError, OSError, ValueError) as error:
        print(f"draw_pretraining: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
