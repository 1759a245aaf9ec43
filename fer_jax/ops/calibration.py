"""How far probabilities can be believed: calibration error, and scaling that makes it smaller."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from fer_jax.errors import FerJaxError
from fer_jax.ops.losses import weighted_cross_entropy

BIN_SCHEMES = ("width", "mass")
CALIBRATIONS = ("temperature", "vector")

# Host arrays are as welcome as device arrays, and as the scalars that numpy takes out of them.
_Array = Array | np.ndarray | np.generic
_Parameters = dict[str, Array]


def confidence_bins(
    confidence: Float[_Array, "*rows"],
    *,
    bins: int = 15,
    scheme: str = "width",
    mask: Bool[_Array, "*rows"] | None = None,
) -> Int32[Array, "*rows"]:
    """The bin of each confidence, from 0.

    Args:
        confidence: in [0, 1]; any number of axes, none for one row.
        bins: how many, a Python number.
        scheme: `width`: bin i holds (i / bins, (i + 1) / bins]; `mass`: as nearly as equal
            confidences allow, each bin holds as many rows.
        mask: False leaves a row out: its bin is -1.

    Returns:
        The bins.

    Raises:
        FerJaxError: an unknown scheme, or no bin.

    Example:
        >>> confidence = jnp.array([0.1, 0.9, 0.95, 1.0])
        >>> confidence_bins(confidence, bins=2).tolist()
        [0, 1, 1, 1]
        >>> confidence_bins(confidence, bins=2, scheme="mass").tolist()
        [0, 0, 1, 1]
    """
    if scheme not in BIN_SCHEMES:
        raise FerJaxError(f"no bins {scheme!r}; one of {', '.join(BIN_SCHEMES)}")
    if bins < 1:
        raise FerJaxError(f"{bins=} must be 1 or more")
    confidence = jnp.asarray(confidence)
    used = jnp.ones(confidence.shape, bool) if mask is None else jnp.asarray(mask)
    if scheme == "width":
        found = jnp.ceil(confidence * bins).astype(jnp.int32) - 1
    else:
        # Equal confidences share the rank of the first of them: the order of rows is nothing.
        known = jnp.sort(jnp.where(used, confidence, jnp.inf), axis=None)
        rank = jnp.searchsorted(known, confidence, side="left")
        found = (rank * (bins / jnp.maximum(used.sum(), 1))).astype(jnp.int32)
    return jnp.where(used, jnp.clip(found, 0, bins - 1), -1)


def expected_calibration_error(
    probabilities: Float[_Array, "*rows class"],
    labels: Int[_Array, "*rows"],
    *,
    bins: int = 15,
    scheme: str = "width",
    mask: Bool[_Array, "*rows"] | None = None,
) -> Float32[Array, ""]:
    r"""How far the confidence of the chosen class is from how often it is right.

    .. math:: \sum_b \frac{n_b}{n} \left| \mathrm{right}_b - \mathrm{confidence}_b \right|

    over bins of rows by their largest probability.

    Args:
        probabilities: rows that add up to 1; one row, or with leading axes.
        labels: -1 leaves a row out.
        bins: how many, a Python number.
        scheme: as for `confidence_bins`.
        mask: False leaves a row out.

    Returns:
        The error in [0, 1]; 0 where there is no row.

    Raises:
        FerJaxError: an unknown scheme, or no bin.

    Example:
        >>> sure = jnp.array([[0.9, 0.1], [0.9, 0.1]])
        >>> round(float(expected_calibration_error(sure, jnp.array([0, 1]))), 4)
        0.4

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3; bins of equal
        mass: Nixon et al., Measuring Calibration in Deep Learning, 2019.
    """
    probabilities, labels = jnp.asarray(probabilities), jnp.asarray(labels)
    used = labels >= 0 if mask is None else (labels >= 0) & jnp.asarray(mask)
    confidence = probabilities.max(axis=-1)
    right = (probabilities.argmax(axis=-1) == labels).astype(jnp.float32)
    found = confidence_bins(confidence, bins=bins, scheme=scheme, mask=used).reshape(-1)
    # A reduction over the rows, which shards; the bin -1 of rows left out is none of them.
    member = (found[:, None] == jnp.arange(bins)[None, :]).astype(jnp.float32)
    gaps = jnp.abs((member * (right - confidence).reshape(-1)[:, None]).sum(axis=0))
    return gaps.sum() / jnp.maximum(used.sum(), 1)


def fit_calibration(
    kind: str,
    logits: Float[_Array, "*rows class"],
    labels: Int[_Array, "*rows"],
    *,
    mask: Bool[_Array, "*rows"] | None = None,
    steps: int = 200,
) -> _Parameters:
    """Fits the scaling of logits with the least cross-entropy, by L-BFGS; jits.

    Args:
        kind: `temperature` (logits over one number) or `vector` (each class its own factor and
            offset), a Python string.
        logits: or logarithms of probabilities; for `vector` the two are not the same.
        labels: -1 leaves a row out.
        mask: False leaves a row out.
        steps: at most; it ends earlier where the gradient vanishes.

    Returns:
        `{"temperature": ()}`, or `{"scale": (class,), "offset": (class,)}` with offsets that add
        up to 0, float32.

    Raises:
        FerJaxError: an unknown kind.

    Example:
        >>> logits = jnp.array([[4.0, 0.0]] * 10)
        >>> found = fit_calibration("temperature", logits, jnp.array([0] * 8 + [1] * 2))
        >>> round(float(found["temperature"]), 3)  # 4 / log(8 / 2)
        2.885

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    if kind not in CALIBRATIONS:
        raise FerJaxError(f"no calibration {kind!r}; one of {', '.join(CALIBRATIONS)}")
    logits = jnp.asarray(logits, jnp.float32)
    classes = logits.shape[-1]
    if kind == "temperature":
        # Of the inverse temperature the loss is convex; its logarithm keeps it above 0.
        start = {"log_inverse": jnp.zeros(())}
    else:
        start = {"scale": jnp.ones(classes), "offset": jnp.zeros(classes)}

    def loss(parameters: _Parameters) -> Float32[Array, ""]:
        total, count = weighted_cross_entropy(
            _scaled(logits, _named(parameters)), labels, mask=mask
        )
        return total / count

    return _named(_minimized(loss, start, steps))


