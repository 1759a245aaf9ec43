"""A pickle reader that cannot run code: a stack machine with a short list of opcodes and names.

`pickle.Unpickler`, even with `find_class` overridden, imports modules, calls `__setstate__`, and
lets a small file ask for huge memory. This one never imports anything: a name in the file is looked
up in a table that the caller gives, and an opcode or a name outside the tables ends the reading.

Source: the opcodes' meanings in CPython's `pickletools`.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

MAX_BYTES = 8 << 20  # torch writes about 150 bytes a tensor
_MAX_STEPS = 1 << 19  # opcodes; torch writes about 45 a tensor
_MAX_WORK = 1 << 20  # items handed to functions, so that none is copied over and over
_MARK = object()


class RefusedPickleError(ValueError):
    """The pickle is damaged, or asks for something that is not on the list."""


class NotAllowedError(RefusedPickleError):
    """The pickle names a global that is not in the table."""


@dataclasses.dataclass
class Record:
    """An object that is remembered but not rebuilt: its class, arguments and state, all inert."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Symbol:
    """A name that a pickle may use; `make` is our own function, or None if it is not callable."""

    name: str
    make: Callable[..., Any] | None = None


def inert(name: str) -> Symbol:
    """A symbol whose instances become a `Record`."""
    return Symbol(name, lambda *arguments: Record(name, arguments))


class _Machine:
    """The state while reading: a stack, a memo, and one method for each group of opcodes."""

    def __init__(
        self, symbols: Mapping[str, Symbol], persistent_load: Callable[[Any], Any]
    ) -> None:
        self.symbols = symbols
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.work = 0

    def since_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise RefusedPickleError("the pickle is damaged: a mark is missing")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise RefusedPickleError("the pickle is damaged: a value is missing")
        return value

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise RefusedPickleError(f"the pickle is damaged: no {kind.__name__} to add to")
        return value

    def find(self, module: str, name: str) -> Symbol:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickleError("the pickle is damaged: a global without a name")
        full = f"{module}.{name}"
        if full not in self.symbols:
            raise NotAllowedError(shown(full))
        return self.symbols[full]

    def call(self, symbol: Any, arguments: Any) -> Any:
        if type(symbol) is not Symbol or symbol.make is None or type(arguments) is not tuple:
            raise RefusedPickleError(f"the pickle calls {_short(symbol)}, which is not allowed")
        for part in arguments:
            if type(part) in (list, tuple, dict, set):
                self.work += len(part)
            elif type(part) in (str, bytes):
                self.work += len(part) // 16
        if self.work > _MAX_WORK:
            raise RefusedPickleError("the pickle copies its values over and over")
        return symbol.make(*arguments)

    def build(self, value: Any, state: Any) -> None:
        if type(value) is Record:
            value.state = state
        elif type(value) is not dict:  # an OrderedDict's attributes (torch: _metadata) are not kept
            raise RefusedPickleError(f"the pickle sets the state of {_short(value)}")

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise RefusedPickleError("the pickle is damaged: a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

    def step(self, name: str, argument: Any) -> None:
        """Runs one opcode; `pickletools` has decoded its argument."""
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _PUT:
            self.memo[argument] = stack[-1]
        elif name in _GET:
            stack.append(self.memo[argument])
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "GLOBAL":
            stack.append(self.find(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            stack.append(self.find(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, symbol = self.pop(), self.pop()
            stack.append(self.call(symbol, arguments))
        elif name == "BUILD":
            state = self.pop()
            self.build(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(self.persistent_load(self.pop()))
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name == "APPEND":
            value = self.pop()
            self.top(list).append(value)
        elif name == "APPENDS":
            items = self.since_mark()
            self.top(list).extend(items)
        elif name == "ADDITEMS":
            items = self.since_mark()
            self.top(set).update(map(check_key, items))
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            self.set_items([key, value])
        elif name == "SETITEMS":
            self.set_items(self.since_mark())
        elif name not in ("PROTO", "FRAME"):
            raise RefusedPickleError(f"the pickle uses the opcode {name}, which is not allowed")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = {"BINPUT", "LONG_BINPUT"}
_GET = {"BINGET", "LONG_BINGET"}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES"),
}


def shown(name: str) -> str:
    """A name of the file as a message can hold it: in one line, printable and short."""
    return repr(name if len(name) <= 100 else f"{name[:100]}...")[1:-1]


def _short(value: Any) -> str:
    return value.name if isinstance(value, Symbol | Record) else f"a {type(value).__name__}"


def check_key(key: Any) -> Any:
    """A dictionary key that is a plain value, or a short tuple of texts.

    Others are refused because they can be made slow to hash: (t, t) of (s, s) of ..., or numbers,
    or tuples of numbers, that all have one hash.
    """
    several = type(key) is tuple and len(key) <= 8
    for part in key if several else (key,):
        small = type(part) in (str, bytes, bool, type(None))
        if not small and (several or type(part) is not int or abs(part) >= 1 << 48):
            raise RefusedPickleError(f"the pickle has {_short(part)} as a dictionary's key")
    return key


def read_pickle(
    data: bytes, symbols: Mapping[str, Symbol], persistent_load: Callable[[Any], Any]
) -> Any:
    """Reads one pickle without importing or calling anything but the caller's own functions.

    Args:
        data: the pickle.
        symbols: the globals that it may name, by `module.name`.
        persistent_load: makes an object of a persistent id.

    Returns:
        The value: plain containers and scalars, `Record`s, and what the symbols make.

    Raises:
        NotAllowedError: it names another global; the message is that name.
        RefusedPickleError: it is damaged, too large, or uses an opcode that is not allowed.

    Example:
        >>> import pickle
        >>> read_pickle(pickle.dumps({"epoch": (3, 0.5)}, protocol=2), {}, id)
        {'epoch': (3, 0.5)}
    """
    if len(data) > MAX_BYTES:
        raise RefusedPickleError(f"the pickle has {len(data)} bytes, more than {MAX_BYTES}")
    machine = _Machine(symbols, persistent_load)
    position = 0
    try:
        for step, (opcode, argument, at) in enumerate(pickletools.genops(io.BytesIO(data))):
            position = at or 0
            if step > _MAX_STEPS:  # an empty list of one byte in the file takes sixty in memory
                raise RefusedPickleError(f"the pickle has more than {_MAX_STEPS} opcodes")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        value = machine.pop()
    except RefusedPickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        # What damaged bytes set off in pickletools or in the symbols' functions.
        raise RefusedPickleError(f"the pickle is damaged at byte {position}") from error
    if machine.stack:
        raise RefusedPickleError("the pickle is damaged: values are left over")
    return value
