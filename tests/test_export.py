"""The way back: bundles to files that PyTorch reads, bit for bit."""

import dataclasses
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from pth_files import vit_tensors, write_checkpoint
from safetensors.numpy import load_file
from tiny_bundles import tiny_bundle, write_tiny_bundle

from fer_jax.bundle import load_bundle, save_bundle
from fer_jax.cli.main import main
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import convert_checkpoint
from fer_jax.convert.pth_writer import write_pth

CASES = [
    ({}, None, "mae"),
    ({"norm": "fc_norm", "classes": 8}, "affwild2_expr", "mae"),
    ({"classes": 7}, "rafdb", "timm"),
    ({"layer_scale": True}, None, "timm"),
    ({"layer_scale": True, "norm": "fc_norm", "classes": 8}, "ferplus", "timm"),
]


def bundle_of(folder, arrays, labels):
    path = write_checkpoint(folder, arrays, "source.pth")
    extra = ["--labels", labels] if labels else []
    arguments = ["convert", str(path), str(folder / "bundle"), "--normalize", "imagenet"]
    assert main([*arguments, "--heads", "4", *extra]) == 0
    return str(folder / "bundle")


@pytest.mark.parametrize(("made", "labels", "family"), CASES)
def test_there_and_back_is_bit_identical(tmp_path, made, labels, family):
    arrays = vit_tensors(**made)
    bundle = bundle_of(tmp_path, arrays, labels)
    for name in ("back.pth", "back.safetensors"):
        out = tmp_path / name
        assert main(["convert", bundle, str(out), "--family", family]) == 0
        back = open_checkpoint(out)
        assert set(back.tensors) == set(arrays)
        for key, values in arrays.items():
            assert back.values(key).dtype == np.float32
            np.testing.assert_array_equal(back.values(key), values, err_msg=key, strict=True)
    stored = load_file(tmp_path / "back.safetensors")
    assert all(np.array_equal(stored[key], values) for key, values in arrays.items())


@pytest.mark.parametrize(("made", "labels", "family"), CASES)
def test_torch_loads_it_with_weights_only(tmp_path, made, labels, family):
    torch = pytest.importorskip("torch")
    arrays = vit_tensors(**made)
    out = tmp_path / "back.pth"
    bundle = bundle_of(tmp_path, arrays, labels)
    assert main(["convert", bundle, str(out), "--family", family]) == 0
    for mapped in (False, True):
        value = torch.load(out, weights_only=True, mmap=mapped)
        if family == "mae":
            assert list(value) == ["model"]
            value = value["model"]
        assert set(value) == set(arrays)
        for key, values in arrays.items():
            assert value[key].is_contiguous()
            np.testing.assert_array_equal(value[key].numpy(), values, err_msg=key, strict=True)


