"""What metrics.json says of frames, in words and tables that read well and render as Markdown."""

from typing import Any

from fer_jax.evaluate.report import (
    calibration_lines,
    covered_lines,
    markdown_table,
    percent,
    taken_for,
    with_interval,
)

_WORST = 10


def frame_report_text(metrics: dict[str, Any]) -> str:
    """The report as text.

    Args:
        metrics: the content of metrics.json, of frames.

    Returns:
        The text, ending in a newline.
    """
    level = percent(metrics["interval"]["level"])
    lines = [f"# {title_of(metrics)}", "", where_of(metrics), "", number_of(metrics), ""]
    lines += markdown_table(*result_rows(metrics))
    lines += ["", *comparison_lines(metrics), "", f"Classes, {name_of(metrics, metrics['rows'])}:"]
    header, rows = class_rows(metrics)
    lines += ["", *markdown_table(header, rows, texts=(0, len(header) - 1)), ""]
    if moved := metrics.get("attribution"):
        lines += [attribution_line(moved), "", *markdown_table(*attribution_rows(moved)), ""]
    if metrics["videos"]:
        lines += ["Videos with the smallest share of right frames:", ""]
        lines += markdown_table(*video_rows(metrics, _WORST), texts=(0, 4))
        lines.append("")
    interval = metrics["interval"]
    lines.append(f"Intervals: {level}, {interval['method']}, {interval['resamples']:,} resamples.")
    notes = [f"- {note}" for note in metrics["notes"]]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def title_of(metrics: dict[str, Any]) -> str:
    """The score that counts, and of what."""
    return f"macro-F1 {with_interval(metrics['macro_f1'])}, {name_of(metrics, metrics['rows'])}"


def name_of(metrics: dict[str, Any], rows: str) -> str:
    """How the report calls single frames and smoothed ones."""
    if rows == "frames":
        return "single frames"
    return f"smoothed by {metrics['smoothing']['kernel']} of {metrics['smoothing']['window']}"


def where_of(metrics: dict[str, Any]) -> str:
    """Whose predictions, on which labels."""
    if "predictions" in metrics:
        source = ", ".join(metrics["predictions"]["paths"])
    else:
        source = metrics["bundle"]["path"] or "a bundle in memory"
    return f"{source} on {metrics['data']['path']}, {metrics['data']['split']}"


def number_of(metrics: dict[str, Any]) -> str:
    """How many frames, and how many of them had to be filled."""
    frames = metrics["frames"]
    text = f"{frames['labelled']:,} labelled frames of {frames['videos']:,} videos"
    if missing := frames["without_prediction"]:
        share = 100 * missing / frames["labelled"]
        text += f", {missing:,} ({share:.1f} %) without a prediction, filled by {metrics['fill']}"
    return text


def result_rows(metrics: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: each way to predict over each choice of frames."""
    header = ("frames scored", "number", "macro-F1", "accuracy", "balanced", "calibration error")
    names = {"all": "all labelled", "observed": "with a prediction"}
    rows = [
        (
            f"{name_of(metrics, way)}, {names[over]}",
            f"{one['frames']:,}",
            *(with_interval(one[k]) for k in ("macro_f1", "accuracy", "balanced_accuracy")),
            with_interval(one["calibration"]["equal_width"]["error"]),
        )
        for way, results in metrics["results"].items()
        for over, one in results.items()
    ]
    return header, rows


def class_rows(metrics: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: each class, with F1 of single frames beside that of smoothed ones."""
    smoothed = metrics["rows"] == "smoothed"
    level = percent(metrics["interval"]["level"])
    header = ("class", "F1", level, *(("single frames",) if smoothed else ()), "precision")
    header += ("recall", "frames", "often taken for")
    single = metrics["results"]["frames"]["all"]["classes"]
    rows = [
        (
            one["name"],
            f"{one['f1']:.3f}",
            "" if one["f1_low"] is None else f"{one['f1_low']:.3f} to {one['f1_high']:.3f}",
            *((f"{single[i]['f1']:.3f}",) if smoothed else ()),
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
            f"{one['frames']:,}",
            taken_for(metrics, i),
        )
        for i, one in enumerate(metrics["classes"])
    ]
    return header, rows


def video_rows(
    metrics: dict[str, Any], number: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: the videos that were labelled worst."""
    rows = [
        (
            one["video"],
            f"{one['accuracy']:.3f}",
            f"{one['frames']:,}",
            f"{one['without_prediction']:,}",
            _mistake(one["most_often"]),
        )
        for one in metrics["videos"][:number]
    ]
    return ("video", "right", "frames", "filled", "most often wrong"), rows


def attribution_line(moved: dict[str, Any]) -> str:
    """How the table of `attribution_rows` is to be read."""
    return (
        f"Which view carried {moved['of']}: the one whose loss (it gives way to the "
        f"{moved['reference']}) takes most from the probability of the choice."
    )


def attribution_rows(
    moved: dict[str, Any],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: of each choice, the share that each view carried, and what it is worth."""
    views = [*moved["change"]]
    header = ("choice", "frames", *(f"by {name}" for name in views), "by neither")
    header += tuple(f"without {name}" for name in views)
    rows = []
    for one in ({"name": "all"} | moved, *moved["classes"]):
        shares = [one["carried"][name] for name in (*views, "none")]
        cells = ["" if share is None else f"{100 * share:.1f} %" for share in shares]
        losses = [one["change"][name] for name in views]
        cells += ["" if loss is None else f"{-loss:+.3f}" for loss in losses]
        rows.append((one["name"], f"{one['frames']:,}", *cells))
    return header, rows


def comparison_lines(metrics: dict[str, Any]) -> list[str]:
    """What smoothing is worth, how another compares, what covered faces and a calibration do."""
    lines = []
    if gain := metrics["smoothing_gain"]:
        lines.append(f"Smoothing changes macro-F1 by {_difference(gain)}.")
    if compared := metrics.get("compared_with"):
        lines += [
            f"Against {compared['name']}, {name_of(metrics, rows)}: macro-F1 differs by "
            f"{_difference(compared[rows])}."
            for rows in metrics["results"]
        ]
    names = {rows: name_of(metrics, rows) for rows in metrics["results"]}
    return [*lines, *covered_lines(metrics, names), *calibration_lines(metrics)]


def _difference(found: dict[str, Any]) -> str:
    return (
        f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}, "
        f"p = {found['p_value']:.2g} by swaps within videos)"
    )


def _mistake(most: dict[str, Any] | None) -> str:
    if most is None:
        return ""
    return f"{most['true']} taken for {most['predicted']}, {most['frames']:,} frames"
