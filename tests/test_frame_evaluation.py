"""Reports on frames against scikit-learn and plain loops, by both ways in, and what is refused."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
import sklearn.metrics
from affwild2_trees import write_frames, write_labels
from test_frames import write_table
from tiny_bundles import write_tiny_bundle

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.errors import FerJaxError
from fer_jax.evaluate import frame_evaluation
from fer_jax.evaluate.calibrate import in_bundle_order
from fer_jax.evaluate.filters import Filter
from fer_jax.evaluate.frame_evaluation import FrameOptions, evaluate_predictions
from fer_jax.evaluate.frame_report import frame_report_text
from fer_jax.evaluate.intervals import bootstrap_videos, compare_videos
from fer_jax.labels import label_space
from fer_jax.predict.confidence import calibrated
from fer_jax.predict.table import read_csv

CLASSES = label_space("affwild2_expr").classes
LENGTHS = {"a": 40, "b_left": 25, "c&<d>": 33, "d": 30}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Labels in stretches with gaps, and two predictors that miss some frames."""
    root, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    labels, rows = {}, []
    for video, length in LENGTHS.items():
        stretches = np.repeat(rng.permutation(8), -(-length // 8))[:length]
        labels[video] = np.where(rng.random(length) < 0.1, -1, stretches).tolist()
        write_labels(root / "aff", "validation", video, labels[video])
        seen = rng.random(length) < 0.8
        rows += [(video, i + 1) for i in np.flatnonzero(seen) if video != "d"]
    for name, skill in (("strong", 3.0), ("weak", 0.5)):
        scores = rng.gamma(1.0, 1.0, (len(rows), 8))
        for score, (video, frame) in zip(scores, rows, strict=True):
            score[labels[video][frame - 1]] += skill * rng.random()
        raw = scores / scores.sum(axis=1, keepdims=True)
        write_table(root / f"{name}.csv", [(f"x/{v}.mp4", f) for v, f in rows], raw=raw)
    return root, labels


def _filled(root, labels, name="strong", window=1):
    """Truth, choice and whether it was seen, in loops: a box over what was seen, then held."""
    table = read_csv(root / f"{name}.csv")
    of = {
        (video[2:-4], frame): row.astype(np.float64)
        for video, frame, row in zip(table.video, table.frame, table.raw, strict=True)
    }
    truth, rows, seen, videos = [], [], [], []
    for video in sorted(labels):
        frames = range(1, len(labels[video]) + 1)
        smooth = {}
        for frame in frames:
            near = range(frame - window // 2, frame + window // 2 + 1)
            if (video, frame) in of:
                smooth[frame] = np.mean([of[video, f] for f in near if (video, f) in of], axis=0)
        for frame in frames:
            before = [f for f in smooth if f <= frame] or list(smooth)[:1]
            if labels[video][frame - 1] >= 0:
                truth.append(labels[video][frame - 1])
                rows.append(smooth[before[-1]] if before else np.full(8, 1 / 8))
                seen.append(frame in smooth)
                videos.append(video)
    return np.array(truth), np.stack(rows), np.array(seen), np.array(videos)


@pytest.fixture(scope="module")
def report(tree):
    root, _ = tree
    out = root / "report"
    said = []
    metrics = evaluate_predictions(
        [root / "strong.csv"], root / "aff", "validation", out,
        options=FrameOptions(Filter("box", 5), calibrate="vector"),
        compare=[root / "weak.csv"], say=said.append,
    )  # fmt: skip
    note = "1 of 4 videos have no prediction: d."
    assert said == [note, f"{root / 'weak.csv'}: {note}"]
    assert metrics["notes"][:1] + metrics["notes"][-1:] == said
    return metrics, out


def test_scores_equal_scikit_learn(tree, report):
    metrics, _ = report
    for rows, window in (("frames", 1), ("smoothed", 5)):
        truth, filled, seen, _ = _filled(*tree, window=window)
        for over, mask in (("all", np.ones_like(seen)), ("observed", seen)):
            found, chosen = metrics["results"][rows][over], filled[mask].argmax(axis=1)
            options = {"labels": range(8), "zero_division": 0}
            f1 = sklearn.metrics.f1_score(truth[mask], chosen, average=None, **options)
            assert found["macro_f1"]["value"] == pytest.approx(f1.mean(), abs=1e-12)
            np.testing.assert_allclose([c["f1"] for c in found["classes"]], f1, atol=1e-12)
            right = sklearn.metrics.accuracy_score(truth[mask], chosen)
            assert found["accuracy"]["value"] == pytest.approx(right, abs=1e-12)
            balanced = sklearn.metrics.balanced_accuracy_score(truth[mask], chosen)
            assert found["balanced_accuracy"]["value"] == pytest.approx(balanced, abs=1e-12)
            counts = sklearn.metrics.confusion_matrix(truth[mask], chosen, labels=range(8))
            assert found["confusion"]["counts"] == counts.tolist()
            assert found["frames"] == mask.sum()
            assert found["macro_f1"]["low"] < found["macro_f1"]["value"]
    assert metrics["macro_f1"] == metrics["results"]["smoothed"]["all"]["macro_f1"]
    assert metrics["rows"] == "smoothed"
    truth, _, seen, _ = _filled(*tree)
    unlabelled = sum(LENGTHS.values()) - len(truth)
    assert metrics["frames"] == {
        "labelled": len(truth),
        "without_prediction": int((~seen).sum()),
        "without_label": unlabelled,
        "videos": 4,
    }


def test_reliability_equals_a_plain_loop(tree, report):
    found = report[0]["results"]["frames"]["all"]["calibration"]
    truth, rows, _, _ = _filled(*tree)
    pairs = [(rows.max(axis=1), rows.argmax(axis=1) == truth, found["equal_width"])]
    pairs += [(rows[:, i], truth == i, found["classes"][i]) for i in range(8)]
    for confidence, right, ours in pairs:
        members = [[] for _ in range(15)]
        for c, r in zip(confidence, right, strict=True):
            members[max(int(np.ceil(np.float32(c) * np.float32(15))) - 1, 0)].append((c, r))
        gaps = [abs(sum(r - c for c, r in one)) for one in members]
        assert ours["error"]["value"] == pytest.approx(sum(gaps) / len(truth), abs=1e-6)
        assert [b["frames"] for b in ours["bins"]] == [len(one) for one in members if one]
        assert ours["error"]["low"] <= ours["error"]["high"]
    assert sum(b["frames"] for b in found["equal_mass"]["bins"]) == len(truth)


def _by_video(truth, rows, videos):
    matrices = []
    for video in sorted(LENGTHS):
        own = videos == video
        chosen = rows[own].argmax(axis=1)
        matrices.append(sklearn.metrics.confusion_matrix(truth[own], chosen, labels=range(8)))
    return np.stack(matrices)


def test_comparisons_are_of_the_same_frames(tree, report):
    metrics, _ = report
    confusions = {}
    for name in ("strong", "weak"):
        for window in (1, 5):
            truth, rows, _, videos = _filled(*tree, name=name, window=window)
            confusions[name, window] = _by_video(truth, rows, videos)
    for rows, window in (("frames", 1), ("smoothed", 5)):
        expected = compare_videos(confusions["strong", window], confusions["weak", window])
        assert metrics["compared_with"][rows] == vars(expected)
        assert expected.difference > 0.1
    gain = compare_videos(confusions["strong", 5], confusions["strong", 1])
    assert metrics["smoothing_gain"] == vars(gain)


def test_videos_from_the_worst(tree, report):
    metrics, _ = report
    truth, rows, seen, videos = _filled(*tree, window=5)
    right = rows.argmax(axis=1) == truth
    expected = sorted(LENGTHS, key=lambda video: right[videos == video].mean())
    assert [one["video"] for one in metrics["videos"]] == expected
    for one in metrics["videos"]:
        own = videos == one["video"]
        assert one["accuracy"] == pytest.approx(right[own].mean())
        assert one["without_prediction"] == (~seen & own).sum()
        most = one["most_often"]
        pair = CLASSES.index(most["true"]), CLASSES.index(most["predicted"])
        taken = (truth == pair[0]) & (rows.argmax(axis=1) == pair[1]) & own
        assert most["frames"] == taken.sum()


def test_the_table_holds_every_frame(tree, report):
    _, out = report
    table = read_csv(out / "predictions.csv")
    assert len(table) == sum(LENGTHS.values())
    assert np.isnan(table.raw).all(axis=1).sum() == (table.status == "no_face").sum()
    assert set(table.fill[table.video == "d"]) == {"prior"}
    assert set(table.fill[table.status == "ok"]) == {"none"}
    np.testing.assert_allclose(table.prob.sum(axis=1), 1, rtol=1e-5)
    source = read_csv(tree[0] / "strong.csv")
    seen = table.status == "ok"
    order = np.lexsort((source.frame, source.video.astype(str)))
    np.testing.assert_array_equal(table.raw[seen], source.raw[order])


def test_files_of_the_report(report):
    metrics, out = report
    names = ["metrics.json", "predictions.csv", "report.html", "table.md"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert (out / "table.md").read_text() == frame_report_text(metrics)
    page = (out / "report.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) == 5
    for address in addresses:
        kind, _, content = address.partition(",")
        assert kind == "data:image/png;base64"
        picture = np.frombuffer(base64.b64decode(content), np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR) is not None
    assert "c&amp;&lt;d&gt;" in page
    assert "<d>" not in page
    for text in ("0 None", "nan", "None"):
        assert text not in re.sub(r'src="[^"]*"', "", page)


def test_strips_show_labels_and_choices(tree, report):
    """The picture of a video, read back: its first line is the labels, in their colours."""
    metrics, out = report
    _, labels = tree
    page = (out / "report.html").read_text()
    strip = page.split('<div class="strip">')[1]
    content = re.search(r"base64,([^\"]*)", strip)[1]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), 1)
    own = labels[metrics["videos"][0]["video"]]
    assert picture.shape == (14, len(own), 3)
    colours = {label: {tuple(picture[0, i]) for i in np.flatnonzero(np.equal(own, label))}
               for label in set(own)}  # fmt: skip
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours)


def test_calibration_says_what_it_is_worth_elsewhere(report):
    found = report[0]["fitted_calibration"]
    assert found["calibration"]["kind"] == "vector"
    assert found["calibration"]["refers_to"] == "smoothed"
    smoothing = report[0]["smoothing"] | {"fill": "hold"}
    assert found["calibration"]["smoothing"] == smoothing
    assert found["after"] < found["before"]
    assert found["after"] < found["after_left_out"]
    assert "stored_in" not in found


def test_people_of_one_film_are_drawn_and_left_out_together(tmp_path, monkeypatch):
    rng, rows, lines = np.random.default_rng(5), [], ["video,frame,label"]
    for video in ("a_left", "a_right", "b", "c"):
        rows += [(f"{video}.mp4", i) for i in range(1, 21)]
        lines += [f"{video},{i},{rng.integers(0, 3)}" for i in range(1, 21)]
    raw = rng.dirichlet(np.ones(8), len(rows))
    write_table(tmp_path / "p.csv", rows, raw=raw)
    (tmp_path / "l.csv").write_text("\n".join(lines) + "\n")
    given, fit = [], frame_evaluation.calibrate
    monkeypatch.setattr(
        frame_evaluation, "calibrate", lambda *a, **k: (given.append(a[3]), fit(*a, **k))[1]
    )
    metrics = evaluate_predictions(
        [tmp_path / "p.csv"], tmp_path / "l.csv", "validation", tmp_path / "out",
        options=FrameOptions(calibrate="temperature"),
    )  # fmt: skip
    np.testing.assert_array_equal(given[0], np.repeat([0, 0, 1, 2], 20))
    assert [one["frames"] for one in metrics["videos"]] == [20] * 4
    truth = np.array([int(line.split(",")[2]) for line in lines[1:]])
    tables = [
        sklearn.metrics.confusion_matrix(truth[own], raw[own].argmax(axis=1), labels=range(8))
        for own in (slice(40), slice(40, 60), slice(60, 80))
    ]
    low, high = bootstrap_videos(np.stack(tables)).accuracy.tolist()
    assert metrics["accuracy"]["low"] == low
    assert metrics["accuracy"]["high"] == high


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path / "bundle", labels="affwild2_expr")


def test_calibration_is_stored_in_the_bundle(tree, bundle, tmp_path, capsys):
    root, _ = tree
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    command = ["evaluate", "--predictions", str(root / "strong.csv"), "--labels", str(root / "aff")]
    command += ["--bundle", str(bundle), "--calibrate", "temperature", "--out", str(tmp_path / "o")]
    assert main(command) == 0
    assert f"temperature, stored in {bundle}: error" in capsys.readouterr().out
    stored = load_bundle(bundle).calibration
    assert stored["kind"] == "temperature"
    assert stored["refers_to"] == "frames"
    assert "smoothing" not in stored
    after = {file.name: file.read_bytes() for file in bundle.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"bundle.json"}
    rows = np.array([[0.5, 0.25, 0.25]])
    odds = rows ** (1 / stored["temperature"])
    np.testing.assert_allclose(calibrated(rows, stored), odds / odds.sum(), rtol=1e-6)


def test_a_vector_is_stored_in_the_bundles_order(bundle):
    numbers = {"scale": list(range(8)), "offset": [0.5] * 8}
    stored = in_bundle_order(bundle, {"kind": "vector", **numbers}, CLASSES[::-1])
    assert stored["scale"] == [7, 6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(FerJaxError, match=r"its classes are Neutral.*calibration is of Anger"):
        in_bundle_order(bundle, {"kind": "vector", **numbers}, label_space("expw").classes)


def _evaluate(root, out, *arguments, name="strong"):
    files = ("--predictions", root / f"{name}.csv", "--labels", root / "aff", "--out", out)
    return main(["evaluate", *map(str, (*files, *arguments))])


def test_a_bundle_that_cannot_hold_the_calibration_is_told_before_the_work(
    tree, tmp_path, capsys, monkeypatch
):
    other = write_tiny_bundle(tmp_path / "other", labels="expw")
    monkeypatch.setattr("fer_jax.evaluate.frame_evaluation.predicted", None)  # the work
    for bundle, message in ((other, "its classes are Anger"), (tmp_path / "no", "no bundle")):
        out = tmp_path / "out"
        assert _evaluate(tree[0], out, "--calibrate", "vector", "--bundle", bundle) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_a_calibration_without_a_bundle_is_said_to_be_stored_in_none(tree, tmp_path, capsys):
    assert _evaluate(tree[0], tmp_path / "out", "--calibrate", "temperature") == 0
    assert "the calibration is stored in no bundle" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_leaves_all_as_it_was(
    tree, bundle, tmp_path, monkeypatch, capsys
):
    root, _ = tree
    out = tmp_path / "out"
    assert _evaluate(root, out) == 0
    before = {file.name: file.read_bytes() for file in (*out.iterdir(), *bundle.iterdir())}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fer_jax.evaluate.frame_page.page", full)
    options = ("--overwrite", "--calibrate", "temperature", "--bundle", bundle)
    assert _evaluate(root, out, *options, name="weak") == 1
    assert f"{out}/" in capsys.readouterr().err
    after = {file.name: file.read_bytes() for file in (*out.iterdir(), *bundle.iterdir())}
    assert after == before


def test_bundle_and_table_of_its_predictions_score_alike(bundle, tmp_path, capsys):
    root, rng = tmp_path / "aff", np.random.default_rng(1)
    for number, video in enumerate("abc"):
        write_labels(root, "validation", video, rng.integers(-1, 8, 12 + number))
        write_frames(root, video, range(2, 10))
    write_labels(root, "train", "t", [1, 2])
    write_frames(root, "t", [1, 2])
    data, crops, table = tmp_path / "data", root / "cropped_aligned", str(tmp_path / "p.csv")
    smooth = ["--smooth", "gaussian:3", "--out"]
    commands = [
        ["prepare", "affwild2", str(root), "--unlabelled", "--out", str(data)],
        ["predict", "--crops", "--bundle", str(bundle), str(crops), "--out", table],
        ["evaluate", "--bundle", str(bundle), "--data", str(data), "--compare", table, *smooth],
        ["evaluate", "--predictions", table, "--labels", str(root), *smooth],
    ]
    commands[2].append(str(tmp_path / "one"))
    commands[3].append(str(tmp_path / "two"))
    for command in commands:
        assert main(command) == 0, command
    printed = capsys.readouterr()
    assert "passed over: t." in printed.err
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert one["frames"] == two["frames"]
    assert one["frames"]["without_prediction"] > 0
    for rows in ("frames", "smoothed"):
        for over in ("all", "observed"):
            counts = [m["results"][rows][over]["confusion"]["counts"] for m in (one, two)]
            assert counts[0] == counts[1]
        assert one["compared_with"][rows]["difference"] == 0
    tables = [read_csv(tmp_path / n / "predictions.csv") for n in ("one", "two")]
    assert (tables[0].status == "ok").sum() == 3 * 8  # those without a label too
    np.testing.assert_allclose(tables[0].prob, tables[1].prob, atol=1e-5)
    assert one["bundle"]["params_sha256"]
    assert one["compared_with"]["name"] == str(tmp_path / "p.csv")
    assert len(two["predictions"]["sha256"][0]) == 64


def test_a_single_video_has_scores_without_intervals(tmp_path):
    write_table(tmp_path / "p.csv", [("v.mp4", i) for i in range(1, 9)])
    (tmp_path / "l.csv").write_text(
        "video,frame,label\n" + "".join(f"v,{i},{i % 3}\n" for i in range(1, 9))
    )
    metrics = evaluate_predictions(
        [tmp_path / "p.csv"], tmp_path / "l.csv", "validation", tmp_path / "out",
        options=FrameOptions(Filter("median", 3)),
    )  # fmt: skip
    assert metrics["macro_f1"]["low"] is None
    assert metrics["smoothing_gain"] is None
    text = (tmp_path / "out" / "table.md").read_text()
    page = re.sub(r'src="[^"]*"', "", (tmp_path / "out" / "report.html").read_text())
    assert "None" not in text + page
    assert "no frame of Fear, Happiness, Sadness, Surprise, Other: its F1 is 0" in text


def test_nothing_to_score_is_refused(tmp_path):
    write_table(tmp_path / "p.csv", [("v.mp4", 1)])
    (tmp_path / "l.csv").write_text("video,frame,label\nv,1,-1\n")
    arguments = ([tmp_path / "p.csv"], tmp_path / "l.csv", "validation", tmp_path / "out")
    with pytest.raises(FerJaxError, match=r"l\.csv: no frame has a label of the predictions' cla"):
        evaluate_predictions(*arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name --bundle B and --data DATA, or --predictions P"),
        (["--bundle", "b"], "name --bundle B and --data DATA"),
        (["--predictions", "p"], "--labels is missing"),
        (["--predictions", "p", "--labels", "l", "--data", "d"], "--data goes with --bundle"),
        (["--predictions", "p", "--labels", "l", "--bundle", "b"], "says where --calibrate stores"),
        (["--bundle", "b", "--data", "d", "--labels", "l"], "--labels goes with --predictions"),
        (["--predictions", "p", "--labels", "l", "--smooth", "box:2"], "must be KERNEL:WINDOW"),
        (["--predictions", "p", "--labels", "l", "--calibrate", "x"], "must be one of temperature"),
    ],
)
def test_wrong_use_is_one_line(arguments, message, tmp_path, capsys):
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_wrong_fill_and_a_report_in_the_way(tree, report, capsys):
    root, _ = tree
    command = ["evaluate", "--predictions", str(root / "strong.csv"), "--labels", str(root / "aff")]
    assert main([*command, "--out", str(root / "new"), "--fill", "guess"]) == 2
    assert "--fill 'guess': must be one of hold, nearest" in capsys.readouterr().err
    assert main([*command, "--out", str(report[1])]) == 1
    assert "exists already" in capsys.readouterr().err
