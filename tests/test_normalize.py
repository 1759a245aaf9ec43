"""Normalisation against float64, in numpy and in jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.ops.normalize import NORMALIZATIONS, normalize


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_host_and_device_agree_with_float64(name):
    mean, std = NORMALIZATIONS[name]
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    exact = (images / 255.0 - np.array(mean)[None, None, None]) / np.array(std)[None, None, None]
    host = normalize(images, mean, std)
    device = jax.jit(lambda x: normalize(x, mean, std))(jnp.asarray(images))
    assert isinstance(host, np.ndarray)
    assert host.dtype == device.dtype == np.float32
    # Values up to 2.7: float32 rounds by 1.2e-7 of them at each of three steps.
    np.testing.assert_allclose(host, exact, atol=1e-6)
    np.testing.assert_allclose(device, exact, atol=1e-6)


@pytest.mark.parametrize("xp", [np, jnp])
def test_one_image_and_more_axes(xp):
    images = xp.asarray(np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 3)).astype(np.uint8))
    mean, std = NORMALIZATIONS["imagenet"]
    found = normalize(images, mean, std)
    np.testing.assert_array_equal(normalize(images[1], mean, std), found[1])
    one = normalize(images[1, 2], mean, std)
    assert one.shape == (5, 4, 3)
    np.testing.assert_array_equal(one, found[1, 2])
    each = jax.vmap(lambda image: normalize(image, mean, std))(jnp.asarray(images[1]))
    np.testing.assert_array_equal(each, normalize(jnp.asarray(images[1]), mean, std))
