"""The size of a model: from its tensors' shapes, and from the options what shapes cannot say."""

import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fer_jax.convert.families import Family
from fer_jax.convert.options import Options
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.config import MAX_DEPTH, MAX_SIZE
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import SIZES, ViTConfig

DECODER_HEADS = {512: 16}  # facebookresearch/mae: every size has the same decoder

Shapes = Mapping[str, tuple[int, ...]]


def stated(path: Path, family: Family) -> dict[str, Any]:
    """What the config.json beside a Hugging Face file says of the numbers that weights do not hold.

    Args:
        path: the checkpoint.
        family: of its names; only `hf` has such a file.

    Returns:
        Fields of `Options`: `num_heads`, `norm_eps`, `decoder_heads`, `norm_pix`; empty if there is
        no such file, or it is of another kind of model.

    Raises:
        FerJaxError: the file is damaged, a number is out of its range, or the model has another
            activation than exact GELU.
    """
    file = path.with_name(_BESIDE)
    document = _beside(path, family)
    if document.get("model_type") not in (*_PLAIN_TYPES, *_SCALED_TYPES):
        return {}
    activation = document.get("hidden_act", "gelu")
    if activation != "gelu":
        raise FerJaxError(f"{file}: hidden_act={activation!r}; only models with gelu are converted")
    found = {}
    for field, name, kind in _STATED:
        value = document.get(name)
        if value is None:
            continue
        if type(value) is not kind:
            raise FerJaxError(f"{file}: {name}={_short(value)} is no {kind.__name__}")
        if kind is float and not 0 < value < 1:  # NaN does not lie there
            raise FerJaxError(f"{file}: {name}={value} must lie between 0 and 1")
        if kind is int and value < 1:
            raise FerJaxError(f"{file}: {name}={_short(value)} must be 1 or more")
        found[field] = value
    for name, of in _HEADS_AND_WIDTHS:
        heads, width = document.get(name), document.get(of)
        if heads is not None and type(width) is int and width % heads:
            raise FerJaxError(
                f"{file}: {name}={_short(heads)} does not divide {of}={_short(width)}; download "
                "it again"
            )
    return found


def check_stated(path: Path, family: Family, config: ModelConfig) -> None:
    """Refuses a config.json that contradicts the weights beside it, since then both are in doubt.

    Args:
        path: the checkpoint.
        family: of its names; only `hf` has such a file.
        config: the model as its weights have it. What belongs to a decoder is compared only in a
            `MAEConfig`; what the file leaves out is not compared.

    Raises:
        FerJaxError: lists every difference.
    """
    document = _beside(path, family)
    if document.get("model_type") is None:  # not Hugging Face's: `stated` took nothing from it
        return
    faults = list(_contradictions(document, config))
    if faults:
        raise FerJaxError(
            f"{path.with_name(_BESIDE)}: contradicts {path.name}; download both from the same "
            f"place, or move {_BESIDE} away:\n" + "\n".join(f"  {fault}" for fault in faults)
        )


def _contradictions(document: dict[str, Any], config: ModelConfig) -> Iterator[str]:
    """What config.json says otherwise than the weights, a line each."""
    decoder = config.decoder if isinstance(config, MAEConfig) else None
    vit = config.encoder if isinstance(config, MAEConfig) else config
    fitting = _SCALED_TYPES if vit.layer_scale else _PLAIN_TYPES
    if document["model_type"] not in fitting:
        kind = _short(document["model_type"])
        yield f"model_type={kind}, the weights have the names of {' or '.join(fitting)}"
    held = {"patch_size": vit.patch_size, "image_size": vit.image_size} | _sizes(vit)
    if decoder is not None:
        held |= {f"decoder_{name}": size for name, size in _sizes(decoder).items()}
    for name, size in held.items():
        if document.get(name) is not None and not _same(document[name], size):
            yield f"{name}={_short(document[name])}, the weights have {size}"
    ratio = document.get("mlp_ratio")  # DINOv2 says this in place of intermediate_size
    if ratio is not None and not _same_ratio(ratio, vit):
        yield f"mlp_ratio={_short(ratio)}, the weights have {vit.mlp_ratio:g}"
    for name, width in _HEADS_AND_WIDTHS:
        heads = document.get(name)
        if width in held and type(heads) is int and heads > 0 and held[width] % heads:
            yield f"{name}={_short(heads)}, the weights are {held[width]} wide"


