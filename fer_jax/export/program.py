"""A bundle's whole computation, faces in and probabilities out, as bytes that jax alone runs."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from fer_jax.bundle import Bundle, bundle_function, preprocess
from fer_jax.errors import FerJaxError
from fer_jax.golden import plain
from fer_jax.ops.calibration import apply_calibration

PLATFORMS = ("cpu", "tpu", "cuda")

# A file's lengths are of 32 bits with a sign, in flatbuffers as in XLA; the program takes the rest.
_MOST_BYTES = 2**31 - 2**24
_FLOOR = math.log(1e-7)  # of what a calibration scales, as in `predict.confidence`

Outputs = dict[str, Float32[Array, "b _"]]


def faces_function(bundle: Bundle) -> Callable[[UInt8[Array, "b h w 3"]], Outputs]:
    """What is exported, as a pure function of faces that jits; the weights are closed over.

    Args:
        bundle: of the kind `encoder`, `classifier` or `two_view`.

    Returns:
        A function of whole aligned faces, uint8 RGB. It gives `logits` and `probabilities`
        (batch, classes), or `features` (batch, width) of a bundle without labels, float32. It
        computes in float32 at the highest precision, whatever the type of the stored weights.
        Probabilities are calibrated where the bundle's calibration is of single frames.
    """
    models = {name: (plain(config), params) for name, (config, params) in bundle.models.items()}
    function = bundle_function(dataclasses.replace(bundle, models=models))
    calibration = frame_calibration(bundle)

    @jax.jit
    def answers(params: Mapping[str, Any], faces: Array) -> Outputs:
        inputs = {name: preprocess(view, faces) for name, view in bundle.views.items()}
        logits, features = function(params, inputs)
        if logits is None:
            return {"features": features["main"]}
        return {"logits": logits, "probabilities": _probabilities(logits, calibration)}

    def expressions(faces: Array) -> Outputs:
        # The weights are arguments of the inner function, so that the file keeps them in their own
        # type and the program widens them: bfloat16 would be stored as float32 otherwise.
        with jax.default_matmul_precision("highest"):
            return answers(bundle.params, faces)

    return expressions


def frame_calibration(bundle: Bundle) -> Mapping[str, Any] | None:
    """The bundle's calibration, if it is of single frames; one of smoothed rows does not apply."""
    calibration = bundle.calibration
    return calibration if calibration and calibration["refers_to"] == "frames" else None


def _probabilities(logits: Array, calibration: Mapping[str, Any] | None) -> Array:
    if calibration is None:
        return jax.nn.softmax(logits)
    names = ("temperature", "scale", "offset")
    numbers = {name: np.float32(calibration[name]) for name in names if name in calibration}
    logarithms = jnp.maximum(jax.nn.log_softmax(logits), _FLOOR)
    return jax.nn.softmax(apply_calibration(logarithms, numbers))


def serialized(
    bundle: Bundle, height: int, width: int, platforms: Sequence[str] = PLATFORMS
) -> tuple[bytes, int]:
    """The exported file of a bundle, and the version of jax's calling convention in it.

    Args:
        bundle: of the kind `encoder`, `classifier` or `two_view`.
        height: of the faces, pixels.
        width: of the faces, pixels.
        platforms: of `PLATFORMS`, what the file is lowered for; any of them, on any machine.

    Returns:
        What `jax.export.deserialize` reads. Its function takes any number of faces from one.

    Raises:
        FerJaxError: the faces are too small for a view, the weights are too large for one file, or
            `flatbuffers` is missing.
    """
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(bundle.params))
    if total > _MOST_BYTES:
        raise FerJaxError(
            f"the weights take {total / 2**30:.2f} GiB, one file holds less than 2; "
            "convert them to bfloat16 (`fer-jax convert --dtype bfloat16`)"
        )
    check_flatbuffers()
    from jax import export

    (batch,) = export.symbolic_shape("b")  # 1 or more: jax refuses 0
    faces = jax.ShapeDtypeStruct((batch, height, width, 3), np.uint8)
    function = jax.jit(faces_function(bundle))
    exported = export.export(function, platforms=tuple(platforms))(faces)
    return bytes(exported.serialize()), exported.calling_convention_version


def loaded(blob: bytes) -> Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, np.ndarray]]:
    """The function of an exported file, read back from its bytes; compiled once a batch size.

    Args:
        blob: from `serialized`.
    """
    from jax import export

    call = jax.jit(export.deserialize(bytearray(blob)).call)
    return lambda faces: {name: np.asarray(values) for name, values in call(faces).items()}


def check_flatbuffers() -> None:
    """Says what to install where jax could neither write nor read an exported file.

    Raises:
        FerJaxError: `flatbuffers` is missing, which jax needs for this and does not bring.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise FerJaxError(
            "jax writes and reads exported files with the package flatbuffers, which is missing; "
            "pip install flatbuffers"
        ) from error
