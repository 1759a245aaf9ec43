"""The report on one video as one HTML file with its pictures inside, that opens with no network."""

import base64
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fer_jax import __version__
from fer_jax.atomic import atomic_file
from fer_jax.colours import GROUND, INK, LINE, QUIET, colours_of
from fer_jax.evaluate.frame_report import attribution_line, attribution_rows
from fer_jax.predict.table import PredictionTable
from fer_jax.report.moments import best_moments, thumbnails
from fer_jax.report.people import Person, VideoTime
from fer_jax.report.summary import Summary, summarize
from fer_jax.report.timeline import longest, only_video, timeline_png
from fer_jax.report.words import clock

_MOST_STRETCHES = 200
# Nothing may be loaded, whatever a name in the table says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = f"""
:root {{ color-scheme: light dark; --ink: {INK}; --quiet: {QUIET}; --line: {LINE}; --page: #fff;
        --track: {GROUND}; --edge: transparent; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8ecf1; --quiet: #9aa7b5; --line: #333d49; --page: #151a21; --track: #262e38;
          --edge: #7d8a98; }}
}}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 860px; margin: 36px auto; padding: 0 20px; }}
h1 {{ font-size: 25px; margin: 0; line-height: 1.25; }}
h2 {{ font-size: 18px; margin: 38px 0 8px; }}
h3 {{ font-size: 15px; margin: 20px 0 4px; font-weight: 600; }}
p {{ margin: 5px 0; }} h1, p, td, figcaption {{ overflow-wrap: anywhere; }}
.faint {{ color: var(--quiet); }} .small {{ font-size: 13px; }}
.timeline {{ width: 100%; height: auto; display: block; border-radius: 6px; margin-top: 18px; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }}
td, th {{ padding: 3px 0 3px 18px; border-bottom: 1px solid var(--line); text-align: right; }}
td.text, th.text {{ text-align: left; }} td.name {{ white-space: nowrap; }}
td:first-child, th:first-child {{ padding-left: 0; }}
th {{ color: var(--quiet); font-weight: 500; white-space: nowrap; }}
.key {{ display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 7px;
       border: 1px solid var(--edge); vertical-align: -1px; }}
.bar {{ width: 120px; height: 12px; background: var(--track); border-radius: 2px; }}
.bar div {{ height: 12px; border-radius: 2px; outline: 1px solid var(--edge);
           outline-offset: -1px; }}
