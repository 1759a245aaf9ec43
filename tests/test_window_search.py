"""The search on films whose best filter is known; nested against a plain loop; the command."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score
from tiny_bundles import write_tiny_bundle

from fer_jax.bundle import load_bundle, update_document
from fer_jax.cli.main import main
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.evaluate.filters import NONE, Filter, filters, parse_filter
from fer_jax.evaluate.frames import Timeline
from fer_jax.evaluate.smooth_table import smooth_table
from fer_jax.evaluate.window_search import (
    search_document,
    search_text,
    search_windows,
    store_smoothing,
)
from fer_jax.labels import label_space
from fer_jax.ops.smoothing import smooth_probabilities
from fer_jax.predict.table import PredictionTable, read_csv
from fer_jax.predict.time_filter import Span, TableFilter

CLASSES = label_space("affwild2_expr").classes
WINDOWS = (5, 15, 61)


def _films(videos=8, frames=160, noise=0.62, seed=0):
    """Expressions that last 20 frames, seen through noise: a window of 15 is about right."""
    rng = np.random.default_rng(seed)
    total = videos * frames
    label = (np.arange(total) // 20 + np.repeat(rng.integers(0, 3, videos), frames)) % 3
    guess = np.where(rng.random(total) < noise, rng.integers(0, 3, total), label)
    probabilities = rng.dirichlet(np.ones(3), total) * 0.4
    probabilities[np.arange(total), guess] += 0.6
    observed = (rng.random(total) > 0.1).astype(np.float32)
    return Timeline(
        classes=CLASSES[:3],
        videos=tuple(f"v{i // 2}{('_left', '_right')[i % 2]}" for i in range(videos)),
        segment=np.repeat(np.arange(videos, dtype=np.int32), frames),
        frame=np.tile(np.arange(1, frames + 1), videos),
        observed=observed,
        probabilities=(probabilities * observed[:, None]).astype(np.float32),
        label=np.where(rng.random(total) < 0.05, -1, label).astype(np.int32),
    )


@pytest.fixture(scope="module")
def films():
    return _films()


@pytest.fixture(scope="module")
def search(films):
    return search_windows(films, filters(["box", "majority"], WINDOWS), folds=3)


def test_a_calibration_of_another_filter_goes(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "b", labels="affwild2_expr")
    box = {"kernel": "box", "window": 5, "stride": 1, "lookahead": None, "fill": "hold"}
    scaled = {"kind": "temperature", "temperature": 2.0, "of": "log_probabilities"}
    for calibration, kept in (
        ({"refers_to": "frames"}, True),
        ({"refers_to": "smoothed", "smoothing": box}, True),
        ({"refers_to": "smoothed", "smoothing": box | {"window": 7}}, False),
        ({"refers_to": "smoothed"}, False),
    ):
        update_document(bundle, calibration=scaled | calibration)
        note = store_smoothing(bundle, box)
        loaded = load_bundle(bundle)
        assert loaded.smoothing == box
        assert loaded.calibration == (scaled | calibration if kept else None)
        assert note is None if kept else "is taken out" in note


def test_finds_the_filter_that_helps(search):
    assert [str(f) for f in search.filters] == [
        "none", "box of 5", "box of 15", "box of 61",
        "majority of 5", "majority of 15", "majority of 61",
    ]  # fmt: skip
    assert search.filters[search.chosen].window == 15
    assert search.gain.low > 0
    low, high = search.intervals.macro_f1
    assert low < search.gain.difference + search.macro_f1()[0] < high


def _predictions(films, filter_):
    if filter_ == NONE:
        filter_ = Filter("box", 1)
    rows, _ = smooth_probabilities(
        films.probabilities, films.observed, segments=films.segment, kernel=filter_.kernel,
        window=filter_.window,
    )  # fmt: skip
    return np.asarray(rows).argmax(1)


def test_left_out_scores_equal_a_plain_loop(films, search):
    """The same, from predictions and scikit-learn's macro-F1; no confusion matrix is added."""
    predicted = [_predictions(films, filter_) for filter_ in search.filters]

    def score(guess, rows):
        rows = rows & (films.label >= 0)
        return f1_score(
            films.label[rows], guess[rows], labels=[0, 1, 2], average="macro", zero_division=0
        )

    everything = np.ones(len(films), bool)
    expected = [score(guess, everything) for guess in predicted]
    np.testing.assert_allclose(search.macro_f1(), expected, rtol=0, atol=1e-12)
    joined = np.full(len(films), -1)
    for fold in range(3):
        own = search.fold[films.segment] == fold
        best = int(np.argmax([score(guess, ~own) for guess in predicted]))
        assert search.chosen_without[fold] == best
        joined[own] = predicted[best][own]
    found = search_document(search, films, "hold")
    assert found["left_out"]["macro_f1"] == pytest.approx(score(joined, everything), abs=1e-12)
    assert found["without"]["macro_f1"] == pytest.approx(score(predicted[0], everything), abs=1e-12)
    gains = [one["gain"] for one in found["classes"]]
    difference = found["left_out"]["macro_f1"] - found["without"]["macro_f1"]
    assert np.mean(gains) == pytest.approx(difference, abs=1e-12)
    assert found["gain"]["difference"] == pytest.approx(difference, abs=1e-12)


