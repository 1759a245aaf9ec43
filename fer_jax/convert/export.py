"""The way back: a bundle's model becomes a PyTorch checkpoint, bit for bit, without torch."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.bundle import PARAMS_FILE, Bundle, View, load_bundle
from fer_jax.convert.families import FAMILIES, FAMILY_NAMES, Family
from fer_jax.convert.pth_writer import write_pth
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.fusion import HeadFusionConfig, TokenFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig, layout, to_torch_layout
from fer_jax.models.vit import ViTConfig
from fer_jax.safetensors_file import write_safetensors

SUFFIXES = (".pth", ".safetensors")


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
        family: whose names, of `families.FAMILY_NAMES` (with `mae`, a `.pth` holds the state dict
            under `model`, as MAE's own code expects), or `auto`: the one that the bundle was
            converted from, else the first that can hold the model.
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
    if family not in ("auto", *FAMILY_NAMES):
        raise UsageError(f"no family {family!r} to write; one of auto, {', '.join(FAMILY_NAMES)}")
    bundle = load_bundle(source)
    if len(bundle.models) > 1:
        raise UsageError(
            f"{source}: holds the models {', '.join(bundle.models)}, a checkpoint holds one; its "
            f"{PARAMS_FILE} has the tensors of all of them under PyTorch's names"
        )
    ((config, params),) = bundle.models.values()
    form = _form(source, bundle, config, family)
    names = _names(form, config)
    shapes = {
        key: ((shape[0] // len(keys), *shape[1:]) if len(keys) > 1 else shape, dtype)
        for target, (shape, dtype) in layout(config).items()
        for keys in [names[target]]
        for key in keys
    }
    tensors = _parts(names, to_torch_layout(params, config))
    with atomic_file(out) as partial:
        if out.suffix == ".pth":
            write_pth(partial, shapes, tensors, wrapper=form.wrapper)
        else:
            write_safetensors(partial, shapes, tensors)
    lines = [f"{out.name}: {len(shapes)} tensors with the names of {form.name}"]
    if bundle.labels:
        classes = ", ".join(bundle.labels.classes)
        lines.append(f"the head's outputs are {bundle.labels.name}: {classes}")
    if "main" in bundle.views:
        lines.append(_unsaid(bundle.views["main"], config))
    lines.append(f"licence: {bundle.license}")
    return lines


def _names(form: Family, config: ModelConfig) -> dict[str, list[str]]:
    """The keys to write for each tensor of a model; none where the family has no place for it."""
    if isinstance(config, TokenFusionConfig | HeadFusionConfig):  # a `head` is no ViT's
        return {target: [] for target in layout(config)}
    bare = isinstance(config, ViTConfig) and not config.num_classes
    return {target: form.keys(target, "" if bare else form.prefix) for target in layout(config)}


def _form(source: Path, bundle: Bundle, config: ModelConfig, family: str) -> Family:
    """The form of a family that has a place for every tensor of the model."""
    wanted = _origin(bundle) if family == "auto" else family
    forms = [form for form in FAMILIES if form.name == wanted]
    if family == "auto":
        forms += [form for form in FAMILIES if form.name != wanted]
    homeless = {}
    for number, form in enumerate(forms):
        homeless[number] = [target for target, keys in _names(form, config).items() if not keys]
        if not homeless[number]:
            return form
    missing = min(homeless.values(), key=len)
    able = dict.fromkeys(f.name for f in FAMILIES if all(_names(f, config).values()))
    names = f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
    if not able:
        raise UsageError(
            f"{source}: no family has a place for {names}; its {PARAMS_FILE} has PyTorch's names"
        )
    raise UsageError(
        f"{source}: the names of {family} have no place for {names}; --family {' or '.join(able)}"
    )


def _origin(bundle: Bundle) -> str:
    """The family that a bundle, or what it was trained from, was converted from."""
    origin = bundle.provenance
    while isinstance(origin.get("backbone"), dict):
        origin = origin["backbone"]
    return str(origin.get("family"))


def _parts(
    names: dict[str, list[str]], tensors: Iterator[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor under its keys, divided along axis 0 where it is several in files."""
    for target, values in tensors:
        keys = names[target]
        if len(keys) == 1:  # a scalar cannot be divided, not even by one
            yield keys[0], values
        else:
            yield from zip(keys, np.split(values, len(keys)), strict=True)


def _unsaid(view: View, config: ModelConfig) -> str:
    """What whoever loads the file must know and cannot see."""
    encoder = config.encoder if isinstance(config, MAEConfig) else config
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (view.mean, view.std))
    heads = f"{encoder.num_heads} heads"
    if isinstance(config, MAEConfig):
        pixels = "normalised patches" if config.norm_pix else "plain patches"
        heads += f" ({config.decoder_num_heads} in the decoder, which predicts {pixels})"
    return (
        f"a checkpoint does not say: {heads}, {encoder.pool} pooling, LayerNorm eps "
        f"{encoder.norm_eps:g}, {view.image_size} pixels of the view {view.view}, mean {mean}, "
        f"std {std}"
    )