def _sizes(config: ViTConfig) -> dict[str, int]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "intermediate_size": int(config.width * config.mlp_ratio),
    }


_BESIDE = "config.json"
_MAX_BESIDE = 2**20  # bytes; those of the hub have a few thousand, with many labels some more
# Names with LayerScale and without; ViT and ViTMAE share theirs.
_SCALED_TYPES = ("dinov2",)
_PLAIN_TYPES = ("vit", "vit_mae")
_STATED = (
    ("num_heads", "num_attention_heads", int),
    ("norm_eps", "layer_norm_eps", float),
    ("decoder_heads", "decoder_num_attention_heads", int),
    ("norm_pix", "norm_pix_loss", bool),
)
_HEADS_AND_WIDTHS = (
    ("num_attention_heads", "hidden_size"),
    ("decoder_num_attention_heads", "decoder_hidden_size"),
)


def _beside(path: Path, family: Family) -> dict[str, Any]:
    """The config.json beside a Hugging Face file; empty if there is none."""
    file = path.with_name(_BESIDE)
    if family.name != "hf" or not file.is_file():
        return {}
    with file.open("rb") as stream:
        content = stream.read(_MAX_BESIDE + 1)
    if len(content) > _MAX_BESIDE:
        raise FerJaxError(
            f"{file}: more than {_MAX_BESIDE:,} bytes, no config.json of a model is as long; "
            "download it again, or move it away"
        )
    try:
        document = json.loads(content.decode())
    except RecursionError as error:
        raise FerJaxError(f"{file}: nested too deeply; download it again") from error
    except ValueError as error:
        raise FerJaxError(f"{file}: no JSON ({error}); download it again") from error
    return document if isinstance(document, dict) else {}


def _same(said: Any, held: int) -> bool:
    """Whether a size in config.json, or a side's for each of two sides, is that of the weights."""
    sides = said if isinstance(said, list) and len(said) == 2 else [said]
    return all(type(side) is int and side == held for side in sides)


def _same_ratio(said: Any, vit: ViTConfig) -> bool:
    if type(said) not in (int, float) or not 0 < said <= MAX_SIZE:
        return False
    return int(vit.width * said) == int(vit.width * vit.mlp_ratio)


def _short(value: Any) -> str:
    return reprlib.repr(value)


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
        num_heads=_heads(options.num_heads, width, depth, _source(family)),
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
    heads = options.decoder_heads
    if heads is None:
        heads = DECODER_HEADS.get(width)
    if heads is None:
        raise UsageError(
            f"its decoder is {width} wide, and weights do not say how many attention heads it has; "
            "pass --decoder-heads N"
        )
    if width % heads:
        raise UsageError(
            f"--decoder-heads {heads} does not divide the decoder's width of {width}"
            f"{_source(family)}"
        )
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
    numbers = [int(name.split(".")[1]) for name in shapes if name.startswith(f"{stack}.")]
    if not numbers:
        raise FerJaxError(f"missing: {stack}.0..., without which the model's size is not known")
    depth = 1 + max(numbers)
    if depth > MAX_DEPTH:
        raise FerJaxError(f"{stack}.{depth - 1}: more than {MAX_DEPTH} blocks")
    return depth


def _heads(asked: int | None, width: int, depth: int, source: str) -> int:
    if asked is not None:
        if width % asked:
            raise UsageError(f"--heads {asked} does not divide its width of {width}{source}")
        return asked
    size = registered_size(width, depth)
    if size is not None:
        return SIZES[size][2]
    raise UsageError(
        f"width {width} and depth {depth} are no registered size, and weights do not say how many "
        "attention heads there are; pass --heads N"
    )


def _source(family: Family) -> str:
    """Where a number may stand that was not said on the command line."""
    return f"; if you did not pass it, it stands in {_BESIDE}" if family.name == "hf" else ""


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
