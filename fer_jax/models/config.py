"""What defines a Vision Transformer: one frozen configuration, and the registered sizes."""

import dataclasses
import math
from typing import Any

import jax

from fer_jax.errors import FerJaxError

# width, depth, heads, patch size
SIZES = {
    "tiny": (192, 12, 3, 16),
    "small": (384, 12, 6, 16),
    "base": (768, 12, 12, 16),
    "large": (1024, 24, 16, 16),
    "huge": (1280, 32, 16, 14),
}
POOLS = ("cls", "avg")
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
ATTENTIONS = {"auto": None, "xla": "xla", "cudnn": "cudnn"}
DTYPES = ("float32", "bfloat16", "float16")
# Far above any model, so that a damaged number is named and not tried.
MAX_DEPTH = 256  # blocks; the largest published ViT has 64
MAX_SIZE = 2**20


def check_sizes(config: Any, *fields: str, least: int = 1, most: int = MAX_SIZE) -> None:
    """Refuses a configuration with a size below `least` or above `most`.

    Raises:
        FerJaxError: names the field and its value.
    """
    for field in fields:
        value = getattr(config, field)
        if not least <= value <= most:
            raise FerJaxError(f"{field}={value!r} must lie between {least} and {most}")


def check_positive(config: Any, *fields: str) -> None:
    """Refuses a configuration with a number that is not finite or not above 0.

    Raises:
        FerJaxError: names the field and its value.
    """
    for field in fields:
        value = getattr(config, field)
        if not 0 < value < math.inf:  # NaN is neither
            raise FerJaxError(f"{field}={value!r} must be finite and above 0")


def check_hidden(config: Any, ratio: str, width: str) -> None:
    """Refuses a ratio with which the hidden width of an MLP would be no size.

    Raises:
        FerJaxError: names the ratio and its value.
    """
    check_positive(config, ratio)
    size, value = getattr(config, width), getattr(config, ratio)
    if not 1 <= size * value <= MAX_SIZE:
        raise FerJaxError(
            f"{ratio}={value!r} of {width}={size!r} must lie between 1 and {MAX_SIZE}"
        )


def check_dtypes(config: Any, *fields: str) -> None:
    """Refuses a configuration with a dtype that is none of `DTYPES`.

    Raises:
        FerJaxError: names the field and its value.
    """
    for field in fields:
        value = getattr(config, field)
        if value not in DTYPES:
            raise FerJaxError(f"{field}={value!r} must be one of {', '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What defines a ViT; every field that is not a matter of speed is written into bundles.

    Attributes:
        image_size: side of the square input, pixels; a multiple of `patch_size`.
        patch_size: side of a patch, pixels.
        width: token width D.
        depth: number of blocks.
        num_heads: attention heads; divides `width`.
        mlp_ratio: hidden width of the MLP over D.
        num_classes: outputs of the head; 0 for no head.
        pool: `cls` (LayerNorm over all tokens, then the CLS token) or `avg` (mean of the patch
            tokens without CLS, then `fc_norm`, MAE's global pool).
        layer_scale: learned scale on both residual branches (DINOv2).
        layer_scale_init: its initial value.
        head_init: standard deviation of the head's first weights.
        drop_path: largest rate of stochastic depth; rates rise linearly over the blocks from 0.
        head_dropout: rate at which pooled features are dropped before the head when training.
        norm_eps: epsilon of every LayerNorm.
        dtype: of the computation; parameters are cast when used.
        param_dtype: of the parameters.
        scan_layers: loop over the stacked blocks instead of unrolling them.
        remat: what the backward pass recomputes: `none` | `full` | `dots` (keeps matmul results).
        attention: implementation of `jax.nn.dot_product_attention`: `auto` | `xla` | `cudnn`.

    Raises:
        FerJaxError: a number is out of its range, a name is not known, or sizes do not fit.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_classes: int = 0
    pool: str = "cls"
    layer_scale: bool = False
    layer_scale_init: float = 1e-5
    head_init: float = 2e-5
    drop_path: float = 0.0
    head_dropout: float = 0.0
    norm_eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = True
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        check_sizes(self, "image_size", "patch_size", "width", "num_heads")
        check_sizes(self, "depth", most=MAX_DEPTH)
        check_sizes(self, "num_classes", least=0)
        check_hidden(self, "mlp_ratio", "width")
        check_positive(self, "norm_eps")
        check_dtypes(self, "dtype", "param_dtype")
        if self.image_size % self.patch_size:
            raise FerJaxError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}"
            )
        if self.grid**2 > MAX_SIZE:
            raise FerJaxError(
                f"image_size={self.image_size} and patch_size={self.patch_size} make {self.grid**2}"
                f" patches, more than {MAX_SIZE}"
            )
        if self.width % self.num_heads:
            raise FerJaxError(f"num_heads={self.num_heads} must divide width={self.width}")
        for field in ("drop_path", "head_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise FerJaxError(f"{field}={getattr(self, field)} must lie in [0, 1)")
        for field, known in (("pool", POOLS), ("remat", REMAT_POLICIES), ("attention", ATTENTIONS)):
            value = getattr(self, field)
            if value not in known:
                raise FerJaxError(f"{field}={value!r} must be one of {', '.join(known)}")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Patch tokens and the CLS token."""
        return self.grid**2 + 1


def vit_config(size: str, **overrides: Any) -> ViTConfig:
    """The configuration of a registered size.

    Args:
        size: `tiny` | `small` | `base` | `large` | `huge`.
        **overrides: fields of `ViTConfig`.

    Raises:
        FerJaxError: no such size.

    >>> vit_config("base", num_classes=8).num_tokens
    197
    """
    if size not in SIZES:
        raise FerJaxError(f"size {size!r} is not known; one of {', '.join(SIZES)}")
    width, depth, num_heads, patch_size = SIZES[size]
    fields = {"width": width, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
    return ViTConfig(**(fields | overrides))
