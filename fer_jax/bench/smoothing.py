"""How fast `ops.smoothing` filters the frames of a whole test set, beside pandas and scipy."""

import datetime
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from fer_jax.bench.processes import environment
from fer_jax.ops.smoothing import smooth

FRAMES, VIDEOS, CLASSES, WINDOW = 1_022_655, 228, 8, 101  # the test set of ABAW's EXPR challenge
TIMES_PANDAS, TIMES_SCIPY = 10.0, 3.0
PANDAS_TOLERANCE = 1e-6

OURS, PANDAS = "fer_jax", "pandas"
SCIPY, SCIPY_WEIGHTS = "scipy, no weights", "scipy, with weights"

_CLOCKS = ("seconds", "processor_seconds")
_GAPS = 0.02  # share of frames without a face
_MEDIAN_FRAMES = 20_000  # of the first video, for the comparison of medians


def bench_smoothing(
    *, repeats: int, frames: int = FRAMES, videos: int = VIDEOS, window: int = WINDOW
) -> dict[str, Any]:
    """Measures the box filter and its peers in turn, and compares what they say.

    Ours knows gaps: frames of weight 0. pandas' grouped rolling mean does too (they are NaN).
    scipy's `uniform_filter1d`, video by video, does not, and is measured as it is, and as it would
    have to be used: once for the weighted rows, once for the weights.

    Args:
        repeats: runs of each, which take turns; before each one that is not counted.
        frames: rows of 8 classes.
        videos: ragged ones, that they are divided into.
        window: frames, odd.

    Returns:
        Plain values: the sizes, `cases` with seconds of the wall and of all processors, `ratios`
        (peer over ours, by either) with their bounds, judged by processor time, which neighbours on
        a machine spoil less; `equal` with the differences found, `environment`, `date`.
    """
    values, weights, segments, lengths = _draw(frames, videos)
    out = np.empty_like(values)
    runs: dict[str, Callable[[], Any]] = {
        OURS: _ours(values, weights, segments, window),
        SCIPY: lambda: _scipy(values, None, lengths, window, out),
        SCIPY_WEIGHTS: lambda: _scipy(values, weights, lengths, window, out),
    }
    if importlib.util.find_spec("pandas"):
        runs[PANDAS] = _pandas(values, weights, segments, window)
    # Compiles, warms. pandas says NaN where we say 0: no frame of the window was seen.
    results = {name: np.nan_to_num(run()) for name, run in runs.items()}
    differences = {
        name: float(np.abs(results[name] - results[OURS]).max())
        for name in (SCIPY_WEIGHTS, PANDAS)
        if name in results
    }
    del results
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()  # not counted: it finds the caches and the heap as another case left them
            begin, used = time.perf_counter(), time.process_time()
            run()
            took = (time.perf_counter() - begin, time.process_time() - used)
            seconds[name].append(took)
    bounds = {PANDAS: TIMES_PANDAS, SCIPY: 1 / TIMES_SCIPY, SCIPY_WEIGHTS: None}
    return {
        "benchmark": "smoothing",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "frames": frames,
        "videos": videos,
        "classes": CLASSES,
        "window": window,
        "repeats": repeats,
        "cases": [{"name": name} | _clocks(found) for name, found in seconds.items()],
        "ratios": [
            _ratio(name, seconds[name], seconds[OURS], bound)
            for name, bound in bounds.items()
            if name in runs
        ],
        "equal": {
            "box": differences,
            "box_holds": differences.get(PANDAS, 0.0) <= PANDAS_TOLERANCE,
            "median_frames": min(int(lengths[0]), _MEDIAN_FRAMES),
            "median_holds": _median_is_scipys(values[: lengths[0]][:_MEDIAN_FRAMES], window),
        },
        "environment": environment()
        | {name: metadata.version(name) for name in ("scipy", PANDAS) if name in (*runs, "scipy")},
    }


