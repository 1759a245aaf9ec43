"""Reports against scikit-learn and the pure function; intervals against plain resampling."""

import dataclasses
import functools
import json

import cv2
import jax
import numpy as np
import pytest
import sklearn.metrics
from pictures import write_picture
from tiny_bundles import noise_faces, tiny_bundle, write_tiny_bundle

from fer_jax.bundle import forward
from fer_jax.cli.main import main
from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.image_folder import read_image_folder
from fer_jax.errors import FerJaxError
from fer_jax.evaluate import evaluation
from fer_jax.evaluate.evaluation import evaluate_bundle
from fer_jax.evaluate.frame_evaluation import FrameOptions
from fer_jax.evaluate.intervals import bootstrap, interval
from fer_jax.evaluate.picture import draw_confusion
from fer_jax.evaluate.report import report_text
from fer_jax.evaluate.shared_classes import shared_classes
from fer_jax.labels import LabelSpace, label_space
from fer_jax.ops.metrics import scores
from fer_jax.predict.recognizer import Recognizer

NUMBER = 45


def _prepare(folder, name: str) -> FaceData:
    """45 validation faces; the label is drawn, so a model can know nothing."""
    space = label_space(name)
    faces = noise_faces(NUMBER, seed=1)
    rng = np.random.default_rng(2)
    for i, face in enumerate(faces):
        label = space.classes[rng.integers(len(space))]
        write_picture(folder / "src" / "validation" / label / f"{i:03d}.png", face)
    write_picture(folder / "src" / "train" / "Anger" / "999.png", faces[0])
    build(*read_image_folder(folder / "src", space), space, folder / "data")
    return FaceData.open(folder / "data")


@pytest.fixture(scope="module")
def expw(tmp_path_factory):
    return _prepare(tmp_path_factory.mktemp("expw"), "expw")


@pytest.fixture(scope="module")
def affectnet8(tmp_path_factory):
    return _prepare(tmp_path_factory.mktemp("affectnet8"), "affectnet8")


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer(tiny_bundle("expw"), batch_size=8)


@pytest.fixture(scope="module")
def eight_classes():
    return Recognizer(tiny_bundle("affwild2_expr"), batch_size=8)


def _truth_and_logits(data: FaceData, recognizer: Recognizer):
    """Labels by name and logits, from the picture files and without the code under test."""
    files = sorted((data.path.parent / "src" / "validation").rglob("*.png"))
    faces = np.stack([cv2.imread(str(file))[..., ::-1] for file in files])
    logits, _ = jax.jit(functools.partial(forward, recognizer.bundle))(faces)
    return [file.parent.name for file in files], np.asarray(logits)


def test_scores_equal_scikit_learn(expw, recognizer, tmp_path):
    metrics = evaluate_bundle(recognizer, expw, "validation", tmp_path / "report")
    truth, logits = _truth_and_logits(expw, recognizer)
    classes = list(expw.label_space.classes)
    predicted = [classes[i] for i in logits.argmax(axis=1)]
    assert len(set(predicted)) > 3
    expected = sklearn.metrics.confusion_matrix(truth, predicted, labels=classes)
    assert metrics["confusion"]["counts"] == expected.tolist()
    options = {"labels": classes, "average": "macro", "zero_division": 0}
    macro = sklearn.metrics.f1_score(truth, predicted, **options)
    assert metrics["macro_f1"]["value"] == pytest.approx(macro, rel=1e-15)
    assert metrics["accuracy"]["value"] == sklearn.metrics.accuracy_score(truth, predicted)
    assert [one["name"] for one in metrics["classes"]] == classes
    assert [one["images"] for one in metrics["classes"]] == [truth.count(name) for name in classes]
    f1 = sklearn.metrics.f1_score(truth, predicted, labels=classes, average=None, zero_division=0)
    np.testing.assert_allclose([one["f1"] for one in metrics["classes"]], f1, rtol=1e-15)
    assert metrics["notes"] == []


