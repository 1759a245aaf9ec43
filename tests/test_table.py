"""The prediction table: to CSV and back, bit for bit, and what is refused on the way."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.predict.table import PredictionTable, read_csv

EXPW = label_space("expw").classes


def _table(rows: int = 3) -> PredictionTable:
    rng = np.random.default_rng(5)
    raw, prob = rng.dirichlet(np.ones(8), (2, rows)).astype(np.float32)
    raw[1:2] = prob[1:2] = np.nan
    box = rng.uniform(-5, 300, (rows, 4))
    box[1:2] = np.nan
    return PredictionTable.from_probabilities(
        label_space("affwild2_expr").classes,
        video=['with "quotes", a comma', "line\nbreak\r.mp4", "byte\udcff.png"][:rows],
        frame=range(1, rows + 1),
        time_s=[0.0, 1 / 3, 1e-9][:rows],
        face_id=[0, -1, 12][:rows],
        box=box,
        status=["ok", "no_face", "low_quality"][:rows],
        fill=["none", "hold", "prior"][:rows],
        raw=raw,
        prob=prob,
    )


def assert_tables_equal(found: PredictionTable, expected: PredictionTable) -> None:
    assert found.classes == expected.classes
    for name, column in vars(expected).items():
        if name != "classes":
            assert getattr(found, name).dtype == column.dtype, name
            np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)


def test_columns_are_those_of_the_design(tmp_path):
    _table().to_csv(tmp_path / "t.csv")
    expected = (
        "video,frame,time_s,face_id,box_x,box_y,box_w,box_h,status,fill,"
        "raw_Neutral,raw_Anger,raw_Disgust,raw_Fear,"
        "raw_Happiness,raw_Sadness,raw_Surprise,raw_Other,"
        "prob_Neutral,prob_Anger,prob_Disgust,prob_Fear,"
        "prob_Happiness,prob_Sadness,prob_Surprise,prob_Other,"
        "label,confidence"
    )
    text = (tmp_path / "t.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert text.splitlines()[0] == expected
    assert '"line\nbreak\r.mp4",2,0.3333333333333333,-1,,,,,no_face,hold,,,' in text


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_csv_reads_back_bit_for_bit(tmp_path, rows):
    table = _table(rows) if rows else _empty()
    table.to_csv(tmp_path / "t.csv")
    assert_tables_equal(read_csv(tmp_path / "t.csv"), table)


def _empty() -> PredictionTable:
    nothing = {name: [] for name in ("video", "frame", "time_s", "face_id", "status", "fill")}
    return PredictionTable.from_probabilities(EXPW, box=np.zeros((0, 4)), raw=[], **nothing)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=())),
)
def test_any_number_and_name_reads_back(tmp_path_factory, numbers, time, name):
    table = PredictionTable.from_probabilities(
        ("Yes", "No"),
        video=[name],
        frame=[1],
        time_s=[time],
        face_id=[0],
        box=[[time, 1, 2, 3]],
        status=["ok"],
        fill=["none"],
        raw=[numbers],
    )
    file = tmp_path_factory.mktemp("any") / "t.csv"
    try:
        table.to_csv(file)
    except UnicodeEncodeError:  # a lone surrogate that no file system makes
        return
    assert_tables_equal(read_csv(file), table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("raw_Fear", "raw_Fright"), "differs at column 'prob_Fright'"),
        (lambda text: text.replace("video,frame", "frame,video"), "differs at column 'frame'"),
        (lambda text: text.replace("confidence", "confidence,extra"), "at column 'extra'"),
        (lambda text: "", "differs at column 'video'"),
        (lambda text: text[: text.rindex(",")], r"t\.csv, row 3: 27 values for 28 columns"),
        (lambda text: text.replace("0.3333333333333333", "soon"), "row 2: time_s is 'soon', not"),
        (lambda text: text.replace('mp4",2,', 'mp4",,'), "row 2: frame is '', not a number"),
        (lambda text: text.replace("no_face", "gone"), "status 'gone'; one of ok, no_face"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, change, message):
    file = tmp_path / "t.csv"
    _table().to_csv(file)
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    assert change(text) != text
    file.write_bytes(change(text).encode("utf-8", "surrogateescape"))
    with pytest.raises(FerJaxError, match=message):
        read_csv(file)


def test_unknown_label_in_a_table_is_refused(tmp_path):
    file = tmp_path / "t.csv"
    table = _table(1)
    table.to_csv(file)
    file.write_text(file.read_text().replace(f",{table.labels[0]},", ",Bored,"))
    with pytest.raises(FerJaxError, match=r"label 'Bored' is not among the columns; one of Neutr"):
        read_csv(file)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(FerJaxError, match="different lengths"):
        PredictionTable(**{**vars(_table()), "frame": np.arange(2)})


def test_pandas_is_asked_for_where_it_is_missing(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pandas" else find_spec(name)
    )
    with pytest.raises(FerJaxError, match=r"pip install 'fer-jax\[pandas\]'"):
        _table().to_pandas()


def test_pandas_frame_has_the_same_columns():
    pytest.importorskip("pandas")
    table = _table()
    frame = table.to_pandas()
    assert tuple(frame.columns) == table.columns
    assert frame["label"].tolist() == table.labels.tolist()
