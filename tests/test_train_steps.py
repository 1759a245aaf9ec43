"""The training step against PyTorch, and on one device against eight."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from fer_jax.models import torch_layout, vit
from fer_jax.models.vit import ViTConfig
from fer_jax.ops.augment import mix
from fer_jax.ops.normalize import normalize
from fer_jax.train import sharding
from fer_jax.train.config import MeshConfig, OptimizerConfig
from fer_jax.train.models import Classifier
from fer_jax.train.optimizer import make_optimizer, make_schedule
from fer_jax.train.state import TrainState, create_state, state_shardings
from fer_jax.train.steps import Recipe, batch_loss, evaluate_step, train_step

GOLDEN = Path(__file__).parent / "testdata" / "train_steps.npz"
CONFIG = ViTConfig(
    image_size=16, patch_size=8, width=24, depth=2, num_heads=4, num_classes=5, pool="avg"
)
RECIPE = Recipe(5, label_smoothing=0.1)
MEAN, STD = (0.5,) * 3, (0.25,) * 3
MODEL = Classifier(vit.build(CONFIG), MEAN, STD)
WEIGHTS = jnp.array([0.5, 1.0, 2.0, 1.5, 0.8], jnp.float32)
KEY_BIAS = slice(24, 48)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def part(golden, prefix):
    """The tensors below a prefix as our params."""
    tensors = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    return torch_layout.from_torch_layout(tensors, CONFIG)


def split_key_bias(params):
    """(all but the key's bias, the key's bias): the latter's gradient is zero but for rounding."""
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")
    bias = flat["blocks/attn/qkv/bias"]
    flat["blocks/attn/qkv/bias"] = np.delete(bias, KEY_BIAS, axis=1)
    return flat, bias[:, KEY_BIAS]


def test_gradient_equals_torch(golden):
    batch = {"image": golden["images"][0], "label": golden["labels"][0]}
    loss_fn = functools.partial(batch_loss, model=MODEL, recipe=RECIPE)
    loss, gradient = jax.value_and_grad(loss_fn)(
        part(golden, "start/"), batch, WEIGHTS, jax.random.key(0)
    )
    expected = part(golden, "gradient/")
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(expected)))
    assert abs(float(loss) - golden["losses"][0]) < 1e-6 * 3
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        # torch's own float32 stands 5e-6 from its float64 here, at a norm of about 100.
        np.testing.assert_allclose(ours, theirs, atol=3e-7 * norm)


def test_five_steps_of_maes_adamw_equal_torch(golden):
    """Losses and parameters of five updates with layer decay 0.65, weight decay and smoothing."""
    config = OptimizerConfig(
        learning_rate=5e-4, weight_decay=0.05, layer_decay=0.65, schedule="constant",
        warmup_epochs=0.0,
    )  # fmt: skip
    start = part(golden, "start/")
    optimizer = make_optimizer(config, start, CONFIG.depth)
    rate = make_schedule(config, batch_size=12, steps_per_epoch=1, epochs=5)
    params = jax.tree.map(jnp.asarray, start)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    step = jax.jit(
        functools.partial(
            train_step,
            model=MODEL,
            optimizer=optimizer,
            recipe=RECIPE,
        )
    )
    losses = []
    for i in range(5):
        batch = {"image": golden["images"][i], "label": golden["labels"][i]}
        state, metrics = step(state, batch, jnp.float32(rate(i)), WEIGHTS)
        losses.append(float(metrics["loss"]))
    # torch's own float32 against float64: losses 1e-6, parameters 4e-7.
    np.testing.assert_allclose(losses, golden["losses"], atol=3e-6)
    ours, our_key_bias = split_key_bias(state.params)
    theirs, their_key_bias = split_key_bias(part(golden, "end/"))
    before, _ = split_key_bias(start)
    for path, expected in theirs.items():
        np.testing.assert_allclose(ours[path], expected, atol=1e-5, err_msg=path)
        # The bound means something: what the steps moved is far more than what may differ.
        moved = np.abs(expected - before[path])
        assert np.abs(ours[path] - expected).max() < 0.2 * moved.max(), path
    # Adam divides the rounding error of a zero gradient by itself: full steps of noise, in torch
    # too (3e-5 between its float32 and float64). They can be no longer than the rates add up to.
    assert np.abs(our_key_bias - their_key_bias).max() < 5 * rate(0)


def soft_batch():
    """Votes on three of six faces; of the others two have a label, and one has nothing."""
    votes = np.zeros((6, 5), np.float32)
    votes[0] = [0, 3, 1, 0, 0]
    votes[2] = [10, 0, 0, 0, 0]
    votes[5] = [1, 1, 0, 0, 6]
    labels = np.array([1, 4, 3, 0, -1, -1], np.int32)
    return {**small_batch(6), "label": labels, "votes": votes}


