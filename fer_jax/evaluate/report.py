"""What metrics.json says, in words and as a table: to be printed, and to be read as Markdown."""

from collections.abc import Mapping, Sequence
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
    further = [
        *_confidence_lines(metrics),
        *_compared_lines(metrics),
        *covered_lines(metrics),
        *calibration_lines(metrics),
    ]
    lines += ["", *further] if further else []
    lines += ["", f"Intervals: {percent(interval['level'])}, {interval['method']}."]
    notes = [f"- {note}" for note in metrics["notes"]]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def _confidence_lines(metrics: dict[str, Any]) -> list[str]:
    """How far confidence can be believed, and what the surest images score."""
    if not (found := metrics.get("confidence")):
        return []
    surest = ", ".join(
        f"{percent(one['coverage'])}: {with_interval(one | {'value': one['accuracy']})}"
        for one in found["kept"][1:]
    )
    return [
        f"{found['note']} Calibration error {found['calibration_error']:.3f}. Accuracy of the "
        f"surest {surest}."
    ]


def _compared_lines(metrics: dict[str, Any]) -> list[str]:
    """How another bundle does on the same images."""
    if not (compared := metrics.get("compared_with")):
        return []
    found = compared["images"]
    return [
        f"Against {compared['name']}: macro-F1 differs by {found['difference']:+.3f} "
        f"({found['low']:+.3f} to {found['high']:+.3f}, p = {found['p_value']:.2g} by swaps)."
    ]


def covered_lines(metrics: dict[str, Any], names: Mapping[str, str] | None = None) -> list[str]:
    """What is left of the score where a region of each face is covered; `names` of the ways."""
    lines = []
    for one in metrics.get("covered", ()):
        for rows, score in one["scores"].items():
            way = f", {names[rows]}" if names else ""
            ends = ""
            if score["low"] is not None:
                ends = f" ({score['low']:+.3f} to {score['high']:+.3f}, p = {score['p_value']:.2g})"
            lines.append(
                f"With {one['region'].replace('+', ' and ')} covered{way}: macro-F1 "
                f"{score['macro_f1']:.3f}, {score['difference']:+.3f} against whole faces{ends}."
            )
    return lines


def calibration_lines(metrics: dict[str, Any]) -> list[str]:
    """What a calibration does, if one was fitted."""
    if not (fitted := metrics.get("fitted_calibration")):
        return []
    where = f", stored in {fitted['stored_in']}" if "stored_in" in fitted else ""
    left_out = fitted["after_left_out"]
    honest = "" if left_out is None else f" ({left_out:.3f} where it was not fitted)"
    return [
        f"Calibration, {fitted['calibration']['kind']}{where}: error {fitted['before']:.3f} "
        f"before, {fitted['after']:.3f} after{honest}."
    ]


def title_of(metrics: dict[str, Any]) -> str:
    """The score that counts."""
    return f"macro-F1 {with_interval(metrics['macro_f1'])}"


def where_of(metrics: dict[str, Any]) -> str:
    """Which bundle, on which data."""
    data = metrics["data"]
    bundle = metrics["bundle"]["path"] or "a bundle in memory"
    return f"{bundle} on {data['path']}, {data['split']}"


def number_of(metrics: dict[str, Any]) -> str:
    """How many images, and the other scores."""
    return (
        f"{metrics['images']['scored']:,} images, "
        f"accuracy {with_interval(metrics['accuracy'])}, "
        f"balanced accuracy {with_interval(metrics['balanced_accuracy'])}"
    )


def _table(metrics: dict[str, Any]) -> list[str]:
    level = percent(metrics["interval"]["level"])
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
            taken_for(metrics, i),
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
    return markdown_table(header, rows, texts=(0, len(header) - 1))


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int] = (0,)
) -> list[str]:
    """Lines of a table that reads well on a terminal too.

    Args:
        header: of the columns.
        rows: their cells.
        texts: the columns that go to the left; numbers go to the right.

    Returns:
        The lines.

    Example:
        >>> for line in markdown_table(("class", "F1"), [("Fear", "0.5")]):
        ...     print(line)
        | class |  F1 |
        |-------|----:|
        | Fear  | 0.5 |
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    rule = [
        "-" * (width + 2) if i in texts else "-" * (width + 1) + ":"
        for i, width in enumerate(widths)
    ]
    lines = [_row(header, widths, texts), f"|{'|'.join(rule)}|"]
    return lines + [_row(row, widths, texts) for row in rows]


def _row(cells: Sequence[str], widths: list[int], left: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if i in left else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def taken_for(metrics: dict[str, Any], true: int) -> str:
    """What a class is most often mistaken for, and how often."""
    counts = metrics["confusion"]["counts"][true]
    wrong = {i: count for i, count in enumerate(counts) if i != true and count}
    if not wrong:
        return ""
    most = max(wrong, key=wrong.__getitem__)
    return f"{metrics['classes'][most]['name']} ({percent(wrong[most] / sum(counts))})"


def with_interval(score: dict[str, float | None]) -> str:
    """A score and the ends of its interval, where there is one."""
    if score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def percent(share: float) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f} %"
