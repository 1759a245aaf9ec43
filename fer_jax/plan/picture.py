"""A plan as a picture: what fills the memory of a chip, and what its time goes into."""

import os
from collections.abc import Mapping
from typing import Any

from fer_jax.atomic import atomic_file

_INK, _QUIET, _FAINT = "#1b2430", "#6b7684", "#e6eaef"
_LIMIT = "#b4432f"
# Told apart by lightness, too: prints may be grey, and eyes differ.
_MEMORY = (
    ("params", "parameters", "#103d5e"),
    ("optimizer", "optimiser", "#2f7f6f"),
    ("batch", "batch", "#c98a1b"),
    ("padding", "padding of arguments", "#8a6fb0"),
    ("temporaries", "temporaries", "#5b9bd5"),
    ("outputs", "other outputs", "#b9c3cf"),
    ("code", "program", "#7a7a7a"),
    ("unknown", "does not fit", "#e8b4a8"),
)
_TIME = (
    ("compute", "compute", "#103d5e"),
    ("memory", "memory", "#2f7f6f"),
    ("links", "links between chips", "#c98a1b"),
    ("network", "network between slices", "#8a6fb0"),
)
_GIB = 2**30


def draw_plan(path: str | os.PathLike[str], plan: Mapping[str, Any]) -> None:
    """Draws the memory of a chip against what it has, and the least times of a step.

    Args:
        path: of the PNG, written aside and renamed.
        plan: from `run.make_plan`, with `config`.
    """
    # The object interface: no pyplot, so no window system and no state shared with the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    programs = [
        (f"{step['name']}\n{title}", step[name])
        for step in plan["steps"]
        for name, title in (("train", "training"), ("evaluate", "evaluation"))
    ]
    height = 2.4 + 0.8 * len(programs)
    figure = Figure(figsize=(12, height), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    slices = f"{plan['slices']} x " if plan["slices"] > 1 else ""
    figure.suptitle(
        f"{plan['config']} on {slices}{plan['topology']}",
        color=_INK,
        fontsize=12,
        x=0.01,
        ha="left",
    )
    memory, time = figure.subplots(1, 2, sharey=True)
    _draw_memory(memory, programs, plan["chip"]["memory"])
    _draw_time(time, programs)
    memory.set_yticks(range(len(programs)), [name for name, _ in programs])
    memory.set_ylim(len(programs) - 0.5, -0.5)
    with atomic_file(path) as partial:
        # No version of matplotlib in the file: the same plan gives the same bytes.
        figure.savefig(partial, format="png", metadata={"Software": None})


def memory_parts(one: Mapping[str, Any]) -> dict[str, int]:
    """Bytes that the memory of a chip is filled with, by the names of the picture."""
    parts = dict(one["arithmetic"])
    if "memory" not in one:
        return parts | {"unknown": max(0, one["needed"] - sum(parts.values()))}
    memory = one["memory"]
    parts |= {
        "temporaries": memory["temporaries"],
        "outputs": memory["outputs"] - memory["aliased"],
        "code": memory["code"],
    }
    return parts | {"padding": max(0, one["needed"] - sum(parts.values()))}


def _draw_memory(axes, programs: list[tuple[str, Mapping[str, Any]]], limit: int) -> None:
    parts = [memory_parts(one) for _, one in programs]
    lefts = [0.0] * len(parts)
    for name, title, color in _MEMORY:
        sizes = [one.get(name, 0) / _GIB for one in parts]
        if max(sizes) < 0.002 * limit / _GIB and name not in ("params", "optimizer", "batch"):
            lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
            continue
        axes.barh(range(len(parts)), sizes, left=lefts, color=color, height=0.55, label=title)
        lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
    axes.axvline(limit / _GIB, color=_LIMIT, linewidth=1.6, label=f"HBM: {limit / _GIB:.0f} GiB")
    for row, (left, (_, one)) in enumerate(zip(lefts, programs, strict=True)):
        note = f" {left:.2f} GiB" + ("" if one["fits"] else ", does not fit")
        axes.text(left, row, note, va="center", color=_INK, fontsize=8)
    axes.set_xlim(0, 1.25 * max(limit / _GIB, *lefts))
    _style(axes, "memory of one chip, GiB")


def _draw_time(axes, programs: list[tuple[str, Mapping[str, Any]]]) -> None:
    rooflines = [one.get("roofline") for _, one in programs]
    shown = [each for each in _TIME if any(line and line[each[0]] for line in rooflines)]
    height = 0.7 / max(1, len(shown))
    longest = max([line["step"] for line in rooflines if line], default=0.0)
    for i, (name, title, color) in enumerate(shown):
        places = [row - 0.35 + (i + 0.5) * height for row in range(len(programs))]
        values = [1000 * (line[name] or 0) if line else 0 for line in rooflines]
        axes.barh(places, values, height=0.9 * height, color=color, label=title)
        for place, value, line in zip(places, values, rooflines, strict=True):
            if line:
                bound = ", bounds" if line["bound"] == name else ""
                axes.text(value, place, f" {_short(value)} ms{bound}", va="center", fontsize=7.5)
    axes.set_xlim(0, 1300 * longest or 1)
    _style(axes, "least time of a step by what a chip is busy with, ms")


def _short(value: float) -> str:
    return f"{value:.3g}" if value >= 0.001 or not value else "< 0.001"


def _style(axes, label: str) -> None:
    axes.set_xlabel(label, color=_QUIET)
    axes.grid(axis="x", color=_FAINT, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelcolor=_INK, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
