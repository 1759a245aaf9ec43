"""The naming families of foreign checkpoints, as tables: which key goes where, which is left out.

A rule's pattern is a full-match regular expression on a key of the file; `target` is the name in
`models/torch_layout.py`, with the pattern's groups filled in. Every key of a file must meet a rule
or a drop, and every tensor of the model must be met by a key.
"""

import dataclasses
import re
from collections.abc import Iterable

from fer_jax.errors import FerJaxError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A tensor that is taken over.

    Attributes:
        pattern: of the source key.
        target: name in the torch layout; `{0}`, `{1}` are the pattern's groups.
        transform: `copy`, or `positions` (interpolated if the image size is changed).
    """

    pattern: str
    target: str
    transform: str = "copy"


@dataclasses.dataclass(frozen=True)
class Drop:
    """A tensor that is left out, and why."""

    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Family:
    """One way of naming a ViT's tensors.

    Attributes:
        name: as in `--family`.
        marks: (pattern, why it tells): keys that show this family.
        rules: what is taken over.
        drops: what is left out, always.
        norm_eps: the LayerNorm epsilon of the family's own code.
    """

    name: str
    marks: tuple[tuple[str, str], ...]
    rules: tuple[Rule, ...]
    drops: tuple[Drop, ...]
    norm_eps: float


_AFFINE = r"(weight|bias)"
_VIT = (
    Rule("cls_token", "cls_token"),
    Rule("pos_embed", "pos_embed", "positions"),
    Rule(rf"patch_embed\.proj\.{_AFFINE}", "patch_embed.proj.{0}"),
    Rule(rf"blocks\.(\d+)\.(norm1|norm2)\.{_AFFINE}", "blocks.{0}.{1}.{2}"),
    Rule(rf"blocks\.(\d+)\.attn\.(qkv|proj)\.{_AFFINE}", "blocks.{0}.attn.{1}.{2}"),
    Rule(rf"blocks\.(\d+)\.mlp\.(fc1|fc2)\.{_AFFINE}", "blocks.{0}.mlp.{1}.{2}"),
    Rule(rf"(norm|fc_norm|head)\.{_AFFINE}", "{0}.{1}"),
)

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="mae",
            marks=(
                (r"decoder_blocks\..*", "it holds MAE's decoder"),
                (r"fc_norm\..*", "it holds fc_norm, as MAE's fine-tuning writes"),
            ),
            rules=_VIT,
            drops=(
                Drop(r"decoder_.*", "belongs to MAE's decoder, which only pre-training needs"),
                Drop("mask_token", "stands for hidden patches, which only pre-training has"),
            ),
            norm_eps=1e-6,
        ),
        Family(
            name="timm",
            marks=((r"blocks\.\d+\.ls1\.gamma", "its blocks have LayerScale (ls1, ls2)"),),
            rules=(*_VIT, Rule(r"blocks\.(\d+)\.(ls1|ls2)\.gamma", "blocks.{0}.{1}.gamma")),
            drops=(Drop("mask_token", "stands for hidden patches, which only pre-training has"),),
            norm_eps=1e-6,
        ),
    )
}

# Keys of families that are not read, so that the message can say what the file is.
FOREIGN = (
    (r"(vit\.|dinov2\.)?(embeddings|encoder\.layer)\..*", "Hugging Face names"),
    (r"(visual|vision_model)\..*", "a CLIP model"),
    (r"layer1\.0\.conv1\.weight", "a ResNet"),
    (r".*\.relative_position_(bias_table|index)", "relative positions (Swin, BEiT)"),
)


@dataclasses.dataclass(frozen=True)
class Sorted:
    """The keys of a file, sorted by a family's tables.

    Attributes:
        used: target name -> (source key, the rule).
        dropped: source key -> reason.
        unknown: source keys that meet neither.
    """

    used: dict[str, tuple[str, Rule]]
    dropped: dict[str, str]
    unknown: tuple[str, ...]


def sort_keys(family: Family, keys: Iterable[str]) -> Sorted:
    """Sorts a file's keys by a family's tables; a second key for one target is unknown."""
    used: dict[str, tuple[str, Rule]] = {}
    dropped: dict[str, str] = {}
    unknown = []
    for key in keys:
        target = _target(family, key)
        drop = next((d for d in family.drops if re.fullmatch(d.pattern, key)), None)
        if target is not None and target[0] not in used:
            used[target[0]] = (key, target[1])
        elif drop is not None:
            dropped[key] = drop.reason
        else:
            unknown.append(key)
    return Sorted(used, dropped, tuple(unknown))


def _target(family: Family, key: str) -> tuple[str, Rule] | None:
    for rule in family.rules:
        match = re.fullmatch(rule.pattern, key)
        if match:
            return rule.target.format(*match.groups()), rule
    return None


def _mark(family: Family, keys: Iterable[str]) -> str | None:
    for pattern, why in family.marks:
        if any(re.fullmatch(pattern, key) for key in keys):
            return why
    return None


def recognise(keys: Iterable[str]) -> tuple[Family, str]:
    """Tells the family of a file by its keys.

    Args:
        keys: the file's tensor names, prefixes taken off.

    Returns:
        The family and why, for the user to read.

    Raises:
        FerJaxError: no key is of a family that is known.

    Example:
        >>> family, why = recognise(["cls_token", "blocks.0.ls1.gamma"])
        >>> family.name
        'timm'
    """
    keys = list(keys)
    sorted_keys = {name: sort_keys(family, keys) for name, family in FAMILIES.items()}
    # The family that knows most keys; between equals, one whose mark is seen, then the first.
    marks = {name: _mark(family, keys) for name, family in FAMILIES.items()}
    best = min(FAMILIES, key=lambda name: (len(sorted_keys[name].unknown), marks[name] is None))
    for pattern, what in FOREIGN:
        if any(re.fullmatch(pattern, key) for key in sorted_keys[best].unknown):
            raise FerJaxError(f"it looks like {what}; known families: {', '.join(FAMILIES)}")
    if any(target.startswith("blocks.") for target in sorted_keys[best].used):
        return FAMILIES[best], marks[best] or "its keys are the plain ViT names that many share"
    shown = ", ".join(keys[:5])
    raise FerJaxError(f"its keys ({shown}, ...) are of no known family: {', '.join(FAMILIES)}")
