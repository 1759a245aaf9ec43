"""What each person of a video showed, and when: shares of time, episodes, transitions.

All of it is about time, not about rows: each frame counts for as long as it lasts.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from fer_jax.errors import FerJaxError
from fer_jax.predict.table import PredictionTable
from fer_jax.report.people import Person, VideoTime, people_of
from fer_jax.report.segments import Segment, names_of

UNKNOWN = "unknown"  # the category of times without a label
WHOLE = "all"  # the segment of a whole video


@dataclasses.dataclass(frozen=True, eq=False)
class Episodes:
    """Stretches of one label each; they tile a segment.

    Attributes:
        label: class indices; the number of classes where nothing is known.
        edges: where each begins, and where the last one ends.
        prob: the mean probability of the label, weighted by time; NaN where nothing is known.
    """

    label: Int64[np.ndarray, "episodes"]
    edges: Float64[np.ndarray, "edges"]
    prob: Float64[np.ndarray, "episodes"]

    @property
    def length(self) -> np.ndarray:
        """How long each lasts."""
        return np.diff(self.edges)


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """One person in one segment of one video. The last category is that nothing is known.

    Attributes:
        classes: display names.
        video: as in the table.
        face_id: who; -1 where the video has no face.
        segment: its name; `all` for a whole video.
        unit: of times: `s`, or `frames` where the table has no times.
        start: where the segment begins; no earlier than the video.
        end: where it ends; no later than the video.
        frames: how many frames of the video lie in it, wholly or in part.
        seen: share of its time in which the face was found.
        filled: share of its time whose probabilities were filled in from other frames.
        filled_no_face: the part of it in which the face was not found, so that nothing shows
            whether they hold.
        share: share of its time with each label; adds up to 1.
        prob: mean probability of each class over the time in which it is known; else NaN.
        episodes: in order.
        transitions: how often the row's category was directly followed by the column's.
    """

    classes: tuple[str, ...]
    video: str
    face_id: int
    segment: str
    unit: str
    start: float
    end: float
    frames: int
    seen: float
    filled: float
    filled_no_face: float
    share: Float64[np.ndarray, "categories"]
    prob: Float64[np.ndarray, "classes"]
    episodes: Episodes
    transitions: Int64[np.ndarray, "categories categories"]

    @property
    def length(self) -> float:
        """How long the segment is."""
        return self.end - self.start

    @property
    def categories(self) -> tuple[str, ...]:
        """The classes, and `unknown`."""
        return (*self.classes, UNKNOWN)


def summarize(
    table: PredictionTable, segments: Sequence[Segment] | None = None
) -> Iterator[Summary]:
    """Summarizes each person of each video, in each of its segments.

    A frame lasts until the next one's time stamp, and counts in a segment for the part of it that
    lies inside. Times at which a person has no label, or no row at all, are unknown.

    Args:
        table: predictions, in any order; `label` and `prob` are what is summarized.
        segments: those of other videos are passed over; none at all means whole videos.

    Yields:
        Summaries, by video, person and segment.

    Raises:
        FerJaxError: a segment outside its video, a video without times for segments, a face that
            is twice in a frame, times that go back.

    Example:
        >>> table = PredictionTable.from_probabilities(
        ...     ["Anger", "Fear"], video=["a.mp4"] * 3, frame=[1, 2, 3], time_s=[0, 1, 4],
        ...     face_id=[0] * 3, box=np.zeros((3, 4)), status=["ok"] * 3, fill=["none"] * 3,
        ...     raw=[[1, 0], [0, 1], [1, 0]])
        >>> one = next(summarize(table))  # the last frame lasts 2 s, the median
        >>> one.length, one.share.tolist(), one.transitions[:2, :2].tolist()
        (6.0, [0.5, 0.5, 0.0], [[0, 1], [1, 0]])
    """
    if UNKNOWN in table.classes:
        raise FerJaxError(f"a class is called {UNKNOWN!r}, as times without a label are; rename it")
    for time, people in people_of(table):
        parts = [_part(time, one) for one in _segments(time, segments)]
        for person in people:
            for part in parts:
                yield _summary(table, time, person, part)


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """A segment on the time axis: frames `first` to `last`, cut to its ends."""

    name: str
    first: int
    last: int
    edges: np.ndarray


def _segments(time: VideoTime, segments: Sequence[Segment] | None) -> list[Segment]:
    if segments is None:
        return [Segment(time.video, time.edges[0], time.edges[-1], WHOLE)]
    names = names_of(time.video)
    own = [one for one in segments if one.video in names]
    if own and time.unit != "s":
        raise FerJaxError(
            f"{time.video}: the table has no times, so seconds of segments cannot be found in it; "
            "write it again from the video"
        )
    return own


def _part(time: VideoTime, segment: Segment) -> _Part:
    edges = time.edges
    start, end = max(segment.start_s, edges[0]), min(segment.end_s, edges[-1])
    if not start < end:
        raise FerJaxError(
            f"segment {segment.name!r} of {time.video}: {segment.start_s:g} to {segment.end_s:g} s "
            f"is outside the video, which lasts from {edges[0]:g} to {edges[-1]:g} s; correct it"
        )
    first = int(np.searchsorted(edges, start, "right")) - 1
    last = int(np.searchsorted(edges, end, "left"))
    return _Part(segment.name, first, last, np.array([start, *edges[first + 1 : last], end]))


def _summary(table: PredictionTable, time: VideoTime, person: Person, part: _Part) -> Summary:
    inside = slice(*np.searchsorted(person.place, (part.first, part.last)))
    rows, place = person.rows[inside], person.place[inside] - part.first
    lasts = np.diff(part.edges)
    own, total = lasts[place], float(part.edges[-1] - part.edges[0])
    classes = len(table.classes)

    known = (table.label[rows] >= 0) & np.isfinite(table.prob[rows]).all(axis=1)
    label = np.full(len(lasts), classes)
    label[place[known]] = table.label[rows[known]]
    prob = np.full(classes, np.nan)
    if known.any():
        prob = own[known] @ table.prob[rows[known]].astype(np.float64) / own[known].sum()

    filled = known & (table.fill[rows] != "none")
    nobody = table.status[rows] == "no_face"
    episodes = _episodes(table, rows[known], place[known], label, part.edges)
    after = episodes.label[:-1] * (classes + 1) + episodes.label[1:]
    transitions = np.bincount(after, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
    return Summary(
        classes=table.classes,
        video=time.video,
        face_id=person.face_id,
        segment=part.name,
        unit=time.unit,
        start=float(part.edges[0]),
        end=float(part.edges[-1]),
        frames=len(lasts),
        seen=float(own[~nobody].sum() / total),
        filled=float(own[filled].sum() / total),
        filled_no_face=float(own[filled & nobody].sum() / total),
        share=np.bincount(label, weights=lasts, minlength=classes + 1) / total,
        prob=prob,
        episodes=episodes,
        transitions=transitions,
    )


def _episodes(
    table: PredictionTable,
    rows: np.ndarray,
    place: np.ndarray,
    label: np.ndarray,
    edges: np.ndarray,
) -> Episodes:
    """The runs of `label`; `rows` are those with one, at `place`."""
    begins = np.append(0, np.flatnonzero(np.diff(label)) + 1)
    number = np.searchsorted(begins, place, "right") - 1
    weights = np.diff(edges)[place]
    sums = np.bincount(number, weights * table.confidence[rows], minlength=len(begins))
    total = np.bincount(number, weights, minlength=len(begins))
    prob = np.divide(sums, total, out=np.full(len(begins), np.nan), where=total > 0)
    return Episodes(label[begins], edges[np.append(begins, len(label))], prob)
