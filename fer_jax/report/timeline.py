"""The timeline of a video as a picture: what each face showed, when, and what is known of it.

A picture is 1,600 pixels wide whatever the length of the video: a column is the mean over its
time, so that a long video is drawn as fast, and as small, as a short one.
"""

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from jaxtyping import Float64

from fer_jax.atomic import atomic_file
from fer_jax.colours import GROUND, INK, QUIET, colours_of, rgb
from fer_jax.errors import FerJaxError
from fer_jax.predict.table import PredictionTable
from fer_jax.report.people import Person, VideoTime, people_of
from fer_jax.report.words import clock, short_name

# Lighter means better known, so that they are told apart without colour.
STATES = (
    ("face found", "#c4dccf"),
    ("not looked at", "#9fc0ae"),
    ("low quality", "#e2ae4c"),
    ("no face, filled in", "#7186a0"),
    ("no face", "#7a1f1f"),
)
_MOST_FACES = 4
_LEAST_SEEN = 0.75  # so that a short gap in a long video still shows
_DPI = 200
_WIDTH, _LEFT, _RIGHT = 8.0, 0.62, 0.28  # inches
_COLUMNS = round((_WIDTH - _LEFT - _RIGHT) * _DPI)
_AREA, _LABELS, _STATE, _GAP = 1.1, 0.17, 0.1, 0.03
_LEVELS = round(_AREA * _DPI)
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_MOST_TICKS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class FaceTimeline:
    """What is drawn of one face; each column is the mean over an equal part of the video's time.

    Attributes:
        prob: mean probabilities where they are known, else NaN.
        label: share of the column's time with each label.
        state: share of the column's time in each of `STATES`; the rest is time without a row.
    """

    prob: Float64[np.ndarray, "columns classes"]
    label: Float64[np.ndarray, "columns classes"]
    state: Float64[np.ndarray, "columns states"]


def draw_timeline(table: PredictionTable, out: str | os.PathLike[str]) -> None:
    """Draws the timeline of one video as PNG.

    For each face there are the probabilities of the expressions over time, stacked, with the label
    below them and, as a thin line, how it is known: the face was found, or not looked at between
    two frames in which it was, or is of low quality; without a face it is filled in, or not known.
    Of more than four faces those are drawn that were there for longest.

    Args:
        table: predictions of one video.
        out: the file, written aside and renamed.

    Raises:
        FerJaxError: the table is empty, or of several videos.
    """
    with atomic_file(out) as partial:
        partial.write_bytes(timeline_png(table))


