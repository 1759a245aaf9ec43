"""The autoencoder that a masked pre-training run begins from."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from fer_jax.bundle import Bundle
from fer_jax.errors import FerJaxError
from fer_jax.models import mae
from fer_jax.models.config import ViTConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.train.pretrain_config import MAEModelConfig, PretrainConfig, checked, scratch_config
from fer_jax.train.state import Start, resized_note, resized_positions, view_of

KINDS = ("mae", "encoder")
# Parts that a backbone need not have, and one that an autoencoder has no place for.
_FRESH = ("decoder", "encoder/norm")
_LEFT = ("encoder/fc_norm",)
# Where a block's LayerScales act: on what these layers give.
_SCALED = {"ls1": "attn/proj", "ls2": "mlp/fc2"}


def from_scratch(config: PretrainConfig, template: str) -> Start:
    """A fresh autoencoder of `config.model`."""
    autoencoder = scratch_config(config)
    mean, std = NORMALIZATIONS[config.normalize]
    view = view_of(config, autoencoder.image_size, template, mean, std)
    return Start(autoencoder, _fresh(autoencoder, config.seed), view, ("training from scratch",))


def from_bundle(config: PretrainConfig, bundle: Bundle, template: str) -> Start:
    """The bundle's autoencoder; or its encoder, with a fresh decoder.

    Positions stay as they are, learned or not, and are interpolated if the size of the input
    changes. LayerScale (DINOv2's) is multiplied into the layers that it acts on, which computes
    the same.

    Raises:
        FerJaxError: the bundle is of another kind, or does not fit its own configuration.
    """
    where = config.backbone
    if bundle.kind not in KINDS:
        raise FerJaxError(
            f"{where}: is of the kind {bundle.kind}; masked pre-training begins from one of "
            f"{', '.join(KINDS)}, such as `fer-jax convert` makes"
        )
    old_config, old_params = bundle.models["main"]
    try:
        autoencoder = checked(config, bundle_config(config.model, old_config))
    except FerJaxError as error:
        raise FerJaxError(f"{where}: {error}") from error
    old, notes = _old_leaves(old_config, old_params)
    if autoencoder.encoder.grid != _encoder(old_config).grid:
        for name in ("encoder/pos_embed", "decoder/pos_embed"):
            if name in old:
                old[name] = resized_positions(old[name], autoencoder.encoder.grid)
        notes.append(resized_note(_encoder(old_config).grid, autoencoder.encoder.grid))
    fresh = traverse_util.flatten_dict(_fresh(autoencoder, config.seed), sep="/")
    made, left = fresh.keys() - old.keys(), old.keys() - fresh.keys()
    wrong = [path for path in made if not path.startswith(_FRESH)]
    wrong += [path for path in left if not path.startswith(_LEFT)]
    wrong += [path for path in fresh.keys() & old.keys() if fresh[path].shape != old[path].shape]
    if wrong:
        raise FerJaxError(
            f"{where}: does not fit its own configuration at {', '.join(sorted(wrong))}; convert "
            "the checkpoint again"
        )
    notes += [f"fresh: {part}" for part in _FRESH if any(path.startswith(part) for path in made)]
    notes += [f"left behind: {part}" for part in _LEFT if any(p.startswith(part) for p in left)]
    params = {
        path: np.asarray(old[path], leaf.dtype) if path in old else leaf
        for path, leaf in fresh.items()
    }
    prepared = bundle.views["main"]
    view = view_of(config, autoencoder.image_size, template, prepared.mean, prepared.std)
    return Start(autoencoder, traverse_util.unflatten_dict(params, sep="/"), view, tuple(notes))


def bundle_config(model: MAEModelConfig, old: ViTConfig | MAEConfig) -> MAEConfig:
    """The autoencoder that a run makes of a bundle's model.

    Raises:
        FerJaxError: it can be none, or the size of the input does not fit its patches.
    """
    encoder = dataclasses.replace(
        _encoder(old),
        **model.run_fields,
        param_dtype="float32",  # whatever the bundle keeps: small steps are lost in fewer bits
        image_size=model.image_size or old.image_size,
        pool="cls",
        layer_scale=False,
    )
    if isinstance(old, MAEConfig):
        return dataclasses.replace(old, encoder=encoder)
    return MAEConfig(encoder, **model.decoder_fields)


def _encoder(config: ViTConfig | MAEConfig) -> ViTConfig:
    return config.encoder if isinstance(config, MAEConfig) else config


def _fresh(autoencoder: MAEConfig, seed: int) -> dict[str, Any]:
    return jax.jit(lambda key: mae.init(autoencoder, key))(jax.random.key(seed))


def _old_leaves(
    config: ViTConfig | MAEConfig, params: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The bundle's leaves by their paths in an autoencoder, and notes on what was done to them."""
    if isinstance(config, MAEConfig):
        return traverse_util.flatten_dict(params, sep="/"), []
    old = traverse_util.flatten_dict({"encoder": params}, sep="/")
    if not config.layer_scale:
        return old, []
    for scale, layer in _SCALED.items():
        gamma = np.asarray(old.pop(f"encoder/blocks/{scale}/gamma"), np.float32)
        kernel, bias = (f"encoder/blocks/{layer}/{name}" for name in ("kernel", "bias"))
        old[kernel] = np.asarray(old[kernel], np.float32) * gamma[:, None, :]
        old[bias] = np.asarray(old[bias], np.float32) * gamma
    return old, ["LayerScale multiplied into the weights"]
