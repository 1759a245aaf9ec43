"""README's commands and examples run, word for word, on drawn faces and a tiny checkpoint."""

import re
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from moving_faces import moving_frames
from pth_files import state_dict, write_pth
from test_predict_videos import write_video

from fer_jax.cli.main import main
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.models import torch_layout, vit
from fer_jax.predict.table import read_csv

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# Said to the commands besides README's words: what a tiny model of no registered size needs, and
# a run of seconds.
ADDED = {
    "convert": ["--heads", "2"],
    "train": [
        "--config.epochs=1",
        "--config.batch_size=16",
        "--config.model.image_size=32",
        "--config.optimizer.warmup_epochs=0.5",
    ],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands():
    lines = "\n".join(blocks("bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fer-jax ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the reader has: configs, a checkpoint, faces in folders, one video."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_synthetic_faces(
        folder / "faces", identities=10, images_per_identity=16, size=32, validation_fraction=0.2
    )
    (folder / "faces" / "labels.csv").unlink()
    write_video(folder / "interview.mp4", moving_frames(12), codec="mp4v")
    config = vit.ViTConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=2)
    params = jax.tree.map(np.asarray, vit.init(config, jax.random.key(0)))
    values, storages = state_dict(dict(torch_layout.to_torch_layout(params, config)))
    write_pth(folder / "checkpoint.pth", {"model": values}, storages)
    return folder


@pytest.fixture(scope="module")
def line(folder):
    """Runs every command once, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        codes = []
        for _, name, *arguments in commands():
            added = [] if arguments[0] == "run/bundle" else ADDED.get(name, [])
            codes.append((name, main([name, *arguments, *added])))
    return codes


@pytest.mark.slow
def test_every_command_runs(line):
    names = ["inspect", "convert", "prepare", "train", "evaluate", "predict", "predict", "convert"]
    assert line == [(name, 0) for name in names]


@pytest.mark.slow
def test_the_examples_run(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    table = read_csv(folder / "interview.csv")
    assert table.frame.tolist() == [*range(1, 13)]
    assert {*table.labels} <= {*names["recognizer"].classes}
    assert float(capsys.readouterr().out) == pytest.approx(np.log(8), abs=1e-5)
    assert names["logits"].shape == (1, 8)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
