"""Which view moved a frame: closed forms, each fusion by hand, and the report of a data set."""

import csv
import functools
import json

import jax
import numpy as np
import pytest
from affwild2_trees import write_labels
from pictures import write_picture
from tiny_bundles import noise_faces, tiny_two_view_bundle, write_tiny_bundle

import fer_jax
from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData, select
from fer_jax.data.images import decode_image
from fer_jax.evaluate import attribution
from fer_jax.evaluate.attribution import carriers, view_changes
from fer_jax.models import fusion
from fer_jax.predict.table import read_csv

WIDTHS = {"main": 6, "aux": 4}
LENGTHS = {"a": 14, "b_left": 9, "c": 11}


def softmax(rows):
    odds = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def case(variant, **options):
    """A fusion, its params, features of nine faces, and the means of others."""
    config = fusion.fusion_config(variant, WIDTHS, 5, **options)
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(lambda: fusion.init(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.6, leaf.shape).astype(np.float32), shapes)
    grid = (2, 3) if variant == "token" else ()
    features = {n: rng.normal(1, 1, (9, *grid, w)).astype(np.float32) for n, w in WIDTHS.items()}
    means = {n: rng.normal(1, 0.2, (*grid, w)).astype(np.float32) for n, w in WIDTHS.items()}
    return config, params, features, means


def by_formula(variant, params, features):
    """Probabilities of the linear fusions, from their equations in float64."""

    def head(own, x):
        return x @ own["kernel"].astype(np.float64) + own["bias"].astype(np.float64)

    if variant == "average":
        return sum(softmax(head(params["heads"][n], features[n])) for n in WIDTHS) / 2
    sources = {"main_only": ["main"], "aux_only": ["aux"], "linear": ["main", "aux"]}[variant]
    return softmax(head(params["head"], np.concatenate([features[n] for n in sources], axis=-1)))


@pytest.mark.parametrize("variant", ["linear", "average", "main_only", "aux_only"])
def test_linear_fusions_in_closed_form(variant):
    config, params, features, means = case(variant)
    choice, changes = view_changes(config, params, features, means)
    full = by_formula(variant, params, features)
    rows, best = np.arange(9), full.argmax(axis=1)
    np.testing.assert_array_equal(choice, best)
    assert list(changes) == ["main", "aux"]
    for name in WIDTHS:
        absent = features | {name: np.broadcast_to(means[name], features[name].shape)}
        expected = full[rows, best] - by_formula(variant, params, absent)[rows, best]
        # float32 against float64: measured 1.2e-7 at most.
        np.testing.assert_allclose(changes[name], expected, atol=1e-6)
    if variant.endswith("_only"):
        unused = "aux" if variant == "main_only" else "main"
        assert np.abs(changes[unused]).max() == 0
        assert np.abs(changes[variant.removesuffix("_only")]).max() > 0.1


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("entry", {"width": 12, "hidden": 8}),
        ("token", {"width": 8, "num_heads": 2}),
    ],
)
def test_other_fusions_run_by_hand(variant, options):
    config, params, features, means = case(variant, **options)
    explain = jax.jit(view_changes, static_argnums=0)
    choice, changes = explain(config, params, features, means)
    run = jax.jit(functools.partial(fusion.apply, config))

    def one_by_one(given):
        single = [{n: v[i : i + 1] for n, v in given.items()} for i in range(9)]
        logits = [np.asarray(run(params, one)[0][0]) for one in single]
        return softmax(np.stack(logits).astype(np.float64))

    full = one_by_one(features)
    rows, best = np.arange(9), full.argmax(axis=1)
    np.testing.assert_array_equal(choice, best)
    for name in WIDTHS:
        absent = dict(features)
        absent[name] = np.stack([means[name]] * 9)
        expected = full[rows, best] - one_by_one(absent)[rows, best]
        # Batches of one against one of nine: measured 2.6e-7 at most.
        np.testing.assert_allclose(changes[name], expected, atol=3e-6)
        assert np.abs(changes[name]).max() > 1e-3


def test_a_face_that_is_the_mean_loses_nothing():
    config, params, features, _ = case("entry", width=12, hidden=8)
    own = {name: values[0] for name, values in features.items()}
    explain = jax.jit(view_changes, static_argnums=0)
    _, changes = explain(config, params, {n: v[:1] for n, v in features.items()}, own)
    assert [values.tolist() for values in changes.values()] == [[0.0], [0.0]]


