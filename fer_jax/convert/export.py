"""The way back: a bundle's model becomes a PyTorch checkpoint, bit for bit, without torch."""

import os
from pathlib import Path

from fer_jax.atomic import atomic_file
from fer_jax.bundle import Bundle, load_bundle
from fer_jax.convert.pth_writer import write_pth
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.torch_layout import layout, to_torch_layout
from fer_jax.safetensors_file import write_safetensors

SUFFIXES = (".pth", ".safetensors")
# family -> the key that its own code looks for the state dict under
WRAPPERS = {"mae": "model", "timm": None}


def export_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    family: str = "auto",
    overwrite: bool = False,
) -> list[str]:
    """Writes a bundle's model as a checkpoint that PyTorch code loads.

    Args:
        source: the bundle.
        out: the file; `.pth`, which `torch.load(weights_only=True)` reads, or `.safetensors`.
        family: whose names: `mae` (a `.pth` holds the state dict under `model`, as MAE's own code
            expects), `timm`, or `auto`: the one that the bundle was converted from, else one that
            can hold the model.
        overwrite: replace `out` if it exists.

    Returns:
        What was written, for people.

    Raises:
        UsageError: an unknown ending or family, or one that cannot hold the model.
        FerJaxError: no bundle, a damaged one, or `out` exists.
    """
    source, out = Path(source), Path(out)
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out}: must end in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name a file")
    if out.exists() and not overwrite:
        raise FerJaxError(f"{out}: exists already; pass --overwrite, or name another file")
    if family not in ("auto", *WRAPPERS):
        raise UsageError(f"no family {family!r} to write; one of auto, {', '.join(WRAPPERS)}")
    bundle = load_bundle(source)
    config, params = bundle.models["main"]
    family = _family(bundle) if family == "auto" else family
    if family == "mae" and config.layer_scale:
        raise UsageError(f"{source}: MAE's ViT has no LayerScale, this model does; --family timm")
    shapes, tensors = layout(config), to_torch_layout(params, config)
    with atomic_file(out) as partial:
        if out.suffix == ".pth":
            write_pth(partial, shapes, tensors, wrapper=WRAPPERS[family])
        else:
            write_safetensors(partial, shapes, tensors)
    lines = [f"{out.name}: {len(shapes)} tensors with the names of {family}, {config.pool} pooling"]
    if bundle.labels:
        classes = ", ".join(bundle.labels.classes)
        lines.append(f"the head's outputs are {bundle.labels.name}: {classes}")
    view = bundle.views["main"]
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (view.mean, view.std))
    lines.append(
        f"it takes {view.image_size} pixels of the view {view.view}, mean {mean}, std {std}, "
        f"LayerNorm eps {config.norm_eps:g}: a checkpoint holds none of this"
    )
    lines.append(f"licence: {bundle.license}")
    return lines


def _family(bundle: Bundle) -> str:
    config, _ = bundle.models["main"]
    origin = bundle.provenance
    while isinstance(origin.get("backbone"), dict):  # trained: what it began from
        origin = origin["backbone"]
    family = str(origin.get("family"))
    return family if family in WRAPPERS else "timm" if config.layer_scale else "mae"
