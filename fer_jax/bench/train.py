"""How many images a second a fine-tuning step takes in, and what it waits for."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fer_jax.bench.device import (
    CEILING,
    Ceiling,
    ceiling_share,
    device_environment,
    environment_text,
    in_turn,
    peak_memory,
    spread,
    tracing,
)
from fer_jax.bench.flops import count_flops, vit_flops
from fer_jax.bench.infer import described, device_lines, model_text
from fer_jax.bundle import load_bundle
from fer_jax.data import pipeline
from fer_jax.errors import FerJaxError
from fer_jax.models import vit
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.train import sharding
from fer_jax.train.config import TrainConfig
from fer_jax.train.models import Classifier
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.rows import Rows, open_rows
from fer_jax.train.run import check_divisible
from fer_jax.train.state import create_state, from_bundle, from_scratch, scratch_config
from fer_jax.train.task import jit_train_step, make_recipe

_HELD, _FED = "held", "fed"
_TRACED = 3  # steps in a trace
_RATE = np.float32(1e-6)  # what is learnt is of no interest; it must stay finite

Batch = dict[str, np.ndarray]


def bench_train(
    config: TrainConfig,
    *,
    synthetic: bool = False,
    classes: int = 8,
    repeats: int = 7,
    seconds: float = 1.0,
    trace: str | None = None,
    side: int | None = None,
) -> dict[str, Any]:
    """Measures the training step of a run, on all devices: forward, backward, update.

    One batch that lies on the devices is trained on again and again (`held`), and in turn, unless
    `synthetic`, batches of the run's own pipeline (`fed`), of which the next one is made while a
    step is under way. A plain matrix product is timed in turn with both.

    Args:
        config: the run. With `synthetic` neither its data nor its backbone is read, and the model
            is that of `config.model`.
        synthetic: random images and labels, made once.
        classes: of synthetic labels.
        repeats: measurements; medians count.
        seconds: least length of each.
        trace: folder that gets a profile of three steps, made after all is measured.
        side: of the ceiling's matrices; None for one that suits the device.

    Returns:
        Plain values: `model`, `batch`, `images_per_second` (fed, where there is a pipeline),
        `milliseconds` of a step, `input` (None if synthetic; `wait_milliseconds` for the next batch
        of a step, `images_per_second_held` without a pipeline), `flops` of an image, `ceiling`,
        `compile_seconds`, `memory`, `environment`, `date`.

    Raises:
        UsageError: the devices cannot share the batch, or no data are named.
        FerJaxError: data or backbone cannot be read.
    """
    mesh = sharding.make_mesh(config.mesh)
    check_divisible(config, mesh)
    rows = None if synthetic else open_rows(config)
    if rows is not None:
        classes = len(rows.labels)
    model_config, params, (mean, std) = _start(config, rows, classes)
    optimizer = make_optimizer(config.optimizer, params, model_config.depth)
    state = create_state(params, optimizer, mesh, ema=config.ema_decay > 0)
    del params
    recipe = make_recipe(
        config, classes, log_prior=(-float(np.log(classes)),) * classes, augment=config.augment
    )
    model = Classifier(vit.build(model_config), mean, std)
    weights = jax.device_put(np.ones(classes, np.float32), sharding.replicated(mesh))
    drawn = _drawn(config, model_config.image_size, classes)
    batches = None if rows is None else _batches(config, rows, model_config.image_size)
    ceiling = Ceiling(model_config.dtype, side)
    with jax.set_mesh(mesh):
        held = sharding.to_global(drawn, mesh)
        begin = time.perf_counter()
        jitted = jit_train_step(model, optimizer, recipe, state, mesh)
        program = jitted.lower(state, held, _RATE, weights).compile()
        compile_seconds = time.perf_counter() - begin
        counted = _counted(
            jit_train_step(model, optimizer, _unmixed(recipe), state, mesh),
            *(state, held, _RATE, weights),
        )
        steps = _Steps(program, state, weights)
        runs: dict[str, Callable[[], Any]] = {_HELD: lambda: steps(held)}
        if batches is not None:
            runs[_FED] = lambda: steps.fed(lambda: sharding.to_global(next(batches), mesh))
        measured = in_turn(runs | {CEILING: ceiling}, repeats=repeats, seconds=seconds)
        with tracing(trace):
            for _ in range(_TRACED if trace else 0):
                jax.block_until_ready(runs[_HELD if batches is None else _FED]())
    took, formula = measured[_HELD if batches is None else _FED], 3 * vit_flops(model_config)
    size = config.batch_size
    return {
        "benchmark": "train",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": described(model_config) | {"remat": model_config.remat},
        "batch": size,
        "repeats": repeats,
        "synthetic": synthetic,
        "mesh": dict(mesh.shape),
        "images_per_second": spread([size / one for one in took]),
        "milliseconds": spread([1000 * one for one in took]),
        "input": None
        if batches is None
        else {
            "wait_milliseconds": spread([1000 * one for one in steps.waits]),
            "images_per_second_held": spread([size / one for one in measured[_HELD]]),
        },
        "flops": {"formula": formula, "counted": counted and round(counted / size)},
        "ceiling": ceiling_share(ceiling, measured[CEILING], took, size * formula / mesh.size),
        "compile_seconds": compile_seconds,
        "memory": peak_memory(program),
        "environment": device_environment(),
    }


class _Steps:
    """Carries the state, which every step donates, from one step to the next."""

    def __init__(self, program: Callable[..., Any], state: Any, weights: Any):
        self._program, self._state, self._weights = program, state, weights
        self._loss: Any = None
        self.waits: list[float] = []

    def __call__(self, batch: Any) -> Any:
        self._state, metrics = self._program(self._state, batch, _RATE, self._weights)
        return metrics["loss"]

    def fed(self, next_batch: Callable[[], Any]) -> Any:
        """A step on the next batch, which is made while the step before is under way.

        No more than one: with more of them waiting, an input that is too slow would not show.
        """
        begin = time.perf_counter()
        batch = next_batch()
        self.waits.append(time.perf_counter() - begin)
        if self._loss is not None:
            jax.block_until_ready(self._loss)
        self._loss = self(batch)
        return self._loss


def _start(
    config: TrainConfig, rows: Rows | None, classes: int
) -> tuple[ViTConfig, Params, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The model, its first parameters, mean and standard deviation of its images."""
    if rows is None:
        model = scratch_config(config.model, classes)
        params = jax.jit(lambda key: vit.init(model, key))(jax.random.key(config.seed))
        return model, params, NORMALIZATIONS[config.normalize]
    if config.backbone:
        start = from_bundle(config, load_bundle(config.backbone), rows.labels, rows.template)
    else:
        start = from_scratch(config, rows.labels, rows.template)
    return start.config, start.params, (start.view.mean, start.view.std)