def _expected_over(shared: list[str], data: FaceData, recognizer: Recognizer) -> list[list[int]]:
    """The confusion matrix of a bundle that may only say what is in `shared`."""
    truth, logits = _truth_and_logits(data, recognizer)
    logits = logits[:, [recognizer.classes.index(name) for name in shared]]
    predicted = [shared[i] for i in logits.argmax(axis=1)]
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True) if t in shared]
    return sklearn.metrics.confusion_matrix(*zip(*pairs, strict=True), labels=shared).tolist()


def test_few_shared_classes_in_another_order(affectnet8, tmp_path):
    few = Recognizer(tiny_bundle(LabelSpace("few", ("Surprise", "Other", "Neutral", "Fear"))))
    metrics = evaluate_bundle(few, affectnet8, "validation", tmp_path)
    shared = ["Neutral", "Surprise", "Fear"]
    assert metrics["labels"]["scored"] == shared
    assert metrics["confusion"]["counts"] == _expected_over(shared, affectnet8, few)


def test_other_label_space_is_scored_over_the_shared_classes(affectnet8, eight_classes, tmp_path):
    said = []
    metrics = evaluate_bundle(
        eight_classes, affectnet8, "validation", tmp_path / "report", say=said.append
    )
    shared = [name for name in affectnet8.label_space.classes if name != "Contempt"]
    assert metrics["confusion"]["counts"] == _expected_over(shared, affectnet8, eight_classes)
    truth = [file.parent.name for file in (affectnet8.path.parent / "src").rglob("0*.png")]
    contempt = truth.count("Contempt")
    assert contempt > 0
    assert metrics["images"] == {
        "in_split": NUMBER,
        "without_label": 0,
        "of_a_class_not_scored": contempt,
        "scored": NUMBER - contempt,
    }
    assert metrics["labels"]["scored"] == shared
    assert metrics["labels"]["never_predicted"] == ["Other"]
    assert metrics["labels"]["not_scored"] == ["Contempt"]
    assert said == metrics["notes"]
    assert said[0].startswith(
        "labels: affwild2_expr -> affectnet8: loses Other; nothing leads to C"
    )
    assert said[1] == f"{contempt} images of Contempt are not scored: the bundle cannot name it."


def test_spaces_in_another_order_meet_by_name():
    classes = shared_classes(label_space("rafdb"), label_space("expw"))
    assert classes.names == label_space("expw").classes
    assert [label_space("rafdb").classes[i] for i in classes.outputs] == list(classes.names)
    assert classes.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]


def test_spaces_that_hardly_meet_are_refused():
    with pytest.raises(FerJaxError, match="share no class"):
        shared_classes(label_space("expw"), LabelSpace("weather", ("Rain", "Sun")))
    with pytest.raises(FerJaxError, match="share only the class Neutral; there is nothing to choo"):
        shared_classes(label_space("expw"), LabelSpace("calm", ("Neutral", "Not neutral")))


def test_report_files(expw, tmp_path):
    path = write_tiny_bundle(tmp_path / "b")
    out = tmp_path / "deep" / "report"
    metrics = evaluate_bundle(path, str(expw.path), "validation", out, batch_size=8)
    assert sorted(file.name for file in out.iterdir()) == [
        "confusion.png",
        "metrics.json",
        "table.md",
    ]
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert (out / "table.md").read_text() == report_text(metrics)
    picture = cv2.imread(str(out / "confusion.png"))
    assert min(picture.shape[:2]) > 1000
    assert metrics["bundle"]["path"] == str(path)
    assert len(metrics["bundle"]["params_sha256"]) == 64
    assert metrics["bundle"]["provenance"] == {"source": "tests/tiny_bundles.py"}
    assert metrics["data"]["split"] == "validation"
    assert metrics["computed"]["dtype"] == "float32"
    assert metrics["date"].endswith("+00:00")


