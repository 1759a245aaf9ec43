"""The proof of a conversion: every stage of the JAX model against a reference on the same weights.

The reference (`reference.py`) is numpy in float64, written apart from the models, and reads the
user's tensors by their names in the file. Its own run in float32 tells how far a correct program
may stand from it. Each stage of the JAX model must lie within a few of those noise floors.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fer_jax.bundle_schema import View
from fer_jax.convert import reference, torch_reference
from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.plan import Conversion, cast
from fer_jax.forward import preprocess
from fer_jax.golden import drawn_faces, drawn_features, mae_noise, plain
from fer_jax.models import fusion, mae, vit
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import Params

# How many noise floors a stage may stand from the reference: measured, see docs/convert.md.
FACTOR = 4.0
# A floor can be zero by chance, as of a copy; this much of a stage's largest value always passes.
LEAST = 4 * float(np.finfo(np.float32).eps)

Stages = Iterator[tuple[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a model, judged.

    Attributes:
        name: such as `blocks.3`.
        shape: of its output.
        largest: largest value of the reference, by amount.
        floor: largest difference of the reference in float32 from float64.
        allowed: largest difference that passes.
        difference: largest difference of the JAX model from the reference in float64.
        torch: the same of PyTorch; None without it.
    """

    name: str
    shape: tuple[int, ...]
    largest: float
    floor: float
    allowed: float
    difference: float
    torch: float | None

    @property
    def passed(self) -> bool:
        """Whether the JAX model computes the same; NaN never does."""
        return self.difference <= self.allowed


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What the outputs lose where parameters are kept in fewer bits than the file has.

    Attributes:
        name: the stage, such as `logits`.
        difference: largest difference between the reference on the rounded and on the file's own
            weights, both in float64.
        relative: its root mean square over that of the output.
        same_class: share of the inputs whose largest logit is the same; None for other stages.
    """

    name: str
    difference: float
    relative: float
    same_class: float | None


@dataclasses.dataclass(frozen=True)
class Proof:
    """The stages with what they were tried on.

    Attributes:
        stages: in the order of computation.
        rounding: of the outputs; empty if no parameter lost a bit.
        inputs: what went in, in words.
        witnesses: what the JAX model was compared with.
        seconds: how long it took.
    """

    stages: tuple[Stage, ...]
    rounding: tuple[Rounding, ...]
    inputs: str
    witnesses: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every stage did."""
        return all(stage.passed for stage in self.stages)

    @property
    def worst(self) -> Stage:
        """The stage that came closest to its bound, or went furthest beyond."""
        return max(
            self.stages,
            key=lambda stage: np.nan_to_num(stage.difference / stage.allowed, nan=np.inf),
        )

    def summary(self) -> str:
        """The proof in a line."""
        worst = self.worst
        return (
            f"proof: {'PASS' if self.passed else 'FAIL'}: {len(self.stages)} stages against "
            f"{' and '.join(self.witnesses)}; {worst.name} is off by {worst.difference:.2g}, "
            f"{worst.allowed:.2g} is allowed ({self.seconds:.1f} s)"
        )


def prove(checkpoint: Checkpoint, conversion: Conversion, view: View | None) -> Proof:
    """Runs a converted model and its references on the same inputs, stage by stage.

    Args:
        checkpoint: the open file, whose tensors the references read.
        conversion: the model that was made of it.
        view: how images are prepared; None for a fusion.

    Returns:
        The proof. Memory: one block in float64, the JAX model's stages, and what torch needs.
    """
    begin = time.monotonic()
    inputs, words = _inputs(conversion.config, view)
    dtype = np.dtype(conversion.config.param_dtype)
    rounded = functools.partial(cast, checkpoint, conversion, dtype=dtype)
    exact = functools.partial(conversion.read, checkpoint)
    found = _jax_stages(conversion.config, conversion.params, inputs)
    floors = _numpy_stages(conversion.config, rounded, inputs, np.float32)
    torch = _torch_stages(conversion.config, rounded, inputs)
    stages, outputs = [], {}
    for name, wanted in _numpy_stages(conversion.config, rounded, inputs, np.float64):
        stages.append(_judge(name, wanted, found[name], next(floors), next(torch, None)))
        outputs[name] = wanted
    lost = any(np.dtype(t.dtype) != dtype for t in _taken(checkpoint, conversion))
    rounding = ()
    if lost and dtype.itemsize < 4:
        truth = dict(_numpy_stages(conversion.config, exact, inputs, np.float64))
        names = [n for n in ("pooled", "prediction", "fused", "logits") if n in outputs]
        rounding = tuple(_rounding(name, outputs[name], truth[name]) for name in names)
    witnesses = ["numpy in float64"]
    if torch_reference.available():
        witnesses.append("torch")
    return Proof(tuple(stages), rounding, words, tuple(witnesses), time.monotonic() - begin)


