"""The proof must pass what is right, and must not pass what is wrong."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from pth_files import vit_tensors, write_checkpoint

from fer_jax import golden
from fer_jax.bundle import View, load_bundle
from fer_jax.cli.main import main
from fer_jax.convert import families, proof, torch_reference
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import convert_checkpoint
from fer_jax.labels import label_space
from fer_jax.models import blocks, vit
from fer_jax.ops.resize import POSITION_KERNELS, resize_position_embedding

ROOT = Path(__file__).parent.parent
VIEW = View(
    template="unknown",
    crop_source="unknown",
    image_size=24,
    resize="bicubic_antialias",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def trained(**made) -> dict[str, np.ndarray]:
    """A tiny ViT with numbers of a trained one: scales around 1, attention that tells tokens."""
    rng = np.random.default_rng(5)
    tensors = {}
    for name, values in vit_tensors(**made).items():
        if "norm" in name and name.endswith("weight"):
            tensors[name] = (1 + 0.3 * rng.normal(size=values.shape)).astype(np.float32)
        else:
            tensors[name] = 3 * values
    return tensors


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(write_checkpoint(tmp_path, trained(classes=7)))


OPTIONS = Options(num_heads=4, labels=label_space("expw"))


def prove(checkpoint, options=OPTIONS):
    return proof.prove(checkpoint, convert_checkpoint(checkpoint, options), VIEW)


def test_what_is_right_passes(checkpoint):
    found = prove(checkpoint)
    assert found.passed
    names = ["patch_embed", "embed", "blocks.0", "blocks.1", "norm", "pooled", "logits"]
    assert [stage.name for stage in found.stages] == names
    assert found.stages[-1].shape == (2, 7)
    for stage in found.stages:
        assert 0 < stage.floor < 3e-5  # at most 1.3e-5 on three kinds of processors
        assert (stage.torch is not None) == torch_reference.available()
    assert not found.rounding
    assert found.worst in found.stages


def _converted(checkpoint, options=OPTIONS):
    """A conversion whose params may be written to."""
    conversion = convert_checkpoint(checkpoint, options)
    return dataclasses.replace(conversion, params=jax.tree.map(np.array, conversion.params))


def _first_failure(found) -> str:
    assert not found.passed
    return next(stage.name for stage in found.stages if not stage.passed)


@pytest.fixture
def tanh_gelu(monkeypatch):
    """Every GELU of the models is the approximate one; programs are traced anew."""

    def forget():
        jax.clear_caches()
        vit.build.cache_clear()
        golden._program.cache_clear()

    monkeypatch.setattr(blocks, "gelu", blocks.jax.nn.gelu)  # by tanh, unless told otherwise
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.mark.usefixtures("tanh_gelu")
def test_tanh_gelu_is_seen_in_the_first_block(checkpoint):
    assert _first_failure(prove(checkpoint)) == "blocks.0"


def test_another_epsilon_is_seen(checkpoint, monkeypatch):
    conversion = _converted(checkpoint)
    right = proof._jax_stages

    def wrong(config, params, inputs):
        return right(dataclasses.replace(config, norm_eps=1e-5), params, inputs)

    monkeypatch.setattr(proof, "_jax_stages", wrong)
    assert _first_failure(proof.prove(checkpoint, conversion, VIEW)) == "blocks.0"


@pytest.mark.parametrize(
    ("leaf", "stage"),
    [
        (("patch_embed", "kernel"), "patch_embed"),
        (("cls_token",), "embed"),
        (("pos_embed",), "embed"),
        (("blocks", "attn", "qkv", "kernel"), "blocks.0"),
        (("blocks", "mlp", "fc2", "bias"), "blocks.0"),
        (("norm", "scale"), "norm"),
        (("head", "kernel"), "logits"),
    ],
)
def test_one_wrong_number_is_seen_where_it_is(checkpoint, leaf, stage):
    conversion = _converted(checkpoint)
    values = conversion.params
    for name in leaf:
        values = values[name]
    values.reshape(-1)[1] += 0.01
    assert _first_failure(proof.prove(checkpoint, conversion, VIEW)) == stage


def test_query_and_key_swapped_are_seen(checkpoint):
    conversion = _converted(checkpoint)
    kernel = conversion.params["blocks"]["attn"]["qkv"]["kernel"]
    kernel[1] = kernel[1][:, [*range(32, 64), *range(32), *range(64, 96)]]
    assert _first_failure(proof.prove(checkpoint, conversion, VIEW)) == "blocks.1"


def test_nan_never_passes(checkpoint):
    conversion = _converted(checkpoint)
    conversion.params["head"]["bias"][2] = np.nan
    assert _first_failure(proof.prove(checkpoint, conversion, VIEW)) == "logits"


@pytest.mark.parametrize("mistake", ["query and key", "norm1 and norm2"])
def test_a_mistake_in_the_tables_is_seen(monkeypatch, mistake):
    """The reference finds its tensors by other means than the tables."""

    def change(rule):
        if mistake == "query and key" and "attn.qkv" in rule.target:
            return dataclasses.replace(rule, part=((1, 0, 2)[rule.part[0]], 3))
        if mistake == "norm1 and norm2" and rule.target.startswith("blocks.{0}.norm"):
            other = rule.target.translate(str.maketrans("12", "21"))
            if rule.target.count("1") + rule.target.count("2") > 1:  # the group {1} stays
                other = other[:-3] + rule.target[-3:]
            return dataclasses.replace(rule, target=other)
        return rule

    changed = tuple(
        dataclasses.replace(family, rules=tuple(map(change, family.rules)))
        if family.name == "hf"
        else family
        for family in families.FAMILIES
    )
    monkeypatch.setattr(families, "FAMILIES", changed)
    checkpoint = open_checkpoint(ROOT / "tests" / "testdata" / "torch_hf.pth")
    conversion = convert_checkpoint(checkpoint, Options(num_heads=2))
    view = dataclasses.replace(VIEW, image_size=8)
    assert _first_failure(proof.prove(checkpoint, conversion, view)) == "blocks.0"


@pytest.mark.parametrize("kernel", ["bicubic", "bicubic_antialias", "bicubic_dinov2"])
@pytest.mark.parametrize("size", [16, 40])
def test_a_mistake_in_resized_positions_is_seen(checkpoint, kernel, size):
    options = dataclasses.replace(OPTIONS, image_size=size, position_resize=kernel)
    conversion = _converted(checkpoint, options)
    view = dataclasses.replace(VIEW, image_size=size)
    assert proof.prove(checkpoint, conversion, view).passed
    other = next(name for name in POSITION_KERNELS if name != kernel)
    wrong = resize_position_embedding(checkpoint.values("pos_embed"), (size // 8, size // 8), other)
    conversion.params["pos_embed"][:] = wrong
    assert _first_failure(proof.prove(checkpoint, conversion, view)) == "embed"


def test_rows_of_a_head_taken_from_wrong_classes_are_seen(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, trained(classes=8)))
    labels = {"labels": label_space("affectnet8"), "map_to": label_space("affectnet7")}
    conversion = _converted(checkpoint, Options(num_heads=4, **labels))
    for leaf in conversion.params["head"].values():
        leaf[..., [0, 1]] = leaf[..., [1, 0]]
    assert _first_failure(proof.prove(checkpoint, conversion, VIEW)) == "logits"


def test_a_witness_that_disagrees_fails_the_proof(checkpoint, monkeypatch):
    if not torch_reference.available():
        pytest.skip("needs torch")
    right = torch_reference.vit_stages

    def wrong(*arguments):
        for name, values in right(*arguments):
            yield name, values * 1.5 if name == "blocks.1" else values

    monkeypatch.setattr(torch_reference, "vit_stages", wrong)
    assert _first_failure(prove(checkpoint)) == "blocks.1"
    monkeypatch.setattr(torch_reference, "vit_stages", lambda *a: list(right(*a))[:3].__iter__())
    with pytest.raises(RuntimeError, match=r"gives the stage None where blocks\.1 is due"):
        prove(checkpoint)


def test_no_stages_prove_nothing():
    assert not proof.Proof((), (), "", (), 0.0).passed


def test_a_head_of_zeros_passes(tmp_path, capsys):
    arrays = trained(classes=7)
    arrays["head.weight"][:] = 0
    arrays["head.bias"][:] = 0
    path = write_checkpoint(tmp_path, arrays)
    wishes = ["--normalize", "imagenet", "--heads", "4", "--labels", "expw"]
    assert main(["convert", str(path), str(tmp_path / "bundle"), *wishes]) == 0
    assert "proof: PASS" in capsys.readouterr().out


def test_numbers_that_overflow_fail_with_a_report(tmp_path, capsys):
    """Where the reference in float32 is infinite, nothing is judged to be near enough."""
    arrays = trained(classes=7)
    arrays["head.weight"][:] = 3e38
    path = write_checkpoint(tmp_path, arrays)
    wishes = ["--normalize", "imagenet", "--heads", "4", "--labels", "expw"]
    assert main(["convert", str(path), str(tmp_path / "bundle"), *wishes]) == 1
    assert "proof: FAIL" in capsys.readouterr().out
    document = json.loads((tmp_path / "bundle.report.json").read_text())
    assert document["stages"][-1]["passed"] is False
    assert document["stages"][-1]["allowed"] is None


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 1e-3), ("float16", 1e-4)])
def test_rounding_is_measured_and_not_held_against_the_model(checkpoint, dtype, least):
    options = Options(num_heads=4, labels=label_space("expw"), dtype=dtype)
    found = prove(checkpoint, options)
    assert found.passed
    assert [one.name for one in found.rounding] == ["pooled", "logits"]
    for one in found.rounding:
        assert least < one.relative < 30 * least
    assert 0 <= found.rounding[1].same_class <= 1
    assert found.rounding[0].same_class is None


def test_positions_and_heads_that_are_changed_pass(tmp_path):
    path = write_checkpoint(tmp_path, trained(classes=8))
    labels = {"labels": label_space("affectnet8"), "map_to": label_space("affectnet7")}
    options = Options(num_heads=4, image_size=24, **labels)
    assert prove(open_checkpoint(path), options).passed
    options = Options(num_heads=4, fresh_head=label_space("expw"))
    assert prove(open_checkpoint(path), options).passed


def test_the_report_names_every_tensor(tmp_path, capsys):
    arrays = trained(decoder=True)
    path = write_checkpoint(tmp_path, arrays)
    out = tmp_path / "bundle"
    assert main(["convert", str(path), str(out), "--normalize", "imagenet", "--heads", "4"]) == 0
    document = json.loads((out / "report.json").read_text())
    assert document["result"] == "PASS"
    assert {key: document["source"][key] for key in ("file", "format")} == {
        "file": "model.pth",
        "format": "pth",
    }
    keys = {part["key"] for row in document["tensors"] for part in row["from"]}
    assert keys | document["left_out"].keys() == {
        *(f"model.{name}" for name in arrays),
        *("epoch", "args", "optimizer"),
    }
    row = next(r for r in document["tensors"] if r["name"] == "blocks.1.mlp.fc1.weight")
    assert (row["leaf"], row["block"], row["shape"]) == ("blocks/mlp/fc1/kernel", 1, [128, 32])
    raw = np.ascontiguousarray(arrays["blocks.1.mlp.fc1.weight"]).tobytes()
    assert row["from"][0]["sha256"] == hashlib.sha256(raw).hexdigest()
    text = (out / "report.md").read_text()
    assert text.startswith("# PASS: model.pth as a JAX encoder\n")
    for name in ("blocks.1", "`model.blocks.1.mlp.fc1.weight`", "## Left out", "noise floor"):
        assert name in text
    load_bundle(out)


@pytest.mark.usefixtures("tanh_gelu")
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_failed_proof_writes_no_bundle_and_exits_with_1(tmp_path, capsys, slash):
    path = write_checkpoint(tmp_path, trained())
    out = tmp_path / "bundle"
    wishes = ["--normalize", "imagenet", "--heads", "4"]
    assert main(["convert", str(path), f"{out}{slash}", *wishes]) == 1
    printed = capsys.readouterr().out
    assert "proof: FAIL" in printed
    assert f"not written, see {out}.report.md" in printed
    assert not out.exists()
    assert (tmp_path / "bundle.report.md").read_text().startswith("# FAIL: model.pth")
    assert json.loads((tmp_path / "bundle.report.json").read_text())["result"] == "FAIL"


def test_a_success_removes_the_report_of_a_failure(tmp_path):
    path = write_checkpoint(tmp_path, trained())
    for name in ("bundle.report.md", "bundle.report.json"):
        (tmp_path / name).write_text("FAIL")
    wishes = ["--normalize", "imagenet", "--heads", "4"]
    assert main(["convert", str(path), str(tmp_path / "bundle"), *wishes]) == 0
    assert not list(tmp_path.glob("bundle.report.*"))


def test_a_taken_folder_is_refused_before_the_file_is_read(tmp_path, capsys):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep")
    (tmp_path / "x.pth").write_text("no checkpoint")
    wishes = ["--normalize", "imagenet", "--heads", "4"]
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "bundle"), *wishes]) == 1
    assert "is in use and holds no bundle.json" in capsys.readouterr().err


def test_without_the_proof_there_is_no_report(tmp_path, capsys):
    path = write_checkpoint(tmp_path, trained())
    out = tmp_path / "bundle"
    wishes = ["--normalize", "imagenet", "--heads", "4", "--no-proof"]
    assert main(["convert", str(path), str(out), *wishes]) == 0
    assert "proof:" not in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {
        *("bundle.json", "golden.npz", "params.safetensors"),
    }


def test_the_tool_does_the_same_from_a_checkout(tmp_path):
    path = write_checkpoint(tmp_path, trained())
    command = [sys.executable, str(ROOT / "tools" / "convert_weights.py"), str(path)]
    command += [str(tmp_path / "bundle"), "--normalize", "imagenet", "--heads", "4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "proof: PASS" in done.stdout
    assert (tmp_path / "bundle" / "report.md").exists()
