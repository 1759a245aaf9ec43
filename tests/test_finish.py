"""Videos finished in blocks against the whole table smoothed at once; live against both."""

import dataclasses

import numpy as np
import pytest
from drawn_rows import CLASSES, drawn_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_table import assert_tables_equal

from fer_jax.errors import FerJaxError
from fer_jax.evaluate.smooth_table import smooth_table
from fer_jax.predict.finish import Finishing, finished
from fer_jax.predict.frame_faces import AlignedFace, FrameFaces
from fer_jax.predict.live import LiveRows
from fer_jax.predict.row_file import RowFile
from fer_jax.predict.table import concatenated
from fer_jax.predict.time_filter import Span, TableFilter

# Few sizes, since each is compiled once.
_SIZES = [(7, 1), (7, 3)]
_FRAMES = [1, 13, 40]


def _filter(kernel, size, fill="hold", lookahead=None):
    window, stride = size
    return TableFilter(
        kernel=kernel, window=Span(window), stride=Span(stride), fill=fill, lookahead=lookahead
    )


def _finished(rows, how, block=16):
    return concatenated(list(finished(rows, how, block=block)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    frames=st.sampled_from(_FRAMES),
    faces=st.integers(0, 3),
    kernel=st.sampled_from(["box", "median", "majority", "gaussian"]),
    size=st.sampled_from(_SIZES),
    fill=st.sampled_from(["hold", "nearest", "linear", "prior"]),
)
def test_blocks_are_what_the_whole_table_gives(seed, frames, faces, kernel, size, fill):
    with drawn_rows(seed, frames=frames, faces=faces) as rows:
        raw = _finished(rows, Finishing(CLASSES, "v"))
        filter_ = _filter(kernel, size, fill)
        found = _finished(rows, Finishing(CLASSES, "v", filter_))
    assert_tables_equal(found, smooth_table(raw, filter_))
    assert sorted({*found.frame.tolist()}) == list(range(1, frames + 1))


def test_the_size_of_blocks_does_not_matter():
    how = Finishing(CLASSES, "v", _filter("box", (7, 3), "linear"))
    with drawn_rows(24, frames=40, faces=1) as rows:
        whole = _finished(rows, how, block=64)
        for block in (1, 5, 16):
            assert_tables_equal(_finished(rows, how, block=block), whole)
    assert {"none", "linear"} <= {*whole.fill.tolist()}


@pytest.mark.parametrize("fill", ["linear", "nearest"])
def test_long_gaps_are_bridged(fill):
    """The only face is away for several blocks."""
    face = AlignedFace(0, np.zeros(4), "ok", np.zeros((1, 1, 3), np.uint8))
    seen = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)
    with RowFile(len(CLASSES)) as rows:
        for number in range(1, 101):
            raw = {11: seen[:1], 91: seen[1:]}.get(number, seen[:0])
            rows.append(FrameFaces(number, number / 25, True, (face,) * len(raw)), raw)
        how = Finishing(CLASSES, "v", TableFilter(fill=fill))
        found = _finished(rows, how, block=7)
    numbers = np.arange(1, 101)
    # Of frame 51, as far from the one as from the other, the earlier is taken.
    share = np.clip((numbers - 11) / 80, 0, 1) if fill == "linear" else numbers > 51
    expected = seen[0] * (1 - share[:, None]) + seen[1] * share[:, None]
    np.testing.assert_allclose(found.prob, expected, atol=1e-6)
    assert found.fill.tolist().count("nearest") == (10 + 9 if fill == "linear" else 98)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    frames=st.sampled_from(_FRAMES),
    faces=st.integers(0, 3),
    kernel=st.sampled_from(["box", "median", "majority"]),
    size=st.sampled_from(_SIZES),
    lookahead=st.sampled_from([0, 3, 6]),
)
def test_live_rows_are_those_of_the_whole_video(seed, frames, faces, kernel, size, lookahead):
    how = Finishing(CLASSES, "v", _filter(kernel, size, lookahead=lookahead), causal=True)
    live, tables = LiveRows(how), []
    assert live.delay == lookahead
    with drawn_rows(seed, frames=frames, faces=faces) as rows:
        for number in range(1, frames + 1):
            table = live.push(rows.between(number, number + 1))
            assert (table is not None) == (number > lookahead)
            if table is not None:
                assert {*table.frame.tolist()} == {number - lookahead}
                tables.append(table)
        tables += live.flush()
        assert_tables_equal(concatenated(tables), _finished(rows, how))


def test_causal_rows_do_not_know_the_future():
    how = Finishing(CLASSES, "v", _filter("box", (7, 1), lookahead=0), causal=True)
    with drawn_rows(10, frames=40, faces=2) as rows, drawn_rows(10, frames=40, faces=2) as cut:
        whole = _finished(rows, how)
        half = LiveRows(how)
        tables = [half.push(cut.between(n, n + 1)) for n in range(1, 21)]
    early = whole[whole.frame <= 20]
    assert_tables_equal(concatenated(tables), early)


@pytest.mark.parametrize("every", [2, 5])
def test_frames_that_were_not_looked_at_have_rows(every):
    how = Finishing(CLASSES, "v", TableFilter(fill="linear"), every=every)
    with drawn_rows(27, frames=40, faces=1, every=every) as rows:
        found = _finished(rows, how)
        first, last = rows.first[0], rows.last[0]
    assert found.frame.tolist() == list(range(1, 41))
    seen = {*found.frame[found.fill == "none"].tolist()}
    assert all((frame - 1) % every == 0 for frame in seen)
    for row in range(len(found)):
        number = int(found.frame[row])
        before = (number - 1) // every * every + 1
        after = before + every if number > before else before
        spanned = before in seen and (after in seen or after > 40)
        assert found.status[row] == ("ok" if spanned else "no_face"), number
        if spanned:
            # Boxes move by one pixel a frame, but after the last look.
            assert found.box[row, 0] == min(number, last) - 1
    assert first in seen
    assert np.isfinite(found.prob).all()


def test_several_faces_leave_frames_without_one_empty():
    with drawn_rows(10, frames=40, faces=2) as rows:
        assert len(rows.first) == 2
        found = _finished(rows, Finishing(CLASSES, "v", TableFilter()))
    without = found.status == "no_face"
    assert without.any()
    assert np.isnan(found.prob[without]).all()
    assert (found.label[without] == -1).all()


def test_unsure_rows_have_no_label():
    with drawn_rows(10, frames=40, faces=1) as rows:
        sure = _finished(rows, Finishing(CLASSES, "v"))
        found = _finished(rows, Finishing(CLASSES, "v", abstain=0.6))
    np.testing.assert_array_equal(found.label, np.where(sure.confidence >= 0.6, sure.label, -1))
    assert 0 < (found.label >= 0).sum() < (sure.label >= 0).sum()
    np.testing.assert_array_equal(found.prob, sure.prob)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"filter": TableFilter(window=Span(2.0, seconds=True))}, "a window of seconds"),
        ({"every": 2}, "every=1"),
        ({"causal": False}, "causal=True"),
    ],
)
def test_live_refuses_what_it_cannot_do(changed, message):
    how = Finishing(CLASSES, "v", causal=True)
    with pytest.raises(FerJaxError, match=message):
        LiveRows(dataclasses.replace(how, **changed))