.moments {{ display: flex; flex-wrap: wrap; gap: 14px; margin-top: 10px; }}
figure {{ margin: 0; width: 144px; }} figcaption {{ font-size: 13px; margin-top: 4px; }}
figure img {{ width: 144px; height: 144px; object-fit: cover; border-radius: 6px; display: block; }}
summary {{ cursor: pointer; }}
"""


def write_report(
    table: PredictionTable,
    out: str | os.PathLike[str],
    *,
    video: str | os.PathLike[str] | None = None,
    faces: bool = True,
    about: Mapping[str, Any] | None = None,
    views: dict[str, Any] | None = None,
) -> None:
    """Writes the report on one video as one HTML file, which loads nothing.

    Args:
        table: predictions of one video.
        out: the file, written aside and renamed.
        video: the video, for a picture of each expression; none leaves those out.
        faces: False leaves every picture of a face out: the video is not even opened.
        about: what was run, by name: the bundle, the smoothing, versions; shown as it is.
        views: which view spoke for the choices, of `report.beside.views_of`.

    Raises:
        FerJaxError: the table is empty or of several videos, or the video cannot be read.
    """
    time, people = only_video(table)
    shown = {one.face_id for one in longest(time, people)}
    summaries = [one for one in summarize(table) if one.face_id in shown]
    parts = [
        f"<h1>{_text(PurePath(time.video).name)}</h1>",
        f'<p class="faint small">{_text(time.video)}</p>',
        f"<p>{_text(_facts(table, time, people))}</p>",
        _picture(timeline_png(table, title=False), "png", "timeline", "probabilities over time"),
        "<h2>Expressions</h2>",
        *(_expressions(one, len(people)) for one in summaries),
        _more(len(people) - len(shown)),
        *_moments(table, time, video if faces else None),
        "" if faces else '<p class="faint small">Pictures of faces are left out.</p>',
        *_views(views),
        *_filled(table, time, people),
        "<h2>What was run</h2>",
        _rows({**(about or {}), "fer_jax": __version__, "rows": f"{len(table):,}"}),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(PurePath(time.video).name)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
    with atomic_file(out) as partial:
        partial.write_text(page, encoding="utf-8")


def _text(value: Any) -> str:
    # A file name may hold bytes that are no text, which a page cannot.
    return html.escape(str(value).encode("utf-8", "replace").decode())


def _picture(content: bytes, kind: str, name: str, words: str) -> str:
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img class="{name}" alt="{_text(words)}" src="{address}">'


def _facts(table: PredictionTable, time: VideoTime, people: Sequence[Person]) -> str:
    lasts = np.diff(time.edges)
    faces = sum(one.face_id >= 0 for one in people)
    seen = np.zeros(len(lasts), bool)
    found = table.status != "no_face"
    seen[np.searchsorted(time.frame, table.frame[found])] = True
    share = lasts[seen].sum() / lasts.sum()
    length = f"{clock(lasts.sum())} long, " if time.unit == "s" else ""
    words = f"{length}{len(lasts):,} frames, "
    if not faces:
        return words + "no face."
    words += f"{faces} faces, at least one" if faces > 1 else "1 face,"
    return words + f" in view for {_percent(share)} of the time."


def _percent(share: float) -> str:
    """Whole per cent; what is there is never shown as nothing, nor what is not all as all."""
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 - 1e-9 else f"{100 * share:.0f} %"


def _expressions(one: Summary, people: int) -> str:
    def lasting(length: float) -> str:
        return f"{length:.1f} s" if one.unit == "s" else f"{length:,.0f}"

    label, length = one.episodes.label, one.episodes.length
    rows = []
    for i, (name, colour) in enumerate(
        zip(one.categories, [*colours_of(one.classes), "var(--quiet)"], strict=True)
    ):
        own = length[label == i]
        unknown = i == len(one.classes)
        if unknown and not len(own):
            continue
        prob = "" if unknown or np.isnan(one.prob[i]) else f"{one.prob[i]:.2f}"
        lengths = [lasting(own.mean()), lasting(own.max())] if len(own) else ["", ""]
        cells = [prob, f"{len(own):,}", *lengths]
        rows.append(
            f'<tr><td class="text name"><span class="key" style="background:{colour}"></span>'
            f"{_text(name)}</td><td>{_text(_percent(one.share[i]))}</td>"
            f'<td><div class="bar"><div style="width:{100 * one.share[i]:.2f}%;'
            f'background:{colour}"></div></div></td>'
            + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    who = f"Face {one.face_id}: in" if people > 1 else "In"
    words = f"{who} view for {_percent(one.seen)} of the time"
    if one.filled:
        words += f", filled in for {_percent(one.filled)}"
    if one.filled_no_face:
        words += f", {_percent(one.filled_no_face)} without a face"
    words += "."
    heads = ("of the time", "", "mean probability", "episodes", "mean length", "longest")
    head = '<th class="text"></th>' + "".join(f"<th>{head}</th>" for head in heads)
    return (
        f"<h3>{_text(words)}</h3>"
        f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _more(number: int) -> str:
    if number <= 0:
        return ""
    return (
        f'<p class="faint small">And {number} more, seen for less time; '
        "<code>fer-jax summarize</code> lists all.</p>"
    )


def _moments(
    table: PredictionTable, time: VideoTime, video: str | os.PathLike[str] | None
) -> Iterable[str]:
    moments = best_moments(table)
    if video is None or not moments:
        return
    yield "<h2>Most confident moments</h2>"
    figures = []
    for one, picture in zip(moments, thumbnails(Path(video), moments), strict=True):
        name = _text(table.classes[one.label])
        when = clock(one.time_s) if time.unit == "s" else f"frame {one.frame:,}"
        shown = _picture(picture, "jpeg", "face", table.classes[one.label]) if picture else ""
        figures.append(
            f"<figure>{shown}<figcaption><b>{name}</b> {one.confidence:.2f}<br>"
            f'<span class="faint">{when}, face {one.face_id}</span></figcaption></figure>'
        )
    yield f'<div class="moments">{"".join(figures)}</div>'


def _views(views: dict[str, Any] | None) -> Iterable[str]:
    """Which view carried the choices."""
    if views is None:
        return
    header, rows = attribution_rows(views)

    def line(cells: Sequence[str], tag: str) -> str:
        first, *others = (_text(cell) for cell in cells)
        numbers = "".join(f"<{tag}>{cell}</{tag}>" for cell in others)
        return f'<tr><{tag} class="text">{first}</{tag}>{numbers}</tr>'

    seen = [row for row in rows if row[1] != "0"]
    lines = line(header, "th") + "".join(line(row, "td") for row in seen)
    yield "<h2>Which view spoke for it</h2>"
    yield f'<div class="wide"><table>{lines}</table></div>'
    yield f'<p class="faint small">{_text(attribution_line(views))}</p>'


def _filled(table: PredictionTable, time: VideoTime, people: Sequence[Person]) -> Iterable[str]:
    """Stretches of frames whose probabilities were filled in."""
    rows, number = [], 0
    for person in people:
        how = table.fill[person.rows]
        known = (how != "none") & (table.label[person.rows] >= 0)
        number += int(known.sum())
        code = np.where(known, np.unique(how, return_inverse=True)[1] + 1, 0)
        # A stretch ends where its way of filling does, and where frames are left out.
        cuts = np.flatnonzero((np.diff(code) != 0) | (np.diff(person.place) != 1)) + 1
        begins, ends = np.append(0, cuts), np.append(cuts, len(code)) - 1
        for begin, end in zip(begins, ends, strict=True):
            if code[begin]:
                places = person.place[[begin, end]]
                rows.append((time.frame[places].tolist(), places, how[begin], person.face_id))
    yield "<h2>Frames that were filled in</h2>"
    if not rows:
        yield "<p>None: every label is of a frame whose face was found and looked at.</p>"
        return
    rows.sort(key=lambda row: row[0])
    lines = []
    for (first, last), places, how, face in rows[:_MOST_STRETCHES]:
        frames = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        times = f"{clock(time.edges[places[0]])} to {clock(time.edges[places[1] + 1])}"
        cells = [frames, times if time.unit == "s" else "", f"{how}", f"{face}"]
        lines.append("".join(f"<td>{_text(cell)}</td>" for cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    heads = "".join(f"<th>{head}</th>" for head in ("frames", "time", "how", "face"))
    left = len(rows) - len(lines)
    more = f'<p class="faint small">And {left:,} more stretches.</p>' if left else ""
    yield (
        f"<details><summary>{number:,} rows in {len(rows):,} stretches took their probabilities "
        f"from frames around them</summary><table><tr>{heads}</tr>{body}</table>{more}</details>"
    )


def _rows(about: Mapping[str, Any]) -> str:
    lines = (
        f'<tr><td class="text faint">{_text(name)}</td><td class="text">{_text(value)}</td></tr>'
        for name, value in about.items()
    )
    return f"<table>{''.join(lines)}</table>"
