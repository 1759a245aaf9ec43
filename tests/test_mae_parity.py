"""The masked autoencoder against PyTorch: stored outputs, and live torch where it is installed.

The goldens are made by tools/make_mae_goldens.py; a red test here means that the model is wrong,
never that the goldens are old.
"""

import dataclasses
import importlib
from collections.abc import Mapping

import jax
import numpy as np
import pytest
from mae_goldens import MODEL, ROOT, golden, load, replaced, weights

from fer_jax.models import mae, vit
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import ViTConfig

STAGES = ("latent", "decoder_embed", "prediction", "loss_pixels", "loss_norm_pix")
# torch in float32 is up to 2.1e-6 from torch in float64 on this model (8.4e-8 in the losses; stored
# beside each stage), jax up to 1.8e-6 from torch in float32 (2.4e-7 in the losses).
TOLERANCE = 1e-5


def run(
    config: MAEConfig, params: vit.Params, images: np.ndarray, noise: np.ndarray
) -> dict[str, np.ndarray]:
    out = mae.apply(mae.build(config), params, images, noise, intermediates=True)
    found = {
        "latent": out.latent,
        "decoder_embed": out.features["decoder_embed"],
        "prediction": out.prediction,
        "mask": out.mask,
    }
    for name, norm_pix in (("loss_pixels", False), ("loss_norm_pix", True)):
        patch = config.encoder.patch_size
        found[name] = mae.reconstruction_loss(out.prediction, images, out.mask, patch, norm_pix)
    own = "loss_norm_pix" if config.norm_pix else "loss_pixels"
    np.testing.assert_array_equal(out.loss, found[own])
    return {name: np.asarray(value) for name, value in found.items()}


def differences(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    expected = {stage: golden()[f"stage/{stage}"] for stage in STAGES}
    assert {s: found[s].shape for s in STAGES} == {s: expected[s].shape for s in STAGES}
    return {stage: float(np.abs(found[stage] - expected[stage]).max()) for stage in STAGES}


@pytest.fixture(scope="module")
def params():
    return load(weights())


@pytest.fixture(scope="module")
def images():
    return golden()["images"]


@pytest.fixture(scope="module")
def noise():
    return golden()["noise"]


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_stage_equals_the_goldens(params, images, noise, norm_pix, scan_layers):
    config = dataclasses.replace(replaced(MODEL, scan_layers=scan_layers), norm_pix=norm_pix)
    found = run(config, params, images, noise)
    np.testing.assert_array_equal(found["mask"], golden()["mask"])
    assert max(differences(found).values()) < TOLERANCE, differences(found)


def test_the_tolerance_is_above_the_noise():
    floor = {stage: float(golden()[f"float32/{stage}"]) for stage in STAGES}
    assert 0 < max(floor.values()) < TOLERANCE / 4, floor


def _swapped_queries_and_keys(name: str, value: np.ndarray) -> np.ndarray:
    if "qkv" not in name:
        return value
    query, key, rest = np.split(value, 3)
    return np.concatenate([key, query, rest])


def _channel_first_prediction(name: str, value: np.ndarray) -> np.ndarray:
    if not name.startswith("decoder_pred"):
        return value
    return value.reshape(8, 8, 3, -1).transpose(2, 0, 1, 3).reshape(value.shape)


def _swapped_positions(name: str, value: np.ndarray) -> np.ndarray:
    return value[:, ::-1] if name == "decoder_pos_embed" else value


def _no_mask_token(name: str, value: np.ndarray) -> np.ndarray:
    return value * 0 if name == "mask_token" else value


@pytest.mark.parametrize(
    ("mistake", "first"),
    [
        (_swapped_queries_and_keys, "latent"),
        (_swapped_positions, "decoder_embed"),
        (_no_mask_token, "decoder_embed"),
        (_channel_first_prediction, "prediction"),
    ],
)
def test_wrong_orders_would_be_seen(images, noise, mistake, first):
    broken = load({name: mistake(name, value) for name, value in weights().items()})
    found = differences(run(MODEL, broken, images, noise))
    for stage in STAGES[STAGES.index(first) :]:
        assert found[stage] > 5 * TOLERANCE, found


@pytest.mark.parametrize("wrong", ["norm_eps", "inverted mask"])
def test_a_wrong_epsilon_or_mask_would_be_seen(params, images, noise, wrong):
    config = replaced(MODEL, norm_eps=1e-5) if wrong == "norm_eps" else MODEL
    found = differences(run(config, params, images, -noise if wrong != "norm_eps" else noise))
    assert min(found["latent"], found["prediction"], found["loss_norm_pix"]) > 2 * TOLERANCE, found


@pytest.mark.parametrize(("ddof", "epsilon"), [(0, 1e-6), (1, 0.0), (1, 1e-5)])
def test_another_variance_or_epsilon_of_norm_pix_would_be_seen(images, ddof, epsilon):
    target = np.asarray(mae.patchify(images, 8), np.float64)
    prediction, mask = golden()["stage/prediction"], golden()["mask"]

    def loss(ddof, epsilon):
        variance = target.var(axis=-1, keepdims=True, ddof=ddof)
        normed = (target - target.mean(axis=-1, keepdims=True)) / np.sqrt(variance + epsilon)
        return (((prediction - normed) ** 2).mean(axis=-1) * mask).sum() / mask.sum()

    expected = golden()["stage/loss_norm_pix"]
    np.testing.assert_allclose(loss(1, 1e-6), expected, atol=TOLERANCE)
    assert abs(loss(ddof, epsilon) - expected) > 50 * TOLERANCE


@pytest.fixture
def torch_tool(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("make_mae_goldens")


def test_stages_and_gradients_equal_live_torch(torch_tool):
    """Another size, seed and mask ratio than the goldens'."""
    sizes = {"width": 24, "depth": 3, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4}
    model = torch_tool.MAE(image=30, patch=6, heads=2, **sizes)
    torch_tool.randomise(model, 3)
    images, noise = torch_tool.draw(3, 30, 25, 4)
    expected = model(images, noise, mask_ratio=0.6)
    expected["loss_norm_pix"].backward()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    gradients = {
        name: np.zeros_like(state[name]) if value.grad is None else value.grad.numpy()
        for name, value in model.named_parameters()
    }
    assert [name for name, value in gradients.items() if not value.any()] == [
        "pos_embed",
        "decoder_pos_embed",
    ]

    config = MAEConfig(
        ViTConfig(image_size=30, patch_size=6, width=24, depth=3, num_heads=2),
        decoder_width=32,
        decoder_depth=1,
        decoder_num_heads=4,
    )
    pixels = images.permute(0, 2, 3, 1).numpy()

    def loss(params):
        graphdef = mae.build(config)
        out = mae.apply(graphdef, params, pixels, noise.numpy(), mask_ratio=0.6)
        return out.loss, out

    (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(load(state))
    np.testing.assert_array_equal(out.mask, expected["mask"])
    np.testing.assert_allclose(out.loss, expected["loss_norm_pix"].item(), atol=TOLERANCE)
    for stage in ("latent", "prediction"):
        found, wanted = getattr(out, stage), expected[stage].detach().numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    for ours, theirs in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(load(gradients)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_the_goldens_are_what_the_tool_makes(torch_tool):
    made = torch_tool.make_golden()
    assert made.keys() == golden().keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, golden()[name], rtol=0, atol=TOLERANCE)