def _draw(frames: int, videos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of probabilities, weights, the video of each row, and the videos' lengths."""
    rng = np.random.default_rng(0)
    # Some are ten times as long as others, as in Aff-Wild2; none is empty.
    shares = rng.lognormal(0.0, 0.8, videos)
    lengths = 1 + rng.multinomial(frames - videos, shares / shares.sum())
    values = rng.random((frames, CLASSES), np.float32)
    values /= values.sum(axis=1, keepdims=True)
    weights = (rng.random(frames) >= _GAPS).astype(np.float32)
    return values, weights, np.repeat(np.arange(videos, dtype=np.int32), lengths), lengths


def _ours(
    values: np.ndarray, weights: np.ndarray, segments: np.ndarray, window: int
) -> Callable[[], jax.Array]:
    """Writes where the result before was, which is donated: as scipy does with `output=`."""

    def box(
        values: jax.Array, weights: jax.Array, segments: jax.Array, out: jax.Array
    ) -> jax.Array:
        return smooth(values, weights=weights, segments=segments, window=window)

    program = jax.jit(box, donate_argnums=3, keep_unused=True)
    arrays = [jax.device_put(array) for array in (values, weights, segments)]
    outs = [jax.device_put(np.empty_like(values))]

    def run() -> jax.Array:
        outs.append(program(*arrays, outs.pop()).block_until_ready())
        return outs[0]

    return run


def _pandas(
    values: np.ndarray, weights: np.ndarray, segments: np.ndarray, window: int
) -> Callable[[], np.ndarray]:
    import pandas

    frame = pandas.DataFrame(np.where(weights[:, None] > 0, values, np.nan))

    def run() -> np.ndarray:
        groups = frame.groupby(segments)
        return groups.rolling(window, center=True, min_periods=1).mean().to_numpy()

    return run


def _scipy(
    values: np.ndarray,
    weights: np.ndarray | None,
    lengths: np.ndarray,
    window: int,
    out: np.ndarray,
) -> np.ndarray:
    begin = 0
    for end in np.cumsum(lengths).tolist():
        own, rows = slice(begin, end), values[begin:end]
        if weights is None:
            ndimage.uniform_filter1d(rows, window, axis=0, output=out[own], mode="nearest")
        else:
            # Its running sum drifts; in float64 it does so by less than we are compared at.
            weighted = rows * weights[own, None]
            sums = ndimage.uniform_filter1d(weighted, window, axis=0, mode="constant")
            total = ndimage.uniform_filter1d(weights[own], window, mode="constant")
            known = total[:, None] > 0.5 / window
            out[own] = np.where(known, sums / np.where(known, total[:, None], 1), 0)
        begin = end
    return out


def _median_is_scipys(values: np.ndarray, window: int) -> bool:
    """Whether each full window has the same median, to the bit."""
    found = np.asarray(jax.jit(lambda v: smooth(v, kernel="median", window=window))(values))
    half = window // 2
    expected = [ndimage.median_filter(column, window) for column in values.T]
    inner = slice(half, max(half, len(values) - half))  # scipy invents frames beyond the ends
    return bool((found[inner] == np.stack(expected, axis=1)[inner]).all())


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles: neighbours on a machine spoil single runs, not the middle half."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "low": low, "high": high}


def _clocks(found: Sequence[tuple[float, float]]) -> dict[str, dict[str, float]]:
    wall, core = zip(*found, strict=True)
    return {"seconds": _spread(wall), "processor_seconds": _spread(core)}


def _ratio(
    name: str,
    peer: Sequence[tuple[float, float]],
    ours: Sequence[tuple[float, float]],
    bound: float | None,
) -> dict[str, Any]:
    """The peer's time over ours, run by run."""
    found = _clocks([(t[0] / o[0], t[1] / o[1]) for t, o in zip(peer, ours, strict=True)])
    holds = None if bound is None else found["processor_seconds"]["median"] >= bound
    return {"peer": name, **found, "bound": bound, "holds": holds}


def table(found: Mapping[str, Any]) -> list[str]:
    """What `bench_smoothing` found, for people: a table in Markdown."""
    lines = [
        f"box filter of {found['window']} frames, {found['frames']:,} x {found['classes']} "
        f"numbers, {found['videos']} ragged videos; {found['repeats']} runs of each, in turn",
        "",
    ]
    rows = [("", "seconds (median)", "middle half", "of processor time", "middle half")]
    for case in found["cases"]:
        cells = []
        for clock in _CLOCKS:
            spread = case[clock]
            cells += [f"{spread['median']:.4f}", f"{spread['low']:.4f} to {spread['high']:.4f}"]
        rows.append((case["name"], *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines += [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.append("")
    lines += [_ratio_line(ratio) for ratio in found["ratios"]]
    equal = found["equal"]
    for name, difference in equal["box"].items():
        judged = ""
        if name == PANDAS:
            judged = f"; at most {PANDAS_TOLERANCE:g}: {_verdict(equal['box_holds'])}"
        lines.append(f"box: {difference:.1e} from {name} at most{judged}")
    lines.append(
        f"median of {equal['median_frames']:,} frames: scipy.ndimage.median_filter's, to the bit: "
        f"{_verdict(equal['median_holds'])}"
    )
    if PANDAS not in equal["box"]:
        lines.append("pandas is not installed: not compared with.")
    used = found["environment"]
    peers = "".join(f", {name} {used[name]}" for name in ("scipy", "pandas") if name in used)
    lines += [
        "",
        f"{found['date']}, fer_jax {used['fer_jax']}, jax {used['jax']}{peers}, Python "
        f"{used['python']}, {used['system']}, {used['cpu']}, {used['cores']} cores",
    ]
    return lines


def _ratio_line(ratio: Mapping[str, Any]) -> str:
    wall, core = (ratio[clock] for clock in _CLOCKS)
    line = f"{core['median']:.2f} times as fast as {ratio['peer']} by processor time "
    line += f"({core['low']:.2f} to {core['high']:.2f}), {wall['median']:.2f} by wall time"
    if ratio["bound"] is None:
        return line
    return f"{line}; at least {ratio['bound']:.3g}: {_verdict(ratio['holds'])}"


def _verdict(holds: bool) -> str:
    return "holds" if holds else "MISSED"
