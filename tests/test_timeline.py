"""The timeline: its figures against sums by hand, and the picture's own pixels."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import CLASSES, one_face, random_table, table_of

from fer_jax.colours import GROUND, colours_of, rgb
from fer_jax.errors import FerJaxError
from fer_jax.predict.table import PredictionTable
from fer_jax.report.people import people_of
from fer_jax.report.timeline import STATES, draw_timeline, face_timeline, timeline_png
from fer_jax.report.words import clock

# Differences of sums of up to 40 float64; measured 3e-15.
TOLERANCE = 1e-12


def overlap(low, high, start, end):
    return max(0.0, min(high, end) - max(low, start))


def by_hand(table, times, edges, rows, columns):
    """Each column's mean, summed over the frames that reach into it."""
    prob = np.zeros((columns, len(CLASSES)))
    known = np.zeros(columns)
    label = np.zeros((columns, len(CLASSES)))
    state = np.zeros((columns, len(STATES)))
    ends = np.linspace(edges[0], edges[-1], columns + 1)
    for row in rows:
        place = times.index(table.frame[row])
        for column in range(columns):
            part = overlap(edges[place], edges[place + 1], ends[column], ends[column + 1])
            part /= ends[1] - ends[0]
            if table.label[row] >= 0:
                prob[column] += part * table.prob[row]
                known[column] += part
                label[column, table.label[row]] += part
            kind = {"ok": 0, "low_quality": 2, "no_face": 4}[table.status[row]]
            if table.fill[row] != "none":
                kind = {0: 1, 2: 2, 4: 3}[kind]
            state[column, kind] += part
    return prob / np.where(known > 1e-9, known, np.nan)[:, None], label, state


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1, 7, 60]))
def test_columns_are_means_over_their_time(seed, frames, columns):
    table = random_table(seed, frames, faces=2)
    for axis, people in people_of(table):
        for person in people:
            found = face_timeline(table, axis, person, columns)
            want = by_hand(table, axis.frame.tolist(), axis.edges, person.rows, columns)
            for have, expected in zip((found.prob, found.label, found.state), want, strict=True):
                np.testing.assert_allclose(have, expected, atol=TOLERANCE)
            assert (found.state.sum(axis=1) <= 1 + TOLERANCE).all()


def picture_of(table):
    return cv2.imdecode(np.frombuffer(timeline_png(table), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def colours_across(picture, places, names):
    """For each place (a share of the time) the named colours below the legend."""
    left, right = round(0.62 * 200), round((8 - 0.28) * 200)
    found = []
    for place in places:
        column = picture[152:, int(left + place * (right - left))]
        runs = [name for name, colour in names.items() for pixel in [rgb(colour)]
                if (column == pixel).all(axis=1).sum() >= 15]  # fmt: skip
        found.append(set(runs))
    return found


def test_the_picture_shows_the_table():
    """Neutral, then anger that is filled in, then a face of low quality, then nothing.

    Of the first ten frames the last five were not looked at.
    """
    prob = [(1, 0, 0)] * 10 + [(0, 1, 0)] * 10 + [(0, 0, 1)] * 10 + [(np.nan,) * 3] * 10
    rows = [{"frame": i + 1, "prob": p} for i, p in enumerate(prob)]
    for row in rows[5:10]:
        row |= {"fill": "linear"}
    for row in rows[10:20]:
        row |= {"fill": "hold", "face_id": -1}
    for row in rows[20:30]:
        row |= {"status": "low_quality"}
    for row in rows[30:]:
        row |= {"face_id": -1}
    picture = picture_of(table_of(rows))
    assert picture.shape[1] == 1600
    names = dict(zip(CLASSES, colours_of(CLASSES), strict=True)) | dict(STATES) | {"": GROUND}
    assert colours_across(picture, (0.1, 0.2, 0.37, 0.62, 0.87), names) == [
        {"Neutral", "face found"},
        {"Neutral", "not looked at"},
        {"Anger", "no face, filled in"},
        {"Happiness", "low quality"},
        {"", "no face"},
    ]


def test_stacks_are_as_high_as_the_probabilities():
    table = table_of([{"frame": i, "prob": (0.5, 0.3, 0.2)} for i in (1, 2)])
    column = picture_of(table)[152:, 800]
    heights = [(column == rgb(colour)).all(axis=1).sum() for colour in colours_of(CLASSES)]
    heights[0] -= round(0.17 * 200)  # the label's line
    np.testing.assert_allclose(np.array(heights) / 220, [0.5, 0.3, 0.2], atol=0.02)  # 220 pixels


def test_a_short_gap_in_two_hours_is_seen():
    """A second without a face, in a table of 180,000 rows that is drawn in a few seconds."""
    rows = 180_000
    status = np.full(rows, "ok", object)
    status[90_000:90_025] = "no_face"
    raw = np.tile(np.float32([[0.6, 0.2, 0.2]]), (rows, 1))
    raw[90_000:90_025] = np.nan
    table = PredictionTable.from_probabilities(
        CLASSES, video=["long.mp4"] * rows, frame=np.arange(rows) + 1,
        time_s=np.arange(rows) / 25, face_id=np.where(status == "ok", 0, -1),
        box=np.zeros((rows, 4)), status=status, fill=["none"] * rows, raw=raw,
    )  # fmt: skip
    begun = time.perf_counter()
    png = timeline_png(table)
    assert time.perf_counter() - begun < 10  # measured 0.9 s
    assert len(png) < 100_000
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = (picture == rgb(dict(STATES)["face found"])).all(axis=2).sum(axis=1)
    strip = picture[found.argmax(), 150:1500]
    # A fifth of its column's time; the green of "face found" is 220, of "no face" 31.
    assert strip[:, 1].min() < 100


def test_four_faces_at_most():
    heights = {}
    for faces in (1, 4, 5, 9):
        table = table_of(
            [{"frame": f, "face_id": k, "prob": (1, 0, 0)} for f in (1, 2) for k in range(faces)]
        )
        heights[faces] = picture_of(table).shape[0]
    assert heights[5] == heights[9] == heights[4] + 0.2 * 200
    assert heights[4] > 3 * heights[1] / 2


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = one_face([0, 1, 2], video="<b> $x$ _\n.mp4")
    draw_timeline(table, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes() == timeline_png(table)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("time_s", [None, 0.0])
def test_short_videos(length, time_s):
    more = {} if time_s is None else {"time_s": time_s}
    assert picture_of(one_face([0] * length, **more)).shape[1] == 1600
    assert picture_of(one_face([-1] * length, **more)).shape[1] == 1600


def test_tables_that_cannot_be_drawn():
    empty = PredictionTable.from_probabilities(
        CLASSES, video=[], frame=[], time_s=[], face_id=[], box=[], status=[], fill=[], raw=[]
    )
    with pytest.raises(FerJaxError, match="no rows"):
        timeline_png(empty)
    two = table_of([{"frame": 1, "video": "a"}, {"frame": 1, "video": "b"}])
    with pytest.raises(FerJaxError, match="of 2 videos, a and b"):
        timeline_png(two)


@given(st.floats(0, 1e6))
def test_clocks_say_the_time_to_the_tenth(seconds):
    *more, rest = clock(seconds).split(":")
    total = float(rest)
    for power, part in enumerate(reversed(more), 1):
        total += int(part) * 60**power
    assert -1e-5 <= seconds - total < 0.1 + 1e-5
