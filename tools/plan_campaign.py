"""Plans every config of configs/ and writes the table of docs/plan.md.

    make campaign-plan
    python tools/plan_campaign.py --add --configs pretrain_tiny --topologies v5e:4x4 --fsdp

Fine-tuning, two views and pre-training of ViT-B are compiled for all of TOPOLOGIES, every other
config for one of them; and those of SHARDED with their parameters split over more and more chips.
Batches that the chips cannot share are rounded up. It takes about an hour on two cores. With --add
the page's other rows stay as they are.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fer_jax.atomic import atomic_file
from fer_jax.cli.configs import parse_config
from fer_jax.errors import FerJaxError
from fer_jax.plan.chips import Topology, parse_topology
from fer_jax.plan.compiler import ask, check_compiler
from fer_jax.plan.steps import ANY_CONFIG, PlannedStep, planned

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "plan.md"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v4:2x2x2", "v5p:2x2x2", "v6e:4x4")
EVERYWHERE = ("finetune_vit_base", "emotic_mae", "pretrain_mae_vit_base")
SHARDED = ("finetune_vit_base", "pretrain_mae_vit_base")
FSDP = (1, 2, 4, 8, 16)
GIB = 2**30

Rows = list[dict[str, Any]]


def cases(names: list[str], topologies: list[str]) -> Iterator[tuple[str, str]]:
    """(config, topology), the first topology first."""
    for topology in topologies:
        for name in names:
            if topology == topologies[0] or name in EVERYWHERE:
                yield name, topology


def steps_of(name: str, topology: Topology, *fields: str) -> list[PlannedStep]:
    """The runs of a config, their batches rounded up to a multiple of the chips."""
    path = ROOT / "configs" / f"{name}.py"
    return [
        step.with_fields(
            batch_size=_up(step.config.batch_size, topology.chips * step.config.accumulate),
            evaluate_batch_size=_up(step.config.evaluate_batch_size, topology.chips),
        )
        for step in planned(parse_config("plan", [f"--config={path}", *fields], *ANY_CONFIG))
    ]


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def plan_one(name: str, place: str, *fields: str) -> Rows:
    """A row for each program of a config."""
    topology = parse_topology(place)
    rows = []
    for step in steps_of(name, topology, *fields):
        for program in ("train", "evaluate") if not fields else ("train",):
            row = {"config": name, "step": step.name, "topology": place, "program": program}
            try:
                row |= ask(step, topology, 8, program)
            except FerJaxError as error:
                row["error"] = str(error)
            print(json.dumps({k: row.get(k) for k in (*row, "fits")})[:160], file=sys.stderr)
            rows.append(row)
    return rows


def table(rows: Rows) -> list[str]:
    """All plans, a line each."""
    lines = [
        "| config | step | topology | batch | fits | GiB a chip | of "
        "| TFLOP a step | counted / formula | compute ms | memory ms | links ms | bound | s |",
        "|---" * 14 + "|",
    ]
    for row in rows:
        head = f"| {row['config']} | {row['step']}, {row['program']} | {row['topology']} "
        if "error" in row:
            lines.append(head + f"| {row['error']}" + " |" * 11)
            continue
        flops, line = row["flops"], row.get("roofline", {})
        times = [
            f"{1000 * line[name]:.2f}" if line else "-" for name in ("compute", "memory", "links")
        ]
        lines.append(
            head + f"| {row['batch_size']} | {'yes' if row['fits'] else 'NO'} "
            f"| {row['needed'] / GIB:.2f} "
            f"| {parse_topology(row['topology']).chip.memory / GIB:.0f} "
            f"| {flops['counted'] / 1e12:.3f} | {flops['counted'] / flops['formula']:.4f} "
            f"| {' | '.join(times)} | {line.get('bound', '-')} "
            f"| {row.get('compile_seconds', 0):.0f} |"
        )
    return lines


def sharding_table(rows: Rows) -> list[str]:
    """The compiler's account of the arguments against arithmetic, by the size of fsdp."""
    lines = [
        "| config | fsdp | params + optimiser, arithmetic, MiB | times fsdp | batch, MiB "
        "| arguments by the compiler, MiB | temporaries, MiB | all-gather | reduce-scatter "
        "| all-reduce |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        kept, fsdp = row["arithmetic"], row["mesh"]["fsdp"]
        state = (kept["params"] + kept["optimizer"]) / 2**20
        sent = {one["kind"]: one for one in row["collectives"]}
        kinds = [
            f"{sent[kind]['count']}, {sent[kind]['size'] / 2**20:.0f} MiB" if kind in sent else "-"
            for kind in ("all-gather", "reduce-scatter", "all-reduce")
        ]
        lines.append(
            f"| {row['config']} | {fsdp} | {state:.1f} | {state * fsdp:.1f} "
            f"| {kept['batch'] / 2**20:.1f} "
            f"| {row['memory']['arguments'] / 2**20:.1f} "
            f"| {row['memory']['temporaries'] / 2**20:.0f} | {' | '.join(kinds)} |"
        )
    return lines


def plan_place(cells: list[str]) -> tuple[Any, ...]:
    """Where a line of `table` stands."""
    config, _, topology = cells[:3]
    return TOPOLOGIES.index(topology), config not in EVERYWHERE, config


def sharding_place(cells: list[str]) -> tuple[Any, ...]:
    """Where a line of `sharding_table` stands."""
    return SHARDED.index(cells[0]), int(cells[1])


def fill(page: str, name: str, lines: list[str]) -> str:
    """The page with other lines between `<!-- name -->` and `<!-- end of name -->`."""
    before, _, after = _split(page, name)
    return before + "\n" + "\n".join(lines) + "\n\n" + after


def add(page: str, name: str, lines: list[str], same: int, place: Callable) -> str:
    """The page with more lines there, in order; a line takes the place of one that is of the same.

    Args:
        page: its text.
        name: of the table.
        lines: head, rule, and a line for each row.
        same: how many of the first cells say what a line is of.
        place: what lines are ordered by, from their cells.
    """
    _, old, _ = _split(page, name)
    head, rule, *new = lines
    by_key = {
        tuple(cells[:same]): (cells, line)
        for line in [*old.strip().splitlines()[2:], *new]
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    ordered = sorted(by_key.values(), key=lambda one: place(one[0]))
    return fill(page, name, [head, rule, *(line for _, line in ordered)])


def _split(page: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after


def parse() -> argparse.Namespace:
    """What the command is told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--configs", nargs="*", metavar="NAME", help="of configs/ (all)")
    option(
        "--topologies", nargs="+", choices=TOPOLOGIES, default=list(TOPOLOGIES), metavar="CHIP:GRID"
    )
    option("--sharded", nargs="+", choices=SHARDED, default=list(SHARDED), metavar="NAME")
    option("--fsdp", nargs="*", type=int, default=list(FSDP), metavar="N")
    option("--add", action="store_true", help="keep the page's other rows")
    option("--results", metavar="FILE", help="gets every figure, as they come")
    return parser.parse_args()


def main() -> None:
    """Plans, prints as it goes, writes the page."""
    options = parse()
    check_compiler()
    every = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    names = sorted(
        every if options.configs is None else options.configs,
        key=lambda name: name not in EVERYWHERE,
    )
    rows: Rows = []
    sharded: Rows = []

    def keep() -> None:
        if not options.results:
            return
        with atomic_file(options.results) as partial:
            partial.write_text(json.dumps({"plans": rows, "sharded": sharded}, indent=2) + "\n")

    for case in cases(names, options.topologies):
        rows += plan_one(*case)
        keep()
    for name in options.sharded:
        for fsdp in options.fsdp:
            sharded += plan_one(name, TOPOLOGIES[0], f"--config.mesh.fsdp={fsdp}")
            keep()
    page = PAGE.read_text(encoding="utf-8")
    if options.add:
        page = add(page, "campaign", table(rows), 3, plan_place)
        page = add(page, "sharded", sharding_table(sharded), 2, sharding_place)
    else:
        page = fill(page, "campaign", table(rows))
        page = fill(page, "sharded", sharding_table(sharded))
    with atomic_file(PAGE) as partial:
        partial.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
