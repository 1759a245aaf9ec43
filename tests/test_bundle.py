"""The release format: what is written comes back, and what is wrong is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fer_jax import bundle as bundle_module
from fer_jax import golden
from fer_jax.bundle import Bundle, View, forward, load_bundle, preprocess, save_bundle
from fer_jax.bundle_configs import MODEL_FIELDS, VIT_FIELDS
from fer_jax.bundle_schema import KINDS
from fer_jax.convert.inspection import inspect_path
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace, label_space
from fer_jax.models import blocks, vit
from fer_jax.models.fusion import EntryFusionConfig, HeadFusionConfig, TokenFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import ViTConfig

CONFIG = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=4)
VIEW = View(
    template="arcface_112",
    crop_source="ours",
    image_size=32,
    resize="bicubic_antialias",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def make(kind: str = "classifier", **config: Any) -> Bundle:
    labels = label_space("affwild2_expr") if kind == "classifier" else None
    fields = dataclasses.replace(CONFIG, num_classes=len(labels) if labels else 0, **config)
    params = jax.tree.map(np.asarray, vit.init(fields, jax.random.key(0)))
    if labels:  # a fresh head is 2e-5, too small to tell anything
        params["head"]["kernel"] = np.float32(
            np.random.default_rng(0).normal(0, 0.3, params["head"]["kernel"].shape)
        ).astype(fields.param_dtype)
    return Bundle(
        kind=kind,
        models={"main": (fields, params)},
        views={"main": VIEW},
        labels=labels,
        smoothing={"method": "box", "window": 101},
        provenance={"made_by": "a test"},
        license="Apache-2.0",
        scores={"validation_macro_f1": 0.5},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    save_bundle(make(), path)
    return path


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_what_is_saved_comes_back(tmp_path, kind, param_dtype):
    bundle = make(kind, param_dtype=param_dtype)
    save_bundle(bundle, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    for field in dataclasses.fields(Bundle):
        if field.name != "models":
            assert getattr(loaded, field.name) == getattr(bundle, field.name)
    config, params = bundle.models["main"]
    assert loaded.models["main"][0] == config
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.models["main"][1], params))
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == [
        *("bundle.json", "golden.npz", "params.safetensors"),
    ]


def test_the_weights_file_is_plain_safetensors_in_torch_layout(saved):
    with safe_open(saved / "params.safetensors", framework="numpy") as file:
        names = list(file.keys())
        kernel = file.get_tensor("main/blocks.1.mlp.fc1.weight")
    assert len(names) == 4 + 2 * 12 + 2 + 2
    params = load_bundle(saved).params["main"]
    np.testing.assert_array_equal(kernel, params["blocks"]["mlp"]["fc1"]["kernel"][1].T)


def test_preprocess_is_what_it_says():
    faces = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), dtype=np.uint8)
    view = dataclasses.replace(VIEW, image_size=40, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    whole = dataclasses.replace(view, view="main")
    found = preprocess(whole, faces[:, :40])  # 40 x 40 already: only the normalisation is left
    np.testing.assert_allclose(found[..., 0], faces[:, :40, :, 0] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(found[..., 1], faces[:, :40, :, 1] / 63.75 - 1, atol=1e-6)
    np.testing.assert_allclose(found[..., 2], faces[:, :40, :, 2] / 255, atol=1e-6)
    mouth = preprocess(dataclasses.replace(view, view="mouth"), faces)
    by_hand = preprocess(whole, faces[:, 33:43, 8:32])
    np.testing.assert_array_equal(mouth, by_hand)
    jitted = jax.jit(lambda x: preprocess(view, x))(faces)
    np.testing.assert_allclose(jitted, preprocess(view, faces), atol=2e-6)


def test_forward_is_pure_and_differentiable(saved):
    bundle = load_bundle(saved)
    faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    logits, features = jax.jit(lambda x: forward(bundle, x))(faces)
    assert logits.shape == (3, 8)
    assert features["main"].shape == (3, 32)
    config, params = bundle.models["main"]
    inputs = preprocess(VIEW, faces)
    expected, _ = jax.jit(lambda p, x: vit.apply(vit.build(config), p, x))(params, inputs)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    run = bundle_module.bundle_function(bundle)
    gradient = jax.jit(jax.grad(lambda p: run({"main": p}, {"main": inputs})[0].sum()))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_every_field_of_the_model_is_stored_or_a_matter_of_speed_or_training():
    speed = {"dtype", "scan_layers", "remat", "attention"}
    training = {"drop_path", "head_dropout", "head_init", "layer_scale_init"}
    fields = {field.name for field in dataclasses.fields(ViTConfig)}
    assert fields == set(VIT_FIELDS) | speed | training
    assert not set(VIT_FIELDS) & (speed | training)
    assert {field.name for field in dataclasses.fields(MAEConfig)} == set(MODEL_FIELDS[MAEConfig])
    for config in (EntryFusionConfig, TokenFusionConfig, HeadFusionConfig):
        fields = {field.name for field in dataclasses.fields(config)} | {"variant"}
        assert fields == set(MODEL_FIELDS[config]) | {"dropout"}


# What the golden sample must see. Each changes a bundle on disk to another, still plausible one.
def _edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((path / "bundle.json").read_text())
    change(document)
    (path / "bundle.json").write_text(json.dumps(document))


def _edit_tensor(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensors = load_file(path / "params.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, path / "params.safetensors")


_EDITS = {
    "mean": lambda p: _edit_json(p, lambda d: d["views"]["main"].update(mean=[0.5, 0.5, 0.5])),
    "std": lambda p: _edit_json(p, lambda d: d["views"]["main"].update(std=[0.2, 0.2, 0.2])),
    "resize": lambda p: _edit_json(p, lambda d: d["views"]["main"].update(resize="bicubic")),
    "view": lambda p: _edit_json(p, lambda d: d["views"]["main"].update(view="eyes_mouth")),
    "heads": lambda p: _edit_json(p, lambda d: d["models"]["main"].update(num_heads=8)),
    "eps": lambda p: _edit_json(p, lambda d: d["models"]["main"].update(norm_eps=1e-2)),
    "qkv": lambda p: _edit_tensor(p, "main/blocks.1.attn.qkv.weight", lambda w: np.roll(w, 32, 0)),
    "head": lambda p: _edit_tensor(p, "main/head.weight", lambda w: w[::-1]),
    "one value": lambda p: _edit_tensor(p, "main/blocks.0.mlp.fc1.weight", lambda w: w * 1.01),
    "not a number": lambda p: _edit_tensor(p, "main/head.bias", lambda b: b * np.nan),
}


@pytest.mark.parametrize("edit", _EDITS)
def test_the_golden_sample_sees_a_change(copy, edit):
    _EDITS[edit](copy)
    with pytest.raises(FerJaxError, match=r"of its golden sample differ by .* is allowed"):
        load_bundle(copy)
    assert load_bundle(copy, verify=False).kind == "classifier"


def test_the_golden_sample_sees_a_tanh_gelu(saved, monkeypatch):
    monkeypatch.setattr(blocks, "gelu", jax.nn.gelu)  # by tanh, unless told otherwise
    golden._program.cache_clear()
    with pytest.raises(FerJaxError, match="golden sample"):
        load_bundle(saved)
    golden._program.cache_clear()


def test_noise_of_the_golden_sample(saved):
    """The tolerance is far above what another batch, program or order of sums makes."""
    bundle = load_bundle(saved)
    with np.load(saved / "golden.npz") as sample:
        faces, logits = sample["faces"], sample["logits"]
    run = jax.jit(lambda x: forward(bundle, x)[0])
    one_by_one = np.concatenate([run(face[None]) for face in faces])
    noise = np.abs(one_by_one - logits).max() / np.abs(logits).max()
    assert noise < bundle_module.GOLDEN_TOLERANCE / 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(kind="detector"), "kind='detector' must be one of encoder, mae"),
        (
            lambda d: d.update(kind="two_view"),
            "kind two_view has models main, aux, fusion, not main",
        ),
        (lambda d: d.update(kind="encoder"), "has no labels"),
        (lambda d: d.update(labels=None), "kind classifier needs labels"),
        (lambda d: d.update(format="zip"), "its format is not 'fer_jax bundle'"),
        (lambda d: d.update(format_version=2), "format_version=2, this version of fer_jax reads 1"),
        (lambda d: d.update(extra=1), "the field extra is not known; update fer_jax"),
        (lambda d: d.update(license=3), "license=3 is not of the type str"),
        (lambda d: d["labels"].update(space="moods"), "'moods' is not known"),
        (lambda d: d["labels"]["classes"].reverse(), "has the order Neutral, Anger"),
        (lambda d: d["labels"]["classes"].pop(), "has the order Neutral, Anger"),
        (lambda d: d["views"]["main"].update(resize="lanczos"), "resize='lanczos' must be one of"),
        (lambda d: d["views"]["main"].update(view="ears"), "view='ears' must be one of"),
        (lambda d: d["views"]["main"].update(color_order="BGR"), "color_order='BGR' must be"),
        (lambda d: d["views"]["main"].update(std=[0, 1, 1]), "must be above 0"),
        (lambda d: d["views"]["main"].update(mean=[0.5]), "must be three numbers"),
        (lambda d: d["views"]["main"].update(mean=["a", 0, 0]), "must be three numbers"),
        (lambda d: d["views"]["main"].update(image_size=40), "its view has 40"),
        (lambda d: d["models"]["main"].update(num_classes=7), "head.weight: shape"),
        (lambda d: d["models"]["main"].update(depth=3), "missing: blocks.2.norm1.weight"),
        (lambda d: d["models"]["main"].update(width=64), "the model has"),
        (lambda d: d["models"]["main"].update(pool="max"), "pool='max' must be one of"),
        (lambda d: d["models"]["main"].update(num_heads="4"), "num_heads='4' is not of the type"),
        (lambda d: d["models"].update(aux=d["models"]["main"]), "has models main, not main, aux"),
        (lambda d: d["views"].pop("main"), "has views main, not none"),
        (lambda d: d["golden"].pop("tolerance"), "golden.tolerance is missing"),
        (lambda d: d["golden"].update(tolerance=1e300), "golden.tolerance=1e+300 must lie"),
        (lambda d: d["golden"].update(tolerance=float("nan")), "golden.tolerance=nan must lie"),
        (lambda d: d["views"]["main"].update(mean=[10**400, 0, 0]), "views.main.mean: int too"),
    ],
)
def test_wrong_documents_are_refused(copy, change, said):
    _edit_json(copy, change)
    with pytest.raises(FerJaxError) as caught:
        load_bundle(copy, verify=False)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, 0) for field in ("image_size", "patch_size", "width", "depth", "num_heads")),
        *(("width", -32), ("num_classes", -1), ("depth", 10**9), ("width", 10**400)),
        *(("mlp_ratio", float("nan")), ("mlp_ratio", 1e308), ("norm_eps", float("inf"))),
        *(("norm_eps", -1e-9), ("param_dtype", "foo"), ("param_dtype", "int8")),
    ],
)
def test_damaged_numbers_of_a_model_are_named(copy, field, value):
    _edit_json(copy, lambda d: d["models"]["main"].update({field: value}))
    for read in (inspect_path, load_bundle):
        with pytest.raises(FerJaxError, match=f"models.main: {field}="):
            read(copy)


def test_no_field_can_be_missing(copy):
    whole = json.loads((copy / "bundle.json").read_text())
    for parts in ((), ("models", "main"), ("views", "main"), ("labels",)):
        inner = whole
        for part in parts:
            inner = inner[part]
        for field in list(inner):
            value = inner.pop(field)
            (copy / "bundle.json").write_text(json.dumps(whole))
            with pytest.raises(FerJaxError, match=r"is missing|its format is not|format_version"):
                load_bundle(copy, verify=False)
            inner[field] = value


@pytest.mark.parametrize("name", ["bundle.json", "params.safetensors", "golden.npz"])
def test_files_cannot_be_missing_or_damaged(copy, name):
    file = copy / name
    data = file.read_bytes()
    for content in (data[: len(data) // 2], b"", b"PK\x03\x04", b"{}", b"\xff\xfe\xfd"):
        file.write_bytes(content)
        with pytest.raises(FerJaxError) as caught:
            load_bundle(copy, verify=False)
        assert str(caught.value).startswith(str(copy))
    file.unlink()
    with pytest.raises(FerJaxError, match=f"no bundle, {name} is missing"):
        load_bundle(copy)


def test_the_way_to_a_bundle_is_told(tmp_path, saved):
    with pytest.raises(FerJaxError, match="check the path"):
        load_bundle(tmp_path / "none")
    with pytest.raises(FerJaxError, match="fer-jax train"):
        load_bundle(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(FerJaxError, match="`fer-jax convert` makes a bundle"):
        load_bundle(tmp_path / "model.pth")
    with pytest.raises(FerJaxError, match=r"perhaps .*bundle is meant"):
        load_bundle(saved.parent)


def test_saving_leaves_nothing_half_written(tmp_path, monkeypatch):
    bundle = make()
    target = tmp_path / "bundle"

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(bundle_module, "write_safetensors", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_bundle(bundle, target)
    assert not list(tmp_path.iterdir())
    save_bundle(bundle, target)
    with pytest.raises(FerJaxError, match="exists already"):
        save_bundle(bundle, target)
    save_bundle(make("encoder"), target, overwrite=True)
    assert load_bundle(target).kind == "encoder"
    bundle.models["main"][1]["head"]["bias"] = np.full(8, np.nan, np.float32)
    with pytest.raises(FerJaxError, match="not finite"):
        save_bundle(bundle, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_own_golden_faces(tmp_path):
    faces = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    save_bundle(make(), tmp_path / "bundle", golden_faces=faces)
    with np.load(tmp_path / "bundle" / "golden.npz") as sample:
        np.testing.assert_array_equal(sample["faces"], faces)
        assert sample["logits"].shape == (1, 8)
    load_bundle(tmp_path / "bundle")


def test_contradictions_are_refused_when_made():
    bundle = make()
    with pytest.raises(FerJaxError, match="8 outputs, 7 labels"):
        dataclasses.replace(bundle, labels=label_space("rafdb"))
    with pytest.raises(FerJaxError, match="kind encoder has no labels"):
        dataclasses.replace(bundle, kind="encoder")
    models = bundle.models | {"aux": bundle.models["main"]}
    with pytest.raises(FerJaxError, match="has models main, not main, aux"):
        dataclasses.replace(bundle, models=models)
    assert set(KINDS) == {"encoder", "mae", "classifier", "fusion", "two_view"}
    views = {"views": bundle.views, "labels": None}
    with pytest.raises(FerJaxError, match="the model main is no MAEConfig"):
        dataclasses.replace(bundle, kind="mae", models=bundle.models, **views)


def test_own_label_spaces_are_refused_when_saved(tmp_path):
    """A space that no other machine knows would make a bundle that cannot be loaded."""
    labels = LabelSpace("moods", tuple("abcdefgh"))
    with pytest.raises(FerJaxError, match="'moods'"):
        save_bundle(dataclasses.replace(make(), labels=labels), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
