"""The fields of a fusion run: what is fused, how, and how it is trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import config_dict

from fer_jax.data.sampling import EVERYTHING, Sampling
from fer_jax.errors import FerJaxError
from fer_jax.models.fusion import VARIANTS, FusionConfig, fusion_config
from fer_jax.models.fusion.token import ATTENTIONS, MERGES
from fer_jax.ops.resize import KERNELS
from fer_jax.train import config_fields
from fer_jax.train.config import (
    RUN_RANGES,
    AugmentConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
)
from fer_jax.train.config_fields import Choices, Ranges

# The entry's: Adam at 1e-5, whatever the batch; one epoch is too short for a warm-up.
_ADAM = OptimizerConfig(
    name="adam",
    learning_rate=1e-5,
    scale_by_batch=False,
    weight_decay=0.0,
    layer_decay=1.0,
    schedule="constant",
    warmup_epochs=0.0,
)
_LOSS = LossConfig()
_MESH = MeshConfig()
_ENCODER = ModelConfig()
_AUGMENT = AugmentConfig()


@dataclasses.dataclass(frozen=True)
class FusionModelConfig:
    """The fusion; which fields matter depends on `variant`, the others are not looked at.

    Attributes:
        variant: `entry` | `token` | `linear` | `average` | `main_only` | `aux_only`.
        width: `entry`: of the tokens; `token`: of the maps, 0 for that of the features.
        hidden: `entry`: of the head's first layer.
        num_heads: `token`: of the self-attention.
        attention: `token`: `self` | `local` | `both` | `none`.
        merge: `token`: `mean` | `concat` | `updown`.
        kernel_size: `token`: of the local attention.
        dropout: on the fused features, before the head.
    """

    variant: str = "entry"
    width: int = 1024
    hidden: int = 512
    num_heads: int = 8
    attention: str = "both"
    merge: str = "concat"
    kernel_size: int = 3
    dropout: float = 0.0

    CHOICES: ClassVar[Choices] = {"variant": VARIANTS, "attention": ATTENTIONS, "merge": MERGES}
    RANGES: ClassVar[Ranges] = {
        "width": (0, None),
        "hidden": (1, None),
        "num_heads": (1, None),
        "kernel_size": (1, None),
        "dropout": (0, 0.99),
    }


@dataclasses.dataclass(frozen=True)
class FuseConfig:
    """One fusion run, on frozen features or end to end.

    Attributes:
        sources: what is fused, the main one first: `main=PATH,aux=PATH`, any number. A path is a
            bundle (its features of `data` are extracted into the workdir), a table of
            `fer-jax extract`, or an .npz with `key` and `features`. Tables of several data sets
            are named one after the other: `main=A,main=B,aux=C,aux=D`.
        data: prepared data sets, separated by commas; needed where a source is a bundle.
        end_to_end: train both encoders with the fusion, on images. The sources are then bundles
            `main` and `aux`; one of two views may be both, and its fusion is gone on with.
        model: the fusion.
        selection: share of the training part that is held out to choose the checkpoint by
            macro-F1; whole subjects.
        selection_data: which of `data`, or of the first source's tables, it is taken from; empty
            for all.
        epochs: passes over what `sampling` takes of the training rows.
        batch_size: global.
        evaluate_batch_size: global; 0 for `batch_size`.
        accumulate: parts of a batch that are run one after the other for one update.
        ema_decay: of the moving average of the parameters that is scored and released; 0 for none.
        seed: of initialisation, order and dropout.
        log_every: steps between two lines of the log.
        checkpoint_every: epochs between two checkpoints.
        checkpoint_steps: steps between two more, within an epoch and not scored; 0 for none.
        keep: latest checkpoints kept, besides the best one.
        license: licence of the result; empty takes the sources'.
        sampling: which faces an epoch shows.
        loss: the loss.
        optimizer: the optimiser.
        mesh: the devices.
        encoder: end to end: `image_size` to `attention` of both encoders.
        augment: end to end: augmentation.
        resize: end to end: kernel from the view to the model's size when evaluating.
        workers: end to end: processes that decode; 0 decodes in a thread.
    """

    sources: str = ""
    data: str = ""
    end_to_end: bool = False
    model: FusionModelConfig = FusionModelConfig()
    selection: float = 0.1
    selection_data: str = ""
    epochs: int = 1
    batch_size: int = 1024
    evaluate_batch_size: int = 0
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 1
    checkpoint_steps: int = 0
    keep: int = 1
    license: str = ""
    sampling: Sampling = EVERYTHING
    loss: LossConfig = _LOSS
    optimizer: OptimizerConfig = _ADAM
    mesh: MeshConfig = _MESH
    encoder: ModelConfig = _ENCODER
    augment: AugmentConfig = _AUGMENT
    resize: str = "bicubic_antialias"
    workers: int = 0

    CHOICES: ClassVar[Choices] = {"resize": KERNELS}
    RANGES: ClassVar[Ranges] = {**RUN_RANGES, "workers": (0, None)}


def default_config() -> config_dict.ConfigDict:
    """The defaults of every field, for a config file to change."""
    return config_dict.ConfigDict(dataclasses.asdict(FuseConfig()))


def freeze(config: Mapping[str, Any] | config_dict.ConfigDict) -> FuseConfig:
    """Turns a ConfigDict (or nested dict) into the frozen dataclass; see `config_fields.freeze`."""
    return config_fields.freeze(FuseConfig, config)


# Which fields of `config.model` a variant has.
_OPTIONS = {
    "entry": ("width", "hidden", "dropout"),
    "token": ("width", "num_heads", "attention", "merge", "kernel_size", "dropout"),
}


def fusion_model(config: FuseConfig, widths: Mapping[str, int], num_classes: int) -> FusionConfig:
    """The fusion of a run.

    Args:
        config: the run.
        widths: of the features of each source.
        num_classes: outputs.

    Raises:
        FerJaxError: the variant cannot be made of such sources.
    """
    variant = config.model.variant
    options = {name: getattr(config.model, name) for name in _OPTIONS.get(variant, ("dropout",))}
    if variant == "token" and not options["width"]:
        del options["width"]
    try:
        return fusion_config(variant, widths, num_classes, **options)
    except FerJaxError as error:
        raise FerJaxError(f"config.model: {error}") from error
