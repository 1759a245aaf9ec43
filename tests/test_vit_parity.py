"""The ViT against PyTorch, stage by stage: stored outputs, and live torch where it is installed.

Every comparison goes through the whole way of a user's weights: a checkpoint file, the converter,
`vit.apply`. The goldens are made by tools/make_vit_goldens.py; a red test here means that the model
or the converter is wrong, never that the goldens are old.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from pth_files import state_dict, write_pth

from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import Conversion, convert_checkpoint
from fer_jax.labels import label_space
from fer_jax.models import blocks, vit
from fer_jax.models.torch_layout import from_torch_layout, to_torch_layout

ROOT = Path(__file__).parent.parent
STAGES = ("patch_embed", "block_0", "blocks", "pooled", "logits")
# torch in float32 is up to 6.9e-6 from torch in float64 on these models (stored beside each
# stage), jax up to 7.6e-6 from torch in float32.
TOLERANCE = 2e-5


@functools.cache
def golden(family: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / "tests" / "testdata" / f"vit_{family}.npz") as file:
        return dict(file)


def weights(family: str) -> dict[str, np.ndarray]:
    found = golden(family).items()
    return {name.removeprefix("state/"): v for name, v in found if name.startswith("state/")}


def convert(folder: Path, tensors: Mapping[str, np.ndarray], heads: int = 4) -> Conversion:
    path = write_pth(folder / "model.pth", *state_dict(tensors))
    options = Options(labels=label_space("affwild2_expr"), num_heads=heads)
    return convert_checkpoint(open_checkpoint(path), options)


def run(config: vit.ViTConfig, params: vit.Params, images: np.ndarray) -> dict[str, np.ndarray]:
    logits, features = vit.apply(vit.build(config), params, images, intermediates=True)
    return {
        "patch_embed": np.asarray(features["patch_embed"]),
        "block_0": np.asarray(features["blocks"][0]),
        "blocks": np.asarray(features["tokens"]),
        "pooled": np.asarray(features["pooled"]),
        "logits": np.asarray(logits),
    }


def differences(found: Mapping[str, np.ndarray], family: str) -> dict[str, float]:
    expected = {stage: golden(family)[f"stage/{stage}"] for stage in STAGES}
    assert {s: found[s].shape for s in STAGES} == {s: expected[s].shape for s in STAGES}
    return {stage: float(np.abs(found[stage] - expected[stage]).max()) for stage in STAGES}


@pytest.mark.parametrize("family", ["mae", "timm"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_stage_equals_the_goldens(tmp_path, family, scan_layers):
    conversion = convert(tmp_path, weights(family))
    assert conversion.family.name == family
    assert conversion.config.pool == ("avg" if family == "mae" else "cls")
    config = dataclasses.replace(conversion.config, scan_layers=scan_layers)
    found = differences(run(config, conversion.params, golden(family)["images"]), family)
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("family", ["mae", "timm"])
def test_the_tolerance_is_above_the_noise_and_below_the_mistakes(family):
    noise = max(float(golden(family)[f"noise/{stage}"]) for stage in STAGES)
    assert 0 < noise < TOLERANCE / 2


@pytest.mark.parametrize("family", ["mae", "timm"])
def test_a_tanh_gelu_would_be_seen(tmp_path, family, monkeypatch):
    conversion = convert(tmp_path, weights(family))
    monkeypatch.setattr(blocks, "gelu", jax.nn.gelu)  # by tanh, unless told otherwise
    found = differences(run(conversion.config, conversion.params, golden(family)["images"]), family)
    assert found["patch_embed"] < TOLERANCE
    assert min(found[stage] for stage in STAGES[1:]) > 5 * TOLERANCE, found


@pytest.mark.parametrize("family", ["mae", "timm"])
def test_a_wrong_epsilon_would_be_seen(tmp_path, family):
    conversion = convert(tmp_path, weights(family))
    config = dataclasses.replace(conversion.config, norm_eps=1e-5)
    found = differences(run(config, conversion.params, golden(family)["images"]), family)
    assert found["patch_embed"] < TOLERANCE
    assert min(found[stage] for stage in STAGES[1:]) > 5 * TOLERANCE, found


def _without_qkv_order(name: str, value: np.ndarray) -> np.ndarray:
    if "qkv" not in name:
        return value
    query, key, rest = np.split(value, 3)
    return np.concatenate([key, query, rest])


def _without_head_order(name: str, value: np.ndarray) -> np.ndarray:
    """[q | k | v] taken for each head's own q, k and v side by side."""
    if "qkv" not in name:
        return value
    return value.reshape(4, 3, 8, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)


