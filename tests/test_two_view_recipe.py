"""The whole recipe on a mini Aff-Wild2, by its command: done once, and not done again."""

import json
import shutil
from pathlib import Path

import mini_trees
import pytest
import sklearn.metrics
from tiny_bundles import write_tiny_bundle

import fer_jax
from fer_jax.cli.main import main
from fer_jax.predict.table import read_csv
from fer_jax.recipes.two_view import _stages
from fer_jax.recipes.two_view_config import TwoViewConfig

pytestmark = pytest.mark.slow  # a minute and a half of two cores
CONFIG = Path(__file__).parent.parent / "configs" / "emotic_mae.py"
TINY = [
    *(
        f"--config.{view}.{field}"
        for view in ("main", "aux")
        for field in (
            "epochs=2",
            "batch_size=16",
            "model.image_size=32",
            "sampling.frames_per_video=12",
            "loss.class_weights=none",
            "selection=0.3",
        )
    ),
    "--config.fuse.batch_size=16",
    "--config.fuse.model.width=24",
    "--config.fuse.model.hidden=16",
    "--config.fuse.selection=0.3",
    "--config.fuse.loss.class_weights=none",
    "--config.fuse.optimizer.learning_rate=1e-2",
    "--config.smoothing.kernels=box",
    "--config.smoothing.windows=3,9",
    "--config.smoothing.folds=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    options = ("--videos", "8", "--frames", "24", "30", "--faults", "none")
    mini_trees.make(folder / "affwild2", *options)
    write_tiny_bundle(folder / "backbone", None)
    command = ["prepare", "affwild2", str(folder / "affwild2"), "--out", str(folder / "data")]
    assert main([*command, "--workers", "0"]) == 0
    return folder


def train(folder, *more):
    arguments = [f"--config={CONFIG}", f"--config.backbone={folder}/backbone", *TINY, *more]
    data = f"--config.data={folder}/data"
    return main(["train", *arguments, data, f"--workdir={folder}/run"])


@pytest.fixture(scope="module")
def run(folder):
    assert train(folder) == 0
    return folder / "run"


def test_the_bundle_carries_both_views_and_the_filter(run):
    bundle = fer_jax.load(run / "bundle").bundle
    assert bundle.kind == "two_view"
    assert [view.view for view in bundle.views.values()] == ["main", "eyes_mouth"]
    assert bundle.smoothing["kernel"] == "box"
    assert bundle.smoothing["window"] in (1, 3, 9)
    assert bundle.labels.name == "affwild2_expr"


def test_the_score_is_that_of_the_written_predictions(folder, run):
    """Counted again by scikit-learn from the table and the annotation files."""
    table = read_csv(run / "report" / "predictions.csv")
    rows = zip(table.video, table.frame, table.label, strict=True)
    found = {(video, frame): label for video, frame, label in rows}
    truth, guess = [], []
    for name, (split, path) in mini_trees.annotations_of(folder / "affwild2").items():
        if split != "validation":
            continue
        for number, line in enumerate(mini_trees.lines_of(path)[1:], start=1):
            if int(line) >= 0:
                truth.append(int(line))
                guess.append(found[name, number])
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    expected = sklearn.metrics.f1_score(
        truth, guess, labels=range(8), average="macro", zero_division=0
    )
    assert metrics["results"]["smoothed"]["all"]["macro_f1"]["value"] == pytest.approx(
        expected, abs=1e-12
    )


def test_nothing_is_done_again_but_what_a_change_asks_for(folder, run, capsys):
    assert train(folder) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "done before" in line] == [
        f"{i}/7 {name}: done before"
        for i, name in enumerate(
            ("main", "aux", "fuse", "frames", "window", "report", "bundle"), start=1
        )
    ]
    assert train(folder, "--config.smoothing.windows=5") == 0
    printed = capsys.readouterr().err
    assert "4/7 frames: done before" in printed
    assert "5/7 window\n" in printed


def test_a_misspelt_field_is_named(folder, capsys):
    assert train(folder, "--config.fuse.optimiser.learning_rate=1") == 2
    assert "config.fuse.optimiser: no such field" in capsys.readouterr().err
    for value, message in (("a,b", "config.smoothing.windows='a,b'"), ("4", "window=4")):
        assert train(folder, f"--config.smoothing.windows={value}", f"--workdir={folder}/no") == 2
        assert message in capsys.readouterr().err
    assert not (folder / "no").exists()


def test_other_weights_under_the_same_name_make_another_run(folder, tmp_path):
    def settings():
        data, backbone = str(folder / "data"), str(tmp_path / "backbone")
        stages = _stages(TwoViewConfig(data=data, backbone=backbone), tmp_path)
        return [stage.settings for stage in stages[:3]]

    write_tiny_bundle(tmp_path / "backbone", None)
    before = settings()
    assert settings() == before
    shutil.rmtree(tmp_path / "backbone")
    write_tiny_bundle(tmp_path / "backbone", None, seed=1)
    assert all(now != then for now, then in zip(settings(), before, strict=True))
