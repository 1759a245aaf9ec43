"""The doctor's report as one HTML file with its pictures inside, that opens with no network."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.data.affwild2 import LABELS
from fer_jax.data.doctor import Examination
from fer_jax.data.doctor_counts import VideoCheck, percent
from fer_jax.data.doctor_findings import KINDS, SEVERITIES, Finding
from fer_jax.data.doctor_report import MEANINGS, as_dict, by_kind, cell, heading, rows_of, verdict

_INK, _QUIET, _FAINT, _LINE = "#1b2430", "#6b7684", "#9aa5b1", "#e4e7eb"
_COLOUR = {"error": "#b3261e", "warning": "#b26a00", "note": "#52606d"}
_SPLIT_COLOUR = {"train": "#3f86b4", "validation": "#e0a458"}
# In the order of `STATES`; what is neither labelled nor there is the ground.
_STATES = (
    ("labelled, with a picture", (63, 134, 180)),
    ("labelled, no picture", (222, 110, 84)),
    ("a picture, no label", (201, 209, 217)),
    ("cannot be opened", (125, 20, 30)),
)
_GROUND = (240, 242, 244)
_LEAST_SEEN = (0.0, 0.55, 0.0, 1.0)  # so that a short gap in a long video still shows
_MOST_FINDINGS = 8
_MOST_STRIPS = 30
_STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; color: {_INK}; max-width: 1020px; margin: 40px auto;
       padding: 0 24px; background: #fff; }}
h1 {{ font-size: 27px; margin: 0; }} h2 {{ font-size: 19px; margin: 44px 0 10px; }}
h3 {{ font-size: 15px; margin: 0; font-weight: 600; }}
.faint {{ color: {_QUIET}; }} .small {{ font-size: 13px; }} p {{ margin: 6px 0; }}
.verdict {{ font-size: 18px; font-weight: 600; margin: 14px 0 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ padding: 3px 0 3px 22px; border-bottom: 1px solid {_LINE}; text-align: right;
         white-space: nowrap; }}
td:first-child, th:first-child {{ text-align: left; padding-left: 0; }}
th {{ color: {_QUIET}; font-weight: 500; border-bottom-color: #cbd2d9; }}
.share {{ color: {_QUIET}; padding-left: 8px; font-size: 13px; }}
.within {{ padding-left: 16px !important; color: {_QUIET}; }}
.kind {{ border-left: 4px solid; padding: 2px 0 2px 14px; margin: 14px 0; }}
.kind ul {{ margin: 4px 0; padding: 0; list-style: none; }}
.kind li {{ padding: 1px 0; overflow-wrap: anywhere; font-size: 14px; }}
summary {{ cursor: pointer; color: {_QUIET}; font-size: 13px; }}
.strips {{ width: 100%; table-layout: fixed; }} .strips td {{ padding-top: 1px; padding-bottom: 1px;
         font-size: 13px; overflow: hidden; text-overflow: ellipsis; border-bottom: 0; }}
.strips td:last-child, .strips th:last-child {{ width: 56%; text-align: left; }}
.strips td:first-child, .strips th:first-child {{ width: 19%; }}
.strips img {{ width: 100%; height: 11px; display: block; image-rendering: pixelated;
         border-radius: 2px; }}
.key {{ display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin: 0 5px 0 0;
       vertical-align: -1px; }}
.keys span.name {{ margin-right: 20px; }}
"""


def write_page(path: Path, examination: Examination) -> None:
    """Writes the report.

    Args:
        path: the HTML file.
        examination: what was found.
    """
    report = as_dict(examination)
    worst = next((one for one in SEVERITIES if any(True for _ in _of(examination, one))), "")
    colour = _COLOUR.get(worst, "#2f7d4f")
    parts = [
        "<h1>Aff-Wild2, examined</h1>",
        f'<p class="faint small">{html.escape(heading(report))}</p>',
        f'<p class="verdict" style="color:{colour}">{html.escape(verdict(examination))}</p>',
        "<h2>What is there</h2>",
        _split_table(report),
        "<h2>Classes</h2>",
        _histogram(report),
        _weights(report),
    ]
    for severity in SEVERITIES:
        parts.append(_findings(list(_of(examination, severity)), severity))
    parts.append(_strips(examination))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>fer-jax doctor</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
    with atomic_file(path) as partial:
        # A name that is no text, as file systems allow, is shown with question marks.
        partial.write_text(page, encoding="utf-8", errors="replace")


def _of(examination: Examination, severity: str) -> Iterable[Finding]:
    return (one for one in examination.findings if one.severity == severity)


