"""Training a fusion on frozen features: bundles, interruptions, sources of one's own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_bundles import write_tiny_bundle

import fer_jax
from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData
from fer_jax.data.features import FeatureTable, joined
from fer_jax.data.images import decode_image
from fer_jax.data.pipeline import epoch_plan
from fer_jax.data.sampling import EVERYTHING
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models import fusion
from fer_jax.train.fuse import _in_order, fuse
from fer_jax.train.fuse_config import default_config, freeze

CONFIG = Path(__file__).parent.parent / "configs" / "fuse_entry.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuse")
    write_synthetic_faces(folder / "faces", identities=8, images_per_identity=16, size=32)
    arguments = ["--csv", f"{folder}/faces/labels.csv", "--labels", "affwild2_expr"]
    out = str(folder / "data")
    assert main(["prepare", "images", f"{folder}/faces", *arguments, "--out", out]) == 0
    write_tiny_bundle(folder / "main", "affwild2_expr")
    write_tiny_bundle(folder / "aux", "affwild2_expr", view="eyes_mouth", seed=1)
    return folder


def tiny(folder, sources="main={0}/main,aux={0}/aux", **changes):
    config = default_config()
    config.data = str(folder / "data")
    config.sources = sources.format(folder)
    config.model.width, config.model.hidden = 24, 16
    config.batch_size, config.epochs, config.log_every = 16, 3, 1
    config.selection = 0.2
    config.optimizer.learning_rate = 1e-2
    for name, value in changes.items():
        *where, last = name.split("__")
        target = config
        for part in where:
            target = target[part]
        target[last] = value
    return freeze(config)


def losses(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["group"] == "train"]


@pytest.fixture(scope="module")
def run(folder):
    """An uninterrupted run."""
    state, bundle = fuse(tiny(folder), folder / "run")
    return state, bundle


def test_two_bundles_become_one_of_two_views(folder, run):
    """Its logits are those of the fusion on the tables; its encoders are the old ones."""
    state, path = run
    assert int(state.step) == len(losses(folder / "run"))
    recognizer = fer_jax.load(path)
    assert recognizer.bundle.kind == "two_view"
    assert recognizer.bundle.views["aux"].view == "eyes_mouth"
    main_table = FeatureTable.open(folder / "run" / "features" / "main")
    aux = FeatureTable.open(folder / "run" / "features" / "aux")
    config, params = recognizer.bundle.models["fusion"]
    expected, _ = fusion.apply(
        config, params, {"main": jnp.asarray(main_table.features), "aux": jnp.asarray(aux.features)}
    )
    data = FaceData.open(folder / "data")
    faces = np.stack([decode_image(data.records.image(i)) for i in range(12)])
    # The way of evaluation batches, and the recognizer's: 3e-6 was seen, of logits to 3.
    np.testing.assert_allclose(recognizer.logits(faces), expected[:12], atol=3e-5)
    old = fer_jax.load(folder / "aux").bundle.models["main"][1]
    kept = recognizer.bundle.models["aux"][1]
    np.testing.assert_array_equal(kept["pos_embed"], old["pos_embed"])
    assert "head" not in kept


# Step 8 is written: epoch 1 is saved, epoch 2 is half done.
_CHILD = """
import jax, os, signal, sys
jax.config.update("jax_num_cpu_devices", 8)
from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData
from fer_jax.train.logs import RunLog
write = RunLog.write
def write_and_die(self, step, group, values):
    write(self, step, group, values)
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.write = write_and_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(folder, run):
    workdir = folder / "killed"
    config = folder / "config.py"
    config.write_text(
        "from fer_jax.train.fuse_config import default_config\n"
        "import json\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.update(json.load(open({str(folder / 'run' / 'config.json')!r})))\n"
        "    return config\n"
    )
    died = subprocess.run(
        [sys.executable, "-c", _CHILD, "fuse", f"--config={config}", f"--workdir={workdir}"],
        capture_output=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-800:]
    assert [step for step, _ in losses(workdir)] == list(range(1, 9))
    state, _ = fuse(tiny(folder), workdir)
    assert losses(workdir) == losses(folder / "run")
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(run[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_source_of_ones_own_is_joined_by_key(folder, run):
    """The third source is the label itself, so a linear fusion must find it."""
    table = FeatureTable.open(folder / "run" / "features" / "main")
    order = np.random.default_rng(0).permutation(len(table))
    told = np.eye(8)[table.index["label"]][order]
    np.savez(folder / "told.npz", key=table.index["key"][order], features=told)
    sources = "main={0}/run/features/main,aux={0}/run/features/aux,told={0}/told.npz"
    config = tiny(
        folder, sources, data="", model__variant="linear", epochs=40, optimizer__learning_rate=0.05
    )
    _, path = fuse(config, folder / "told")
    bundle = load_bundle(path)
    assert bundle.kind == "fusion"
    assert bundle.models["fusion"][0].sources == ("main", "aux", "told")
    assert bundle.scores["selection_macro_f1"] > 0.95


@pytest.mark.parametrize("variant", ["main_only", "average", "token"])
def test_every_variant_runs_by_its_command(folder, variant):
    workdir = folder / variant
    arguments = [
        f"--config={CONFIG}", f"--workdir={workdir}", f"--config.data={folder}/data",
        f"--config.sources=main={folder}/main,aux={folder}/aux", "--config.batch_size=16",
        f"--config.model.variant={variant}", "--config.model.width=0",
        "--config.model.num_heads=4", "--config.model.dropout=0.1",
    ]  # fmt: skip
    assert main(["fuse", *arguments]) == 0
    bundle = fer_jax.load(workdir / "bundle").bundle
    assert bundle.kind == "two_view"


def test_batches_run_on_from_epoch_to_epoch(folder, run):
    """Eight batches of one plan are its epochs, one after the other."""
    table = FeatureTable.open(folder / "run" / "features" / "main")
    plan = epoch_plan([(table, np.arange(37))], EVERYTHING, seed=3)
    found = np.concatenate([_in_order(plan, step, 16) for step in range(8)])
    expected = np.concatenate([plan.order(epoch) for epoch in range(4)])
    np.testing.assert_array_equal(found, expected[:128])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"sources": ""}, UsageError, "config.sources is empty"),
        ({"sources": "main"}, UsageError, "'main' is not one name=path"),
        ({"sources": "main={0}/main", "data": ""}, UsageError, "so config.data must be named"),
        ({"sources": "main={0}/nothing"}, FerJaxError, "is no table of features"),
        ({"sources": "main={0}/own.npz"}, FerJaxError, "knows no labels"),
        ({"batch_size": 4096}, FerJaxError, "lower it"),
    ],
)
def test_what_cannot_run_says_why(folder, tmp_path, changes, kind, message):
    np.savez(folder / "own.npz", key=np.array(["a"]), features=np.zeros((1, 3)))
    with pytest.raises(kind, match=message):
        fuse(tiny(folder, **changes), tmp_path / "run")


