"""Reads the text of a compiled program: its computations, how often each runs, what calls what."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

from fer_jax.errors import FerJaxError

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|branch_computations|called_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a program.

    Attributes:
        size: bytes, without the padding of tiles.
        space: of memory: 0 is the main one (HBM), others are on the chip.
    """

    size: int
    space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        name: without the percent sign.
        opcode: such as `all-gather`.
        shapes: of the result, of a tuple all its arrays.
        operands: names.
        attributes: what stands behind the operands.
        arguments: what stands between the parentheses.
        root: whether it is the computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    arguments: str
    root: bool

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return sum(shape.size for shape in self.shapes)

    @functools.cached_property
    def calls(self) -> tuple[str, ...]:
        """Computations that it runs, a loop's condition apart."""
        found = " ".join(_CALLS.findall(self.attributes))
        return tuple(_NAME.findall(found))

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
        computations: instructions by name, by the computation's name.
        entry: the name of the computation that is run.
    """

    computations: Mapping[str, Computation]
    entry: str

    def runs(self) -> Iterator[tuple[str, int]]:
        """Computations that run on their own (not in a fusion), and how often a step runs them.

        A loop's body counts as often as its condition says: from 0 in steps of 1 to a constant, as
        jax writes `scan` and `fori_loop`. One that depends on the numbers counts once.
        """
        yield from self._runs(self.entry, 1)

    def _runs(self, name: str, times: int) -> Iterator[tuple[str, int]]:
        yield name, times
        for one in self.computations[name].values():
            if one.opcode == "while":
                yield from self._runs(one.calls[0], times * (self.trip_count(one) or 1))
            elif one.opcode in ("call", "conditional"):
                for called in one.calls:
                    yield from self._runs(called, times)

    def inside(self, name: str) -> Iterator[tuple[str, Instruction]]:
        """The instructions of a computation and of those that it fuses, with where they stand."""
        for one in self.computations[name].values():
            yield name, one
            if one.opcode not in ("while", "call", "conditional"):
                for called in one.calls:
                    yield from self.inside(called)

    def trip_count(self, loop: Instruction) -> int | None:
        """How often the body of a loop runs; None where that depends on the numbers."""
        known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        condition = loop.attribute(r"condition=%?([\w.\-]+)")
        inside = [one for _, one in self.inside(condition)]
        limits = {
            int(one.arguments)
            for one in inside
            if one.opcode == "constant" and re.fullmatch(r"\d+", one.arguments)
        }
        compared = [one for one in inside if one.opcode == "compare"]
        if len(limits) == len(compared) == 1 and "direction=LT" in compared[0].attributes:
            return limits.pop()
        return None

    def unknown_loops(self) -> list[str]:
        """Loops that are taken to run once, since how often they do depends on the numbers."""
        return [
            one.name
            for name, _ in self.runs()
            for one in self.computations[name].values()
            if one.opcode == "while" and self.trip_count(one) is None
        ]


def parse_hlo(text: str) -> Module:
    """Reads the text of a compiled module (`compiled.as_text()`).

    Raises:
        FerJaxError: it holds no entry.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _INSTRUCTION.match(line)):
            one = _instruction(found[2], bool(found[1]), line[found.end() :])
            current[one.name] = one
    if not entry:
        raise FerJaxError("the text of the program holds no ENTRY computation")
    return Module(computations, entry)


def _instruction(name: str, root: bool, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.match(text, end)
    opened = opcode.end() - 1
    closed = _closing(text, opened)
    arguments = text[opened + 1 : closed]
    return Instruction(
        name=name,
        opcode=opcode[1],
        shapes=tuple(map(_shape, _ARRAY.finditer(text[:end]))),
        operands=tuple(_NAME.findall(arguments)),
        attributes=text[closed + 1 :],
        arguments=arguments,
        root=root,
    )


def _closing(text: str, opened: int) -> int:
    """Where the parenthesis that opens at a place is closed."""
    depth = 0
    for place in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise FerJaxError(f"the text of the program ends within parentheses: {text[:80]}")


def _shape(found: re.Match) -> Shape:
    kind, sides, layout = found.groups()
    digits = re.search(r"\d+", kind)
    bits = _BITS.get(kind, int(digits[0]) if digits else 8)
    count = math.prod(int(side) for side in sides.split(",") if side)
    space = _SPACE.search(layout or "")
    return Shape(count * bits // 8, int(space[1]) if space else 0)
