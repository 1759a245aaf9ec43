"""The configurations of a bundle's models, written to JSON and read strictly."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fer_jax.errors import FerJaxError
from fer_jax.models.fusion import (
    VARIANTS,
    EntryFusionConfig,
    FusionConfig,
    HeadFusionConfig,
    TokenFusionConfig,
)
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import ViTConfig

# The fields of a configuration that define the function; the others are a matter of speed or
# training.
VIT_FIELDS = (
    *("image_size", "patch_size", "width", "depth", "num_heads", "mlp_ratio", "num_classes"),
    *("pool", "layer_scale", "norm_eps", "param_dtype"),
)
MAE_FIELDS = (
    *("encoder", "decoder_width", "decoder_depth", "decoder_num_heads", "decoder_mlp_ratio"),
    "norm_pix",
)
_FUSION_FIELDS = ("variant", "sources", "widths", "num_classes", "param_dtype")
MODEL_FIELDS = {
    ViTConfig: VIT_FIELDS,
    MAEConfig: MAE_FIELDS,
    EntryFusionConfig: (*_FUSION_FIELDS, "width", "hidden"),
    TokenFusionConfig: (
        *_FUSION_FIELDS,
        *("width", "num_heads", "attention", "merge", "kernel_size", "norm_eps"),
    ),
    HeadFusionConfig: _FUSION_FIELDS,
}

_MAE = {
    "encoder": dict,
    "decoder_width": int,
    "decoder_depth": int,
    "decoder_num_heads": int,
    "decoder_mlp_ratio": float,
    "norm_pix": bool,
}
_FUSION = {"variant": str, "sources": list, "widths": list}
_LISTS = {"sources": (str, "names"), "widths": (int, "integers")}


def model_to_json(config: ModelConfig) -> dict[str, Any]:
    """The fields of a configuration that a bundle stores."""
    fields = {name: getattr(config, name) for name in MODEL_FIELDS[type(config)]}
    if isinstance(config, MAEConfig):
        fields["encoder"] = model_to_json(config.encoder)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def model_from_json(where: str, fields: Any, model: Any) -> ModelConfig:
    """Reads a configuration; every field must be there, be known and be of its type.

    Args:
        where: what the fields are, for messages.
        fields: as `model_to_json` gives them.
        model: the type of the configuration: `ViTConfig`, `MAEConfig` or `FusionConfig`, in which
            case the field `variant` decides.

    Raises:
        FerJaxError: a field is missing, unknown, of the wrong type or has an unknown value.
    """
    variant = None
    if model == FusionConfig:
        variant = _variant(where, fields)
        model = VARIANTS[variant]
    check_fields(where, fields, _types(model))
    changed: dict[str, Any] = {}
    if model is MAEConfig:
        changed["encoder"] = model_from_json(f"{where}.encoder", fields["encoder"], ViTConfig)
    if variant is not None:
        changed |= {name: _tuple(f"{where}.{name}", fields[name], *_LISTS[name]) for name in _LISTS}
        if model is not HeadFusionConfig:  # of the others it is a constant
            fields = {name: value for name, value in fields.items() if name != "variant"}
    try:
        return model(**fields | changed)
    except FerJaxError as error:
        raise FerJaxError(f"{where}: {error}") from error


def check_fields(where: str, fields: Any, expected: Mapping[str, Any]) -> None:
    """Refuses an object whose fields are not those that are expected, each of its type.

    Args:
        where: what the object is, for messages; empty for a whole document.
        fields: the parsed object.
        expected: the type of each field, or a tuple of types.

    Raises:
        FerJaxError: names the field.
    """
    dot = f"{where}." if where else ""
    if not isinstance(fields, dict):
        raise FerJaxError(f"{where} must be an object")
    for name in sorted(expected.keys() - fields.keys()):
        raise FerJaxError(f"the field {dot}{name} is missing; convert or train again")
    for name in sorted(fields.keys() - expected.keys()):
        raise FerJaxError(f"the field {dot}{name} is not known; update fer_jax")
    for name, kind in expected.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(fields[name]) not in kinds and not (
            kinds == (float,) and type(fields[name]) is int
        ):
            raise FerJaxError(
                f"{dot}{name}={fields[name]!r} is not of the type {kinds[0].__name__}"
            )


def _types(model: type) -> dict[str, Any]:
    """The type of each field in JSON."""
    if model is MAEConfig:
        return _MAE
    found = _FUSION if "sources" in MODEL_FIELDS[model] else {}
    defaults = {field.name: type(field.default) for field in dataclasses.fields(model)}
    return {name: found.get(name) or defaults[name] for name in MODEL_FIELDS[model]}


def _variant(where: str, fields: Any) -> str:
    if not isinstance(fields, dict):
        raise FerJaxError(f"{where} must be an object")
    if "variant" not in fields:
        raise FerJaxError(f"the field {where}.variant is missing; convert or train again")
    variant = fields["variant"]
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise FerJaxError(f"{where}.variant={variant!r} must be one of {', '.join(VARIANTS)}")
    return variant


def _tuple(where: str, values: list[Any], kind: type, words: str) -> tuple[Any, ...]:
    if any(type(value) is not kind for value in values):
        raise FerJaxError(f"{where}={values!r} must be {words}")
    return tuple(values)
