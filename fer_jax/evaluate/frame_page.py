"""The report on frames as one HTML file with its pictures inside, that opens with no network."""

import html
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.colours import GROUND, INK, LINE, QUIET, colours_of
from fer_jax.evaluate.frame_drawings import (
    MAIN,
    SINGLE,
    data_address,
    f1_drawing,
    reliability_drawing,
    strip_picture,
)
from fer_jax.evaluate.frame_report import (
    attribution_line,
    attribution_rows,
    class_rows,
    comparison_lines,
    name_of,
    number_of,
    result_rows,
    title_of,
    video_rows,
    where_of,
)
from fer_jax.evaluate.frame_scores import Predicted
from fer_jax.evaluate.frames import Timeline
from fer_jax.evaluate.picture import draw_confusion
from fer_jax.evaluate.report import percent

_MOST_STRIPS = 24
_MOST_VIDEOS = 12
_STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; color: {INK}; max-width: 1020px; margin: 40px auto;
       padding: 0 24px; background: #fff; }}
h1 {{ font-size: 27px; margin: 0; }} h2 {{ font-size: 19px; margin: 44px 0 10px; }}
.faint {{ color: {QUIET}; }} .small {{ font-size: 13px; }} p {{ margin: 6px 0; }}
p, li {{ overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }}
td, th {{ padding: 3px 0 3px 20px; border-bottom: 1px solid {LINE}; text-align: right;
         white-space: nowrap; }}