def test_people_of_one_video_share_a_fold(search, films):
    assert sorted(set(search.fold.tolist())) == [0, 1, 2]
    assert (search.fold[::2] == search.fold[1::2]).all()  # v0_left and v0_right, ...


def test_the_choice_does_not_see_the_videos_that_it_is_judged_on():
    """Chance alone: the best of many filters looks good where it was chosen, not elsewhere."""
    films = _films(videos=12, frames=40, noise=1.0)
    search = search_windows(films, filters(["box", "triangular"], [3, 5, 7, 9, 11]), folds=4)
    document = search_document(search, films, "hold")
    assert document["chosen_on_all"]["macro_f1"] > document["left_out"]["macro_f1"]
    # Other labels in one fold change what is chosen for the others at most, never for itself.
    other = _films(videos=12, frames=40, noise=1.0)
    own = search.fold[other.segment] == 0
    other.label[own] = (other.label[own] + 1) % 3
    again = search_windows(other, search.filters, folds=4)
    np.testing.assert_array_equal(again.fold, search.fold)
    assert again.chosen_without[0] == search.chosen_without[0]


def test_report_names_the_choice(search, films):
    text = search_text(search_document(search, films, "hold"))
    assert text.startswith(f"# smoothing: {search.filters[search.chosen]}\n")
    assert "| chosen on the other videos |" in text
    for name in films.classes:
        assert f"| {name} |" in text


def test_one_video_cannot_be_divided():
    with pytest.raises(FerJaxError, match="1 video with labels cannot be divided"):
        search_windows(_films(videos=2), filters(["box"], [5]))  # two people of v0


@pytest.mark.parametrize("text", ["box", "box:4", "box:-3", "box:x", "flat:3", "box:0"])
def test_smoothing_is_read(text):
    assert parse_filter("majority:31") == Filter("majority", 31)
    with pytest.raises(UsageError, match=f"--smooth '{text}': must be KERNEL:WINDOW, of box"):
        parse_filter(text)


# The command.


def _table(films, path, times=True):
    """A table whose frames without a face have a row, and its labels as CSV."""
    rows = len(films)
    seen = films.observed > 0
    raw = np.zeros((rows, 8), np.float32)
    raw[:, :3] = films.probabilities
    raw[~seen] = np.nan
    box = np.where(seen[:, None], [[0.0, 0.0, 9.0, 9.0]], np.nan)
    video = np.asarray(films.videos, object)[films.segment]
    PredictionTable.from_probabilities(
        CLASSES,
        video=video,
        frame=films.frame,
        time_s=(films.frame - 1) / 30 if times else np.zeros(rows),
        face_id=np.where(seen, 0, -1),
        box=box,
        status=np.where(seen, "ok", "no_face").astype(object),
        fill=["none"] * rows,
        raw=raw,
    ).to_csv(path)
    lines = [f"{v},{f},{y}" for v, f, y in zip(video, films.frame, films.label, strict=True)]
    (path.parent / "labels.csv").write_text("\n".join(["video,frame,label", *lines]) + "\n")


