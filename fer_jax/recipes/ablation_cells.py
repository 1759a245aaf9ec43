"""The cells of an ablation: which combinations there are, and which of them are the same."""

import dataclasses
import itertools
from collections.abc import Callable

from fer_jax.errors import UsageError
from fer_jax.evaluate.filters import parse_filter
from fer_jax.models.fusion.token import ATTENTIONS
from fer_jax.ops.views import VIEWS
from fer_jax.recipes.ablation_config import (
    AUGMENTATIONS,
    ENCODERS,
    LOSSES,
    NONE,
    SEARCH,
    AblateConfig,
)

FUSIONS = ("entry", "token", "linear", "average")
UNUSED = "-"  # the axis does not matter to the cell
BASE = "base"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination; fields as in `AxesConfig`, `UNUSED` where one does not matter."""

    views: str
    fusion: str
    attention: str
    loss: str
    smoothing: str
    cleaning: str
    augmentation: str
    synthetic: str
    encoder: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The views, the main one first."""
        return tuple(self.views.split("+"))

    def title(self, base: "Cell", varied: tuple[str, ...]) -> str:
        """What tells it from the base."""
        values = dataclasses.asdict(self)
        told = [a for a in varied if values[a] not in (UNUSED, getattr(base, a))]
        words = [values[a] if a not in _NAMED else f"{a} {values[a]}" for a in told]
        return ", ".join(words) or BASE


AXES = tuple(field.name for field in dataclasses.fields(Cell))
_NAMED = ("attention", "smoothing", "cleaning", "augmentation", "synthetic")


def cells_of(config: AblateConfig) -> list[Cell]:
    """Every cell of a grid once, the base first.

    Args:
        config: the grid.

    Returns:
        What an axis does not change is not run for its values: a single view has no fusion, a
        frozen encoder no augmentation, and so on.

    Raises:
        UsageError: a value is not known, or what it needs is not named.
    """
    values = {axis: _values(config, axis) for axis in AXES}
    base = {axis: found[0] for axis, found in values.items()}
    if config.design == "product":
        chosen = [
            dict(zip(AXES, combination, strict=True))
            for combination in itertools.product(*values.values())
        ]
    else:
        chosen = [base]
        for axis, found in values.items():
            # Attention is of the token fusion alone.
            with_ = {"fusion": "token"} if axis == "attention" else {}
            chosen += [base | with_ | {axis: value} for value in found[1:]]
    return list(dict.fromkeys(_as_it_matters(Cell(**one)) for one in chosen))


def _as_it_matters(cell: Cell) -> Cell:
    single = len(cell.parts) == 1
    changes = {}
    if single:
        changes["fusion"] = UNUSED
        if cell.encoder == "end_to_end":
            changes["encoder"] = "fine_tuned"
    if single or cell.fusion != "token":
        changes["attention"] = UNUSED
    if cell.encoder == "frozen":
        changes["augmentation"] = UNUSED
    return dataclasses.replace(cell, **changes)


def varied_axes(cells: list[Cell]) -> tuple[str, ...]:
    """The axes that the cells differ in."""
    return tuple(a for a in AXES if len({getattr(c, a) for c in cells} - {UNUSED}) > 1)


def _values(config: AblateConfig, axis: str) -> list[str]:
    text = getattr(config.axes, axis)
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(f"config.axes.{axis} is empty; name at least one value")
    for value in found:
        if problem := _CHECKS[axis](config, value):
            raise UsageError(f"config.axes.{axis}={value}: {problem}")
    return found


def _one_of(*known: str) -> Callable[[AblateConfig, str], str | None]:
    return lambda config, value: None if value in known else f"must be one of {', '.join(known)}"


def _views(config: AblateConfig, value: str) -> str | None:
    parts = value.split("+")
    if len(parts) > 2 or len(set(parts)) < len(parts) or set(parts) - set(VIEWS):
        return f"must be one of {', '.join(VIEWS)}, or two of them such as main+eyes_mouth"
    return None


def _smoothing(config: AblateConfig, value: str) -> str | None:
    if value not in (NONE, SEARCH):
        try:
            parse_filter(value)
        except UsageError:
            return "must be none, search, or KERNEL:WINDOW such as box:101"
    return None


def _cleaning(config: AblateConfig, value: str) -> str | None:
    if value == "off" and not config.uncleaned:
        return "config.uncleaned must name the data prepared with --no-clean"
    return None if value in ("on", "off") else "must be on or off"


def _synthetic(config: AblateConfig, value: str) -> str | None:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        return "must be a share from 0 to below 1"
    if share and not config.synthetic_data:
        return "config.synthetic_data must name the synthetic faces"
    return None


def _encoder(config: AblateConfig, value: str) -> str | None:
    if value == "frozen" and not config.backbone:
        return "config.backbone must name the bundle whose features are taken"
    return _one_of(*ENCODERS)(config, value)


_CHECKS: dict[str, Callable[[AblateConfig, str], str | None]] = {
    "views": _views,
    "fusion": _one_of(*FUSIONS),
    "attention": _one_of(*ATTENTIONS),
    "loss": _one_of(*LOSSES),
    "smoothing": _smoothing,
    "cleaning": _cleaning,
    "augmentation": _one_of(*AUGMENTATIONS),
    "synthetic": _synthetic,
    "encoder": _encoder,
}
