"""Summaries: against pandas, against cases by hand, as properties, and through the command."""

import csv
import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import CLASSES, one_face, random_table, table_of

from fer_jax.cli.main import main
from fer_jax.colours import _EXPRESSIONS, GROUND
from fer_jax.errors import FerJaxError
from fer_jax.predict.table import PredictionTable
from fer_jax.report.segments import Segment
from fer_jax.report.summary import summarize

# Sums of a few hundred float64; measured 2e-15. Probabilities are float32 in both.
TOLERANCE = 1e-12


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_case_by_hand():
    """Frames of 1, 2, 1 and (the median) 1 second: Neutral, Anger, nothing, Anger."""
    table = table_of(
        [
            {"frame": 1, "time_s": 10, "prob": (0.8, 0.1, 0.1)},
            {"frame": 2, "time_s": 11, "prob": (0.2, 0.6, 0.2)},
            {"frame": 3, "time_s": 13, "face_id": -1},
            {"frame": 4, "time_s": 14, "prob": (0.1, 0.9, 0), "fill": "hold"},
        ]
    )
    (one,) = summarize(table)
    assert (one.video, one.face_id, one.segment, one.unit) == ("a.mp4", 0, "all", "s")
    assert (one.start, one.end, one.frames) == (10, 15, 4)
    assert one.seen == pytest.approx(0.8)
    assert one.filled == pytest.approx(0.2)
    np.testing.assert_allclose(one.share, [0.2, 0.6, 0, 0.2])
    mean = np.array([0.8 + 2 * 0.2 + 0.1, 0.1 + 2 * 0.6 + 0.9, 0.1 + 2 * 0.2 + 0]) / 4
    np.testing.assert_allclose(one.prob, mean, rtol=1e-6)  # of float32
    assert one.episodes.label.tolist() == [0, 1, 3, 1]
    assert one.episodes.edges.tolist() == [10, 11, 13, 14, 15]
    np.testing.assert_allclose(one.episodes.prob, [0.8, 0.6, np.nan, 0.9], rtol=1e-6)
    assert np.argwhere(one.transitions).tolist() == [[0, 1], [1, 3], [3, 1]]


def test_segments_cut_frames():
    """Turns from the middle of a frame to the middle of another, and one that overlaps."""
    table = one_face([0, 1, 1, 2], time_s=0)
    table = dataclasses.replace(table, time_s=np.arange(4.0))
    turns = [
        Segment("a", 0.5, 2.25, "first"),
        Segment("a.mp4", 2, 99, "second"),
        Segment("b", 0, 1, "of another"),
    ]
    first, second = summarize(table, turns)
    np.testing.assert_allclose(first.share * 1.75, [0.5, 1.25, 0, 0])
    assert first.episodes.edges.tolist() == [0.5, 1, 2.25]
    assert (second.segment, second.start, second.end, second.frames) == ("second", 2, 4, 2)
    np.testing.assert_allclose(second.share, [0, 0.5, 0.5, 0])


def test_frames_where_there_are_no_times():
    (one,) = summarize(one_face([0, 0, 1], time_s=0.0))
    assert (one.unit, one.start, one.end) == ("frames", 0, 3)
    np.testing.assert_allclose(one.share, [2 / 3, 1 / 3, 0, 0])
    (single,) = summarize(one_face([2], time_s=0.0))
    assert (single.length, single.share[2]) == (1, 1)


