"""The naming families of foreign checkpoints, as tables: which key goes where, which is left out.

A rule's pattern is a full-match regular expression on a key of the file; `target` is the name in
`models/torch_layout.py`, with the pattern's groups filled in, and `writes` the key on the way back.
Every key of a file must meet a rule or a drop, and every tensor of the model must be met by as many
keys as it has parts.

Source: `state_dict` of facebookresearch/mae, timm, Hugging Face transformers 4.46 and 5.23 (whose
modules have new names; its files keep the old ones), and of the ABAW6 entry's fusion.
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
        writes: key to write on the way back, with the same groups and `{prefix}`; the target's name
            if left out.
        part: (which, of how many) parts along axis 0, for a tensor that is several in files.
        positions: whether it is interpolated if the image size is changed.
    """

    pattern: str
    target: str
    writes: str = ""
    part: tuple[int, int] = (0, 1)
    positions: bool = False

    def match(self, key: str) -> str | None:
        """The target of a key, if it meets the pattern."""
        found = re.fullmatch(self.pattern, key)
        return found and self.target.format(*found.groups())

    def write(self, target: str, prefix: str) -> str | None:
        """The key of a target, if it is this rule's."""
        escaped = re.escape(self.target).replace(r"\{", "{").replace(r"\}", "}")
        found = re.fullmatch(re.sub(r"\{\d\}", r"([^.]+)", escaped), target)
        if not found:
            return None
        key = (self.writes or self.target).format(*found.groups(), prefix=prefix)
        return key if self.match(key) == target else None  # what is written is read back


@dataclasses.dataclass(frozen=True)
class Drop:
    """A tensor that is left out, and why."""

    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Family:
    """One way of naming a model's tensors; two forms may share a name.

    Attributes:
        name: as in `--family`.
        model: `vit` (with MAE's decoder or without) or `fusion`.
        marks: (pattern, why it tells): keys that show this family.
        rules: what is taken over.
        drops: what is left out, always.
        norm_eps: the LayerNorm epsilon of the family's own code.
        prefix: of the keys that are written, for models with a head or a decoder.
        wrapper: key under which its own code looks for the state dict in a `.pth`.
    """

    name: str
    model: str
    marks: tuple[tuple[str, str], ...]
    rules: tuple[Rule, ...]
    drops: tuple[Drop, ...] = ()
    norm_eps: float = 1e-6
    prefix: str = ""
    wrapper: str | None = None

    def keys(self, target: str, prefix: str) -> list[str]:
        """The keys to write for a target, one for each part; none if the family has no place."""
        found: dict[int, str] = {}
        for rule in self.rules:
            key = rule.write(target, prefix)
            if key and rule.part[0] not in found:
                found[rule.part[0]] = key
        return [found[part] for part in sorted(found)]


_AFFINE = r"(weight|bias)"
_DECODER = "belongs to MAE's decoder, which only pre-training needs"
_MASK = "stands for hidden patches, which only pre-training has"


def _vit(blocks: str) -> tuple[Rule, ...]:
    """Names that facebookresearch/mae and timm share."""
    block = rf"({blocks})\.(\d+)"
    return (
        Rule("cls_token", "cls_token"),
        Rule("pos_embed", "pos_embed", positions=True),
        Rule(rf"patch_embed\.proj\.{_AFFINE}", "patch_embed.proj.{0}"),
        Rule(rf"{block}\.(norm1|norm2)\.{_AFFINE}", "{0}.{1}.{2}.{3}"),
        Rule(rf"{block}\.attn\.(qkv|proj)\.{_AFFINE}", "{0}.{1}.attn.{2}.{3}"),
        Rule(rf"{block}\.mlp\.(fc1|fc2)\.{_AFFINE}", "{0}.{1}.mlp.{2}.{3}"),
        Rule(rf"(norm|fc_norm|head)\.{_AFFINE}", "{0}.{1}"),
    )