td.text, th.text {{ text-align: left; }} td:first-child, th:first-child {{ padding-left: 0; }}
th {{ color: {QUIET}; font-weight: 500; border-bottom-color: #cbd2d9; }}
.confusion {{ width: 100%; height: auto; }}
.key {{ display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin: 0 5px 0 0;
       vertical-align: -1px; }}
.keys span.name {{ margin-right: 18px; }}
.many svg {{ margin: 0 6px 14px 0; }}
.strip {{ margin: 0 0 14px; }}
.strip img {{ width: 100%; height: 46px; display: block; image-rendering: pixelated; }}
"""


def page(metrics: dict[str, Any], joined: Timeline, ways: Sequence[Predicted]) -> str:
    """The page.

    Args:
        metrics: the content of metrics.json, of frames.
        joined: predictions and labels.
        ways: single frames, and smoothed if wished.

    Returns:
        HTML.
    """
    header, rows = class_rows(metrics)
    notes = [f"<li>{html.escape(note)}</li>" for note in metrics["notes"]]
    interval = metrics["interval"]
    parts = [
        f"<h1>{html.escape(title_of(metrics))}</h1>",
        f'<p class="faint">{html.escape(where_of(metrics))}</p>',
        f"<p>{html.escape(number_of(metrics))}</p>",
        f"<ul>{''.join(notes)}</ul>" if notes else "",
        "<h2>Scores</h2>",
        _table(*result_rows(metrics)),
        *(f"<p>{html.escape(line)}</p>" for line in comparison_lines(metrics)),
        f'<p class="faint small">Intervals: {percent(interval["level"])}, {interval["method"]}, '
        f"{interval['resamples']:,} resamples.</p>",
        "<h2>Classes</h2>",
        _f1(metrics),
        _table(header, rows, texts=(0, len(header) - 1)),
        "<h2>What was taken for what</h2>",
        _confusion(metrics),
        "<h2>How far confidence can be believed</h2>",
        _reliability(metrics),
        *_attribution(metrics),
        "<h2>Videos</h2>",
        _table(*video_rows(metrics, _MOST_VIDEOS), texts=(0, 4)),
        _strips(metrics, joined, ways),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>fer-jax evaluate</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)
) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        kinds = (' class="text"' if i in texts else "" for i in range(len(cells)))
        filled = (
            f"<{tag}{kind}>{_cell(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{''.join(filled)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{line(header, "th")}{body}</table></div>'


def _cell(text: str) -> str:
    """A score has its interval below it, else the row is wider than the page."""
    value, bracket, interval = text.partition(" (")
    if not bracket or not interval[:1].isdigit() or "to" not in interval:
        return html.escape(text)
    return f'{html.escape(value)}<br><span class="faint small">{html.escape(interval[:-1])}</span>'


def _ways(metrics: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, colour and scores over all labelled frames; the way that counts first."""
    names = [metrics["rows"], *(rows for rows in metrics["results"] if rows != metrics["rows"])]
    return [
        (name_of(metrics, rows), colour, metrics["results"][rows]["all"])
        for rows, colour in zip(names, (MAIN, SINGLE), strict=False)
    ]


def _f1(metrics: dict[str, Any]) -> str:
    ways = _ways(metrics)
    keys = _keys([(name, colour) for name, colour, _ in ways]) if len(ways) > 1 else ""
    drawing = f1_drawing([(name, colour, one["classes"]) for name, colour, one in ways])
    return f'{keys}<div style="max-width:800px">{drawing}</div>'


def _confusion(metrics: dict[str, Any]) -> str:
    classes = metrics["classes"]
    ends = [[one["f1_low"], one["f1_high"]] for one in classes]
    known = all(one["f1_low"] is not None for one in classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "confusion.png"
        draw_confusion(
            path,
            np.array(metrics["confusion"]["counts"]),
            [one["name"] for one in classes],
            title=title_of(metrics),
            subtitle=(),
            f1_intervals=np.array(ends) if known else None,
            unit="frames",
        )
        address = data_address(path.read_bytes())
    return f'<img class="confusion" alt="confusion matrix" src="{address}">'


def _reliability(metrics: dict[str, Any]) -> str:
    name, _, scored = _ways(metrics)[0]
    found = scored["calibration"]
    overall = [
        reliability_drawing(found["equal_width"], "choice, bins of equal width", 260),
        reliability_drawing(found["equal_mass"], "choice, bins of equal mass", 260),
    ]
    single = [reliability_drawing(one, one["name"], 190) for one in found["classes"]]
    return (
        f'<p class="faint small">{html.escape(name)}. Across: the probability that was given; up: '
        "how often it was right; the number is the calibration error. Below the diagonal it was "
        f'too sure. The area of a dot is its share of the frames.</p><div class="many">'
        f"{''.join(overall)}</div>"
        f'<div class="many">{"".join(single)}</div>'
    )


def _attribution(metrics: dict[str, Any]) -> list[str]:
    if (moved := metrics.get("attribution")) is None:
        return []
    return [
        "<h2>Which view moved the frames</h2>",
        _table(*attribution_rows(moved)),
        f'<p class="faint small">{html.escape(attribution_line(moved))}</p>',
    ]


def _strips(metrics: dict[str, Any], joined: Timeline, ways: Sequence[Predicted]) -> str:
    colours = colours_of(joined.classes)
    number = {name: i for i, name in enumerate(joined.videos)}
    lines = ["the labels", *(name_of(metrics, way.rows) for way in ways)]
    choices = [way.probabilities.argmax(axis=1) for way in ways]
    single = np.where(joined.observed > 0, choices[0], -1)
    rows = [joined.label, single, *choices[1:]]
    strips = []
    for one in metrics["videos"][:_MOST_STRIPS]:
        own = joined.segment == number[one["video"]]
        picture = strip_picture([row[own] for row in rows], colours)
        strips.append(
            f'<div class="strip"><p class="small"><b>{html.escape(one["video"])}</b> '
            f'<span class="faint">{percent(one["accuracy"])} right of {one["frames"]:,}</span></p>'
            f'<img alt="" src="{picture}"></div>'
        )
    keys = _keys([*zip(joined.classes, colours, strict=True), ("none", GROUND)])
    return (
        f'<p style="margin-top:22px" class="small faint">From the first frame to the last; from '
        f"above: {html.escape(', '.join(lines))}.</p>{keys}{''.join(strips)}"
    )


def _keys(names: Sequence[tuple[str, str]]) -> str:
    keys = (
        f'<span class="key" style="background:{colour}"></span>'
        f'<span class="name">{html.escape(name)}</span>'
        for name, colour in names
    )
    return f'<p class="small keys">{"".join(keys)}</p>'
