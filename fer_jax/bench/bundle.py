"""What a bundle costs to run: parameters, operations, time and memory of a face."""

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fer_jax.bench.flops import count_flops
from fer_jax.bench.processes import environment
from fer_jax.bundle import load_bundle
from fer_jax.bundle_schema import encoder_bundle
from fer_jax.errors import FerJaxError
from fer_jax.forward import bundle_function
from fer_jax.models.fusion import TokenFusionConfig
from fer_jax.models.vit import parameter_count


def bench_bundle(
    path: str | os.PathLike[str], *, batch: int | None = None, repeats: int = 7
) -> dict[str, Any]:
    """Measures the forward pass, in float32, from normalised images (or features) to logits.

    Args:
        path: the bundle.
        batch: faces at once; None: 8 on a CPU, else 64.
        repeats: runs; the median counts.

    Returns:
        Plain values: `parameters`, `flops` (of a face), `milliseconds` (of a face: median, low,
        high), `temporary_bytes` (of a batch, by the compiler's account; None where it gives none),
        `batch`, `backend`, `environment`.

    Raises:
        FerJaxError: no bundle.
    """
    bundle = encoder_bundle(load_bundle(path, verify=False))
    batch = batch or (8 if jax.default_backend() == "cpu" else 64)
    inputs = _inputs(path, bundle, batch)
    function = bundle_function(bundle)
    params = jax.device_put(bundle.params)
    flops = count_flops(function, bundle.params, inputs)
    program = jax.jit(function).lower(params, inputs).compile()
    inputs = jax.device_put(inputs)
    seconds = []
    for _ in range(repeats + 1):  # the first is not counted
        begin = time.perf_counter()
        jax.block_until_ready(program(params, inputs))
        seconds.append(time.perf_counter() - begin)
    face = [1000 * second / batch for second in seconds[1:]]
    memory = program.memory_analysis()
    return {
        "benchmark": "bundle",
        "bundle": str(path),
        "kind": bundle.kind,
        "parameters": parameter_count(bundle.params),
        "flops": round(flops / batch),
        "milliseconds": {"median": statistics.median(face), "low": min(face), "high": max(face)},
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
        "batch": batch,
        "repeats": repeats,
        "backend": jax.default_backend(),
        "environment": environment(),
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures for people, line by line."""
    took, memory = found["milliseconds"], found["temporary_bytes"]
    return [
        f"{found['bundle']} ({found['kind']}), {found['batch']} faces at once, {found['backend']}",
        f"parameters           {found['parameters']:,}",
        f"operations of a face {found['flops']:,}",
        f"time of a face       {took['median']:.3f} ms ({took['low']:.3f} to {took['high']:.3f}, "
        f"{found['repeats']} runs)",
        "temporary memory     " + ("not told" if memory is None else f"{memory / 2**20:,.1f} MiB"),
    ]


def _inputs(path: Any, bundle: Any, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if bundle.kind != "fusion":
        sizes = {name: (view.image_size, view.image_size, 3) for name, view in bundle.views.items()}
    else:
        config = bundle.models["fusion"][0]
        if isinstance(config, TokenFusionConfig):
            raise FerJaxError(
                "a fusion of patch maps alone does not say how many patches there are"
            )
        sizes = {name: (width,) for name, width in zip(config.sources, config.widths, strict=True)}
    return {name: rng.standard_normal((batch, *size), np.float32) for name, size in sizes.items()}
