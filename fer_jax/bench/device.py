"""Timing on a device: runs in turn, the matmul ceiling, peak memory, a trace on request."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.bench.processes import environment

CEILING = "matmul"
_SIDE = {"cpu": 2048}  # of the ceiling's matrices: large enough to be bound by the units alone
_ACCELERATOR_SIDE = 8192
_MOST_CALLS = 1000
_TRIES = 3
# On a CPU products go to YNN unless told otherwise; to Eigen, which may be faster, this way.
_DOT_PATHS: dict[str, tuple[dict[str, str], ...]] = {
    "cpu": ({}, {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"})
}


class Ceiling:
    """A plain square matrix product by the fastest way that XLA has: what one device gives at best.

    Attributes:
        side: rows and columns of each matrix.
        dtype: of matrices and product.
    """

    def __init__(self, dtype: str, side: int | None = None):
        self.side = side or _SIDE.get(jax.default_backend(), _ACCELERATOR_SIDE)
        self.dtype = dtype
        keys = jax.random.split(jax.random.key(0))
        self._factors = [jax.random.normal(key, (self.side,) * 2, dtype) for key in keys]
        lowered = jax.jit(jnp.matmul).lower(*self._factors)
        paths = _DOT_PATHS.get(jax.default_backend(), ({},))
        products = [lowered.compile(compiler_options=options) for options in paths]
        self._product = min(products, key=self._least)

    def _least(self, product: jax.stages.Compiled) -> float:
        jax.block_until_ready(product(*self._factors))
        return min(_seconds(lambda: product(*self._factors), 1) for _ in range(_TRIES))

    def __call__(self) -> jax.Array:
        """One product; it may still be under way."""
        return self._product(*self._factors)

    def flops_per_second(self, seconds: float) -> float:
        """Of one product that took so long; a multiply-add is two."""
        return 2 * self.side**3 / seconds


def in_turn(
    runs: Mapping[str, Callable[[], Any]], *, repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Times functions one after the other, many times, so that all meet the same neighbours.

    Args:
        runs: each dispatches work and returns arrays of it.
        repeats: measurements of each.
        seconds: least length of a measurement: as many calls as that takes, waited for once.

    Returns:
        Seconds of a call, measurement by measurement.
    """
    calls = {}
    for name, run in runs.items():
        jax.block_until_ready(run())  # the first is not counted
        wished = math.ceil(seconds / max(_seconds(run, 1), 1e-6))
        calls[name] = min(_MOST_CALLS, max(1, wished))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(_seconds(run, calls[name]))
    return found


def _seconds(run: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        out = run()
    jax.block_until_ready(out)
    return (time.perf_counter() - begin) / calls


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles: neighbours on a machine spoil single runs, not the middle half."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "low": low, "high": high}


def ceiling_share(ceiling: Ceiling, took: list[float], each: list[float], flops: float) -> dict:
    """How near work comes to the ceiling, measurement by measurement.

    Args:
        ceiling: what was timed beside it.
        took: seconds of the ceiling's products.
        each: seconds of the work on as many occasions.
        flops: operations of the work, on one device.

    Returns:
        Plain values: `side`, `dtype`, `flops_per_second` of the ceiling, `share`.
    """
    shares = [
        flops / work / ceiling.flops_per_second(product)
        for product, work in zip(took, each, strict=True)
    ]
    return {
        "side": ceiling.side,
        "dtype": ceiling.dtype,
        "flops_per_second": spread([ceiling.flops_per_second(one) for one in took]),
        "share": spread(shares),
    }


def peak_memory(program: jax.stages.Compiled) -> dict[str, Any]:
    """Bytes that a device held at most, by its own word, else by the compiler's account.

    Returns:
        Plain values: `bytes` (None where nobody tells) and `source`: `device` (all that the process
        held so far) or `compiler` (inputs, outputs and temporaries of the program).
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"bytes": stats["peak_bytes_in_use"], "source": "device"}
    account = program.memory_analysis()
    if account is None:
        return {"bytes": None, "source": "compiler"}
    total = (
        account.argument_size_in_bytes
        + account.output_size_in_bytes
        + account.temp_size_in_bytes
        - account.alias_size_in_bytes
    )
    return {"bytes": total, "source": "compiler"}


@contextlib.contextmanager
def tracing(folder: str | None) -> Iterator[None]:
    """Writes a profile of what runs inside to a folder, for TensorBoard or Perfetto; None: not."""
    if folder is None:
        yield
        return
    with jax.profiler.trace(folder):
        yield


def device_environment() -> dict[str, Any]:
    """What figures depend on, the devices too."""
    device = jax.devices()[0]
    return environment() | {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
    }


def memory_text(memory: Mapping[str, Any]) -> str:
    """`peak_memory` for people."""
    if memory["bytes"] is None:
        return "not told"
    said = "of the device" if memory["source"] == "device" else "by the compiler's account"
    return f"{memory['bytes'] / 2**20:,.0f} MiB {said}"


def environment_text(used: Mapping[str, Any]) -> str:
    """The last line of a table."""
    return (
        f"fer_jax {used['fer_jax']}, jax {used['jax']}, Python {used['python']}, {used['system']}, "
        f"{used['devices']} x {used['device']} ({used['backend']}), {used['cpu']}, "
        f"{used['cores']} cores"
    )
