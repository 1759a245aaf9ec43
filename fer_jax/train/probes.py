"""What frozen features are worth: nearest neighbours and a linear classifier, on the host."""

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

from fer_jax.errors import FerJaxError

_NEIGHBOURS = 20
_TEMPERATURE = 0.07  # of the votes, as in DINO's evaluation
_ROWS = 1024  # queries compared at once


def nearest_neighbours(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    queries: Float[np.ndarray, "m d"],
    *,
    neighbours: int = _NEIGHBOURS,
    temperature: float = _TEMPERATURE,
) -> Int[np.ndarray, "m"]:
    """Names each query by the votes of the nearest features.

    A neighbour of cosine similarity s has exp(s / temperature) votes for its label.

    Args:
        features: of faces whose labels are known.
        labels: theirs, not negative.
        queries: features of faces to name.
        neighbours: how many vote; all, where there are fewer.
        temperature: the lower, the more the nearest ones decide.

    Returns:
        A label for each query, the lowest of those with equally many votes.

    Raises:
        FerJaxError: no feature is known.

    Example:
        >>> known, labels = np.array([[1.0, 0], [0, 1]]), np.array([3, 5])
        >>> nearest_neighbours(known, labels, np.array([[2.0, 1]]), neighbours=1).tolist()
        [3]

    Source: Wu et al. 2018, arXiv 1805.01978, section 3.4.
    """
    if not len(features):
        raise FerJaxError("nearest neighbours need at least one feature with a label")
    known = _unit(features)
    neighbours = min(neighbours, len(known))
    found = np.empty(len(queries), np.int64)
    for first in range(0, len(queries), _ROWS):
        similar = _unit(queries[first : first + _ROWS]) @ known.T
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :neighbours]
        closeness = np.take_along_axis(similar, nearest, axis=1)
        votes = np.zeros((len(similar), int(labels.max()) + 1))
        rows = np.arange(len(similar))[:, None]
        np.add.at(votes, (rows, labels[nearest]), np.exp((closeness - 1) / temperature))
        found[first : first + _ROWS] = votes.argmax(axis=1)
    return found


def linear_probe(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    queries: Float[np.ndarray, "m d"],
    *,
    penalty: float = 1e-3,
) -> Int[np.ndarray, "m"]:
    r"""Names each query by multinomial logistic regression on the features.

    Features are centred and scaled by their deviations over the known ones; then the minimum of

    .. math:: \frac{1}{n} \sum_i -\log p_{y_i}(x_i) + \frac{\lambda}{2} \lVert W \rVert^2

    over weights W and biases is found by L-BFGS, in float64.

    Args:
        features: of faces whose labels are known.
        labels: theirs, not negative, of two classes at least.
        queries: features of faces to name.
        penalty: lambda; the biases are free.

    Returns:
        The most probable label of each query.

    Raises:
        FerJaxError: the labels are all alike.

    Example:
        >>> known, labels = np.array([[1.0], [2], [3], [4]]), np.array([0, 0, 2, 2])
        >>> linear_probe(known, labels, np.array([[0.0], [5]])).tolist()
        [0, 2]
    """
    classes, number = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise FerJaxError("a linear probe needs labels of two classes at least")
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    known = (features - mean) / deviation
    wanted = np.eye(len(classes))[number]
    width = features.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(width + 1, -1)
        logged = _log_softmax(known @ weights[:-1] + weights[-1])
        slope = (np.exp(logged) - wanted) / len(known)
        gradient = np.concatenate([known.T @ slope + penalty * weights[:-1], slope.sum(0)[None]])
        value = -(wanted * logged).sum() / len(known) + penalty / 2 * (weights[:-1] ** 2).sum()
        return value, gradient.ravel()

    start = np.zeros((width + 1) * len(classes))
    options = {"maxiter": 500, "maxcor": 20}
    best = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    weights = best.reshape(width + 1, -1)
    scores = (queries - mean) / deviation @ weights[:-1] + weights[-1]
    return classes[scores.argmax(axis=1)]


def _unit(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