def test_other_dtypes_shapes_and_sizes(tmp_path):
    """Scalars, empty tensors, halves, bfloat16: what torch reads back, and what we do."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    half = rng.normal(size=(3, 5)).astype(np.float16)
    brain = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    import ml_dtypes

    tensors = {
        "half": half,
        "brain": brain.view(torch.int16).numpy().view(ml_dtypes.bfloat16),
        "double": rng.normal(size=(1, 2, 3, 4)),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "some.pth"
    write_pth(path, {k: (v.shape, v.dtype) for k, v in tensors.items()}, tensors.items())
    found, ours = torch.load(path, weights_only=True), open_checkpoint(path)
    assert torch.equal(found.pop("brain"), brain)
    for key, values in found.items():
        np.testing.assert_array_equal(values.numpy(), tensors[key], strict=True)
    for key, values in tensors.items():
        np.testing.assert_array_equal(ours.values(key), values, strict=True)


def test_storages_are_aligned_and_the_file_depends_on_the_weights_alone(tmp_path):
    arrays = vit_tensors()
    shapes = {k: (v.shape, v.dtype) for k, v in arrays.items()}
    for name in ("a.pth", "b.pth"):
        write_pth(tmp_path / name, shapes, arrays.items(), wrapper="model")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    raw = (tmp_path / "a.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[:3] == ["archive/data.pkl", "archive/byteorder", "archive/data/0"]
        for number, values in enumerate(arrays.values()):
            member = archive.getinfo(f"archive/data/{number}")
            begin = raw.index(values.tobytes()) if values.size > 4 else None
            assert begin is None or begin % 64 == 0
            assert member.compress_type == zipfile.ZIP_STORED
            assert member.file_size == values.nbytes


def test_a_trained_head_goes_back_and_comes_again(tmp_path, capsys):
    """A classifier's file, converted again, gives the same logits: nothing is lost between."""
    path = write_tiny_bundle(tmp_path / "bundle", "expw")
    out = tmp_path / "back.pth"
    assert main(["convert", str(path), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "the head's outputs are expw: Anger, Disgust, Fear" in printed
    assert "mean 0.485, 0.456, 0.406" in printed
    config, params = load_bundle(path).models["main"]
    again = convert_checkpoint(
        open_checkpoint(out), Options(labels=load_bundle(path).labels, num_heads=config.num_heads)
    )
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["back.bin"], 2, "must end in .pth or .safetensors"),
        (["there.pth"], 1, "exists already"),
        (["back.pth", "--family", "mae"], 2, "names of mae have no place for blocks.0.ls1.gamma"),
        (["back.pth", "--normalize", "imagenet"], 2, "--normalize is for a checkpoint"),
        (["back.pth", "--image-size", "40"], 2, "--image-size is for a checkpoint"),
        (["back.pth", "--dry-run"], 2, "--dry-run is for a checkpoint"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    tmp_path, monkeypatch, capsys, arguments, code, message
):
    bundle_of(tmp_path, vit_tensors(layer_scale=True), None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.pth").write_text("mine")
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    assert main(["convert", "bundle", *arguments]) == code
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.pth").read_text() == "mine"


def test_the_family_is_that_of_the_source(tmp_path):
    torch = pytest.importorskip("torch")
    for number, provenance in enumerate(
        [{"family": "timm"}, {"backbone": {"family": "timm"}}, {"family": "mae"}, {"family": []}]
    ):
        bundle = dataclasses.replace(tiny_bundle("expw"), provenance=provenance)
        save_bundle(bundle, tmp_path / f"{number}")
        out = tmp_path / f"{number}.pth"
        assert main(["convert", str(tmp_path / f"{number}"), str(out)]) == 0
        assert ("model" in torch.load(out, weights_only=True)) == (number > 1)


def test_overwriting(tmp_path, capsys):
    bundle, out = write_tiny_bundle(tmp_path / "bundle"), tmp_path / "back.pth"
    out.write_text("old")
    assert main(["convert", str(bundle), str(out), "--overwrite"]) == 0
    assert len(open_checkpoint(out).tensors) > 20
    (tmp_path / "folder.pth").mkdir()
    assert main(["convert", str(bundle), str(tmp_path / "folder.pth"), "--overwrite"]) == 2
    assert "folder.pth: is a folder; name a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [("bundel", "bundel"), (".", "perhaps bundle is meant")],
)
def test_a_wrong_path_to_a_bundle_is_said_first(tmp_path, monkeypatch, capsys, source, message):
    write_tiny_bundle(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", source, "back.pth"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "--normalize" not in error


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, capsys):
    bundle = write_tiny_bundle(tmp_path / "bundle")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fer_jax.convert.pth_writer._add", fail)
    assert main(["convert", str(bundle), str(tmp_path / "back.pth")]) == 1
    assert "free some space" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [bundle]


def test_no_torch_is_imported(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    code = (
        "import sys; from fer_jax.cli.main import main; "
        f"assert main(['convert', {str(bundle)!r}, {str(tmp_path / 'back.pth')!r}]) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
