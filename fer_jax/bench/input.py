"""How many training images a second the input pipeline makes, beside PyTorch and Pillow."""

import contextlib
import datetime
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_jax.bench.processes import anonymous_bytes, cpu_seconds, environment
from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.examples import Example
from fer_jax.data.images import encode_image
from fer_jax.data.pipeline import Augmentation, train_batches
from fer_jax.data.synthetic import CLASSES, LABEL_SPACE, synthetic_face
from fer_jax.labels import label_space

BATCH = 64
TIMES_PEER = 2.0
OURS, PEER = "fer_jax", "torch + Pillow"

_PICTURES = 2000
_SIDE = 112  # of drawn faces, pixels
_WARM = 8  # batches for each process that makes them, before anything is measured
_SETTLE = 0.4  # seconds until a pipeline that nobody asks has filled its buffers
_LOOK = 2.0  # seconds between two looks at the memory
_START = 0.1  # share of the looks that are not fitted: caches fill
_MIB = 1 << 20

Batches = Iterator[Any]


def bench_input(
    data: str | os.PathLike[str] | None,
    *,
    seconds: float,
    repeats: int,
    size: int,
    workers: Sequence[int] = (0, 2),
    minutes: float = 0.0,
    pictures: int = _PICTURES,
) -> dict[str, Any]:
    """Measures the pipeline, and the same work by PyTorch's DataLoader and Pillow, in turn.

    Many short measurements rather than a few long ones, so that both meet the same neighbours.
    Both decode the same pictures, of the page cache: we from records, the peer from files. Both
    crop, resize and flip them to uint8 batches; RandAugment and erasing are off.

    Args:
        data: a prepared data set; None draws faces of 112 pixels, as JPEG.
        seconds: length of each measurement.
        repeats: measurements of each case, which take turns.
        size: side of the images, in pixels.
        workers: how many processes decode, for each case; 0 is the process itself.
        minutes: then make batches for so long with one worker, and watch the memory; 0 for not.
        pictures: how many are drawn, or are taken of the data at most.

    Returns:
        Plain values: `pictures`, `size`, `cases` with images a second and images for each second
        of processor time, `ratios` to the peer (empty where torch or Pillow is missing), `memory`
        (None if not wished or not told by the system), `environment`, `date`.

    Raises:
        FerJaxError: the data cannot be read.
    """
    cv2.setNumThreads(0)  # one core for each process, as the peer
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if data is None:
            faces = _drawn(Path(folder), pictures)
        else:
            faces = FaceData.open(data)
        rows = np.sort(np.random.default_rng(0).permutation(len(faces))[:pictures])
        files = _write_files(faces, rows, Path(folder) / "files")
        makers = _makers(faces, rows, files, size)
        with contextlib.ExitStack() as stack:
            running = {
                (name, count): stack.enter_context(contextlib.closing(make(count)))
                for count in workers
                for name, make in makers.items()
            }
            measured = _measure(running, seconds, repeats)
        memory = None
        if minutes > 0:
            with contextlib.closing(makers[OURS](1)) as batches:
                memory = _watch(batches, minutes)
        total = sum(file.stat().st_size for file in files)
    return {
        "benchmark": "input",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pictures": {"number": len(files), "mean_bytes": total / len(files)},
        "size": size,
        "batch_size": BATCH,
        "seconds": seconds,
        "repeats": repeats,
        "cases": [
            {"name": name, "workers": count, **_summary(found)}
            for (name, count), found in measured.items()
        ],
        "ratios": [_ratio(measured, count) for count in workers if PEER in makers],
        "memory": memory,
        "environment": environment() | _peer_versions(),
    }


