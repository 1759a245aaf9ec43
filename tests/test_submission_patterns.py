"""Whatever frames are missing, a submission is complete, and what was filled is listed."""

import csv

import numpy as np
import pytest
from affwild2_trees import HEADER
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_submission import CLASSES, write_sample

from fer_jax.data.affwild2_files import read_sample
from fer_jax.errors import FerJaxError
from fer_jax.ops.gaps import FILL_METHODS
from fer_jax.predict.submission import (
    SUBMISSION_FILE,
    check_sample,
    make_submission,
    official_classes,
    save_submission,
)
from fer_jax.predict.submission_check import check_submission
from fer_jax.predict.table import read_csv

NAMES = ("a", "a_left", "a_right", "6-30-1920x1080_left", "video7", "112", "left")
LASTS = ((9,), (1, 8), (4, 2, 3))  # nine frames in all, since each number is compiled
KERNELS = ("box", "gaussian", "triangular", "exponential", "median", "majority")
# Window, stride, look-ahead; where the stride is 1, no frame that was seen is ever filled.
SHAPES = ((1, 1, None), (3, 1, None), (101, 1, None), (5, 1, 0), (3, 2, None), (3, 3, 0))

# Frames before, between and behind two that are seen.
GAPS = [("a", frame) for frame in range(1, 10)], [("a", 7), ("a", 2)]


@st.composite
def filters(draw):
    """A filter as a bundle holds it, or none."""
    kernel = draw(st.sampled_from((None, *KERNELS)))
    if kernel is None:
        return None
    shape = draw(st.sampled_from(SHAPES))
    return {"kernel": kernel} | dict(zip(("window", "stride", "lookahead"), shape, strict=True))


@st.composite
def cases(draw):
    """What the sample asks for, and what is there: {video: frames}, each in any order."""
    lasts = draw(st.sampled_from(LASTS))
    names = draw(st.permutations(NAMES))[: len(lasts)]
    asked, seen = [], []
    for name, last in zip(names, lasts, strict=True):
        others = draw(st.sets(st.integers(1, last)))
        asked += [(name, frame) for frame in others | {last}]
        seen += [(name, frame) for frame in draw(st.sets(st.integers(1, last + 3)))]
    seen += [("not_asked_for", frame) for frame in draw(st.sets(st.integers(1, 3)))]
    return draw(st.permutations(asked)), draw(st.permutations(seen))


def probabilities(seen, seed):
    """A row for each prediction, of which no two are alike."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(len(CLASSES)), size=len(seen)).astype(np.float32)


def source(frame, there, fill):
    """The frame that a missing one takes its row from, by the words of the documentation."""
    before, after = [k for k in there if k < frame], [k for k in there if k > frame]
    if fill == "hold" and before:
        return max(before)
    return min(before + after, key=lambda k: (abs(k - frame), k))


def smoothed(there, smoothing):
    """The frames that were seen and keep a row: the filter sees something where it is evaluated."""
    if smoothing is None:
        return there
    window, stride, ahead = (smoothing[name] for name in ("window", "stride", "lookahead"))
    ahead = window // 2 if ahead is None else ahead
    reach = range(ahead - window + 1, ahead + 1)
    return {k for k in there if there & {k - (k - 1) % stride + step for step in reach}}


@settings(max_examples=40, deadline=None)
@given(cases(), filters(), st.sampled_from(FILL_METHODS), st.integers(0, 2**32 - 1))
@example(GAPS, None, "hold", 0)
@example(GAPS, None, "nearest", 0)
@example(GAPS, None, "linear", 0)
def test_any_pattern_gives_a_complete_file(tmp_path_factory, case, smoothing, fill, seed):
    asked, seen = case
    folder = tmp_path_factory.mktemp("patterns")
    path = write_sample(folder / "sample.txt", asked)
    sample = read_sample(path)
    check_sample(path, sample)
    classes, rows = official_classes(CLASSES), probabilities(seen, seed)
    video = np.array([name for name, _ in seen], object)
    frame = np.array([number for _, number in seen], np.int64)
    last = {name: max(k for v, k in asked if v == name) for name, _ in asked}
    there = {name: {k for v, k in seen if v == name and k <= last[name]} for name in last}
    how = {"smoothing": smoothing, "fill": fill, "allow_empty": True}
    if not any(there.values()):
        with pytest.raises(FerJaxError, match="have no prediction"):
            make_submission(sample, classes, video, frame, rows, **how)
        return
    there = {name: smoothed(frames, smoothing) for name, frames in there.items()}
    made = make_submission(sample, classes, video, frame, rows, **how)
    save_submission(folder, str(path), sample, made, {})

    assert check_submission(folder / SUBMISSION_FILE, sample) == ()
    header, *lines = (folder / SUBMISSION_FILE).read_text().splitlines()
    assert header == f"image_location,{HEADER}"
    assert [line.partition(",")[0] for line in lines] == [f"{v}/{k:05d}.jpg" for v, k in asked]
    with open(folder / "filled.csv", newline="") as file:
        listed = [(row["video"], int(row["frame"])) for row in csv.DictReader(file)]
    assert listed == [(name, k) for name, k in asked if k not in there[name]]

    table = read_csv(folder / "predictions.csv")
    places = list(zip(table.video, table.frame.tolist(), strict=True))
    row_of = {place: row for row, place in enumerate(places)}
    assert set(row_of) == {(name, k) for name in last for k in range(1, last[name] + 1)}
    np.testing.assert_allclose(table.prob.sum(axis=1), 1, atol=1e-4)
    label = dict(zip(asked, (int(line.rpartition(",")[2]) for line in lines), strict=True))
    assert all(number == table.prob[row_of[one]].argmax() for one, number in label.items())
    raw = dict(zip(seen, rows, strict=True))
    for (name, number), row in row_of.items():
        if number in there[name]:
            np.testing.assert_allclose(table.raw[row], raw[name, number], atol=1e-6)
            if smoothing is None:
                np.testing.assert_allclose(table.prob[row], raw[name, number], atol=1e-6)
        elif not there[name] or fill == "prior":
            np.testing.assert_allclose(table.prob[row], 1 / len(CLASSES), atol=1e-6)
            assert label.get((name, number), 0) == 0
        elif fill in ("hold", "nearest"):
            other = row_of[name, source(number, there[name], fill)]
            np.testing.assert_array_equal(table.prob[row], table.prob[other])
        else:
            seen_there = sorted(there[name])
            ends = table.prob[[row_of[name, k] for k in seen_there]]
            wanted = [np.interp(number, seen_there, column) for column in ends.T]
            np.testing.assert_allclose(table.prob[row], wanted, atol=1e-6)
