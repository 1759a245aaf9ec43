"""How many bytes a compiled program moves to and from the main memory of its chip."""

from fer_jax.plan.hlo import Computation, Instruction, Module

# They name, group or rename arrays, or run what is counted by itself.
_FREE = frozenset(
    {
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("while", "call", "conditional", "partition-id", "replica-id", "opt-barrier", "iota"),
    }
)
_CUTS = ("slice", "dynamic-slice")
# Of these the fused program reads or writes nothing itself.
_PASSED_ON = frozenset(
    {"tuple", "bitcast", "custom-call", "all-gather", "all-reduce", "reduce-scatter", "all-to-all"}
)


def memory_traffic(module: Module) -> int:
    """Bytes that one step reads from and writes to the main memory (HBM) of one chip.

    Each operation reads its operands once and writes its result once; what a fusion keeps inside,
    and what the compiler has put into memory on the chip, costs nothing. Of an operand that a
    fusion only cuts a slice from, and of a result that it only writes a slice of, the slice counts.
    Loops count as often as they run.

    Args:
        module: the program.
    """
    total = 0
    for name, times in module.runs():
        computation = module.computations[name]
        total += times * sum(
            _moved(module, computation, one)
            for one in computation.values()
            if one.opcode not in _FREE and not one.opcode.endswith("-done")
        )
    return total


def _moved(module: Module, computation: Computation, one: Instruction) -> int:
    if one.opcode.endswith("-start"):
        # A copy between memories: its result holds where it goes to and where it comes from.
        sizes = [(shape.size, shape.space) for shape in one.shapes]
        least = min((size for size, _ in sizes[:2]), default=0)
        return sum(least for _, space in sizes[:2] if not space)
    operands = [computation[name] for name in one.operands if name in computation]
    if one.opcode == "fusion":
        return _of_fusion(module, operands, one)
    if one.opcode == "custom-call" and not operands:
        return 0  # sets memory aside
    if one.opcode in _CUTS:
        return 2 * _main(one)
    if one.opcode == "dynamic-update-slice":
        return 2 * _main(operands[1])
    return sum(map(_main, operands)) + _main(one)


def _of_fusion(module: Module, operands: list[Instruction], one: Instruction) -> int:
    inside = module.computations[one.calls[0]]
    read = sum(
        min(_main(operand), _read(module, one.calls[0], _parameter(inside, i)))
        for i, operand in enumerate(operands)
        if _main(operand)
    )
    root = next(each for each in inside.values() if each.root)
    parts = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(one.shapes):
        return read + _main(one)
    pairs = zip(parts, one.shapes, strict=True)
    return read + sum(_written(inside, part) for part, shape in pairs if not shape.space)


def _parameter(computation: Computation, number: int) -> str:
    return next(
        one.name
        for one in computation.values()
        if one.opcode == "parameter" and one.arguments == str(number)
    )


def _read(module: Module, fused: str, name: str) -> int:
    """What a fusion reads of one array: all of it, unless it only cuts slices from it."""
    inside, total = module.computations[fused], 0
    for user in inside.values():
        if name not in user.operands:
            continue
        if user.opcode in _CUTS:
            total += user.size
        elif user.opcode == "bitcast":
            total += _read(module, fused, user.name)
        elif user.opcode == "fusion":
            called = user.calls[0]
            number = _parameter(module.computations[called], user.operands.index(name))
            total += _read(module, called, number)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode not in _PASSED_ON:
            return inside[name].size
    return total


def _written(inside: Computation, part: Instruction) -> int:
    """What a fusion writes of one result: nothing of an operand that it hands on."""
    while part.opcode == "bitcast":
        part = inside[part.operands[0]]
    if part.opcode == "parameter":
        return 0
    if part.opcode == "dynamic-update-slice":
        return inside[part.operands[1]].size
    return part.size


def _main(one: Instruction) -> int:
    """Bytes of a result that lie in the main memory."""
    return sum(shape.size for shape in one.shapes if not shape.space)
