"""A plan for people: tables as text and Markdown, and the files of `fer-jax plan --out`."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fer_jax.atomic import atomic_directory

PLAN_FILE = "plan.json"
_GIB = 2**30
_PROGRAMS = ("train", "evaluate")

Row = tuple[str, ...]


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """A plan as text."""
    lines = [_title(plan)]
    for step in plan["steps"]:
        lines += ["", f"{step['name']}: {_heading(step)}", *_text(_figures(step, plan))]
        lines += _copied(step)
        lines += [_largest(step, plan)] if step["largest_batch"] else []
        if step["alternatives"]:
            lines += ["", *_text(_alternatives(step))]
    return lines


def plan_markdown(plan: Mapping[str, Any]) -> str:
    """A plan as a page."""
    lines = [f"# {_title(plan)}", "", "![memory and time of a chip](plan.png)"]
    for step in plan["steps"]:
        lines += ["", f"## {step['name']}", "", f"{_heading(step)}."]
        lines += ["", *_markdown(_figures(step, plan))]
        lines += ["", *copied] if (copied := _copied(step)) else []
        lines += ["", _largest(step, plan)] if step["largest_batch"] else []
        lines += ["", *_markdown(_alternatives(step))] if step["alternatives"] else []
    versions = ", ".join(f"{name} {number}" for name, number in plan["versions"].items())
    return "\n".join([*lines, "", f"{versions}. The chip's figures: {plan['chip']['source']}", ""])


def write_plan(
    plan: Mapping[str, Any], out: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Writes `plan.json`, `plan.md` and `plan.png` to a folder, all or nothing.

    Raises:
        FerJaxError: the folder is in use.
    """
    from fer_jax.plan.picture import draw_plan

    with atomic_directory(out, marker=PLAN_FILE, overwrite=overwrite) as folder:
        (folder / PLAN_FILE).write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
        (folder / "plan.md").write_text(plan_markdown(plan), encoding="utf-8")
        draw_plan(folder / "plan.png", plan)


def _title(plan: Mapping[str, Any]) -> str:
    slices = f"{plan['slices']} slices of " if plan["slices"] > 1 else ""
    return (
        f"{plan['config']} on {slices}{plan['topology']}: {plan['chips']} chips with "
        f"{plan['chip']['memory'] / _GIB:.0f} GiB each"
    )


def _heading(step: Mapping[str, Any]) -> str:
    train = step["train"]
    mesh = " x ".join(f"{name} {size}" for name, size in train["mesh"].items())
    return f"{train['parameters']:,} parameters, mesh {mesh}"


def _figures(step: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Row]:
    """A line for each figure, a column for each program."""
    both = [step[name] for name in _PROGRAMS]

    def line(name: str, value: Callable[[Mapping[str, Any]], str]) -> Row:
        return (name, *map(value, both))

    rows = [
        ("", "training", "evaluation"),
        line("batch", lambda one: f"{one['batch_size']:,}"),
        line("fits", lambda one: "yes" if one["fits"] else "DOES NOT FIT"),
        line("memory of a chip, needed", lambda one: _gib(one["needed"])),
    ]
    for title, name in (
        ("  arguments", "arguments"),
        ("  temporaries", "temporaries"),
        ("  outputs", "outputs"),
        ("  outputs in the place of arguments", "aliased"),
        ("  program", "code"),
    ):
        rows.append(line(title, lambda one, name=name: _gib(one.get("memory", {}).get(name))))
    rows.append(line("kept, by arithmetic", lambda one: _gib(sum(one["arithmetic"].values()))))
    for name in ("params", "optimizer", "batch"):
        rows.append(line(f"  {name}", lambda one, name=name: _gib(one["arithmetic"][name])))
    rows.append(line("operations, counted", lambda one: _tera(one["flops"]["counted"])))
    rows.append(line("operations, by formula", lambda one: _tera(one["flops"]["formula"])))
    for name, title in (
        ("compute", "least time: compute"),
        ("memory", "least time: memory"),
        ("links", "least time: links between chips"),
        ("network", "least time: network between slices"),
    ):
        if name != "network" or plan["slices"] > 1:
            rows.append(line(title, lambda one, name=name: _time(one, name)))
    rows.append(line("bound by", lambda one: one.get("roofline", {}).get("bound", "-")))
    kinds = {_kind(each): None for one in both for each in one.get("collectives", [])}
    rows += [line(kind, lambda one, kind=kind: _sent(one, kind)) for kind in kinds]
    if any(one.get("unknown_loops") for one in both):
        rows.append(
            line(
                "loops that depend on data, counted once",
                lambda one: str(one.get("unknown_loops", "-")),
            )
        )
    rows.append(line("compiled in", _compiled))
    return rows


def _copied(step: Mapping[str, Any]) -> list[str]:
    """A line on the parameters that no rule could split."""
    names = step["train"]["unsharded"]
    return [f"Copied to every chip, for no dimension divides: {', '.join(names)}"] if names else []


def _kind(collective: Mapping[str, Any]) -> str:
    return collective["kind"] + (" between slices" if collective["between_slices"] else "")


def _sent(one: Mapping[str, Any], kind: str) -> str:
    found = [each for each in one.get("collectives", []) if _kind(each) == kind]
    return f"{found[0]['count']}, {_mib(found[0]['size'])}" if found else "-"


def _largest(step: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    largest = step["largest_batch"]
    size, tried = largest["batch_size"], len(largest["tried"])
    if not size:
        return "No batch fits: not even one face a chip; shard more (config.mesh.fsdp) or recompute"
    least = "" if largest["bounded"] else "at least "
    more = "; a sixteenth more does not" if largest["bounded"] else ""
    return (
        f"Largest batch that fits: {least}{size:,} ({size // plan['chips']:,} a chip){more}; "
        f"{tried} compiled."
    )


def _alternatives(step: Mapping[str, Any]) -> list[Row]:
    head = (
        "remat",
        "layers",
        "parts",
        "fits",
        "needed",
        "operations",
        "bound by",
        "least",
        "compiled",
    )
    rows: list[Row] = [head]
    for one in step["alternatives"]:
        layers = "scanned" if one["scan_layers"] else "unrolled"
        remat = one["remat"] + (" (configured)" if one["configured"] else "")
        title = (remat, layers, str(one["accumulate"]))
        if "error" in one:
            rows.append((*title, one["error"], *("-",) * 5))
            continue
        rows.append(
            (
                *title,
                "yes" if one["fits"] else "NO",
                _gib(one["needed"]),
                _tera(one["flops"]["counted"]),
                one.get("roofline", {}).get("bound", "-"),
                _time(one, "step"),
                _compiled(one),
            )
        )
    return rows


def _time(one: Mapping[str, Any], name: str) -> str:
    seconds = one.get("roofline", {}).get(name)
    return "-" if seconds is None else f"{1000 * seconds:.3f} ms"


def _compiled(one: Mapping[str, Any]) -> str:
    return f"{one['compile_seconds']:.0f} s" if "compile_seconds" in one else "-"


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / _GIB:.3f} GiB"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _tera(number: float) -> str:
    return f"{number / 1e12:.3f} T"


def _text(rows: Sequence[Row]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _markdown(rows: Sequence[Row]) -> list[str]:
    head, *rest = [f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *rest]
