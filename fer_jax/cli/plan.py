"""`fer-jax plan`: what a training run needs on TPUs, before they are rented."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import FerJaxError, UsageError

_TEXT = """\
Compiles the training and evaluation steps of a config for TPUs that are not there, with the real
compiler, and says what each chip would need: memory by kind, whether it fits, operations,
collectives, the least time of a step and what bounds it, and the largest batch that fits. Data
and weights are not needed; a backbone or sources that are named are looked at for their sizes.

fields of the config: --config.FIELD=VALUE, e.g. --config.mesh.fsdp=4 --config.batch_size=1024

A config that does not fit is an answer, with the batch that would: the exit code is 0, or 1 with
--require-fit. A compilation takes from seconds to two minutes, of unrolled layers longer.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax plan",
        description=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE.py", required=True, help="a file such as those in configs/")
    add(
        "--topology", default="v5e:4x4", metavar="CHIP:GRID",
        help="v4:2x2x2, v5e:16x16, v5p:2x2x2, v6e:4x4 and the like (%(default)s)",
    )  # fmt: skip
    add("--slices", type=int, default=1, metavar="N", help="of that topology each (%(default)s)")
    add("--classes", type=int, default=8, metavar="C", help="of the labels (%(default)s)")
    add(
        "--widths", metavar="NAME=N,...",
        help="of frozen features that are fused (those of the encoders, else main=768,aux=768)",
    )  # fmt: skip
    add("--no-search", action="store_true", help="leave out the largest batch, if the own fits")
    add(
        "--alternatives", action="store_true",
        help="compare remat none, dots and full, layers scanned and unrolled, and the batch in 1 "
        "to 8 parts (minutes)",
    )  # fmt: skip
    add("--require-fit", action="store_true", help="exit with 1 if a step does not fit")
    add("--json", action="store_true", help="for programs")
    add("--out", metavar="DIR", help="gets plan.json, plan.md and plan.png")
    add("--overwrite", action="store_true", help="replace what an earlier plan left in --out")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax plan --help`."""
    options, fields = _parser().parse_known_args(argv)
    if options.classes < 1:
        raise UsageError(f"--classes {options.classes} must be at least 1")
    widths = _widths(options.widths)

    from fer_jax.plan.chips import parse_topology

    topology = parse_topology(options.topology, options.slices)

    from fer_jax.atomic import check_free
    from fer_jax.cli.configs import parse_config
    from fer_jax.plan.report import PLAN_FILE, plan_lines, write_plan
    from fer_jax.plan.run import make_plan
    from fer_jax.plan.steps import ANY_CONFIG

    config = parse_config("plan", [f"--config={options.config}", *fields], *ANY_CONFIG)
    if options.out:
        check_free(Path(options.out), marker=PLAN_FILE, overwrite=options.overwrite)
    plan = {"config": options.config} | make_plan(
        config,
        topology,
        widths=widths,
        num_classes=options.classes,
        search=not options.no_search,
        alternatives=options.alternatives,
        say=_say if sys.stderr.isatty() else lambda line: None,
    )
    if options.out:
        write_plan(plan, options.out, overwrite=options.overwrite)
    print(json.dumps(plan, indent=2) if options.json else "\n".join(plan_lines(plan)))
    fits = all(step[name]["fits"] for step in plan["steps"] for name in ("train", "evaluate"))
    if options.require_fit and not fits:
        raise FerJaxError(f"{options.config}: does not fit {options.topology}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _widths(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if not name.isidentifier() or not number.isdecimal() or not int(number):
            raise UsageError(f"--widths {text}: write them as in main=768,aux=768")
        found[name] = int(number)
    return found
