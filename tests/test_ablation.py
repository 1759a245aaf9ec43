"""A whole grid on a mini Aff-Wild2 and on pictures: its scores by other ways, its cells alone."""

import csv
import json
import shlex
from pathlib import Path

import mini_trees
import numpy as np
import pytest
import sklearn.metrics
from tiny_bundles import write_tiny_bundle

from fer_jax.cli.configs import parse
from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.recipes.ablation import run_ablation
from fer_jax.recipes.ablation_config import AblateConfig

CONFIG = Path(__file__).parent.parent / "configs" / "ablate_mini.py"
TINY = [
    *(
        f"--config.view.{field}"
        for field in (
            "epochs=2",
            "batch_size=16",
            "selection=0.3",
            "model.image_size=32",
            "sampling.frames_per_video=12",
            "checkpoint_every=1",
        )
    ),
    *(
        f"--config.fuse.{field}"
        for field in ("epochs=3", "batch_size=16", "selection=0.3", "checkpoint_every=1")
    ),
    "--config.smoothing.kernels=box",
    "--config.smoothing.windows=3,9",
    "--config.smoothing.folds=2",
]
ONE = {
    "fusion": "linear", "attention": "both", "loss": "plain", "cleaning": "on",
    "augmentation": "configured", "synthetic": "0", "encoder": "fine_tuned",
}  # fmt: skip


def axes(**changes):
    return [f"--config.axes.{name}={value}" for name, value in (ONE | changes).items()]


class Runner:
    """Runs commands in this process, and keeps what it ran."""

    def __init__(self):
        self.ran = []

    def __call__(self, argv, log):
        self.ran.append(argv[0])
        if main(list(argv)):
            raise FerJaxError(f"{argv[0]} failed")
        return 1 << 20


def ablate(arguments, workdir, runner=None):
    argv = [f"--config={CONFIG}", *TINY, *arguments, f"--workdir={workdir}"]
    config, _ = parse("ablate", argv, AblateConfig)
    given = [a for a in argv if not a.startswith(("--workdir", "--config.axes."))]
    return run_ablation(
        config, workdir, command=["fer-jax", "ablate", *given], execute=runner or Runner()
    )


pytestmark = pytest.mark.slow  # two minutes of two cores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    options = ("--videos", "8", "--frames", "24", "30", "--faults", "none")
    mini_trees.make(folder / "affwild2", *options)
    command = ["prepare", "affwild2", str(folder / "affwild2"), "--out", str(folder / "data")]
    assert main([*command, "--workers", "0"]) == 0
    write_tiny_bundle(folder / "backbone", None)
    return folder


@pytest.fixture(scope="module")
def given(folder):
    """Arguments of the grid: two views and each alone, with and without smoothing."""
    chosen = axes(views="main+mouth,main,mouth", smoothing="none,box:5,search,box:1")
    return [f"--config.data={folder}/data", f"--config.backbone={folder}/backbone/", *chosen]


@pytest.fixture(scope="module")
def grid(folder, given):
    runner = Runner()
    return ablate(given, folder / "grid", runner), runner


def row(document, title):
    (found,) = [cell for cell in document["cells"] if cell["cell"] == title]
    return found


def test_shared_stages_run_once(grid):
    """Two views, two tables, one fusion, and the costs of three bundles."""
    document, runner = grid
    titles = [cell["cell"] for cell in document["cells"]]
    smoothed = [f"smoothing {name}" for name in ("box:5", "search", "box:1")]
    assert titles == ["base", "main", "mouth", *smoothed]
    assert sorted(runner.ran) == sorted(["train"] * 2 + ["extract"] * 2 + ["fuse"] + ["bench"] * 3)
    main_alone, both = row(document, "main"), row(document, "base")
    assert both["seconds"] > main_alone["seconds"] > 0
    assert both["peak_bytes"] == 1 << 20
    # Two encoders, one head each; the fusion has its own head of both.
    assert both["parameters"] == pytest.approx(2 * main_alone["parameters"], rel=0.01)


