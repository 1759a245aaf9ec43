"""What a bundle says about itself: its dataclasses, and bundle.json written and read strictly."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fer_jax import __version__
from fer_jax.errors import FerJaxError
from fer_jax.labels import LABEL_SPACES, LabelSpace, label_space
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS

FORMAT = "fer_jax bundle"
FORMAT_VERSION = 1
COLOR_ORDERS = ("RGB",)

# The fields of ViTConfig that define the function; the others are a matter of speed or training.
MODEL_FIELDS = (
    *("image_size", "patch_size", "width", "depth", "num_heads", "mlp_ratio", "num_classes"),
    *("pool", "layer_scale", "norm_eps", "param_dtype"),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a kind of bundle holds.

    Attributes:
        models: the keys of its models and views.
        labelled: whether it must name its classes; if not, it must not.
        supported: whether this version makes and reads it.
    """

    models: tuple[str, ...]
    labelled: bool
    supported: bool


KINDS = {
    "encoder": Kind(("main",), labelled=False, supported=True),
    "mae": Kind(("main",), labelled=False, supported=False),
    "classifier": Kind(("main",), labelled=True, supported=True),
    "two_view": Kind(("main", "aux"), labelled=True, supported=False),
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
        kind: `encoder` | `classifier` (`mae` and `two_view` are reserved).
        models: (config, params) by `main` and `aux`.
        views: how faces are prepared for each of the models.
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
    models: dict[str, tuple[ViTConfig, Params]]
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
            if set(getattr(self, field)) != set(kind.models):
                raise FerJaxError(
                    f"bundle: a bundle of kind {self.kind} has {field} {', '.join(kind.models)}, "
                    f"not {', '.join(getattr(self, field)) or 'none'}"
                )
        if kind.labelled != (self.labels is not None):
            word = "needs" if kind.labelled else "has no"
            raise FerJaxError(f"bundle: a bundle of kind {self.kind} {word} labels")
        classes = len(self.labels) if self.labels is not None else 0
        for name, (config, _) in self.models.items():
            if config.num_classes != classes:
                raise FerJaxError(
                    f"bundle: the model {name} has {config.num_classes} outputs, {classes} labels"
                )
            if config.image_size != self.views[name].image_size:
                raise FerJaxError(
                    f"bundle: the model {name} takes {config.image_size} pixels, its view has "
                    f"{self.views[name].image_size}"
                )

    @property
    def params(self) -> dict[str, Params]:
        """The models' parameters, by `main` and `aux`."""
        return {name: params for name, (_, params) in self.models.items()}


def to_json(bundle: Bundle, golden: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a bundle; `golden` describes its golden sample.

    Raises:
        FerJaxError: the label space is not a registered one, so nobody could read it.
    """
    models = {}
    for name, (config, _) in bundle.models.items():
        models[name] = {field: getattr(config, field) for field in MODEL_FIELDS}
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
_MODEL = {f.name: type(f.default) for f in dataclasses.fields(ViTConfig) if f.name in MODEL_FIELDS}
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


def from_json(document: Any) -> tuple[dict[str, ViTConfig], dict[str, Any], float]:
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
    configs = {}
    for name, fields in document["models"].items():
        _check_fields(f"models.{name}", fields, _MODEL)
        configs[name] = ViTConfig(**fields)
    views = {}
    for name, fields in document["views"].items():
        _check_fields(f"views.{name}", fields, _VIEW)
        numbers = {field: _three_numbers(f"views.{name}.{field}", fields[field]) for field in _RGB}
        views[name] = View(**fields | numbers)
    _check_fields("golden", document["golden"], _GOLDEN)
    rest = ("fusion", "smoothing", "calibration", "provenance", "license", "scores")
    fields = {name: document[name] for name in rest}
    fields |= {"kind": document["kind"], "views": views, "labels": _labels(document["labels"])}
    return configs, fields, document["golden"]["tolerance"]


def _three_numbers(where: str, value: list[Any]) -> tuple[float, ...]:
    if len(value) != 3 or not all(type(number) in (int, float) for number in value):
        raise FerJaxError(f"{where}={value!r} must be three numbers")
    return tuple(map(float, value))


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
