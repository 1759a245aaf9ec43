"""Bundles of fusions and of two views: what is written comes back and computes what it says."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from tiny_bundles import noise_faces, tiny_bundle, tiny_two_view_bundle, write_tiny_two_view_bundle

from fer_jax.bundle import Bundle, bundle_function, forward, load_bundle, preprocess, save_bundle
from fer_jax.cli.main import main
from fer_jax.convert.inspection import describe, inspect_path
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import label_space
from fer_jax.models import fusion, vit
from fer_jax.predict.recognizer import Recognizer, load, softmax
from fer_jax.train.config import MeshConfig
from fer_jax.train.sharded_load import load_sharded
from fer_jax.train.sharding import make_mesh

VARIANTS = {
    "entry": {},
    "token": {"merge": "updown"},
    "average": {},
    "aux_only": {},
}


@pytest.fixture(scope="module", params=VARIANTS)
def saved(request, tmp_path_factory):
    """(path, bundle) of each variant."""
    path = tmp_path_factory.mktemp(request.param) / "bundle"
    bundle = tiny_two_view_bundle(request.param, **VARIANTS[request.param])
    save_bundle(bundle, path)
    return path, bundle


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return write_tiny_two_view_bundle(tmp_path_factory.mktemp("entry") / "bundle")


def by_hand(bundle, faces):
    """The two encoders and the fusion, each called by itself."""
    features, maps = {}, {}
    for name in ("main", "aux"):
        config, params = bundle.models[name]
        images = preprocess(bundle.views[name], faces)
        _, found = jax.jit(lambda p, x, c=config: vit.apply(vit.build(c), p, x))(params, images)
        features[name] = found["pooled"]
        tokens = np.asarray(found["tokens"])[:, 1:]
        maps[name] = np.stack([tokens[:, :2], tokens[:, 2:]], axis=1)  # two rows of two
    config, params = bundle.models["fusion"]
    given = maps if config.variant == "token" else features
    run = jax.jit(fusion.apply, static_argnums=0, static_argnames="intermediates")
    logits, steps = run(config, params, given, intermediates=True)
    return logits, features | {"fusion": steps["fused"]}


def test_what_is_saved_comes_back(saved):
    path, bundle = saved
    loaded = load_bundle(path)
    for field in dataclasses.fields(Bundle):
        if field.name != "models":
            assert getattr(loaded, field.name) == getattr(bundle, field.name)
    for name, (config, params) in bundle.models.items():
        assert loaded.models[name][0] == config
        assert jax.tree.all(jax.tree.map(np.array_equal, loaded.models[name][1], params))
    stored = json.loads((path / "bundle.json").read_text())["models"]
    assert list(stored) == ["main", "aux", "fusion"]
    assert stored["fusion"]["variant"] == bundle.models["fusion"][0].variant
    with safe_open(path / "params.safetensors", framework="numpy") as file:
        names = list(file.keys())
    assert {name.split("/")[0] for name in names} == {"main", "aux", "fusion"}
    assert {
        "entry": "fusion/mha.in_proj_weight",
        "token": "fusion/local.depthwise.weight",
        "average": "fusion/heads.aux.weight",
        "aux_only": "fusion/head.weight",
    }[bundle.models["fusion"][0].variant] in names


def test_the_recognizer_runs_both_encoders_and_the_fusion(saved):
    path, bundle = saved
    recognizer = load(path, batch_size=4)
    faces = noise_faces(6)
    logits, features = by_hand(bundle, faces)
    # Other programs, other batch shapes, resized by numpy: measured 5.8e-6 of 21.
    np.testing.assert_allclose(recognizer.logits(faces), logits, atol=3e-5)
    found = recognizer.features(faces)
    assert list(found) == ["main", "aux", "fusion"]
    for name, values in features.items():
        np.testing.assert_allclose(found[name], values, atol=3e-5)
    inputs = recognizer.prepare(faces)
    np.testing.assert_array_equal(recognizer.logits_normalized(inputs), recognizer.logits(faces))
    table = recognizer.predict(faces, crops=True)
    np.testing.assert_array_equal(table.raw, softmax(recognizer.logits(faces)))
    assert table.classes == label_space("expw").classes
    assert len(set(table.label.tolist())) > 1  # the model does look at the faces
    np.testing.assert_array_equal(recognizer.logits(faces[4:]), recognizer.logits(faces)[4:])
    nothing = np.zeros((0, 20, 20, 3), np.uint8)
    shapes = {name: values.shape for name, values in recognizer.features(nothing).items()}
    assert shapes == {name: (0, values.shape[1]) for name, values in features.items()}


@pytest.mark.slow
def test_the_pure_function_has_gradients_of_all_three_models():
    bundle = tiny_two_view_bundle("token")
    faces = noise_faces(2)
    inputs = {name: preprocess(view, faces) for name, view in bundle.views.items()}
    function = bundle_function(bundle)
    gradient = jax.jit(jax.grad(lambda p: (function(p, inputs)[0] ** 2).sum()))(bundle.params)
    assert set(gradient) == {"main", "aux", "fusion"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        # Patch tokens are taken before fc_norm.
        unused = "fc_norm" in jax.tree_util.keystr(path)
        assert np.any(leaf) != unused, path
    logits, features = jax.jit(lambda x: forward(bundle, x))(faces)
    assert logits.shape == (2, 7)
    assert set(features) == {"main", "aux", "fusion"}


def test_patch_maps_are_normed_where_the_norm_is_for_tokens():
    run = jax.jit(vit.apply, static_argnums=0)
    config = vit.ViTConfig(image_size=24, patch_size=8, width=12, depth=1, num_heads=2, pool="cls")
    params = vit.init(config, jax.random.key(0))
    params["norm"]["bias"] = params["norm"]["bias"] + 3
    _, features = run(vit.build(config), params, np.ones((1, 24, 24, 3), np.float32))
    found = vit.patch_map(config, features)
    assert found.shape == (1, 3, 3, 12)
    np.testing.assert_array_equal(found[0, 1, 2], features["norm"][0, 1 + 3 + 2])
    averaged = dataclasses.replace(config, pool="avg")
    params = vit.init(averaged, jax.random.key(0))
    _, features = run(vit.build(averaged), params, np.ones((1, 24, 24, 3), np.float32))
    found = vit.patch_map(averaged, features)
    np.testing.assert_array_equal(found[0, 2, 1], features["tokens"][0, 1 + 6 + 1])


def test_bfloat16_leaves_the_fusion_in_float32(entry):
    recognizer = load(entry, dtype="bfloat16", verify=False)
    faces = noise_faces(4)
    exact = load(entry, verify=False).logits(faces)
    near = recognizer.logits(faces)
    assert near.dtype == np.float32
    assert 1e-4 < np.abs(near - exact).max() / np.abs(exact).max() < 0.1


def test_the_golden_sample_sees_swapped_views(entry):
    document = json.loads((entry / "bundle.json").read_text())
    views = document["views"]
    try:
        turned = document | {"views": {"main": views["aux"], "aux": views["main"]}}
        (entry / "bundle.json").write_text(json.dumps(turned))
        with pytest.raises(FerJaxError, match="of its golden sample differ by"):
            load_bundle(entry)
    finally:
        (entry / "bundle.json").write_text(json.dumps(document))


@pytest.mark.parametrize("variant", fusion.VARIANTS)
def test_a_bundle_of_a_fusion_alone_holds_any_variant(tmp_path, variant):
    widths = {"face": 8, "voice": 6, "body": 8}
    options = {"entry": {"width": 8, "hidden": 4}, "token": {"attention": "local"}}
    config = fusion.fusion_config(variant, widths, 8, **options.get(variant, {}))
    params = fusion.init(config, jax.random.key(0))
    labels = label_space("affwild2_expr")
    bundle = Bundle(kind="fusion", models={"fusion": (config, params)}, views={}, labels=labels)
    save_bundle(bundle, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.models["fusion"][0] == config
    with np.load(tmp_path / "bundle" / "golden.npz") as golden:
        assert set(golden) == {*widths, "features_fusion", "logits"}
        features = {name: golden[name] for name in widths}
        logits, found = bundle_function(loaded)(loaded.params, features)
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)
        np.testing.assert_allclose(found["fusion"], golden["features_fusion"], atol=1e-5)
    with pytest.raises(FerJaxError, match="takes the features of encoders and no faces"):
        Recognizer(loaded)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["models"].pop("aux"), "has models main, aux, fusion, not main, fusion"),
        (lambda d: d["models"]["fusion"].pop("variant"), "models.fusion.variant is missing"),
        (lambda d: d["models"]["fusion"].pop("sources"), "models.fusion.sources is missing"),
        (lambda d: d["models"]["fusion"].update(dropout=0.1), "models.fusion.dropout is not known"),
        (lambda d: d["models"]["fusion"].update(variant="mix"), "variant='mix' must be one of"),
        (lambda d: d["models"]["fusion"].update(variant=["entry"]), "must be one of entry, token"),
        (lambda d: d["models"]["fusion"].update(variant="token"), "models.fusion."),
        (lambda d: d["models"]["fusion"].update(variant="linear"), "fusion.hidden is not known"),
        (lambda d: d["models"].update(fusion=3), "models.fusion must be an object"),
        (lambda d: d["models"]["fusion"].update(widths=[48, "36"]), "must be integers"),
        (
            lambda d: d["models"]["fusion"].update(widths=[48]),
            "must be a tuple of 2, for main, aux",
        ),
        (lambda d: d["models"]["fusion"].update(widths=[36, 48]), "shape"),
        (lambda d: d["models"]["fusion"].update(sources=[1, 2]), "must be names"),
        (
            lambda d: d["models"]["fusion"].update(sources=["aux", "main"]),
            "the fusion takes features of aux, main",
        ),
        (lambda d: d["models"]["fusion"].update(num_classes=8), "shape"),
        (lambda d: d["models"]["main"].update(num_classes=7), "missing: head"),
        (lambda d: d["views"].pop("aux"), "has views main, aux, not main"),
        (lambda d: d.update(labels=None), "kind two_view needs labels"),
        (lambda d: d.update(kind="fusion"), "kind fusion has models fusion, not main, aux, fusion"),
    ],
)
def test_wrong_documents_are_refused(entry, change, said):
    text = (entry / "bundle.json").read_text()
    document = json.loads(text)
    change(document)
    try:
        (entry / "bundle.json").write_text(json.dumps(document))
        with pytest.raises(FerJaxError) as caught:
            load_bundle(entry, verify=False)
    finally:
        (entry / "bundle.json").write_text(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(entry))
    assert "\n" not in str(caught.value)


def test_contradictions_are_refused_when_made():
    bundle = tiny_two_view_bundle()

    def remade(**models):
        return dataclasses.replace(bundle, models=bundle.models | models)

    config, params = bundle.models["fusion"]
    turned = dataclasses.replace(config, sources=("aux", "main"))
    with pytest.raises(FerJaxError, match=r"takes features of aux, main, where .* of main, aux"):
        remade(fusion=(turned, params))
    wide = dataclasses.replace(config, widths=(48, 48))
    with pytest.raises(FerJaxError, match=r"widths \(48, 48\), the encoders .* give \(48, 36\)"):
        remade(fusion=(wide, params))
    with pytest.raises(FerJaxError, match="fusion has 8 outputs, 7 labels"):
        remade(fusion=(dataclasses.replace(config, num_classes=8), params))
    with pytest.raises(FerJaxError, match="main has 7 outputs, where it must have no head"):
        remade(main=tiny_bundle().models["main"])
    with pytest.raises(FerJaxError, match="the model fusion is no FusionConfig"):
        remade(fusion=bundle.models["main"])
    token = tiny_two_view_bundle("token")
    aux, aux_params = token.models["aux"]
    finer = dataclasses.replace(aux, patch_size=8)
    with pytest.raises(FerJaxError, match="of one grid, the encoders have 2 and 4 patches a side"):
        dataclasses.replace(token, models=token.models | {"aux": (finer, aux_params)})


def test_a_golden_sample_without_a_source_is_refused(tmp_path):
    config = fusion.fusion_config("linear", {"a": 3, "b": 4}, 7)
    models = {"fusion": (config, fusion.init(config, jax.random.key(0)))}
    bundle = Bundle(kind="fusion", models=models, views={}, labels=label_space("expw"))
    save_bundle(bundle, tmp_path / "bundle")
    file = tmp_path / "bundle" / "golden.npz"
    with np.load(file) as golden:
        arrays = dict(golden)
    np.savez(file, **{name: x for name, x in arrays.items() if name != "b"})
    with pytest.raises(FerJaxError, match=r"golden\.npz: holds no float32 features"):
        load_bundle(tmp_path / "bundle")


def test_inspect_tells_all_three_models(saved):
    path, bundle = saved
    found = inspect_path(path)
    assert (found["kind"], found["problem"]) == ("two_view", None)
    config = bundle.models["fusion"][0]
    assert found["models"]["fusion"]["variant"] == config.variant
    lines = describe(found)
    assert any(f"fusion {config.variant}: features main 48 wide, aux 36 wide" in x for x in lines)
    assert sum(line.startswith("view") for line in lines) == 2
    json.dumps(found)


def test_a_checkpoint_holds_one_model(entry, tmp_path, capsys):
    out = tmp_path / "out.pth"
    assert main(["convert", str(entry), str(out)]) == 2
    said = capsys.readouterr().err
    assert "holds the models main, aux, fusion, a checkpoint holds one" in said
    config = fusion.fusion_config("linear", {"main": 3, "aux": 4}, 7)
    models = {"fusion": (config, fusion.init(config, jax.random.key(0)))}
    bundle = Bundle(kind="fusion", models=models, views={}, labels=label_space("expw"))
    save_bundle(bundle, tmp_path / "linear")
    assert main(["convert", str(tmp_path / "linear"), str(out)]) == 2
    assert (
        "no family has a place for head.weight, head.bias; its params.safetensors"
        in capsys.readouterr().err
    )
    assert not out.exists()


def test_one_of_the_models_goes_onto_a_mesh(entry):
    mesh = make_mesh(MeshConfig(fsdp=8))
    bundle = load_bundle(entry)
    for name, (config, wanted) in bundle.models.items():
        found = load_sharded(entry, mesh, model=name)
        assert found[0] == config
        jax.tree.map(np.testing.assert_array_equal, found[1], wanted)
    with pytest.raises(UsageError, match="holds the models main, aux, fusion; name one"):
        load_sharded(entry, mesh)
