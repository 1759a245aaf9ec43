"""Masked pre-training from end to end on drawn faces: what it writes, resumes, refuses."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from moving_faces import moving_frames
from test_face_videos import write_video

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.errors import FerJaxError, Preempted, UsageError
from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig
from fer_jax.train.config import default_config as train_config
from fer_jax.train.config import freeze as freeze_train
from fer_jax.train.finetune import finetune
from fer_jax.train.logs import RunLog
from fer_jax.train.pretrain import pretrain
from fer_jax.train.pretrain_config import default_config, freeze
from fer_jax.train.pretrain_rows import labels_of, open_faces
from fer_jax.train.pretrain_start import from_bundle, from_scratch

ROOT = Path(__file__).parent.parent
SMALL = {"width": 32, "depth": 2, "num_heads": 2, "image_size": 32, "patch_size": 8}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`faces`, and the same prepared: with labels, without, and in another label space."""
    folder = tmp_path_factory.mktemp("pretrain")
    write_synthetic_faces(folder / "faces", identities=8, images_per_identity=16, size=32)
    faces, listed = f"{folder}/faces", ["--csv", f"{folder}/faces/labels.csv"]
    for name, options in {
        "data": [*listed, "--labels", "affwild2_expr"],
        "unlabelled": ["--unlabelled"],
        "others": ["--labels", "expw", "--skip-bad"],
    }.items():
        assert main(["prepare", "images", faces, *options, "--out", f"{folder}/{name}"]) == 0
    return folder


def tiny(data, **changes):
    config = default_config()
    config.data = str(data)
    config.epochs = 2
    config.batch_size = 16
    config.log_every = 1
    config.selection = 0.2
    config.model.update(SMALL | DECODER)
    config.optimizer.learning_rate = 0.04
    config.optimizer.warmup_epochs = 0.5
    config.update(changes)
    return freeze(config)


def lines(workdir):
    """The log without what a clock has to do with."""
    found = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in found]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that nobody stopped: 80 faces, 5 steps an epoch."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    state, bundle = pretrain(tiny(folder / "data"), workdir)
    return workdir, state, bundle


