"""What a bundle says about itself: its dataclasses, and bundle.json written and read strictly."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fer_jax import __version__
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, LabelSpace, label_space
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS

FORMAT = "fer_jax bundle"
FORMAT_VERSION = 1
COLOR_ORDERS = ("RGB",)

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
FUSION_FIELDS = ("widths", "width", "hidden", "num_classes", "param_dtype")
MODEL_FIELDS = {ViTConfig: VIT_FIELDS, MAEConfig: MAE_FIELDS, EntryFusionConfig: FUSION_FIELDS}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a kind of bundle holds.

    Attributes:
        models: the keys of its models.
        views: the keys of its views.
        config: of its models.
        labelled: whether it must name its classes; if not, it must not.
        supported: whether this version makes and reads it.
    """

    models: tuple[str, ...]
    views: tuple[str, ...]
    config: type
    labelled: bool
    supported: bool


_MAIN = ("main",)
_BOTH = ("main", "aux")
KINDS = {
    "encoder": Kind(_MAIN, _MAIN, ViTConfig, labelled=False, supported=True),
    "mae": Kind(_MAIN, _MAIN, MAEConfig, labelled=False, supported=True),
    "classifier": Kind(_MAIN, _MAIN, ViTConfig, labelled=True, supported=True),
    "fusion": Kind(("fusion",), (), EntryFusionConfig, labelled=True, supported=True),
    "two_view": Kind(_BOTH, _BOTH, ViTConfig, labelled=True, supported=False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How a face is prepared for one model.

    Attributes:
        template: how the face is aligned, such as `arcface_112`; `unknown` if nobody said.
        crop_source: whose crops it was trained on; `unknown` if nobody said.
        view: the part of the face, a name of `ops.views.VIEWS`.
        image_size: side of the model's square input, pixels.
        resize: kernel from the view to the input, a name of `ops.resize.KERNELS`.
        mean: of the normalisation, of RGB in [0, 1].
        std: of the normalisation.
        color_order: of the model's input.

    Raises:
        FerJaxError: a name is not known, or a number is out of its range.
    """

    template: str
    crop_source: str
    view: str = "main"
    image_size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    color_order: str = "RGB"

    def __post_init__(self) -> None:
        known = {"view": VIEWS, "resize": KERNELS, "color_order": COLOR_ORDERS}
        for field, names in known.items():
            value = getattr(self, field)
            if value not in names:
                raise FerJaxError(f"view: {field}={value!r} must be one of {', '.join(names)}")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise FerJaxError(f"view: mean={self.mean} and std={self.std} must be finite")
        if min(self.std) <= 0 or self.image_size < 1:
            raise FerJaxError(
                f"view: std={self.std} and image_size={self.image_size} must be above 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """Models with everything that is needed to use them rightly.

    Attributes:
        kind: `encoder` | `mae` | `classifier` | `fusion` (`two_view` is reserved).
        models: (config, params) by `main`, `aux` and `fusion`.
        views: how faces are prepared for each of the models that take them.
        labels: what the outputs mean; None for kinds without labels.
        fusion: settings of the fusion; only of `two_view`.
        smoothing: default of the temporal smoothing.
        calibration: its numbers and what they refer to: single frames or smoothed rows.
        provenance: where the weights come from, with the SHA-256 of the source.
        license: of the weights.
        scores: measured, by name.

    Raises:
        FerJaxError: the parts contradict each other.
    """

    kind: str
    models: dict[str, tuple[ModelConfig, Params]]
    views: dict[str, View]
    labels: LabelSpace | None = None
    fusion: dict[str, Any] | None = None
    smoothing: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    license: str = "not stated"
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FerJaxError(f"bundle: kind={self.kind!r} must be one of {', '.join(KINDS)}")
        kind = KINDS[self.kind]
        if not kind.supported:
            raise FerJaxError(f"bundle: kind={self.kind!r} is not supported by this version")
        for field in ("models", "views"):
            wanted, found = getattr(kind, field), getattr(self, field)
            if set(found) != set(wanted):
                raise FerJaxError(
                    f"bundle: a bundle of kind {self.kind} has {field} "
                    f"{', '.join(wanted) or 'none'}, not {', '.join(found) or 'none'}"
                )
        if kind.labelled != (self.labels is not None):
            word = "needs" if kind.labelled else "has no"
            raise FerJaxError(f"bundle: a bundle of kind {self.kind} {word} labels")
        classes = len(self.labels) if self.labels is not None else 0
        for name, (config, _) in self.models.items():
            if not isinstance(config, kind.config):
                raise FerJaxError(
                    f"bundle: the model {name} is no {kind.config.__name__}, as a bundle of kind "
                    f"{self.kind} has"
                )
            if config.num_classes != classes:
                raise FerJaxError(
                    f"bundle: the model {name} has {config.num_classes} outputs, {classes} labels"
                )
            if name in self.views and config.image_size != self.views[name].image_size:
                raise FerJaxError(
                    f"bundle: the model {name} takes {config.image_size} pixels, its view has "
                    f"{self.views[name].image_size}"
                )

    @property
    def params(self) -> dict[str, Params]:
        """The models' parameters, by `main`, `aux` and `fusion`."""
        return {name: params for name, (_, params) in self.models.items()}


def encoder_bundle(bundle: Bundle) -> Bundle:
    """The encoder of an MAE as a bundle of its own; any other bundle as it is."""
    if bundle.kind != "mae":
        return bundle
    config, params = bundle.models["main"]
    models = {"main": (config.encoder, params["encoder"])}
    return dataclasses.replace(bundle, kind="encoder", models=models)


def to_json(bundle: Bundle, golden: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a bundle; `golden` describes its golden sample.

    Raises:
        FerJaxError: the label space is not a registered one, so nobody could read it.
    """
    models = {name: _model_to_json(config) for name, (config, _) in bundle.models.items()}
    labels = None
    if bundle.labels is not None:
        labels = {"space": bundle.labels.name, "classes": list(bundle.labels.classes)}
        _labels(labels)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fer_jax_version": __version__,
        "kind": bundle.kind,
        "models": models,
        "views": {name: dataclasses.asdict(view) for name, view in bundle.views.items()},
        "labels": labels,
        "fusion": bundle.fusion,
        "smoothing": bundle.smoothing,
        "calibration": bundle.calibration,
        "provenance": bundle.provenance,
        "license": bundle.license,
        "scores": bundle.scores,
        "golden": dict(golden),
    }


_OPTIONAL = (dict, type(None))
_DOCUMENT = {
    "format": str,
    "format_version": int,
    "fer_jax_version": str,
    "kind": str,
    "models": dict,
    "views": dict,
    "labels": _OPTIONAL,
    "fusion": _OPTIONAL,
    "smoothing": _OPTIONAL,
    "calibration": _OPTIONAL,
    "provenance": dict,
    "license": str,
    "scores": dict,
    "golden": dict,
}
_VIT = {f.name: type(f.default) for f in dataclasses.fields(ViTConfig) if f.name in VIT_FIELDS}
_MODELS = {
    ViTConfig: _VIT,
    MAEConfig: {
        "encoder": dict,
        "decoder_width": int,
        "decoder_depth": int,
        "decoder_num_heads": int,
        "decoder_mlp_ratio": float,
        "norm_pix": bool,
    },
    EntryFusionConfig: {
        "widths": list,
        "width": int,
        "hidden": int,
        "num_classes": int,
        "param_dtype": str,
    },
}
_VIEW = {
    "template": str,
    "crop_source": str,
    "view": str,
    "image_size": int,
    "resize": str,
    "mean": list,
    "std": list,
    "color_order": str,
}
_RGB = ("mean", "std")
_GOLDEN = {"tolerance": float}


def from_json(document: Any) -> tuple[dict[str, ModelConfig], dict[str, Any], float]:
    """Reads the document of a bundle; every field must be there, be known and be of its type.

    Args:
        document: the parsed bundle.json.

    Returns:
        The models' configurations, the fields of `Bundle` but for `models`, and the golden
        sample's tolerance.

    Raises:
        FerJaxError: a field is missing, unknown, of the wrong type or has an unknown value.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FerJaxError("its format is not 'fer_jax bundle'; check the path")
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise FerJaxError(
            f"format_version={version!r}, this version of fer_jax reads {FORMAT_VERSION}; "
            "update fer_jax or convert again"
        )
    _check_fields("", document, _DOCUMENT)
    if document["kind"] not in KINDS:
        raise FerJaxError(f"kind={document['kind']!r} must be one of {', '.join(KINDS)}")
    model = KINDS[document["kind"]].config
    configs = {
        name: _model_from_json(f"models.{name}", fields, model)
        for name, fields in document["models"].items()
    }
    views = {}
    for name, fields in document["views"].items():
        _check_fields(f"views.{name}", fields, _VIEW)
        numbers = {field: _three_numbers(f"views.{name}.{field}", fields[field]) for field in _RGB}
        views[name] = View(**fields | numbers)
    _check_fields("golden", document["golden"], _GOLDEN)
    tolerance = document["golden"]["tolerance"]
    if not 0 < tolerance < 1:  # with more anything would pass
        raise FerJaxError(f"golden.tolerance={tolerance!r} must lie between 0 and 1")
    rest = ("fusion", "smoothing", "calibration", "provenance", "license", "scores")
    fields = {name: document[name] for name in rest}
    fields |= {"kind": document["kind"], "views": views, "labels": _labels(document["labels"])}
    return configs, fields, tolerance


def _model_to_json(config: ModelConfig) -> dict[str, Any]:
    fields = {name: getattr(config, name) for name in MODEL_FIELDS[type(config)]}
    if isinstance(config, MAEConfig):
        fields["encoder"] = _model_to_json(config.encoder)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def _model_from_json(where: str, fields: Any, model: type) -> ModelConfig:
    _check_fields(where, fields, _MODELS[model])
    changed: dict[str, Any] = {}
    if model is MAEConfig:
        changed["encoder"] = _model_from_json(f"{where}.encoder", fields["encoder"], ViTConfig)
    if model is EntryFusionConfig:
        if [type(width) for width in fields["widths"]] != [int, int]:
            raise FerJaxError(f"{where}.widths={fields['widths']!r} must be two integers")
        changed["widths"] = tuple(fields["widths"])
    try:
        return model(**fields | changed)
    except FerJaxError as error:
        raise FerJaxError(f"{where}: {error}") from error


def _three_numbers(where: str, value: list[Any]) -> tuple[float, ...]:
    if len(value) != 3 or not all(type(number) in (int, float) for number in value):
        raise FerJaxError(f"{where}={value!r} must be three numbers")
    try:
        return tuple(map(float, value))
    except OverflowError as error:
        raise FerJaxError(f"{where}: {error}") from error


def _labels(labels: dict[str, Any] | None) -> LabelSpace | None:
    if labels is None:
        return None
    _check_fields("labels", labels, {"space": str, "classes": list})
    space = label_space(labels["space"]) if labels["space"] in LABEL_SPACES else None
    if space is None or list(space.classes) != labels["classes"]:
        what = "is not known" if space is None else f"has the order {', '.join(space.classes)}"
        raise FerJaxError(
            f"labels: the space {labels['space']!r} {what}, the bundle has "
            f"{', '.join(map(str, labels['classes']))}; update fer_jax or train again"
        )
    return space


def _check_fields(where: str, fields: Any, expected: Mapping[str, Any]) -> None:
    dot = f"{where}." if where else ""
    if not isinstance(fields, dict):
        raise FerJaxError(f"{where} must be an object")
    for name in expected.keys() - fields.keys():
        raise FerJaxError(f"the field {dot}{name} is missing; convert or train again")
    for name in fields.keys() - expected.keys():
        raise FerJaxError(f"the field {dot}{name} is not known; update fer_jax")
    for name, kind in expected.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(fields[name]) not in kinds and not (
            kinds == (float,) and type(fields[name]) is int
        ):
            raise FerJaxError(
                f"{dot}{name}={fields[name]!r} is not of the type {kinds[0].__name__}"
            )