def by_hand(logits, targets, smoothing):
    """Weighted cross-entropy with soft targets, row by row in float64, over the rows with one."""
    weights, total, rows = np.asarray(WEIGHTS, np.float64), 0.0, 0
    for row, target in zip(np.asarray(logits, np.float64), targets, strict=True):
        if target is None:
            continue
        log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
        for c, share in enumerate(target):
            total -= weights[c] * ((1 - smoothing) * share + smoothing / 5) * log_p[c]
        rows += 1
    return total / rows


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_labels_are_shares_of_votes_and_else_the_label(smoothing):
    """Shares written down by hand; a face with votes is not trained on its label."""
    recipe = dataclasses.replace(RECIPE, label_smoothing=smoothing, soft_labels=True)
    params = vit.init(CONFIG, jax.random.key(2))
    kernel = np.random.default_rng(0).normal(0, 0.5, size=(24, 5))
    params["head"]["kernel"] = kernel.astype(np.float32)
    batch, graphdef = soft_batch(), vit.build(CONFIG)
    loss = batch_loss(
        params,
        batch,
        WEIGHTS,
        jax.random.key(0),
        model=MODEL,
        recipe=recipe,
    )
    images = normalize(batch["image"], MEAN, STD)
    logits, _ = vit.apply(graphdef, params, images)
    shares = [
        [0, 0.75, 0.25, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0], None, [0.125, 0.125, 0, 0, 0.75],
    ]  # fmt: skip
    # float32 against float64: 2e-7 was seen, at losses about 2.
    assert float(loss) == pytest.approx(by_hand(logits, shares, smoothing), abs=2e-6)


def test_soft_labels_are_mixed():
    """With mixup, the loss of mixed images is that of mixed shares, as the same key mixes them."""
    recipe = dataclasses.replace(RECIPE, label_smoothing=0.0, soft_labels=True, mixup=0.8)
    params = vit.init(CONFIG, jax.random.key(2))
    batch = jax.tree.map(jnp.asarray, soft_batch())
    graphdef, key = vit.build(CONFIG), jax.random.key(4)
    loss = batch_loss(params, batch, WEIGHTS, key, model=MODEL, recipe=recipe)
    shares = np.array(
        [[0, 0.75, 0.25, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0],
         [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0.125, 0.125, 0, 0, 0.75]], np.float32
    )  # fmt: skip
    images = normalize(batch["image"], MEAN, STD)
    mixed, targets = mix(
        jax.random.split(key)[0], jnp.asarray(images), jnp.asarray(shares),
        mixup_alpha=0.8, cutmix_alpha=0.0,
    )  # fmt: skip
    logits, _ = vit.apply(graphdef, params, mixed)
    expected = by_hand(logits, np.asarray(targets, np.float64), 0.0)
    assert float(loss) == pytest.approx(expected, abs=2e-6)


def test_hard_labels_pay_no_attention_to_votes():
    params, key = (
        vit.init(CONFIG, jax.random.key(2)),
        jax.random.key(0),
    )
    options = {"model": MODEL, "recipe": RECIPE}
    batch = soft_batch()
    without = {name: value for name, value in batch.items() if name != "votes"}
    found = batch_loss(params, batch, WEIGHTS, key, **options)
    assert float(found) == float(batch_loss(params, without, WEIGHTS, key, **options))


def small_batch(size=16):
    rng = np.random.default_rng(3)
    return {
        "image": rng.integers(0, 256, (size, 16, 16, 3)).astype(np.uint8),
        "label": rng.integers(-1, 5, size).astype(np.int32),
    }


@pytest.mark.parametrize("mesh_config", [MeshConfig(8, 1), MeshConfig(4, 2), MeshConfig(1, 8)])
@pytest.mark.parametrize("mix", [0.0, 0.8])
def test_eight_devices_compute_what_one_does(mesh_config, mix, golden):
    config = ViTConfig(
        image_size=16, patch_size=8, width=64, depth=2, num_heads=4, num_classes=5, drop_path=0.2
    )
    recipe = Recipe(5, label_smoothing=0.1, mixup=mix, cutmix=mix)
    params = jax.tree.map(np.asarray, vit.init(config, jax.random.key(1)))
    # A head of real size, else the trunk's gradients are all but zero.
    head = np.random.default_rng(0).normal(0, 0.15, size=(64, 5))
    params["head"]["kernel"] = head.astype(np.float32)
    batch, key = small_batch(), jax.random.key(5)
    grad = jax.value_and_grad(
        functools.partial(batch_loss, model=Classifier(vit.build(config), MEAN, STD), recipe=recipe)
    )
    loss, gradient = jax.jit(grad)(params, batch, WEIGHTS, key)

    mesh = sharding.make_mesh(mesh_config)
    shardings = sharding.parameter_shardings(params, mesh)
    copied = sharding.replicated(mesh)
    sharded = jax.jit(
        grad,
        in_shardings=(shardings, sharding.batch_sharding(mesh), copied, copied),
        out_shardings=(copied, shardings),
    )
    other, other_gradient = sharded(
        jax.device_put(params, shardings), sharding.to_global(batch, mesh), WEIGHTS, key
    )
    # Measured: loss 0 to 7.2e-7 at 2.4 (three steps of float32), gradients up to 1.7e-7 of their
    # global norm.
    assert abs(float(loss) - float(other)) < 1e-6
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    assert norm > 0.1
    for ours, theirs in zip(
        jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * norm)


