"""Our ViT and PyTorch's, on the same weights and pictures, in turn on the same machine.

    python tools/bench_peers.py --torch-python OTHER/bin/python

Two processes stay alive, each with its own interpreter, since one environment rarely suits both;
only one of them works at a time. First the scores are compared (of training the losses of three
AdamW steps), then each runs for a moment, again and again. What counts is the median of the ratios
of neighbours: images a second of ours over those of the fastest peer. On a GPU the peers are
PyTorch as it is and by torch.compile, and the weights of training stay float32 (torch: autocast).
"""

import argparse
import contextlib
import datetime
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
_CEILING = "ceiling"
# Largest difference over the largest number. bfloat16 keeps 8 bits, and rounds after every layer.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}


class Worker:
    """A process that answers requests in JSON."""

    def __init__(self, python: str, script: str):
        self._name = script
        self._process = subprocess.Popen(
            [python, str(_HERE / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, do: str, **fields: Any) -> dict[str, Any]:
        """The answer; SystemExit with a line if the process has ended or says what went wrong."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise SystemExit(f"{self._name}: ended; its last words are above") from None
        if "error" in answer:
            raise RuntimeError(f"{self._name}: {do}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def _workers(options: argparse.Namespace) -> Iterator[tuple[Worker, Worker]]:
    ours = Worker(options.jax_python, "bench_peers_jax.py")
    theirs = Worker(options.torch_python, "bench_peers_torch.py")
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


def main(argv: Sequence[str]) -> int:
    """Runs the command."""
    options = _parser().parse_args(argv)
    width, depth, heads = _SIZES[options.size]
    model = {
        "image_size": options.image_size, "patch_size": 16, "width": options.width or width,
        "depth": options.depth or depth, "num_heads": heads, "num_classes": 8, "pool": "avg",
        "norm_eps": 1e-6,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, _workers(options) as (ours, theirs):
        path = str(Path(folder) / "weights.npz")
        about = {"ours": ours("about"), "theirs": theirs("about")}
        ours("export", path=path, model=model)
        cases = []
        for kind in options.kinds:
            for dtype in options.dtypes:
                for batch in options.batches:
                    case = {"kind": kind, "dtype": dtype, "batch": batch}
                    found = _case(ours, theirs, case, path, model, options)
                    print(_line(found), file=sys.stderr, flush=True)
                    cases.append(found)
    result = {
        "benchmark": "peers",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": model,
        "machine": f"{platform.system()} {platform.machine()}",
        **about,
        "cases": cases,
    }
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(result)))
    return 0 if all("error" not in case for case in cases) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--jax-python", default=sys.executable, metavar="PYTHON", help="interpreter with jax")
    add("--torch-python", default=sys.executable, metavar="PYTHON", help="interpreter with torch")
    add("--kinds", nargs="+", choices=("infer", "train"), default=["infer"])
    add("--dtypes", nargs="+", choices=tuple(_TOLERANCES), default=list(_TOLERANCES))
    add("--batches", nargs="+", type=int, default=[16], metavar="N")
    add("--size", choices=tuple(_SIZES), default="base")
    add("--image-size", type=int, default=224, metavar="PIXELS")
    add("--width", type=int, help="of tokens, instead of the size's")
    add("--depth", type=int, help="blocks, instead of the size's")
    add("--rounds", type=int, default=9, metavar="N", help="measurements (%(default)s)")
    add("--seconds", type=float, default=1.0, metavar="S", help="least of each (%(default)s)")
    add(
        "--ours", nargs="+", default=["{}"], metavar="JSON",
        help="our programs: fields of ViTConfig, e.g. '{\"scan_layers\": false}'; `xla` among them "
        "holds options of the compiler",
    )  # fmt: skip
    add(
        "--compile", nargs="*", metavar="MODE", default=None,
        help="modes of torch.compile beside torch as it is (on a GPU: default)",
    )  # fmt: skip
    add("--ceiling-side", type=int, metavar="N", help="of the matrices of the ceiling")
    add("--out", metavar="FILE", help="write all figures as JSON")
    return parser


def _case(
    ours: Worker,
    theirs: Worker,
    case: dict[str, Any],
    path: str,
    model: dict[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One kind, dtype and batch: every program made, compared, timed in turn, forgotten."""
    modes = options.compile
    if modes is None:
        modes = ["default"] if theirs("about")["platform"] == "cuda" else []
    wanted = [(ours, f"jax {text}", json.loads(text)) for text in options.ours]
    wanted += [(theirs, f"torch {mode or 'eager'}", {"compile": mode}) for mode in (None, *modes)]
    made: dict[str, Worker] = {}
    programs: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    try:
        for worker, name, settings in wanted:
            try:
                given = {"name": name, "path": path, "model": model, "options": settings, **case}
                programs[name] = worker("prepare", **given)
                scores[name] = worker("outputs", name=name)["outputs"]
                made[name] = worker
            except RuntimeError as error:  # too large for the device, or no compiler
                programs[name] = {"error": str(error)}
        if ours not in made.values() or theirs not in made.values():
            said = "; ".join(each["error"] for each in programs.values() if "error" in each)
            return case | {"error": said}
        top = ours("ceiling", name=_CEILING, dtype=case["dtype"], side=options.ceiling_side)
        made[_CEILING] = ours
        seconds = _in_turn(made, options.rounds, options.seconds)
    finally:
        for worker, name, _ in wanted:
            worker("forget", name=name)
        ours("forget", name=_CEILING)
    first = next(iter(scores))
    apart = {name: _apart(scores[first], found) for name, found in scores.items()}
    return case | _judged(case, seconds, programs, apart, top, model)


def _in_turn(made: dict[str, Worker], rounds: int, seconds: float) -> dict[str, list[float]]:
    calls = {}
    for name, worker in made.items():
        worker("run", name=name, calls=1)
        calls[name] = math.ceil(seconds / worker("run", name=name, calls=1)["seconds"])
    found: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(rounds):
        # There and back: a machine that slows down is met by both alike.
        for name in list(made) if turn % 2 == 0 else reversed(made):
            found[name].append(made[name]("run", name=name, calls=calls[name])["seconds"])
    return found


def _judged(
    case: dict[str, Any],
    seconds: dict[str, list[float]],
    programs: dict[str, Any],
    apart: dict[str, float],
    top: dict[str, Any],
    model: dict[str, Any],
) -> dict[str, Any]:
    best = {
        side: min(
            (name for name in seconds if name.startswith(side)),
            key=lambda name: statistics.median(seconds[name]),
        )
        for side in ("jax", "torch")
    }
    ratios = [
        theirs / ours
        for ours, theirs in zip(seconds[best["jax"]], seconds[best["torch"]], strict=True)
    ]
    flops = case["batch"] * _flops(model) * (3 if case["kind"] == "train" else 1)
    ceiling = statistics.median(top["flops"] / each for each in seconds[_CEILING])
    for name, took in seconds.items():
        if name != _CEILING:
            middle = statistics.median(took)
            programs[name] |= {
                "seconds": took,
                "images_per_second": case["batch"] / middle,
                "share_of_ceiling": flops / middle / ceiling,
                "apart": apart[name],
            }
    worst = max(apart.values())
    return {
        "programs": programs,
        "best": best,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "ceiling": {**top, "flops_per_second": ceiling, "seconds": seconds[_CEILING]},
        "agree": worst <= _TOLERANCES[case["dtype"]],
    }


def _apart(first: list[float], second: list[float]) -> float:
    """The largest difference over the largest number."""
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) / max(map(abs, first))


def _flops(model: dict[str, Any]) -> int:
    """Of the matrix products of one image, as `fer_jax.bench.flops.vit_flops` has them."""
    patches = (model["image_size"] // model["patch_size"]) ** 2
    tokens, width = patches + 1, model["width"]
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    embedding = 2 * patches * 3 * model["patch_size"] ** 2 * width
    return embedding + model["depth"] * block + 2 * width * model["num_classes"]


def _line(found: dict[str, Any]) -> str:
    where = f"{found['kind']} {found['dtype']} batch {found['batch']}"
    if "error" in found:
        return f"{where}: {found['error']}"
    return f"{where}: {found['ratio']:.2f} times {found['best']['torch']}"


def table(result: dict[str, Any]) -> list[str]:
    """The figures for people: a table in Markdown."""
    header = ("", "images/s", "of the ceiling", "ratio", "apart", "compile s")
    rows = [header]
    for case in result["cases"]:
        where = f"{case['kind']} {case['dtype']} {case['batch']}"
        if "error" in case:
            rows.append((where, case["error"], "", "", "", ""))
            continue
        for name, program in case["programs"].items():
            if "error" in program:
                rows.append((f"{where}, {name}", program["error"], "", "", "", ""))
                continue
            ratio = f"{case['ratio']:.2f}" if name == case["best"]["jax"] else ""
            apart = f"{program['apart']:.0e}{'' if case['agree'] else ' DISAGREES'}"
            rows.append(
                (
                    f"{where}, {name}",
                    f"{program['images_per_second']:,.1f}",
                    f"{100 * program['share_of_ceiling']:.0f} %",
                    ratio,
                    apart,
                    f"{program['compile_seconds']:.1f}",
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    ours, theirs = result["ours"], result["theirs"]
    return [
        *lines,
        "",
        f"ratio: of the fastest of each side, median of the turns; "
        f"{ours['version']} on {ours['device']}; {theirs['version']} on {theirs['device']}",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
