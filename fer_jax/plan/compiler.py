"""Asks the TPU compiler, each time in a process of its own."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from fer_jax.errors import FerJaxError, UsageError
from fer_jax.plan.chips import ENVIRONMENT, Topology
from fer_jax.plan.steps import PlannedStep

# What would send the compiler's process to other devices or other code.
_DROPPED = ("TPU_", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_", "MEGASCALE_", "CLOUD_TPU_")


def check_compiler() -> None:
    """Raises UsageError unless the TPU compiler is installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            "the TPU compiler (libtpu) is not installed; no TPU is needed to run it: "
            'pip install "fer-jax[tpu-plan]"'
        )


def ask(
    step: PlannedStep, topology: Topology, num_classes: int, program: str = "train"
) -> dict[str, Any]:
    """Compiles a step in another process.

    Args:
        step: of which run.
        topology: for which chips.
        num_classes: outputs.
        program: `train` | `evaluate`.

    Returns:
        What `worker.answer` returns.

    Raises:
        UsageError: the config does not fit the topology.
        FerJaxError: the compiler failed or crashed.
    """
    config = dataclasses.asdict(step.config)
    if "view" in config:  # no matter to the program: two views are compiled once
        config["view"] = "main"
    request = {
        "kind": step.kind,
        "config": config,
        "widths": dict(step.widths),
        "classes": num_classes,
        "topology": topology.name,
        "slices": topology.slices,
        "program": program,
    }
    return _answer(json.dumps(request))


@functools.cache
def _answer(request: str) -> dict[str, Any]:
    """Of one process; the same question is asked once."""
    done = subprocess.run(
        [sys.executable, "-m", "fer_jax.plan.worker"],
        input=request,
        capture_output=True,
        text=True,
        env=_environment(os.environ),
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        raise FerJaxError(
            f"the TPU compiler's process ended with exit code {done.returncode}: "
            f"{said[-1] if said else 'no message'}"
        )
    found = json.loads(lines[-1])
    if "error" in found:
        raise (UsageError if found["usage"] else FerJaxError)(found["error"])
    return found


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if not name.startswith(_DROPPED)}
    return kept | ENVIRONMENT
