"""Calibration error against a plain loop; scaling against scipy, and against planted numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.ops.calibration import (
    BIN_SCHEMES,
    CALIBRATIONS,
    apply_calibration,
    confidence_bins,
    expected_calibration_error,
    fit_calibration,
)

ROWS, CLASSES = 400, 5


def _softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def sample():
    """Logits, and labels drawn from the softmax of half of them plus an offset."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (ROWS, CLASSES)).astype(np.float32)
    shares = _softmax(logits.astype(float) / 2 + [0.5, 0, 0, 0, -0.5])
    labels = np.array([rng.choice(CLASSES, p=row) for row in shares], np.int32)
    labels[::17] = -1
    return logits, labels


def _by_loop(probabilities, labels, bins, scheme):
    """Row after row, in float64."""
    rows = [
        (p.max(), p.argmax() == y) for p, y in zip(probabilities, labels, strict=True) if y >= 0
    ]
    ordered = sorted(confidence for confidence, _ in rows)
    members = [[] for _ in range(bins)]
    for confidence, right in rows:
        if scheme == "width":
            place = next(i for i in range(bins) if confidence <= np.float32((i + 1) / bins))
        else:
            place = ordered.index(confidence) * bins // len(rows)
        members[place].append((float(confidence), float(right)))
    gaps = [abs(sum(right - confidence for confidence, right in one)) for one in members]
    return sum(gaps) / len(rows), [len(one) for one in members]


@pytest.mark.parametrize("scheme", ["width", "mass"])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_error_equals_a_plain_loop(sample, scheme, bins):
    logits, labels = sample
    probabilities = _softmax(logits).astype(np.float32)
    probabilities[:40] = probabilities[40]  # ties
    expected, counts = _by_loop(probabilities, labels, bins, scheme)
    options = {"bins": bins, "scheme": scheme}
    error = functools.partial(expected_calibration_error, **options)
    np.testing.assert_allclose(jax.jit(error)(probabilities, labels), expected, atol=1e-6)
    confidence = probabilities.max(axis=1)
    found = np.asarray(confidence_bins(confidence, mask=labels >= 0, **options))
    assert np.bincount(found[found >= 0], minlength=bins).tolist() == counts
    assert ((found == -1) == (labels < 0)).all()
    order = np.random.default_rng(1).permutation(ROWS)
    np.testing.assert_allclose(error(probabilities[order], labels[order]), expected, atol=1e-6)


def test_sharded_and_vmapped_error(sample):
    logits, labels = sample
    probabilities = _softmax(logits).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    arguments = [jax.device_put(a, rows) for a in (probabilities, labels)]
    for scheme in ("width", "mass"):
        error = functools.partial(expected_calibration_error, scheme=scheme)
        whole = error(probabilities, labels)
        np.testing.assert_allclose(jax.jit(error)(*arguments), whole, atol=1e-6)
        two = jax.vmap(error)(np.stack([probabilities] * 2), np.stack([labels] * 2))
        np.testing.assert_allclose(two, [whole, whole], atol=1e-6)


def test_nobody_is_no_error_and_equal_bins_are_equal():
    probabilities = np.linspace(0.5, 1, 100)[:, None] * np.array([[1.0]])
    nobody = expected_calibration_error(probabilities, np.full(100, -1))
    assert nobody == 0
    found = confidence_bins(probabilities[:, 0], bins=10, scheme="mass")
    assert np.bincount(found).tolist() == [10] * 10
    assert confidence_bins(np.array([0.0, 1.0])).tolist() == [0, 14]


