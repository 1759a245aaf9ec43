"""An ablation for people: a table in Markdown and CSV, and a picture."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from fer_jax.atomic import atomic_file

TABLE, CSV, FIGURE = "table.md", "table.csv", "figure.png"

_INK, _QUIET, _FAINT = "#1b2430", "#6b7684", "#e6eaef"
_BASE, _CELL, _APART = "#b4432f", "#7a8794", "#103d5e"
_ENDS = ("value", "low", "high")


def write_tables(document: dict[str, Any], workdir: Path) -> None:
    """Writes table.md, table.csv and figure.png.

    Args:
        document: from `recipes.ablation.run_ablation`.
        workdir: the folder.
    """
    for name, text in ((TABLE, table_text(document)), (CSV, _csv(document))):
        with atomic_file(workdir / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    draw_ablation(workdir / FIGURE, document)


def table_text(document: dict[str, Any]) -> str:
    """The grid in Markdown: scores, classes, costs, commands.

    Args:
        document: from `recipes.ablation.run_ablation`.

    Returns:
        The text, ending in a newline.
    """
    level = f"{100 * document['interval']['level']:g} %"
    seeds = document["seeds"]
    of_seeds = f"; means of {len(seeds)} seeds" if len(seeds) > 1 else ""
    good = [cell for cell in document["cells"] if "error" not in cell]
    lines = [
        "# Ablation",
        "",
        f"{document['frames']:,} labelled faces or frames of {document['videos']} "
        f"{document['unit']}{of_seeds}. Intervals ({level}) are of resampled {document['unit']}; "
        "differences are from the base, on the same resamples. They say nothing of other training "
        "runs.",
        "",
        f"Base: {', '.join(map(' '.join, document['base'].items())) or 'the only cell'}.",
        "",
        "| | macro-F1 | | difference | | parameters | FLOPs | ms | training | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in document["cells"]:
        if "error" in cell:
            error = cell["error"].replace("|", "\\|")
            lines.append(f"| {cell['cell']} | failed: {error} | | | | | | | | |")
            continue
        lines.append(f"| {' | '.join([cell['cell'], *_scores(cell), *_costs_text(cell)])} |")
    lines += ["", f"| F1 | {' | '.join(document['classes'])} |"]
    lines += ["|---" * (len(document["classes"]) + 1) + "|"]
    lines += [
        f"| {cell['cell']} | {' | '.join(f'{f1:.3f}' for f1 in cell['classes_f1'])} |"
        for cell in good
    ]
    lines += ["", *(f"- {note}" for note in document["notes"])] if document["notes"] else []
    filters = [c for c in good if c["smoothing"] == "search"]
    if filters:
        lines += ["", "Filters that the search would choose on all videos:", ""]
        lines += [f"- {cell['cell']}: {', '.join(cell['filters'])}" for cell in filters]
    lines += [
        "",
        "FLOPs: floating-point operations of the forward pass of one face, a multiply-add as two; "
        f"ms: of one face ({', '.join(sorted({c['backend'] for c in good}))}); training: wall time "
        "of all that the cell needs, shared stages included; peak memory: of the host, of the "
        "largest process.",
        "",
        "Each cell by itself, in a fresh folder:",
        "",
    ]
    for cell in document["cells"]:
        lines += [f"- {cell['cell']}", "", f"      {cell['command']}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _scores(cell: dict[str, Any]) -> list[str]:
    f1, apart = cell["macro_f1"], cell.get("difference")
    texts = [f"{f1['value']:.4f}", f"{f1['low']:.4f} to {f1['high']:.4f}"]
    if apart is None:
        return [*texts, "", ""]
    return [*texts, f"{apart['value']:+.4f}", f"{apart['low']:+.4f} to {apart['high']:+.4f}"]


def _costs_text(cell: dict[str, Any]) -> list[str]:
    peak = cell["peak_bytes"]
    return [
        f"{cell['parameters']:,}",
        _short(cell["flops"]),
        f"{cell['milliseconds']:.3g}",
        _duration(cell["seconds"]),
        "" if peak is None else f"{peak / 2**20:,.0f} MiB",
    ]


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _csv(document: dict[str, Any]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    axes = document["axes"]
    figures = ("macro_f1", "difference")
    costs = ("parameters", "flops", "milliseconds", "seconds", "peak_bytes")
    ends = [f"{name}{end}" for name in figures for end in ("", "_low", "_high")]
    classes = [f"f1_{name}" for name in document["classes"]]
    writer.writerow(["cell", *axes, *ends, "accuracy", *classes, *costs, "command", "error"])
    for cell in document["cells"]:
        scores = [(cell.get(name) or {}).get(end, "") for name in figures for end in _ENDS]
        writer.writerow(
            [
                cell["cell"],
                *(cell[axis] for axis in axes),
                *scores,
                cell.get("accuracy", ""),
                *cell.get("classes_f1", [""] * len(classes)),
                *(cell.get(name, "") for name in costs),
                cell["command"],
                cell.get("error", ""),
            ]
        )
    return file.getvalue()


def draw_ablation(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Draws each cell's macro-F1 with its interval, and its difference from the base.

    Args:
        path: of the PNG, written aside and renamed.
        document: from `recipes.ablation.run_ablation`.
    """
    # The object interface: no pyplot, so no window system and no state shared with the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = [cell for cell in document["cells"] if "error" not in cell]
    height = 1.3 + 0.34 * len(cells)
    figure = Figure(figsize=(11.5, height), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    scores, differences = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    base = document["cells"][0]
    for row, cell in enumerate(cells):
        f1, apart = cell["macro_f1"], cell.get("difference")
        told = apart is not None and not apart["low"] <= 0 <= apart["high"]
        colour = _BASE if cell is base else _APART if told else _CELL
        _draw(scores, row, f1, colour)
        if apart is not None:
            _draw(differences, row, apart, colour)
    for axes, at in ((scores, base.get("macro_f1", {}).get("value")), (differences, 0.0)):
        if at is not None:
            axes.axvline(at, color=_BASE, linewidth=0.9, alpha=0.6, zorder=0)
        axes.grid(axis="x", color=_FAINT)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=9, colors=_INK)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_QUIET)
    scores.set_yticks(range(len(cells)), [cell["cell"] for cell in cells])
    scores.invert_yaxis()
    scores.set_title("macro-F1", fontsize=10, color=_INK, loc="left")
    differences.set_title(
        f"difference from the base, on the same {document['unit']}",
        fontsize=10, color=_INK, loc="left",
    )  # fmt: skip
    level = f"{100 * document['interval']['level']:g} %"
    figure.supxlabel(
        f"bars: {level} of resampled {document['unit']}; grey: the difference's bar holds 0",
        fontsize=8, color=_QUIET,
    )  # fmt: skip
    with atomic_file(path) as partial:
        # No version of matplotlib in the file: the same scores give the same bytes.
        figure.savefig(partial, format="png", metadata={"Software": None})


def _draw(axes: Any, row: int, found: dict[str, float], colour: str) -> None:
    axes.plot([found["low"], found["high"]], [row, row], color=colour, linewidth=2.2, alpha=0.55)
    axes.plot(found["value"], row, "o", color=colour, markersize=5.5)
