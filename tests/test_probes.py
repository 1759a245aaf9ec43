"""Probes of frozen features against scikit-learn, and by hand."""

import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.train.probes import linear_probe, nearest_neighbours


@pytest.fixture(scope="module")
def faces():
    """Overlapping clouds of three labels, one of them unused, with features of unlike scales."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12))
    labels = rng.choice([0, 1, 3], 500)
    features = (centres[labels] + 1.2 * rng.normal(size=(500, 12))) * np.logspace(-2, 2, 12)
    return features[:300].astype(np.float32), labels[:300], features[300:].astype(np.float32)


def test_neighbours_equal_scikit_learn(faces):
    neighbors = pytest.importorskip("sklearn.neighbors")
    known, labels, queries = faces
    for number, temperature in ((1, 0.07), (20, 0.07), (20, 1.0), (1000, 0.3)):
        other = neighbors.KNeighborsClassifier(
            min(number, len(known)), metric="cosine", algorithm="brute",
            weights=lambda apart, t=temperature: np.exp(-apart / t),
        ).fit(known.astype(np.float64), labels)  # fmt: skip
        found = nearest_neighbours(
            known, labels, queries, neighbours=number, temperature=temperature
        )
        np.testing.assert_array_equal(found, other.predict(queries.astype(np.float64)))
        assert set(found) == {0, 1, 3}


def test_a_linear_probe_equals_scikit_learn(faces):
    linear = pytest.importorskip("sklearn.linear_model")
    known, labels, queries = faces
    mean, deviation = known.mean(axis=0, dtype=np.float64), known.std(axis=0)
    for penalty in (1e-3, 1e-1, 10.0):
        other = linear.LogisticRegression(
            C=1 / (penalty * len(known)), tol=1e-8, max_iter=5000
        ).fit((known - mean) / deviation, labels)
        found = linear_probe(known, labels, queries, penalty=penalty)
        expected = other.predict((queries - mean) / deviation)
        # A face on the border may fall to either side: none was seen to.
        assert (found == expected).mean() > 0.99, penalty
        assert set(found) <= {0, 1, 3}


def test_by_hand_and_in_blocks():
    """Two of three near neighbours say 5; a hundred far ones that say 2 weigh nothing."""
    known = np.array([[1, 0.1], [1, -0.1], [1, 0.0], *[[-1.0, 0.0]] * 100])
    labels = np.array([5, 5, 4, *[2] * 100])
    queries = np.tile(np.array([[3.0, 0.0]]), (2500, 1))
    assert set(nearest_neighbours(known, labels, queries, neighbours=103)) == {5}
    assert nearest_neighbours(known, labels, np.array([[-9.0, 1.0]])).tolist() == [2]


def test_a_feature_that_never_varies_does_no_harm():
    known = np.array([[1.0, 7], [2, 7], [3, 7], [4, 7]])
    named = linear_probe(known, np.array([1, 1, 0, 0]), np.array([[0.0, 7], [9, 7]]))
    assert named.tolist() == [1, 0]


def test_too_little_is_refused():
    nothing = np.zeros((0, 2))
    with pytest.raises(FerJaxError, match="at least one feature"):
        nearest_neighbours(nothing, np.zeros(0, int), np.zeros((1, 2)))
    with pytest.raises(FerJaxError, match="two classes"):
        linear_probe(np.zeros((3, 2)), np.array([1, 1, 1]), np.zeros((1, 2)))
