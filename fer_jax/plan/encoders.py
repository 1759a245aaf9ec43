"""The encoder that a run trains, known before there are weights."""

import dataclasses
from pathlib import Path

from fer_jax.bundle import read_document
from fer_jax.errors import FerJaxError
from fer_jax.models.config import ViTConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.train.config import ModelConfig
from fer_jax.train.state import scratch_config

_OF_THE_BUNDLE = (
    "patch_size",
    "width",
    "depth",
    "num_heads",
    "mlp_ratio",
    "layer_scale",
    "norm_eps",
)


def encoder_config(model: ModelConfig, bundle: str, name: str, num_classes: int) -> ViTConfig:
    """The encoder of a run; what `train.state` makes of the same, without its weights.

    Args:
        model: the fields of the run.
        bundle: the bundle that it begins from; empty for none.
        name: which of the bundle's encoders, else its main one.
        num_classes: outputs; 0 for no head.

    Raises:
        FerJaxError: the bundle cannot be read, or holds no encoder.
    """
    if not bundle:
        return scratch_config(model, num_classes)
    configs, _, _ = read_document(Path(bundle))
    own = configs.get(name, configs.get("main"))
    own = own.encoder if isinstance(own, MAEConfig) else own
    if not isinstance(own, ViTConfig):
        raise FerJaxError(f"{bundle}: holds no encoder; name another bundle")
    shape = {field: getattr(own, field) for field in _OF_THE_BUNDLE}
    size = model.image_size or own.image_size
    return scratch_config(dataclasses.replace(model, image_size=size, **shape), num_classes)
