"""Hugging Face models both ways: goldens of tools/make_hf_goldens.py, and live transformers.

A red parity test means that the conversion or the model is wrong: the goldens are not to be made
again to please it.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from pth_files import state_dict, write_pth
from safetensors.numpy import save_file

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.inspection import inspect_path
from fer_jax.convert.options import Options
from fer_jax.convert.plan import Conversion, convert_checkpoint
from fer_jax.convert.sizes import check_stated
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import label_space
from fer_jax.models import mae, vit

# The issue asks for 2e-5. transformers in float32 stands up to 2.9e-6 from the float64 reference on
# these models, whose values reach 9; what differs here is at most 4e-6.
TOLERANCE = 2e-5
KINDS = ("vit", "mae", "dinov2")


def golden(kind: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "testdata" / f"hf_{kind}.npz") as file:
        return {name: file[name] for name in file.files}


def tensors_of(found: dict[str, np.ndarray], names: str) -> dict[str, np.ndarray]:
    """The state dict under the names of files, or of the modules of transformers 5."""
    tensors = {n.removeprefix("file/"): v for n, v in found.items() if n.startswith("file/")}
    if names == "file":
        return tensors
    return {new: tensors[old] for new, old in json.loads(str(found["names"])).items()}


def write(folder: Path, found: dict[str, np.ndarray], names: str, *, config: bool = True) -> Path:
    """A model's folder as the hub has it; with the modules' names a .pth that a trainer saved."""
    tensors = tensors_of(found, names)
    if config:
        (folder / "config.json").write_text(str(found["config"]))
    if names == "file":
        save_file(tensors, folder / "model.safetensors")
        return folder / "model.safetensors"
    wrapped = {f"module.{name}": values for name, values in tensors.items()}
    value, storages = state_dict(wrapped)
    write_pth(folder / "checkpoint.pth", {"state_dict": value, "epoch": 3}, storages)
    return folder / "checkpoint.pth"


def convert(path: Path, **options) -> Conversion:
    return convert_checkpoint(open_checkpoint(path), Options(**options))


@pytest.mark.parametrize("names", ["file", "module"])
@pytest.mark.parametrize(("kind", "prefix"), [("vit", "vit."), ("dinov2", "")])
def test_every_stage_equals_transformers(tmp_path, kind, prefix, names):
    found = golden(kind)
    labels = label_space("expw") if kind == "vit" else None
    conversion = convert(write(tmp_path, found, names), labels=labels)
    config = conversion.config
    assert conversion.family.name == "hf"
    assert (config.num_heads, config.norm_eps) == (4, 1e-12 if kind == "vit" else 1e-6)
    assert config.layer_scale == (kind == "dinov2")
    logits, stages = vit.apply(
        vit.build(config), conversion.params, found["images"], intermediates=True
    )
    pairs = [("hidden_0", stages["embed"]), ("norm", stages["norm"])]
    pairs += [(f"hidden_{i + 1}", block) for i, block in enumerate(stages["blocks"])]
    if labels:
        pairs.append(("logits", logits))
    for name, values in pairs:
        wanted = found[f"stage/{name}"]
        np.testing.assert_allclose(values, wanted, rtol=0, atol=TOLERANCE, err_msg=name)
    keys = {key for source in conversion.sources.values() for key in source.keys}
    held = {name.removeprefix("state_dict.module.") for name in keys | conversion.dropped.keys()}
    assert held - {"epoch"} == tensors_of(found, names).keys()
    dropped = {key.removeprefix("state_dict.module.") for key in conversion.dropped} - {"epoch"}
    assert dropped == ({f"{prefix}embeddings.mask_token"} if kind == "dinov2" else set())


@pytest.mark.parametrize("names", ["file", "module"])
def test_masked_autoencoder_equals_transformers(tmp_path, names):
    found = golden("mae")
    conversion = convert(write(tmp_path, found, names), decoder=True)
    config = conversion.config
    assert (config.decoder_num_heads, config.norm_pix, conversion.kind) == (2, True, "mae")
    result = mae.apply(mae.build(config), conversion.params, found["images"], found["stage/noise"])
    np.testing.assert_array_equal(result.mask, found["stage/mask"])
    for name in ("loss", "prediction", "latent"):
        np.testing.assert_allclose(
            getattr(result, name), found[f"stage/{name}"], rtol=0, atol=TOLERANCE, err_msg=name
        )


def test_an_encoder_of_a_masked_autoencoder(tmp_path):
    conversion = convert(write(tmp_path, golden("mae"), "file"))
    assert conversion.kind == "encoder"
    reasons = set(conversion.dropped.values())
    assert reasons == {
        "belongs to MAE's decoder, which only pre-training needs",
        "stands for hidden patches, which only pre-training has",
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_the_way_back_is_bit_identical(tmp_path, kind, suffix, capsys):
    found = golden(kind)
    source = write(tmp_path, found, "module")
    wishes = {"vit": ["--labels", "expw"], "mae": ["--decoder"], "dinov2": []}[kind]
    bundle, back = str(tmp_path / "bundle"), tmp_path / f"back.{suffix}"
    assert main(["convert", str(source), bundle, "--normalize", "imagenet", *wishes]) == 0
    assert "proof: PASS" in capsys.readouterr().out
    assert main(["convert", bundle, str(back)]) == 0
    assert "with the names of hf" in capsys.readouterr().out
    checkpoint = open_checkpoint(back)
    given = tensors_of(found, "file")
    given.pop("embeddings.mask_token", None)
    # As the hub has them: transformers 5.23 writes the decoder's layers under a name of its own.
    given = {n.replace("decoder_encoder.layer", "decoder_layers"): v for n, v in given.items()}
    assert checkpoint.tensors.keys() == given.keys()
    for name, values in given.items():
        assert checkpoint.values(name).dtype == np.float32
        np.testing.assert_array_equal(checkpoint.values(name), values, err_msg=name)


def test_config_json_is_heard_and_checked(tmp_path):
    found = golden("vit")
    path = write(tmp_path, found, "file", config=False)
    with pytest.raises(UsageError, match="pass --heads N"):
        convert(path)
    assert convert(path, num_heads=8).config.num_heads == 8
    document = json.loads(str(found["config"]))
    for change, said in (
        ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new'; only models with gelu"),
        ({"num_attention_heads": "4"}, "num_attention_heads='4' is no int"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(document | change))
        with pytest.raises(FerJaxError, match=said):
            convert(path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FerJaxError, match=r"config.json: no JSON"):
        convert(path)
    (tmp_path / "config.json").write_text(json.dumps(document | {"layer_norm_eps": 1e-5}))
    assert convert(path).config.norm_eps == 1e-5
    assert convert(path, norm_eps=1e-6).config.norm_eps == 1e-6  # the command line goes first
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UsageError, match="pass --heads N"):
        convert(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan must lie between 0 and 1"),
        ({"layer_norm_eps": -1e-9}, "layer_norm_eps=-1e-09 must lie between 0 and 1"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0 must lie between 0 and 1"),
        ({"layer_norm_eps": 1.0}, "layer_norm_eps=1.0 must lie between 0 and 1"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 must be 1 or more"),
        ({"num_attention_heads": -4}, "num_attention_heads=-4 must be 1 or more"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=32"),
        ({"decoder_num_attention_heads": 0}, "decoder_num_attention_heads=0 must be 1 or more"),
        (
            {"decoder_num_attention_heads": 3, "decoder_hidden_size": 16},
            "decoder_num_attention_heads=3 does not divide decoder_hidden_size=16",
        ),
    ],
)
def test_numbers_of_config_json_are_in_their_range(tmp_path, change, said, capsys):
    found = golden("vit")
    path = write(tmp_path, found, "file")
    document = json.loads(str(found["config"])) | change
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(FerJaxError, match=said):
        convert(path)
    # `inspect` needs neither heads nor epsilon, and must not believe them either.
    assert main(["inspect", str(path)]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 200_000, "config.json: nested too deeply"),
        ('{"model_type": "vit"}' + " " * 2**20, "config.json: more than 1,048,576 bytes"),
        (b"\xff\xfe{", "config.json: no JSON"),
        ('{"num_attention_heads": ' + "4" * 5000 + "}", "config.json: no JSON"),
    ],
)
def test_a_config_json_that_cannot_be_read(tmp_path, content, said):
    path = write(tmp_path, golden("vit"), "file")
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(FerJaxError, match=said):
        convert(path)
    assert said in inspect_path(path)["problem"]


def test_heads_of_config_json_that_do_not_divide_say_where_they_stand(tmp_path):
    path = write(tmp_path, golden("vit"), "file")
    (tmp_path / "config.json").write_text('{"model_type": "vit", "num_attention_heads": 5}')
    with pytest.raises(UsageError, match=r"--heads 5 does not divide .* stands in config.json"):
        convert(path)


def contradictions(path: Path, conversion: Conversion, document: object) -> list[str]:
    """What `check_stated` says of another config.json, the first line left out."""
    path.with_name("config.json").write_text(json.dumps(document))
    try:
        check_stated(path, conversion.family, conversion.config)
    except FerJaxError as error:
        first, *faults = str(error).split("\n")
        assert first.startswith(f"{path.with_name('config.json')}: contradicts {path.name}; ")
        assert "download both from the same place, or move config.json away" in first
        return [fault.strip() for fault in faults]
    return []


def test_a_config_json_of_another_model_is_listed(tmp_path):
    found = golden("vit")
    path = write(tmp_path, found, "file")
    conversion = convert(path)
    document = json.loads(str(found["config"]))
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
    other = sizes | {"num_attention_heads": 16, "patch_size": 32, "image_size": 384}
    assert contradictions(path, conversion, document | other) == [
        "patch_size=32, the weights have 8",
        "image_size=384, the weights have 24",
        "hidden_size=768, the weights have 32",
        "num_hidden_layers=12, the weights have 2",
        "intermediate_size=3072, the weights have 128",
    ]
    for change, said in (
        ({"model_type": "dinov2"}, "model_type='dinov2', the weights have the names of vit or"),
        ({"model_type": "vit_msn"}, "model_type='vit_msn', the weights have the names of vit or"),
        ({"model_type": ["vit"]}, "model_type=['vit'], the weights have the names of vit or"),
        ({"num_attention_heads": 12}, "num_attention_heads=12, the weights are 32 wide"),
        ({"image_size": [24, 32]}, "image_size=[24, 32], the weights have 24"),
        ({"image_size": [24]}, "image_size=[24], the weights have 24"),
        ({"hidden_size": "32"}, "hidden_size='32', the weights have 32"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers=2.0, the weights have 2"),
        ({"mlp_ratio": 2}, "mlp_ratio=2, the weights have 4"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan, the weights have 4"),
    ):
        (fault,) = contradictions(path, conversion, document | change)
        assert fault.startswith(said)


def test_a_config_json_of_the_same_model_passes(tmp_path):
    for kind, options in (("vit", {}), ("mae", {}), ("mae", {"decoder": True}), ("dinov2", {})):
        found = golden(kind)
        path = write(tmp_path, found, "file")
        conversion = convert(path, **options)
        document = json.loads(str(found["config"]))
        for change in (
            {},
            {"image_size": [24, 24], "patch_size": [8, 8]},
            {"hidden_size": None},
            {"mlp_ratio": 4.0},
        ):
            assert contradictions(path, conversion, document | change) == []
        assert contradictions(path, conversion, {"model_type": document["model_type"]}) == []
        # Not Hugging Face's: nothing is taken from it, so it cannot contradict.
        assert contradictions(path, conversion, {"hidden_size": 768}) == []
        assert contradictions(path, conversion, ["vit"]) == []
        path.with_name("config.json").unlink()
        check_stated(path, conversion.family, conversion.config)


def test_a_vit_and_an_autoencoder_share_their_names(tmp_path):
    for kind, other in (("vit", "vit_mae"), ("mae", "vit")):
        found = golden(kind)
        path = write(tmp_path, found, "file")
        conversion = convert(path)
        document = json.loads(str(found["config"]))
        assert contradictions(path, conversion, document | {"model_type": other}) == []
    found = golden("dinov2")
    path = write(tmp_path, found, "file")
    conversion = convert(path)
    document = json.loads(str(found["config"]))
    assert contradictions(path, conversion, document | {"model_type": "vit"}) == [
        "model_type='vit', the weights have the names of dinov2"
    ]


def test_a_decoder_is_compared_where_it_is_kept(tmp_path):
    found = golden("mae")
    path = write(tmp_path, found, "file")
    wrong = {
        "decoder_hidden_size": 512,
        "decoder_num_hidden_layers": 8,
        "decoder_intermediate_size": 2048,
    }
    document = json.loads(str(found["config"])) | wrong
    both, encoder = convert(path, decoder=True), convert(path)
    assert contradictions(path, both, document) == [
        "decoder_hidden_size=512, the weights have 16",
        "decoder_num_hidden_layers=8, the weights have 2",
        "decoder_intermediate_size=2048, the weights have 64",
    ]
    assert contradictions(path, encoder, document) == []


def test_only_hugging_face_has_a_config_json(tmp_path):
    found = golden("vit")
    path = write(tmp_path, found, "file")
    conversion = convert(path)
    document = json.loads(str(found["config"])) | {"hidden_size": 768}
    assert contradictions(path, conversion, document) != []
    timm = dataclasses.replace(conversion.family, name="timm")
    assert contradictions(path, dataclasses.replace(conversion, family=timm), document) == []


@pytest.mark.parametrize("decoder", [False, True])
def test_conversion_and_inspection_refuse_a_config_json_of_another_model(tmp_path, decoder):
    found = golden("mae")
    path = write(tmp_path, found, "file")
    document = json.loads(str(found["config"])) | {"hidden_size": 768, "num_attention_heads": 16}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(FerJaxError, match=r"hidden_size=768, the weights have 32"):
        convert(path, decoder=decoder)
    assert "contradicts model.safetensors" in inspect_path(path)["problem"]


def test_parts_that_are_missing_or_do_not_fit_are_named(tmp_path):
    found = golden("vit")
    key = "vit.encoder.layer.1.attention.attention.key.weight"
    tensors = tensors_of(found, "file")
    (tmp_path / "config.json").write_text(str(found["config"]))
    path = tmp_path / "model.safetensors"
    save_file({name: values for name, values in tensors.items() if name != key}, path)
    with pytest.raises(FerJaxError, match=r"1 more of blocks\.1\.attn\.qkv\.weight are missing"):
        convert(path)
    save_file(tensors | {key: np.zeros((32, 31), np.float32)}, path)
    with pytest.raises(FerJaxError, match=r"key\.weight.*: shape .*, the model has \(96, 32\)"):
        convert(path)


def test_what_hugging_face_has_no_place_for(tmp_path):
    classifier = golden("dinov2")
    classifier["file/classifier.weight"] = np.zeros((7, 64), np.float32)
    classifier["file/classifier.bias"] = np.zeros(7, np.float32)
    conversion = convert(write(tmp_path, classifier, "file"))
    assert "CLS and the mean of the patches" in conversion.dropped["classifier.weight"]


def test_live_transformers_load_what_was_written(tmp_path):
    """The result is loaded by the models themselves, old or new, and computes the same."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="needs torch")
    for kind, name in (("vit", "ViTForImageClassification"), ("mae", "ViTMAEForPreTraining")):
        folder = tmp_path / kind
        folder.mkdir()
        config = getattr(transformers, {"vit": "ViTConfig", "mae": "ViTMAEConfig"}[kind])(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=24,
            patch_size=8,
            **({"num_labels": 7} if kind == "vit" else {"decoder_hidden_size": 16}),
            **({} if kind == "vit" else {"decoder_num_attention_heads": 2}),
        )
        torch.manual_seed(0)
        model = getattr(transformers, name)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        bundle = str(tmp_path / f"{kind}_bundle")
        wishes = ["--labels", "expw"] if kind == "vit" else ["--decoder"]
        source = str(folder / "model.safetensors")
        assert main(["convert", source, bundle, "--normalize", "imagenet", *wishes]) == 0
        again = tmp_path / f"{kind}_again"
        again.mkdir()
        assert main(["convert", bundle, str(again / "model.safetensors")]) == 0
        config.save_pretrained(again)
        loaded = getattr(transformers, name).from_pretrained(again).eval()
        images = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
        noise = np.random.default_rng(1).random((2, 9), np.float32)
        more = {} if kind == "vit" else {"noise": torch.from_numpy(noise)}
        with torch.no_grad():
            wanted = loaded(torch.from_numpy(images.transpose(0, 3, 1, 2)), **more).logits
        own, params = load_bundle(bundle).models["main"]
        if kind == "vit":
            found, _ = vit.apply(vit.build(own), params, images)
        else:
            found = mae.apply(mae.build(own), params, images, noise).prediction
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=TOLERANCE)
