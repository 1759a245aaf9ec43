"""`fer-jax bench infer` and `bench train`, and the tool that runs PyTorch beside them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pipeline_data import data  # noqa: F401

from fer_jax.bench import device
from fer_jax.bench.flops import count_flops, vit_flops
from fer_jax.bench.infer import bench_infer
from fer_jax.bench.train import bench_train
from fer_jax.cli.main import main
from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig
from fer_jax.train.config import ModelConfig, TrainConfig

SMALL = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=2, num_classes=5)
CONFIG = """
from fer_jax.train.config import default_config
def get_config():
    config = default_config()
    config.batch_size = 16
    config.model.width, config.model.depth, config.model.num_heads = 32, 2, 2
    config.model.patch_size, config.model.image_size = 8, 32
    config.augment.mixup = 0.8
    return config
"""


@pytest.fixture
def small_ceiling(monkeypatch):
    monkeypatch.setattr(device, "_SIDE", {"cpu": 64})


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return f"--config={path}"


def test_the_formula_is_what_products_of_a_traced_model_take():
    """All equations but the products left out, by hand: 2 x the sizes of each product."""
    graph = vit.build(SMALL)
    params = jax.eval_shape(lambda: vit.init(SMALL, jax.random.key(0)))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    found = count_flops(lambda p, x: vit.apply(graph, p, x)[0], params, images)
    n, t, d = 16, 17, 32
    products = 2 * n * (8 * 8 * 3) * d + 2 * d * 5
    products += 2 * 2 * (t * d * 3 * d + t * d * d + 2 * t * d * 4 * d + 2 * t * t * d)
    assert vit_flops(SMALL) == products
    assert products < found < 1.25 * products


def test_inference_tells_its_figures(small_ceiling, tmp_path):
    found = bench_infer(SMALL, batch=3, repeats=3, seconds=0.001)
    assert found["flops"]["formula"] == vit_flops(SMALL) < found["flops"]["counted"]
    rate, took = found["images_per_second"], found["milliseconds"]
    assert rate["median"] == pytest.approx(3000 / took["median"])
    assert found["ceiling"]["side"] == 64
    flops_per_second = rate["median"] * vit_flops(SMALL)
    best = found["ceiling"]["flops_per_second"]
    assert found["ceiling"]["share"]["low"] <= flops_per_second / best["low"]
    assert flops_per_second / best["high"] <= found["ceiling"]["share"]["high"]
    # At least the weights, float32.
    assert found["memory"]["bytes"] > 4 * 2 * 12 * 32 * 32
    assert found["memory"]["source"] == "compiler"
    json.dumps(found)


def test_a_ceiling_is_a_matrix_product():
    found = device.Ceiling("float32", 8)
    a, b = found._factors
    np.testing.assert_allclose(found(), np.asarray(a, np.float64) @ np.asarray(b), atol=1e-5)
    assert found.flops_per_second(0.5) == 2 * 2 * 8**3
    share = device.ceiling_share(found, [1.0, 2.0], [2.0, 2.0], flops=512.0)
    assert share["share"]["low"] == pytest.approx(0.25 + (0.5 - 0.25) / 4)
    assert share["flops_per_second"]["high"] == pytest.approx(512 + (1024 - 512) * 0.75 - 0.0, 0.3)


def test_runs_take_turns():
    calls = []
    runs = {name: lambda name=name: calls.append(name) or jnp.zeros(()) for name in "ab"}
    found = device.in_turn(runs, repeats=3, seconds=0.0)
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3}
    assert "".join(calls) == "aabb" + "ab" * 3


@pytest.mark.slow
def test_a_synthetic_step_needs_neither_data_nor_backbone(small_ceiling, config, capsys, tmp_path):
    trace = tmp_path / "trace"
    command = ["bench", "train", config, "--config.backbone=nowhere", "--synthetic"]
    command += ["--repeats", "2", "--seconds", "0.001", "--trace", str(trace)]
    assert main([*command, "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["batch"], found["synthetic"], found["input"]) == (16, True, None)
    assert found["mesh"] == {"data": 8, "fsdp": 1}
    # Forward, gradients of inputs and weights; beside that the update, 15 operations a weight.
    assert found["flops"]["formula"] < 1.2 * found["flops"]["counted"]
    assert list(trace.rglob("*.xplane.pb"))
    assert "images a second" in capsys.readouterr().out


def test_steps_go_on_from_each_other_and_wait_for_their_batch():
    """Sixteen steps in all, each on the state of the one before; those that are fed tell waits."""
    from fer_jax.bench.train import _Steps

    def program(state, batch, rate, weights):
        return state + batch, {"loss": state}

    steps = _Steps(program, 0, None)
    assert [steps(1), steps(1)] == [0, 1]
    assert [int(steps.fed(lambda: jnp.int32(10))) for _ in range(3)] == [2, 12, 22]
    assert len(steps.waits) == 3


@pytest.mark.slow
def test_real_data_tells_what_a_step_waits_for(small_ceiling, data):  # noqa: F811
    config = TrainConfig(
        data=str(data.path),
        batch_size=8,
        selection=0.0,
        model=ModelConfig(width=32, depth=2, num_heads=2, patch_size=8, image_size=32),
    )
    found = bench_train(config, repeats=2, seconds=0.001)
    assert found["input"]["wait_milliseconds"]["median"] > 0
    assert found["input"]["images_per_second_held"]["median"] > 0
    assert not found["synthetic"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer", "--size", "giant"], "--size giant is not known"),
        (["infer", "--batch", "0"], "--batch 0 must be at least 1"),
        (["infer", "--seconds", "nan"], "--seconds nan must be above 0"),
        (["infer", "--sise", "base"], "Unknown command line flag 'sise'"),
        (["train", "--synthetic"], "--config=FILE.py is missing"),
        (["train", "--config=nowhere.py"], "nowhere.py: no such file"),
        (["fusion", "--bacth", "3"], "unrecognized arguments: --bacth 3"),
    ],
)
def test_wrong_use(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_batch_that_devices_cannot_share_is_refused(config, capsys):
    assert main(["bench", "train", config, "--config.batch_size=12", "--synthetic"]) == 2
    assert "config.batch_size=12: must be a multiple of the 8 devices" in capsys.readouterr().err
