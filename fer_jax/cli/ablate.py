"""`fer-jax ablate`: what each piece of the method is worth, on one's own data."""

import signal
import sys
from collections.abc import Sequence

_HELP = """usage: fer-jax ablate --config=FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Compares views, fusions, losses, smoothing, cleaning, augmentation, synthetic faces, and frozen
with fine-tuned encoders, on data sets made by `fer-jax prepare`. What cells share is run once;
each stage is a command of its own, in a process of its own. DIR gets
  table.md       macro-F1 with its interval, the difference from the first cell, F1 of each class,
                 parameters, FLOPs, milliseconds, wall time, memory, the command for each cell
  table.csv      the same for programs; ablation.json has all of it
  figure.png     the intervals as a picture
  commands/      for each stage its config file, what it printed, and what it took

  --config=FILE.py         a file with get_config(), such as configs/ablate.py
  --config.FIELD=VALUE     changes one field, e.g. --config.axes.loss=balanced,plain,focal
  --workdir=DIR            started again on the same folder, the grid goes on where it was

The fields are described in fer_jax/recipes/ablation_config.py. Exit codes: 0 done, 1 a cell or
more failed, 2 wrong use.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax ablate --help`."""
    if any(argument in ("-h", "--help", "-help", "--helpfull") for argument in argv):
        print(_HELP, end="")
        return 0
    from fer_jax.cli.configs import parse
    from fer_jax.recipes.ablation_config import AblateConfig

    config, workdir = parse("ablate", argv, AblateConfig)
    import jax

    # Scores are counted on the CPU: the accelerator is free for the stages, which may be alone
    # on it only.
    jax.config.update("jax_platforms", "cpu")
    from fer_jax.recipes.ablation import run_ablation
    from fer_jax.recipes.ablation_table import table_text

    # Stopped by a supervisor, it stops the command under way, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    document = run_ablation(
        config,
        workdir,
        command=["fer-jax", "ablate", *_kept(argv)],
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(table_text(document), end="")
    return int(any("error" in cell for cell in document["cells"]))


def _kept(argv: Sequence[str]) -> list[str]:
    """The arguments without the workdir and the axes."""
    kept, skip = [], False
    for argument in argv:
        name, equals, _ = argument.lstrip("-").partition("=")
        if skip:
            skip = False
        elif name == "workdir" or name.startswith("config.axes."):
            skip = not equals
        else:
            kept.append(argument)
    return kept
