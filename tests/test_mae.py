"""The masked autoencoder's masking, loss, gradients and parameter trees; parity is apart."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mae_goldens import MODEL, golden, load, replaced, weights

from fer_jax.errors import FerJaxError
from fer_jax.models import mae, vit
from fer_jax.models.mae import MAEConfig
from fer_jax.models.positions import sincos_positions
from fer_jax.models.vit import ViTConfig


@pytest.fixture(scope="module")
def params():
    return load(weights())


@pytest.fixture(scope="module")
def images():
    return golden()["images"]


@pytest.fixture(scope="module")
def noise():
    return golden()["noise"]


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.9])
def test_the_smallest_noise_stays_visible(ratio):
    noise = np.random.default_rng(0).random((5, 49), np.float32)
    kept, restore, mask = (np.asarray(part) for part in mae.random_mask(noise, ratio))
    count = int(49 * (1 - ratio))
    assert kept.shape == (5, count)
    assert mask.dtype == np.float32
    for row in range(5):
        assert set(kept[row]) == set(np.argsort(noise[row])[:count])
        assert (np.diff(noise[row][kept[row]]) > 0).all()
        assert mask[row].sum() == 49 - count
        assert (mask[row][kept[row]] == 0).all()
        # Tokens sorted by noise, taken by `restore`, are in place again.
        np.testing.assert_array_equal(np.sort(noise[row])[restore[row]], noise[row])
        np.testing.assert_array_equal(restore[row][kept[row]], np.arange(count))


def test_of_equal_noise_the_first_patches_stay():
    kept, restore, mask = mae.random_mask(np.zeros((2, 16), np.float32), 0.75)
    np.testing.assert_array_equal(kept, [[0, 1, 2, 3]] * 2)
    np.testing.assert_array_equal(restore, [range(16)] * 2)
    np.testing.assert_array_equal(mask, [[0] * 4 + [1] * 12] * 2)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, 0.95, float("nan")])
def test_a_ratio_that_hides_nothing_or_everything_is_named(params, images, noise, ratio):
    with pytest.raises(FerJaxError, match=f"mask_ratio={ratio} .* 16 patches"):
        mae.apply(mae.build(MODEL), params, images, noise, mask_ratio=ratio)


def test_noise_of_another_size_is_named(params, images, noise):
    with pytest.raises(FerJaxError, match=r"noise of shape \(2, 15\).*16 patches"):
        mae.apply(mae.build(MODEL), params, images, noise[:, :15])


def test_patches_are_rows_columns_channels_and_go_back():
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    patches = mae.patchify(images, 4)
    assert patches.shape == (2, 9, 48)
    # Patch 5 is row 1, column 2; value 4 * 3 * 2 + 3 * 3 + 1 is its pixel (2, 3), channel 1.
    assert patches[1, 5, 4 * 3 * 2 + 3 * 3 + 1] == images[1, 4 + 2, 8 + 3, 1]
    np.testing.assert_array_equal(mae.unpatchify(patches, 4), images)
    with pytest.raises(FerJaxError, match=r"\(12, 12\) pixels .* patch_size=5"):
        mae.patchify(images, 5)
    with pytest.raises(FerJaxError, match=r"\(12, 8\) pixels must be square"):
        mae.patchify(images[:, :, :8], 4)
    with pytest.raises(FerJaxError, match="square number of vectors of 48 values"):
        mae.unpatchify(patches[:, :8], 4)
    with pytest.raises(FerJaxError, match="vectors of 192 values"):
        mae.unpatchify(patches, 8)


def test_the_loss_counts_hidden_patches_only(images, noise):
    mask = mae.random_mask(noise, 0.75)[2]
    prediction = jnp.zeros((2, 16, 192))
    gradient = jax.grad(mae.reconstruction_loss)(prediction, images, mask, 8, True)
    reached = np.abs(gradient).sum(axis=-1) > 0
    np.testing.assert_array_equal(reached, mask == 1)
    one = np.zeros((2, 16), np.float32)
    one[1, 3] = 1
    expected = np.square(images[1, :8, 24:]).mean()
    np.testing.assert_allclose(
        mae.reconstruction_loss(prediction, images, one, 8, False), expected, rtol=1e-6
    )


def test_hidden_pixels_never_reach_the_encoder(params, images, noise):
    @jax.jit
    def outputs(images):
        out = mae.apply(mae.build(MODEL), params, images, noise)
        return out.latent, out.prediction

    mask = np.asarray(mae.random_mask(noise, 0.75)[2])
    hidden = np.asarray(mae.unpatchify(np.repeat(mask[:, :, None], 192, axis=2), 8))
    for ours, theirs in zip(outputs(images), outputs(images + 9 * hidden), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(outputs(images), outputs(images + 9 * (1 - hidden)), strict=True):
        assert np.abs(ours - theirs).max() > 0.01


def test_one_row_of_noise_and_one_image(images, noise):
    masks = mae.random_mask(noise, 0.75)
    one = mae.random_mask(noise[1], 0.75)
    each = jax.vmap(lambda row: mae.random_mask(row, 0.75))(noise)
    for all_rows, row, mapped in zip(masks, one, each, strict=True):
        np.testing.assert_array_equal(row, all_rows[1])
        np.testing.assert_array_equal(mapped, all_rows)
    patches = mae.patchify(images, 8)
    np.testing.assert_array_equal(mae.patchify(images[1], 8), patches[1])
    np.testing.assert_array_equal(mae.unpatchify(patches[1], 8), images[1])
    twice = np.stack([images, 2 * images])
    np.testing.assert_array_equal(mae.patchify(twice, 8), np.stack([patches, 2 * patches]))
    np.testing.assert_array_equal(mae.unpatchify(mae.patchify(twice, 8), 8), twice)
    loss = functools.partial(mae.reconstruction_loss, patch_size=8, norm_pix=True)
    given = np.zeros_like(patches), images, masks[2]
    alone = [loss(*(x[i] for x in given)) for i in range(2)]
    np.testing.assert_array_equal(alone, [loss(*(x[i : i + 1] for x in given)) for i in range(2)])
    # float32 sums in another order: measured 1.5e-7.
    np.testing.assert_allclose(jax.vmap(loss)(*given), alone, rtol=1e-6)


def test_one_image_is_a_batch_of_one(params, images, noise):
    run = functools.partial(mae.apply, mae.build(MODEL), params, intermediates=True)
    run = jax.jit(run)
    one, lone = run(images[1], noise[1]), run(images[1:], noise[1:])
    assert one.features.keys() == lone.features.keys()
    expected = {name: x[:, 0] if "blocks" in name else x[0] for name, x in lone.features.items()}
    jax.tree.map(np.testing.assert_array_equal, one.features, expected)
    np.testing.assert_array_equal(one.loss, lone.loss)
    for found, of_batch in zip(one[1:4], lone[1:4], strict=True):
        np.testing.assert_array_equal(found, of_batch[0])


@pytest.fixture(scope="module")
def value_and_gradient(params, images, noise):
    @functools.partial(jax.jit, static_argnames="config")
    def run(config):
        def loss(params):
            out = mae.apply(mae.build(config), params, images, noise)
            return out.loss, out

        (_, out), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return out, gradient

    return run


def test_gradients_reach_everything_but_the_fixed_positions(value_and_gradient):
    _, gradient = value_and_gradient(MODEL)
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), gradient))
    unreached = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree.leaves_with_path(gradient)
        if not leaf.any()
    }
    assert unreached == {"encoder/pos_embed", "decoder/pos_embed"}
    # Every block too, not only some of a stack.
    for half in ("encoder", "decoder"):
        for leaf in jax.tree.leaves(gradient[half]["blocks"]):
            assert leaf.any(axis=tuple(range(1, leaf.ndim))).all()


def test_scanned_and_unrolled_blocks_agree(value_and_gradient):
    out, gradient = value_and_gradient(MODEL)
    other, other_gradient = value_and_gradient(replaced(MODEL, scan_layers=False))
    # Measured: 1.2e-7 and 1.6e-7 of the norm; float32 sums in another order.
    np.testing.assert_allclose(other.loss, out.loss, rtol=2e-6)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    for ours, theirs in zip(
        jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * norm)


def test_compute_in_bfloat16_and_loss_in_float32(value_and_gradient):
    exact, gradient = value_and_gradient(MODEL)
    out, rounded = value_and_gradient(replaced(MODEL, dtype="bfloat16"))
    assert out.latent.dtype == jnp.bfloat16
    assert out.prediction.dtype == out.loss.dtype == out.mask.dtype == jnp.float32
    # bfloat16 carries 8 bits: measured 0.2 % of the loss and up to 4 % of a leaf's gradient.
    np.testing.assert_allclose(out.loss, exact.loss, rtol=1e-2)
    assert out.loss != exact.loss
    for ours, theirs in zip(jax.tree.leaves(rounded), jax.tree.leaves(gradient), strict=True):
        assert ours.dtype == jnp.float32
        assert np.linalg.norm(ours - theirs) <= 0.1 * np.linalg.norm(theirs)


def test_intermediates_and_the_encoder_as_a_vit(params, images, noise):
    out = mae.apply(mae.build(MODEL), params, images, noise, intermediates=True)
    assert {name: value.shape for name, value in out.features.items()} == {
        "patch_embed": (2, 16, 32),
        "embed": (2, 5, 32),
        "blocks": (2, 2, 5, 32),
        "decoder_embed": (2, 17, 16),
        "decoder_blocks": (3, 2, 17, 16),
    }
    assert mae.apply(mae.build(MODEL), params, images, noise).features == {}
    # Fine-tuning's model takes the encoder as it is, and sees the same tokens where MAE saw them.
    _, features = vit.apply(vit.build(MODEL.encoder), params["encoder"], images, intermediates=True)
    np.testing.assert_array_equal(features["patch_embed"], out.features["patch_embed"])
    kept = np.asarray(mae.random_mask(noise, 0.75)[0])
    rows = np.concatenate([np.zeros((2, 1), int), 1 + kept], axis=1)
    seen = np.take_along_axis(np.asarray(features["embed"]), rows[:, :, None], axis=1)
    np.testing.assert_array_equal(out.features["embed"], seen)
    assert features["norm"].shape == (2, 17, 32)


def test_stochastic_depth_acts_in_training_only(params, images, noise):
    config = replaced(MODEL, drop_path=0.9)
    assert config.decoder.drop_path == 0
    graphdef = mae.build(config)
    plain = mae.apply(mae.build(MODEL), params, images, noise).loss
    still = mae.apply(graphdef, params, images, noise).loss
    moved = mae.apply(graphdef, params, images, noise, key=jax.random.key(0)).loss
    assert still == plain != moved


def test_parameter_counts_of_mae_base():
    config = MAEConfig(vit.vit_config("base"))
    shapes = jax.eval_shape(lambda: mae.init(config, jax.random.key(0)))
    assert vit.parameter_count(shapes) == 111_907_840
    assert vit.parameter_count(shapes["encoder"]) == 85_798_656
    alone = jax.eval_shape(lambda: vit.init(config.encoder, jax.random.key(0)))
    assert jax.tree.structure(shapes["encoder"]) == jax.tree.structure(alone)
    assert jax.tree.leaves(shapes["encoder"]) == jax.tree.leaves(alone)


def test_the_tree_is_the_one_that_is_documented(params):
    shapes = jax.eval_shape(lambda: mae.init(MODEL, jax.random.key(0)))
    found = jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert found == jax.tree.map(np.shape, params)
    narrow = dataclasses.replace(MODEL, decoder_mlp_ratio=2.0)
    shapes = jax.eval_shape(lambda: mae.init(narrow, jax.random.key(0)))
    assert shapes["decoder"]["blocks"]["mlp"]["fc1"]["kernel"].shape == (3, 16, 32)
    assert shapes["encoder"]["blocks"]["mlp"]["fc1"]["kernel"].shape == (2, 32, 128)


def test_fresh_parameters_are_those_of_mae():
    config = MAEConfig(
        ViTConfig(image_size=32, patch_size=8, width=192, depth=2, num_heads=4),
        decoder_width=128,
        decoder_depth=1,
    )
    params = jax.jit(mae.init, static_argnums=0)(config, jax.random.key(0))
    for half, width, token in (("encoder", 192, "cls_token"), ("decoder", 128, "mask_token")):
        tree = params[half]
        np.testing.assert_array_equal(tree["pos_embed"], sincos_positions(width, 4))
        assert 0.015 < tree[token].std() < 0.025  # 128 draws: 4 standard deviations
        bound = np.sqrt(6 / (width + 4 * width))
        for block in tree["blocks"]["mlp"]["fc1"]["kernel"]:
            assert 0.99 * bound < np.abs(block).max() <= bound
        np.testing.assert_array_equal(tree["blocks"]["mlp"]["fc1"]["bias"], 0)
        np.testing.assert_array_equal(tree["norm"]["scale"], 1)
    for inputs, outputs, leaf in (
        (192, 192, params["encoder"]["patch_embed"]["kernel"]),
        (192, 128, params["decoder"]["embed"]["kernel"]),
        (128, 192, params["decoder"]["pred"]["kernel"]),
    ):
        bound = np.sqrt(6 / (inputs + outputs))
        assert 0.99 * bound < np.abs(leaf).max() <= bound


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "avg"}, "encoder.pool='avg' must be 'cls'"),
        ({"num_classes": 8}, "encoder.num_classes=8 must be 0"),
        ({"layer_scale": True}, "encoder.layer_scale=True must be False"),
        ({"width": 30, "num_heads": 3}, "encoder.width=30 must be a multiple of 4"),
        ({"decoder_num_heads": 3}, "decoder_num_heads=3 must divide decoder_width=16"),
        ({"decoder_width": 18}, "decoder_width=18 must be a multiple of 4"),
    ],
)
def test_impossible_configurations_are_named(fields, message):
    own = {name: value for name, value in fields.items() if name.startswith("decoder")}
    encoder = {name: value for name, value in fields.items() if name not in own}
    with pytest.raises(FerJaxError, match=message):
        dataclasses.replace(replaced(MODEL, **encoder), **own)
