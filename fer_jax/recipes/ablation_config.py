"""The fields of an ablation: what is varied, and what everything else is."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import config_dict

from fer_jax.recipes.two_view_config import SmoothingConfig
from fer_jax.train.config import TrainConfig
from fer_jax.train.config_fields import Choices, Ranges
from fer_jax.train.fuse_config import FuseConfig

TASK = "ablation"
DESIGNS = ("one_at_a_time", "product")
ENCODERS = ("fine_tuned", "frozen", "end_to_end")
SEARCH, NONE = "search", "none"

# Fields of the loss by its name in the grid.
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "plain": {"name": "cross_entropy", "class_weights": "none"},
    "balanced": {"name": "cross_entropy", "class_weights": "balanced"},
    "neutral": {"name": "cross_entropy", "class_weights": "neutral"},
    "max": {"name": "cross_entropy", "class_weights": "max"},
    "effective": {"name": "cross_entropy", "class_weights": "effective"},
    "focal": {"name": "focal", "class_weights": "none"},
    "logit_adjusted": {"name": "logit_adjusted", "class_weights": "none"},
}
_STILL = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "randaugment_layers": 0}
_UNMIXED = {"erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}
# Fields of the augmentation; `configured` leaves it as the config has it.
AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "configured": {},
    "none": {**_STILL, **_UNMIXED, "flip": False},
    "flip": {**_STILL, **_UNMIXED, "flip": True},
    "crop": {**_UNMIXED, "crop_scale": (0.8, 1.0), "flip": True, "randaugment_layers": 0},
    "strong": {"crop_scale": (0.8, 1.0), "flip": True, "randaugment_layers": 2, "erasing": 0.25}
    | {"mixup": 0.0, "cutmix": 0.0},
    "mixed": {"crop_scale": (0.8, 1.0), "flip": True, "randaugment_layers": 2, "erasing": 0.25}
    | {"mixup": 0.8, "cutmix": 1.0},
}


@dataclasses.dataclass(frozen=True)
class AxesConfig:
    """What is varied: values of each axis, separated by commas; the first of each is the base.

    Attributes:
        views: a view, or two joined by `+` that are fused: `main` | `eyes_mouth` | `eyes` |
            `mouth` | `eyes_nose_mouth`.
        fusion: `entry` | `token` | `linear` | `average`; of two views.
        attention: of the token fusion: `both` | `self` | `local` | `none`.
        loss: `plain` | `balanced` | `neutral` | `max` | `effective` | `focal` | `logit_adjusted`;
            of the views and of the fusion.
        smoothing: `none`; `search` (the filter is chosen on other videos than those that it is
            scored on); or a filter, such as `box:101`.
        cleaning: `on` trains on `data`, `off` on `uncleaned`; what is scored is the same.
        augmentation: `configured` (the config's own) | `none` | `flip` | `crop` | `strong`
            (RandAugment, erasing) | `mixed` (mixup and cutmix besides).
        synthetic: share of `synthetic_data` in what is trained on, from 0 to below 1. An epoch then
            shows as many faces as both have together, so training is longer; checkpoints are
            chosen on `data` alone.
        encoder: `fine_tuned`, then fused | `frozen`: the backbone as it is | `end_to_end`: after
            fine-tuning, both views are trained on together with their fusion.
    """

    views: str = "main+eyes_mouth,main,eyes_mouth"
    fusion: str = "entry"
    attention: str = "both"
    loss: str = "balanced"
    smoothing: str = "search"
    cleaning: str = "on"
    augmentation: str = "configured"
    synthetic: str = "0"
    encoder: str = "fine_tuned"


_AXES = AxesConfig()
_VIEW = TrainConfig()
_FUSE = FuseConfig()
_SMOOTHING = SmoothingConfig()


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """One grid of comparisons.

    Attributes:
        task: says that a config file is of this kind.
        data: prepared data sets, separated by commas; the first is scored.
        uncleaned: the same in the same order, prepared with `--no-clean`; for `cleaning=off`.
        synthetic_data: prepared synthetic faces; for `synthetic`.
        backbone: bundle that every view begins from; empty trains from scratch.
        axes: what is varied.
        design: `one_at_a_time`: the base, and every other value with the base of all other axes;
            `product`: all combinations.
        seeds: numbers separated by commas; a cell's scores are means over them.
        split: that is scored, and on folds of which the filter is chosen.
        view: fine-tuning of a view. What an axis sets, data, backbone, view and seed are the
            grid's.
        fuse: training of a fusion, likewise.
        end_to_end: likewise, where both views are trained on with the fusion.
        smoothing: the search for the filter.
    """

    task: str = TASK
    data: str = ""
    uncleaned: str = ""
    synthetic_data: str = ""
    backbone: str = ""
    axes: AxesConfig = _AXES
    design: str = "one_at_a_time"
    seeds: str = "0"
    split: str = "validation"
    view: TrainConfig = _VIEW
    fuse: FuseConfig = _FUSE
    end_to_end: FuseConfig = _FUSE
    smoothing: SmoothingConfig = _SMOOTHING

    CHOICES: ClassVar[Choices] = {"task": (TASK,), "design": DESIGNS}
    RANGES: ClassVar[Ranges] = {}


def default_config() -> config_dict.ConfigDict:
    """The defaults of every field, for a config file to change."""
    return config_dict.ConfigDict(dataclasses.asdict(AblateConfig()))
