"""The TPU chips that are planned for, and slices of them by name."""

import dataclasses
import math
import re
from collections.abc import Mapping

from fer_jax.errors import UsageError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        name: as it stands in topologies.
        memory: HBM, bytes; the compiler keeps a little of it for itself.
        flops: peak of bfloat16 products, operations a second. Products of float32 are made of
            bfloat16 ones at jax's default precision, so it bounds them too.
        memory_speed: of HBM, bytes a second.
        link_speed: what a chip sends over all its links to its neighbours, bytes a second: half of
            the bidirectional figure, which is also the all-reduce bandwidth of a pod by its chips.
        network_speed: a chip's share of the network between slices, bytes a second; None where
            that page does not say it.
        dimensions: of its grids.
        options: for the compiler's description of a slice.
        source: where the figures stand.

    Source: Cloud TPU documentation, read in November 2026; memory of v5p as it can be allocated.
    """

    name: str
    memory: int
    flops: float
    memory_speed: float
    link_speed: float
    network_speed: float | None
    dimensions: int
    options: Mapping[str, str]
    source: str


_DOCS = "https://docs.cloud.google.com/tpu/docs/"
# A v4 chip has two cores; joined, as they always are today, they are one device.
_JOINED = {"chip_config_name": "megacore"}
_ALL = (
    Chip("v4", 32 * GIB, 275e12, 1200e9, 1.1e15 / 4096, None, 3, _JOINED, _DOCS + "v4"),
    Chip("v5e", 16 * GIB, 197e12, 819e9, 200e9, 6.4e12 / 8 / 256, 2, {}, _DOCS + "v5e"),
    Chip("v5p", 95 * GIB, 459e12, 2765e9, 600e9, 50e9 / 8, 3, {}, _DOCS + "v5p"),
    Chip("v6e", 32 * GIB, 918e12, 1638e9, 400e9, None, 2, {}, _DOCS + "v6e"),
)
CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in _ALL}
# What the compiler must find in the environment before jax starts. It asks for the machine that it
# would be on; the topology that is compiled for is named to it apart.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is held, so two may compile at once
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of chips, all alike.

    Attributes:
        name: of one slice, such as `v5e:4x4`.
        chip: its kind.
        slices: how many of them.
        size: chips of one slice.
    """

    name: str
    chip: Chip
    slices: int
    size: int

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * self.size


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads `v5e:16x16`: the kind of chip and the sides of the grid.

    Args:
        name: of one slice.
        slices: how many of them are joined by the network between hosts.

    Raises:
        UsageError: no such chip, or a grid that it has not.

    Example:
        >>> parse_topology("v5e:4x4").chips
        16
    """
    kind, _, sides = name.partition(":")
    if kind not in CHIPS:
        raise UsageError(f"--topology {name}: must begin with one of {', '.join(CHIPS)}")
    chip = CHIPS[kind]
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", sides):
        raise UsageError(
            f"--topology {name}: write the sides of the grid, such as {_example(chip)}"
        )
    grid = [int(side) for side in sides.split("x")]
    if len(grid) != chip.dimensions:
        raise UsageError(
            f"--topology {name}: {kind} has grids of {chip.dimensions} sides, such as "
            f"{_example(chip)}"
        )
    if slices < 1:
        raise UsageError(f"--slices {slices}: must be at least 1")
    return Topology(name, chip, slices, math.prod(grid))


def _example(chip: Chip) -> str:
    return f"{chip.name}:4x4" if chip.dimensions == 2 else f"{chip.name}:2x2x2"