def _judge(
    name: str,
    wanted: np.ndarray,
    found: np.ndarray,
    floor: tuple[str, np.ndarray],
    torch: tuple[str, np.ndarray] | None,
) -> Stage:
    others = [one for one in (floor, torch) if one is not None]
    assert all(one[0] == name for one in others), f"{name} is not {others}"
    assert all(one.shape == wanted.shape for one in (found, *(values for _, values in others)))
    largest = float(np.abs(wanted).max())
    noise = _off(floor[1], wanted)
    return Stage(
        name=name,
        shape=tuple(wanted.shape),
        largest=largest,
        floor=noise,
        allowed=FACTOR * noise + LEAST * largest,
        difference=_off(found, wanted),
        torch=None if torch is None else _off(torch[1], wanted),
    )


def _off(values: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(values, np.float64) - wanted).max())


def _rounding(name: str, rounded: np.ndarray, exact: np.ndarray) -> Rounding:
    off = rounded - exact
    same = None
    if name == "logits":
        same = float((rounded.argmax(axis=-1) == exact.argmax(axis=-1)).mean())
    size = np.sqrt(np.mean(exact**2))
    relative = float(np.sqrt(np.mean(off**2)) / size) if size else 0.0
    return Rounding(name, float(np.abs(off).max()), relative, same)


def _taken(checkpoint: Checkpoint, conversion: Conversion) -> Iterator[Any]:
    for source in conversion.sources.values():
        yield from (checkpoint.tensors[name] for name in source.names)


def _inputs(config: ModelConfig, view: View | None) -> tuple[dict[str, np.ndarray], str]:
    if isinstance(config, EntryFusionConfig):
        return drawn_features(config.widths), "two pairs of drawn features"
    images = np.asarray(jax.jit(functools.partial(preprocess, view))(drawn_faces()))
    words = f"two drawn faces at {config.image_size} pixels"
    if isinstance(config, MAEConfig):
        noise = mae_noise(len(images), config.encoder.grid**2)
        return {"images": images, "noise": noise}, f"{words}, three quarters of them hidden"
    return {"images": images}, words


def _numpy_stages(
    config: ModelConfig, read: reference.Read, inputs: Mapping, dtype: type
) -> Stages:
    return _run(reference, config)(config, read, *inputs.values(), dtype=dtype)


def _torch_stages(config: ModelConfig, read: reference.Read, inputs: Mapping) -> Stages:
    if not torch_reference.available():
        return iter(())
    return _run(torch_reference, config)(config, read, *inputs.values())


def _run(module: Any, config: ModelConfig) -> Any:
    """A reference's function for a kind of model."""
    if isinstance(config, EntryFusionConfig):
        return module.entry_fusion_stages
    return module.mae_stages if isinstance(config, MAEConfig) else module.vit_stages


def _jax_stages(
    config: ModelConfig, params: Params, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The stages of the JAX model, as the golden sample computes it."""
    config = plain(config)
    with jax.default_matmul_precision("highest"):
        stages = jax.jit(functools.partial(_all_stages, config))(params, dict(inputs))
    found = {}
    for name, values in jax.device_get(stages).items():
        if name in ("blocks", "decoder_blocks"):
            found |= {f"{name}.{i}": block for i, block in enumerate(values)}
        else:
            found[name] = values
    return found


def _all_stages(
    config: ModelConfig, params: Params, inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    if isinstance(config, EntryFusionConfig):
        logits, stages = fusion.apply(params, inputs, intermediates=True)
        return stages | {"logits": logits}
    if isinstance(config, MAEConfig):
        found = mae.apply(
            mae.build(config), params, inputs["images"], inputs["noise"], intermediates=True
        )
        outputs = {"latent": found.latent, "prediction": found.prediction, "loss": found.loss}
        return found.features | outputs
    logits, stages = vit.apply(vit.build(config), params, inputs["images"], intermediates=True)
    return stages if logits is None else stages | {"logits": logits}