def test_the_carrier_is_the_one_whose_loss_costs_most():
    rng = np.random.default_rng(1)
    changes = {name: rng.normal(0, 0.2, 50).astype(np.float32) for name in ("main", "aux", "third")}
    expected = []
    for i in range(50):
        best = max(changes, key=lambda name, i=i: changes[name][i])
        expected.append([*changes].index(best) if changes[best][i] > 0 else -1)
    assert carriers(changes).tolist() == expected
    assert {-1, 0, 1, 2} == set(expected)


def test_the_choice_is_among_the_classes_that_count():
    config, params, features, means = case("linear")
    few = np.array([4, 1, 2])
    choice, changes = view_changes(config, params, features, means, few)
    logits, rows = np.log(by_formula("linear", params, features)), np.arange(9)
    full = softmax(logits[:, few])
    np.testing.assert_array_equal(choice, full.argmax(axis=1))
    assert (few[choice] != logits.argmax(axis=1)).any()
    for name in WIDTHS:
        absent = features | {name: np.broadcast_to(means[name], features[name].shape)}
        without = softmax(np.log(by_formula("linear", params, absent))[:, few])
        # float32 against float64, as above.
        expected = full[rows, choice] - without[rows, choice]
        np.testing.assert_allclose(changes[name], expected, atol=1e-6)


# --- of a data set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels, crops with gaps, prepared; and a bundle of two views."""
    folder = tmp_path_factory.mktemp("attribution")
    seed = 0
    for video, length in LENGTHS.items():
        write_labels(folder / "aff", "validation", video, [k % 8 for k in range(length)])
        for number in range(1, length + 1):
            if number % 4:
                path = folder / "aff" / "cropped_aligned" / video / f"{number:05d}.jpg"
                write_picture(path, noise_faces(1, seed=(seed := seed + 1))[0])
    write_labels(folder / "aff", "train", "t", [1, 1])
    write_picture(folder / "aff/cropped_aligned/t/00001.jpg", noise_faces(1, seed=99)[0])
    arguments = ["prepare", "affwild2", str(folder / "aff"), "--out", str(folder / "data")]
    assert main([*arguments, "--workers", "0", "--no-clean"]) == 0
    for variant in ("entry", "token"):
        bundle = tiny_two_view_bundle(variant, "affwild2_expr")
        save_bundle(bundle, folder / variant)
    return folder


def evaluate(folder, *arguments, bundle="entry"):
    named = ["--bundle", str(folder / bundle), "--data", str(folder / "data")]
    return main(["evaluate", *named, *map(str, arguments)])


@pytest.fixture(scope="module")
def report(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribution, "REFERENCE_FACES", 10)
        assert evaluate(folder, "--attribution", "--smooth", "box:5", "--out", folder / "out") == 0
    return folder / "out"


