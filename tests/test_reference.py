"""The numpy reference against PyTorch: stored outputs, and live torch where it is installed.

The goldens are those of test_vit_parity.py; what must be seen here is that the reference itself is
right, keeps its type, reads one block at a time, and is sharp enough to show small mistakes.
"""

import functools
import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fer_jax.convert import reference, torch_reference
from fer_jax.models.vit import ViTConfig

Tensors = dict[str, np.ndarray]
MODELS = ("vit_cls", "vit_avg", "mae", "fusion")
# Largest difference between float32 and float64 that is rounding, at every stage of these models.
TOLERANCE = 2e-5
needs_torch = pytest.mark.skipif(not torch_reference.available(), reason="needs torch")


def encoder(**fields) -> ViTConfig:
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 3, "num_heads": 4}
    return ViTConfig(**(sizes | fields))


def mae(norm_pix: bool = True) -> SimpleNamespace:
    decoder = ViTConfig(image_size=32, patch_size=8, width=24, depth=2, num_heads=3)
    return SimpleNamespace(encoder=encoder(), decoder=decoder, norm_pix=norm_pix)


def block_shapes(config: ViTConfig, prefix: str) -> dict[str, tuple[int, ...]]:
    d, h = config.width, int(config.width * config.mlp_ratio)
    shapes = {}
    for i in range(config.depth):
        own = {"norm1.weight": (d,), "norm1.bias": (d,), "norm2.weight": (d,), "norm2.bias": (d,)}
        own |= {"attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,)}
        own |= {"attn.proj.weight": (d, d), "attn.proj.bias": (d,)}
        own |= {"mlp.fc1.weight": (h, d), "mlp.fc1.bias": (h,)}
        own |= {"mlp.fc2.weight": (d, h), "mlp.fc2.bias": (d,)}
        if config.layer_scale:
            own |= {"ls1.gamma": (d,), "ls2.gamma": (d,)}
        shapes |= {f"{prefix}.{i}.{name}": shape for name, shape in own.items()}
    return shapes


def vit_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    d, p, tokens = config.width, config.patch_size, config.num_tokens
    norm = "fc_norm" if config.pool == "avg" else "norm"
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, tokens, d), f"{norm}.weight": (d,)}
    shapes |= {f"{norm}.bias": (d,), "patch_embed.proj.weight": (d, 3, p, p)}
    shapes |= {"patch_embed.proj.bias": (d,)} | block_shapes(config, "blocks")
    if config.num_classes:
        shapes |= {"head.weight": (config.num_classes, d), "head.bias": (config.num_classes,)}
    return shapes


def mae_shapes(config: SimpleNamespace) -> dict[str, tuple[int, ...]]:
    d, e, values = config.encoder.width, config.decoder.width, 3 * config.encoder.patch_size**2
    shapes = vit_shapes(config.encoder) | block_shapes(config.decoder, "decoder_blocks")
    shapes |= {"decoder_embed.weight": (e, d), "decoder_embed.bias": (e,), "mask_token": (1, 1, e)}
    shapes |= {"decoder_pos_embed": (1, config.encoder.num_tokens, e), "decoder_norm.weight": (e,)}
    shapes |= {"decoder_norm.bias": (e,), "decoder_pred.weight": (values, e)}
    return shapes | {"decoder_pred.bias": (values,)}