def test_a_report_is_not_replaced_unasked(expw, recognizer, tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    evaluate_bundle(recognizer, expw, "validation", tmp_path)
    with pytest.raises(FerJaxError, match=r"metrics\.json: exists already; .*--overwrite"):
        evaluate_bundle(recognizer, expw, "validation", tmp_path)
    evaluate_bundle(recognizer, expw, "train", tmp_path, overwrite=True)
    assert json.loads((tmp_path / "metrics.json").read_text())["data"]["split"] == "train"
    assert (tmp_path / "keep.txt").read_text() == "mine"


def test_nothing_stays_when_a_report_cannot_be_written(expw, recognizer, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError, match="No space"):
        evaluate_bundle(recognizer, expw, "validation", tmp_path / "report")
    assert list((tmp_path / "report").iterdir()) == []


def test_a_calibration_of_other_classes_is_refused_before_the_run(expw, tmp_path, monkeypatch):
    path = write_tiny_bundle(tmp_path / "b", labels="affectnet8")
    monkeypatch.setattr("fer_jax.evaluate.evaluation.logits_of", None)  # the run
    options = FrameOptions(calibrate="vector", bundle=path)
    with pytest.raises(FerJaxError, match="Contempt, the calibration is of"):
        evaluate_bundle(path, expw, "validation", tmp_path / "out", options=options)


def test_a_person_is_on_one_side_of_the_halves_of_a_calibration(
    expw, recognizer, tmp_path, monkeypatch
):
    given, subjects = [], np.array(["", "p", "q", "p", ""] * 9 + [""])
    monkeypatch.setitem(expw.index, "subject", subjects)
    fit = evaluation.calibrate
    monkeypatch.setattr(
        evaluation, "calibrate", lambda *a, **k: (given.append(a[3]), fit(*a, **k))[1]
    )
    options = FrameOptions(calibrate="temperature")
    evaluate_bundle(recognizer, expw, "validation", tmp_path, options=options)
    rows = np.flatnonzero(expw.index["split"] == "validation")
    own = subjects[rows]
    alike = given[0][:, None] == given[0][None]
    expected = (own[:, None] == own[None]) & (own != "")[None]
    np.testing.assert_array_equal(alike, expected | np.eye(len(rows), dtype=bool))


def test_absent_class_is_said_to_count(expw, recognizer, tmp_path):
    metrics = evaluate_bundle(recognizer, expw, "train", tmp_path)
    assert metrics["images"]["scored"] == 1
    others = ", ".join(expw.label_space.classes[1:])
    assert metrics["notes"] == [f"no image of {others}: its F1 is 0 and counts in the mean."]


def test_foreign_alignment_is_said(expw, tmp_path):
    bundle = tiny_bundle("expw")
    view = dataclasses.replace(bundle.views["main"], template="arcface_112")
    recognizer = Recognizer(dataclasses.replace(bundle, views={"main": view}), batch_size=8)
    metrics = evaluate_bundle(recognizer, expw, "train", tmp_path)
    assert "aligned as 'as_is', the bundle was trained on 'arcface_112'" in metrics["notes"][-1]


def test_encoder_is_refused(expw, tmp_path):
    encoder = Recognizer(tiny_bundle(labels=None))
    with pytest.raises(FerJaxError, match="kind 'encoder'"):
        evaluate_bundle(encoder, expw, "validation", tmp_path)


def test_intervals_equal_resampling_of_images():
    """Counts of kinds are the images, drawn and left out: the same ends within their noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    predictions = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 4, 300))
    confusion = sklearn.metrics.confusion_matrix(labels, predictions)
    resampled = []
    for _ in range(3000):
        pick = rng.integers(0, 300, 300)
        cells = np.bincount(4 * labels[pick] + predictions[pick], minlength=16)
        resampled.append(scores(cells.reshape(4, 4)).macro_f1)
    less = [
        scores(sklearn.metrics.confusion_matrix(np.delete(labels, i), np.delete(predictions, i)))
        for i in range(300)
    ]
    left_out = np.array([one.macro_f1 for one in less])
    expected = interval(scores(confusion).macro_f1, np.array(resampled), left_out)
    found = bootstrap(confusion)
    # Of 3,000 draws the quantile has a standard error of 0.0013 here, the bias one of 0.0012, of
    # our 10,000 both have 0.0010 together: three times 0.0021.
    np.testing.assert_allclose(found.macro_f1, expected, atol=0.0063)
    assert found.f1.shape == (4, 2)
    assert (found.f1[:, 0] < scores(confusion).f1).all()
    assert (found.f1[:, 1] > scores(confusion).f1).all()


def test_intervals_cover_what_they_promise():
    """Of 300 samples from a known matrix, 95 % of the intervals hold its true accuracy."""
    rng = np.random.default_rng(1)
    shares = np.array([[0.3, 0.1], [0.15, 0.45]])
    held = 0
    for seed in range(300):
        sample = rng.multinomial(400, shares.reshape(-1)).reshape(2, 2)
        low, high = bootstrap(sample, resamples=500, seed=seed).accuracy
        held += low <= 0.75 <= high
    assert 0.91 < held / 300 < 0.985  # three standard errors of 0.0126 about 0.95


def test_interval_is_the_same_each_time_and_needs_images():
    confusion = np.array([[5, 2], [1, 4]])
    first, again = bootstrap(confusion), bootstrap(confusion)
    np.testing.assert_array_equal(first.macro_f1, again.macro_f1)
    with pytest.raises(FerJaxError, match="no image was scored"):
        bootstrap(np.zeros((2, 2), int))


def test_report_text():
    metrics = {
        "macro_f1": {"value": 0.5, "low": 0.4, "high": 0.6},
        "accuracy": {"value": 0.51, "low": 0.41, "high": 0.61},
        "balanced_accuracy": {"value": 0.52, "low": 0.42, "high": 0.62},
        "classes": [
            {
                "name": name,
                "f1": 0.5,
                "f1_low": 0.25,
                "f1_high": 0.75,
                "precision": 1 / 3,
                "recall": 0.9,
                "images": 1000,
            }
            for name in ("Neutral", "Anger")
        ],
        "confusion": {"counts": [[900, 100], [0, 1000]]},
        "interval": {"level": 0.95, "method": "a method"},
        "images": {"scored": 2000},
        "bundle": {"path": "run/bundle"},
        "data": {"path": "data/expw", "split": "validation"},
        "notes": ["a note."],
    }
    assert report_text(metrics) == (
        "# macro-F1 0.500 (0.400 to 0.600)\n"
        "\n"
        "run/bundle on data/expw, validation\n"
        "\n"
        "2,000 images, accuracy 0.510 (0.410 to 0.610), "
        "balanced accuracy 0.520 (0.420 to 0.620)\n"
        "\n"
        "| class   |    F1 |           95 % | precision | recall | images | often taken for |\n"
        "|---------|------:|---------------:|----------:|-------:|-------:|-----------------|\n"
        "| Neutral | 0.500 | 0.250 to 0.750 |     0.333 |  0.900 |  1,000 | Anger (10 %)    |\n"
        "| Anger   | 0.500 | 0.250 to 0.750 |     0.333 |  0.900 |  1,000 |                 |\n"
        "| mean    | 0.500 | 0.400 to 0.600 |     0.333 |  0.900 |  2,000 |                 |\n"
        "\n"
        "Intervals: 95 %, a method.\n"
        "\n"
        "- a note.\n"
    )


@pytest.mark.parametrize("number", [2, 8, 13])
def test_picture_is_drawn_for_any_matrix(tmp_path, number):
    rng = np.random.default_rng(number)
    confusion = rng.integers(0, 200_000, (number, number))
    confusion[0] = 0  # a class without images
    classes = [f"Class {i}" for i in range(number)]
    options = {"title": "macro-F1", "subtitle": ["a/very/long/path" * 20, "short"]}
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file in files:
        draw_confusion(file, confusion, classes, **options)
    assert files[0].read_bytes() == files[1].read_bytes()
    picture = cv2.imread(str(files[0]))
    assert (picture[:, -20:] == 255).all()  # nothing runs out at the right


def test_command_prints_the_table(expw, tmp_path, capsys):
    path = write_tiny_bundle(tmp_path / "b")
    command = ["evaluate", "--bundle", str(path), "--data", str(expw.path)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.out == (tmp_path / "out" / "table.md").read_text()
    assert printed.err == ""
    for arguments, message in (
        (["--out", str(tmp_path / "out")], "metrics.json: exists already"),
        (["--out", str(tmp_path / "new"), "--split", "test"], "has no split 'test'; its splits"),
    ):
        assert main([*command, *arguments]) == 1
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1
        assert message in printed.err
    assert not (tmp_path / "new").exists()