def _split_table(report: dict[str, Any]) -> str:
    splits = report["splits"]
    heads = "".join(f"<th>{name}</th><th></th>" for name in splits)
    rows = []
    for title, count, whole in rows_of(report):
        cells = [cell(split, count, whole) for split in splits.values()]
        if any(number for number, _ in cells):
            tds = "".join(f'<td>{number}</td><td class="share">{s}</td>' for number, s in cells)
            kind = ' class="within"' if whole else ""
            rows.append(f"<tr><td{kind}>{title}</td>{tds}</tr>")
    return f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _histogram(report: dict[str, Any]) -> str:
    """Bars of each class: its share among the labels of a split, with its count."""
    kind = "pictured_of_class" if report["crops"] else "labels_of_class"
    splits = {
        name: report["splits"][name][kind] for name in _SPLIT_COLOUR if name in report["splits"]
    }
    totals = {name: sum(counts.values()) for name, counts in splits.items()}
    most = max(
        (counts[c] / max(totals[name], 1) for name, counts in splits.items() for c in counts),
        default=0,
    )
    if not most:
        return '<p class="faint">There is no label to count.</p>'
    bar, gap, left, width = 13, 14, 92, 640
    row = len(splits) * (bar + 2) + gap
    shapes = []
    for i, name in enumerate(LABELS.classes):
        top = i * row
        middle = top + (row - gap) / 2 + 4
        shapes.append(
            f'<text x="{left - 10}" y="{middle}" text-anchor="end" fill="{_INK}">{name}</text>'
        )
        for k, (split, counts) in enumerate(splits.items()):
            share = counts[name] / max(totals[split], 1)
            y, length = top + k * (bar + 2), width * share / most
            text = f"{counts[name]:,}"
            shapes.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar}" rx="1.5" '
                f'fill="{_SPLIT_COLOUR[split]}"/><text x="{left + length + 7:.1f}" y="{y + 10.5}" '
                f'font-size="11.5" fill="{_INK}">{text}<tspan fill="{_QUIET}" dx="7">'
                f"{percent(counts[name], totals[split])}</tspan></text>"
            )
    height = len(LABELS.classes) * row
    keys = "".join(
        f'<span class="key" style="background:{_SPLIT_COLOUR[name]}"></span>'
        f'<span class="name">{name}, {totals[name]:,}</span>'
        for name in splits
    )
    what = "labels with a picture" if report["crops"] else "labels"
    return (
        f'<p class="small keys">{keys}<span class="faint">{what}, and their share of the split'
        f'</span></p><svg viewBox="0 0 {left + width + 140} {height}" width="100%" font-size="13" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="histogram of the classes">'
        f"{''.join(shapes)}</svg>"
    )


def _weights(report: dict[str, Any]) -> str:
    schemes = {k: v for k, v in report["class_weights"].items() if isinstance(v, dict)}
    schemes.pop("none", None)
    reasons = [v for v in report["class_weights"].values() if isinstance(v, str)]
    if reasons:
        return f'<p class="faint small">No class weights: {html.escape(reasons[0])}</p>'
    heads = "".join(f"<th>{name}</th>" for name in LABELS.classes)
    rows = "".join(
        f"<tr><td>{scheme}</td>"
        + "".join(f"<td>{values[name]:.2f}</td>" for name in LABELS.classes)
        + "</tr>"
        for scheme, values in schemes.items()
    )
    return f'<table class="small"><tr><th>class weights</th>{heads}</tr>{rows}</table>'


def _findings(findings: Sequence[Finding], severity: str) -> str:
    if not findings:
        return ""
    parts = [
        f'<h2 style="color:{_COLOUR[severity]}">{severity.capitalize()}s '
        f'<span class="faint small" style="font-weight:400">{MEANINGS[severity]}</span></h2>'
    ]
    for kind, group in by_kind(findings, severity):
        items = [
            f"<li><b>{html.escape(one.where)}</b> {html.escape(one.message)}</li>" for one in group
        ]
        shown = f"<ul>{''.join(items[:_MOST_FINDINGS])}</ul>"
        if rest := items[_MOST_FINDINGS:]:
            shown += f"<details><summary>{len(rest):,} more</summary><ul>{''.join(rest)}</ul>"
            shown += "</details>"
        parts.append(
            f'<div class="kind" style="border-color:{_COLOUR[severity]}"><h3>{KINDS[kind].title} '
            f'<span class="faint">{len(group):,}</span></h3>'
            f'<p class="faint small">{KINDS[kind].remedy}</p>{shown}</div>'
        )
    return "".join(parts)


def _strips(examination: Examination) -> str:
    keys = "".join(
        f'<span class="key" style="background:rgb{colour}"></span><span class="name">{name}</span>'
        for name, colour in (*_STATES, ("neither", _GROUND))
    )
    parts = [
        "<h2>Frame by frame</h2>",
        f'<p class="small keys">{keys}</p>',
        '<p class="faint small">Each strip is a video from its first frame to its last; '
        "those with most labels that have no picture come first.</p>",
    ]
    for split in ("train", "validation"):
        checks = [check for check in examination.split(split) if check.strip.size]
        checks.sort(key=lambda check: (-_missing(check), check.video))
        if not checks:
            continue
        head = (
            "<tr><th>" + split + "</th><th>labels</th><th>no picture</th><th>first to last frame"
            "</th></tr>"
        )
        rows = [_strip_row(check) for check in checks]
        shown = f'<table class="strips">{head}{"".join(rows[:_MOST_STRIPS])}</table>'
        if rest := rows[_MOST_STRIPS:]:
            shown += (
                f"<details><summary>{len(rest):,} more videos of {split}</summary>"
                f'<table class="strips">{head}{"".join(rest)}</table></details>'
            )
        parts.append(f'<div style="margin-bottom:22px">{shown}</div>')
    return "".join(parts) if len(parts) > 3 else ""


def _strip_row(check: VideoCheck) -> str:
    name = html.escape(check.video)
    missing = percent(check.labels_without_image, check.labelled) if check.labelled else ""
    return (
        f'<tr><td title="{name}">{name}</td><td>{check.labelled:,}</td><td>{missing}</td>'
        f'<td><img alt="" src="{_strip_picture(check.strip)}"></td></tr>'
    )


def _missing(check: VideoCheck) -> float:
    return check.labels_without_image / max(check.labelled, 1)


def _strip_picture(strip: np.ndarray) -> str:
    shares = strip / 255
    shares = np.where(shares > 0, np.maximum(shares, _LEAST_SEEN), 0)
    ground = np.maximum(1 - shares.sum(axis=1, keepdims=True), 0)
    colours = np.array([colour for _, colour in _STATES])
    total = shares.sum(axis=1, keepdims=True) + ground
    rgb = (shares @ colours + ground * np.array(_GROUND)) / total
    row = np.rint(rgb).astype(np.uint8)[None, :, ::-1]
    encoded = cv2.imencode(".png", row, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(encoded).decode()
