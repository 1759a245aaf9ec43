"""What metrics.json says, in words and as a table: to be printed, and to be read as Markdown."""

from typing import Any


def report_text(metrics: dict[str, Any]) -> str:
    """The report as text that reads well on a terminal and renders as Markdown.

    Args:
        metrics: the content of metrics.json.

    Returns:
        The text, ending in a newline.
    """
    lines = [f"# {title_of(metrics)}", "", where_of(metrics), "", number_of(metrics), ""]
    lines += _table(metrics)
    interval = metrics["interval"]
    lines += ["", f"Intervals: {_percent(interval['level'])}, {interval['method']}."]
    notes = [f"- {note}" for note in metrics["notes"]]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def title_of(metrics: dict[str, Any]) -> str:
    """The score that counts."""
    return f"macro-F1 {_with_interval(metrics['macro_f1'])}"


def where_of(metrics: dict[str, Any]) -> str:
    """Which bundle, on which data."""
    data = metrics["data"]
    bundle = metrics["bundle"]["path"] or "a bundle in memory"
    return f"{bundle} on {data['path']}, {data['split']}"


def number_of(metrics: dict[str, Any]) -> str:
    """How many images, and the other scores."""
    return (
        f"{metrics['images']['scored']:,} images, "
        f"accuracy {_with_interval(metrics['accuracy'])}, "
        f"balanced accuracy {_with_interval(metrics['balanced_accuracy'])}"
    )


def _table(metrics: dict[str, Any]) -> list[str]:
    level = _percent(metrics["interval"]["level"])
    header = ("class", "F1", level, "precision", "recall", "images", "often taken for")
    classes = metrics["classes"]
    rows = [
        (
            one["name"],
            f"{one['f1']:.3f}",
            f"{one['f1_low']:.3f} to {one['f1_high']:.3f}",
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
            f"{one['images']:,}",
            _taken_for(metrics, i),
        )
        for i, one in enumerate(classes)
    ]
    macro = metrics["macro_f1"]
    rows.append(
        (
            "mean",
            f"{macro['value']:.3f}",
            f"{macro['low']:.3f} to {macro['high']:.3f}",
            f"{sum(one['precision'] for one in classes) / len(classes):.3f}",
            f"{sum(one['recall'] for one in classes) / len(classes):.3f}",
            f"{metrics['images']['scored']:,}",
            "",
        )
    )
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    left = (0, len(header) - 1)  # texts to the left, numbers to the right
    rule = [
        "-" * (width + 2) if i in left else "-" * (width + 1) + ":"
        for i, width in enumerate(widths)
    ]
    lines = [_row(header, widths, left), f"|{'|'.join(rule)}|"]
    return lines + [_row(row, widths, left) for row in rows]


def _row(cells: tuple[str, ...], widths: list[int], left: tuple[int, ...]) -> str:
    padded = (
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def _taken_for(metrics: dict[str, Any], true: int) -> str:
    counts = metrics["confusion"]["counts"][true]
    wrong = {i: count for i, count in enumerate(counts) if i != true and count}
    if not wrong:
        return ""
    most = max(wrong, key=wrong.__getitem__)
    return f"{metrics['classes'][most]['name']} ({_percent(wrong[most] / sum(counts))})"


def _with_interval(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