@functools.cache
def expected_changes(folder, reference_faces):
    """{(video, frame): (choice, loss of main, loss of aux)}, face by face."""
    recognizer = fer_jax.load(folder / "entry", batch_size=1)
    config, params = recognizer.bundle.models["fusion"]
    run = jax.jit(functools.partial(fusion.apply, config, params))
    data = FaceData.open(folder / "data")
    rows = select(data, "validation", labelled=False)
    order = sorted(rows, key=lambda i: (data.index["video"][i], data.index["frame"][i]))
    found = {}
    for row in order:
        one = recognizer.features(decode_image(data.records.image(int(row)))[None])
        found[row] = {name: one[name] for name in ("main", "aux")}
    steps = [order[i * len(order) // reference_faces] for i in range(reference_faces)]
    means = {n: np.mean([found[i][n] for i in steps], axis=0) for n in ("main", "aux")}
    changes = {}
    for row in order:
        full = softmax(np.asarray(run(found[row])[0], np.float64))[0]
        choice = int(full.argmax())
        losses = [
            full[choice]
            - softmax(np.asarray(run(found[row] | {n: means[n]})[0], np.float64))[0, choice]
            for n in ("main", "aux")
        ]
        changes[data.index["video"][row], int(data.index["frame"][row])] = (choice, *losses)
    return changes


def test_the_columns_are_those_of_a_plain_loop(folder, report):
    expected = expected_changes(folder, 10)
    with open(report / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-2:] == ["drop_main", "drop_aux"]
    assert len(rows) == sum(LENGTHS.values())
    seen = 0
    for row in rows:
        place = row["video"], int(row["frame"])
        if row["status"] == "no_face":
            assert (row["drop_main"], row["drop_aux"]) == ("", "")
            continue
        found = float(row["drop_main"]), float(row["drop_aux"])
        # Faces by themselves and in batches: measured 9.4e-7 at most.
        np.testing.assert_allclose(found, expected[place][1:], atol=1e-5)
        seen += 1
    assert seen == len(expected)


def test_the_summary_counts_them(folder, report):
    expected = [*expected_changes(folder, 10).values()]
    metrics = json.loads((report / "metrics.json").read_text())
    found = metrics["attribution"]
    assert found["frames"] == len(expected)
    assert found["reference"] == "mean features of 10 frames"
    for part, choice in ((found, None), *((one, i) for i, one in enumerate(found["classes"]))):
        own = [one for one in expected if choice in (None, one[0])]
        assert part["frames"] == len(own)
        if not own:
            assert set(part["carried"].values()) == {None}
            continue
        words = [
            "none" if max(main, aux) <= 0 else "main" if main >= aux else "aux"
            for _, main, aux in own
        ]
        for name in ("main", "aux", "none"):
            assert part["carried"][name] == pytest.approx(words.count(name) / len(own))
        for i, name in enumerate(("main", "aux"), start=1):
            assert part["change"][name] == pytest.approx(np.mean([one[i] for one in own]), abs=1e-5)
    assert len({one["name"] for one in found["classes"] if one["frames"]}) > 1
    share = f"{100 * found['carried']['main']:.1f} %"
    for name in ("table.md", "report.html"):
        text = (report / name).read_text()
        assert share in text
        assert "Which view" in text


def test_nothing_else_changes(folder, report, tmp_path):
    """Scores and predictions are those without the option, and readers pass over the columns."""
    assert evaluate(folder, "--smooth", "box:5", "--out", tmp_path / "plain") == 0
    with_, without = (
        json.loads((path / "metrics.json").read_text()) for path in (report, tmp_path / "plain")
    )
    assert "attribution" not in without
    assert with_["results"] == without["results"]
    tables = [read_csv(path / "predictions.csv") for path in (report, tmp_path / "plain")]
    for name in ("raw", "prob", "label", "frame"):
        np.testing.assert_array_equal(*(getattr(table, name) for table in tables))
    named = ["--labels", str(folder / "data"), "--out", str(tmp_path / "again")]
    table = str(report / "predictions.csv")
    assert main(["evaluate", "--predictions", table, *named]) == 0
    assert main(["smooth", table, "--window", "3", "--out", str(tmp_path / "smoothed")]) == 0


@pytest.mark.slow
def test_tokens_have_maps_for_features(folder, tmp_path):
    assert evaluate(folder, "--attribution", "--out", tmp_path / "out", bundle="token") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["attribution"]
    assert min(abs(value) for value in found["change"].values()) > 1e-4


@pytest.mark.slow
def test_a_class_that_the_data_lack_is_never_the_choice(folder, tmp_path):
    """The labels are of Other, the bundle of Contempt: seven classes are in both."""
    save_bundle(tiny_two_view_bundle("entry", "affectnet8"), tmp_path / "b")
    assert evaluate(folder, "--attribution", "--out", tmp_path / "o", bundle=tmp_path / "b") == 0
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    moved = metrics["attribution"]["classes"]
    assert [one["name"] for one in moved] == [one["name"] for one in metrics["classes"]]
    label = read_csv(tmp_path / "o" / "predictions.csv")
    seen = label.label[label.status == "ok"]
    chosen = np.bincount(seen, minlength=len(moved)).tolist()
    assert [one["frames"] for one in moved] == chosen


def test_what_has_no_views_to_tell_apart_is_refused(folder, tmp_path, capsys):
    write_tiny_bundle(tmp_path / "one", "affwild2_expr")
    options = ("--attribution", "--out", tmp_path / "out")
    assert evaluate(folder, *options, bundle=tmp_path / "one") == 2
    assert "has no two views to tell apart" in capsys.readouterr().err
    named = ["--predictions", "p.csv", "--labels", "l"]
    assert main(["evaluate", *named, "--attribution", "--out", str(tmp_path / "out")]) == 2
    assert "--attribution needs the faces themselves" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
