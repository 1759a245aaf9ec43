"""The pre-training step against PyTorch, in parts, on one device against eight, and what decays."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from mae_goldens import load

from fer_jax.models import mae
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import ViTConfig
from fer_jax.plan.collectives import count_collectives
from fer_jax.plan.hlo import parse_hlo
from fer_jax.train import masked_steps, sharding
from fer_jax.train.config import MeshConfig, OptimizerConfig
from fer_jax.train.masked_steps import MaskedModel, MaskedRecipe, evaluate_step, masked_loss
from fer_jax.train.optimizer import UNDECAYED_IN_PRETRAINING, decays, make_schedule
from fer_jax.train.pretrain import jit_train_step, masked_optimizer
from fer_jax.train.pretrain_config import PretrainConfig
from fer_jax.train.state import TrainState, create_state

GOLDEN = Path(__file__).parent / "testdata" / "pretrain_steps.npz"
CONFIG = MAEConfig(
    ViTConfig(image_size=32, patch_size=8, width=24, depth=2, num_heads=4),
    decoder_width=16,
    decoder_depth=2,
    decoder_num_heads=2,
)
MODEL = MaskedModel(CONFIG, (0.5,) * 3, (0.25,) * 3)
OPTIMIZER = OptimizerConfig(
    learning_rate=0.05, layer_decay=1.0, beta2=0.95, warmup_epochs=2.0, min_learning_rate=0.0
)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def part(golden, prefix):
    found = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    return load(found)


def flat(params):
    return traverse_util.flatten_dict(jax.tree.map(np.asarray, params), sep="/")


def test_ten_steps_of_maes_recipe_equal_torch(golden, monkeypatch):
    """AdamW, its betas and groups, warm-up and cosine, masks of the same noise."""
    start = part(golden, "start/")
    optimizer = masked_optimizer(PretrainConfig(optimizer=OPTIMIZER), start)
    rate = make_schedule(OPTIMIZER, batch_size=8, steps_per_epoch=2, epochs=5)
    params = jax.tree.map(jnp.asarray, start)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    noise = jnp.asarray(golden["noise"])
    monkeypatch.setattr(masked_steps, "mask_noise", lambda seed, step, *_: noise[step])
    step = jax.jit(
        functools.partial(
            masked_steps.train_step, model=MODEL, optimizer=optimizer, recipe=MaskedRecipe()
        )
    )
    losses = []
    for i in range(10):
        state, metrics = step(state, {"image": golden["images"][i]}, jnp.float32(rate(i)))
        losses.append(float(metrics["loss"]))
    # torch's own float32 against float64: losses 2e-7, parameters 3e-7.
    np.testing.assert_allclose(losses, golden["losses"], rtol=0, atol=2e-6)
    ours, theirs, before = flat(state.params), flat(part(golden, "end/")), flat(start)
    key_bias = {"encoder/blocks/attn/qkv/bias": 24, "decoder/blocks/attn/qkv/bias": 16}
    for path, expected in theirs.items():
        apart = np.abs(ours[path] - expected)
        if path in key_bias:  # a gradient of nothing but rounding, which Adam makes full steps of
            width = key_bias[path]
            assert apart[:, width : 2 * width].max() < sum(map(rate, range(10)))
            apart = np.delete(apart, slice(width, 2 * width), axis=1)
        assert apart.max() < 5e-6, path
        moved = np.abs(expected - before[path]).max()
        assert (moved > 1e-3) == (not path.endswith("pos_embed")), path


def test_tokens_decay_and_positions_norms_and_biases_do_not():
    shapes = jax.eval_shape(lambda: mae.init(CONFIG, jax.random.key(0)))
    decayed = traverse_util.flatten_dict(decays(shapes, UNDECAYED_IN_PRETRAINING), sep="/")
    # By the rank that each tensor has in a file, as timm groups them; positions are not trained.
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        rank = leaf.ndim - ("/blocks/" in path)
        assert decayed[path] == (rank != 1 and not path.endswith("pos_embed")), path
    assert decayed["encoder/cls_token"]
    assert decayed["decoder/mask_token"]


def drawn(size=16, seed=3):
    rng = np.random.default_rng(seed)
    return {"image": rng.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)}


def start_state(mesh, config=CONFIG, **fields):
    params = jax.tree.map(np.asarray, mae.init(config, jax.random.key(1)))
    optimizer = masked_optimizer(PretrainConfig(optimizer=OPTIMIZER), params)
    return optimizer, create_state(params, optimizer, mesh, **fields)


def three_losses(mesh):
    """Of the whole step: masks, stochastic depth, update; no noise comes from outside."""
    config = MAEConfig(
        ViTConfig(image_size=32, patch_size=8, width=64, depth=2, num_heads=4, drop_path=0.3),
        decoder_width=32,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    optimizer, state = start_state(mesh, config)
    model, losses = MaskedModel(config, MODEL.mean, MODEL.std), []
    with jax.set_mesh(mesh):
        step = jit_train_step(model, optimizer, MaskedRecipe(seed=5), state, mesh)
        for i in range(3):
            rows = sharding.to_global(drawn(seed=i), mesh)
            rate = sharding.spread(np.float32(1e-3), sharding.replicated(mesh))
            state, metrics = step(state, rows, rate)
            losses.append(float(metrics["loss"]))
    return losses


def test_eight_devices_compute_what_one_does():
    one = three_losses(sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
    assert one[0] > 1
    for config in (MeshConfig(8, 1), MeshConfig(2, 4)):
        eight = three_losses(sharding.make_mesh(config))
        np.testing.assert_allclose(eight, one, rtol=0, atol=1e-6, err_msg=str(config))


def test_parts_of_a_batch_give_the_update_of_the_whole():
    """With plain gradient steps, so that the update is the gradient; masks are the batch's."""
    mesh, found = sharding.make_mesh(MeshConfig()), []
    for parts in (1, 2):
        _, state = start_state(mesh)
        optimizer = optax.scale(-1.0)
        state = TrainState(state.step, state.params, optimizer.init(state.params))
        recipe = MaskedRecipe(accumulate=parts)
        step = jax.jit(
            functools.partial(
                masked_steps.train_step, model=MODEL, optimizer=optimizer, recipe=recipe
            )
        )
        after, metrics = step(state, drawn(), jnp.float32(1.0))
        moved = jax.tree.map(lambda a, b: np.asarray(a - b), after.params, state.params)
        found.append((float(metrics["loss"]), moved))
    (loss, whole), (other, in_parts) = found
    assert abs(loss - other) < 1e-6
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(whole)))
    assert norm > 0.1
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(in_parts), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * norm)


