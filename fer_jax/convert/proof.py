"""The proof of a conversion: every stage of the JAX model against a reference on the same weights.

The reference (`reference.py`) is numpy in float64, written apart from the models, on the user's
tensors, which `witness.py` finds apart from the converter's tables. Its own runs in float32 tell
how far a correct program may stand from it. Each stage of the JAX model, and of PyTorch where it is
installed, must lie within a few of those noise floors.
"""

import dataclasses
import functools
import math
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fer_jax.bundle_schema import View
from fer_jax.convert import reference, torch_reference
from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.plan import Conversion
from fer_jax.convert.witness import witness_reader
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

_FLOOR_RUNS = 2
_PAIRS = 16  # of features for a fusion: its stages are small
_OUTPUTS = ("pooled", "prediction", "fused", "logits")

Stages = Iterator[tuple[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a model, judged.

    Attributes:
        name: such as `blocks.3`.
        shape: of its output.
        largest: largest value of the reference, by amount.
        floor: largest difference of the reference in float32 from float64, of two runs in which
            images and weights are off by a last digit here and there.
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
    def closeness(self) -> float:
        """The larger difference over what is allowed; infinite if one is no number."""
        worst = max(self.difference, self.torch or 0.0)
        if not math.isfinite(worst + self.difference) or not math.isfinite(self.allowed):
            return math.inf
        return worst / self.allowed if self.allowed else math.inf if worst else 0.0

    @property
    def passed(self) -> bool:
        """Whether the JAX model, and torch if it ran, compute the same; NaN never does."""
        return self.closeness <= 1


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
        """Whether every stage did; no stages prove nothing."""
        return bool(self.stages) and all(stage.passed for stage in self.stages)

    @property
    def worst(self) -> Stage:
        """The stage that came closest to its bound, or went furthest beyond."""
        return max(self.stages, key=lambda stage: stage.closeness)

    def summary(self) -> str:
        """The proof in a line."""
        worst = self.worst
        torch = "" if worst.torch is None else f", torch by {worst.torch:.2g}"
        return (
            f"proof: {'PASS' if self.passed else 'FAIL'}: {len(self.stages)} stages against "
            f"{' and '.join(self.witnesses)}; {worst.name} is off by {worst.difference:.2g}"
            f"{torch}, {worst.allowed:.2g} is allowed ({self.seconds:.1f} s)"
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
    config = conversion.config
    inputs, words = _inputs(config, view)
    dtype = np.dtype(config.param_dtype)
    exact = witness_reader(checkpoint, conversion)

    def rounded(name: str) -> np.ndarray:
        return exact(name).astype(dtype)

    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite fails
        found = _jax_stages(config, conversion.params, inputs)
        floors = [_nudged_stages(config, rounded, inputs, seed) for seed in range(_FLOOR_RUNS)]
        torch = _torch_stages(config, rounded, inputs)
        stages: list[Stage] = []
        outputs = {}
        for name, wanted in _all_of(stage_names(config), _numpy_stages(config, rounded, inputs)):
            floor = max(_off(_next(run, name), wanted) for run in floors)
            other = None if torch is None else _next(torch, name)
            before = stages[-1].floor / stages[-1].largest if stages and stages[-1].largest else 0
            stages.append(_judge(name, wanted, found[name], floor, other, before))
            if name in _OUTPUTS:
                outputs[name] = wanted
        rounding = ()
        if any(np.dtype(t.dtype).itemsize > dtype.itemsize for t in _taken(checkpoint, conversion)):
            truth = _numpy_stages(config, exact, inputs)
            rounding = tuple(_rounding(n, outputs[n], v) for n, v in truth if n in outputs)
    witnesses = ("numpy in float64",) if torch is None else ("numpy in float64", "torch")
    return Proof(tuple(stages), rounding, words, witnesses, time.monotonic() - begin)


def stage_names(config: ModelConfig) -> tuple[str, ...]:
    """The stages that a proof of a model must have, in order."""
    if isinstance(config, EntryFusionConfig):
        return ("main", "aux", "key", "attention", "fused", "hidden", "logits")
    encoder = config.encoder if isinstance(config, MAEConfig) else config
    names = ("patch_embed", "embed", *(f"blocks.{i}" for i in range(encoder.depth)))
    if isinstance(config, MAEConfig):
        decoder = (f"decoder_blocks.{i}" for i in range(config.decoder_depth))
        return (*names, "latent", "decoder_embed", *decoder, "prediction", "loss")
    names += ("norm", "pooled") if config.pool == "cls" else ("pooled",)
    return (*names, "logits") if config.num_classes else names


def _all_of(names: tuple[str, ...], stages: Stages) -> Stages:
    for name in names:
        yield name, _next(stages, name)


def _next(stages: Stages, name: str) -> np.ndarray:
    """The next stage, which must be the one of that name."""
    given, values = next(stages, (None, None))
    if given != name:
        raise RuntimeError(f"a witness gives the stage {given} where {name} is due")
    return values


def _judge(
    name: str,
    wanted: np.ndarray,
    found: np.ndarray,
    floor: float,
    torch: np.ndarray | None,
    before: float,
) -> Stage:
    """One stage; `before` is the floor of the stage before over that stage's largest value."""
    for values in (found, *(() if torch is None else (torch,))):
        if values.shape != wanted.shape:
            raise RuntimeError(f"{name}: shape {values.shape} where {wanted.shape} is due")
    largest = float(np.abs(wanted).max())
    # Of a handful of numbers, as of logits, all may be right by luck: what the stage before was off
    # by lives on in them.
    noise = max(floor, before * largest)
    return Stage(
        name=name,
        shape=tuple(wanted.shape),
        largest=largest,
        floor=floor,
        allowed=FACTOR * noise + LEAST * largest,
        difference=_off(found, wanted),
        torch=None if torch is None else _off(torch, wanted),
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
        return drawn_features(config, _PAIRS), f"{_PAIRS} pairs of drawn features"
    images = np.asarray(jax.jit(functools.partial(preprocess, view))(drawn_faces()))
    words = f"two drawn faces at {config.image_size} pixels"
    if isinstance(config, MAEConfig):
        noise = mae_noise(len(images), config.encoder.grid**2)
        return {"images": images, "noise": noise}, f"{words}, three quarters of them hidden"
    return {"images": images}, words


def _numpy_stages(
    config: ModelConfig,
    read: reference.Read,
    inputs: Mapping[str, np.ndarray],
    dtype: type[np.floating] = np.float64,
) -> Stages:
    return _run(reference, config)(config, read, *inputs.values(), dtype=dtype)


def _nudged_stages(
    config: ModelConfig, read: reference.Read, inputs: Mapping[str, np.ndarray], seed: int
) -> Stages:
    """The reference in float32, on images, features and weights off by a last digit here and there.

    A right program in float32 is as good as one that computes exactly on such numbers. One run
    without them can be right by luck, in small stages above all.
    """

    def nudged(name: str) -> np.ndarray:
        return _nudge(read(name), f"{name}, {seed}")

    moved = {
        name: values if name == "noise" else _nudge(values, f"{name}, {seed}")
        for name, values in inputs.items()
    }
    return _numpy_stages(config, nudged, moved, np.float32)


def _nudge(values: np.ndarray, seed: str) -> np.ndarray:
    """Each number as it is, or one float32 further up or down."""
    values = np.asarray(values, np.float32)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(seed.encode())))
    return values + np.spacing(values) * generator.integers(-1, 2, values.shape, np.int8)


def _torch_stages(
    config: ModelConfig, read: reference.Read, inputs: Mapping[str, np.ndarray]
) -> Stages | None:
    if not torch_reference.available():
        return None
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
        logits, stages = fusion.apply(config, params, inputs, intermediates=True)
        return stages | {"logits": logits}
    if isinstance(config, MAEConfig):
        found = mae.apply(
            mae.build(config), params, inputs["images"], inputs["noise"], intermediates=True
        )
        outputs = {"latent": found.latent, "prediction": found.prediction, "loss": found.loss}
        return found.features | outputs
    logits, stages = vit.apply(vit.build(config), params, inputs["images"], intermediates=True)
    return stages if logits is None else stages | {"logits": logits}
