"""From a ConfigDict to a frozen dataclass: every field is known, of its type and in its range.

A dataclass says in `CHOICES` which texts a field may be, and in `RANGES` between which numbers it
lies, ends included, None for no end.
"""

import dataclasses
import difflib
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from ml_collections import config_dict

from fer_jax.errors import FerJaxError, UsageError

Choices = Mapping[str, Collection[str]]
Ranges = Mapping[str, tuple[float, float | None]]
Config = TypeVar("Config")


def freeze(cls: type[Config], config: Mapping[str, Any] | config_dict.ConfigDict) -> Config:
    """Turns a ConfigDict (or nested dict) into a frozen dataclass.

    Args:
        cls: the dataclass; its fields may be dataclasses themselves.
        config: values of some or all fields.

    Returns:
        The dataclass, with its defaults for what was left out.

    Raises:
        UsageError: an unknown field (with the nearest known ones), a wrong type, or a value out of
            range; all by name.
    """
    if isinstance(config, config_dict.ConfigDict):
        config = config.to_dict()
    return _freeze(cls, config, "config")


def check_field(cls: type, where: str) -> None:
    """Raises UsageError unless `where` (`config.optimizer.name`) names a field of a dataclass."""
    known = "config"
    for name in where.split(".")[1:]:
        kinds = _kinds(cls) if dataclasses.is_dataclass(cls) else {}
        if name not in kinds:
            raise _no_such_field(known, name, kinds)
        known, cls = f"{known}.{name}", kinds[name]


def _kinds(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _freeze(cls: type, values: Mapping[str, Any], where: str) -> Any:
    kinds = _kinds(cls)
    fields = {}
    for name, value in values.items():
        if name not in kinds:
            raise _no_such_field(where, name, kinds)
        fields[name] = _typed(kinds[name], value, f"{where}.{name}")
    try:
        frozen = cls(**fields)
    except FerJaxError as error:
        # It begins with the dataclass's own name for the field, such as `augmentation.flip`.
        raise UsageError(f"{where}.{str(error).partition('.')[2]}") from error
    _check(frozen, where)
    return frozen


def _no_such_field(where: str, name: str, known: Mapping[str, Any]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {where}.{near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
    return UsageError(f"{where}.{name}: no such field; {hint}")


def _typed(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}={value!r}: holds fields, set one of them")
        return _freeze(kind, value, where)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        if not isinstance(value, (tuple, list)) or len(value) != len(parts):
            raise UsageError(f"{where}={value!r}: must be {len(parts)} numbers")
        pairs = zip(parts, value, strict=True)
        return tuple(_typed(part, item, where) for part, item in pairs)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{where}={value!r}: must be {kind.__name__}")
    return value


def _check(config: Any, where: str) -> None:
    for name, known in getattr(config, "CHOICES", {}).items():
        value = getattr(config, name)
        if value not in known:
            raise UsageError(f"{where}.{name}={value!r}: must be one of {', '.join(known)}")
    for name, (low, high) in getattr(config, "RANGES", {}).items():
        value = getattr(config, name)
        if not (value >= low and (high is None or value <= high)):
            bound = f"at least {low}" if high is None else f"in [{low}, {high}]"
            raise UsageError(f"{where}.{name}={value}: must be {bound}")