def _without_patch_order(name: str, value: np.ndarray) -> np.ndarray:
    return value.swapaxes(2, 3) if name == "patch_embed.proj.weight" else value


def _without_block_order(name: str, value: np.ndarray) -> np.ndarray:
    return value[:, ::-1] if name == "pos_embed" else value


@pytest.mark.parametrize("family", ["mae", "timm"])
@pytest.mark.parametrize(
    ("mistake", "first"),
    [
        (_without_qkv_order, "block_0"),
        (_without_head_order, "block_0"),
        (_without_patch_order, "patch_embed"),
        (_without_block_order, "block_0"),
    ],
)
def test_wrong_orders_would_be_seen(tmp_path, family, mistake, first):
    tensors = {name: mistake(name, value) for name, value in weights(family).items()}
    conversion = convert(tmp_path, tensors)
    found = differences(run(conversion.config, conversion.params, golden(family)["images"]), family)
    for stage in STAGES[STAGES.index(first) :]:
        assert found[stage] > 5 * TOLERANCE, found


def test_layer_scale_and_block_order_would_be_seen(tmp_path):
    swap = {"0": "1", "1": "0", "2": "2"}
    tensors = {}
    for name, value in weights("timm").items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts[1] = swap[parts[1]]
        tensors[".".join(parts)] = value
    conversion = convert(tmp_path, tensors)
    found = differences(run(conversion.config, conversion.params, golden("timm")["images"]), "timm")
    assert found["blocks"] > 5 * TOLERANCE
    tensors = {n: v * (0.5 if "ls2" in n else 1) for n, v in weights("timm").items()}
    tensors = {n: v.astype(np.float32) for n, v in tensors.items()}
    conversion = convert(tmp_path, tensors)
    found = differences(run(conversion.config, conversion.params, golden("timm")["images"]), "timm")
    assert found["block_0"] > 5 * TOLERANCE


@pytest.mark.parametrize("family", ["mae", "timm"])
def test_the_torch_layout_goes_both_ways_unchanged(tmp_path, family):
    conversion = convert(tmp_path, weights(family))
    back = dict(to_torch_layout(conversion.params, conversion.config))
    assert back.keys() == weights(family).keys()
    for name, value in weights(family).items():
        np.testing.assert_array_equal(back[name], value)
    again = from_torch_layout(back, conversion.config)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, conversion.params))


def _torch_tool():
    path = ROOT / "tools" / "make_vit_goldens.py"
    spec = importlib.util.spec_from_file_location("make_vit_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("global_pool", [True, False])
@pytest.mark.parametrize("layer_scale", [True, False])
def test_every_stage_equals_live_torch(tmp_path, global_pool, layer_scale):
    """Another size and seed than the goldens', from a file that torch itself wrote."""
    torch = pytest.importorskip("torch")
    tool = _torch_tool()
    model = tool.ViT(
        image=48,
        patch=12,
        width=48,
        depth=2,
        heads=6,
        global_pool=global_pool,
        layer_scale=layer_scale,
    ).eval()
    tool.randomise(model, 7)
    torch.manual_seed(3)
    images = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        expected = {name: value.numpy() for name, value in model(images).items()}
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "live.pth")
    options = Options(labels=label_space("ferplus"), num_heads=6)
    conversion = convert_checkpoint(open_checkpoint(tmp_path / "live.pth"), options)
    found = run(conversion.config, conversion.params, images.permute(0, 2, 3, 1).numpy())
    for stage in STAGES:
        np.testing.assert_allclose(found[stage], expected[stage], rtol=0, atol=TOLERANCE)
    wrong = dataclasses.replace(conversion.config, norm_eps=1e-5)
    found = run(wrong, conversion.params, images.permute(0, 2, 3, 1).numpy())
    assert np.abs(found["logits"] - expected["logits"]).max() > TOLERANCE


def test_the_goldens_are_what_the_tool_makes():
    pytest.importorskip("torch")
    made = _torch_tool().make_golden(20240319, global_pool=True)
    assert made.keys() == golden("mae").keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, golden("mae")[name], rtol=0, atol=TOLERANCE)
