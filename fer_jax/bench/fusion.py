"""Time and memory of the entry's fusion, forward and backward, beside torch's attention."""

import datetime
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fer_jax.bench.processes import environment
from fer_jax.models import fusion
from fer_jax.models.fusion import EntryFusionConfig, Params
from fer_jax.models.torch_layout import to_torch_layout
from fer_jax.ops.attention import scalar_attention

MEMORY_BOUND = 64 * 2**20  # bytes
TIME_BOUND = 0.9  # of torch's
_PART = 16  # the naive form is run on this part of the batch
_SEED = 20240319

Features = Mapping[str, Array | np.ndarray]
Seconds = list[tuple[float, float]]  # of each run: on the wall, and of all processors


def bench_fusion(
    *, batch: int = 1024, repeats: int = 7, config: EntryFusionConfig | None = None
) -> dict[str, Any]:
    """Measures the fusion `entry`, and its attention alone, forward and backward in float32.

    The loss is the sum of the squared outputs; gradients are those of parameters and inputs. Where
    torch is installed, the same with `torch.nn.MultiheadAttention(1, 1)` runs in turn, on the same
    numbers, without the matrix of attention weights (`need_weights=False`: its fast path; with it,
    it takes the memory of the naive form). Temporary memory is what the compiler reserves.

    Args:
        batch: faces.
        repeats: runs of each, after one that is not counted.
        config: the fusion, of two sources; the entry's if not given.

    Returns:
        Plain values: `memory` (bytes of ours and of the naive form, and the bound), `cases` (each
        with the seconds of ours and of torch, None where it is not installed, and their ratio, on
        the wall and of all processors), `naive` (its seconds on a part of the batch), `gradients`
        (largest difference from torch's over their largest value), `batch`, `repeats`,
        `environment`, `date`.
    """
    config = config or EntryFusionConfig()
    params, features, tokens = _draw(config, batch)
    few = {name: x[: max(1, batch // _PART)] for name, x in features.items()}
    apply = functools.partial(fusion.apply, config)
    entry = _compiled(lambda p, f: apply(p, f)[0], params, features)
    alone = _compiled(_attention, params["attention"], tokens)
    naive = _compiled(_naive_entry, params, features)
    naive_few = _compiled(_naive_entry, params, few)
    runs = {
        ("entry", "jax"): _waiting(entry, params, features),
        ("attention alone", "jax"): _waiting(alone, params["attention"], tokens),
        ("naive", "jax"): _waiting(naive_few, params, few),
    }
    gradients = None
    if importlib.util.find_spec("torch") is not None:
        from fer_jax.bench.fusion_peer import TorchEntry

        state = dict(to_torch_layout(params, config))
        peer = TorchEntry(state, features, tokens)
        runs["entry", "torch"] = peer.run
        runs["attention alone", "torch"] = peer.run_attention
        gradients = _difference(config, entry(params, features), peer)
    measured = _in_turn(runs, repeats)
    slow = statistics.median(wall for wall, _ in measured["naive", "jax"])
    memory = entry.memory_analysis().temp_size_in_bytes
    return {
        "benchmark": "fusion",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "batch": batch,
        "repeats": repeats,
        "memory": {
            "bytes": memory,
            "naive_bytes": naive.memory_analysis().temp_size_in_bytes,
            "bound": MEMORY_BOUND,
            "holds": memory <= MEMORY_BOUND,
        },
        "cases": [
            _case(name, measured[name, "jax"], measured.get((name, "torch")))
            for name in ("entry", "attention alone")
        ],
        "naive": {"batch": len(few["main"]), "seconds": slow},
        "gradients": gradients,
        "environment": environment() | {"torch": _torch_version()},
    }


def _draw(config: EntryFusionConfig, batch: int) -> tuple[Params, Features, Features]:
    """Params, features of each source, and tokens for the attention alone."""
    params = jax.jit(fusion.init, static_argnums=0)(config, jax.random.key(_SEED))
    generator = np.random.Generator(np.random.PCG64(_SEED))

    def normal(width: int) -> np.ndarray:
        return generator.standard_normal((batch, width), np.float32)

    features = {n: normal(width) for n, width in zip(config.sources, config.widths, strict=True)}
    tokens = {name: normal(config.width) for name in ("query", "key", "value")}
    return params, features, tokens


def _compiled(
    outputs: Callable[[Params, Features], Array], params: Params, inputs: Features
) -> jax.stages.Compiled:
    """The gradients of the sum of the squared outputs."""

    def loss(params: Params, inputs: Features) -> Array:
        return jnp.square(outputs(params, inputs)).sum()

    return jax.jit(jax.grad(loss, (0, 1))).lower(params, inputs).compile()


def _attention(params: Params, tokens: Features) -> Float[Array, "b n"]:
    """What `torch.nn.MultiheadAttention(1, 1)` computes."""
    in_proj, out_proj = params["in_proj"], params["out_proj"]
    query, key, value = (
        in_proj["kernel"][0, i] * tokens[name] + in_proj["bias"][i]
        for i, name in enumerate(("query", "key", "value"))
    )
    attended = scalar_attention(query, key, value)
    return out_proj["kernel"][0, 0] * attended + out_proj["bias"][0]


def _naive_entry(params: Params, features: Features) -> Float[Array, "b c"]:
    """The entry as its equations are read, with a matrix of scores for each face."""

    def linear(name: Params, x: Array) -> Array:
        return x @ name["kernel"] + name["bias"][None]

    main, aux = (linear(params[name], features[name]) for name in ("main", "aux"))
    joined = linear(params["key"], jnp.concatenate([main, aux], axis=1))
    in_proj, out_proj = params["attention"]["in_proj"], params["attention"]["out_proj"]
    query, key, value = (
        in_proj["kernel"][0, i] * x + in_proj["bias"][i] for i, x in enumerate((aux, joined, main))
    )
    weights = jax.nn.softmax(query[:, :, None] * key[:, None, :], axis=-1)
    attended = (weights * value[:, None, :]).sum(axis=-1)
    fused = main + out_proj["kernel"][0, 0] * attended + out_proj["bias"][0]
    return linear(params["mlp"]["fc2"], linear(params["mlp"]["fc1"], fused))


def _waiting(program: Callable[..., Any], *inputs: Any) -> Callable[[], None]:
    return lambda: jax.block_until_ready(program(*inputs))


def _in_turn(
    runs: Mapping[tuple[str, str], Callable[[], Any]], repeats: int
) -> dict[tuple[str, str], Seconds]:
    """Seconds of every run, the first of each left out."""
    found: dict[tuple[str, str], Seconds] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if turn:
                spent = time.perf_counter() - wall, time.process_time() - processor
                found[name].append(spent)
    return found


def _difference(config: EntryFusionConfig, ours: tuple[Params, Features], peer: Any) -> float:
    """Of all gradients, over the largest of the peer's."""
    params, features = ours
    peer.run()
    theirs = peer.gradients()
    mine = dict(to_torch_layout(params, config)) | dict(features)
    largest = max(float(np.abs(x).max()) for x in theirs.values())
    return max(float(np.abs(mine[name] - x).max()) for name, x in theirs.items()) / largest


def _case(name: str, ours: Seconds, torch: Seconds | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "jax": _summary(ours), "torch": None}
    found |= {"of_torch": None, "processor_of_torch": None, "bound": TIME_BOUND, "holds": None}
    if torch is not None:
        theirs = found["torch"] = _summary(torch)
        found["of_torch"] = found["jax"]["median"] / theirs["median"]
        found["processor_of_torch"] = found["jax"]["processor"] / theirs["processor"]
        found["holds"] = found["of_torch"] <= TIME_BOUND
    return found


def _summary(seconds: Seconds) -> dict[str, float]:
    wall = [one for one, _ in seconds]
    return {
        "median": statistics.median(wall),
        "least": min(wall),
        "most": max(wall),
        "processor": statistics.median(one for _, one in seconds),
    }


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def table(found: Mapping[str, Any]) -> list[str]:
    """What `bench_fusion` found, for people: a table in Markdown."""
    memory, naive, used = found["memory"], found["naive"], found["environment"]
    lines = [
        f"fusion entry, batch {found['batch']}, forward and backward, float32; {found['repeats']} "
        "runs of each, in turn",
        "",
    ]
    header = ("", "seconds (median)", "least to most", "processor", "of torch", "at most")
    rows: list[tuple[str, ...]] = [header]
    for case in found["cases"]:
        verdict = f"{case['bound']:.2f} {_verdict(case['holds'])}"
        ratio = "-"
        if case["torch"] is not None:
            ratio = f"{case['of_torch']:.2f} (processor {case['processor_of_torch']:.2f})"
        rows.append((case["name"], *_cells(case["jax"]), ratio, verdict))
        if case["torch"] is not None:
            rows.append((f"{case['name']}, torch", *_cells(case["torch"]), "-", "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines += [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines += [
        "",
        f"temporary memory: {memory['bytes'] / 2**20:.1f} MiB, at most "
        f"{memory['bound'] / 2**20:.0f} MiB {_verdict(memory['holds'])}; with the matrix of scores "
        f"{memory['naive_bytes'] / 2**20:,.0f} MiB, and {naive['seconds']:.2f} s for "
        f"{naive['batch']} of the {found['batch']} faces",
    ]
    if found["gradients"] is None:
        lines.append("torch is not installed: pip install 'fer-jax[torch]' to compare")
    else:
        lines.append(f"gradients: {found['gradients']:.1e} of the largest apart from torch's")
    lines += [
        "",
        f"{found['date']}, fer_jax {used['fer_jax']}, jax {used['jax']}, torch "
        f"{used['torch'] or 'none'}, Python {used['python']}, {used['system']}, {used['cpu']}, "
        f"{used['cores']} cores",
    ]
    return lines


def _cells(seconds: Mapping[str, float]) -> tuple[str, str, str]:
    spread = f"{seconds['least']:.3f} to {seconds['most']:.3f}"
    return f"{seconds['median']:.3f}", spread, f"{seconds['processor']:.3f}"


def _verdict(holds: bool | None) -> str:
    if holds is None:
        return "(not measured)"
    return "(holds)" if holds else "(MISSED)"
