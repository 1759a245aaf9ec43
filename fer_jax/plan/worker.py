"""Compiles one step for TPUs that are not there; a process of its own, JSON in, JSON out.

The TPU compiler wants its environment before jax starts (`chips.ENVIRONMENT`), and a crash of it
must not end the plan. Reads a request from standard input (see `answer`) and prints the answer as
the last line of standard output.
"""

import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from fer_jax.bench.flops import count_flops
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.vit import parameter_count
from fer_jax.plan.chips import Topology, parse_topology
from fer_jax.plan.collectives import count_collectives
from fer_jax.plan.hlo import parse_hlo
from fer_jax.plan.memory import arithmetic
from fer_jax.plan.programs import build
from fer_jax.plan.roofline import roofline
from fer_jax.plan.steps import KINDS
from fer_jax.plan.traffic import memory_traffic
from fer_jax.train import sharding
from fer_jax.train.config import MeshConfig
from fer_jax.train.config_fields import freeze
from fer_jax.train.run import check_divisible

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The compiler's two ways to say that memory does not suffice; the first leaves the arguments out.
_TEMPORARIES = re.compile(
    r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
)
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", flags=re.IGNORECASE)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compiles what a request asks for.

    Args:
        request: `kind` (of `steps.KINDS`), `config` (its fields), `widths`, `classes`, `topology`,
            `slices`, `program` (`train` | `evaluate`).

    Returns:
        The figures of one chip; see `docs/plan.md`.

    Raises:
        UsageError: the config does not fit the topology.
        FerJaxError: the compiler fails otherwise than by a lack of memory.
    """
    topology = parse_topology(request["topology"], request["slices"])
    config = freeze(KINDS[request["kind"]], request["config"])
    mesh = topology_mesh(topology, config.mesh)
    check_divisible(config, mesh)
    built = build(config, request["widths"], request["classes"])
    training = request["program"] == "train"
    size = config.batch_size if training else config.evaluate_batch_size or config.batch_size
    if training:
        program, arguments = built.jit_train(mesh), built.train_arguments(size)
    else:
        program, arguments = built.jit_evaluate(mesh), built.evaluate_arguments(size)
    kept = arithmetic(built.state(), arguments[1], mesh)
    # While it is evaluated, the optimiser's state lies there too, though no argument.
    besides = 0 if training else kept["optimizer"]
    flops = {
        "counted": count_flops(program, *arguments),
        "formula": size * built.flops(training=training),
    }
    found = {
        "batch_size": size,
        "mesh": {name: int(number) for name, number in mesh.shape.items()},
        "parameters": parameter_count(built.params),
        "unsharded": sharding.unsharded_leaves(built.params, mesh),
        "arithmetic": kept,
        "flops": flops,
    }
    begin = time.monotonic()
    with jax.set_mesh(mesh):
        lowered = program.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            refused = read_refusal(str(error), sum(kept.values()) - besides)
            if refused is None:
                raise FerJaxError(f"the TPU compiler: {_one_line(error)}") from error
            return found | refused | {"needed": refused["needed"] + besides}
    seconds = time.monotonic() - begin
    found |= _figures(compiled, topology, mesh, flops["counted"] / topology.chips)
    found["needed"] += besides
    found["fits"] = found["needed"] <= topology.chip.memory
    return found | {"compile_seconds": seconds}


def topology_mesh(topology: Topology, config: MeshConfig) -> Mesh:
    """The mesh of a run on the devices of a topology.

    Raises:
        UsageError: the compiler knows no such topology, or the axes do not cover its devices.
    """
    options = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        devices = topologies.get_topology_desc(
            topology.name, platform="tpu", **topology.chip.options, **options
        ).devices
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        raise UsageError(f"--topology {topology.name}: {_one_line(error)}") from error
    return sharding.make_mesh(config, devices)


def _figures(compiled: Any, topology: Topology, mesh: Mesh, flops: float) -> dict[str, Any]:
    memory = compiled.memory_analysis()
    module = parse_hlo(compiled.as_text())
    slices = [getattr(device, "slice_index", None) or 0 for device in mesh.devices.flat]
    collectives = count_collectives(module, slices)
    traffic = memory_traffic(module)
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    needed = sum(sizes.values()) - 2 * sizes["aliased"]
    return {
        "memory": sizes,
        "needed": needed,
        "traffic": traffic,
        "collectives": [vars(one) for one in collectives],
        "unknown_loops": len(module.unknown_loops()),
        "roofline": roofline(topology, flops, traffic, collectives),
    }


def read_refusal(message: str, arguments: int) -> dict[str, Any] | None:
    """What the compiler says where memory does not suffice.

    Args:
        message: of its error.
        arguments: bytes of one chip's arguments, which it does not count in all of its messages.

    Returns:
        `fits` (false), `needed` and `limit` in bytes; None where it says something else.

    Example:
        >>> read_refusal("Ran out of memory in memory space hbm. Used 20.0G of 15.75G hbm.", 0)
        {'fits': False, 'needed': 21474836480, 'limit': 16911433728}
    """
    if found := _TEMPORARIES.search(message):
        besides = arguments
    elif found := _USED.search(message):
        besides = 0
    else:
        return None
    used, used_unit, limit, limit_unit = found.groups()
    return {
        "fits": False,
        "needed": int(float(used) * _UNITS[used_unit.upper()]) + besides,
        "limit": int(float(limit) * _UNITS[limit_unit.upper()]),
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def main() -> None:
    """One request, one answer; errors made to be read are answers, too."""
    request = json.load(sys.stdin)
    try:
        found = answer(request)
    except FerJaxError as error:
        found = {"error": str(error), "usage": isinstance(error, UsageError)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