def test_frames_without_a_face_are_of_the_only_person():
    filled = {"frame": 2, "face_id": -1, "prob": (1, 0, 0), "fill": "hold", "raw": (np.nan,) * 3}
    alone = table_of([{"frame": 1, "face_id": 4, "prob": (1, 0, 0)}, filled])
    (one,) = summarize(alone)
    assert (one.face_id, one.seen, one.filled, one.share[0]) == (4, 0.5, 0.5, 1)
    two = table_of([{"frame": 1, "face_id": face, "prob": (1, 0, 0)} for face in (4, 7)] + [filled])
    assert [(one.face_id, one.share.tolist()) for one in summarize(two)] == [
        (4, [0.5, 0, 0, 0.5]),
        (7, [0.5, 0, 0, 0.5]),
    ]
    (nobody,) = summarize(table_of([{"frame": 1, "face_id": -1}, {"frame": 2, "face_id": -1}]))
    assert (nobody.face_id, nobody.seen, nobody.share[-1]) == (-1, 0, 1)


def as_pandas(table):
    """Shares, mean probabilities, coverage and transitions of each person, by groupby."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table.to_dict())
    stamps = frame.groupby("frame").time_s.first().sort_index()
    step = stamps.shift(-1) - stamps
    step = step.fillna(step.median())
    found = {}
    for face, own in frame[frame.face_id >= 0].groupby("face_id"):
        own = own.set_index("frame").reindex(stamps.index).assign(step=step)
        own["label"] = own.label.fillna("").replace("", "unknown")
        share = own.groupby("label").step.sum() / step.sum()
        known = own[own.label != "unknown"]
        prob = known[[f"prob_{name}" for name in CLASSES]]
        runs = own[own.label != own.label.shift()].label
        pairs = runs.to_frame("to").assign(**{"from": runs.shift()}).dropna()
        found[face] = {
            "share": [share.get(name, 0.0) for name in (*CLASSES, "unknown")],
            "prob": np.average(prob, axis=0, weights=known.step),
            "seen": own.step[own.status.isin(["ok", "low_quality"])].sum() / step.sum(),
            "filled": own.step[own.fill.isin(["hold"])].sum() / step.sum(),
            "nobody": own.step[own.fill.eq("hold") & own.status.eq("no_face")].sum() / step.sum(),
            "episodes": runs.tolist(),
            "pairs": pairs.groupby(["from", "to"]).size().to_dict(),
        }
    return found


def test_equals_pandas():
    for seed in range(8):
        table = random_table(seed, frames=120, faces=3)
        expected = as_pandas(table)
        summaries = list(summarize(table))
        assert [one.face_id for one in summaries] == list(expected)
        for one in summaries:
            want = expected[one.face_id]
            np.testing.assert_allclose(one.share, want["share"], atol=TOLERANCE)
            np.testing.assert_allclose(one.prob, want["prob"], atol=TOLERANCE)
            np.testing.assert_allclose(one.seen, want["seen"], atol=TOLERANCE)
            np.testing.assert_allclose(one.filled, want["filled"], atol=TOLERANCE)
            np.testing.assert_allclose(one.filled_no_face, want["nobody"], atol=TOLERANCE)
            names = one.categories
            assert [names[label] for label in one.episodes.label] == want["episodes"]
            pairs = {
                (names[i], names[j]): one.transitions[i, j]
                for i, j in np.argwhere(one.transitions).tolist()
            }
            assert pairs == want["pairs"]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(0, 3),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=3),
)
def test_what_holds_of_any_table(seed, frames, faces, cuts):
    table = random_table(seed, frames, faces)
    start, end = float(table.time_s.min()), float(table.time_s.max())
    turns = [
        Segment("a", start + (end - start) * min(cut), start + (end - start) * max(cut), str(i))
        for i, cut in enumerate(cuts)
        if abs(cut[0] - cut[1]) > 1e-3 and frames > 1 and min(cut) * (end - start) + start < end
    ]
    timed = frames > 1
    for one in [*summarize(table), *(summarize(table, turns) if timed else ())]:
        assert one.share.sum() == pytest.approx(1, abs=1e-9)
        assert one.share.min() >= 0
        assert one.prob.sum() == pytest.approx(1, abs=1e-6) or one.share[-1] == 1
        assert 0 <= one.filled <= 1 - one.share[-1] + 1e-9
        found = one.episodes
        assert (found.edges[0], found.edges[-1]) == (one.start, one.end)
        assert (found.length > 0).all()
        assert (np.diff(found.label) != 0).all()
        for label in range(len(one.share)):
            lasts = found.length[found.label == label].sum()
            assert lasts == pytest.approx(one.share[label] * one.length, abs=1e-9)
        assert one.transitions.sum() == len(found.label) - 1
        assert np.trace(one.transitions) == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_segments_that_tile_a_video_add_up_to_it(seed, cut):
    table = random_table(seed, faces=2)
    whole = list(summarize(table))
    middle = whole[0].start + cut * whole[0].length
    turns = [Segment("a", 0, middle, "before"), Segment("a", middle, 1e9, "after")]
    parts = list(summarize(table, turns))
    for one, *halves in zip(whole, parts[::2], parts[1::2], strict=True):
        added = sum(half.share * half.length for half in halves)
        np.testing.assert_allclose(added, one.share * one.length, atol=1e-9)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (table_of([{"frame": 1}, {"frame": 1}]), "face 0 is there twice"),
        (
            table_of([{"frame": 1, "time_s": 1}, {"frame": 2, "time_s": 0.5}]),
            "its time is 0.5 s, but times must grow",
        ),
        (table_of([{"frame": 1}, {"frame": 2, "time_s": np.nan}]), "its time is nan s"),
        (table_of([{"frame": 1}, {"frame": 2, "time_s": np.inf}]), "its time is inf s"),
        (table_of([{"frame": 1, "time_s": np.nan}, {"frame": 2}]), "frame 1 of a.mp4: its time is"),
        (one_face([0], classes=("unknown", "b")), "a class is called 'unknown'"),
    ],
)
def test_tables_that_cannot_be(table, line):
    with pytest.raises(FerJaxError, match=line):
        list(summarize(table))


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "tables"
    for seed, name in enumerate(("anna", "bert <b>")):
        random_table(seed, faces=2, video=f"in/{name}.mp4").to_csv(folder / f"{name}.csv")
    return folder


def test_the_command_writes_what_the_functions_say(tables, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["summarize", str(tables), "--out", str(out)]) == 0
    assert "2 videos, 4 people, 4 rows" in capsys.readouterr().out
    rows = read(out / "summary.csv")
    assert [(row["video"], row["face_id"]) for row in rows] == [
        (f"in/{name}.mp4", face) for name in ("anna", "bert <b>") for face in "01"
    ]
    (one, *_) = summarize(random_table(0, faces=2, video="in/anna.mp4"))
    names = one.categories
    row, found = rows[0], one.episodes
    shares = [float(row[f"share_{name}"]) for name in names]
    np.testing.assert_allclose(shares, one.share, atol=6e-7)  # of six digits
    assert float(row["length"]) == pytest.approx(one.length, abs=6e-7)
    assert int(row["transitions"]) == one.transitions[:-1, :-1].sum()
    for i, name in enumerate(names):
        lengths = found.length[found.label == i]
        assert int(row[f"episodes_{name}"]) == len(lengths)
        assert float(row[f"episode_mean_{name}"]) == pytest.approx(lengths.mean(), abs=6e-7)
        assert float(row[f"episode_longest_{name}"]) == pytest.approx(lengths.max(), abs=6e-7)
    episodes = [row for row in read(out / "episodes.csv") if row["video"] == "in/anna.mp4"]
    episodes = [row for row in episodes if row["face_id"] == "0"]
    assert [row["label"] for row in episodes] == [names[i] for i in found.label]
    assert [row["at_start"] for row in episodes] == ["1"] + ["0"] * (len(episodes) - 1)
    assert [row["at_end"] for row in episodes] == ["0"] * (len(episodes) - 1) + ["1"]
    pairs = read(out / "transitions.csv")
    assert sum(int(row["count"]) for row in pairs) == len(read(out / "episodes.csv")) - 4
    picture = cv2.imread(str(out / "summary.png"))
    for name in CLASSES:  # each class's colour is in the picture
        colour = bytes.fromhex(_EXPRESSIONS[name.lower()][1:])[::-1]
        assert (picture == np.frombuffer(colour, np.uint8)).all(axis=2).sum() > 500
    assert main(["summarize", str(tables), "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["summarize", str(tables), "--out", str(out), "--overwrite"]) == 0


def test_the_command_with_segments(tables, tmp_path, capsys):
    turns = tmp_path / "turns.csv"
    turns.write_text("name,video,start_s,end_s,who\nq,anna,3,4,x\n\nr,in/anna.mp4,3.5,5,y\n")
    command = ["summarize", str(tables), "--segments", str(turns), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "no segment names in/bert <b>.mp4: left out" in capsys.readouterr().err
    rows = read(tmp_path / "out" / "summary.csv")
    assert [(row["face_id"], row["segment"]) for row in rows] == [
        (face, name) for face in "01" for name in "qr"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("video,start_s,end_s\n", "has 0 columns 'name'"),
        ("video,start_s,end_s,name\n", "names no segment"),
        ("video,start_s,end_s,name\nanna,x,4,q\n", "line 2: start_s is 'x'"),
        ("video,start_s,end_s,name\nanna,3,nan,q\n", "line 2: end_s is 'nan'"),
        ("video,start_s,end_s,name\nanna,4,3,q\n", "line 2: end_s 3 is not after start_s 4"),
        ("video,start_s,end_s,name\nanna,4,q\n", "line 2: 3 values for 4 columns"),
        ("video,start_s,end_s,name\ncleo,3,4,q\n", "turns.csv: video 'cleo' is in none"),
        ("video,start_s,end_s,name\nanna,900,901,q\n", "'q' of in/anna.mp4: 900 to 901 s is out"),
    ],
)
def test_segments_that_cannot_be(text, line, tables, tmp_path, capsys):
    turns = tmp_path / "turns.csv"
    turns.write_text(text)
    out = tmp_path / "out"
    assert main(["summarize", str(tables), "--segments", str(turns), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_tables_that_do_not_fit_together(tables, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    one = str(tables / "anna.csv")
    other = tmp_path / "other.csv"
    one_face([0, 1], classes=("Fear", "Anger")).to_csv(other)
    assert main(["summarize", one, str(other), *out]) == 1
    assert "summarize them apart" in capsys.readouterr().err
    assert main(["summarize", one, one, *out]) == 1
    assert "name each video's table once" in capsys.readouterr().err
    PredictionTable.from_probabilities(
        CLASSES, video=[], frame=[], time_s=[], face_id=[], box=[], status=[], fill=[], raw=[]
    ).to_csv(other)
    assert main(["summarize", str(other), *out]) == 1
    assert "has no rows" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["summarize", str(tmp_path / "empty"), *out]) == 2
    assert "no .csv in this folder" in capsys.readouterr().err
    assert main(["summarize", str(tmp_path / "none.csv"), *out]) == 1
    assert "none.csv" in capsys.readouterr().err


# From linear RGB to what eyes without a kind of cones see: Machado, Oliveira and Fernandes 2009,
# table 1, severity 1.0; to XYZ and L*a*b* as in IEC 61966-2-1 and CIE 15.
WITHOUT = {
    "none": np.eye(3),
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
              [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
             [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("cones", WITHOUT)
def test_colours_are_told_apart(cones):
    names = [*_EXPRESSIONS.values(), GROUND]
    code = np.array([list(bytes.fromhex(name[1:])) for name in names]) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(WITHOUT[cones]), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (linear @ np.transpose(to_xyz) / (0.9505, 1, 1.089)).T
    x, y, z = (np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z))
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab, axis=2)
    assert apart[~np.eye(len(names), dtype=bool)].min() >= 18
