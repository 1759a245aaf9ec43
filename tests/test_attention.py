"""Against the definition in float64 numpy, and against jax.grad of the one with all scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.ops.attention import scalar_attention


def _definition(query, key, value):
    """All scores at once, in float64."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    scores = query[:, :, None] * key[:, None, :]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights * value[:, None, :]).sum(-1) / weights.sum(-1)


def _naive(query, key, value):
    weights = jax.nn.softmax(query[:, :, None] * key[:, None, :], axis=-1)
    return (weights * value[:, None, :]).sum(-1)


def _draw(batch, n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(0, 1, (4, batch, n)).astype(np.float32)
    return scale * arrays[0], scale * arrays[1], arrays[2], arrays[3]


@jax.jit
def _with_gradients(query, key, value, gradient):
    output, backward = jax.vjp(scalar_attention, query, key, value)
    return output, backward(gradient)


@jax.jit
def _naive_gradients(query, key, value, gradient):
    return jax.vjp(_naive, query, key, value)[1](gradient)


# Rounding, as a share of the largest element. Measured over these cases: outputs 1.2e-6, gradients
# 1.7e-6; the naive float32 form has 4.7e-6 and 9.2e-6.
TOLERANCE = 5e-6


def _assert_close(found, expected, tolerance=TOLERANCE):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(
    ("batch", "n", "block"), [(8, 1024, 8), (3, 300, 4), (3, 37, 4), (2, 5, 8), (1, 1, 4)]
)
def test_equals_the_definition(batch, n, block, scale):
    query, key, value, _ = _draw(batch, n, scale=scale)
    found = jax.jit(scalar_attention, static_argnames="block")(query, key, value, block=block)
    assert found.dtype == jnp.float32
    _assert_close(found, _definition(query, key, value))


@pytest.mark.parametrize("n", [64, 61, 300])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_gradients_equal_those_of_the_naive_form(n, scale):
    arrays = _draw(4, n, scale=scale)
    for found, expected in zip(_with_gradients(*arrays)[1], _naive_gradients(*arrays), strict=True):
        # Measured 1.2e-6: two float32 results.
        _assert_close(found, expected)


def test_gradients_equal_finite_differences_of_the_definition():
    query, key, value, gradient = _draw(2, 9, scale=2.0)
    inputs = [np.asarray(array, np.float64) for array in (query, key, value)]
    _, gradients = _with_gradients(query, key, value, gradient)
    for position, found in enumerate(gradients):
        expected = np.zeros_like(inputs[position])
        for index in np.ndindex(expected.shape):
            for sign in (1, -1):
                moved = [array.copy() for array in inputs]
                moved[position][index] += sign * 1e-5
                expected[index] += sign * (_definition(*moved) * gradient).sum() / 2e-5
        _assert_close(found, expected)


def test_large_offsets_cost_no_digits():
    """Where the naive form loses some: a covariance of numbers far from zero."""
    query, key, value, gradient = _draw(8, 256)
    key, value = key + 500, value + 50
    found, gradients = _with_gradients(query, key, value, gradient)
    _assert_close(found, _definition(query, key, value), 2e-7)
    with jax.enable_x64(True):
        exact = _naive_gradients(*(x.astype(np.float64) for x in (query, key, value, gradient)))
    for ours, theirs in zip(gradients, exact, strict=True):
        _assert_close(ours, theirs)


def _floats(bound):
    return st.floats(-bound, bound, width=32)


# Few shapes, as each is compiled: below, at and above one block, and not a multiple of it.
_samples = st.sampled_from([(1, 1), (2, 4), (3, 11)]).flatmap(
    lambda shape: hnp.arrays(np.float32, (3, *shape), elements=_floats(10))
)
_attend = jax.jit(scalar_attention, static_argnames="block")


@settings(deadline=None, max_examples=30)
@given(_samples, st.sampled_from([1, 3, 4]))
def test_any_shape_and_block(arrays, block):
    expected = _definition(*arrays)
    found = _attend(*arrays, block=block)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(_samples, _floats(1e6))
def test_constant_values_come_out(arrays, constant):
    query, key, _ = arrays
    found = _attend(query, key, np.full_like(query, constant))
    # XLA on a CPU takes numbers below float32's smallest normal one for zero.
    tiny = np.finfo(np.float32).tiny
    np.testing.assert_allclose(found, np.full_like(query, constant), rtol=3e-7, atol=tiny)


@settings(deadline=None, max_examples=20)
@given(_samples, st.randoms(use_true_random=False))
def test_order_of_the_keys_changes_nothing(arrays, random):
    query, key, value = arrays
    order = list(range(key.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(
        _attend(query, key[:, order], value[:, order]),
        _attend(query, key, value),
        atol=1e-5,
        rtol=0,
    )


@settings(deadline=None, max_examples=20)
@given(_samples, _floats(10))
def test_output_lies_among_the_values_and_key_offsets_cancel(arrays, offset):
    query, key, value = arrays
    found = _attend(query, key, value)
    assert (found >= value.min(-1, keepdims=True) - 1e-5).all()
    assert (found <= value.max(-1, keepdims=True) + 1e-5).all()
    # q (k + c) adds the same number to a whole row of scores. The offset rounds the keys by 1e-6,
    # which queries and values of up to 10 and 20 turn into 1e-4.
    np.testing.assert_allclose(
        _attend(query, key + np.float32(offset), value), found, atol=5e-4, rtol=0
    )


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e15])
def test_extreme_scores_stay_finite_and_pick_one_value(scale):
    query, key, value, gradient = _draw(4, 65, scale=scale)
    query[0, :3], key[1] = 0, 0
    found, gradients = _with_gradients(query, key, value, gradient)
    expected = _definition(query, key, value)
    _assert_close(found, expected)
    for array in gradients:
        assert np.isfinite(array).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    query, key, value, gradient = (jnp.asarray(array, dtype) for array in _draw(4, 300))
    found, gradients = _with_gradients(query, key, value, gradient)
    assert found.dtype == dtype
    # One rounding at the very end: equal to the rounded float32 result, to the bit.
    wide = (array.astype(jnp.float32) for array in (query, key, value, gradient))
    single, _ = _with_gradients(*wide)
    np.testing.assert_array_equal(found, single.astype(dtype))
    assert all(array.dtype == dtype for array in gradients)


def test_double_precision_stays():
    arrays = [x.astype(np.float64) for x in _draw(3, 50, scale=2.0)]
    with jax.enable_x64(True):
        found, gradients = _with_gradients(*arrays)
        expected = _naive_gradients(*arrays)
    assert found.dtype == jnp.float64
    _assert_close(found, _definition(*arrays[:3]), 1e-14)
    for ours, theirs in zip(gradients, expected, strict=True):
        _assert_close(ours, theirs, 1e-13)


def test_vmap_over_sets_of_samples():
    query, key, value, _ = (x.reshape(3, 2, 31) for x in _draw(6, 31))

    def loss(query, key, value):
        return (scalar_attention(query, key, value) ** 2).sum()

    for function in (scalar_attention, jax.grad(loss, (0, 1, 2))):
        found = jax.tree.leaves(jax.jit(jax.vmap(function))(query, key, value))
        one = jax.jit(function)
        for i in range(3):
            alone = jax.tree.leaves(one(query[i], key[i], value[i]))
            for ours, theirs in zip(found, alone, strict=True):
                _assert_close(ours[i], theirs, 1e-6)


def test_sharded_batch_needs_no_communication():
    arrays = _draw(16, 33)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(_with_gradients, in_shardings=rows, out_shardings=rows)
    compiled = sharded.lower(*arrays).compile()
    text = compiled.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    found = compiled(*(jax.device_put(array, rows) for array in arrays))
    whole = _with_gradients(*arrays)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        _assert_close(ours, theirs, 1e-6)


def test_memory_at_the_size_of_the_entry():
    """4 GiB if the scores were stored; compiled only, not run."""
    shape = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)

    def loss(query, key, value):
        return (scalar_attention(query, key, value) ** 2).sum()

    for function in (scalar_attention, jax.grad(loss, (0, 1, 2))):
        compiled = jax.jit(function).lower(shape, shape, shape).compile()
        # Measured: 14 MiB forward; with the gradients 26.
        assert compiled.memory_analysis().temp_size_in_bytes < 32 * 2**20