def timeline_png(table: PredictionTable, *, title: bool = True) -> bytes:
    """As `draw_timeline`, but hands out the file's content.

    Args:
        table: predictions of one video.
        title: whether the video's name stands above it.

    Returns:
        A PNG, 1,600 pixels wide.

    Raises:
        FerJaxError: the table is empty, or of several videos.
    """
    # The object interface: no pyplot, so no window system and no state shared with the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    time, people = only_video(table)
    shown = longest(time, people)
    heading, strips = 0.29, _LABELS + _STATE + 2 * _GAP
    top, panel = 0.52 + 0.24 * title, heading + _AREA + strips
    height = top + panel * len(shown) + 0.36 + 0.2 * (len(people) > len(shown))
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def axes_at(y: float, tall: float):
        box = (_LEFT, height - y - tall, _WIDTH - _LEFT - _RIGHT, tall)
        axes = figure.add_axes(tuple(np.divide(box, (_WIDTH, height, _WIDTH, height)).tolist()))
        axes.set_frame_on(False)
        axes.tick_params(length=0, labelsize=7.5, labelcolor=QUIET, pad=2)
        axes.set(xticks=[], yticks=[])
        return axes

    def write(y: float, text: str, **more):
        figure.text(_LEFT / _WIDTH, 1 - y / height, text, va="center", **more)

    if title:
        write(0.17, short_name(PurePath(time.video).name, 70), size=11, weight="bold", color=INK)
    colours = colours_of(table.classes)
    _draw_keys(figure, zip(table.classes, colours, strict=True), 1 - (top - 0.34) / height)
    _draw_keys(figure, [*STATES, ("nothing known", GROUND)], 1 - (top - 0.13) / height)
    for number, person in enumerate(shown):
        y = top + number * panel
        write(y + heading - 0.1, _heading(table, time, person, len(people)), size=8.5, color=INK)
        found = face_timeline(table, time, person, _COLUMNS)
        area = axes_at(y + heading, _AREA)
        _draw(area, _stacked(found.prob, colours))
        area.set_yticks([0, _LEVELS / 2, _LEVELS], ["1", "0.5", "0"])
        labels = axes_at(y + heading + _AREA + _GAP, _LABELS)
        _draw(labels, _most(found.label, colours))
        labels.set_yticks([0.5], ["label"])
        last = axes_at(y + heading + _AREA + _LABELS + 2 * _GAP, _STATE)
        _draw(last, _blended(found.state))
        last.set_yticks([0.5], ["state"])
    _draw_ticks(last, time)
    if more := len(people) - len(shown):
        write(height - 0.12, f"and {more} more, seen for less time", size=8, color=QUIET)
    stream = io.BytesIO()
    # No version of matplotlib in the file: the same table gives the same bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def only_video(table: PredictionTable) -> tuple[VideoTime, list[Person]]:
    """The one video of a table, and the people in it.

    Args:
        table: predictions.

    Returns:
        As `people_of`.

    Raises:
        FerJaxError: the table is empty, or of several videos.
    """
    if not len(table):
        raise FerJaxError("the prediction table has no rows, so there is nothing to draw")
    first, *others = dict.fromkeys(table.video.tolist())
    if others:
        raise FerJaxError(
            f"the prediction table is of {len(others) + 1} videos, {first} and {others[0]} among "
            "them; make a picture of each by itself"
        )
    return next(people_of(table))


def longest(time: VideoTime, people: Sequence[Person]) -> list[Person]:
    """Those who are shown: the four that were there for longest, by face_id.

    Args:
        time: of the video.
        people: in it.

    Returns:
        At most four of them.
    """
    lasts = np.diff(time.edges)
    first = sorted(people, key=lambda one: -lasts[one.place].sum())[:_MOST_FACES]
    return sorted(first, key=lambda one: one.face_id)


def face_timeline(
    table: PredictionTable, time: VideoTime, person: Person, columns: int
) -> FaceTimeline:
    """Means over equal parts of the video's time.

    Args:
        table: predictions.
        time: of the video.
        person: whose rows are taken.
        columns: how many parts.

    Returns:
        The means.
    """
    rows = person.rows
    known = (table.label[rows] >= 0) & np.isfinite(table.prob[rows]).all(axis=1)
    prob = np.where(known[:, None], table.prob[rows], 0)
    label = table.label[rows][:, None] == np.arange(len(table.classes))
    filled = known & (table.fill[rows] != "none")
    ok, low, nobody = (table.status[rows] == name for name in ("ok", "low_quality", "no_face"))
    states = [ok & ~filled, ok & filled, low, nobody & filled, nobody & ~filled]
    state = np.stack(states, axis=1)
    parts = [prob, known[:, None], label & known[:, None], state]
    means = _means(time, person, np.concatenate(parts, axis=1), columns)
    number = len(table.classes)
    prob, known, label, state = np.split(means, [number, number + 1, 2 * number + 1], axis=1)
    prob = np.divide(prob, known, out=np.full_like(prob, np.nan), where=known > 1e-9)
    return FaceTimeline(prob, label, state)


def _means(time: VideoTime, person: Person, values: np.ndarray, columns: int) -> np.ndarray:
    """Of each column's time; a frame counts for the part of it that lies in the column."""
    lasts = np.diff(time.edges)
    sums = np.zeros((len(lasts) + 1, values.shape[1]))
    sums[person.place + 1] = values * lasts[person.place, None]
    np.cumsum(sums, axis=0, out=sums)
    edges = np.linspace(time.edges[0], time.edges[-1], columns + 1)
    at_edges = np.stack([np.interp(edges, time.edges, column) for column in sums.T], axis=1)
    return np.diff(at_edges, axis=0) / np.diff(edges)[:, None]