def test_tables_of_several_data_sets_are_joined(folder, run, tmp_path):
    """Both halves are trained on, as one; votes and places stay with their faces."""
    table = FeatureTable.open(folder / "run" / "features" / "main")
    both = joined([table, table])
    assert both.index["key"].tolist() == [
        f"{number}/{key}" for number in (0, 1) for key in table.index["key"]
    ]
    np.testing.assert_array_equal(both.features[len(table) :], table.features)
    named = ",".join(f"{v}={folder}/run/features/{v}" for v in ("main", "main", "aux", "aux"))
    config = tiny(folder, named, data="", epochs=1)
    state, path = fuse(config, tmp_path / "run")
    assert load_bundle(path).kind == "two_view"
    assert int(state.step) == pytest.approx(2 * len(losses(folder / "run")) / 3, abs=1)
    other = FeatureTable.open(folder / "run" / "features" / "aux")
    with pytest.raises(FerJaxError, match="is of another bundle"):
        joined([table, other])


def test_a_linear_probe_of_another_view_is_a_classifier(folder, tmp_path):
    """Its bundle cuts the view that the table was made of, and answers as the head on the table."""
    out = tmp_path / "table"
    command = ["extract", "--bundle", f"{folder}/main", "--data", f"{folder}/data"]
    assert main([*command, "--out", str(out), "--view", "mouth"]) == 0
    config = tiny(folder, f"main={out}", data="", model__variant="main_only")
    _, path = fuse(config, tmp_path / "run")
    recognizer = fer_jax.load(path)
    assert recognizer.bundle.kind == "classifier"
    assert recognizer.bundle.views["main"].view == "mouth"
    head = recognizer.bundle.models["main"][1]["head"]
    expected = FeatureTable.open(out).features[:12] @ head["kernel"] + head["bias"]
    data = FaceData.open(folder / "data")
    faces = np.stack([decode_image(data.records.image(i)) for i in range(12)])
    # As of two views: 3e-6 was seen there.
    np.testing.assert_allclose(recognizer.logits(faces), expected, atol=3e-5)
    assert main([*command, "--out", str(out), "--view", "nose", "--overwrite"]) == 2


def test_a_run_is_not_gone_on_with_on_features_of_other_weights(folder, tmp_path):
    write_tiny_bundle(tmp_path / "aux", "affwild2_expr", view="eyes_mouth", seed=1)
    sources = f"main={folder}/main,aux={tmp_path}/aux"
    fuse(tiny(folder, sources, epochs=1), tmp_path / "run")
    shutil.rmtree(tmp_path / "aux")
    write_tiny_bundle(tmp_path / "aux", "affwild2_expr", view="eyes_mouth", seed=2)
    with pytest.raises(UsageError, match="holds other faces, labels or features than"):
        fuse(tiny(folder, sources, epochs=1), tmp_path / "run")
