"""How many images a second a ViT scores on this machine, and how near that is to the ceiling."""

import dataclasses
import datetime
import time
from collections.abc import Mapping
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
    memory_text,
    peak_memory,
    spread,
    tracing,
)
from fer_jax.bench.flops import count_flops, vit_flops
from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig

_MODEL = "model"
_TRACED = 3  # calls in a trace


def bench_infer(
    config: ViTConfig,
    *,
    batch: int = 16,
    repeats: int = 7,
    seconds: float = 0.5,
    trace: str | None = None,
    side: int | None = None,
) -> dict[str, Any]:
    """Measures the forward pass, from normalised images to logits, on one device.

    Weights are random, and lie in the dtype of the computation, as one who only runs a model would
    keep them. A plain matrix product of the same dtype is timed in turn with it.

    Args:
        config: the model; `dtype` is that of the computation.
        batch: images at once.
        repeats: measurements; medians count.
        seconds: least length of each.
        trace: folder that gets a profile of three calls, made after all is measured.
        side: of the ceiling's matrices; None for one that suits the device.

    Returns:
        Plain values: `model`, `batch`, `images_per_second`, `milliseconds` of a batch, `flops` of
        an image (`formula`: `vit_flops`; `counted`: in the program), `ceiling` (with the `share`,
        of the formula's operations), `compile_seconds`, `memory`, `environment`, `date`.
    """
    config = dataclasses.replace(config, param_dtype=config.dtype)
    graph = vit.build(config)
    params = jax.jit(lambda key: vit.init(config, key))(jax.random.key(0))
    size = (batch, config.image_size, config.image_size, 3)
    images = jax.device_put(np.random.default_rng(0).standard_normal(size, np.float32))

    def function(params: vit.Params, images: jax.Array) -> jax.Array:
        logits, features = vit.apply(graph, params, images)
        return features["pooled"] if logits is None else logits

    begin = time.perf_counter()
    program = jax.jit(function).lower(params, images).compile()
    compile_seconds = time.perf_counter() - begin
    ceiling = Ceiling(config.dtype, side)
    runs = {_MODEL: lambda: program(params, images), CEILING: ceiling}
    measured = in_turn(runs, repeats=repeats, seconds=seconds)
    with tracing(trace):
        for _ in range(_TRACED if trace else 0):
            jax.block_until_ready(program(params, images))
    took = measured[_MODEL]
    formula = vit_flops(config)
    return {
        "benchmark": "infer",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": described(config),
        "batch": batch,
        "repeats": repeats,
        "images_per_second": spread([batch / one for one in took]),
        "milliseconds": spread([1000 * one for one in took]),
        "flops": {
            "formula": formula,
            "counted": round(count_flops(function, params, images) / batch),
        },
        "ceiling": ceiling_share(ceiling, measured[CEILING], took, batch * formula),
        "compile_seconds": compile_seconds,
        "memory": peak_memory(program),
        "environment": device_environment(),
    }


def described(config: ViTConfig) -> dict[str, Any]:
    """A model in plain values."""
    named = ("image_size", "patch_size", "width", "depth", "num_heads", "dtype", "attention")
    return {name: getattr(config, name) for name in (*named, "scan_layers")}


def model_text(model: Mapping[str, Any]) -> str:
    """A model for people."""
    looped = "scanned" if model["scan_layers"] else "unrolled"
    return (
        f"ViT of width {model['width']}, depth {model['depth']}, patch {model['patch_size']}, "
        f"{model['image_size']} pixels, {model['dtype']}, attention {model['attention']}, {looped}"
    )


def table(found: Mapping[str, Any]) -> list[str]:
    """What `bench_infer` found, for people, line by line."""
    rate, took = found["images_per_second"], found["milliseconds"]
    return [
        f"{model_text(found['model'])}; {found['batch']} images at once, {found['repeats']} "
        "measurements (middle half in brackets)",
        f"images a second      {rate['median']:,.2f} ({rate['low']:,.2f} to {rate['high']:,.2f})",
        f"time of a batch      {took['median']:,.2f} ms ({took['low']:,.2f} to "
        f"{took['high']:,.2f})",
        *device_lines(found),
        f"{found['date']}, {environment_text(found['environment'])}",
    ]


def device_lines(found: Mapping[str, Any]) -> list[str]:
    """The lines that inference and training share: operations, ceiling, compiler, memory."""
    flops, ceiling = found["flops"], found["ceiling"]
    share, best = ceiling["share"], ceiling["flops_per_second"]
    counted = "not counted"
    if flops["counted"] is not None:
        counted = f"{flops['counted'] / 1e9:,.2f} G counted"
    return [
        f"operations           {flops['formula'] / 1e9:,.2f} G an image by the formula (matrix "
        f"products), {counted} in the program",
        f"share of the ceiling {100 * share['median']:.1f} % ({100 * share['low']:.1f} to "
        f"{100 * share['high']:.1f}) of {best['median'] / 1e12:,.3f} TFLOP/s, a plain "
        f"{ceiling['dtype']} product of side {ceiling['side']} in the same run",
        f"compile time         {found['compile_seconds']:.1f} s",
        f"peak memory          {memory_text(found['memory'])}",
    ]
