"""The written proof of a conversion: report.json for programs, report.md for people."""

import datetime
import hashlib
import platform
from importlib import metadata
from typing import Any

import jax
import numpy as np

from fer_jax import __version__
from fer_jax.convert.checkpoint import Checkpoint
from fer_jax.convert.plan import Conversion
from fer_jax.convert.proof import FACTOR, Proof
from fer_jax.models.torch_layout import layout, targets

JSON_FILE = "report.json"
MARKDOWN_FILE = "report.md"

_TRANSFORMS = {"copy": "as it is", "linear": "(out, in) -> (in, out)", "conv": "OIHW -> HWIO"}


def report_document(
    checkpoint: Checkpoint, conversion: Conversion, source: dict[str, Any], proof: Proof
) -> dict[str, Any]:
    """Everything that report.json says, as plain values.

    Args:
        checkpoint: the open file.
        conversion: what was made of it.
        source: name, size, SHA-256 and format of the file.
        proof: its result.

    Returns:
        The document: `result` (PASS or FAIL), `stages`, `rounding`, `tensors` (each with the keys
        it comes from, their shapes, dtypes and the SHA-256 of their bytes, and the leaf it is in),
        `left_out`, and what was used to make it.
    """
    return {
        "format": "fer_jax conversion report",
        "format_version": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "result": "PASS" if proof.passed else "FAIL",
        "source": source,
        "family": {"name": conversion.family.name, "reason": conversion.reason},
        "kind": conversion.kind,
        "parameters": conversion.parameters,
        "dtype": conversion.config.param_dtype,
        "inputs": proof.inputs,
        "witnesses": list(proof.witnesses),
        "factor": FACTOR,
        "stages": [
            {
                "name": stage.name,
                "shape": list(stage.shape),
                "largest": _finite(stage.largest),
                "noise_floor": _finite(stage.floor),
                "allowed": _finite(stage.allowed),
                "difference": _finite(stage.difference),
                "torch_difference": None if stage.torch is None else _finite(stage.torch),
                "of_allowed": _finite(stage.closeness),
                "passed": stage.passed,
            }
            for stage in proof.stages
        ],
        "rounding": [
            {
                "name": one.name,
                "difference": _finite(one.difference),
                "relative": _finite(one.relative),
                "same_class": one.same_class,
            }
            for one in proof.rounding
        ],
        "tensors": _tensors(checkpoint, conversion),
        "left_out": dict(conversion.dropped),
        "seconds": round(proof.seconds, 2),
        "versions": {
            "fer_jax": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "torch": metadata.version("torch") if "torch" in proof.witnesses else None,
            "backend": jax.default_backend(),
        },
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None


def _tensors(checkpoint: Checkpoint, conversion: Conversion) -> list[dict[str, Any]]:
    shapes = layout(conversion.config)
    rows = []
    for name, target in targets(conversion.config).items():
        source = conversion.sources[name]
        shape, dtype = shapes[name]
        parts = []
        for part, key in zip(source.names, source.keys, strict=True):
            values = np.ascontiguousarray(checkpoint.values(part))
            digest = hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()
            held = {"shape": list(values.shape), "dtype": str(values.dtype)}
            parts.append({"key": key, **held, "sha256": digest})
        rows.append(
            {
                "name": name,
                "from": parts,
                "change": source.transform,
                "leaf": target.path,
                "block": target.block,
                "layout": _TRANSFORMS[target.transform],
                "shape": list(shape),
                "dtype": str(dtype),
            }
        )
    return rows


def report_markdown(document: dict[str, Any]) -> str:
    """The report for people: the result, the stages, what was rounded, every tensor.

    Args:
        document: from `report_document`.
    """
    source, versions = document["source"], document["versions"]
    worst = max(document["stages"], key=_closeness)
    lines = [
        f"# {document['result']}: {source['file']} as a JAX {document['kind']}",
        "",
        f"{document['parameters']:,} parameters in {document['dtype']}, from {source['bytes']:,} "
        f"bytes with the SHA-256 `{source['sha256']}`. Family {document['family']['name']}: "
        f"{document['family']['reason']}.",
        "",
        f"Every stage of the JAX model was compared with {' and '.join(document['witnesses'])} on "
        f"these weights and {document['inputs']}. The noise floor of a stage is how far the "
        "reference stands from itself in float64 when it runs in float32, twice, on images and "
        f"weights that are off by a last digit; about {document['factor']:g} floors are allowed. "
        f"Closest to its bound: {worst['name']}.",
        "",
        "| stage | shape | largest value | noise floor | allowed | difference | torch's | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in document["stages"]:
        shape = " x ".join(map(str, stage["shape"])) or "one number"
        numbers = (stage[n] for n in ("largest", "noise_floor", "allowed", "difference"))
        cells = [stage["name"], shape, *map(_number, numbers), _number(stage["torch_difference"])]
        lines.append(f"| {' | '.join(cells)} | {'pass' if stage['passed'] else '**FAIL**'} |")
    if document["rounding"]:
        lines += _rounding_lines(document)
    lines += ["", "## Tensors", "", "| in the file | becomes | change | shape | SHA-256 |"]
    lines.append("|---|---|---|---|---|")
    for row in document["tensors"]:
        block = "" if row["block"] is None else f"[{row['block']}]"
        leaf = f"`{row['leaf']}{block}`, {row['layout']}"
        for part in row["from"] or [{"key": "-", "shape": row["shape"], "sha256": "", "dtype": ""}]:
            shape = " x ".join(map(str, part["shape"]))
            digest = f"`{part['sha256'][:16]}`" if part["sha256"] else "-"
            lines.append(
                f"| `{part['key']}` | {leaf} | {row['change']} | {shape} {part['dtype']} | "
                f"{digest} |"
            )
    if document["left_out"]:
        lines += ["", "## Left out", ""]
        lines += [f"- `{key}`: {why}" for key, why in document["left_out"].items()]
    used = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    lines += ["", f"Made on {document['date']} with {used}."]
    return "\n".join(lines) + "\n"


def _rounding_lines(document: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"## What {document['dtype']} costs",
        "",
        "The reference in float64 on the rounded weights against the file's own.",
        "",
        "| output | largest difference | relative (root mean square) | same class |",
        "|---|---|---|---|",
    ]
    for row in document["rounding"]:
        same = "-" if row["same_class"] is None else f"{row['same_class']:.0%}"
        numbers = f"{_number(row['difference'])} | {_number(row['relative'])}"
        lines.append(f"| {row['name']} | {numbers} | {same} |")
    return lines


def _closeness(stage: dict[str, Any]) -> float:
    return np.inf if stage["of_allowed"] is None else stage["of_allowed"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
