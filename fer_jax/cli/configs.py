"""`--config=FILE.py --config.FIELD=VALUE --workdir=DIR`, for every command that trains."""

import dataclasses
import os
import runpy
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from fer_jax.errors import UsageError
from fer_jax.train import processes
from fer_jax.train.config_fields import check_field, freeze


def parse(
    command: str, argv: Sequence[str], *kinds: type, distributed: bool = False
) -> tuple[Any, str]:
    """Reads the options of a command that takes a config file.

    The flags live in a FlagValues of their own and are read at once: absl's global ones would
    answer a misspelt field with a traceback.

    Args:
        command: its name.
        argv: its arguments.
        *kinds: the dataclasses that a config may be frozen to. A config file says which by the
            field `task`, where a dataclass has one, else by its fields; the first is without.
        distributed: the command may run in several processes: takes `--distributed`, and joins the
            others.

    Returns:
        The frozen config and the workdir.

    Raises:
        UsageError: an option, a field or the config file is wrong.
        FerJaxError: the other processes cannot be joined.
    """
    program, values = f"fer-jax {command}", flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    if distributed:
        others = flags.DEFINE_string("distributed", "", "the other processes", flag_values=values)
    config = _parse(program, values, argv, kinds)
    if not workdir.value:
        raise UsageError("--workdir=DIR is missing")
    if "://" in workdir.value:
        raise UsageError(
            f"--workdir={workdir.value}: must be a folder; a log cannot be appended to in a bucket"
        )
    if distributed and others.value:
        processes.join(others.value)
    return config, workdir.value


def parse_config(command: str, argv: Sequence[str], *kinds: type) -> Any:
    """As `parse`, of a command that trains nothing: it takes no workdir, and gives the config."""
    return _parse(f"fer-jax {command}", flags.FlagValues(), argv, kinds)


def _parse(
    program: str, values: flags.FlagValues, argv: Sequence[str], kinds: Sequence[type]
) -> Any:
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=[program, *argv]
    )
    _check_config_file(argv)
    cls = _kind(argv, kinds)
    for argument in argv:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith("config."):
            check_field(cls, name)
    try:
        rest = values([program, *argv])
    except Exception as error:  # a config file is a program and may raise anything
        raise UsageError(f"{_one_line(error)}; see `{program} --help`") from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not an option; fields are --config.FIELD=VALUE")
    if config.value is None:
        raise UsageError("--config=FILE.py is missing; see configs/")
    return freeze(cls, config.value)


def _kind(argv: Sequence[str], kinds: Sequence[type]) -> type:
    """Which kind of config a file makes; of one that fails, absl says what is wrong with it."""
    if len(kinds) == 1:
        return kinds[0]
    path, _, argument = next(_config_files(argv), "").partition(":")
    try:
        make = runpy.run_path(path)["get_config"]
        config = make(argument) if argument else make()
        task, names = config.get("task"), set(config)
    except Exception:
        return kinds[0]
    alike = [kind for kind in kinds if getattr(kind, "task", None) == task] or [kinds[0]]
    # Of those that say no task, or the same, the one that has the fields.
    return next((kind for kind in alike if names <= _fields(kind)), alike[0])


def _fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _check_config_file(argv: Sequence[str]) -> None:
    """Names a config file that is absent before absl does, in its own many lines."""
    for path in _config_files(argv):
        file = path.split(":", 1)[0]
        if not os.path.isfile(file):
            raise UsageError(f"--config={path}: no such file; see configs/")


def _config_files(argv: Sequence[str]) -> Iterator[str]:
    for position, argument in enumerate(argv):
        if argument in ("--config", "-config"):
            path = argv[position + 1] if position + 1 < len(argv) else ""
        elif argument.startswith(("--config=", "-config=")):
            path = argument.split("=", 1)[1]
        else:
            continue
        yield path


def _one_line(error: Exception) -> str:
    # absl wraps the config file's own error in a traceback, of which the last line says it.
    text = str(error.args[0] if error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [repr(error)]
    text = lines[-1] if "Traceback" in text else " ".join(lines)
    where = f" ({error.filename}, line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return f"{text}{where}"
