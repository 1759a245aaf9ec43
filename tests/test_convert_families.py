"""Every family both ways, from files that PyTorch wrote (tools/make_checkpoint_goldens.py)."""

from pathlib import Path

import numpy as np
import pytest
from pth_files import vit_tensors, write_checkpoint

import fer_jax
from fer_jax.bundle import bundle_function, load_bundle
from fer_jax.cli import convert as convert_command
from fer_jax.cli.main import main
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.families import FAMILY_NAMES
from fer_jax.convert.options import DTYPES, Options
from fer_jax.convert.plan import convert_checkpoint
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.models import mae
from fer_jax.models.torch_layout import to_torch_layout

DATA = Path(__file__).parent / "testdata"
IMAGES = ["--normalize", "imagenet", "--heads", "2"]
FAMILIES = {
    "mae": [*IMAGES, "--decoder", "--decoder-heads", "2", "--norm-pix"],
    "timm": [*IMAGES, "--labels", "expw"],
    "hf": IMAGES,
    "fusion_entry": ["--labels", "affwild2_expr"],
}
# Written under the names of files, which transformers 4 and 5 read, and not of version 5's modules.
HF_FILE_NAMES = {
    "layers.0.": "encoder.layer.0.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def golden(family: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"torch_{family}.npz") as file:
        return {name: file[name] for name in file.files}


def file_names(family: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, values in tensors.items():
        if family == "hf":
            for new, old in HF_FILE_NAMES.items():
                name = name.replace(new, old)
        if not name.startswith("pooler"):
            renamed[name] = values
    return renamed


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(tmp_path, capsys, family, suffix):
    """What torch wrote, whatever its strides, storages and dtype, comes back bit for bit."""
    bundle, back = str(tmp_path / "bundle"), tmp_path / f"back.{suffix}"
    source = str(DATA / f"torch_{family}.pth")
    assert main(["convert", source, bundle, *FAMILIES[family]]) == 0
    out = capsys.readouterr().out
    assert f"family {family}, " in out
    assert "proof: PASS" in out
    assert main(["convert", bundle, str(back)]) == 0
    assert f"with the names of {family}" in capsys.readouterr().out
    checkpoint = open_checkpoint(back)
    wanted = file_names(family, golden(family))
    assert checkpoint.tensors.keys() == wanted.keys()
    for name, values in wanted.items():
        found = checkpoint.values(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values, err_msg=name)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mae", "it holds MAE's decoder"),
        ("timm", "its blocks have LayerScale (ls1, ls2)"),
        ("hf", "it has Hugging Face's names of ViT"),
        ("fusion_entry", "it holds the entry's attention (mha) and its linear layers"),
    ],
)
def test_inspect_says_the_family_and_why(capsys, family, reason):
    assert main(["inspect", str(DATA / f"torch_{family}.pth")]) == 0
    out = capsys.readouterr().out
    assert f"{family}: {reason}" in out
    assert "problem" not in out


def test_what_stands_around_the_tensors_is_named():
    checkpoint = open_checkpoint(DATA / "torch_mae.pth")
    assert checkpoint.beside.keys() == {"optimizer", "epoch", "args"}
    assert checkpoint.source_keys["cls_token"] == "model.cls_token"
    assert open_checkpoint(DATA / "torch_timm.pth").source_keys["cls_token"] == (
        "state_dict._orig_mod.cls_token"
    )


def test_the_old_format_is_refused_with_a_hint():
    with pytest.raises(FerJaxError, match=r"before version 1\.6.*save it again with"):
        open_checkpoint(DATA / "torch_legacy.pth")


def test_half_precision_stays_if_asked(tmp_path):
    for family, dtype in (("timm", "float16"), ("hf", "bfloat16")):
        checkpoint = open_checkpoint(DATA / f"torch_{family}.pth")
        made = convert_checkpoint(checkpoint, Options(num_heads=2, dtype=dtype))
        tensors = dict(to_torch_layout(made.params, made.config))
        assert {str(values.dtype) for values in tensors.values()} == {dtype}
        name = "blocks.0.mlp.fc1.weight"
        key = {"timm": name, "hf": "layers.0.mlp.fc1.weight"}[family]
        np.testing.assert_array_equal(tensors[name].astype(np.float32), golden(family)[key])


def test_a_converted_fusion_computes_what_torch_computed(tmp_path):
    """The golden of tools/make_fusion_goldens.py, by way of a file and a bundle."""
    found = arrays("fusion_entry")
    path = write_checkpoint(tmp_path, state_dict_of(found))
    bundle = str(tmp_path / "bundle")
    assert main(["convert", str(path), bundle, "--labels", "affwild2_expr"]) == 0
    loaded = load_bundle(bundle)
    features = {view: found[f"features/{view}"] for view in ("main", "aux")}
    logits, _ = bundle_function(loaded)(loaded.params, features)
    # as in test_fusion.py
    np.testing.assert_allclose(logits, found["stage/logits"], rtol=0, atol=1e-5)
    with pytest.raises(FerJaxError, match="is a fusion, which takes the features of encoders"):
        fer_jax.load(bundle)