def _loss(logits, labels, scale, offset):
    p = _softmax(logits.astype(float) * scale + offset)
    return -np.log(p[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_fit_equals_scipys_minimum(sample, kind):
    logits, labels = sample
    used = labels >= 0
    known, truth = logits[used], labels[used]
    found = jax.jit(fit_calibration, static_argnums=0)(kind, logits, labels)
    if kind == "temperature":
        best = scipy.optimize.minimize_scalar(
            lambda t: _loss(known, truth, 1 / t, 0.0), bounds=(0.1, 20), method="bounded",
            options={"xatol": 1e-10},
        )  # fmt: skip
        # Measured 1e-5: the loss is flat at its minimum.
        np.testing.assert_allclose(found["temperature"], best.x, rtol=2e-4)
        assert 1.5 < best.x < 2.5  # planted: 2
    else:
        best = scipy.optimize.minimize(
            lambda x: _loss(known, truth, x[:CLASSES], x[CLASSES:]),
            np.concatenate([np.ones(CLASSES), np.zeros(CLASSES)]),
        )
        scale, offset = np.split(best.x, 2)
        np.testing.assert_allclose(found["scale"], scale, atol=2e-3)
        np.testing.assert_allclose(found["offset"], offset - offset.mean(), atol=2e-3)
        assert abs(np.sum(found["offset"])) < 1e-6
    scaled = _softmax(np.asarray(apply_calibration(logits, found), np.float64))[used]
    ours = -np.log(scaled[np.arange(len(truth)), truth]).mean()
    assert ours == pytest.approx(best.fun, abs=1e-6)


def test_scaling_makes_the_error_small(sample):
    logits, labels = sample
    before = expected_calibration_error(_softmax(logits), labels)
    found = fit_calibration("temperature", logits, labels, mask=labels >= 0)
    after = apply_calibration(logits, found)
    assert (np.argmax(after, axis=1) == logits.argmax(axis=1)).all()
    assert expected_calibration_error(_softmax(np.asarray(after)), labels) < before / 2


@pytest.mark.parametrize("kind", CALIBRATIONS)
def test_scaling_of_one_row(sample, kind):
    logits = jnp.asarray(sample[0])
    numbers = {"scale": jnp.linspace(0.5, 2, CLASSES), "offset": jnp.linspace(-1, 1, CLASSES)}
    numbers = {"temperature": 2.7} if kind == "temperature" else numbers
    scaled = apply_calibration(logits, numbers)
    one = apply_calibration(logits[7], numbers)
    assert one.shape == (CLASSES,)
    np.testing.assert_array_equal(one, scaled[7])
    each = jax.vmap(apply_calibration, (0, None))(logits, numbers)
    np.testing.assert_array_equal(each, scaled)


@pytest.mark.parametrize("scheme", BIN_SCHEMES)
def test_error_of_one_row_and_of_more_axes(sample, scheme):
    probabilities, labels = jnp.asarray(_softmax(sample[0])), jnp.asarray(sample[1])
    error = jax.jit(functools.partial(expected_calibration_error, scheme=scheme))
    rows = probabilities[:20], labels[:20]
    each = [error(*row) for row in zip(*rows, strict=True)]
    lone = [error(p[None], y[None]) for p, y in zip(*rows, strict=True)]
    np.testing.assert_array_equal(each, lone)
    np.testing.assert_array_equal(jax.vmap(error)(*rows), each)
    folded = error(probabilities.reshape(8, 50, CLASSES), labels.reshape(8, 50))
    assert folded == error(probabilities, labels)
    confidence = probabilities.max(axis=1)
    bins = functools.partial(confidence_bins, scheme=scheme)
    np.testing.assert_array_equal(bins(confidence.reshape(8, 50)), bins(confidence).reshape(8, 50))
    assert bins(confidence[3]) == bins(confidence[3:4])[0]


def test_fit_over_more_axes(sample):
    logits, labels = sample
    fit = jax.jit(functools.partial(fit_calibration, "vector", steps=5))
    folded = fit(logits.reshape(8, 50, CLASSES), labels.reshape(8, 50))
    for name, found in fit(logits, labels).items():
        # Two programs, measured 1e-6.
        np.testing.assert_allclose(folded[name], found, rtol=1e-5)


def test_what_cannot_be(sample):
    with pytest.raises(FerJaxError, match="no bins 'x'; one of width, mass"):
        confidence_bins(sample[0][:, 0], scheme="x")
    with pytest.raises(FerJaxError, match="bins=0 must be 1 or more"):
        confidence_bins(sample[0][:, 0], bins=0)
    with pytest.raises(FerJaxError, match="no calibration 'platt'; one of temperature, vector"):
        fit_calibration("platt", *sample)
