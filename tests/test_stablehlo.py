"""A bundle as one file: what it computes beside the recognizer, what it says, what it refuses."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from tiny_bundles import (
    noise_faces,
    tiny_bundle,
    tiny_two_view_bundle,
)

from fer_jax.bundle import Bundle
from fer_jax.export import program
from fer_jax.predict.confidence import calibrated
from fer_jax.predict.recognizer import Recognizer

# A number of faces that is not known when tracing is no int, as annotations of fusions have it.
pytestmark = pytest.mark.usefixtures("annotations_off")

PLATFORMS = ("cpu", "tpu", "cuda")
TOKEN = {"width": 48, "num_heads": 3}
TWO_VIEWS = [("entry", {}), ("token", TOKEN), ("linear", {})]
OTHER_TWO_VIEWS = [
    ("token", TOKEN | {"merge": "concat", "attention": "self"}),
    ("token", TOKEN | {"merge": "updown"}),
    ("average", {}),
    ("main_only", {}),
    ("aux_only", {}),
]


def in_bfloat16(bundle: Bundle) -> Bundle:
    models = {
        name: (
            dataclasses.replace(config, param_dtype="bfloat16"),
            jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), params),
        )
        for name, (config, params) in bundle.models.items()
    }
    return dataclasses.replace(bundle, models=models)


def of_template(bundle: Bundle, template: str) -> Bundle:
    views = {
        name: dataclasses.replace(view, template=template) for name, view in bundle.views.items()
    }
    return dataclasses.replace(bundle, views=views)


def run(blob: bytes, faces: np.ndarray) -> dict[str, np.ndarray]:
    """As somebody without fer_jax runs it."""
    found = export.deserialize(bytearray(blob)).call(faces)
    return {name: np.asarray(values) for name, values in found.items()}


def softmax64(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def blob_of(bundle: Bundle, size: int = 40) -> bytes:
    return program.serialized(bundle, size, size)[0]


# Resizing on the host and on the device differ by rounding: measured up to 7e-7 (logits).
HOST = 2e-6


@pytest.mark.parametrize(
    "bundle",
    [
        tiny_bundle(),
        in_bfloat16(tiny_bundle()),
        *(tiny_two_view_bundle(variant, **options) for variant, options in TWO_VIEWS),
        *(
            pytest.param(tiny_two_view_bundle(variant, **options), marks=pytest.mark.slow)
            for variant, options in OTHER_TWO_VIEWS
        ),
        in_bfloat16(tiny_two_view_bundle()),
        pytest.param(in_bfloat16(tiny_two_view_bundle("token", **TOKEN)), marks=pytest.mark.slow),
    ],
    ids=lambda bundle: getattr(bundle.models.get("fusion", (None,))[0], "variant", "classifier"),
)
def test_one_file_gives_the_recognizers_logits_at_any_batch_size(bundle):
    blob = blob_of(bundle)
    faces = noise_faces(8, size=40)
    wanted = Recognizer(bundle).logits(faces)
    assert np.ptp(wanted, axis=0).max() > 0.1  # the faces tell
    for number in (1, 3, 8):
        found = run(blob, faces[:number])
        assert sorted(found) == ["logits", "probabilities"]
        assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
        assert off(found["logits"], wanted[:number]) < HOST
        np.testing.assert_allclose(
            found["probabilities"], softmax64(found["logits"]), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("bundle", [tiny_bundle(None), in_bfloat16(tiny_bundle(None))])
def test_an_encoder_gives_its_features(bundle):
    faces = noise_faces(3, size=40)
    found = run(blob_of(bundle), faces)
    assert list(found) == ["features"]
    assert off(found["features"], Recognizer(bundle).features(faces)["main"]) < HOST


@pytest.mark.parametrize("bundle", [tiny_bundle(), tiny_two_view_bundle(width=256, hidden=128)])
def test_bfloat16_weights_stay_so_in_the_file(bundle):
    wide, narrow = len(blob_of(bundle)), len(blob_of(in_bfloat16(bundle)))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bundle.params))
    assert wide > weights
    assert wide - narrow == pytest.approx(weights / 2, rel=0.01)


def test_it_is_for_three_platforms_and_calls_nothing_without_a_promise():
    exported = export.deserialize(bytearray(blob_of(tiny_two_view_bundle())))
    assert exported.platforms == PLATFORMS
    called = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert called <= {"shape_assertion"}


def test_what_it_does_not_take_is_refused():
    call = export.deserialize(bytearray(blob_of(tiny_bundle()))).call
    with pytest.raises(ValueError, match="Expected value >= 1 for dimension variable 'b'"):
        call(noise_faces(0, size=40))
    with pytest.raises(ValueError, match="shape"):
        call(noise_faces(2, size=45))
    with pytest.raises(ValueError, match="Dtype mismatch"):
        call(noise_faces(2, size=40).astype(np.float32))


@pytest.mark.parametrize(
    "numbers",
    [
        {"kind": "temperature", "temperature": 2.5},
        {"kind": "vector", "scale": [0.5, 1, 2, 0.7, 1, 1.2, 0.9], "offset": [0.1] * 6 + [-0.6]},
    ],
    ids=["temperature", "vector"],
)
def test_a_calibration_of_single_frames_is_inside(numbers):
    calibration = numbers | {"of": "log_probabilities", "refers_to": "frames"}
    bundle = dataclasses.replace(tiny_bundle(), calibration=calibration)
    found = run(blob_of(bundle), noise_faces(8, size=40))
    own = softmax64(found["logits"])
    logs = np.log(np.maximum(own, 1e-7))
    if "temperature" in numbers:
        logs = logs / numbers["temperature"]
    else:
        logs = logs * np.array(numbers["scale"]) + np.array(numbers["offset"])
    np.testing.assert_allclose(found["probabilities"], softmax64(logs), rtol=0, atol=1e-6)
    said = calibrated(own.astype(np.float32), calibration)  # what `predict` writes
    np.testing.assert_allclose(found["probabilities"], said, rtol=0, atol=1e-6)
    assert np.abs(found["probabilities"] - own).max() > 0.01


def test_a_probability_of_nothing_is_floored_before_it_is_scaled():
    """As `predict` does it: else the smallest ones would differ."""
    sharp = tiny_bundle()
    config, params = sharp.models["main"]
    params = params | {"head": {"kernel": params["head"]["kernel"] * 40, "bias": np.zeros(7, "f4")}}
    calibration = {"kind": "temperature", "temperature": 8.0, "refers_to": "frames"}
    bundle = dataclasses.replace(sharp, models={"main": (config, params)}, calibration=calibration)
    faces = noise_faces(8, size=40)
    found = run(blob_of(bundle), faces)
    own = softmax64(found["logits"])
    assert own.min() < 1e-9
    wanted = calibrated(own.astype(np.float32), calibration)
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=0, atol=1e-6)
