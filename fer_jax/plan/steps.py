"""Which steps a config will run: one entry for each training run that it starts.

A new kind of run is one more entry of `_PARTS` (which runs a config starts) and, if it trains by a
config of its own, of `KINDS` (what `programs.py` builds of it).
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fer_jax.bundle import DOCUMENT_FILE
from fer_jax.models.fusion import VIEWS
from fer_jax.plan.encoders import encoder_config
from fer_jax.recipes.ablation_config import AblateConfig
from fer_jax.recipes.two_view_config import TwoViewConfig
from fer_jax.train.config import ModelConfig, TrainConfig
from fer_jax.train.fuse_config import FuseConfig
from fer_jax.train.pretrain_config import PretrainConfig
from fer_jax.train.sources import parse

RunConfig = TrainConfig | FuseConfig | PretrainConfig
# The kinds of run by the name under which their config travels to the compiler's process.
KINDS: Mapping[str, type] = {
    "finetune": TrainConfig,
    "fuse": FuseConfig,
    "pretrain": PretrainConfig,
}
VIT_B = 768  # width of features that nothing tells
ANY_CONFIG = (TrainConfig, FuseConfig, TwoViewConfig, AblateConfig, PretrainConfig)


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """One training run.

    Attributes:
        name: the stage of the config that it is.
        config: of the run.
        widths: features of each source by name, where frozen features are fused; else empty.
    """

    name: str
    config: RunConfig
    widths: Mapping[str, int]

    @property
    def kind(self) -> str:
        """A name of `KINDS`."""
        return next(name for name, cls in KINDS.items() if isinstance(self.config, cls))

    @property
    def model_field(self) -> str | None:
        """The field of the config that holds the encoders' `ModelConfig`; None without encoders."""
        if isinstance(self.config, TrainConfig | PretrainConfig):
            return "model"
        return "encoder" if self.config.end_to_end else None

    def with_model(self, **fields: Any) -> "PlannedStep":
        """The same with other fields of the encoders."""
        model = dataclasses.replace(getattr(self.config, self.model_field), **fields)
        return self.with_fields(**{self.model_field: model})

    def with_fields(self, **fields: Any) -> "PlannedStep":
        """The same with other fields of its config."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **fields))


def planned(config: Any, widths: Mapping[str, int] | None = None) -> list[PlannedStep]:
    """The training runs that a config starts.

    Args:
        config: one of `ANY_CONFIG`.
        widths: of frozen features by source, the main one first; None takes those of the encoders
            that the config trains or names, else ViT-B's for `main` and `aux`.

    Returns:
        One step for each, in their order. Of an ablation the runs that differ in size: one view,
        the first fusion of two views, and both together where `axes.encoder` has `end_to_end`.

    Raises:
        FerJaxError: a bundle that the config names cannot be read.
    """
    return _PARTS[type(config)](config, dict(widths or {}))


def _fuse(name: str, config: FuseConfig, widths: Mapping[str, int]) -> PlannedStep:
    return PlannedStep(name, config, {} if config.end_to_end else widths)


def _fuse_alone(config: FuseConfig, widths: dict[str, int]) -> list[PlannedStep]:
    if not widths and config.sources and not config.end_to_end:
        widths = {name: _width(path[0], name) for name, path in parse(config.sources).items()}
    return [_fuse("fuse", config, widths or dict.fromkeys(VIEWS, VIT_B))]


def _width(source: Path, name: str) -> int:
    """Of the features of a source, where it is a bundle; of tables it is not looked for."""
    if not (source / DOCUMENT_FILE).is_file():
        return VIT_B
    return encoder_config(ModelConfig(), str(source), name, 0).width


def _two_view(config: TwoViewConfig, widths: dict[str, int]) -> list[PlannedStep]:
    views = {
        name: dataclasses.replace(getattr(config, name), backbone=config.backbone) for name in VIEWS
    }
    found = [PlannedStep(name, view, {}) for name, view in views.items()]
    own = {
        name: encoder_config(view.model, view.backbone, "main", 0).width
        for name, view in views.items()
    }
    return [*found, _fuse("fuse", config.fuse, widths or own)]


def _ablation(config: AblateConfig, widths: dict[str, int]) -> list[PlannedStep]:
    width = encoder_config(config.view.model, config.backbone, "main", 0).width
    widths = widths or dict.fromkeys(VIEWS, width)
    encoders = [name.strip() for name in config.axes.encoder.split(",")]
    variant = config.axes.fusion.split(",")[0].strip()

    def fused(name: str, own: FuseConfig, end_to_end: bool) -> PlannedStep:
        model = dataclasses.replace(own.model, variant=variant)
        own = dataclasses.replace(own, model=model, end_to_end=end_to_end)
        return _fuse(name, own, widths)

    found = []
    if set(encoders) - {"frozen"}:
        view = dataclasses.replace(config.view, backbone=config.backbone)
        found.append(PlannedStep("view", view, {}))
    found.append(fused("fuse", config.fuse, end_to_end=False))
    if "end_to_end" in encoders:
        found.append(fused("end_to_end", config.end_to_end, end_to_end=True))
    return found


_PARTS: Mapping[type, Callable[[Any, dict[str, int]], list[PlannedStep]]] = {
    TrainConfig: lambda config, widths: [PlannedStep("fine-tune", config, {})],
    PretrainConfig: lambda config, widths: [PlannedStep("pre-train", config, {})],
    FuseConfig: _fuse_alone,
    TwoViewConfig: _two_view,
    AblateConfig: _ablation,
}
