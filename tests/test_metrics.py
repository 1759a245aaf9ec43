"""Against scikit-learn, with equality and not tolerance: both divide the same integers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.ops.metrics import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    f1_by_class,
    scores,
)

CLASSES = 8


def _draw(seed: int, samples: int = 500):
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, samples, p=rng.dirichlet(np.ones(CLASSES)))
    wrong = rng.random(samples) < 0.5
    return labels, np.where(wrong, rng.integers(0, CLASSES, samples), labels)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed):
    labels, predictions = _draw(seed)
    every = list(range(CLASSES))
    matrix = jax.jit(confusion_matrix, static_argnums=2)(labels, predictions, CLASSES)
    assert matrix.dtype == jnp.int32
    expected = sklearn.metrics.confusion_matrix(labels, predictions, labels=every)
    np.testing.assert_array_equal(matrix, expected)

    found = scores(matrix)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=every, zero_division=0
    )
    np.testing.assert_array_equal(found.precision, precision)
    np.testing.assert_array_equal(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1, rtol=4e-16)  # sklearn goes by way of P and R
    np.testing.assert_array_equal(found.support, support)
    assert found.accuracy == sklearn.metrics.accuracy_score(labels, predictions)
    assert found.macro_f1 == pytest.approx(
        sklearn.metrics.f1_score(
            labels, predictions, labels=every, average="macro", zero_division=0
        ),
        rel=4e-16,
    )
    assert found.balanced_accuracy == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, predictions), rel=4e-16
    )


def test_absent_class_counts_as_zero_in_macro_f1():
    labels = predictions = np.array([0, 1, 2, 3])
    found = scores(confusion_matrix(labels, predictions, 5))
    assert found.macro_f1 == pytest.approx(0.8)
    assert found.balanced_accuracy == 1.0
    assert found.f1[4] == found.precision[4] == found.recall[4] == 0.0


def test_no_sample_gives_nan_and_no_warning():
    found = scores(np.zeros((3, 3), int))
    assert np.isnan(found.accuracy)
    assert np.isnan(found.balanced_accuracy)
    assert found.macro_f1 == 0.0


def test_unlabelled_and_masked_rows_do_not_count():
    labels, predictions = _draw(1, 64)
    mask = np.random.default_rng(2).random(64) < 0.7
    hidden = np.where(np.arange(64) % 5 == 0, -1, labels)
    keep = mask & (hidden >= 0)
    expected = sklearn.metrics.confusion_matrix(
        labels[keep], predictions[keep], labels=range(CLASSES)
    )
    for form in (mask, mask.astype(np.float32)):
        np.testing.assert_array_equal(
            confusion_matrix(hidden, predictions, CLASSES, form), expected
        )


def test_same_over_eight_devices():
    labels, predictions = _draw(3, 512)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(confusion_matrix, static_argnums=2)(
        jax.device_put(labels, rows), jax.device_put(predictions, rows), CLASSES
    )
    np.testing.assert_array_equal(sharded, confusion_matrix(labels, predictions, CLASSES))


def test_stack_of_matrices_is_scored_like_each():
    stack = np.random.default_rng(4).integers(0, 9, (6, CLASSES, CLASSES))
    stack[0, 2] = 0
    each = [scores(one) for one in stack]
    np.testing.assert_array_equal(f1_by_class(stack), [one.f1 for one in each])
    np.testing.assert_array_equal(accuracy(stack), [one.accuracy for one in each])
    np.testing.assert_array_equal(balanced_accuracy(stack), [one.balanced_accuracy for one in each])


@settings(deadline=None, max_examples=50)
@given(st.permutations(range(4)), st.lists(st.integers(0, 20), min_size=16, max_size=16))
def test_scores_do_not_depend_on_the_order_of_classes(order, cells):
    matrix = np.reshape(cells, (4, 4))
    found, permuted = scores(matrix), scores(matrix[np.ix_(order, order)])
    np.testing.assert_array_equal(permuted.f1, found.f1[list(order)])
    np.testing.assert_allclose(permuted.macro_f1, found.macro_f1, rtol=1e-15)
    assert permuted.accuracy == found.accuracy or np.isnan(found.accuracy)


def test_one_sample_and_more_axes():
    labels, predictions = (jnp.asarray(x).at[5].set(-1) for x in _draw(5, 60))
    whole = confusion_matrix(labels, predictions, CLASSES)
    one = functools.partial(confusion_matrix, num_classes=CLASSES)
    for i in (0, 5):
        expected = confusion_matrix(labels[i : i + 1], predictions[i : i + 1], CLASSES)
        np.testing.assert_array_equal(one(labels[i], predictions[i]), expected)
    np.testing.assert_array_equal(jax.vmap(one)(labels, predictions).sum(axis=0), whole)
    np.testing.assert_array_equal(one(labels[0], predictions[0], mask=jnp.array(False)), 0)
    np.testing.assert_array_equal(
        one(np.array([1])[0], np.array([2])[0]), one(*np.array([[1], [2]]))
    )
    folded = (x.reshape(3, 20) for x in (labels, predictions, jnp.ones(60)))
    np.testing.assert_array_equal(confusion_matrix(*list(folded)[:2], CLASSES), whole)


def test_arrays_of_different_shapes_are_named(annotations_off):
    labels = jnp.zeros((2, 3), int)
    with pytest.raises(FerJaxError, match=r"\(2, 3\), predictions \(3, 2\) and the mask None"):
        confusion_matrix(labels, labels.T, 2)
    with pytest.raises(FerJaxError, match=r"the mask \(6,\); give one shape"):
        confusion_matrix(labels, labels, 2, jnp.ones(6))
