"""A bundle made of a bundle: fewer blocks, another dtype, another licence."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fer_jax.bundle import Bundle, bundle_hash, load_bundle, save_bundle
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig


def rewrite_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    blocks: str = "",
    dtype: str | None = None,
    license: str = "",
    overwrite: bool = False,
) -> list[str]:
    """Writes a bundle again, changed.

    Args:
        source: the bundle.
        out: folder of the new one, whose golden sample is computed anew.
        blocks: of its encoder, the numbers from 0 of those that are kept, such as `0,1,2`: a small
            model to begin from that is cut out of a large one; empty keeps all.
        dtype: of the parameters: `float32`, `bfloat16` or `float16`; None keeps them.
        license: of the weights; empty keeps it.
        overwrite: replace a bundle.

    Returns:
        What was written, for people.

    Raises:
        UsageError: nothing is to be changed, or `blocks` are no numbers.
        FerJaxError: no bundle, no such block, or one of several encoders.
    """
    if not (blocks or dtype or license):
        raise UsageError(
            f"{out}: must end in .pth or .safetensors; or, to write another bundle, name --blocks, "
            "--dtype or --license"
        )
    source = Path(source)
    bundle = load_bundle(source)
    if blocks:
        bundle = shortened(bundle, blocks, str(source))
    if dtype:
        bundle = cast(bundle, dtype)
    before = {"sha256": bundle_hash(source), "provenance": bundle.provenance}
    changes = {"blocks": blocks, "dtype": dtype}
    provenance = {"made_by": "fer-jax convert", "bundle": before}
    provenance |= {name: value for name, value in changes.items() if value}
    bundle = dataclasses.replace(bundle, provenance=provenance, license=license or bundle.license)
    save_bundle(bundle, out, overwrite=overwrite)
    return [f"{source}: {bundle.kind}, {_described(bundle)}"]


def shortened(bundle: Bundle, blocks: str, where: str) -> Bundle:
    """The bundle with the blocks of its encoder that are named, in that order.

    Args:
        bundle: an encoder, a classifier, or an autoencoder.
        blocks: numbers from 0, separated by commas.
        where: the bundle's path, for errors.

    Returns:
        The bundle; other parameters, such as the last norm, stay as they are.

    Raises:
        UsageError: `blocks` are no numbers.
        FerJaxError: no such block, or one of several encoders.
    """
    try:
        kept = np.array([int(part) for part in blocks.split(",")])
    except ValueError:
        raise UsageError(f"--blocks {blocks}: write numbers from 0, as in 0,1,2") from None
    if set(bundle.models) != {"main"}:
        raise FerJaxError(f"{where}: is of the kind {bundle.kind}; --blocks is of one encoder")
    config, params = bundle.models["main"]
    is_mae = isinstance(config, MAEConfig)
    encoder, own = (config.encoder, params["encoder"]) if is_mae else (config, params)
    if ((kept < 0) | (kept >= encoder.depth)).any():
        raise FerJaxError(f"{where}: has the blocks 0 to {encoder.depth - 1}, not {blocks}")
    encoder = dataclasses.replace(encoder, depth=len(kept))
    own = own | {"blocks": jax.tree.map(lambda leaf: np.asarray(leaf)[kept], own["blocks"])}
    if is_mae:
        encoder, own = dataclasses.replace(config, encoder=encoder), params | {"encoder": own}
    return dataclasses.replace(bundle, models={"main": (encoder, own)}, scores={})


def cast(bundle: Bundle, dtype: str) -> Bundle:
    """The bundle with parameters of another dtype; what is computed stays in float32."""
    models = {
        name: (
            _with_dtype(config, dtype),
            jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), params),
        )
        for name, (config, params) in bundle.models.items()
    }
    return dataclasses.replace(bundle, models=models)


def _with_dtype(config: ModelConfig, dtype: str) -> ModelConfig:
    if isinstance(config, MAEConfig):
        return dataclasses.replace(config, encoder=_with_dtype(config.encoder, dtype))
    return dataclasses.replace(config, param_dtype=dtype)


def _described(bundle: Bundle) -> str:
    """Parameters and dtypes, in words."""
    leaves: list[Any] = jax.tree.leaves(bundle.params)
    dtypes = sorted({str(np.asarray(leaf).dtype) for leaf in leaves})
    return f"{sum(leaf.size for leaf in leaves):,} parameters, {', '.join(dtypes)}"
