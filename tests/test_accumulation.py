"""Gradients from parts of a batch, and the moving average of the parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig
from fer_jax.train import sharding
from fer_jax.train.config import MeshConfig, OptimizerConfig
from fer_jax.train.models import Classifier
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.state import create_state
from fer_jax.train.steps import Recipe, loss_and_gradients
from fer_jax.train.task import jit_train_step

CONFIG = ViTConfig(
    image_size=16, patch_size=8, width=32, depth=2, num_heads=4, num_classes=5, pool="avg"
)
MODEL = Classifier(vit.build(CONFIG), (127.5,) * 3, (127.5,) * 3)
WEIGHTS = np.array([0.5, 1.0, 2.0, 1.5, 0.8], np.float32)


def start():
    params = jax.tree.map(np.asarray, vit.init(CONFIG, jax.random.key(1)))
    # A head of real size, else the trunk's gradients are all but zero.
    head = np.random.default_rng(0).normal(0, 0.15, size=(32, 5))
    params["head"]["kernel"] = head.astype(np.float32)
    return params


def batch(seed=0):
    """32 faces, every fifth without a label: the parts divide by other sums of weights."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 32).astype(np.int32)
    labels[::5] = -1
    return {"image": rng.integers(0, 256, (32, 16, 16, 3), np.uint8), "label": labels}


def norm_of(tree):
    return np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(mixup):
    key, found = jax.random.key(3), {}
    for parts in (1, 4):
        recipe = Recipe(5, label_smoothing=0.1, mixup=mixup, accumulate=parts)
        run = functools.partial(loss_and_gradients, model=MODEL, recipe=recipe)
        found[parts] = jax.jit(run)(start(), batch(), WEIGHTS, key)
    (loss, gradients), (other, in_parts) = found[1], found[4]
    # Seen: losses 0 to 2.4e-7 apart at 2.1, gradients 2e-7 of their global norm.
    assert abs(float(loss) - float(other)) < 1e-6
    norm = norm_of(gradients)
    assert norm > 0.1
    for one, whole in zip(jax.tree.leaves(in_parts), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(one, whole, atol=1e-6 * norm)


def test_each_part_draws_for_itself():
    """Stochastic depth, on a batch whose two parts hold the same four faces."""
    config = dataclasses.replace(CONFIG, drop_path=0.5)
    model = Classifier(vit.build(config), MODEL.mean, MODEL.std)
    faces = {name: rows[1:5] for name, rows in batch().items()}
    twice = {name: jnp.repeat(rows, 2, axis=0) for name, rows in faces.items()}
    loss, _ = loss_and_gradients(
        start(), twice, jnp.asarray(WEIGHTS), jax.random.key(0), model=model,
        recipe=Recipe(5, accumulate=2),
    )  # fmt: skip
    _, path_key = jax.random.split(jax.random.key(0))
    drawn = [loss_by_hand(model, faces, key) for key in jax.random.split(path_key, 2)]
    assert abs(drawn[0] - drawn[1]) > 1e-3
    assert float(loss) == pytest.approx(np.mean(drawn), abs=1e-6)


def loss_by_hand(model, faces, key):
    """Weighted cross-entropy in float64 of the model's logits with a key."""
    logits = np.asarray(model.logits(start(), model.inputs(faces), key=key), np.float64)
    logged = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    weights = WEIGHTS[faces["label"]].astype(np.float64)
    return -(weights * logged[np.arange(4), faces["label"]]).sum() / weights.sum()


def test_the_average_follows_the_parameters_by_its_rule():
    """Three sharded steps against the recurrence in float64; the first decay is 2 / 11."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4))
    params = start()
    optimizer = make_optimizer(OptimizerConfig(), params, CONFIG.depth)
    state = create_state(params, optimizer, mesh, ema=True)
    recipe = Recipe(5, ema_decay=0.3)
    step = jit_train_step(MODEL, optimizer, recipe, state, mesh)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for n in range(1, 4):
        rows = sharding.to_global(batch(n), mesh)
        state, _ = step(state, rows, jnp.float32(1e-2), WEIGHTS)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = jax.tree.map(
            lambda e, p, d=decay: d * e + (1 - d) * np.asarray(p, np.float64),
            expected,
            state.params,
        )
    for ours, theirs, last in zip(
        *(jax.tree.leaves(tree) for tree in (state.averaged, expected, state.params)), strict=True
    ):
        # float32 against float64: 1e-7 was seen, of values up to 1.
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ours.sharding.is_equivalent_to(last.sharding, ours.ndim)
    moved = norm_of(jax.tree.map(lambda a, b: a - b, state.averaged, state.params))
    assert moved > 1e-2
