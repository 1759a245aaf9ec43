"""Fine-tuning from end to end on drawn faces: what it writes, resumes, refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import fer_jax
from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.train.config import default_config, freeze
from fer_jax.train.finetune import finetune


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_synthetic_faces(folder / "faces", identities=8, images_per_identity=16, size=32)
    arguments = ["--csv", f"{folder}/faces/labels.csv", "--labels", "affwild2_expr"]
    out = str(folder / "data")
    assert main(["prepare", "images", f"{folder}/faces", *arguments, "--out", out]) == 0
    return out


def tiny(folder, **changes):
    config = default_config()
    config.data = folder
    config.epochs = 3
    config.batch_size = 16
    config.log_every = 1
    config.selection = 0.2
    config.model.size = "tiny"
    config.model.width, config.model.depth, config.model.num_heads = 32, 2, 2
    config.model.image_size, config.model.patch_size = 32, 8
    config.augment.mixup = 0.5
    config.augment.erasing = 0.25
    config.optimizer.warmup_epochs = 1.0
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
def run(data, tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    state, bundle = finetune(tiny(data), workdir)
    return workdir, state, bundle


def test_a_run_leaves_log_checkpoints_and_a_bundle(run, data):
    workdir, state, bundle = run
    found = losses(workdir)
    # 8 people x 16 less 2 for validation and 1 of 6 for selection: 80 rows, 5 steps an epoch.
    assert [step for step, _ in found] == list(range(1, 16))
    assert all(np.isfinite(loss) for _, loss in found)
    assert int(state.step) == 15
    assert (workdir / "tensorboard").is_dir()
    loaded = load_bundle(bundle)
    assert loaded.kind == "classifier"
    assert loaded.labels.name == "affwild2_expr"
    assert loaded.views["main"].image_size == 32
    assert loaded.provenance["made_by"] == "fer-jax train"
    log = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    scores = [line["macro_f1"] for line in log if line["group"] == "selection"]
    assert loaded.scores["selection_macro_f1"] == max(scores)
    table = fer_jax.load(bundle).predict(np.zeros((32, 32, 3), np.uint8), crops=True)
    assert table.prob.sum() == pytest.approx(1, abs=1e-6)


def test_without_a_selection_part_the_newest_checkpoint_is_taken(data, tmp_path, capsys):
    state, bundle = finetune(tiny(data, selection=0.0, epochs=2), tmp_path / "run")
    printed = capsys.readouterr()
    assert "newest checkpoint at step 12" in printed.out + printed.err  # 96 rows, 6 steps an epoch
    assert "macro" not in (tmp_path / "run" / "log.jsonl").read_text()
    loaded = load_bundle(bundle)
    assert loaded.scores == {}
    assert loaded.provenance["step"] == int(state.step) == 12
    kernel = loaded.models["main"][1]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, np.asarray(state.params["head"]["kernel"]))


def test_an_epoch_is_as_long_as_its_sample(data, tmp_path, capsys):
    """A quarter of each person's faces."""
    copy = shutil.copytree(data, tmp_path / "data")
    columns = dict(np.load(copy / "index.npz"))
    columns["video"] = columns["subject"]
    np.savez(copy / "index.npz", **columns)
    train = columns["split"] == "train"
    _, lengths = np.unique(columns["video"][train], return_counts=True)
    config = tiny(str(copy), selection=0.0, epochs=2, batch_size=8, sampling__stride=4)
    state, _ = finetune(config, tmp_path / "run")
    assert int(state.step) == 2 * ((lengths // 4).sum() // 8) == 6
    printed = capsys.readouterr()
    assert "an epoch shows 24 faces" in printed.out + printed.err


def test_going_on_with_a_finished_run_changes_nothing(run, data):
    workdir, state, _ = run
    before = (workdir / "log.jsonl").read_text()
    again, _ = finetune(tiny(data), workdir)
    assert (workdir / "log.jsonl").read_text() == before
    for ours, theirs in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


# Step 7 is written: epoch 1 is saved, epoch 2 is half done.
_CHILD = """
import jax, os, signal, sys
jax.config.update("jax_num_cpu_devices", 8)
from fer_jax.cli.main import main
from fer_jax.train.logs import RunLog
write = RunLog.write
def write_and_die(self, step, group, values):
    write(self, step, group, values)
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.write = write_and_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(run, data, tmp_path):
    """SIGKILL after the first checkpoint, in the middle of an epoch; then started again."""
    workdir = tmp_path / "killed"
    config = tmp_path / "config.py"
    config.write_text(
        "from fer_jax.train.config import default_config\n"
        "import json\n"
        "def get_config():\n"
        f"    config = default_config()\n"
        f"    config.update(json.load(open({str(run[0] / 'config.json')!r})))\n"
        "    return config\n"
    )
    arguments = ["train", f"--config={config}", f"--workdir={workdir}"]
    died = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        capture_output=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]
    log = workdir / "log.jsonl"
    assert [step for step, _ in losses(workdir)] == list(range(1, 8))
    with log.open("a") as file:
        file.write('{"step": 8, "group": "tr')  # a torn line, as a crash may leave
    state, _ = finetune(tiny(data), workdir)
    assert losses(workdir) == losses(run[0])
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(run[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_config_in_the_same_workdir_is_refused(run, data):
    with pytest.raises(
        UsageError, match=r"config.json: holds a run with another epochs, optimizer"
    ):
        finetune(tiny(data, epochs=4, optimizer__weight_decay=0.3), run[0])


def test_data_prepared_anew_is_noticed(run, tmp_path):
    """The path is the same, the labels are not: batches would differ from those before."""
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    config = json.loads((workdir / "config.json").read_text())
    data = tmp_path / "data"
    shutil.copytree(config["data"], data)
    config["data"] = str(data)
    (workdir / "config.json").write_text(json.dumps(config))
    columns = dict(np.load(data / "index.npz"))
    columns["label"] = np.roll(columns["label"], 1)
    np.savez(data / "index.npz", **columns)
    with pytest.raises(UsageError, match="holds other faces, labels or features than"):
        finetune(freeze(config), workdir)


def test_fine_tuning_begins_from_the_backbone(run, data, tmp_path):
    """A bundle as backbone, with another size of input: positions are interpolated."""
    _, _, bundle = run
    config = tiny(data, backbone=str(bundle), epochs=1, model__image_size=48)
    state, made = finetune(config, tmp_path / "again")
    assert load_bundle(made).models["main"][0].grid == 6
    old = load_bundle(bundle).models["main"][1]
    # One warm-up epoch moves weights by little: they are the backbone's, not fresh ones.
    for name in ("qkv", "proj"):
        ours = np.asarray(state.params["blocks"]["attn"][name]["kernel"])
        theirs = old["blocks"]["attn"][name]["kernel"]
        assert np.corrcoef(ours.ravel(), np.ravel(theirs))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": "absent"}, FerJaxError, "absent: no such data set"),
        ({"backbone": "absent"}, FerJaxError, "absent"),
        ({"batch_size": 12}, UsageError, "config.batch_size=12: must be a multiple of the 8"),
        ({"batch_size": 800}, FerJaxError, "80 training rows are fewer than config.batch_size"),
        ({"selection_data": "other"}, UsageError, "config.selection_data=other"),
        ({"sampling__source_weights": "x=1"}, FerJaxError, "there is no source 'x'; the sources"),
        ({"mesh__fsdp": 3}, UsageError, "does not cover 8 devices"),
        ({"optimizer__learning_rate": 1e30}, FerJaxError, "the loss is nan at step|is inf at"),
    ],
)
def test_what_cannot_run_says_why(changes, error, message, data, tmp_path):
    with pytest.raises(error, match=message):
        finetune(tiny(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "bundle").exists()
    # The corrected command may use the same folder, unless training had begun.
    claimed = (tmp_path / "run" / "config.json").exists()
    assert claimed == ("optimizer__learning_rate" in changes)


def test_a_full_disk_is_one_line_and_leaves_no_bundle(run, data, tmp_path, capsys, monkeypatch):
    """The disk fills up while the bundle is written: the run stays whole."""
    workdir = tmp_path / "full"
    shutil.copytree(run[0], workdir)
    shutil.rmtree(workdir / "bundle")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", str(workdir / "bundle"))

    monkeypatch.setattr("fer_jax.train.run.save_bundle", full)
    config = tmp_path / "config.py"
    config.write_text(
        "from fer_jax.train.config import default_config\nimport json\n"
        "def get_config():\n    config = default_config()\n"
        f"    config.update(json.load(open({str(workdir / 'config.json')!r})))\n"
        "    return config\n"
    )
    assert main(["train", f"--config={config}", f"--workdir={workdir}"]) == 1
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device; free some space" in printed
    assert not (workdir / "bundle").exists()
