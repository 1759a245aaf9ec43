"""Says what a checkpoint or a bundle holds, without running or converting anything."""

import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.bundle import DOCUMENT_FILE, FILES, PARAMS_FILE, read_document
from fer_jax.convert.checkpoint import Checkpoint, file_sha256, open_checkpoint
from fer_jax.convert.families import Family, sort_keys
from fer_jax.convert.options import Options
from fer_jax.convert.plan import HEADS, family_of, plan_conversion
from fer_jax.convert.pth import TensorRef
from fer_jax.convert.sizes import DECODER_HEADS, registered_size, stated
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES
from fer_jax.models.fusion import EntryFusionConfig, FusionConfig, TokenFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig, layout
from fer_jax.models.vit import SIZES
from fer_jax.safetensors_file import read_safetensors

Tensors = Mapping[str, TensorRef | np.ndarray]


def inspect_path(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Looks into a `.pth` or `.safetensors` file, or a bundle; no values are read but to hash them.

    Args:
        path: the file, or the bundle's folder.

    Returns:
        Plain values, as JSON holds them. `what` is `checkpoint` or `bundle`. Both have `path`,
        `bytes`, `sha256`, `tensors` (how many), `parameters` (numbers in them), `dtypes` and
        `parts` (each with `tensors` and `parameters`), and `models` (sizes, or none). A checkpoint
        adds `format`, `family`, `reason`, `head_classes`, `fitting_labels`, `left_out` and
        `beside`; a bundle `kind`, `labels`, `views`, `scores`, `license` and `provenance`, and its
        `sha256` has a value for each file. `problem` says why it cannot be used, or is none.

    Raises:
        FerJaxError: neither of them, truncated or damaged.
    """
    path = Path(path)
    return _bundle(path) if path.is_dir() else _checkpoint(path)


def _checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(path)
    found: dict[str, Any] = {
        "what": "checkpoint",
        "path": str(path),
        "format": checkpoint.format,
        "bytes": path.stat().st_size,
        "sha256": checkpoint.sha256(),
        **_contents(checkpoint.tensors, "."),
        "beside": checkpoint.beside,
    }
    return found | _as_model(checkpoint)


def _as_model(checkpoint: Checkpoint) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("family", "reason", "models", "problem"))
    found |= {"head_classes": None, "fitting_labels": [], "left_out": {}}
    try:
        family, found["reason"] = family_of(checkpoint, "auto")
        found["family"] = family.name
        names = sort_keys(family, checkpoint.tensors).used
        both_norms = {"norm.weight", "fc_norm.weight"} <= names.keys()
        plan = plan_conversion(checkpoint, _any_wishes(family, names, both_norms))
    except FerJaxError as error:
        return found | {"problem": str(error)}
    model = _model(plan.config)
    if family.model == "vit":
        said = stated(checkpoint.path, family)
        size = SIZES.get(model["size"])
        model["num_heads"] = said.get("num_heads") or (size[2] if size else None)
        if both_norms:
            model["pool"] = None
        if "decoder" in model:
            width = model["decoder"]["width"]
            model["decoder"]["num_heads"] = said.get("decoder_heads") or DECODER_HEADS.get(width)
    head = HEADS[family.model]
    if f"{head}.weight" in names:
        found |= _head(checkpoint, names, head, getattr(plan.config, "width", None))
    choices = (f"{head}.", *(("norm.", "fc_norm.") if both_norms else ()))
    chosen = {
        checkpoint.source_keys[key]
        for target, parts in names.items()
        if target.startswith(choices)
        for key in parts.values()
    }
    left_out = {
        key: why
        for key, why in plan.dropped.items()
        if key not in chosen and key not in checkpoint.beside
    }
    return found | {"models": {"main": model}, "left_out": left_out}


def _any_wishes(family: Family, names: Mapping[str, Any], both_norms: bool) -> Options:
    """Wishes with which a file can be planned; what weights do not say does not show in a plan."""
    if family.model == "fusion":
        return Options(fresh_head=next(iter(LABEL_SPACES.values())))
    decoder = "decoder_embed.weight" in names and "norm.weight" in names
    return Options(
        num_heads=1,
        pool="cls" if both_norms else None,
        decoder=decoder,
        decoder_heads=1 if decoder else None,
        norm_pix=True if decoder else None,
    )


def _head(
    checkpoint: Checkpoint, names: Mapping[str, Mapping[int, str]], head: str, width: int | None
) -> dict[str, Any]:
    """How many classes a head has and which label spaces it would fit, or why it is no head."""
    shapes = {
        leaf: tuple(checkpoint.tensors[names[f"{head}.{leaf}"][0]].shape)
        for leaf in ("weight", "bias")
        if f"{head}.{leaf}" in names
    }
    classes = shapes["weight"][0] if shapes["weight"] else 0
    fitting = [name for name, space in LABEL_SPACES.items() if len(space) == classes]
    found: dict[str, Any] = {"head_classes": classes, "fitting_labels": fitting}
    inputs = shapes["weight"][1] if len(shapes["weight"]) == 2 else None
    good = {"weight": (classes, width if head == "head" else inputs), "bias": (classes,)}
    if shapes != good or not classes:
        found["problem"] = f"{checkpoint.path}: its head is no layer on {good['weight'][1]} values"
    return found


def _bundle(path: Path) -> dict[str, Any]:
    configs, fields, _ = read_document(path)
    labels = fields["labels"]
    tensors = read_safetensors(path / PARAMS_FILE)
    return {
        "what": "bundle",
        "path": str(path),
        "kind": fields["kind"],
        "bytes": sum((path / name).stat().st_size for name in FILES),
        "sha256": {name: file_sha256(path / name) for name in FILES},
        **_contents(tensors, "/"),
        "problem": _misfit(configs, tensors),
        "models": {name: _model(config) for name, config in configs.items()},
        "labels": {"name": labels.name, "classes": list(labels.classes)} if labels else None,
        "views": {name: dict(vars(view)) for name, view in fields["views"].items()},
        "scores": fields["scores"],
        "license": fields["license"],
        "provenance": fields["provenance"],
    }


def _misfit(configs: Mapping[str, ModelConfig], tensors: Tensors) -> str | None:
    """Why the parameters are not those that bundle.json speaks of, if so."""
    wanted = {f"{key}/{n}": v for key, config in configs.items() for n, v in layout(config).items()}
    held = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wrong = sorted(n for n in wanted.keys() | held.keys() if wanted.get(n) != held.get(n))
    if not wrong:
        return None
    return (
        f"{PARAMS_FILE} does not fit {DOCUMENT_FILE}: {', '.join(wrong[:5])} ({len(wrong)} in all)"
    )


def _model(config: ModelConfig) -> dict[str, Any]:
    if isinstance(config, FusionConfig):
        fields = ("variant", "sources", "widths", "num_classes")
        if isinstance(config, EntryFusionConfig):
            fields += ("width", "hidden")
        if isinstance(config, TokenFusionConfig):
            fields += ("width", "num_heads", "attention", "merge", "kernel_size")
        return {name: getattr(config, name) for name in fields}
    if isinstance(config, MAEConfig):
        decoder = {name: getattr(config.decoder, name) for name in ("width", "depth", "num_heads")}
        return {**_model(config.encoder), "decoder": decoder}
    fields = ("image_size", "patch_size", "width", "depth", "num_heads", "pool", "layer_scale")
    size = registered_size(config.width, config.depth)
    return {"size": size, **{name: getattr(config, name) for name in fields}}


def _contents(tensors: Tensors, separator: str) -> dict[str, Any]:
    parts: dict[str, dict[str, int]] = {}
    for name, tensor in tensors.items():
        part = parts.setdefault(name.split(separator)[0], {"tensors": 0, "parameters": 0})
        part["tensors"] += 1
        part["parameters"] += math.prod(tensor.shape)
    return {
        "tensors": len(tensors),
        "parameters": sum(part["parameters"] for part in parts.values()),
        "dtypes": dict(Counter(str(tensor.dtype) for tensor in tensors.values())),
        "parts": parts,
    }


def describe(found: Mapping[str, Any]) -> list[str]:
    """What `inspect_path` found, as lines for people: a name and a value each."""
    rows: list[tuple[str, str]] = [("file", found["path"])]
    if found["what"] == "bundle":
        rows.append(("kind", f"bundle, {found['kind']}"))
    else:
        rows.append(("kind", f"checkpoint, {found['format']}"))
        family = found["family"] or "none that is known"
        rows.append(("family", f"{family}: {found['reason']}" if found["reason"] else family))
    for name, model in (found["models"] or {}).items():
        rows.append(("model" if name == "main" else name, _model_line(model)))
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in found["dtypes"].items())
    rows.append(
        ("holds", f"{found['parameters']:,} numbers in {found['tensors']} tensors: {dtypes}")
    )
    rows += [
        ("", f"{part}: {counts['parameters']:,} in {counts['tensors']}")
        for part, counts in found["parts"].items()
    ]
    rows += _bundle_rows(found) if found["what"] == "bundle" else _checkpoint_rows(found)
    if found["problem"]:
        first, *others = found["problem"].split("\n")
        more = [f"  ... {len(others) - 20} more"] if len(others) > 20 else []
        rows += [("problem", first), *(("", line) for line in others[:20] + more)]
    rows.append(("bytes", f"{found['bytes']:,}"))
    hashes = found["sha256"]
    if isinstance(hashes, str):
        rows.append(("sha256", hashes))
    else:
        rows += [("sha256", f"{value}  {name}") for name, value in hashes.items()]
    return [f"{name:9} {value}" for name, value in rows]


def _model_line(model: Mapping[str, Any]) -> str:
    if "variant" in model:
        return _fusion_line(model)
    size = f"ViT-{model['size']}" if model["size"] else "ViT of no registered size"
    heads = f"{model['num_heads']} heads" if model["num_heads"] else "heads not known (--heads)"
    pool = f"pool {model['pool']}" if model["pool"] else "pool not known (--pool)"
    line = (
        f"{size}: width {model['width']}, {model['depth']} blocks, {heads}, patch "
        f"{model['patch_size']}, {model['image_size']} pixels, {pool}"
        f"{', LayerScale' if model['layer_scale'] else ''}"
    )
    if "decoder" in model:
        decoder = model["decoder"]
        line += f"; MAE's decoder: width {decoder['width']}, {decoder['depth']} blocks"
    return line


def _fusion_line(model: Mapping[str, Any]) -> str:
    widths = [
        f"{name} {width} wide"
        for name, width in zip(model["sources"], model["widths"], strict=True)
    ]
    line = f"fusion {model['variant']}: features {', '.join(widths)}"
    if model["variant"] == "entry":
        line += f"; {model['width']} tokens, hidden {model['hidden']}"
    if model["variant"] == "token":
        line += (
            f"; tokens {model['width']} wide, {model['num_heads']} heads, attention "
            f"{model['attention']}, merge {model['merge']}"
        )
    return line


def _checkpoint_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if found["head_classes"] is not None:
        fitting = ", ".join(found["fitting_labels"]) or "no label space that is known"
        rows.append(("head", f"{found['head_classes']} classes; would fit {fitting}"))
    elif found["models"]:
        rows.append(("head", "none"))
    rows += [("beside", f"{name}: {what}") for name, what in found["beside"].items()]
    reasons = Counter(found["left_out"].values())
    rows += [("left out", f"{count} tensors: {why}") for why, count in reasons.items()]
    return rows


def _bundle_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = found["labels"]
    rows = [("labels", f"{labels['name']}: {', '.join(labels['classes'])}" if labels else "none")]
    rows += [
        (
            "view",
            f"{name}: {view['view']} of faces aligned to {view['template']}, "
            f"{view['image_size']} pixels, {view['resize']}",
        )
        for name, view in found["views"].items()
    ]
    rows += [("score", f"{name} {value}") for name, value in found["scores"].items()]
    rows.append(("made by", str(found["provenance"].get("made_by", "not stated"))))
    rows.append(("licence", found["license"]))
    return rows