def test_block_below_one_is_refused():
    with pytest.raises(FerJaxError, match="block=0 must be at least 1; the default is 8"):
        scalar_attention(*_draw(1, 4)[:3], block=0)


def test_one_item_and_more_axes():
    arrays = [jnp.asarray(x) for x in _draw(6, 37)]
    output, gradients = _with_gradients(*arrays)
    one, one_gradients = _with_gradients(*(x[4] for x in arrays))
    lone = _with_gradients(*(x[4:5] for x in arrays))
    assert one.shape == (37,)
    for found, expected in zip([one, *one_gradients], jax.tree.leaves(lone), strict=True):
        np.testing.assert_array_equal(found, expected[0])
    each = jax.vmap(_with_gradients)(*arrays)
    folded = _with_gradients(*(x.reshape(2, 3, 37) for x in arrays))
    for found in (each, jax.tree.map(lambda x: x.reshape(6, 37), folded)):
        for ours, theirs in zip(
            jax.tree.leaves(found), jax.tree.leaves((output, gradients)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_arrays_of_different_shapes_are_named(annotations_off):
    query = jnp.zeros((2, 3, 4))
    with pytest.raises(FerJaxError, match=r"are \(2, 3, 4\), \(3, 2, 4\) and \(2, 3, 4\)"):
        scalar_attention(query, jnp.zeros((3, 2, 4)), query)