def _hf(block: str, paths: tuple[str, ...], names: dict[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """Rules of a Hugging Face block; of several paths or names the first is written."""

    def rule(theirs: tuple[str, ...], ours: str, part: tuple[int, int] = (0, 1)) -> Rule:
        path, name = ("|".join(map(re.escape, options)) for options in (paths, theirs))
        return Rule(
            rf"(?:{_HF_PREFIX})(?:{path})\.(\d+)\.(?:{name})\.{_AFFINE}",
            f"{block}.{{0}}.{ours}.{{1}}",
            f"{'' if block != 'blocks' else '{prefix}'}{paths[0]}.{{0}}.{theirs[0]}.{{1}}",
            part,
        )

    projections = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
    return (
        *(
            rule((f"attention.attention.{old}", f"attention.{new}"), "attn.qkv", (number, 3))
            for number, (old, new) in enumerate(projections)
        ),
        rule(("attention.output.dense", "attention.o_proj"), "attn.proj"),
        *(rule(theirs, ours) for ours, theirs in names.items()),
    )


_HF_PREFIX = r"(?:vit|dinov2)\.|"
_HF_LAYERS = ("encoder.layer", "layers")
# The second is what transformers 5.23 writes: its own renaming meets the decoder by accident.
_HF_DECODER_LAYERS = ("decoder.decoder_layers", "decoder.decoder_encoder.layer")
_HF_VIT_NAMES = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense", "mlp.fc1"),
    "mlp.fc2": ("output.dense", "mlp.fc2"),
}
_HF_DINOV2_NAMES = {name: (name,) for name in _HF_VIT_NAMES}
_HF_EMBEDDINGS = rf"(?:{_HF_PREFIX})embeddings"
_HF_TRUNK = (
    Rule(rf"{_HF_EMBEDDINGS}\.cls_token", "cls_token", "{prefix}embeddings.cls_token"),
    Rule(
        rf"{_HF_EMBEDDINGS}\.position_embeddings",
        "pos_embed",
        "{prefix}embeddings.position_embeddings",
        positions=True,
    ),
    Rule(
        rf"{_HF_EMBEDDINGS}\.patch_embeddings\.projection\.{_AFFINE}",
        "patch_embed.proj.{0}",
        "{prefix}embeddings.patch_embeddings.projection.{0}",
    ),
    Rule(rf"(?:{_HF_PREFIX})layernorm\.{_AFFINE}", "norm.{0}", "{prefix}layernorm.{0}"),
)
_HF_DROPS = (
    Drop(rf"{_HF_EMBEDDINGS}\.mask_token", _MASK),
    Drop(rf"(?:{_HF_PREFIX})pooler\..*", "is a layer for pre-training on top of CLS"),
)

FAMILIES = (
    Family(
        name="mae",
        model="vit",
        marks=(
            (r"decoder_blocks\..*", "it holds MAE's decoder"),
            (r"fc_norm\..*", "it holds fc_norm, as MAE's fine-tuning writes"),
        ),
        rules=(
            *_vit("blocks|decoder_blocks"),
            Rule("mask_token", "mask_token"),
            Rule("decoder_pos_embed", "decoder_pos_embed", positions=True),
            Rule(rf"decoder_(embed|norm|pred)\.{_AFFINE}", "decoder_{0}.{1}"),
        ),
        wrapper="model",
    ),
    Family(
        name="timm",
        model="vit",
        marks=((r"blocks\.\d+\.ls1\.gamma", "its blocks have LayerScale (ls1, ls2)"),),
        rules=(*_vit("blocks"), Rule(r"blocks\.(\d+)\.(ls1|ls2)\.gamma", "blocks.{0}.{1}.gamma")),
        drops=(Drop("mask_token", _MASK),),
    ),
    Family(
        name="hf",
        model="vit",
        marks=(
            (r".*layernorm_before\..*", "it has Hugging Face's names of ViT"),
            (r"decoder\.decoder_layers\..*", "it has Hugging Face's names of ViTMAE"),
        ),
        rules=(
            *_HF_TRUNK,
            *_hf("blocks", _HF_LAYERS, _HF_VIT_NAMES),
            *_hf("decoder_blocks", _HF_DECODER_LAYERS, _HF_VIT_NAMES),
            Rule(rf"classifier\.{_AFFINE}", "head.{0}", "classifier.{0}"),
            Rule(r"decoder\.mask_token", "mask_token", "decoder.mask_token"),
            Rule(
                r"decoder\.decoder_pos_embed",
                "decoder_pos_embed",
                "decoder.decoder_pos_embed",
                positions=True,
            ),
            Rule(
                rf"decoder\.decoder_(embed|norm|pred)\.{_AFFINE}",
                "decoder_{0}.{1}",
                "decoder.decoder_{0}.{1}",
            ),
        ),
        drops=_HF_DROPS,
        norm_eps=1e-12,
        prefix="vit.",
    ),
    Family(
        name="hf",
        model="vit",
        marks=((r".*layer_scale1\.lambda1", "it has Hugging Face's names of DINOv2"),),
        rules=(
            *_HF_TRUNK,
            *_hf("blocks", _HF_LAYERS, _HF_DINOV2_NAMES),
            Rule(
                rf"(?:{_HF_PREFIX})(?:encoder\.layer|layers)\.(\d+)\.layer_scale(1|2)\.lambda1",
                "blocks.{0}.ls{1}.gamma",
                "{prefix}encoder.layer.{0}.layer_scale{1}.lambda1",
            ),
        ),
        drops=(
            *_HF_DROPS,
            Drop(
                r"classifier\..*",
                "is a head on CLS and the mean of the patches together, which no ViT here has",
            ),
        ),
        prefix="dinov2.",
    ),
    Family(
        name="fusion_entry",
        model="fusion",
        marks=((r"mha\..*", "it holds the entry's attention (mha) and its linear layers"),),
        rules=(
            Rule(r"mha\.in_proj_(weight|bias)", "mha.in_proj_{0}"),
            Rule(rf"mha\.out_proj\.{_AFFINE}", "mha.out_proj.{0}"),
            Rule(rf"(linear1|linear2|linear_key)\.{_AFFINE}", "{0}.{1}"),
            Rule(rf"mlp\.(0|1)\.{_AFFINE}", "mlp.{0}.{1}"),
        ),
    ),
)
FAMILY_NAMES = tuple(dict.fromkeys(family.name for family in FAMILIES))

# What of a model belongs to MAE's decoder: how the target begins -> why it is left out.
DECODER_REASONS = (("mask_token", _MASK), ("decoder_", _DECODER))

# Keys of families that are not read, so that the message can say what the file is.
FOREIGN = (
    (r"(visual|vision_model)\..*", "a CLIP model"),
    (r"(bert\.)?embeddings\.word_embeddings\..*", "a language model"),
    (r"layer1\.0\.conv1\.weight", "a ResNet"),
    (r".*\.relative_position_(bias_table|index)", "relative positions (Swin, BEiT)"),
)


@dataclasses.dataclass(frozen=True)
class Sorted:
    """The keys of a file, sorted by a family's tables.

    Attributes:
        used: target name -> {part: source key}.
        parts: target name -> how many parts it has.
        positions: targets that are position embeddings.
        dropped: source key -> reason.
        unknown: source keys that meet neither.
    """

    used: dict[str, dict[int, str]]
    parts: dict[str, int]
    positions: frozenset[str]
    dropped: dict[str, str]
    unknown: tuple[str, ...]


def sort_keys(family: Family, keys: Iterable[str]) -> Sorted:
    """Sorts a file's keys by a family's tables; a second key for one part is unknown."""
    used: dict[str, dict[int, str]] = {}
    parts: dict[str, int] = {}
    positions = set()
    dropped: dict[str, str] = {}
    unknown = []
    for key in keys:
        rule, target = next(
            ((rule, target) for rule in family.rules if (target := rule.match(key))), (None, None)
        )
        if rule is not None and rule.part[0] not in used.get(target, {}):
            used.setdefault(target, {})[rule.part[0]] = key
            parts[target] = rule.part[1]
            if rule.positions:
                positions.add(target)
        elif drop := next((d for d in family.drops if re.fullmatch(d.pattern, key)), None):
            dropped[key] = drop.reason
        else:
            unknown.append(key)
    return Sorted(used, parts, frozenset(positions), dropped, tuple(unknown))


def _mark(family: Family, keys: Iterable[str]) -> str | None:
    for pattern, why in family.marks:
        if any(re.fullmatch(pattern, key) for key in keys):
            return why
    return None


def recognise(keys: Iterable[str], name: str | None = None) -> tuple[Family, str]:
    """Tells the family of a file by its keys.

    Args:
        keys: the file's tensor names, prefixes taken off.
        name: look only among the forms of this family.

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
    forms = [family for family in FAMILIES if name in (None, family.name)]
    found = [(sort_keys(family, keys), _mark(family, keys), family) for family in forms]
    # The family that knows most keys; between equals, one whose mark is seen, then the first.
    sorted_keys, mark, best = min(found, key=lambda one: (len(one[0].unknown), one[1] is None))
    if name is not None:
        return best, "it was asked for"
    for pattern, what in FOREIGN:
        if any(re.fullmatch(pattern, key) for key in sorted_keys.unknown):
            raise FerJaxError(f"it looks like {what}; known families: {', '.join(FAMILY_NAMES)}")
    if any(target.startswith(("blocks.", "mha.")) for target in sorted_keys.used):
        return best, mark or "its keys are the plain ViT names that many share"
    raise FerJaxError(_of_no_family(keys))


def _of_no_family(keys: list[str]) -> str:
    """Why keys are of no family: all that do not fit, the parts of a larger model told apart."""
    found = (re.match(r"((?:.*\.)?)blocks\.\d+\.", key) for key in keys)
    prefixes = dict.fromkeys(match.group(1) for match in found if match) or {"": None}
    prefix, lines = min(
        ((prefix, _strangers(keys, prefix)) for prefix in prefixes), key=lambda one: len(one[1])
    )
    what = f"a larger model, with names of a ViT below {prefix}" if prefix else "of no known family"
    return f"it is {what}; known: {', '.join(FAMILY_NAMES)}; {len(lines)} faults:\n" + "\n".join(
        f"  {line}" for line in lines
    )


def _strangers(keys: list[str], prefix: str) -> list[str]:
    """What keeps the keys below a prefix from being a model of a family, and those beside it."""
    inner = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    unknown = min((sort_keys(family, inner).unknown for family in FAMILIES), key=len)
    core = "patch_embed.proj.weight"
    missing = [] if core in inner else [f"missing: {prefix}{core}"]
    return [
        *(missing if prefix else []),
        *(f"{prefix}{key}: not known to any family" for key in unknown),
        *(f"{key}: is not below {prefix}" for key in keys if not key.startswith(prefix)),
    ]
