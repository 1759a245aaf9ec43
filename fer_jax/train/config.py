"""The fields of a training run: what a config file may set, with units and defaults.

A file in `configs/` returns `default_config()` with fields changed; the command line overrides them
(`--config.optimizer.weight_decay=0.1`). Before anything runs it becomes one frozen `TrainConfig`,
so that a misspelt field or a wrong type fails at once, by name.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from fer_jax.data.augment import Augmentation
from fer_jax.data.sampling import EVERYTHING, Sampling
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.vit import ATTENTIONS, POOLS, REMAT_POLICIES, SIZES
from fer_jax.ops.losses import CLASS_WEIGHT_SCHEMES
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS


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
    norm_eps: float = 1e-6
    head_init: float = 2e-5
    dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "xla"


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


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weighted cross-entropy.

    Attributes:
        class_weights: `none` | `balanced` (N / (C n_c)) | `neutral` (n_neutral / n_c) | `max`
            (n_max / n_c), from the labels of the training rows. Beside `sampling.balance=class`
            they correct for the same thing twice.
        label_smoothing: share of the target spread over all classes.
        soft_labels: where a face has votes, their shares are the target instead of its label.
    """

    class_weights: str = "none"
    label_smoothing: float = 0.0
    soft_labels: bool = False


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


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices: batch over both axes, parameters over `fsdp`.

    Attributes:
        data: size of the data axis; -1 takes all devices left over.
        fsdp: size of the axis that parameters and optimiser state are sharded over.
    """

    data: int = -1
    fsdp: int = 1


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
        seed: of initialisation, order, augmentation and everything else.
        workers: processes that decode; 0 decodes in a thread.
        log_every: steps between two lines of the log.
        checkpoint_every: epochs between two checkpoints.
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
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 1
    keep: int = 1
    license: str = ""
    model: ModelConfig = ModelConfig()
    sampling: Sampling = EVERYTHING
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()


def default_config() -> config_dict.ConfigDict:
    """The defaults of every field, for a config file to change."""
    return config_dict.ConfigDict(dataclasses.asdict(TrainConfig()))


def freeze(config: Mapping[str, Any] | config_dict.ConfigDict) -> TrainConfig:
    """Turns a ConfigDict (or nested dict) into the frozen dataclass.

    Raises:
        UsageError: an unknown field (with the nearest known ones), a wrong type, or a value out of
            range; all by name.
    """
    if isinstance(config, config_dict.ConfigDict):
        config = config.to_dict()
    frozen = _freeze(TrainConfig, config, "config")
    _check(frozen)
    return frozen


def check_field(where: str) -> None:
    """Raises UsageError unless `where` (`config.optimizer.name`) names a field of `TrainConfig`."""
    cls: type = TrainConfig
    known = "config"
    for name in where.split(".")[1:]:
        kinds = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        if name not in kinds:
            raise _no_such_field(known, name, kinds)
        known, cls = f"{known}.{name}", kinds[name]


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Nested plain dicts, tuples as lists: what JSON holds."""
    return dataclasses.asdict(config)


def _freeze(cls: type, values: Mapping[str, Any], where: str) -> Any:
    kinds = typing.get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        if name not in kinds:
            raise _no_such_field(where, name, kinds)
        fields[name] = _typed(kinds[name], value, f"{where}.{name}")
    try:
        return cls(**fields)
    except FerJaxError as error:
        # It begins with the dataclass's own name for the field, such as `augmentation.flip`.
        raise UsageError(f"{where}.{str(error).partition('.')[2]}") from error


def _no_such_field(where: str, name: str, known: Mapping[str, Any]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {where}.{near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
    return UsageError(f"{where}.{name}: no such field; {hint}")


def _typed(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}={value!r}: holds fields, set one of them")
        return _freeze(kind, value, where)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        if not isinstance(value, (tuple, list)) or len(value) != len(parts):
            raise UsageError(f"{where}={value!r}: must be {len(parts)} numbers")
        pairs = zip(parts, value, strict=True)
        return tuple(_typed(part, item, where) for part, item in pairs)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{where}={value!r}: must be {kind.__name__}")
    return value


def _check(config: TrainConfig) -> None:
    choices = {
        "view": VIEWS,
        "resize": KERNELS,
        "normalize": NORMALIZATIONS,
        "model.size": SIZES,
        "model.pool": POOLS,
        "model.remat": REMAT_POLICIES,
        "model.attention": ATTENTIONS,
        "model.dtype": ("float32", "bfloat16"),
        "loss.class_weights": CLASS_WEIGHT_SCHEMES,
        "optimizer.name": ("adamw", "adam"),
        "optimizer.schedule": ("cosine", "step", "constant"),
    }
    for where, known in choices.items():
        value = _field(config, where)
        if value not in known:
            raise UsageError(f"config.{where}={value!r}: must be one of {', '.join(known)}")
    ranges = {
        "epochs": (1, None),
        "evaluate_batch_size": (0, None),
        "batch_size": (1, None),
        "selection": (0, 0.9),
        "seed": (0, None),
        "log_every": (1, None),
        "checkpoint_every": (1, None),
        "keep": (1, None),
        "workers": (0, None),
        "optimizer.learning_rate": (0, None),
        "optimizer.step_epochs": (1, None),
        "optimizer.layer_decay": (0, 1),
        "loss.label_smoothing": (0, 1),
        "augment.mixup": (0, None),
        "augment.cutmix": (0, None),
        "mesh.fsdp": (1, None),
    }
    for where, (low, high) in ranges.items():
        value = _field(config, where)
        if value < low or (high is not None and value > high):
            bound = f"at least {low}" if high is None else f"in [{low}, {high}]"
            raise UsageError(f"config.{where}={value}: must be {bound}")


def _field(config: TrainConfig, where: str) -> Any:
    value: Any = config
    for name in where.split("."):
        value = getattr(value, name)
    return value
