"""The fields of a masked pre-training run: the autoencoder, the data, the recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import config_dict

from fer_jax.data.augment import Augmentation
from fer_jax.data.sampling import EVERYTHING, Sampling
from fer_jax.errors import FerJaxError
from fer_jax.models.mae import MAEConfig, num_visible
from fer_jax.models.vit import ATTENTIONS, REMAT_POLICIES, SIZES, vit_config
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS
from fer_jax.train import config_fields
from fer_jax.train.config import RUN_RANGES, MeshConfig, OptimizerConfig
from fer_jax.train.config_fields import Choices, Ranges

# MAE's: 1.5e-4 for 256 faces, to nothing; one rate for all layers.
_ADAMW = OptimizerConfig(
    learning_rate=1.5e-4,
    layer_decay=1.0,
    beta2=0.95,
    warmup_epochs=40.0,
    min_learning_rate=0.0,
)
_AUGMENT = Augmentation(crop_scale=(0.2, 1.0))
_MESH = MeshConfig()


@dataclasses.dataclass(frozen=True)
class MAEModelConfig:
    """The autoencoder; `size` to `norm_eps` matter only from scratch, the decoder's if it is fresh.

    Attributes:
        size: of the encoder: `tiny` | `small` | `base` | `large` | `huge`, overridden by the next
            five if not 0.
        patch_size: pixels.
        width: token width.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLPs over the token width, of the decoder too.
        norm_eps: epsilon of LayerNorm.
        decoder_width: token width of the decoder.
        decoder_depth: its number of blocks.
        decoder_num_heads: its attention heads.
        norm_pix: predict each patch's pixels less their mean and over their deviation.
        image_size: side of the input, pixels; 0 keeps the backbone's (224 from scratch). Positions
            are interpolated to it.
        drop_path: largest rate of stochastic depth of the encoder; MAE has none.
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
    norm_eps: float = 1e-6
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    norm_pix: bool = True
    image_size: int = 0
    drop_path: float = 0.0
    dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "xla"

    CHOICES: ClassVar[Choices] = {
        "size": SIZES,
        "remat": REMAT_POLICIES,
        "attention": ATTENTIONS,
        "dtype": ("float32", "bfloat16"),
    }
    RANGES: ClassVar[Ranges] = {"drop_path": (0, 0.99)}

    @property
    def run_fields(self) -> dict[str, object]:
        """Fields of the encoder that a run chooses, whatever it begins from."""
        names = ("drop_path", "dtype", "scan_layers", "remat", "attention")
        return {name: getattr(self, name) for name in names}

    @property
    def decoder_fields(self) -> dict[str, object]:
        """Fields of a fresh decoder."""
        return {
            "decoder_width": self.decoder_width,
            "decoder_depth": self.decoder_depth,
            "decoder_num_heads": self.decoder_num_heads,
            "decoder_mlp_ratio": self.mlp_ratio,
            "norm_pix": self.norm_pix,
        }


_MODEL = MAEModelConfig()


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """One masked pre-training run.

    Attributes:
        data: prepared data sets (`fer-jax prepare`), separated by commas; labels are not needed,
            and not trained on.
        backbone: bundle to begin from, of the kind `mae`, or `encoder`, which gets a fresh
            decoder; empty trains from scratch.
        normalize: `imagenet` | `mae_face`, from scratch; a backbone brings its own.
        view: what is cut from a face: `main` | `eyes_mouth` | `eyes` | `mouth` |
            `eyes_nose_mouth`.
        resize: kernel from the view to the model's size when evaluating.
        mask_ratio: share of the patches that is hidden.
        selection: share of the training part that is held out: for the masked loss that chooses
            the checkpoint, the probes and the picture; whole subjects.
        selection_data: which of `data` it is taken from; empty for all. Their labels must be of
            one space.
        probe_faces: where held-out faces have labels, the most of them that are classified by their
            features, and as many training faces to learn that from; 0 for none.
        epochs: passes over what `sampling` takes of the training rows.
        batch_size: global.
        evaluate_batch_size: global; 0 for `batch_size`.
        accumulate: parts of a batch that are run one after the other for one update: the same
            gradient from less memory.
        ema_decay: of the moving average of the parameters that is scored and released; 0 for none.
        seed: of initialisation, order, augmentation, masks and everything else.
        workers: processes that decode; 0 decodes in a thread.
        log_every: steps between two lines of the log.
        checkpoint_every: epochs between two checkpoints.
        checkpoint_steps: steps between two more, within an epoch and not scored; 0 for none.
        keep: latest checkpoints kept, besides the best one.
        license: licence of the result, written into the bundle; empty takes the backbone's.
        model: the autoencoder.
        sampling: which faces an epoch shows.
        augment: augmentation.
        optimizer: the optimiser; `layer_decay` must be 1.
        mesh: the devices.

    Raises:
        FerJaxError: there would be a rate for each layer.
    """

    data: str = ""
    backbone: str = ""
    normalize: str = "imagenet"
    view: str = "main"
    resize: str = "bicubic_antialias"
    mask_ratio: float = 0.75
    selection: float = 0.05
    selection_data: str = ""
    probe_faces: int = 2000
    epochs: int = 800
    batch_size: int = 4096
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
    model: MAEModelConfig = _MODEL
    sampling: Sampling = EVERYTHING
    augment: Augmentation = _AUGMENT
    optimizer: OptimizerConfig = _ADAMW
    mesh: MeshConfig = _MESH

    CHOICES: ClassVar[Choices] = {"view": VIEWS, "resize": KERNELS, "normalize": NORMALIZATIONS}
    RANGES: ClassVar[Ranges] = {
        **RUN_RANGES,
        "workers": (0, None),
        "mask_ratio": (0.01, 0.99),
        "probe_faces": (0, None),
    }

    def __post_init__(self) -> None:
        if self.optimizer.layer_decay != 1:
            raise FerJaxError(
                f"pretrain.optimizer.layer_decay={self.optimizer.layer_decay}: must be 1: "
                "pre-training moves all layers alike"
            )


def default_config() -> config_dict.ConfigDict:
    """The defaults of every field, for a config file to change."""
    return config_dict.ConfigDict(dataclasses.asdict(PretrainConfig()))


def freeze(config: Mapping[str, Any] | config_dict.ConfigDict) -> PretrainConfig:
    """Turns a ConfigDict (or nested dict) into the frozen dataclass; see `config_fields.freeze`."""
    return config_fields.freeze(PretrainConfig, config)


def scratch_config(config: PretrainConfig) -> MAEConfig:
    """The autoencoder of a run that has no backbone.

    Raises:
        FerJaxError: sizes do not fit each other, or the mask hides nothing or everything.
    """
    model = config.model
    given = ("patch_size", "width", "depth", "num_heads")
    encoder = vit_config(
        model.size,
        **{name: getattr(model, name) for name in given if getattr(model, name)},
        **model.run_fields,
        image_size=model.image_size or 224,
        mlp_ratio=model.mlp_ratio,
        norm_eps=model.norm_eps,
    )
    return checked(config, MAEConfig(encoder, **model.decoder_fields))


def checked(config: PretrainConfig, autoencoder: MAEConfig) -> MAEConfig:
    """The autoencoder, if the run's mask can be cut from its patches.

    Raises:
        FerJaxError: the mask would hide nothing or everything.
    """
    try:
        num_visible(autoencoder.encoder.grid**2, config.mask_ratio)
    except FerJaxError as error:
        raise FerJaxError(f"config.{error}") from error
    return autoencoder
