"""How many operations a training or evaluation step takes, by formula."""

from collections.abc import Mapping

from fer_jax.bench.flops import vit_flops
from fer_jax.models.config import ViTConfig
from fer_jax.models.fusion import EntryFusionConfig, FusionConfig, TokenFusionConfig

# Of one pair of numbers in the entry's attention: forward alone; with the sums that the gradient
# needs, and the gradient (`ops/attention.py`).
_PAIR, _PAIR_TRAINED = 6, 20


def step_flops(
    encoders: Mapping[str, ViTConfig],
    fusion: FusionConfig | None,
    *,
    training: bool,
    grid: int = 14,
) -> float:
    r"""Operations for one face, a multiply-add as two.

    A product of matrices has two more in its gradient, so training takes three times the forward
    pass; but the gradient of the input is not taken, so the first layer on images or frozen
    features takes twice. Recomputing (`remat`) adds to each block, forward again: `full` all but
    the last product, whose result is not needed; `dots` the two products of the attention, which
    have a batch dimension and are therefore not kept.

    Args:
        encoders: models of images.
        fusion: of their features, or of frozen ones.
        training: with gradients, else forward alone.
        grid: side of the maps of patches that `token` fuses where they are frozen.

    Returns:
        Products of matrices, and the pairs of the entry's attention; norms, activations and the
        optimiser are left out.
    """
    total = sum(_encoder(config, training) for config in encoders.values())
    if fusion is not None:
        grid = next(iter(encoders.values())).grid if encoders else grid
        total += _fusion(fusion, grid, training, bool(encoders))
    return total


def _encoder(config: ViTConfig, training: bool) -> float:
    forward = vit_flops(config)
    if not training:
        return forward
    embedding = 2 * config.grid**2 * 3 * config.patch_size**2 * config.width
    blocks = [
        blocks_flops(config, config.num_tokens, training=trained) for trained in (True, False)
    ]
    return 3 * (forward - blocks[1]) - embedding + blocks[0]


def blocks_flops(config: ViTConfig, tokens: int, *, training: bool) -> float:
    """Operations of all blocks for one face of so many tokens.

    Args:
        config: of the blocks, and what they recompute.
        tokens: that they see.
        training: with gradients, else forward alone.
    """
    hidden = int(config.width * config.mlp_ratio)
    attention = 4 * tokens**2 * config.width
    dense = 2 * tokens * (4 * config.width**2 + 2 * config.width * hidden)
    if not training:
        return config.depth * (attention + dense)
    last = 2 * tokens * config.width * hidden
    again = {"none": 0, "dots": attention, "full": attention + dense - last}[config.remat]
    return config.depth * (3 * (attention + dense) + again)


def _fusion(config: FusionConfig, grid: int, training: bool, differentiated: bool) -> float:
    first, later = (2 + differentiated, 3) if training else (1, 1)
    if isinstance(config, TokenFusionConfig):
        return _token(config, grid, first, later)
    if isinstance(config, EntryFusionConfig):
        width, sources = config.width, len(config.widths)
        projections = 2 * sum(config.widths) * width
        pairs = (sources - 1) * width**2 * (_PAIR_TRAINED if training else _PAIR)
        rest = 2 * (sources * width * width + width * config.hidden)
        rest += 2 * config.hidden * config.num_classes
        return first * projections + later * rest + pairs
    return first * 2 * sum(config.used.values()) * config.num_classes


def _token(config: TokenFusionConfig, grid: int, first: int, later: int) -> float:
    width, places = config.width, grid**2
    tokens = places * len(config.widths)
    projections = 2 * places * sum(config.projected.values()) * width
    rest = 2 * config.fused_width * config.num_classes
    if config.attention in ("self", "both"):
        rest += 8 * tokens * width**2 + 4 * tokens**2 * width
    if config.attention in ("local", "both"):
        rest += 2 * tokens * width**2 + 2 * config.kernel_size**2 * tokens * width
    return first * projections + later * rest
