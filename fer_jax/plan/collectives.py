"""What the chips of a compiled program send each other: by kind, how often, how many bytes."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from fer_jax.plan.hlo import Instruction, Module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_LISTS = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_SIZE = re.compile(r"'([^']+)'=(\d+)")
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
        kind: of `KINDS`.
        between_slices: they cross the network between slices.
        count: in one step, those in a loop as often as it runs.
        size: bytes of the whole arrays on one chip: reduced, gathered, or before they are
            scattered.
        sent: bytes that one chip sends, where n chips share the work as well as can be:
            2 (n - 1) / n of the size to reduce it everywhere, (n - 1) / n to gather or to scatter.
    """

    kind: str
    between_slices: bool
    count: int
    size: int
    sent: int


def count_collectives(module: Module, slices: Sequence[int]) -> list[Collective]:
    """Counts the collectives of a program.

    The TPU compiler writes one that overlaps with other work several times, under one channel: it
    counts once. It writes a reduce-scatter as an all-reduce in a fusion of that name, and what
    crosses the network between slices as something that is sent to the host.

    Args:
        module: the program.
        slices: the number of the slice of each device, in the program's order.

    Returns:
        A row for each kind that occurs, those between slices apart.
    """
    rows: dict[tuple[str, bool], list[int]] = {}
    for name, times in module.runs():
        seen = set()
        for where, one in module.inside(name):
            kind, channel = _kind(where, one), one.attribute(r"channel_id=(\d+)") or one.name
            if kind is None or (kind, channel) in seen:
                continue
            seen.add((kind, channel))
            if one.opcode == "send":
                number, crossing, size = len(set(slices)), True, one.shapes[0].size
            else:
                groups = _groups(kind, one, len(slices))
                number = groups.shape[1]
                of = np.asarray(slices)[groups]
                crossing, size = bool((of != of[:, :1]).any()), _size(kind, one, number)
            if number < 2:
                continue
            row = rows.setdefault((kind, crossing), [0, 0, 0])
            row[0] += times
            row[1] += times * size
            row[2] += times * sent_bytes(kind, size, number)
    return [Collective(kind, crossing, *row) for (kind, crossing), row in sorted(rows.items())]


def _kind(where: str, one: Instruction) -> str | None:
    """Which kind of collective an instruction is; None if it is none."""
    if one.opcode == "send":
        between = one.attribute(r'_xla_megascale_transfer_type="(\w+)"')
        if between is None:
            return None
        kind = between.lower().replace("_", "-")
        return kind if kind in KINDS else "collective-permute"
    kind = one.opcode.removesuffix("-start")
    if kind == "all-reduce" and where.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return kind if kind in KINDS else None


def _groups(kind: str, one: Instruction, devices: int) -> Int[np.ndarray, "groups members"]:
    if kind == "collective-permute":
        return _pairs(one)
    return replica_groups(one.attributes, devices)


def sent_bytes(kind: str, size: int, number: int) -> int:
    """Bytes that each of `number` chips sends at least; see `Collective`.

    Example:
        >>> sent_bytes("all-reduce", 1024, 4)
        1536
    """
    if kind == "collective-permute":
        return size
    return (2 if kind == "all-reduce" else 1) * size * (number - 1) // number


def _size(kind: str, one: Instruction, number: int) -> int:
    """Bytes of the whole array; what is started holds operands and results."""
    sizes = [shape.size for shape in one.shapes]
    if kind == "collective-permute" and one.opcode.endswith("-start"):
        return sizes[1]
    if kind == "all-gather" and one.opcode.endswith("-start"):
        return sum(sizes[len(sizes) // 2 :])
    # An all-reduce that only stands for a scatter has the whole array already.
    scattered = one.opcode.startswith("reduce-scatter")
    return sum(sizes) * (number if scattered else 1)


def replica_groups(attributes: str, devices: int) -> Int[np.ndarray, "groups members"]:
    """The devices that work together, from the attributes of a collective.

    Args:
        attributes: text with `replica_groups=` in one of XLA's three forms; without any, all
            devices are one group.
        devices: how many there are.

    Example:
        >>> replica_groups("replica_groups=[2,2]<=[4]", 4).tolist()
        [[0, 1], [2, 3]]
    """
    if found := _IOTA.search(attributes):
        sides, shape, order = found.groups()
        return _iota(shape, order).reshape(_numbers(sides)[0], -1)
    if found := _MESH.search(attributes):
        axes, shape, order, named = found.groups()
        return _mesh_groups(_SIZE.findall(axes), shape, order, _AXIS.findall(named))
    if (found := _LISTS.search(attributes)) and found[1]:
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]*)\}", found[1])])
    return np.arange(devices)[None]


def _mesh_groups(
    sizes: list[tuple[str, str]], shape: str | None, order: str | None, named: list[tuple[str, ...]]
) -> Int[np.ndarray, "groups members"]:
    """Groups over named axes of a mesh; `axis:(a)b` is the part of size b behind one of size a."""
    split, over = [], []
    for name, size in sizes:
        parts = [(int(before), int(own)) for axis, before, own in named if axis == name and own]
        if any(axis == name and not own for axis, _, own in named):
            parts = [(1, int(size))]
        at = 1
        for before, own in sorted(parts):
            split += [before // at, own]
            over += [False, True]
            at = before * own
        split.append(int(size) // at)
        over.append(False)
    ids = _iota(shape, order) if shape else np.arange(math.prod(split))
    axes = [i for i, one in enumerate(over) if not one] + [i for i, one in enumerate(over) if one]
    members = math.prod(own for own, one in zip(split, over, strict=True) if one)
    return ids.reshape(split).transpose(axes).reshape(-1, members)


def _iota(shape: str, order: str | None) -> Int[np.ndarray, "n"]:
    sides = _numbers(shape)
    ids = np.arange(math.prod(sides)).reshape(sides)
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _pairs(one: Instruction) -> Int[np.ndarray, "groups members"]:
    found = _PAIRS.search(one.attributes)
    return np.array([_numbers(pair) for pair in re.findall(r"\{([\d,]*)\}", found[1])])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