def _drawn(config: TrainConfig, size: int, classes: int) -> Batch:
    rng, batch = np.random.default_rng(0), config.batch_size
    labels = rng.integers(0, classes, batch, np.int32)
    found = {"image": rng.integers(0, 256, (batch, size, size, 3), np.uint8), "label": labels}
    if config.loss.soft_labels:
        found["votes"] = np.eye(classes, dtype=np.float32)[labels]
    return found


def _batches(config: TrainConfig, rows: Rows, size: int) -> Iterator[Batch]:
    found = pipeline.train_batches(
        rows.train,
        views={"image": config.view},
        image_size=size,
        batch_size=config.batch_size,
        augmentation=config.augment,
        seed=config.seed,
        sampling=config.sampling,
        votes=config.loss.soft_labels,
        workers=config.workers,
    )
    return map(pipeline.without_rows, found)


def _counted(step: Callable, *arguments: Any) -> int | None:
    """Operations of a step; None where a loop's rounds depend on the numbers."""
    try:
        return count_flops(step, *arguments)
    except FerJaxError:
        return None


def _unmixed(recipe: Any) -> Any:
    """Without mixing, whose shares are drawn in loops of no fixed length."""
    return dataclasses.replace(recipe, mixup=0.0, cutmix=0.0)


def table(found: Mapping[str, Any]) -> list[str]:
    """What `bench_train` found, for people, line by line."""
    rate, took, fed = found["images_per_second"], found["milliseconds"], found["input"]
    source = "one synthetic batch" if fed is None else "batches of the run's pipeline"
    lines = [
        f"{model_text(found['model'])}, remat {found['model']['remat']}",
        f"step of {found['batch']} images on {source}, mesh {found['mesh']}; {found['repeats']} "
        "measurements (middle half in brackets)",
        f"images a second      {rate['median']:,.2f} ({rate['low']:,.2f} to {rate['high']:,.2f})",
        f"time of a step       {took['median']:,.2f} ms ({took['low']:,.2f} to "
        f"{took['high']:,.2f})",
    ]
    if fed is not None:
        wait, held = fed["wait_milliseconds"], fed["images_per_second_held"]
        lines += [
            f"waiting for a batch  {wait['median']:,.2f} ms a step ({wait['low']:,.2f} to "
            f"{wait['high']:,.2f}), {100 * wait['median'] / took['median']:.1f} % of it",
            f"with a batch at hand {held['median']:,.2f} images a second ({held['low']:,.2f} to "
            f"{held['high']:,.2f})",
        ]
    return [
        *lines,
        *device_lines(found),
        f"{found['date']}, {environment_text(found['environment'])}",
    ]
