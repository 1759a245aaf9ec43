"""The fields of a training run: what a config file may set, with units and defaults.

A file in `configs/` returns `default_config()` with fields changed; the command line overrides them
(`--config.optimizer.weight_decay=0.1`). Before anything runs it becomes one frozen `TrainConfig`,
so that a misspelt field or a wrong type fails at once, by name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import config_dict

from fer_jax.data.augment import Augmentation
from fer_jax.data.sampling import EVERYTHING, Sampling
from fer_jax.models.vit import ATTENTIONS, POOLS, REMAT_POLICIES, SIZES
from fer_jax.ops.losses import CLASS_WEIGHT_SCHEMES, LOSSES
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS
from fer_jax.train import config_fields
from fer_jax.train.config_fields import Choices, Ranges


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The encoder; `size` to `layer_scale` matter only when training from scratch.

    Attributes:
        size: `tiny` | `small` | `base` | `large` | `huge`, overridden by the next five if not 0.
        patch_size: pixels.
        width: token width.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over the token width.
        layer_scale: learned scale on the residual branches.
        image_size: side of the input, pixels; 0 keeps the backbone's (224 from scratch). Position
            embeddings are interpolated to it.
        pool: `avg` (mean of patches, MAE's global pool) | `cls`.
        drop_path: largest rate of stochastic depth.
        head_dropout: rate at which pooled features are dropped before the head when training.
        norm_eps: epsilon of LayerNorm from scratch.
        head_init: standard deviation of a fresh head's weights. MAE's 2e-5 is for a trained trunk;
            from scratch Adam needs a head that passes gradients on from the first step (0.05).
        dtype: of the computation: `float32` | `bfloat16`.
        scan_layers: loop over blocks (compiles fast) or unroll them (runs faster on CPU).
        remat: `none` | `full` | `dots`: recompute activations in the backward pass to save memory.
        attention: `xla` | `cudnn` | `auto`.
    """

    size: str = "base"
    patch_size: int = 0
    width: int = 0
    depth: int = 0
    num_heads: int = 0
    mlp_ratio: float = 4.0
    layer_scale: bool = False
    image_size: int = 0
    pool: str = "avg"
    drop_path: float = 0.1
    head_dropout: float = 0.0
    norm_eps: float = 1e-6
    head_init: float = 2e-5
    dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "xla"

    CHOICES: ClassVar[Choices] = {
        "size": SIZES,
        "pool": POOLS,
        "remat": REMAT_POLICIES,
        "attention": ATTENTIONS,
        "dtype": ("float32", "bfloat16"),
    }
    RANGES: ClassVar[Ranges] = {"drop_path": (0, 0.99), "head_dropout": (0, 0.99)}


@dataclasses.dataclass(frozen=True)
class AugmentConfig(Augmentation):
    """Augmentation on the host, image by image (its fields), and mixing on the device.

    Attributes:
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
        mix_switch: probability of cutmix where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    mix_switch: float = 0.5

    RANGES: ClassVar[Ranges] = {"mixup": (0, None), "cutmix": (0, None)}


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss; weights and logit adjustment are computed from the labels of the training rows.

    Attributes:
        name: `cross_entropy` | `focal` (what is classified well already counts little) |
            `logit_adjusted` (logits are shifted by the log of how common a class is).
        class_weights: `none` | `balanced` (N / (C n_c)) | `neutral` (n_neutral / n_c) | `max`
            (n_max / n_c) | `effective` (inverse of the effective number of samples). Beside
            `sampling.balance=class`, or `logit_adjusted`, they correct for the same thing twice.
        effective_beta: `effective`: 0 weighs all classes alike, 1 by the inverse of n_c.
        focal_gamma: `focal`: 0 is plain cross-entropy.
        logit_adjustment_tau: `logit_adjusted`: factor of the shift.
        label_smoothing: share of the target spread over all classes.
        soft_labels: where a face has votes, their shares are the target instead of its label.
    """

    name: str = "cross_entropy"
    class_weights: str = "none"
    effective_beta: float = 0.9999
    focal_gamma: float = 2.0
    logit_adjustment_tau: float = 1.0
    label_smoothing: float = 0.0
    soft_labels: bool = False

    CHOICES: ClassVar[Choices] = {"name": LOSSES, "class_weights": CLASS_WEIGHT_SCHEMES}
    RANGES: ClassVar[Ranges] = {
        "label_smoothing": (0, 1),
        "effective_beta": (0, 1),
        "focal_gamma": (0, None),
        "logit_adjustment_tau": (0, None),
    }


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule.

    Attributes:
        name: `adamw` | `adam` (no weight decay, no layer decay).
        learning_rate: peak rate for a batch of 256 if `scale_by_batch`, else for the batch as is.
        scale_by_batch: multiply the rate by batch_size / 256.
        weight_decay: decoupled; never on norms, biases, LayerScale, cls_token, pos_embed.
        layer_decay: rate of a block over that of the block after it; 1 for none.
        beta1: AdamW's first moment.
        beta2: AdamW's second moment.
        clip_norm: global gradient norm; 0 for none.
        schedule: `cosine` (to `min_learning_rate`) | `step` | `constant`.
        warmup_epochs: linear from 0.
        min_learning_rate: end of the cosine, not scaled by the batch.
        step_epochs: `step`: epochs between two drops.
        step_gamma: `step`: factor of a drop.
    """

    name: str = "adamw"
    learning_rate: float = 5e-4
    scale_by_batch: bool = True
    weight_decay: float = 0.05
    layer_decay: float = 0.65
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: float = 5.0
    min_learning_rate: float = 1e-6
    step_epochs: int = 16
    step_gamma: float = 0.1

    CHOICES: ClassVar[Choices] = {
        "name": ("adamw", "adam"),
        "schedule": ("cosine", "step", "constant"),
    }
    RANGES: ClassVar[Ranges] = {
        "learning_rate": (0, None),
        "step_epochs": (1, None),
        "layer_decay": (0, 1),
    }


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices: batch over both axes, parameters over `fsdp`.

    Attributes:
        data: size of the data axis; -1 takes all devices left over. Several TPU slices, or nodes
            of GPUs, each hold a part of it, so that only gradients cross the slow network.
        fsdp: size of the axis that parameters and optimiser state are sharded over.
    """

    data: int = -1
    fsdp: int = 1

    RANGES: ClassVar[Ranges] = {"fsdp": (1, None)}


