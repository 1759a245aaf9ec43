"""The plan of a config: every step that it trains, compiled, with what else could be done."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from fer_jax.errors import FerJaxError
from fer_jax.models.config import REMAT_POLICIES
from fer_jax.plan.chips import Topology
from fer_jax.plan.compiler import ask, check_compiler
from fer_jax.plan.largest import largest_batch
from fer_jax.plan.steps import PlannedStep, planned

Say = Callable[[str], None]
_MOST_PARTS = 8  # of a batch: more are rarely worth their loop


def make_plan(
    config: Any,
    topology: Topology,
    *,
    widths: Mapping[str, int] | None = None,
    num_classes: int = 8,
    search: bool = True,
    alternatives: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Compiles every step that a config trains for chips that need not be there.

    Args:
        config: one of `steps.ANY_CONFIG`.
        topology: the chips.
        widths: of frozen features by source, as in `steps.planned`.
        num_classes: of the labels.
        search: look for the largest batch that fits; without it only where the config's does not.
        alternatives: compile with other `remat` and `scan_layers`, and with the batch in other
            numbers of parts (`accumulate`), too.
        say: called with a line before each compilation.

    Returns:
        JSON values: `topology`, `slices`, `chips`, `chip`, `versions` and `steps`, one for each
        training run: `name`, `kind`, `train` and `evaluate` (of `worker.answer`), `largest_batch`
        (`batch_size`, `bounded`: a sixteenth more was seen not to fit, `tried`; None where it was
        not looked for), `alternatives`.

    Raises:
        UsageError: no TPU compiler, or a config that does not fit the topology.
        FerJaxError: a bundle cannot be read, or the compiler fails.
    """
    check_compiler()
    steps = [
        _plan_step(step, topology, num_classes, search, alternatives, say)
        for step in planned(config, widths)
    ]
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "chip": dataclasses.asdict(topology.chip),
        "versions": {name: metadata.version(name) for name in ("fer-jax", "jax", "libtpu")},
        "steps": steps,
    }


def _plan_step(
    step: PlannedStep,
    topology: Topology,
    num_classes: int,
    search: bool,
    alternatives: bool,
    say: Say,
) -> dict[str, Any]:
    say(f"{step.name}: training step")
    train = ask(step, topology, num_classes)
    say(f"{step.name}: evaluation step")
    found = {
        "name": step.name,
        "kind": step.kind,
        "train": train,
        "evaluate": ask(step, topology, num_classes, "evaluate"),
        "largest_batch": None,
        "alternatives": [],
    }
    if search or not train["fits"]:
        found["largest_batch"] = _largest(step, topology, num_classes, train, say)
    if alternatives and step.model_field:
        found["alternatives"] = _alternatives(step, topology, num_classes, train, say)
    return found


def _largest(
    step: PlannedStep, topology: Topology, num_classes: int, train: Mapping[str, Any], say: Say
) -> dict[str, Any]:
    seen = {train["batch_size"]: train}

    def measure(batch_size: int) -> tuple[bool, int]:
        if batch_size not in seen:
            say(f"{step.name}: does a batch of {batch_size:,} fit?")
            larger = step.with_fields(batch_size=batch_size, evaluate_batch_size=0)
            seen[batch_size] = ask(larger, topology, num_classes)
        return seen[batch_size]["fits"], seen[batch_size]["needed"]

    limits = [one["limit"] for one in seen.values() if "limit" in one]
    limit = limits[0] if limits else topology.chip.memory
    unit = topology.chips * step.config.accumulate
    best, bounded = largest_batch(measure, train["batch_size"], unit, limit)
    tried = [
        {"batch_size": size, "fits": one["fits"], "needed": one["needed"]}
        for size, one in sorted(seen.items())
    ]
    return {"batch_size": best, "bounded": bounded, "tried": tried}


def _alternatives(
    step: PlannedStep, topology: Topology, num_classes: int, train: Mapping[str, Any], say: Say
) -> list[dict[str, Any]]:
    """The training step recomputing by every policy, scanned and unrolled; and in other parts."""
    own, parts = getattr(step.config, step.model_field), step.config.accumulate
    wanted = [
        (remat, scan, parts) for scan, remat in itertools.product((True, False), REMAT_POLICIES)
    ]
    wanted += [(own.remat, own.scan_layers, other) for other in _other_parts(step, topology)]
    found = []
    for remat, scan, accumulate in wanted:
        as_it_is = (remat, scan, accumulate) == (own.remat, own.scan_layers, parts)
        say(f"{step.name}: remat={remat} scan_layers={scan} accumulate={accumulate}")
        other = step.with_model(scan_layers=scan, remat=remat).with_fields(accumulate=accumulate)
        try:
            figures = train if as_it_is else ask(other, topology, num_classes)
        except FerJaxError as error:
            figures = {"error": str(error)}
        found.append(
            {
                "remat": remat,
                "scan_layers": scan,
                "accumulate": accumulate,
                "configured": as_it_is,
                **figures,
            }
        )
    return found


def _other_parts(step: PlannedStep, topology: Topology) -> list[int]:
    """Into how many parts else the chips can share the batch: powers of two."""
    faces = step.config.batch_size // topology.chips
    powers = [2**power for power in range(_MOST_PARTS.bit_length())]
    return [n for n in powers if n != step.config.accumulate and faces % n == 0]
