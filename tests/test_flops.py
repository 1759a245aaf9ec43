"""Operations counted in a program, against counts by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from fer_jax.bench.flops import count_flops
from fer_jax.errors import FerJaxError
from fer_jax.models import fusion, vit
from fer_jax.models.vit import ViTConfig


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def test_products_sums_and_functions():
    def layer(x, w, b):
        return jnp.tanh(x @ w + b[None]).sum()

    # 5 x 7 results of 3 multiply-adds; the bias; tanh; the sum of all.
    expected = 5 * 7 * (2 * 3 + 1 + 1 + 1)
    assert count_flops(layer, shape(5, 3), shape(3, 7), shape(7)) == expected
    assert count_flops(jax.jit(layer), shape(5, 3), shape(3, 7), shape(7)) == expected


def test_a_convolution_of_groups():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4,
        )  # fmt: skip

    # Depthwise: each of 6 x 6 x 4 results takes 9 multiply-adds.
    assert count_flops(convolve, shape(1, 8, 8, 4), shape(3, 3, 1, 4)) == 6 * 6 * 4 * 2 * 9


def test_loops_count_as_often_as_they_run():
    def looped(x, w):
        return jax.lax.fori_loop(0, 11, lambda i, x: x @ w, x)

    assert count_flops(looped, shape(2, 4), shape(4, 4)) == 11 * 2 * 2 * 4 * 4

    def unknown(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    with pytest.raises(FerJaxError, match="depend on data"):
        count_flops(unknown, shape(3))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_vit_has_the_operations_of_its_products(scan_layers):
    """Products by their formula; all else is under 3 in a hundred."""
    config = ViTConfig(
        image_size=32, patch_size=8, width=64, depth=2, num_heads=2, num_classes=8,
        scan_layers=scan_layers,
    )  # fmt: skip
    params = jax.eval_shape(lambda: vit.init(config, jax.random.key(0)))
    graph = vit.build(dataclasses.replace(config))
    found = count_flops(lambda p, x: vit.apply(graph, p, x)[0], params, shape(3, 32, 32, 3))
    n, d = 17, 64
    block = 2 * n * d * (4 * d + 8 * d) + 2 * 2 * n * n * d
    products = 3 * (2 * 16 * 8 * 8 * 3 * d + 2 * block + 2 * d * 8)
    assert products < found < 1.15 * products


def test_the_entrys_scores_are_counted_though_they_are_never_stored():
    """1,024 numbers that each look at 1,024: at least a product, an exponential and two sums."""
    config = fusion.fusion_config("entry", {"main": 768, "aux": 768}, 8)
    params = jax.eval_shape(lambda: fusion.init(config, jax.random.key(0)))
    found = count_flops(
        lambda p, a, b: fusion.apply(config, p, {"main": a, "aux": b})[0],
        params, shape(1, 768), shape(1, 768),
    )  # fmt: skip
    assert found > 2 * 4_000_000 + 4 * 1024 * 1024
