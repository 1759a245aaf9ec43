"""The fields of the whole recipe: two views, their fusion, the window, the score."""

import dataclasses
from typing import ClassVar

from ml_collections import config_dict

from fer_jax.ops.gaps import FILL_METHODS
from fer_jax.train.config import TrainConfig
from fer_jax.train.config_fields import Choices, Ranges
from fer_jax.train.fuse_config import FuseConfig

TASK = "two_view"
_MAIN = TrainConfig()
_AUX = TrainConfig(view="eyes_mouth")
_FUSE = FuseConfig()


@dataclasses.dataclass(frozen=True)
class SmoothingConfig:
    """The search for the filter over time.

    Attributes:
        kernels: which are tried, separated by commas.
        windows: frames, separated by commas; odd.
        folds: groups of videos; each is judged with the filter that the others chose.
        fill: how frames without a face get a prediction: `hold` | `nearest` | `linear` | `prior`.
    """

    kernels: str = "box,gaussian,triangular,median,majority"
    windows: str = "5,11,21,31,51,75,101,151,201,301,501,1001"
    folds: int = 5
    fill: str = "hold"

    CHOICES: ClassVar[Choices] = {"fill": FILL_METHODS}
    RANGES: ClassVar[Ranges] = {"folds": (2, None)}


_SMOOTHING = SmoothingConfig()


@dataclasses.dataclass(frozen=True)
class TwoViewConfig:
    """The recipe of the paper as one run.

    Attributes:
        task: says that a config file is of this kind.
        data: prepared data sets, separated by commas: both views are fine-tuned on all of them, the
            fusion is trained on the first one, and that is scored.
        backbone: bundle that both views begin from; empty trains from scratch.
        seed: of every stage.
        split: that the window is chosen on, by folds of videos, and that is scored.
        main: fine-tuning of the whole face. `data`, `backbone` and `seed` are the recipe's.
        aux: the same of eyes and mouth.
        fuse: the fusion. `sources`, `data` and `seed` are the recipe's.
        smoothing: the search for the window.
    """

    task: str = TASK
    data: str = ""
    backbone: str = ""
    seed: int = 0
    split: str = "validation"
    main: TrainConfig = _MAIN
    aux: TrainConfig = _AUX
    fuse: FuseConfig = _FUSE
    smoothing: SmoothingConfig = _SMOOTHING

    CHOICES: ClassVar[Choices] = {"task": (TASK,)}
    RANGES: ClassVar[Ranges] = {"seed": (0, None)}


def default_config() -> config_dict.ConfigDict:
    """The defaults of every field, for a config file to change."""
    return config_dict.ConfigDict(dataclasses.asdict(TwoViewConfig()))