def test_scores_are_those_of_the_bundles_on_the_pictures(folder, grid, tmp_path):
    """`fer-jax evaluate` runs the encoders anew, and shares neither tables nor predictions."""
    document, _ = grid
    for title, smooth in (("main", ()), ("smoothing box:5", ("--smooth", "box:5"))):
        cell = row(document, title)
        out = tmp_path / title.replace(":", "_")
        command = ["evaluate", "--bundle", cell["bundles"][0], "--data", f"{folder}/data"]
        assert main([*command, *smooth, "--out", str(out)]) == 0
        metrics = json.loads((out / "metrics.json").read_text())
        for end in ("value", "low", "high"):
            assert cell["macro_f1"][end] == pytest.approx(metrics["macro_f1"][end], abs=1e-12)
        assert cell["classes_f1"] == [one["f1"] for one in metrics["classes"]]


def test_the_difference_is_from_the_base(grid):
    document, _ = grid
    base = document["cells"][0]
    assert "difference" not in base
    for cell in document["cells"][1:]:
        apart = cell["difference"]
        expected = cell["macro_f1"]["value"] - base["macro_f1"]["value"]
        assert apart["value"] == pytest.approx(expected, abs=1e-12)
        assert apart["low"] <= apart["value"] <= apart["high"]
    # A window of 1 predicts the same: on the same resamples nothing is apart.
    same = row(document, "smoothing box:1")["difference"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    assert row(document, "main")["difference"]["low"] < row(document, "main")["difference"]["high"]


def test_nothing_is_run_again(folder, given, grid):
    runner = Runner()
    again = ablate(given, folder / "grid", runner)
    assert runner.ran == []
    assert again["cells"] == grid[0]["cells"]


def test_the_command_of_a_cell_makes_it_again(grid, tmp_path):
    """Another folder, the same scores; of the whole grid only what the cell needs is run."""
    cell = row(grid[0], "mouth")
    command = shlex.split(cell["command"])
    assert command[:2] == ["fer-jax", "ablate"]
    arguments = [a for a in command[2:] if not a.startswith(("--workdir", "--config=", *TINY))]
    runner = Runner()
    alone = ablate(arguments, tmp_path / "cell", runner)
    assert sorted(runner.ran) == ["bench", "extract", "train"]
    assert alone["cells"][0]["macro_f1"] == cell["macro_f1"]


def test_tables_and_picture_tell_the_cells(folder, grid):
    document, _ = grid
    text = (folder / "grid" / "table.md").read_text()
    with (folder / "grid" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [one["cell"] for one in rows] == [cell["cell"] for cell in document["cells"]]
    for cell, one in zip(document["cells"], rows, strict=True):
        assert f"| {cell['cell']} | {cell['macro_f1']['value']:.4f} |" in text
        assert float(one["macro_f1"]) == cell["macro_f1"]["value"]
        assert float(one["f1_Fear"]) == cell["classes_f1"][3]
        assert cell["command"] in text
    assert (folder / "grid" / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_a_cell_that_fails_leaves_the_others(folder, given, tmp_path):
    class Failing(Runner):
        def __call__(self, argv, log):
            if argv[0] == "fuse":
                raise FerJaxError("no fusion today")
            return super().__call__(argv, log)

    document = ablate(given, folder / "grid_of_failures", Failing())
    failed = [cell["cell"] for cell in document["cells"] if "error" in cell]
    assert failed == ["base", "smoothing box:5", "smoothing search", "smoothing box:1"]
    assert "no fusion today" in document["cells"][0]["error"]
    assert row(document, "main")["macro_f1"]["value"] > 0
    assert "failed: fusions/" in (folder / "grid_of_failures" / "table.md").read_text()
    # What failed is tried again, what was done is not.
    runner = Runner()
    ablate(given, folder / "grid_of_failures", runner)
    assert sorted(runner.ran) == ["bench", "fuse"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("first", "second")):
        write_synthetic_faces(
            folder / f"{name}_faces", identities=8, images_per_identity=16, size=32, seed=number
        )
        command = ["prepare", "images", f"{folder}/{name}_faces", "--labels", "affwild2_expr"]
        csv_ = ["--csv", f"{folder}/{name}_faces/labels.csv", "--out", f"{folder}/{name}"]
        assert main([*command, *csv_]) == 0
    write_tiny_bundle(folder / "backbone", None)
    return folder


def test_frozen_features_of_pictures_with_seeds_and_synthetic_faces(pictures):
    """Scores are means of the seeds, counted by scikit-learn from the written predictions."""
    arguments = [
        f"--config.data={pictures}/first", f"--config.synthetic_data={pictures}/second",
        f"--config.backbone={pictures}/backbone", "--config.seeds=3,4",
        *axes(views="main+mouth,mouth", smoothing="none", encoder="frozen", synthetic="0,0.4"),
    ]  # fmt: skip
    runner = Runner()
    document = ablate(arguments, pictures / "grid", runner)
    assert "train" not in runner.ran
    assert runner.ran.count("extract") == 4  # two views of two data sets
    assert runner.ran.count("fuse") == 6  # three cells, two seeds
    # Trained on both, in the shares that were asked for; checkpoints are chosen on the first.
    configs = [path.read_text() for path in (pictures / "grid" / "commands").glob("fusions*.py")]
    mixed = [text for text in configs if "first_faces=0.6,second_faces=0.4" in text]
    assert len(mixed) == 2  # one cell, two seeds
    assert all("'selection_data': " in text for text in mixed)
    index = FaceData.open(pictures / "first").index
    truth = dict(zip(index["key"].tolist(), index["label"].tolist(), strict=True))
    for cell in document["cells"]:
        scores = []
        for bundle in cell["bundles"]:
            path = pictures / "grid" / "predictions" / f"{Path(bundle).parent.name}.npz"
            with np.load(path) as found:
                guess = found["probabilities"].argmax(axis=1)
                true = [truth[key] for key in found["video"].tolist()]
            scores.append(sklearn.metrics.f1_score(true, guess, labels=range(8), average="macro"))
        assert cell["macro_f1_of_seeds"] == pytest.approx(scores, abs=1e-12)
        assert cell["macro_f1"]["value"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert document["unit"] == "pictures"


def test_what_cannot_be_compared_is_refused_before_anything_runs(folder, pictures, tmp_path):
    frames = [f"--config.data={folder}/data", "--config.seeds=a"]
    with pytest.raises(UsageError, match=r"config.seeds='a'"):
        ablate(frames + axes(smoothing="none"), tmp_path / "run")
    with pytest.raises(UsageError, match="are no frames of videos; set it to none"):
        ablate([f"--config.data={pictures}/first", *axes(smoothing="search")], tmp_path / "run")
    with pytest.raises(UsageError, match=r"config.data is empty"):
        ablate(axes(smoothing="none"), tmp_path / "run")
    both = axes(smoothing="none", cleaning="on,off")
    with pytest.raises(UsageError, match="holds other faces of validation than"):
        ablate([frames[0], f"--config.uncleaned={pictures}/first", *both], tmp_path / "run")
    with pytest.raises(UsageError, match=r"config.smoothing: .*window"):
        windows = "--config.smoothing.windows=4"
        ablate([frames[0], windows, *axes(smoothing="search")], tmp_path / "run")
    with pytest.raises(UsageError, match="without commas and colons"):
        ablate([frames[0], *axes(smoothing="none")], tmp_path / "a,b")
    assert not (tmp_path / "run").exists()


def test_synthetic_faces_must_be_told_from_the_others(pictures, tmp_path):
    arguments = [
        f"--config.data={pictures}/first", f"--config.synthetic_data={pictures}/first",
        f"--config.backbone={pictures}/backbone",
        *axes(views="main", smoothing="none", encoder="frozen", synthetic="0.4"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="the source 'first_faces' is also that of the other"):
        ablate(arguments, tmp_path / "run")


def test_the_command_runs_its_stages_in_processes_of_their_own(pictures, tmp_path, capsys):
    arguments = [
        f"--config={CONFIG}", *TINY, f"--config.data={pictures}/first",
        f"--config.backbone={pictures}/backbone", f"--workdir={tmp_path}/run",
        *axes(views="mouth", smoothing="none", encoder="frozen"),
    ]  # fmt: skip
    assert main(["ablate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "| base | 0." in printed
    assert f"fer-jax ablate --config={CONFIG} {TINY[0]}" in printed
    took = json.loads(next((tmp_path / "run" / "commands").glob("tables*.json")).read_text())
    assert took["peak_bytes"] > 100 << 20  # JAX alone
    assert took["command"][:2] == ["fer-jax", "extract"]
    # A stage that fails is told by its last line and its log; the command says so.
    (tmp_path / "run" / "stages.json").unlink()
    (pictures / "backbone" / "params.safetensors").rename(tmp_path / "gone")
    assert main(["ablate", *arguments]) == 1
    (tmp_path / "gone").rename(pictures / "backbone" / "params.safetensors")