def test_smooths_a_table(films, tmp_path, capsys):
    _table(films, tmp_path / "p.csv")
    out = tmp_path / "out"
    arguments = ["smooth", str(tmp_path / "p.csv"), "--out", str(out)]
    assert main([*arguments, "--kernel", "gaussian", "--window", "15", "--fill", "linear"]) == 0
    before, after = read_csv(tmp_path / "p.csv"), read_csv(out / "p.csv")
    expected, how = smooth_probabilities(
        np.nan_to_num(before.raw), films.observed, segments=films.segment, kernel="gaussian",
        window=15, fill="linear",
    )  # fmt: skip
    np.testing.assert_array_equal(after.prob, expected)
    np.testing.assert_array_equal(after.raw, before.raw)
    assert set(after.fill[films.observed == 0]) == {"linear", "nearest"}
    assert (after.fill == "none").sum() == films.observed.sum()
    assert (after.label == after.prob.argmax(1)).all()
    assert (
        f"{len(films):,} rows, {int((how > 0).sum()):,} of them filled" in capsys.readouterr().out
    )
    # Half a second at 30 frames a second, the nearest odd number.
    assert main([*arguments, "--kernel", "gaussian", "--window", "0.5s", "--fill", "linear"]) == 2
    assert "exists already; name another folder, or add --overwrite" in capsys.readouterr().err
    arguments += ["--overwrite", "--kernel", "gaussian", "--fill", "linear"]
    assert main([*arguments, "--window", "0.5s"]) == 0
    np.testing.assert_array_equal(read_csv(out / "p.csv").prob, after.prob)


def test_faces_are_smoothed_apart_and_images_are_frames_of_their_folder(tmp_path):
    raw = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [np.nan, np.nan], [0, 1]], np.float32)
    common = {
        "time_s": np.zeros(6), "box": np.full((6, 4), np.nan), "fill": ["none"] * 6, "raw": raw,
    }  # fmt: skip
    status = ["ok"] * 4 + ["no_face", "ok"]
    PredictionTable.from_probabilities(
        CLASSES[:2], video=["two.mp4"] * 6, frame=[1, 1, 2, 2, 3, 4], face_id=[0, 1, 0, 1, -1, 1],
        status=status, **common,
    ).to_csv(tmp_path / "two.csv")  # fmt: skip
    numbers = (1, 5, 2, 4, 3, 6)
    PredictionTable.from_probabilities(
        CLASSES[:2], video=[f"a/film/{i:05d}.jpg" for i in numbers], frame=[1] * 6,
        face_id=[0, 0, 0, 0, -1, 0], status=status, **common,
    ).to_csv(tmp_path / "images.csv")  # fmt: skip
    out = str(tmp_path / "out")
    files = [str(tmp_path / name) for name in ("two.csv", "images.csv")]
    assert main(["smooth", *files, "--out", out, "--window", "3"]) == 0
    two, images = (read_csv(tmp_path / "out" / name) for name in ("two.csv", "images.csv"))
    nan = np.nan  # two faces: whose would the frame without one be?
    np.testing.assert_array_equal(two.prob[:, 0], np.float32([1, 0, 1, 0, nan, 0]))
    # Frames 1, 2 are (1, 0), 4, 5, 6 are (0, 1), 3 was not seen.
    np.testing.assert_array_equal(images.prob[:, 0], np.float32([1, 0, 1, 0, 1, 0]))
    assert images.fill.tolist() == ["none"] * 4 + ["hold", "none"]


def test_a_face_without_probabilities_is_not_that_of_its_neighbour():
    raw = np.array([[1, 0], [1, 0], [np.nan, np.nan], [np.nan, np.nan], [0, 1]], np.float32)
    table = PredictionTable.from_probabilities(
        CLASSES[:2], video=["v"] * 5, frame=[1, 2, 2, 3, 4], time_s=np.zeros(5),
        face_id=[0, 0, 1, -1, 0], box=np.zeros((5, 4)), fill=["none"] * 5, raw=raw,
        status=["ok", "ok", "low_quality", "no_face", "ok"],
    )  # fmt: skip
    found = smooth_table(table, TableFilter(window=Span(1)))
    np.testing.assert_array_equal(found.prob[:, 0], np.float32([1, 1, np.nan, 1, 0]))
    assert found.fill.tolist() == ["none", "none", "none", "hold", "none"]


