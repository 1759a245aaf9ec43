"""What a bundle says about itself: its dataclasses, and bundle.json written and read strictly."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fer_jax import __version__
from fer_jax.bundle_configs import check_fields, model_from_json, model_to_json
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, LabelSpace, label_space
from fer_jax.models.fusion import FusionConfig, TokenFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS

FORMAT = "fer_jax bundle"
FORMAT_VERSION = 1
COLOR_ORDERS = ("RGB",)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a kind of bundle holds.

    Attributes:
        models: its models, and the type of their configurations.
        views: the keys of its views.
        head: the model whose outputs are the classes, which the bundle must then name; if None, it
            must not.
    """

    models: dict[str, Any]
    views: tuple[str, ...]
    head: str | None = None


KINDS = {
    "encoder": Kind({"main": ViTConfig}, ("main",)),
    "mae": Kind({"main": MAEConfig}, ("main",)),
    "classifier": Kind({"main": ViTConfig}, ("main",), head="main"),
    "fusion": Kind({"fusion": FusionConfig}, (), head="fusion"),
    "two_view": Kind(
        {"main": ViTConfig, "aux": ViTConfig, "fusion": FusionConfig},
        ("main", "aux"),
        head="fusion",
    ),
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
        kind: `encoder` | `mae` | `classifier` | `fusion` (of features, whatever gives them) |
            `two_view` (two encoders without heads, and a fusion of their features).
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
        for field in ("models", "views"):
            wanted, found = getattr(kind, field), getattr(self, field)
            if set(found) != set(wanted):
                raise FerJaxError(
                    f"bundle: a bundle of kind {self.kind} has {field} "
                    f"{', '.join(wanted) or 'none'}, not {', '.join(found) or 'none'}"
                )
        if (kind.head is not None) != (self.labels is not None):
            word = "has no" if kind.head is None else "needs"
            raise FerJaxError(f"bundle: a bundle of kind {self.kind} {word} labels")
        for name, (config, _) in self.models.items():
            if not isinstance(config, kind.models[name]):
                raise FerJaxError(
                    f"bundle: the model {name} is no {_name(kind.models[name])}, as a bundle of "
                    f"kind {self.kind} has"
                )
            classes = len(self.labels) if name == kind.head else 0
            if config.num_classes != classes:
                expected = f"{classes} labels" if classes else "where it must have no head"
                raise FerJaxError(
                    f"bundle: the model {name} has {config.num_classes} outputs, {expected}"
                )
            if name in self.views and config.image_size != self.views[name].image_size:
                raise FerJaxError(
                    f"bundle: the model {name} takes {config.image_size} pixels, its view has "
                    f"{self.views[name].image_size}"
                )
        if self.kind == "two_view":
            _check_two_views({name: config for name, (config, _) in self.models.items()})

    @property
    def params(self) -> dict[str, Params]:
        """The models' parameters, by `main`, `aux` and `fusion`."""
        return {name: params for name, (_, params) in self.models.items()}


def _name(config: Any) -> str:
    """Of a type of configurations."""
    return "FusionConfig" if config == FusionConfig else config.__name__


def _check_two_views(configs: Mapping[str, Any]) -> None:
    """Refuses a fusion that does not take what the encoders give."""
    encoders, fusion = {name: configs[name] for name in ("main", "aux")}, configs["fusion"]
    if fusion.sources != tuple(encoders):
        raise FerJaxError(
            f"bundle: the fusion takes features of {', '.join(fusion.sources)}, where a bundle of "
            f"kind two_view gives those of {', '.join(encoders)}"
        )
    widths = tuple(encoder.width for encoder in encoders.values())
    if fusion.widths != widths:
        raise FerJaxError(
            f"bundle: the fusion takes features of the widths {fusion.widths}, the encoders main "
            f"and aux give {widths}"
        )
    grids = [encoder.grid for encoder in encoders.values()]
    if isinstance(fusion, TokenFusionConfig) and len(set(grids)) > 1:
        raise FerJaxError(
            f"bundle: the fusion 'token' takes patches of one grid, the encoders have {grids[0]} "
            f"and {grids[1]} patches a side; train both views at one size"
        )


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
    models = {name: model_to_json(config) for name, (config, _) in bundle.models.items()}
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
    check_fields("", document, _DOCUMENT)
    if document["kind"] not in KINDS:
        raise FerJaxError(f"kind={document['kind']!r} must be one of {', '.join(KINDS)}")
    models = KINDS[document["kind"]].models
    if set(document["models"]) != set(models):
        raise FerJaxError(
            f"a bundle of kind {document['kind']} has models {', '.join(models)}, not "
            f"{', '.join(document['models']) or 'none'}"
        )
    configs = {
        name: model_from_json(f"models.{name}", fields, models[name])
        for name, fields in document["models"].items()
    }
    views = {}
    for name, fields in document["views"].items():
        check_fields(f"views.{name}", fields, _VIEW)
        numbers = {field: _three_numbers(f"views.{name}.{field}", fields[field]) for field in _RGB}
        views[name] = View(**fields | numbers)
    check_fields("golden", document["golden"], _GOLDEN)
    tolerance = document["golden"]["tolerance"]
    if not 0 < tolerance < 1:  # with more anything would pass
        raise FerJaxError(f"golden.tolerance={tolerance!r} must lie between 0 and 1")
    rest = ("fusion", "smoothing", "calibration", "provenance", "license", "scores")
    fields = {name: document[name] for name in rest}
    fields |= {"kind": document["kind"], "views": views, "labels": _labels(document["labels"])}
    return configs, fields, tolerance


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
    check_fields("labels", labels, {"space": str, "classes": list})
    space = label_space(labels["space"]) if labels["space"] in LABEL_SPACES else None
    if space is None or list(space.classes) != labels["classes"]:
        what = "is not known" if space is None else f"has the order {', '.join(space.classes)}"
        raise FerJaxError(
            f"labels: the space {labels['space']!r} {what}, the bundle has "
            f"{', '.join(map(str, labels['classes']))}; update fer_jax or train again"
        )
    return space