def test_masks_are_the_steps_and_the_seeds():
    noise = [
        masked_steps.mask_noise(seed, jnp.int32(step), 4, 16)
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert all((noise[0] != other).any() for other in noise[2:])


def test_scores_do_not_depend_on_how_faces_are_batched():
    """A padded batch: the rows that fill it up count for nothing, and a face keeps its mask."""
    params = mae.init(CONFIG, jax.random.key(1))
    images = drawn(6)["image"].astype(np.float32)
    whole = {"image": images, "row": np.arange(6, dtype=np.int32), "mask": np.ones(6, bool)}
    padded = {
        "image": np.concatenate([images[4:], np.zeros_like(images[:2])]),
        "row": np.array([4, 5, -1, -1], np.int32),
        "mask": np.array([True, True, False, False]),
    }
    halves = [{name: value[:4] for name, value in whole.items()}, padded]
    run = jax.jit(functools.partial(evaluate_step, model=MODEL, recipe=MaskedRecipe(seed=2)))
    found, expected = [run(params, half) for half in halves], run(params, whole)
    assert sum(float(one["count"]) for one in found) == float(expected["count"]) == 6 * 12
    total = sum(float(one["error_sum"]) for one in found)
    assert total == pytest.approx(float(expected["error_sum"]), rel=1e-6)
    # By hand: the loss of each face alone, with its own noise.
    noise = masked_steps.fixed_noise(2, jnp.arange(6), 16)
    loss = jax.jit(functools.partial(masked_loss, key=jax.random.key(0), model=MODEL))
    alone = [loss(params, {"image": images[i : i + 1]}, noise[i : i + 1]) for i in range(6)]
    mean = float(expected["error_sum"] / expected["count"])
    assert mean == pytest.approx(float(np.mean(alone)), rel=1e-6)


def test_a_sharded_step_gathers_parameters_and_not_tokens():
    """Two gathers of each split leaf, forward and backward; tokens would be 30 times that."""
    config = MAEConfig(
        ViTConfig(image_size=64, patch_size=8, width=64, depth=2, num_heads=4),
        decoder_width=64,
        decoder_depth=1,
        decoder_num_heads=4,
    )
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    optimizer, state = start_state(mesh, config)
    model = MaskedModel(config, MODEL.mean, MODEL.std)
    batch = {"image": jax.ShapeDtypeStruct((64, 64, 64, 3), "uint8")}
    with jax.set_mesh(mesh):
        step = jit_train_step(model, optimizer, MaskedRecipe(), state, mesh)
        lowered = step.lower(state, batch, jax.ShapeDtypeStruct((), "float32"))
        text = lowered.compile().as_text()
    found = count_collectives(parse_hlo(text), [0] * 8)
    gathered = sum(one.size for one in found if one.kind == "all-gather")
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert 0.5 * held < gathered <= 2.2 * held