def test_search_writes_what_it_found(films, tmp_path, capsys):
    _table(films, tmp_path / "p.csv")
    write_tiny_bundle(tmp_path / "bundle")
    arguments = [
        "smooth", str(tmp_path / "p.csv"), "--search", "--labels", str(tmp_path / "labels.csv"),
        "--out", str(tmp_path / "out"), "--kernels", "box", "--windows", "5", "15", "61",
        "--folds", "3", "--bundle", str(tmp_path / "bundle"),
    ]  # fmt: skip
    assert main(arguments) == 0
    document = json.loads((tmp_path / "out" / "search.json").read_text())
    assert capsys.readouterr().out == (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert document["smoothing"] == {
        "kernel": "box", "window": 15, "stride": 1, "lookahead": None, "fill": "hold",
    }  # fmt: skip
    assert load_bundle(tmp_path / "bundle").smoothing == document["smoothing"]
    assert len(document["grid"]) == 4
    assert main(arguments) == 1
    assert "exists already; remove it, or pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--window is missing"),
        (["--window", "4"], "window=4 has no middle"),
        (["--window", "x"], "--window x: must be frames such as 101, or seconds such as 3.4s"),
        (["--window", "infs"], "--window infs: must be frames"),
        (["--window", "5", "--kernel", "mean"], "no kernel 'mean'; one of box"),
        (["--window", "5", "--fill", "last"], "fill 'last': must be one of hold"),
        (["--window", "5", "--folds", "1", "--labels", "x"], "--labels goes with --search"),
        (["--search"], "--labels is missing"),
        (["--search", "--labels", "x", "--window", "5"], "--window is of one filter, --search tr"),
        (["--search", "--labels", "x", "--kernel", "box"], "--kernel is of one filter"),
        (["--search", "--labels", "x", "--stride", "5"], "--stride is of one filter"),
        (["--window", "5", "--folds", "9"], "--folds goes with --search"),
        (["--window", "5", "--strides", "3"], "--strides goes with --search"),
        (["--window", "5", "--split", "x"], "--split goes with --search"),
        (["--search", "--labels", "x", "--lookahead", "2000"], "lookahead=2000"),
        (["--search", "--labels", "x", "--folds", "1"], "--folds 1 must be at least 2"),
        (["--search", "--labels", "x", "--windows", "5", "8"], "window=8 has no middle"),
        (["--search", "--labels", "x", "--strides", "0"], "stride=0 must be at least 1"),
    ],
)
def test_wrong_use_is_told_before_anything_is_read(tmp_path, capsys, arguments, message):
    assert main(["smooth", "nowhere.csv", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_bundle_that_cannot_hold_a_filter_is_told_before_the_search(tmp_path, capsys):
    arguments = ["smooth", "nowhere.csv", "--search", "--labels", "x", "--out", str(tmp_path / "o")]
    write_tiny_bundle(tmp_path / "encoder", labels=None)
    for name, message in (("no", "no bundle"), ("encoder", "predicts nothing that could be smo")):
        assert main([*arguments, "--bundle", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err


def test_windows_that_nobody_named_fit_the_look_ahead(films, tmp_path, monkeypatch):
    _table(films, tmp_path / "p.csv")
    monkeypatch.setattr("fer_jax.evaluate.filters.WINDOWS", (5, 11, 15))
    arguments = ["smooth", str(tmp_path / "p.csv"), "--search", "--kernels", "box"]
    arguments += ["--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--lookahead", "10"]) == 0
    grid = json.loads((tmp_path / "out" / "search.json").read_text())["grid"]
    assert [one["window"] for one in grid] == [1, 11, 15]


def test_seconds_need_times(films, tmp_path, capsys):
    _table(films, tmp_path / "p.csv", times=False)
    out = str(tmp_path / "out")
    assert main(["smooth", str(tmp_path / "p.csv"), "--out", out, "--window", "1s"]) == 1
    assert "v0_left: the table has no times" in capsys.readouterr().err
