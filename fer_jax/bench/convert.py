"""How long `fer-jax convert` takes and how much memory, beside copying and hashing the file."""

import datetime
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.bench.processes import Run, environment, run
from fer_jax.convert.pth_writer import write_pth
from fer_jax.convert.release import ReleaseOptions, plan_file
from fer_jax.errors import FerJaxError
from fer_jax.models.config import vit_config
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import layout

SECONDS_OVER_PEER = 3.0
MEMORY_OF_FILE = 1.3

_PEER = "cp + sha256sum"
_PLAIN = "convert"
_DECODER = "convert --decoder"
_PROOF = "convert, with the proof"
_JAX = "import jax"
_JUDGED = (_PLAIN, _DECODER)


def write_sample(path: Path) -> None:
    """Writes a file of MAE-Face's names, shapes and size: 254 tensors, 447.7 MB, random values."""
    tensors = layout(MAEConfig(encoder=vit_config("base", pool="cls")))
    generator = np.random.Generator(np.random.PCG64(0))
    values = (
        (name, generator.standard_normal(shape, np.float32) * np.float32(0.02))
        for name, (shape, _) in tensors.items()
    )
    write_pth(path, tensors, values, wrapper="model")


def bench_convert(file: str | os.PathLike[str] | None, *, repeats: int) -> dict[str, Any]:
    """Measures the conversion of a file.

    Args:
        file: a checkpoint of images' model; None for `write_sample`'s.
        repeats: runs of each case, which take turns.

    Returns:
        Plain values: `file`, `repeats`, `cases` with `seconds`, `anonymous_bytes` (None where the
        system does not tell), and for those that are judged `bounds`; `environment`, `date`.

    Raises:
        FerJaxError: the file cannot be converted, or cp or sha256sum is missing.
    """
    for tool in ("cp", "sha256sum"):
        if shutil.which(tool) is None:
            raise FerJaxError(f"{tool} is what convert is compared with; install coreutils")
    beside = None if file is None else Path(file).absolute().parent
    if file is not None:
        plan_file(file, ReleaseOptions(normalize="mae_face"))  # what is wrong is said before
    with tempfile.TemporaryDirectory(dir=beside, prefix=".bench-") as folder:
        source = Path(file) if file is not None else Path(folder) / "mae_face.pth"
        if file is None:
            write_sample(source)
        _read(source)
        cases = _cases(source, Path(folder) / "out")
        runs: dict[str, list[Run]] = {name: [] for name in cases}
        for _ in range(repeats):
            for name, command in cases.items():
                runs[name].append(_fresh(command, Path(folder) / "out"))
        size = source.stat().st_size
    peer = statistics.median(one.seconds for one in runs[_PEER])
    return {
        "benchmark": "convert",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "file": {"name": source.name, "bytes": size},
        "repeats": repeats,
        "cases": [_case(name, own, size, peer) for name, own in runs.items()],
        "environment": environment(),
    }


def _cases(source: Path, out: Path) -> dict[str, list[str]]:
    """The command of each case."""
    convert = [sys.executable, "-m", "fer_jax.cli.main", "convert", str(source), str(out)]
    convert += ["--normalize", "mae_face"]
    copy = ["sh", "-c", 'cp "$1" "$2" && sha256sum "$1"', "sh", str(source), str(out)]
    cases = {_PEER: copy, _PLAIN: [*convert, "--no-proof"]}
    whole = ReleaseOptions(normalize="mae_face", decoder=True, norm_pix=True)
    try:
        plan_file(source, whole)
        cases[_DECODER] = [*convert, "--decoder", "--norm-pix", "--no-proof"]
    except FerJaxError:
        pass  # an encoder alone
    return cases | {_PROOF: convert, _JAX: [sys.executable, "-c", "import jax"]}


def _read(path: Path) -> None:
    """Brings a file into the page cache."""
    with open(path, "rb") as file:
        while file.read(1 << 22):
            pass


def _fresh(command: Sequence[str], out: Path) -> Run:
    """Runs a command that makes `out`; what runs before leaves is no burden to it."""
    if hasattr(os, "sync"):
        os.sync()
    try:
        return run(command)
    finally:
        if out.is_dir():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)


def _case(name: str, runs: Sequence[Run], size: int, peer: float) -> dict[str, Any]:
    seconds = [one.seconds for one in runs]
    median = statistics.median(seconds)
    case: dict[str, Any] = {
        "name": name,
        "seconds": {"median": median, "least": min(seconds), "most": max(seconds)},
        "anonymous_bytes": None,
        "anonymous_of_file": None,
        "resident_bytes": None,
        "bounds": None,
    }
    if name != _PEER and runs[0].anonymous is not None:
        anonymous = max(one.anonymous or 0 for one in runs)
        case["anonymous_bytes"] = anonymous
        case["anonymous_of_file"] = anonymous / size
        case["resident_bytes"] = max(one.resident or 0 for one in runs)
    if name in _JUDGED:
        ratio = case["anonymous_of_file"]
        case["bounds"] = {
            "seconds": peer + SECONDS_OVER_PEER,
            "seconds_hold": median <= peer + SECONDS_OVER_PEER,
            "of_file": MEMORY_OF_FILE,
            "memory_holds": None if ratio is None else ratio <= MEMORY_OF_FILE,
        }
    return case


def table(found: Mapping[str, Any]) -> list[str]:
    """What `bench_convert` found, for people: a table in Markdown."""
    file, used = found["file"], found["environment"]
    lines = [
        f"{file['name']}: {file['bytes'] / 1e6:.1f} MB, in the page cache; {found['repeats']} runs "
        "of each, in turn",
        "",
    ]
    header = ("", "seconds (median)", "least to most", "at most", "anonymous memory", "at most")
    rows = [header, *(_row(case) for case in found["cases"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        lines.append(f"| {' | '.join(map(str.ljust, row, widths))} |")
    if all(case["anonymous_bytes"] is None for case in found["cases"]):
        lines += ["", "Memory is not measured on this system: it has no /proc."]
    lines += [
        "",
        f"{found['date']}, fer_jax {used['fer_jax']}, jax {used['jax']}, Python {used['python']}, "
        f"{used['system']}, {used['cpu']}, {used['cores']} cores",
    ]
    return lines


def _row(case: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, bounds = case["seconds"], case["bounds"]
    memory = "-"
    if case["anonymous_bytes"] is not None:
        ratio = case["anonymous_of_file"]
        memory = f"{case['anonymous_bytes'] / 1e6:.0f} MB, {ratio:.2f} of the file"
    time_bound = memory_bound = "-"
    if bounds is not None:
        time_bound = f"{bounds['seconds']:.2f} {_verdict(bounds['seconds_hold'])}"
        memory_bound = f"{bounds['of_file']:.2f} {_verdict(bounds['memory_holds'])}"
    spread = f"{seconds['least']:.2f} to {seconds['most']:.2f}"
    return case["name"], f"{seconds['median']:.2f}", spread, time_bound, memory, memory_bound


def _verdict(holds: bool | None) -> str:
    if holds is None:
        return "(not measured)"
    return "(holds)" if holds else "(MISSED)"
