"""From checkpoint files to bundles: families, completeness, what is asked for, real weights."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from pth_files import WIDTH, mae_face_shapes, vit_tensors, write_checkpoint
from safetensors.numpy import load_file, save_file

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.convert import release
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.families import FAMILIES, recognise, sort_keys
from fer_jax.convert.options import Options
from fer_jax.convert.plan import convert_checkpoint
from fer_jax.convert.release import ReleaseOptions, convert_file
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.golden import golden_inputs, golden_outputs
from fer_jax.host_arrays import array_in_file
from fer_jax.labels import label_space
from fer_jax.models import vit
from fer_jax.ops.resize import resize_position_embedding


def convert(path: Path, **options: object):
    return convert_checkpoint(open_checkpoint(path), Options(**{"num_heads": 4} | options))


@pytest.mark.parametrize(
    ("made", "labels", "family", "pool", "left_out"),
    [
        ({}, None, "mae", "cls", set()),
        ({"decoder": True}, None, "mae", "cls", {"decoder_blocks", "decoder_pos_embed"}),
        ({"norm": "fc_norm", "classes": 8}, "affwild2_expr", "mae", "avg", set()),
        ({"norm": "fc_norm", "classes": 8}, None, "mae", "avg", {"head"}),
        ({"classes": 7}, "rafdb", "mae", "cls", set()),
        ({"layer_scale": True}, None, "timm", "cls", set()),
        ({"layer_scale": True, "norm": "fc_norm", "classes": 8}, "ferplus", "timm", "avg", set()),
    ],
)
def test_families_and_kinds(tmp_path, made, labels, family, pool, left_out):
    path = write_checkpoint(tmp_path, vit_tensors(**made))
    space = None if labels is None else label_space(labels)
    conversion = convert(path, labels=space)
    config = conversion.config
    assert conversion.family.name == family
    assert (config.width, config.depth, config.patch_size, config.image_size) == (32, 2, 8, 24)
    assert (config.pool, config.mlp_ratio) == (pool, 4.0)
    assert config.layer_scale == made.get("layer_scale", False)
    assert config.num_classes == (made["classes"] if labels else 0)
    # every key of the file is used or left out, and every leaf of the model is set
    used = {key for source in conversion.sources.values() for key in source.keys}
    assert used | conversion.dropped.keys() == {
        *(f"model.{name}" for name in vit_tensors(**made)),
        *("epoch", "args", "optimizer"),
    }
    assert not used & conversion.dropped.keys()
    assert left_out <= {key.split(".")[1] for key in conversion.dropped if "." in key}
    assert all(conversion.dropped.values())
    fresh = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    assert jax.tree.map(np.shape, conversion.params) == jax.tree.map(np.shape, fresh)


def test_values_arrive_transposed(tmp_path):
    arrays = vit_tensors()
    params = convert(write_checkpoint(tmp_path, arrays)).params
    np.testing.assert_array_equal(
        params["blocks"]["mlp"]["fc1"]["kernel"][1], arrays["blocks.1.mlp.fc1.weight"].T
    )
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"], arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    )


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_float_types_become_float32(tmp_path, dtype):
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    arrays = {name: value.astype(kind) for name, value in vit_tensors().items()}
    save_file(arrays, tmp_path / "m.safetensors")
    params = convert(tmp_path / "m.safetensors").params
    value = params["blocks"]["attn"]["qkv"]["bias"]
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value[0], arrays["blocks.0.attn.qkv.bias"].astype(np.float32))


def test_all_faults_are_listed_at_once(tmp_path):
    arrays = vit_tensors()
    del arrays["blocks.1.norm2.bias"]
    del arrays["norm.weight"]
    arrays["blocks.0.attn.q_norm.weight"] = np.zeros(8, np.float32)
    arrays["reg_token"] = np.zeros((1, 4, WIDTH), np.float32)
    arrays["blocks.0.mlp.fc2.bias"] = np.zeros(31, np.float32)
    arrays["blocks.1.attn.proj.bias"] = np.zeros(32, np.int64)
    path = write_checkpoint(tmp_path, arrays)
    with pytest.raises(FerJaxError) as caught:
        convert(path)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(f"{path}: is no ViT of the family mae, 6 faults; pass another --family")
    assert sorted(line.strip() for line in rest) == sorted(
        [
            "missing: blocks.1.norm2.bias",
            "missing: norm.weight",
            "blocks.0.attn.q_norm.weight: not known to the family mae",
            "reg_token: not known to the family mae",
            "blocks.0.mlp.fc2.bias: shape (31,), the model has (32,)",
            "blocks.1.attn.proj.bias: int64, not a float",
        ]
    )


@pytest.mark.parametrize("extra", ["reg_token", "blocks.0.ls1.bias", "norm_pre.weight", "decoder"])
def test_no_key_is_skipped_silently(tmp_path, extra):
    path = write_checkpoint(tmp_path, vit_tensors() | {extra: np.zeros((1, WIDTH), np.float32)})
    with pytest.raises(FerJaxError, match=f"{extra}: not known to the family"):
        convert(path)


@pytest.mark.parametrize("index", range(len(vit_tensors(layer_scale=True, classes=8))))
def test_no_tensor_can_be_missing_or_misshapen(tmp_path, index):
    whole = vit_tensors(layer_scale=True, classes=8)
    name = list(whole)[index]
    labels = label_space("affwild2_expr")
    without = {n: value for n, value in whole.items() if n != name}
    misshapen = whole | {name: np.zeros((*whole[name].shape, 1), np.float32)}
    for wrong in (without, misshapen):
        path = write_checkpoint(tmp_path, wrong)
        with pytest.raises(FerJaxError, match=r"model\.pth: "):
            convert(path, labels=labels, family="timm")
    path = write_checkpoint(tmp_path, whole | {name: np.full_like(whole[name], np.nan)})
    with pytest.raises(FerJaxError, match="NaN"):
        convert(path, labels=labels, family="timm")


def test_a_block_number_cannot_ask_for_a_huge_model(tmp_path):
    arrays = vit_tensors() | {"blocks.99999999.norm1.weight": np.zeros(WIDTH, np.float32)}
    with pytest.raises(FerJaxError, match="more than 256 blocks"):
        convert(write_checkpoint(tmp_path, arrays))


def test_what_the_file_cannot_say_is_asked_for(tmp_path):
    path = write_checkpoint(tmp_path, vit_tensors(norm="fc_norm", classes=8))
    with pytest.raises(UsageError, match=r"model.pth: width 32 and depth 2 .* pass --heads N"):
        convert(path, num_heads=None)
    with pytest.raises(UsageError, match="--heads 5 does not divide its width of 32"):
        convert(path, num_heads=5)
    with pytest.raises(FerJaxError, match=r"has 8 classes, rafdb has 7; .*affwild2_expr"):
        convert(path, labels=label_space("rafdb"))
    both = vit_tensors(norm="fc_norm") | {n: v for n, v in vit_tensors().items() if "norm." in n}
    with pytest.raises(UsageError, match="holds both norm and fc_norm; pass --pool"):
        convert(write_checkpoint(tmp_path, both))
    for pool, other in (("cls", "fc_norm"), ("avg", "norm")):
        conversion = convert(write_checkpoint(tmp_path, both), pool=pool)
        assert conversion.config.pool == pool
        assert f"model.{other}.weight" in conversion.dropped
    with pytest.raises(UsageError, match="no head for the labels affwild2_expr"):
        convert(write_checkpoint(tmp_path, vit_tensors()), labels=label_space("affwild2_expr"))
    with pytest.raises(FerJaxError, match=r"missing: fc_norm.weight"):
        convert(write_checkpoint(tmp_path, vit_tensors()), pool="avg")


def test_positions_are_interpolated(tmp_path):
    arrays = vit_tensors()
    path = write_checkpoint(tmp_path, arrays)
    for kernel in ("bicubic", "bicubic_dinov2"):
        conversion = convert(path, image_size=40, position_resize=kernel)
        assert conversion.config.image_size == 40
        source = conversion.sources["pos_embed"]
        assert (source.keys, source.transform) == (("model.pos_embed",), f"{kernel} 3 -> 5")
        np.testing.assert_array_equal(
            conversion.params["pos_embed"],
            resize_position_embedding(arrays["pos_embed"], (5, 5), kernel),
        )
    with pytest.raises(FerJaxError, match="image_size=41 must be a multiple of patch_size=8"):
        convert(path, image_size=41)
    with pytest.raises(FerJaxError, match="9 rows, not one CLS row and a square grid"):
        convert(write_checkpoint(tmp_path, arrays | {"pos_embed": arrays["pos_embed"][:, 1:]}))


def test_foreign_names_are_recognised_as_such(tmp_path):
    for keys, said in (
        (["embeddings.word_embeddings.weight"], "a language model"),
        (["visual.conv1.weight"], "a CLIP model"),
        (["conv1.weight", "layer1.0.conv1.weight"], "a ResNet"),
        (["a", "b"], "of no known family"),
    ):
        path = tmp_path / "x.safetensors"
        save_file({key: np.zeros(2, np.float32) for key in keys}, path)
        with pytest.raises(FerJaxError, match=said) as caught:
            convert(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_larger_model_is_refused_with_all_that_does_not_fit(tmp_path):
    """As pix2tex's: a ViT's names below `encoder.`, a ResNet stem before and a decoder behind."""
    strange = ["encoder.patch_embed.backbone.stem.conv.weight", "decoder.net.to_logits.bias"]
    arrays = {f"encoder.{name}": values for name, values in vit_tensors().items()}
    path = tmp_path / "x.safetensors"
    save_file(arrays | {key: np.zeros(2, np.float32) for key in strange}, path)
    with pytest.raises(FerJaxError) as caught:
        convert(path)
    first, *lines = str(caught.value).splitlines()
    assert "a larger model, with names of a ViT below encoder.; known: mae" in first
    assert sorted(lines) == [
        "  decoder.net.to_logits.bias: is not below encoder.",
        "  encoder.patch_embed.backbone.stem.conv.weight: not known to any family",
    ]


def test_tables():
    mae_face = [name for name, _ in mae_face_shapes()]
    assert len(mae_face) == 254
    assert sum(int(np.prod(shape)) for _, shape in mae_face_shapes()) == 111_907_840
    family, why = recognise(mae_face)
    assert (family.name, why) == ("mae", "it holds MAE's decoder")
    sorted_keys = sort_keys(family, mae_face)
    assert len(sorted_keys.used) == 254
    assert not sorted_keys.unknown
    for family in FAMILIES:
        assert sort_keys(family, ["head.weight", "xhead.weight", "blocks.x.norm1.bias"]).unknown


def test_command_line(tmp_path, capsys):
    path = write_checkpoint(tmp_path, vit_tensors(decoder=True))
    out = tmp_path / "bundle"
    common = ["convert", str(path), str(out), "--normalize", "mae_face", "--heads", "4"]
    assert main([*common, "--license", "MIT"]) == 0
    printed = capsys.readouterr().out
    assert "family mae, it holds MAE's decoder" in printed
    assert "(14 in all): belongs to MAE's decoder" in printed
    assert "left out: model.mask_token: stands for hidden patches" in printed
    assert "left out: optimizer: the optimizer's state" in printed
    assert "kind encoder, no labels; licence: MIT" in printed
    bundle = load_bundle(out)
    assert bundle.kind == "encoder"
    assert bundle.views["main"].mean[0] == 0.49895147
    assert bundle.license == "MIT"
    source = bundle.provenance["source"]
    assert source["file"] == "model.pth"
    assert source["bytes"] == path.stat().st_size
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert bundle.provenance["family"] == "mae"
    assert ["epoch"] in bundle.provenance["left_out"].values()

    assert main(common) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*common, "--overwrite", "--image-size", "40"]) == 0
    assert "pos_embed: bicubic 3 -> 5" in capsys.readouterr().out
    assert load_bundle(out).models["main"][0].image_size == 40


def test_command_line_errors(tmp_path, capsys):
    path = write_checkpoint(tmp_path, vit_tensors(classes=8))
    out = tmp_path / "bundle"

    def fails(code: int, said: str, *arguments: str) -> None:
        assert main(["convert", *arguments]) == code
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
        assert not out.exists()
        assert not list(tmp_path.glob(".*partial*"))

    here, there = str(path), str(out)
    imagenet = ("--normalize", "imagenet")
    fails(2, "--normalize", here, there)
    fails(2, "invalid choice: 'clip'", here, there, "--normalize", "clip")
    fails(2, "pass --heads", here, there, *imagenet)
    four = (*imagenet, "--heads", "4")
    fails(1, "no label space 'smiles'", here, there, *four, "--labels", "smiles")
    fails(1, "has 8 classes, rafdb has 7", here, there, *four, "--labels", "rafdb")
    fails(2, "--resize 'cubic' must be one of", here, there, *four, "--resize", "cubic")
    fails(2, "--position-resize 'x'", here, there, *four, "--position-resize", "x")
    fails(2, "--eps 0.0 must lie", here, there, *four, "--eps", "0")
    fails(2, "--image-size 0 must lie", here, there, *four, "--image-size", "0")
    fails(1, "check the path", str(tmp_path / "none.pth"), there, *four)
    (tmp_path / "half.pth").write_bytes(path.read_bytes()[:5000])
    fails(1, "half.pth: truncated or damaged", str(tmp_path / "half.pth"), there, *four)


def test_provenance_is_plain_json(tmp_path):
    path = write_checkpoint(tmp_path, vit_tensors(classes=8))
    options = ReleaseOptions(normalize="imagenet", num_heads=4, labels="affwild2_expr")
    convert_file(path, tmp_path / "bundle", options)
    document = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    transforms = document["provenance"]["tensors"]
    assert transforms["blocks.1.attn.qkv.weight"] == {
        "source": ["model.blocks.1.attn.qkv.weight"],
        "transform": "copy",
    }
    assert document["labels"]["classes"][4] == "Happiness"


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_where_the_parameters_are_kept_does_not_matter(tmp_path, monkeypatch, free):
    """In unnamed files, or in memory if the disk has no room for both them and the bundle."""
    kept = []

    def recorded(folder, shape, dtype):
        kept.append(folder)
        return array_in_file(folder, shape, dtype)

    monkeypatch.setattr(release, "array_in_file", recorded)
    monkeypatch.setattr(release.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    tensors = vit_tensors()
    path = write_checkpoint(tmp_path, tensors)
    out = tmp_path / "new" / "folder" / "bundle"
    convert_file(path, out, ReleaseOptions(normalize="imagenet", num_heads=4, prove=False))
    assert set(kept) == ({tmp_path} if free else set())
    written = load_file(out / "params.safetensors")
    assert written.keys() == {f"main/{name}" for name in tensors}
    for name, values in tensors.items():
        np.testing.assert_array_equal(written[f"main/{name}"], values)
    assert [entry.name for entry in out.parent.iterdir()] == ["bundle"]


def test_the_golden_sample_compiled_ahead_is_the_same_to_the_bit(tmp_path):
    path = write_checkpoint(tmp_path, vit_tensors())
    options = ReleaseOptions(normalize="imagenet", num_heads=4, prove=False)
    convert_file(path, tmp_path / "bundle", options)
    bundle = load_bundle(tmp_path / "bundle")
    outputs = golden_outputs(bundle, golden_inputs(bundle))
    with np.load(tmp_path / "bundle" / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["features_main"], outputs["features_main"])