# Of the fields that every run has.
RUN_RANGES: Ranges = {
    "epochs": (1, None),
    "batch_size": (1, None),
    "evaluate_batch_size": (0, None),
    "selection": (0, 0.9),
    "seed": (0, None),
    "log_every": (1, None),
    "accumulate": (1, None),
    "ema_decay": (0, 0.999999),
    "checkpoint_every": (1, None),
    "checkpoint_steps": (0, None),
    "keep": (1, None),
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One fine-tuning run.

    Attributes:
        data: prepared data sets (`fer-jax prepare`), separated by commas.
        backbone: bundle to begin from; empty trains from scratch.
        normalize: `imagenet` | `mae_face`, from scratch; a backbone brings its own.
        view: what is cut from a face: `main` | `eyes_mouth` | `eyes` | `mouth` |
            `eyes_nose_mouth`.
        resize: kernel from the view to the model's size when evaluating.
        selection: share of the training part that is held out to choose the checkpoint by
            macro-F1; whole subjects.
        selection_data: which of `data` it is taken from; empty for all.
        epochs: passes over what `sampling` takes of the training rows.
        batch_size: global.
        evaluate_batch_size: global; 0 for `batch_size`.
        accumulate: parts of a batch that are run one after the other for one update: the same
            gradient from less memory.
        ema_decay: keep a moving average of the parameters, which is then scored and released; 0
            for none. It begins fast: after n updates the decay is at most (1 + n) / (10 + n).
        seed: of initialisation, order, augmentation and everything else.
        workers: processes that decode; 0 decodes in a thread.
        log_every: steps between two lines of the log.
        checkpoint_every: epochs between two checkpoints.
        checkpoint_steps: steps between two more, within an epoch and not scored; 0 for none.
        keep: latest checkpoints kept, besides the best one.
        license: licence of the result, written into the bundle; empty takes the backbone's.
        model: the encoder.
        sampling: which faces an epoch shows: frames thinned out, classes balanced, sources mixed.
        augment: augmentation.
        loss: the loss.
        optimizer: the optimiser.
        mesh: the devices.
    """

    data: str = ""
    backbone: str = ""
    normalize: str = "imagenet"
    view: str = "main"
    resize: str = "bicubic_antialias"
    selection: float = 0.1
    selection_data: str = ""
    epochs: int = 100
    batch_size: int = 256
    evaluate_batch_size: int = 0
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 1
    checkpoint_steps: int = 0
    keep: int = 1
    license: str = ""
    model: ModelConfig = ModelConfig()
    sampling: Sampling = EVERYTHING
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()

    CHOICES: ClassVar[Choices] = {
        "view": VIEWS,
        "resize": KERNELS,
        "normalize": NORMALIZATIONS,
    }
    RANGES: ClassVar[Ranges] = {**RUN_RANGES, "workers": (0, None)}


def default_config() -> config_dict.ConfigDict:
    """The defaults of every field, for a config file to change."""
    return config_dict.ConfigDict(dataclasses.asdict(TrainConfig()))


def freeze(config: Mapping[str, Any] | config_dict.ConfigDict) -> TrainConfig:
    """Turns a ConfigDict (or nested dict) into the frozen dataclass; see `config_fields.freeze`."""
    return config_fields.freeze(TrainConfig, config)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dicts, tuples as lists: what JSON holds."""
    return dataclasses.asdict(config)
