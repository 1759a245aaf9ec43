"""The ViT's sizes, its layouts in memory and in program, and its pooling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.models import torch_layout, vit
from fer_jax.models.vit import ViTConfig

TINY = ViTConfig(
    image_size=32, patch_size=8, width=32, depth=3, num_heads=2, num_classes=5, layer_scale=True,
    layer_scale_init=0.5,
)  # fmt: skip


def random_params(config: ViTConfig, seed: int = 0):
    """Every leaf random, so that no term of the forward pass is hidden by a zero or a one."""
    shapes = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, drawn)


@pytest.fixture(scope="module")
def params():
    return random_params(TINY)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)


# Counts of timm's vit_{size}_patch*_224 without a head; base is MAE's encoder (150 tensors).
@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("tiny", 5_524_416),
        ("small", 21_665_664),
        ("base", 85_798_656),
        ("large", 303_301_632),
        ("huge", 630_764_800),
    ],
)
def test_parameter_count_of_every_registered_size(size, count):
    config = vit.vit_config(size)
    shapes = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    assert vit.parameter_count(shapes) == count


def test_base_has_the_150_tensors_of_mae():
    names = torch_layout.targets(vit.vit_config("base"))
    assert len(names) == 150
    assert names["blocks.11.attn.qkv.weight"].torch_shape == (2304, 768)
    assert names["patch_embed.proj.weight"].torch_shape == (768, 3, 16, 16)


def test_torch_layout_round_trip_is_bit_identical(params):
    tensors = dict(torch_layout.to_torch_layout(params, TINY))
    # By hand: kernels are stored (out, in), blocks apart.
    np.testing.assert_array_equal(
        tensors["blocks.2.mlp.fc1.weight"], params["blocks"]["mlp"]["fc1"]["kernel"][2].T
    )
    back = torch_layout.from_torch_layout(tensors, TINY)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_torch_layout_names_every_fault_at_once(params):
    tensors = dict(torch_layout.to_torch_layout(params, TINY))
    del tensors["norm.weight"]
    tensors["extra"] = np.zeros(1)
    tensors["head.bias"] = np.zeros(7)
    with pytest.raises(ValueError, match=r"missing: norm.weight.*extra.*head.bias: shape \(7,\)"):
        torch_layout.from_torch_layout(tensors, TINY)


@pytest.mark.parametrize("changes", [{"scan_layers": False}, {"remat": "full"}, {"remat": "dots"}])
def test_program_forms_agree(changes, params, images):
    """Looped or unrolled, recomputed or kept: one function and one gradient."""

    def loss(params, config):
        logits, _ = vit.apply(vit.build(config), params, images)
        return (logits**2).mean()

    value, gradient = jax.value_and_grad(loss)(params, TINY)
    other, other_gradient = jax.value_and_grad(loss)(params, dataclasses.replace(TINY, **changes))
    # Measured: 0 to 2e-7 relative; float32 sums in another order.
    np.testing.assert_allclose(other, value, rtol=2e-6)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    for ours, theirs in zip(
        jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * norm)


def test_pooling_and_intermediates(params, images):
    logits, features = vit.apply(vit.build(TINY), params, images, intermediates=True)
    assert features["blocks"].shape == (3, 4, 17, 32)
    np.testing.assert_array_equal(features["blocks"][-1], features["tokens"])
    np.testing.assert_array_equal(features["pooled"], features["norm"][:, 0])
    head = params["head"]
    np.testing.assert_allclose(
        logits, features["pooled"] @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-5
    )

    config = dataclasses.replace(TINY, pool="avg")
    average = {key: leaf for key, leaf in params.items() if key != "norm"}
    average["fc_norm"] = params["norm"]
    _, features = vit.apply(vit.build(config), average, images)
    mean = np.asarray(features["tokens"], np.float64)[:, 1:].mean(axis=1)
    centred = mean - mean.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config.norm_eps)
    expected = normed * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    np.testing.assert_allclose(features["pooled"], expected, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "avg"])
def test_one_image_is_a_batch_of_one(params, images, pool):
    config = dataclasses.replace(TINY, pool=pool)
    norm = "norm" if pool == "cls" else "fc_norm"
    params = {norm if name == "norm" else name: x for name, x in params.items()}

    @jax.jit
    def run(images):
        logits, features = vit.apply(vit.build(config), params, images, intermediates=True)
        return {"logits": logits, "map": vit.patch_map(config, features)} | features

    one, lone = run(images[2]), run(images[2:3])
    assert one["logits"].shape == (5,)
    assert one["map"].shape == (4, 4, 32)
    expected = {name: x[:, 0] if name == "blocks" else x[0] for name, x in lone.items()}
    jax.tree.map(np.testing.assert_array_equal, one, expected)
    # Float32 sums in another order: measured 0.
    each = jax.vmap(run)(images)
    np.testing.assert_allclose(each["logits"], run(images)["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(each["map"], run(images)["map"], rtol=0, atol=1e-5)


def test_one_image_without_a_head(params, images):
    config = dataclasses.replace(TINY, num_classes=0)
    headless = {name: x for name, x in params.items() if name != "head"}
    logits, features = vit.apply(vit.build(config), headless, images[0])
    assert logits is None
    assert features["pooled"].shape == (32,)


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (16, 16, 3), (32, 3), (1, 2, 32, 32, 3)])
def test_images_of_another_shape_are_named(params, annotations_off, shape):
    with pytest.raises(FerJaxError, match=r"the model takes \(batch, 32, 32, 3\), or one of"):
        vit.apply(vit.build(TINY), params, np.zeros(shape, np.float32))


def test_no_head_gives_no_logits(params, images):
    config = dataclasses.replace(TINY, num_classes=0)
    headless = {key: leaf for key, leaf in params.items() if key != "head"}
    logits, features = vit.apply(vit.build(config), headless, images)
    assert logits is None
    assert features["pooled"].shape == (4, 32)


def test_no_image_gives_no_logits(params, images):
    logits, features = vit.apply(vit.build(TINY), params, images[:0])
    assert logits.shape == (0, TINY.num_classes)
    assert features["pooled"].shape == (0, TINY.width)


def test_drop_path_acts_only_when_training_and_keeps_the_mean(params):
    config = dataclasses.replace(TINY, depth=2, drop_path=0.5, num_classes=0)
    params = random_params(config)
    graphdef = vit.build(config)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    many = np.repeat(images, 4000, axis=0)
    still = vit.apply(graphdef, params, images)[1]["tokens"]
    plain = dataclasses.replace(config, drop_path=0.0)
    np.testing.assert_array_equal(
        still, vit.apply(vit.build(plain), params, images, key=jax.random.key(0))[1]["tokens"]
    )
    first, last = vit.apply(
        graphdef, params, many, key=jax.random.key(0), intermediates=True
    )[1]["blocks"]  # fmt: skip
    # Rates rise linearly from 0: the first block of two is never dropped.
    np.testing.assert_allclose(first, np.broadcast_to(first[:1], first.shape), atol=1e-5)
    # Of the last block's two branches each sample keeps 0, 1 or 2: four outcomes, evenly.
    _, counts = np.unique(np.round(np.asarray(last)[:, 0, 0], 3), return_counts=True)
    assert len(counts) == 4
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.035)  # 5 standard deviations


def test_head_dropout_acts_only_when_training_and_keeps_the_mean(params, images):
    config = dataclasses.replace(TINY, head_dropout=0.25)
    graphdef, plain = vit.build(config), vit.build(TINY)
    expected, features = vit.apply(plain, params, images[:1])
    np.testing.assert_array_equal(vit.apply(graphdef, params, images[:1])[0], expected)
    # A head of ones adds what was kept: each feature is 0 or 4/3 of itself.
    ones = jax.tree.map(jnp.ones_like, params["head"])
    many = np.repeat(images[:1], 4000, axis=0)
    summed, same = vit.apply(graphdef, params | {"head": ones}, many, key=jax.random.key(0))
    np.testing.assert_allclose(same["pooled"][5], features["pooled"][0], atol=1e-5)
    pooled = np.asarray(features["pooled"][0], np.float64)
    deviation = np.sqrt((pooled**2).sum() * 0.25 / 0.75)
    np.testing.assert_allclose(
        np.asarray(summed)[:, 0].mean() - 1, pooled.sum(), atol=5 * deviation / 4000**0.5
    )
    assert np.asarray(summed)[:, 0].std() == pytest.approx(deviation, rel=0.1)


def test_compute_dtype_is_apart_from_parameter_dtype(params, images):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    logits, features = vit.apply(vit.build(config), params, images)
    assert features["tokens"].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    exact, _ = vit.apply(vit.build(TINY), params, images)
    # bfloat16 carries 8 bits: measured 0.5 % of the logits' spread.
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()
    assert np.abs(logits - exact).max() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 100}, "multiple of patch_size"),
        ({"num_heads": 5}, "must divide width"),
        ({"pool": "max"}, "one of cls, avg"),
        ({"drop_path": 1.0}, r"\[0, 1\)"),
        ({"head_dropout": -0.1}, r"head_dropout=-0.1 must lie in \[0, 1\)"),
    ],
)
def test_impossible_configurations_are_named(fields, message):
    with pytest.raises(FerJaxError, match=message):
        dataclasses.replace(TINY, **fields)
    with pytest.raises(FerJaxError, match="tiny, small"):
        vit.vit_config("giant")
