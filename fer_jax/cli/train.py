"""`fer-jax train`: fine-tunes a bundle, or trains a fresh model, on prepared faces."""

import os
from collections.abc import Sequence

from fer_jax.errors import UsageError

_HELP = """usage: fer-jax train --config=FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Fine-tunes a bundle (or trains a fresh model) on data sets made by `fer-jax prepare`.

  --config=FILE.py         a file with get_config(), such as those in configs/
  --config.FIELD=VALUE     changes one field, e.g. --config.optimizer.learning_rate=1e-3
  --workdir=DIR            gets config.json, log.jsonl, tensorboard/, checkpoints/ and bundle/;
                           started again on the same folder, the run goes on where it was

The fields are described in fer_jax/train/config.py. Exit codes: 0 done, 1 a failure, 2 wrong use.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax train --help`."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        print(_HELP, end="")
        return 0
    config, workdir = _parse(argv)

    from fer_jax.train.finetune import finetune

    finetune(config, workdir)
    return 0


def _parse(argv: Sequence[str]):
    """The frozen config and the workdir.

    The flags live in a FlagValues of their own and are read at once: absl's global ones would
    answer a misspelt field with a traceback.
    """
    from absl import flags
    from ml_collections import config_flags

    from fer_jax.train.config import check_field, freeze

    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=["fer-jax train", *argv]
    )
    workdir = flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    _check_config_file(argv)
    for argument in argv:
        name = argument.lstrip("-").split("=", 1)[0]
        if argument.startswith("-") and name.startswith("config."):
            check_field(name)
    try:
        rest = values(["fer-jax train", *argv])
    except Exception as error:  # a config file is a program and may raise anything
        raise UsageError(_one_line(error)) from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not an option; fields are --config.FIELD=VALUE")
    if config.value is None:
        raise UsageError("--config=FILE.py is missing; see configs/")
    if not workdir.value:
        raise UsageError("--workdir=DIR is missing")
    return freeze(config.value), workdir.value


def _check_config_file(argv: Sequence[str]) -> None:
    """Names a config file that is absent before absl does, in its own many lines."""
    for position, argument in enumerate(argv):
        if argument in ("--config", "-config"):
            path = argv[position + 1] if position + 1 < len(argv) else ""
        elif argument.startswith(("--config=", "-config=")):
            path = argument.split("=", 1)[1]
        else:
            continue
        file = path.split(":", 1)[0]
        if not os.path.isfile(file):
            raise UsageError(f"--config={path}: no such file; see configs/")


def _one_line(error: Exception) -> str:
    # absl wraps the config file's own error in a traceback, of which the last line says it.
    text = str(error.args[0] if error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [repr(error)]
    text = lines[-1] if "Traceback" in text else " ".join(lines)
    where = f" ({error.filename}, line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return f"{text}{where}; see `fer-jax train --help` and the fields in fer_jax/train/config.py"