def _drawn(folder: Path, number: int) -> FaceData:
    """A data set of drawn faces."""
    (folder / "drawn").mkdir()
    examples = []
    for i in range(number):
        face, name = synthetic_face(0, i // len(CLASSES), i, size=_SIDE)
        path = folder / "drawn" / f"{i:05d}.jpg"
        path.write_bytes(encode_image(face, lossless=False))
        examples.append(Example(path, path.name, CLASSES.index(name), "train"))
    build(examples, [], label_space(LABEL_SPACE), folder / "data")
    return FaceData.open(folder / "data")


def _write_files(faces: FaceData, rows: np.ndarray, folder: Path) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{row}.img" for row in rows.tolist()]  # Pillow goes by the content
    for file, row in zip(files, rows.tolist(), strict=True):
        file.write_bytes(faces.records.image(row))
    return files


def _makers(
    faces: FaceData, rows: np.ndarray, files: Sequence[Path], size: int
) -> dict[str, Callable[[int], Batches]]:
    """Who makes batches; each takes the number of workers."""
    common = {"image_size": size, "batch_size": BATCH, "augmentation": Augmentation()}

    def ours(workers: int) -> Batches:
        return train_batches(
            [(faces, rows)], views={"image": "main"}, seed=0, workers=workers, **common
        )

    if not _peer_versions():
        return {OURS: ours}
    from fer_jax.bench.input_peer import peer_batches

    names, labels = [str(file) for file in files], faces.index["label"][rows].tolist()

    def peer(workers: int) -> Batches:
        return peer_batches(names, labels, workers=workers, **common)

    return {OURS: ours, PEER: peer}


def _peer_versions() -> dict[str, str]:
    """Versions of what the peer is made of; empty where a part of it is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "PIL")):
        return {}
    return {"torch": metadata.version("torch"), "pillow": metadata.version("pillow")}


def _measure(
    running: Mapping[tuple[str, int], Batches], seconds: float, repeats: int
) -> dict[tuple[str, int], list[tuple[float, float | None]]]:
    """For each case and repeat: images a second, and for each second of processor time."""
    found: dict[tuple[str, int], list[tuple[float, float | None]]] = {case: [] for case in running}
    for _ in range(repeats):
        for (name, workers), batches in running.items():
            time.sleep(_SETTLE)
            for _ in range(_WARM * max(1, workers)):  # those in the buffers cost nothing now
                next(batches)
            used, begin, images = cpu_seconds(), time.perf_counter(), 0
            while (wall := time.perf_counter() - begin) < seconds:
                next(batches)
                images += BATCH
            core = None if used is None else images / ((cpu_seconds() or 0.0) - used)
            found[name, workers].append((images / wall, core))
    return found


def _summary(found: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    walls, cores = zip(*found, strict=True)
    return {"per_second": _spread(walls), "per_core_second": _spread(cores)}


def _ratio(
    measured: Mapping[tuple[str, int], Sequence[tuple[float, float | None]]], workers: int
) -> dict[str, Any]:
    """Ours over the peer's, repeat by repeat."""
    pairs = list(zip(measured[OURS, workers], measured[PEER, workers], strict=True))
    wall = _spread([ours / peer for (ours, _), (peer, _) in pairs])
    core = _spread([ours / peer if ours and peer else None for (_, ours), (_, peer) in pairs])
    judged = core or wall
    return {
        "workers": workers,
        "per_second": wall,
        "per_core_second": core,
        "bound": TIMES_PEER,
        "holds": judged["median"] >= TIMES_PEER,
    }


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Median and quartiles: neighbours on a machine spoil single runs, not the middle half."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, median, high = np.quantile(known, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "low": low, "high": high}


def _watch(batches: Batches, minutes: float) -> dict[str, float] | None:
    """Makes batches, and fits a line through the anonymous memory of all processes."""
    if anonymous_bytes() is None:
        return None
    next(batches)
    begin, made, looks = time.monotonic(), 0, []
    while (passed := time.monotonic() - begin) < 60 * minutes:
        next(batches)
        made += 1
        if passed >= _LOOK * len(looks) * min(1.0, minutes):
            looks.append((passed / 60, (anonymous_bytes() or 0) / _MIB))
    times, sizes = np.array(looks[int(_START * len(looks)) :]).T
    slope = float(np.polyfit(times, sizes, 1)[0]) if len(times) > 1 else 0.0
    return {
        "minutes": minutes,
        "images": made * BATCH,
        "looks": len(times),
        "mib_per_minute": slope,
        "mib_first": float(sizes[0]),
        "mib_last": float(sizes[-1]),
        "mib_most": float(sizes.max()),
    }


def table(found: Mapping[str, Any]) -> list[str]:
    """What `bench_input` found, for people: a table in Markdown."""
    pictures, used = found["pictures"], found["environment"]
    lines = [
        f"{pictures['number']:,} pictures of {pictures['mean_bytes'] / 1e3:.1f} kB, in the page "
        f"cache; decoded, cropped, resized to {found['size']} pixels, flipped: uint8 batches of "
        f"{found['batch_size']}",
        f"{found['repeats']} times {found['seconds']:g} s of each, in turn",
        "",
    ]
    header = ("", "workers", "images/s", "images/s of processor time", "middle half")
    rows = [header, *(_row(case) for case in found["cases"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines += [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.append("")
    for ratio in found["ratios"]:
        lines.append(_ratio_line(ratio))
    if not found["ratios"]:
        lines.append("torch and Pillow are not both installed: nothing to compare with.")
    if (memory := found["memory"]) is not None:
        lines.append(
            f"memory over {memory['minutes']:g} min and {memory['images']:,} images, 1 worker: "
            f"{memory['mib_per_minute']:+.3f} MiB/min; {memory['mib_first']:.1f} MiB at first, "
            f"{memory['mib_last']:.1f} at last, {memory['mib_most']:.1f} at most (anonymous, both "
            "processes)"
        )
    peer = "".join(f", {name} {used[name]}" for name in ("torch", "pillow") if name in used)
    lines += [
        "",
        f"{found['date']}, fer_jax {used['fer_jax']}{peer}, Python {used['python']}, "
        f"{used['system']}, {used['cpu']}, {used['cores']} cores",
    ]
    return lines


def _row(case: Mapping[str, Any]) -> tuple[str, ...]:
    core = case["per_core_second"]
    shown = ("-", "-")
    if core is not None:
        shown = (f"{core['median']:,.0f}", f"{core['low']:,.0f} to {core['high']:,.0f}")
    return case["name"], str(case["workers"]), f"{case['per_second']['median']:,.0f}", *shown


def _ratio_line(ratio: Mapping[str, Any]) -> str:
    parts = []
    for name, what in (("per_core_second", "processor"), ("per_second", "wall")):
        if (spread := ratio[name]) is not None:
            span = f"{spread['low']:.2f} to {spread['high']:.2f}"
            parts.append(f"{spread['median']:.2f} times the peer by {what} time ({span})")
    verdict = "holds" if ratio["holds"] else "MISSED"
    return f"{ratio['workers']} workers: {', '.join(parts)}; at least {ratio['bound']:g}: {verdict}"
