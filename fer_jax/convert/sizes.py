"""The size of a model: from its tensors' shapes, and from the options what shapes cannot say."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_jax.convert.families import Family
from fer_jax.convert.options import Options
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import SIZES, ViTConfig

MAX_DEPTH = 256  # blocks; the largest published ViT has 64
DECODER_HEADS = {512: 16}  # facebookresearch/mae: every size has the same decoder

Shapes = Mapping[str, tuple[int, ...]]


def stated(path: Path, family: Family) -> dict[str, Any]:
    """What the config.json beside a Hugging Face file says of the numbers that weights do not hold.

    Args:
        path: the checkpoint.
        family: of its names; only `hf` has such a file.

    Returns:
        Fields of `Options`: `num_heads`, `norm_eps`, `decoder_heads`, `norm_pix`; empty if there is
        no such file.

    Raises:
        FerJaxError: the file is damaged, or the model has another activation than exact GELU.
    """
    file = path.with_name("config.json")
    if family.name != "hf" or not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FerJaxError(f"{file}: no JSON ({error}); download it again") from error
    if not isinstance(document, dict) or document.get("model_type") not in _HF_MODELS:
        return {}
    activation = document.get("hidden_act", "gelu")
    if activation != "gelu":
        raise FerJaxError(f"{file}: hidden_act={activation!r}; only models with gelu are converted")
    found = {}
    for field, name, kinds in _HF_FIELDS:
        value = document.get(name)
        if value is not None:
            if type(value) not in kinds:
                raise FerJaxError(f"{file}: {name}={value!r} is no {kinds[0].__name__}")
            found[field] = value
    return found


_HF_MODELS = ("vit", "vit_mae", "dinov2")
_HF_FIELDS = (
    ("num_heads", "num_attention_heads", (int,)),
    ("norm_eps", "layer_norm_eps", (float,)),
    ("decoder_heads", "decoder_num_attention_heads", (int,)),
    ("norm_pix", "norm_pix_loss", (bool,)),
)


def vit_config(family: Family, shapes: Shapes, options: Options, num_classes: int) -> ViTConfig:
    """The configuration of a ViT as its file has it.

    Raises:
        UsageError: heads or pooling must be said on the command line.
        FerJaxError: shapes from which no size can be told.
    """
    patch = _shape(shapes, "patch_embed.proj.weight", 4)
    positions = _shape(shapes, "pos_embed", 3)
    width, patch_size = patch[0], patch[2]
    grid = math.isqrt(max(positions[1] - 1, 0))
    if not width or not patch_size or grid * grid + 1 != positions[1] or not grid:
        raise FerJaxError(
            f"pos_embed: {positions[1]} rows, not one CLS row and a square grid of patches"
        )
    depth = _depth(shapes, "blocks")
    return ViTConfig(
        image_size=grid * patch_size,
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=_heads(options.num_heads, width, depth),
        mlp_ratio=_ratio(shapes, "blocks", width),
        num_classes=num_classes,
        pool=_pool(shapes, options.pool),
        layer_scale="blocks.0.ls1.gamma" in shapes,
        norm_eps=family.norm_eps if options.norm_eps is None else options.norm_eps,
        param_dtype=options.dtype,
    )


def mae_config(family: Family, shapes: Shapes, options: Options) -> MAEConfig:
    """The configuration of a masked autoencoder as its file has it.

    Raises:
        UsageError: the decoder's heads, or what it predicts, must be said on the command line.
        FerJaxError: shapes from which no size can be told, or no decoder.
    """
    width = _shape(shapes, "decoder_embed.weight", 2)[0]
    if not width:
        raise FerJaxError("decoder_embed.weight: has no rows")
    heads = options.decoder_heads or DECODER_HEADS.get(width)
    if heads is None:
        raise UsageError(
            f"its decoder is {width} wide, and weights do not say how many attention heads it has; "
            "pass --decoder-heads N"
        )
    if heads < 1 or width % heads:
        raise UsageError(f"--decoder-heads {heads} does not divide the decoder's width of {width}")
    if options.norm_pix is None:
        raise UsageError(
            "weights do not say whether the decoder predicts normalised patches; pass --norm-pix "
            "(as MAE's recipe trains) or --no-norm-pix"
        )
    return MAEConfig(
        encoder=vit_config(family, shapes, options, 0),
        decoder_width=width,
        decoder_depth=_depth(shapes, "decoder_blocks"),
        decoder_num_heads=heads,
        decoder_mlp_ratio=_ratio(shapes, "decoder_blocks", width),
        norm_pix=options.norm_pix,
    )


def fusion_config(shapes: Shapes, num_classes: int, dtype: str) -> EntryFusionConfig:
    """The configuration of the entry's fusion as its file has it.

    Raises:
        FerJaxError: shapes from which no size can be told.
    """
    main = _shape(shapes, "linear1.weight", 2)
    aux = _shape(shapes, "linear2.weight", 2)
    hidden = _shape(shapes, "mlp.0.weight", 2)[0]
    return EntryFusionConfig(
        widths=(main[1], aux[1]),
        width=main[0],
        hidden=hidden,
        num_classes=num_classes,
        param_dtype=dtype,
    )


def registered_size(width: int, depth: int) -> str | None:
    """The name of the size in `models.vit.SIZES`, if it is one."""
    return next((name for name, size in SIZES.items() if size[:2] == (width, depth)), None)


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    if name not in shapes:
        raise FerJaxError(f"missing: {name}, without which the model's size is not known")
    if len(shapes[name]) != rank:
        raise FerJaxError(f"{name}: shape {shapes[name]}, {rank} dimensions are expected")
    return shapes[name]


def _depth(shapes: Shapes, stack: str) -> int:
    depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith(f"{stack}."))
    if depth > MAX_DEPTH:
        raise FerJaxError(f"{stack}.{depth - 1}: more than {MAX_DEPTH} blocks")
    return depth


def _heads(asked: int | None, width: int, depth: int) -> int:
    if asked is not None:
        if asked < 1 or width % asked:
            raise UsageError(f"--heads {asked} does not divide its width of {width}")
        return asked
    size = registered_size(width, depth)
    if size is not None:
        return SIZES[size][2]
    raise UsageError(
        f"width {width} and depth {depth} are no registered size, and weights do not say how many "
        "attention heads there are; pass --heads N"
    )


def _ratio(shapes: Shapes, stack: str, width: int) -> float:
    hidden = _shape(shapes, f"{stack}.0.mlp.fc1.weight", 2)[0]
    if not hidden:
        raise FerJaxError(f"{stack}.0.mlp.fc1.weight: has no rows")
    ratio = hidden / width
    if int(width * ratio) != hidden:  # the model computes the hidden width from the ratio
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _pool(shapes: Shapes, asked: str | None) -> str:
    norms = {
        pool for pool, norm in (("cls", "norm"), ("avg", "fc_norm")) if f"{norm}.weight" in shapes
    }
    if asked is not None:
        return asked
    if len(norms) > 1:
        raise UsageError(
            "it holds both norm and fc_norm; pass --pool cls or --pool avg to say which is in use"
        )
    return norms.pop() if norms else "cls"
