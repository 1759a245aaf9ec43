"""Layer-wise decay, decay masks and schedules against the formulas they come from."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig
from fer_jax.train.config import OptimizerConfig
from fer_jax.train.optimizer import decays, layer_scales, make_optimizer, make_schedule

CONFIG = ViTConfig(
    image_size=16, patch_size=8, width=32, depth=12, num_heads=2, num_classes=5, layer_scale=True
)


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(lambda: vit.init(CONFIG, jax.random.key(0)))


def test_decay_acts_on_matrices_only(shapes):
    flat = traverse_util.flatten_dict(decays(shapes), sep="/")
    assert {path for path, decayed in flat.items() if decayed} == {
        "patch_embed/kernel",
        "blocks/attn/qkv/kernel",
        "blocks/attn/proj/kernel",
        "blocks/mlp/fc1/kernel",
        "blocks/mlp/fc2/kernel",
        "head/kernel",
    }


def test_layer_scales_are_maes(shapes):
    """method: scale = d^(13 - id) at depth 12: 0 for embeddings, i + 1 for block i, else 13."""
    flat = traverse_util.flatten_dict(layer_scales(shapes, 0.65, 12), sep="/")
    for path in ("cls_token", "pos_embed", "patch_embed/kernel", "patch_embed/bias"):
        assert np.ravel(flat[path]).tolist() == pytest.approx([0.65**13])
    for path in ("norm/scale", "head/kernel", "head/bias"):
        assert np.ravel(flat[path]).tolist() == [1.0]
    blocks = flat["blocks/attn/qkv/kernel"]
    assert blocks.shape == (12, 1, 1)
    assert np.ravel(blocks) == pytest.approx([0.65 ** (13 - (i + 1)) for i in range(12)])


def test_adamw_by_hand():
    """Two steps of the textbook rule in float64, with decay and the layer's scale on both."""
    rng = np.random.default_rng(0)
    params = {"blocks": {"fc": {"kernel": rng.normal(size=(2, 3, 4)), "bias": np.ones((2, 4))}}}
    config = OptimizerConfig(weight_decay=0.1, layer_decay=0.5, beta1=0.8, beta2=0.9)
    optimizer = make_optimizer(config, params, depth=2)
    ours = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = optimizer.init(ours)
    expected = dict(params["blocks"]["fc"])
    moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in expected.items()}
    scale = np.array([0.25, 0.5])
    for step in (1, 2):
        gradients = {name: rng.normal(size=p.shape) for name, p in expected.items()}
        updates, state = optimizer.update(
            {"blocks": {"fc": jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradients)}},
            state,
            ours,
        )
        ours = jax.tree.map(lambda p, u: p + 0.01 * u, ours, updates)
        for name, g in gradients.items():
            m, v = moments[name]
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            moments[name] = m, v
            direction = (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.9**step)) + 1e-8)
            decay = 0.1 if name == "kernel" else 0.0
            rate = 0.01 * scale.reshape(2, *(1,) * (g.ndim - 1))
            expected[name] = expected[name] - rate * (direction + decay * expected[name])
    for name, value in expected.items():
        # float32 against float64: measured 6e-8.
        np.testing.assert_allclose(ours["blocks"]["fc"][name], value, atol=1e-6)


def test_adam_neither_decays_nor_scales():
    config = OptimizerConfig(name="adam", weight_decay=0.1, layer_decay=0.5)
    params = {"blocks": {"fc": {"kernel": jnp.ones((2, 3, 4))}}}
    optimizer = make_optimizer(config, params, depth=2)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 0.3), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # The first step of Adam is the sign of the gradient.
    np.testing.assert_allclose(updates["blocks"]["fc"]["kernel"], -1.0, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    config = OptimizerConfig(clip_norm=1.0, beta1=0.0, beta2=0.0, weight_decay=0.0, layer_decay=1.0)
    params = {"head": {"kernel": jnp.zeros((2, 2))}}
    optimizer = make_optimizer(config, params, depth=2)
    big = {"head": {"kernel": jnp.array([[3e4, 0.0], [0.0, 4e4]])}}
    _, state = optimizer.update(big, optimizer.init(params), params)
    moment = next(s for s in state if hasattr(s, "mu")).mu["head"]["kernel"]
    np.testing.assert_allclose(moment, [[0.6, 0.0], [0.0, 0.8]], rtol=1e-6)


def test_cosine_warms_up_to_the_scaled_rate_and_ends_at_the_floor():
    config = OptimizerConfig(learning_rate=5e-4, warmup_epochs=5.0, min_learning_rate=1e-6)
    rate = make_schedule(config, batch_size=1024, steps_per_epoch=10, epochs=100)
    assert rate(0) == 0.0
    assert rate(25) == pytest.approx(1e-3)
    assert rate(50) == pytest.approx(2e-3)
    middle = 1e-6 + (2e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * 47.5 / 95))
    assert rate(525) == pytest.approx(middle)
    assert rate(1000) == pytest.approx(1e-6)


def test_step_schedule_is_the_entrys():
    config = OptimizerConfig(
        name="adam", learning_rate=1e-4, scale_by_batch=False, schedule="step", warmup_epochs=0.0
    )
    rate = make_schedule(config, batch_size=288, steps_per_epoch=7, epochs=20)
    assert rate(0) == rate(16 * 7 - 1) == 1e-4
    assert rate(16 * 7) == pytest.approx(1e-5)