def fusion_shapes(inputs: tuple[int, int], width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes = {"mha.in_proj_weight": (3, 1), "mha.in_proj_bias": (3,)}
    shapes |= {"mha.out_proj.weight": (1, 1), "mha.out_proj.bias": (1,)}
    layers = {"linear1": (width, inputs[0]), "linear2": (width, inputs[1])}
    layers |= {"linear_key": (width, 2 * width), "mlp.0": (hidden, width), "mlp.1": (8, hidden)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    """Values of which every one matters; tokens small, that LayerNorm's epsilon is seen."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        value = generator.standard_normal(shape)
        if "norm" in name and name.endswith("weight"):
            value = 1 + 0.3 * value
        elif "gamma" in name or name.startswith("mha"):
            value = 0.7 + 0.2 * value
        elif "token" in name or "pos_embed" in name:
            value = 0.05 * value
        elif len(shape) == 4:
            value = 0.05 * value / np.prod(shape[1:]) ** 0.5
        else:
            value = 1.5 * value / shape[1] ** 0.5 if len(shape) == 2 else 0.1 * value
        tensors[name] = value.astype(np.float32)
    return tensors


@functools.cache
def tensors_of(model: str) -> Tensors:
    shapes = {
        "vit_cls": lambda: vit_shapes(encoder(num_classes=8, layer_scale=True)),
        "vit_avg": lambda: vit_shapes(encoder(num_classes=8, pool="avg")),
        "mae": lambda: mae_shapes(mae()),
        "fusion": lambda: fusion_shapes((32, 48), 64, 16),
    }
    return random_tensors(shapes[model](), seed=MODELS.index(model))


def run(model: str, read: reference.Read, module=reference, **options) -> reference.Stages:
    generator = np.random.default_rng(5)
    if model == "fusion":
        config = SimpleNamespace(width=64)
        main, aux = (generator.standard_normal((3, size)) for size in (32, 48))
        return module.entry_fusion_stages(config, read, main, aux, **options)
    images = generator.standard_normal((3, 32, 32, 3))
    if model == "mae":
        noise = generator.random((3, 16))
        return module.mae_stages(mae(), read, images, noise, **options)
    pool = model.removeprefix("vit_")
    config = encoder(num_classes=8, pool=pool, layer_scale=pool == "cls")
    return module.vit_stages(config, read, images, **options)


def differences(found: reference.Stages, expected: reference.Stages) -> dict[str, float]:
    found, expected = dict(found), dict(expected)
    assert list(found) == list(expected)
    assert {s: x.shape for s, x in found.items()} == {s: x.shape for s, x in expected.items()}
    return {stage: float(np.abs(found[stage] - x).max()) for stage, x in expected.items()}


def golden(name: str) -> tuple[Tensors, Tensors]:
    """The arrays of a file, and of them the weights by name."""
    with np.load(Path(__file__).parent / "testdata" / f"{name}.npz") as file:
        arrays = dict(file)
    return arrays, {n.removeprefix("state/"): x for n, x in arrays.items() if n.startswith("state")}


def assert_torch_in_float64(found: np.ndarray, single: np.ndarray, distance: np.ndarray) -> None:
    """Against torch's float32: what stands from it as far as torch's float64 did, is that."""
    assert np.abs(found - single).max() == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("family", ["mae", "timm"])
def test_a_vit_is_torch_in_float64(family):
    arrays, weights = golden(f"vit_{family}")
    pool = "avg" if family == "mae" else "cls"
    config = encoder(num_classes=8, pool=pool, layer_scale=family == "timm")
    stages = dict(reference.vit_stages(config, weights.__getitem__, arrays["images"]))
    names = {"block_0": "blocks.0", "blocks": "blocks.2"}
    for stage in ("patch_embed", "block_0", "blocks", "pooled", "logits"):
        found = stages[names.get(stage, stage)]
        assert_torch_in_float64(found, arrays[f"stage/{stage}"], arrays[f"noise/{stage}"])


def test_an_mae_is_torch_in_float64():
    arrays, weights = golden("mae")
    decoder = ViTConfig(image_size=32, patch_size=8, width=16, depth=3, num_heads=2)
    for norm_pix, loss in ((True, "loss_norm_pix"), (False, "loss_pixels")):
        config = SimpleNamespace(encoder=encoder(depth=2), decoder=decoder, norm_pix=norm_pix)
        inputs = (weights.__getitem__, arrays["images"], arrays["noise"])
        stages = dict(reference.mae_stages(config, *inputs))
        for stage in ("latent", "decoder_embed", "prediction", loss):
            found = stages["loss" if stage == loss else stage]
            assert_torch_in_float64(found, arrays[f"stage/{stage}"], arrays[f"float32/{stage}"])


def test_a_fusion_is_torch_in_float64():
    arrays, weights = golden("fusion_entry")
    inputs = (weights.__getitem__, arrays["features/main"], arrays["features/aux"])
    stages = dict(reference.entry_fusion_stages(SimpleNamespace(width=16), *inputs))
    for stage, found in stages.items():
        np.testing.assert_allclose(found, arrays[f"stage/{stage}"], rtol=0, atol=1e-13)


def test_stages_come_in_the_order_of_the_computation():
    blocks = ["patch_embed", "embed", "blocks.0", "blocks.1", "blocks.2"]
    expected = {
        "vit_cls": [*blocks, "norm", "pooled", "logits"],
        "vit_avg": [*blocks, "pooled", "logits"],
        "mae": [
            *(*blocks, "latent", "decoder_embed", "decoder_blocks.0", "decoder_blocks.1"),
            *("prediction", "loss"),
        ],
        "fusion": ["main", "aux", "key", "attention", "fused", "hidden", "logits"],
    }
    for model in MODELS:
        stages = run(model, tensors_of(model).__getitem__)
        assert [name for name, _ in stages] == expected[model]
    assert "logits" not in dict(
        reference.vit_stages(encoder(), tensors_of("vit_cls").__getitem__, np.zeros((1, 32, 32, 3)))
    )


@needs_torch
@pytest.mark.parametrize("model", MODELS)
def test_numpy_and_torch_agree_at_every_stage(model):
    read = tensors_of(model).__getitem__
    found = differences(run(model, read, torch_reference), run(model, read))
    assert max(found.values()) < TOLERANCE, found


@needs_torch
@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("mask_ratio", [0.5, 0.8])
def test_the_loss_agrees_with_equal_noise_and_other_ratios(norm_pix, mask_ratio):
    read = tensors_of("mae").__getitem__
    generator = np.random.default_rng(8)
    images = generator.standard_normal((2, 32, 32, 3))
    noise = generator.integers(4, size=(2, 16)).astype(np.float32)
    inputs = (mae(norm_pix), read, images, noise, mask_ratio)
    expected = dict(reference.mae_stages(*inputs))
    found = differences(torch_reference.mae_stages(*inputs), expected.items())
    assert max(found.values()) < TOLERANCE, found
    assert expected["embed"].shape == (2, 1 + int(16 * (1 - mask_ratio)), 32)
    assert expected["loss"].shape == ()


def test_the_loss_is_that_of_the_hidden_patches_alone():
    """By hand, with no ranks and no reshape: nothing that the reference does."""
    images = np.random.default_rng(8).standard_normal((1, 32, 32, 3))
    noise = np.linspace(1, 0, 16)[None]  # the last four are kept
    stages = dict(reference.mae_stages(mae(), tensors_of("mae").__getitem__, images, noise))
    errors = []
    for patch in range(12):
        row, column = divmod(patch, 4)
        values = images[0, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].ravel()
        target = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-6)
        errors.append(((stages["prediction"][0, patch] - target) ** 2).mean())
    assert stages["loss"] == pytest.approx(np.mean(errors), rel=1e-12)
    kept = stages["patch_embed"][0, [15, 14, 13, 12]]
    positions = tensors_of("mae")["pos_embed"][0, [16, 15, 14, 13]]
    np.testing.assert_allclose(stages["embed"][0, 1:], kept + positions, rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_float32_stays_float32_and_near_float64(model):
    read = tensors_of(model).__getitem__
    single = list(run(model, read, dtype=np.float32))
    double = list(run(model, read, dtype=np.float64))
    assert {x.dtype for _, x in single} == {np.dtype(np.float32)}
    assert {x.dtype for _, x in double} == {np.dtype(np.float64)}
    found = differences(iter(single), iter(double))
    assert min(found.values()) > 0, found
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("module", [reference, pytest.param(torch_reference, marks=needs_torch)])
@pytest.mark.parametrize("model", MODELS)
def test_each_tensor_is_read_once_and_one_block_at_a_time(model, module):
    asked = []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return tensors_of(model)[name]

    seen = []
    for stage, _ in run(model, read, module):
        blocks = {re.match(r"(decoder_)?blocks\.\d+", name) for name in asked}
        blocks = {match[0] for match in blocks if match}
        assert blocks == ({stage} if "blocks" in stage else set())
        seen += asked
        asked.clear()
    assert sorted(seen) == sorted(tensors_of(model))


def test_memory_does_not_grow_with_the_blocks():
    config = encoder(width=128, depth=12)
    tensors = random_tensors(vit_shapes(config), seed=1)
    one_block = sum(x.size * 8 for name, x in tensors.items() if name.startswith("blocks.0."))
    images = np.ones((1, 32, 32, 3), np.float32)
    tracemalloc.start()
    for _ in reference.vit_stages(config, tensors.__getitem__, images):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < one_block


@pytest.mark.parametrize("module", [reference, pytest.param(torch_reference, marks=needs_torch)])
@pytest.mark.parametrize("model", MODELS)
def test_half_precision_and_memory_that_is_read_only_are_read(model, module):
    halves = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors_of(model).items()}
    for value in halves.values():
        value.flags.writeable = False
    singles = {name: x.astype(np.float32) for name, x in halves.items()}
    found = differences(
        run(model, halves.__getitem__, module), run(model, singles.__getitem__, module)
    )
    assert set(found.values()) == {0.0}


def test_double_precision_in_a_file_is_not_lost():
    doubles = {name: x * (1 + np.float64(1e-9)) for name, x in tensors_of("vit_cls").items()}
    found = differences(
        run("vit_cls", doubles.__getitem__), run("vit_cls", tensors_of("vit_cls").__getitem__)
    )
    assert min(found.values()) > 0


def test_torch_runs_without_gradients_and_leaves_the_callers_switch():
    torch = pytest.importorskip("torch")

    def read(name: str) -> np.ndarray:
        assert not torch.is_grad_enabled()
        return tensors_of("vit_cls")[name]

    for _ in run("vit_cls", read, torch_reference):
        assert torch.is_grad_enabled()


def _epsilon(monkeypatch, read: reference.Read) -> reference.Read:
    exact = reference._Weights.layer_norm
    wrong = lambda self, name, x, epsilon: exact(self, name, x, 1e-5)  # noqa: E731
    monkeypatch.setattr(reference._Weights, "layer_norm", wrong)
    return read


def _tanh_gelu(monkeypatch, read: reference.Read) -> reference.Read:
    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2

    monkeypatch.setattr(reference, "_gelu", gelu)
    return read


def _swapped(monkeypatch, read: reference.Read) -> reference.Read:
    """Queries for keys."""

    def swapped(name: str) -> np.ndarray:
        if "qkv" not in name and "in_proj" not in name:
            return read(name)
        query, key, value = np.split(read(name), 3)
        return np.concatenate([key, query, value])

    return swapped


@pytest.mark.parametrize(
    ("model", "mistake", "first"),
    [
        *((m, w, "blocks.0") for m in MODELS[:3] for w in (_epsilon, _tanh_gelu, _swapped)),
        ("fusion", _swapped, "attention"),
    ],
)
def test_mistakes_stand_far_above_the_noise(model, mistake, first, monkeypatch):
    read = tensors_of(model).__getitem__
    exact = list(run(model, read))
    noise = differences(run(model, read, dtype=np.float32), iter(exact))
    found = differences(run(model, mistake(monkeypatch, read)), iter(exact))
    wrong = list(found)[list(found).index(first) :]
    assert {stage for stage, value in found.items() if value == 0} == set(found) - set(wrong)
    for stage in wrong:
        assert found[stage] > 20 * noise[stage], (stage, found, noise)
