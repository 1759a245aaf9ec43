"""The recipes of docs/convert.md run, word for word, in order, on small files of the same names."""

import json
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
from pth_files import state_dict, write_pth
from safetensors.numpy import save_file

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.models import fusion, mae, torch_layout, vit

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parent.parent / "docs" / "convert.md").read_text()
# Registered sizes, so that no command needs more words; one block of the decoder is enough.


def recipes() -> list[tuple[str, str]]:
    return re.findall(r"```(bash|python)\n(.*?)```", TEXT, flags=re.DOTALL)


def write(path: Path, config, init, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)
    tensors = dict(torch_layout.to_torch_layout(params, config))
    values, storages = state_dict(tensors)
    write_pth(path, {"model": values}, storages)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    encoder = vit.vit_config("tiny", image_size=48)
    autoencoder = mae.MAEConfig(encoder, decoder_depth=1)
    write(folder / "mae_face_pretrain_vit_base.pth", autoencoder, mae.init, 1)
    classifier = vit.vit_config("tiny", image_size=48, num_classes=8, pool="avg")
    write(folder / "affectnet8.pth", classifier, vit.init, 2)
    write(folder / "fusion.pth", fusion.EntryFusionConfig(), fusion.init, 3)
    (folder / "vit_hf").mkdir()
    with np.load(Path(__file__).parent / "testdata" / "hf_vit.npz") as file:
        tensors = {n.removeprefix("file/"): file[n] for n in file.files if n.startswith("file/")}
        (folder / "vit_hf" / "config.json").write_text(str(file["config"]))
    save_file(tensors, folder / "vit_hf" / "model.safetensors")
    return folder


def test_every_recipe_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    ran, names = [], {}
    for language, block in recipes():
        if language == "python":
            exec(block, names)
            ran.append("python")
            continue
        for line in block.strip().splitlines():
            program, command, *arguments = shlex.split(line)
            assert program == "fer-jax"
            assert main([command, *arguments]) == 0, line
            ran.append(command)
    assert ran == ["inspect", *["convert"] * 11, "python", "python"]
    printed = capsys.readouterr().out
    assert printed.count("proof: PASS") == 7
    assert names["logits"].shape == (2, 8)
    assert len(names["params"]["blocks"]["attn"]["qkv"]["kernel"].sharding.device_set) == 8
    assert load_bundle("seven").labels.name == "affectnet7"
    assert load_bundle("small").models["main"][0].param_dtype == "bfloat16"
    document = json.loads(Path("small/report.json").read_text())
    assert [row["name"] for row in document["rounding"]] == ["pooled"]
    assert load_bundle("autoencoder").kind == "mae"


def test_there_are_five_recipes():
    assert re.findall(r"^### (\d)\. ", TEXT, flags=re.MULTILINE) == list("12345")