def test_parameters_are_split_by_rule():
    config = ViTConfig(image_size=16, patch_size=8, width=64, depth=8, num_heads=4, num_classes=5)
    mesh = sharding.make_mesh(MeshConfig(-1, 8))
    shapes = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    flat = traverse_util.flatten_dict(sharding.parameter_shardings(shapes, mesh), sep="/")
    # The largest dimension; never axis 0 of a stacked leaf, though depth divides as well.
    assert tuple(flat["blocks/mlp/fc1/kernel"].spec) == (None, None, "fsdp")
    assert tuple(flat["blocks/mlp/fc2/kernel"].spec) == (None, "fsdp")
    assert flat["head/kernel"].is_fully_replicated
    assert sharding.unsharded_leaves(shapes, mesh) == []
    odd = {"blocks": {"fc": {"kernel": jax.ShapeDtypeStruct((8, 91, 91), jnp.float32)}}}
    assert sharding.unsharded_leaves(odd, mesh) == ["blocks/fc/kernel"]


def test_optimizer_state_is_split_like_the_parameters():
    config = ViTConfig(image_size=16, patch_size=8, width=64, depth=2, num_heads=4, num_classes=5)
    mesh = sharding.make_mesh(MeshConfig(1, 8))
    params = vit.init(config, jax.random.key(0))
    optimizer = make_optimizer(OptimizerConfig(), params, config.depth)
    state = create_state(params, optimizer, mesh)
    moment = next(s for s in state.opt_state if hasattr(s, "mu")).mu
    for leaf, twin in zip(jax.tree.leaves(moment), jax.tree.leaves(state.params), strict=True):
        assert leaf.sharding.is_equivalent_to(twin.sharding, leaf.ndim)
    one = state.params["blocks"]["mlp"]["fc1"]["kernel"]
    assert one.addressable_shards[0].data.size * 8 == one.size
    assert jax.tree.structure(state_shardings(state, mesh)) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss": "focal", "focal_gamma": 2.0}, lambda p, y: (1 - p[y]) ** 2 * -np.log(p[y])),
        (
            {"loss": "logit_adjusted", "log_prior": tuple(np.log([0.4, 0.3, 0.1, 0.1, 0.1]))},
            lambda p, y: -np.log((p * [0.4, 0.3, 0.1, 0.1, 0.1])[y] / (p @ [0.4, 0.3, *[0.1] * 3])),
        ),
    ],
)
def test_the_recipe_chooses_the_loss(fields, expected):
    recipe = dataclasses.replace(RECIPE, label_smoothing=0.0, **fields)
    params = vit.init(CONFIG, jax.random.key(2))
    kernel = np.random.default_rng(0).normal(0, 0.5, size=(24, 5))
    params["head"]["kernel"] = kernel.astype(np.float32)
    batch, graphdef = (
        {**small_batch(4), "label": np.array([1, -1, 4, 0], np.int32)},
        vit.build(CONFIG),
    )
    found = batch_loss(
        params,
        batch,
        jnp.ones(5),
        jax.random.key(0),
        model=MODEL,
        recipe=recipe,
    )
    logits, _ = vit.apply(graphdef, params, normalize(batch["image"], MEAN, STD))
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(axis=1, keepdims=True)
    losses = [expected(p[i], batch["label"][i]) for i in (0, 2, 3)]
    assert float(found) == pytest.approx(np.mean(losses), rel=2e-6)  # measured 1e-7


def test_evaluation_counts_only_real_rows():
    params = vit.init(CONFIG, jax.random.key(0))
    params["head"]["bias"] = jnp.array([0.0, 5.0, 0.0, 0.0, 0.0])
    batch = {
        "image": np.zeros((4, 16, 16, 3), np.float32),
        "label": np.array([1, 2, -1, 1], np.int32),
        "mask": np.array([True, True, True, False]),
    }
    found = evaluate_step(params, batch, model=MODEL, recipe=RECIPE)
    expected = np.zeros((5, 5), int)
    expected[1, 1] = expected[2, 1] = 1
    np.testing.assert_array_equal(found["confusion"], expected)
    assert float(found["count"]) == 2.0