def test_a_run_leaves_a_log_a_picture_and_a_bundle(whole):
    workdir, state, path = whole
    train = [line for line in lines(workdir) if line["group"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 11))
    assert np.mean([line["loss"] for line in train[-3:]]) < train[0]["loss"] - 0.1
    scored = [line for line in lines(workdir) if line["group"] == "selection"]
    assert [line["step"] for line in scored] == [5, 10]
    assert scored[1]["masked_loss"] < scored[0]["masked_loss"]
    for name in ("knn_accuracy", "knn_macro_f1", "probe_accuracy", "probe_macro_f1"):
        assert 0 <= scored[1][name] <= 1
    bundle = load_bundle(path)
    assert (bundle.kind, bundle.labels) == ("mae", None)
    assert bundle.scores == {"selection_masked_loss": scored[1]["masked_loss"]}
    assert bundle.provenance["made_by"] == "fer-jax pretrain"
    assert bundle.views["main"].image_size == 32
    for ours, theirs in zip(
        jax.tree.leaves(bundle.models["main"][1]), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_picture_shows_faces_holes_and_paint(whole):
    picture = cv2.imread(str(whole[0] / "reconstruction.png"))
    height = picture.shape[0] // 3
    rows = [picture[i * height : (i + 1) * height] for i in range(3)]
    grey = [(np.abs(row.astype(int) - 191) <= 1).all(axis=-1).mean() for row in rows]
    # Three quarters of each face are grey in the middle row alone; labels and gaps take the rest.
    assert 0.6 < grey[1] < 0.75
    assert max(grey[0], grey[2]) < 0.1


def test_sigterm_saves_the_step_and_the_run_goes_on_bit_for_bit(
    folder, whole, tmp_path, monkeypatch
):
    workdir, advance = tmp_path / "run", RunLog.advance
    seen = []

    def told(self, steps=1):
        advance(self, steps)
        seen.append(steps)
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", told)
        with pytest.raises(Preempted, match="at step 7, which is saved"):
            pretrain(tiny(folder / "data"), workdir)
    state, bundle = pretrain(tiny(folder / "data"), workdir)
    assert lines(workdir) == lines(whole[0])
    assert_same_end(workdir, state, bundle, whole)


# Ends like a power failure: in step 7, of which nothing is saved; the last checkpoint is of 6.
_KILLED = """
import os, signal, sys
import conftest
from test_pretrain import tiny
from fer_jax.train.logs import RunLog
from fer_jax.train.pretrain import pretrain

advance, seen = RunLog.advance, []

def told(self, steps=1):
    advance(self, steps)
    seen.append(steps)
    if len(seen) == 7:
        os.kill(os.getpid(), signal.SIGKILL)

RunLog.advance = told
pretrain(tiny(sys.argv[1], checkpoint_steps=2), sys.argv[2])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_for_bit(folder, whole, tmp_path):
    workdir, data = tmp_path / "run", folder / "data"
    command = [sys.executable, "-c", _KILLED, str(data), str(workdir)]
    assert subprocess.run(command, cwd=ROOT / "tests").returncode == -signal.SIGKILL
    assert [line["step"] for line in lines(workdir)][-1] < 10
    state, bundle = pretrain(tiny(data, checkpoint_steps=2), workdir)
    assert lines(workdir) == lines(whole[0])
    assert_same_end(workdir, state, bundle, whole)


def assert_same_end(workdir, state, bundle, whole):
    """Parameters, optimiser and step; the bundle's weights; the picture."""
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in (
        (bundle / "params.safetensors", whole[2] / "params.safetensors"),
        (workdir / "reconstruction.png", whole[0] / "reconstruction.png"),
    ):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name


def test_the_bundle_is_a_backbone_as_it_is(folder, whole, tmp_path):
    config = train_config()
    config.data, config.backbone = str(folder / "data"), str(whole[2])
    config.epochs, config.batch_size = 1, 16
    config.optimizer.learning_rate = 0.0
    state, path = finetune(freeze_train(config), tmp_path / "run")
    assert load_bundle(path).kind == "classifier"
    encoder = load_bundle(whole[2]).models["main"][1]["encoder"]
    for name in ("qkv", "proj"):
        ours = state.params["blocks"]["attn"][name]["kernel"]
        np.testing.assert_array_equal(ours, encoder["blocks"]["attn"][name]["kernel"])


def test_the_bundle_goes_back_to_pytorch_and_returns_bit_for_bit(whole, tmp_path):
    file, again = tmp_path / "mae.pth", tmp_path / "again"
    assert main(["convert", str(whole[2]), str(file)]) == 0
    options = ["--normalize", "imagenet", "--heads", "2", "--decoder", "--decoder-heads", "2"]
    options += ["--norm-pix", "--image-size", "32"]
    code = main(["convert", str(file), str(again), *options])
    assert code == 0
    ours, theirs = (load_bundle(path).models["main"] for path in (again, whole[2]))
    for one, other in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(theirs[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_whole_autoencoder_is_gone_on_with(folder, whole):
    """Its decoder too; at another size, positions are interpolated."""
    bundle = load_bundle(whole[2])
    like = tiny(folder / "data", backbone=str(whole[2]))
    start = from_bundle(like, bundle, "as_is")
    for one, other in zip(
        jax.tree.leaves(start.params), jax.tree.leaves(bundle.models["main"][1]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert start.notes == ()
    larger = tiny(folder / "data", backbone=str(whole[2]), model={"image_size": 48})
    start = from_bundle(larger, bundle, "as_is")
    assert start.notes == ("position embedding 4x4 -> 6x6 (bicubic)",)
    assert start.params["decoder"]["pos_embed"].shape == (1, 37, 16)
    assert start.view.image_size == 48


@pytest.mark.parametrize("layer_scale", [False, True])
def test_an_encoder_gets_a_fresh_decoder_and_computes_the_same(layer_scale, folder, tmp_path):
    config = ViTConfig(
        image_size=32, patch_size=8, width=32, depth=2, num_heads=2, layer_scale=layer_scale
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype("float32"), shapes)
    like = tiny(folder / "data", backbone="b")
    view = from_scratch(like, "as_is").view
    from fer_jax.bundle import Bundle

    bundle = Bundle(kind="encoder", models={"main": (config, params)}, views={"main": view})
    start = from_bundle(like, bundle, "as_is")
    assert start.notes[-1] == "fresh: decoder"
    assert ("LayerScale multiplied into the weights" in start.notes) == layer_scale
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    _, expected = vit.apply(vit.build(config), params, images)
    _, found = vit.apply(vit.build(start.config.encoder), start.params["encoder"], images)
    # Seen: 0 and 2e-6 of values up to 3.
    np.testing.assert_allclose(found["pooled"], expected["pooled"], atol=2e-5)


def test_a_classifier_is_no_beginning(folder):
    from tiny_bundles import tiny_bundle

    like = tiny(folder / "data", backbone="run/bundle")
    with pytest.raises(FerJaxError, match="run/bundle: is of the kind classifier; masked"):
        from_bundle(like, tiny_bundle(), "as_is")


def test_faces_without_labels_are_learnt_from_and_not_probed(folder):
    rows, probe = open_faces(tiny(folder / "unlabelled"))
    assert sum(len(kept) for _, kept in (*rows.train, *rows.selection)) == 128
    assert probe is None
    rows, probe = open_faces(tiny(folder / "data"))
    (train,), (held,) = rows.train, rows.selection
    assert not set(train[1]) & set(held[1])
    assert set(probe.bank[0][1]) == set(train[1])
    assert set(probe.queries[0][1]) == set(held[1])
    _, probe = open_faces(tiny(folder / "data", probe_faces=10))
    assert [len(labels_of(part)) for part in (probe.bank, probe.queries)] == [10, 10]


def test_sets_of_several_label_spaces_are_judged_by_one(folder):
    both = f"{folder}/data,{folder}/others"
    with pytest.raises(FerJaxError, match=r"is labelled in affwild2_expr, .* in expw; set config"):
        open_faces(tiny(both))
    rows, probe = open_faces(tiny(both, selection_data=f"{folder}/data"))
    assert len(rows.train) == 2
    assert rows.labels.name == "affwild2_expr"
    assert (labels_of(rows.train[1:]) == -1).all()
    assert len(probe.bank) == 1
    expected = FaceData.open(folder / "others")
    assert len(rows.train[1][1]) == (expected.index["split"] == "train").sum()


def test_a_set_without_labels_goes_with_one_of_any_label_space(folder):
    both = tiny(f"{folder}/unlabelled,{folder}/others")
    rows, probe = open_faces(both)
    assert rows.labels.name == "expw"
    assert [len(kept) > 0 for _, kept in rows.selection] == [True, True]
    assert (labels_of(rows.train[:1]) == -1).all()
    assert len(labels_of(probe.bank[:1])) == 0
    assert len(labels_of(probe.bank[1:])) == len(rows.train[1][1])


@pytest.mark.slow
def test_every_way_of_running_goes_together(folder, tmp_path):
    """Sharded, in parts, averaged, recomputing, scanned or not, in bfloat16, without selection."""
    model = {"dtype": "bfloat16", "remat": "full", "scan_layers": False, "drop_path": 0.1}
    config = tiny(
        f"{folder}/unlabelled", model=model, mesh={"data": 2, "fsdp": 4}, accumulate=2,
        ema_decay=0.9, selection=0.0, epochs=1,
    )  # fmt: skip
    state, path = pretrain(config, tmp_path / "run")
    bundle = load_bundle(path)
    assert bundle.scores == {}
    ours, average = bundle.models["main"][1]["decoder"]["pred"]["kernel"], state.ema
    np.testing.assert_array_equal(ours, average["decoder"]["pred"]["kernel"])
    assert np.abs(ours - np.asarray(state.params["decoder"]["pred"]["kernel"])).max() > 0
    assert not (tmp_path / "run" / "reconstruction.png").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": ""}, UsageError, "config.data is empty"),
        ({"data": "absent"}, FerJaxError, "absent: no such data set"),
        ({"backbone": "absent"}, FerJaxError, "absent"),
        ({"batch_size": 12}, UsageError, "config.batch_size=12: must be a multiple of the 8"),
        ({"batch_size": 800}, FerJaxError, "fewer than config.batch_size=800; lower it"),
        ({"selection_data": "other"}, UsageError, "config.selection_data=other"),
        ({"mask_ratio": 0.97}, FerJaxError, "config.mask_ratio=0.97 must leave at least one of 16"),
        ({"model": {"decoder_num_heads": 3}}, FerJaxError, "decoder_num_heads=3 must divide"),
        ({"model": {"image_size": 30}}, FerJaxError, "image_size=30 must be a multiple"),
    ],
)
def test_what_cannot_run_says_why(changes, error, message, folder, tmp_path):
    with pytest.raises(error, match=message):
        pretrain(tiny(**{"data": str(folder / "data"), **changes}), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_pictures_that_are_not_prepared_say_what_to_run(folder, tmp_path):
    faces = folder / "faces"
    command = f"fer-jax prepare images {faces} --unlabelled --out {faces}-data"
    with pytest.raises(UsageError, match=f"run `{command}`, and name {faces}-data"):
        pretrain(tiny(f"{faces}/"), tmp_path / "run")


# Said besides the words of docs/pretraining.md: runs of seconds with a model of no registered size.
_ADDED = {
    "pretrain": [
        "--config.epochs=1", "--config.batch_size=16", "--config.evaluate_batch_size=16",
        "--config.workers=0", "--config.optimizer.warmup_epochs=0.5", "--config.selection=0.2",
        *(f"--config.model.{name}={value}" for name, value in (SMALL | DECODER).items()),
    ],
    "train": [
        "--config.epochs=1", "--config.batch_size=16", "--config.model.image_size=32",
        "--config.model.dtype=float32", "--config.optimizer.warmup_epochs=0.5",
    ],
}  # fmt: skip


@pytest.mark.slow
def test_the_pages_commands_run_word_for_word(folder, tmp_path, monkeypatch):
    for name in ("faces", "data"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_video(tmp_path / "films" / "a.avi", [frame.image for frame in moving_frames(20)])
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "pretraining.md").read_text().replace("\\\n", "")
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    done = []
    for line in "".join(blocks).splitlines():
        _, name, *arguments = shlex.split(line)
        assert main([name, *arguments, *_ADDED.get(name, [])]) == 0
        done.append(name)
    assert done == ["prepare", "pretrain", "train", "prepare"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 1.0}, r"config.mask_ratio=1.0: must be in \[0.01, 0.99\]"),
        ({"optimizer": {"layer_decay": 0.65}}, "config.optimizer.layer_decay=0.65: must be 1"),
        ({"model": {"pool": "avg"}}, "config.model.pool: no such field"),
        ({"loss": {}}, "config.loss: no such field"),
    ],
)
def test_mistakes_in_a_config_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        freeze(changes)


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    """Its config file is told from those of other commands; a workdir is that of one run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text(
        "from fer_jax.train.pretrain_config import default_config as get_config\n"
    )
    assert main(["pretrain", "--config=c.py", "--workdir=run", "--config.data=absent"]) == 1
    assert "absent: no such data set" in capsys.readouterr().err
    assert main(["pretrain", "--config=c.py", "--config.labels=3", "--workdir=run"]) == 2
    assert "config.labels: no such field" in capsys.readouterr().err
    assert main(["train", "--config=c.py", "--workdir=run", "--config.data=x"]) == 2
    assert "no such field" in capsys.readouterr().err
