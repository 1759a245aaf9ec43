"""`fer-jax inspect` and `fer-jax convert --dry-run`, against files whose contents are known."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy
from pth_files import state_dict, vit_tensors, write_checkpoint, write_pth
from tiny_bundles import write_tiny_bundle

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.convert.inspection import inspect_path


def test_a_checkpoint_is_told_apart(tmp_path):
    arrays = vit_tensors(decoder=True)
    path = write_checkpoint(tmp_path, arrays)
    found = inspect_path(path)
    assert (found["what"], found["format"], found["family"]) == ("checkpoint", "pth", "mae")
    assert found["bytes"] == path.stat().st_size
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["tensors"] == len(arrays)
    assert found["parameters"] == sum(values.size for values in arrays.values())
    assert found["dtypes"] == {"float32": len(arrays)}
    blocks = [values.size for name, values in arrays.items() if name.startswith("blocks.")]
    assert found["parts"]["blocks"] == {"tensors": len(blocks), "parameters": sum(blocks)}
    assert set(found["beside"]) == {"epoch", "args", "optimizer"}
    assert set(found["left_out"]) == {
        f"model.{name}" for name in arrays if name.startswith(("decoder", "mask"))
    }
    assert found["models"]["main"] == {
        "size": None, "image_size": 24, "patch_size": 8, "width": 32, "depth": 2,
        "num_heads": None, "pool": "cls", "layer_scale": False,
    }  # fmt: skip
    assert found["problem"] is None
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("classes", "fitting"),
    [(8, {"affwild2_expr", "affectnet8", "ferplus"}), (5, set()), (0, set())],
)
def test_the_spaces_that_a_head_fits_are_named(classes, fitting, tmp_path):
    found = inspect_path(write_checkpoint(tmp_path, vit_tensors(classes=classes, norm="fc_norm")))
    assert found["head_classes"] == (classes or None)
    assert set(found["fitting_labels"]) == fitting
    assert found["left_out"] == {}  # the head is there to be kept
    assert found["models"]["main"]["pool"] == "avg"


def test_what_a_file_cannot_say_is_left_open(tmp_path, capsys):
    both = vit_tensors() | {k: v for k, v in vit_tensors(norm="fc_norm").items() if "fc_norm" in k}
    path = write_checkpoint(tmp_path, both)
    model = inspect_path(path)["models"]["main"]
    assert model["pool"] is None
    assert model["num_heads"] is None
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "heads not known (--heads)" in printed
    assert "pool not known (--pool)" in printed


def test_other_networks_are_described_with_the_problem(tmp_path, capsys):
    arrays = {"layer1.0.conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}
    values, storages = state_dict(arrays)
    path = write_pth(tmp_path / "resnet.pth", values, storages)
    found = inspect_path(path)
    assert (found["family"], found["models"]) == (None, None)
    assert "a ResNet" in found["problem"]
    missing = {k: v for k, v in vit_tensors().items() if k != "blocks.1.norm1.bias"}
    assert (
        "missing: blocks.1.norm1.bias"
        in inspect_path(write_checkpoint(tmp_path, missing))["problem"]
    )
    assert main(["inspect", str(path)]) == 0
    assert "108 numbers in 1 tensors" in capsys.readouterr().out


def test_files_without_blocks_are_no_traceback(tmp_path, capsys):
    """The depth is the highest number of a block, and there may be none."""
    bare = {k: v for k, v in vit_tensors().items() if not k.startswith("blocks.")}
    path, out = write_checkpoint(tmp_path, bare, "bare.pth"), str(tmp_path / "bundle")
    common = ["--normalize", "imagenet", "--heads", "4"]
    assert main(["convert", str(path), out, *common, "--family", "timm"]) == 1
    said = "missing: blocks.0..., without which the model's size is not known"
    assert said in capsys.readouterr().err

    half = vit_tensors(decoder=True)
    half = {k: v for k, v in half.items() if not k.startswith("decoder_blocks.")}
    half["decoder_embed.weight"] = np.zeros((32, 32), np.float32)
    half["decoder_embed.bias"] = np.zeros(32, np.float32)
    path = write_checkpoint(tmp_path, half, "half.pth")
    said = "missing: decoder_blocks.0..., without which the model's size is not known"
    wishes = ["--decoder", "--decoder-heads", "4", "--norm-pix"]
    assert main(["convert", str(path), out, *common, *wishes]) == 1
    assert said in capsys.readouterr().err
    assert said in inspect_path(path)["problem"]


def test_a_bundle_is_described_as_it_loads(tmp_path, capsys):
    path = write_tiny_bundle(tmp_path / "bundle")
    found, bundle = inspect_path(path), load_bundle(path, verify=False)
    config, _ = bundle.models["main"]
    assert found["kind"] == bundle.kind
    assert found["models"]["main"]["width"] == config.width
    assert found["models"]["main"]["num_heads"] == config.num_heads
    assert found["labels"]["classes"] == list(bundle.labels.classes)
    assert found["views"]["main"]["image_size"] == config.image_size
    for name, value in found["sha256"].items():
        assert value == hashlib.sha256((path / name).read_bytes()).hexdigest()
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))


@pytest.mark.parametrize(
    "shapes",
    [{"head.weight": (8, 99)}, {"head.weight": ()}, {"head.bias": (7,)}, {"head.weight": (0, 32)}],
)
def test_a_head_that_does_not_fit_is_a_problem(tmp_path, shapes, capsys):
    arrays = vit_tensors(classes=8)
    arrays |= {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    path = write_checkpoint(tmp_path, arrays)
    assert "its head is no layer on 32 values" in inspect_path(path)["problem"]
    assert main(["inspect", str(path)]) == 0
    assert "problem   " in capsys.readouterr().out


def test_files_that_share_a_name_or_two_are_no_vit(tmp_path):
    zeros = np.zeros((4, 4), np.float32)
    for name, arrays in {
        "llama": {"norm.weight": zeros, "layers.0.self_attn.q_proj.weight": zeros},
        "beit": vit_tensors() | {"blocks.0.attn.relative_position_bias_table": zeros},
    }.items():
        found = inspect_path(write_checkpoint(tmp_path, arrays, f"{name}.pth"))
        assert found["family"] is None
        assert ("Swin, BEiT" if name == "beit" else "no known family") in found["problem"]


def test_a_bundle_whose_files_do_not_belong_together(tmp_path, capsys):
    path = write_tiny_bundle(tmp_path / "bundle")
    assert inspect_path(path)["problem"] is None
    other = write_tiny_bundle(tmp_path / "other", "rafdb")
    tensors = safetensors.numpy.load_file(other / "params.safetensors")
    del tensors["main/head.bias"]
    safetensors.numpy.save_file(tensors, path / "params.safetensors")
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "does not fit bundle.json: main/head.bias (1 in all)" in printed
    assert "view      main: main of faces aligned to as_is, 32 pixels" in printed
    assert "labels    expw: Anger, Disgust" in printed


def test_errors_are_one_line(tmp_path, capsys):
    (tmp_path / "empty.pth").touch()
    for path in (tmp_path, tmp_path / "empty.pth", tmp_path / "none.pth"):
        assert main(["inspect", str(path)]) == 1
        error = capsys.readouterr().err.strip()
        assert str(path) in error
        assert "\n" not in error


def test_a_dry_run_prints_every_key_and_writes_nothing(tmp_path, capsys):
    arrays = vit_tensors(decoder=True, classes=8)
    path, out = write_checkpoint(tmp_path, arrays), tmp_path / "bundle"
    arguments = ["convert", str(path), str(out), "--normalize", "mae_face", "--heads", "4"]
    assert main([*arguments, "--image-size", "40", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]
    left_out = [line.split(": ")[1] for line in printed.splitlines() if line.startswith("left out")]
    gone = [k for k in arrays if k.startswith(("decoder", "mask", "head"))]
    assert sorted(left_out) == sorted([f"model.{k}" for k in gone] + ["epoch", "args", "optimizer"])
    assert "pos_embed: bicubic 3 -> 5" in printed
    kept = sum(v.size for k, v in arrays.items() if k not in gone) + (25 - 9) * 32
    assert f"{path.stat().st_size:,} in the file, {4 * kept:,} of float32" in printed
    assert "bundle: would be written" in printed
    assert main([*arguments, "--image-size", "40"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    assert "bundle: exists already and would be refused" in capsys.readouterr().out
    _, params = load_bundle(out).models["main"]
    leaves = []
    for branch in params.values():
        leaves += _leaves(branch)
    assert sum(leaf.size for leaf in leaves) == kept


def _leaves(branch):
    if not isinstance(branch, dict):
        return [branch]
    return [leaf for part in branch.values() for leaf in _leaves(part)]