def test_a_converted_autoencoder_computes_what_torch_computed(tmp_path):
    """The golden of tools/make_mae_goldens.py, by way of a file and a bundle."""
    found = arrays("mae")
    path = write_checkpoint(tmp_path, state_dict_of(found))
    bundle = str(tmp_path / "bundle")
    heads = ["--heads", "4", "--decoder-heads", "2"]
    for pixels, stage in (("--norm-pix", "loss_norm_pix"), ("--no-norm-pix", "loss_pixels")):
        wishes = [*IMAGES[:2], *heads, "--decoder", pixels, "--overwrite"]
        assert main(["convert", str(path), bundle, *wishes]) == 0
        config, params = load_bundle(bundle).models["main"]
        made = mae.apply(mae.build(config), params, found["images"], found["noise"])
        # as in test_mae_parity.py
        np.testing.assert_allclose(made.loss, found[f"stage/{stage}"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(made.prediction, found["stage/prediction"], rtol=0, atol=1e-5)
    recognizer = fer_jax.load(bundle)
    faces = np.zeros((1, 40, 40, 3), np.uint8)
    assert recognizer.features(faces)["main"].shape == (1, config.encoder.width)
    with pytest.raises(FerJaxError, match="of the kind 'mae', which has features but names no"):
        recognizer.logits(faces)


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as file:
        return {name: file[name] for name in file.files}


def state_dict_of(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix("state/"): v for n, v in found.items() if n.startswith("state/")}


@pytest.mark.parametrize(
    ("family", "wishes", "said"),
    [
        ("mae", [*IMAGES, "--decoder", "--norm-pix"], "pass --decoder-heads N"),
        ("mae", [*IMAGES, "--decoder", "--decoder-heads", "2"], "--norm-pix (as MAE's recipe"),
        ("mae", [*IMAGES, "--decoder", "--labels", "expw"], "--decoder keeps a model for pre-tra"),
        ("timm", [*IMAGES, "--map-labels", "expw"], "--map-labels needs --labels"),
        ("timm", [*IMAGES, "--labels", "expw", "--fresh-head", "expw"], "pass one"),
        ("timm", [*IMAGES, "--family", "fusion_entry"], "a fusion takes features"),
        ("fusion_entry", [], "pass --labels with the space"),
        ("fusion_entry", ["--normalize", "imagenet"], "a fusion takes features"),
        ("fusion_entry", ["--labels", "affwild2_expr", "--pool", "cls"], "which takes no images"),
        ("fusion_entry", ["--labels", "affwild2_expr", "--eps", "1e-5"], "which takes no images"),
        ("timm", [*IMAGES, "--norm-pix"], "--norm-pix: "),
        ("mae", [*IMAGES, "--decoder-heads", "2"], "its decoder is left out; pass --decoder"),
        ("timm", [*IMAGES, "--image-size", "97"], "--image-size 97: image_size=97 must be a"),
    ],
)
def test_wrong_use_is_said(tmp_path, capsys, family, wishes, said):
    out = tmp_path / "bundle"
    assert main(["convert", str(DATA / f"torch_{family}.pth"), str(out), *wishes]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_the_command_offers_what_the_converter_knows():
    """The command repeats the names, so that its help needs no import of the converter."""
    actions = {action.dest: action for action in convert_command._parser()._actions}
    assert actions["family"].choices == ("auto", *FAMILY_NAMES)
    assert actions["dtype"].choices == DTYPES


def test_a_decoder_where_none_is(tmp_path, capsys):
    wishes = [*IMAGES, "--decoder", "--decoder-heads", "2", "--norm-pix"]
    assert main(["convert", str(DATA / "torch_timm.pth"), str(tmp_path / "b"), *wishes]) == 1
    assert "missing: decoder_embed.weight" in capsys.readouterr().err


def test_a_head_is_mapped_by_name_or_made_anew(tmp_path):
    """Eight classes are not loaded into seven without a map."""
    affectnet8, affectnet7 = label_space("affectnet8"), label_space("affectnet7")
    path = write_checkpoint(tmp_path, vit_tensors(classes=8))
    with pytest.raises(FerJaxError, match=r"has 8 classes, affectnet7 has 7.*--map-labels"):
        convert_checkpoint(open_checkpoint(path), Options(num_heads=4, labels=affectnet7))
    options = Options(num_heads=4, labels=affectnet8, map_to=affectnet7)
    made = convert_checkpoint(open_checkpoint(path), options)
    rows = [affectnet8.classes.index(name) for name in affectnet7.classes]
    kernel = vit_tensors(classes=8)["head.weight"][rows].T
    np.testing.assert_array_equal(made.params["head"]["kernel"], kernel)
    assert made.labels == affectnet7
    assert made.sources["head.bias"].transform == "rows by name, affectnet8 -> affectnet7"
    options = Options(num_heads=4, labels=affectnet8, map_to=label_space("affwild2_expr"))
    with pytest.raises(FerJaxError, match=r"no row for Other of affwild2_expr; .*fresh-head"):
        convert_checkpoint(open_checkpoint(path), options)
    fresh = convert_checkpoint(open_checkpoint(path), Options(num_heads=4, fresh_head=affectnet7))
    kernel = fresh.params["head"]["kernel"]
    assert kernel.shape == (32, 7)
    assert 1e-5 < kernel.std() < 3e-5
    assert not fresh.params["head"]["bias"].any()
    assert fresh.dropped["model.head.weight"] == "a fresh head was asked for"
