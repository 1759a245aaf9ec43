"""The commands and the example of docs/data.md run, word for word, in order, on drawn people."""

import re
import shlex
from pathlib import Path

import mini_trees
import numpy as np
import pytest
from tiny_bundles import write_tiny_bundle

from fer_jax.cli.main import main
from fer_jax.data.dataset import FaceData, select
from fer_jax.data.images import decode_image
from fer_jax.data.synthetic import write_synthetic_faces

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "data.md").read_text()
# Said besides the page's words: a run of seconds with a model of no registered size.
ADDED = {
    "train": [
        "--config.epochs=1",
        "--config.batch_size=16",
        "--config.model.image_size=32",
        "--config.model.dtype=float32",
        "--config.optimizer.warmup_epochs=0.5",
    ]
}


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the reader has: configs, the unpacked data, a backbone, more faces."""
    folder = tmp_path_factory.mktemp("data_page")
    (folder / "configs").symlink_to(ROOT / "configs")
    options = ("--videos", "5", "--frames", "24", "30")
    mini_trees.make(folder / "affwild2", *options, "--faults", "none")
    write_tiny_bundle(folder / "backbone", None)
    write_synthetic_faces(
        folder / "drawn", identities=6, images_per_identity=8, size=32, validation_fraction=0.2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        codes = [
            (command, main([command, *arguments, *ADDED.get(command, [])]))
            for _, command, *arguments in commands()
        ]
    assert codes == [
        (name, 0) for name in ("doctor", "prepare", "train", *["prepare"] * 5, "train", "distill")
    ]
    return folder


def test_every_command_runs(folder):
    assert {program for program, *_ in commands()} == {"fer-jax"}
    assert (folder / "checkup" / "doctor.html").stat().st_size > 10_000
    for name in ("run", "mixed"):
        assert (folder / name / "bundle" / "bundle.json").exists()
    crops, films = FaceData.open(folder / "data"), FaceData.open(folder / "filmed")
    assert decode_image(films.records.image(0)).shape == (112, 112, 3)
    assert len(select(crops, "validation")) > 0
    assert FaceData.open(folder / "aligned").template == "arcface_112"
    assert FaceData.open(folder / "taught").index["voted"].any()
    reviewed = FaceData.open(folder / "reviewed")
    np.testing.assert_array_equal(reviewed.index["key"], crops.index["key"])


def test_the_example_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(example, names)
    batch = names["batch"]
    assert batch["main"].shape == batch["aux"].shape == (8, 112, 112, 3)
    assert batch["label"].shape == batch["row"].shape == (8,)