def _palette(colours: Sequence[str]) -> np.ndarray:
    return np.array([rgb(colour) for colour in (*colours, GROUND)], np.uint8)


def _stacked(prob: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """A picture `[levels, columns, 3]`: the first class on top."""
    below = np.cumsum(np.nan_to_num(prob, nan=0), axis=1)
    level = (np.arange(_LEVELS) + 0.5) / _LEVELS
    # The last sum is 1 but for rounding; where nothing is known it is 0, and the ground shows.
    below[:, -1] = np.where(np.isnan(prob[:, -1]), 0, 1)
    return _palette(colours)[(level[:, None, None] > below).sum(axis=2)]


def _most(label: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """A picture of one line: the label that each column has for longest."""
    most = np.where(label.sum(axis=1) > 1e-9, label.argmax(axis=1), label.shape[1])
    return _palette(colours)[most][None]


def _blended(state: np.ndarray) -> np.ndarray:
    """A picture of one line: of the states, the last three are never less than visible."""
    others = np.where(state[:, 2:] > 1e-6, np.maximum(state[:, 2:], _LEAST_SEEN), 0)
    others /= np.maximum(others.sum(axis=1, keepdims=True), 1)
    ground = np.maximum(1 - state.sum(axis=1, keepdims=True), 0)
    usual = np.concatenate([state[:, :2], ground], axis=1) + 1e-12
    usual *= (1 - others.sum(axis=1, keepdims=True)) / usual.sum(axis=1, keepdims=True)
    shares = np.concatenate([usual[:, :2], others, usual[:, 2:]], axis=1)
    mixed = shares @ _palette([colour for _, colour in STATES]).astype(float)
    return np.rint(mixed).astype(np.uint8)[None]


def _draw(axes, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    axes.imshow(picture, aspect="auto", interpolation="nearest", extent=(0, width, height, 0))


def _draw_keys(figure, names, y: float) -> None:
    from matplotlib.patches import Patch

    keys = [
        # A name that begins with an underscore would be hidden.
        Patch(facecolor=colour, edgecolor="#c3cad3", lw=0.4, label=f"\u200b{short_name(name, 20)}")
        for name, colour in names
    ]
    figure.legend(
        handles=keys, loc="center left", bbox_to_anchor=(_LEFT / _WIDTH - 0.012, y),
        ncols=len(keys), fontsize=7.5, frameon=False, handlelength=1, handleheight=1,
        handletextpad=0.35, columnspacing=0.9, labelcolor=INK,
    )  # fmt: skip


def _heading(table: PredictionTable, time: VideoTime, person: Person, people: int) -> str:
    if person.face_id < 0:
        return "no face in the whole video"
    label, lasts = table.label[person.rows], np.diff(time.edges)[person.place]
    counts = np.bincount(label[label >= 0], lasts[label >= 0], minlength=len(table.classes))
    words = f"face {person.face_id}" if people > 1 else "the only face"
    if counts.any():
        words += f", most often {short_name(table.classes[int(counts.argmax())], 16)}"
    return words


def _draw_ticks(axes, time: VideoTime) -> None:
    start, end = time.edges[0], time.edges[-1]
    span = end - start
    scale = 1.0 if time.unit == "s" else 10.0 ** np.ceil(np.log10(max(span / 5000, 1)))
    step = next((s for s in _STEPS_S if span <= s * scale * _MOST_TICKS), span / _MOST_TICKS)
    step = step * scale if time.unit == "s" else max(1.0, step * scale)
    ticks = np.arange(np.ceil(start / step - 1e-9), np.floor(end / step + 1e-9) + 1) * step
    if time.unit == "s":
        names = [clock(tick) for tick in ticks]
        names = [name.removesuffix(".0") for name in names] if step >= 1 else names
    else:
        names = [f"{tick:,.0f}" for tick in ticks]
    axes.set_xticks((ticks - start) / span * _COLUMNS, names)
    axes.set_xlabel("" if time.unit == "s" else "frame", size=7.5, color=QUIET, labelpad=1)
    axes.tick_params(axis="x", length=2.5, color=QUIET)