def apply_calibration(
    logits: Float[_Array, "*rows class"], parameters: Mapping[str, _Array | float]
) -> Float32[Array, "*rows class"]:
    """Scales logits as fitted; the softmax of the result is calibrated.

    Args:
        logits: what it was fitted on: logits, or logarithms of probabilities; one row, or with
            leading axes.
        parameters: from `fit_calibration`.

    Returns:
        Scaled logits. A temperature leaves every choice as it is, a vector may change it.

    Example:
        >>> apply_calibration(jnp.array([[2.0, 1.0]]), {"temperature": 2.0}).tolist()
        [[1.0, 0.5]]
        >>> apply_calibration(jnp.array([2.0, 1.0]), {"temperature": 2.0}).tolist()  # one row
        [1.0, 0.5]
    """
    return _scaled(jnp.asarray(logits, jnp.float32), parameters)


def _scaled(logits: Array, parameters: Mapping[str, _Array | float]) -> Array:
    if "temperature" in parameters:
        return logits / parameters["temperature"]
    shape = (*[1] * (logits.ndim - 1), -1)
    scale, offset = (
        jnp.asarray(parameters[name], jnp.float32).reshape(shape) for name in ("scale", "offset")
    )
    return logits * scale + offset


def _named(parameters: _Parameters) -> _Parameters:
    if "log_inverse" in parameters:
        return {"temperature": jnp.exp(-parameters["log_inverse"])}
    offset = parameters["offset"]
    return {"scale": parameters["scale"], "offset": offset - offset.mean()}


def _minimized(loss, start: _Parameters, steps: int) -> _Parameters:
    import optax  # whoever only measures does not wait for it

    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def going_on(carry):
        _, _, count, norm = carry
        return (count < steps) & (norm > 1e-6)

    def step(carry):
        parameters, state, count, _ = carry
        value, gradient = value_and_gradient(parameters, state=state)
        updates, state = optimizer.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=loss
        )
        norm = optax.tree.norm(gradient)
        return optax.apply_updates(parameters, updates), state, count + 1, norm

    carry = (start, optimizer.init(start), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf))
    return jax.lax.while_loop(going_on, step, carry)[0]
