"""Params <-> one tensor a block, in the names and layouts of MAE, timm and the fusions.

In memory the blocks are stacked and kernels are (in, out); in files every tensor stands alone under
its PyTorch name, kernels (out, in) and convolutions OIHW. This table is the only place that knows
both; converters and bundles go through it.

Source: `state_dict` of facebookresearch/mae `models_vit.py` and `models_mae.py`, timm
`vision_transformer.py`, and the ABAW6 entry's fusion (arXiv 2403.13039).
"""

import dataclasses
import functools
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fer_jax.host_arrays import aligned_array
from fer_jax.models import fusion, mae, vit
from fer_jax.models.fusion import (
    EntryFusionConfig,
    FusionConfig,
    HeadFusionConfig,
    TokenFusionConfig,
)
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import Params, ViTConfig

ModelConfig = ViTConfig | MAEConfig | FusionConfig


@dataclasses.dataclass(frozen=True)
class Rule:
    """One kind of tensor.

    Attributes:
        name: the PyTorch name; `{i}` stands for the block's number.
        path: the leaf in params, parts joined by `/`; stacked over blocks if the name has `{i}`.
        transform: `copy` | `linear` ((out, in) <-> (in, out)) | `conv` (OIHW <-> HWIO).
    """

    name: str
    path: str
    transform: str = "copy"

    @property
    def stacked(self) -> bool:
        """Whether the leaf holds this tensor for all blocks."""
        return "{i}" in self.name


def _affine(name: str, path: str, transform: str, weight: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{name}.weight", f"{path}/{weight}", transform),
        Rule(f"{name}.bias", f"{path}/bias"),
    )


def _norm(name: str, path: str) -> tuple[Rule, Rule]:
    return _affine(name, path, "copy", "scale")


def _linear(name: str, path: str) -> tuple[Rule, Rule]:
    return _affine(name, path, "linear", "kernel")


def _blocks(name: str, path: str) -> tuple[Rule, ...]:
    return (
        *_norm(f"{name}.{{i}}.norm1", f"{path}/norm1"),
        *_linear(f"{name}.{{i}}.attn.qkv", f"{path}/attn/qkv"),
        *_linear(f"{name}.{{i}}.attn.proj", f"{path}/attn/proj"),
        Rule(f"{name}.{{i}}.ls1.gamma", f"{path}/ls1/gamma"),
        *_norm(f"{name}.{{i}}.norm2", f"{path}/norm2"),
        *_linear(f"{name}.{{i}}.mlp.fc1", f"{path}/mlp/fc1"),
        *_linear(f"{name}.{{i}}.mlp.fc2", f"{path}/mlp/fc2"),
        Rule(f"{name}.{{i}}.ls2.gamma", f"{path}/ls2/gamma"),
    )


_VIT_RULES = (
    Rule("cls_token", "cls_token"),
    Rule("pos_embed", "pos_embed"),
    *_affine("patch_embed.proj", "patch_embed", "conv", "kernel"),
    *_blocks("blocks", "blocks"),
    *_norm("norm", "norm"),
    *_norm("fc_norm", "fc_norm"),
    *_linear("head", "head"),
)
_MAE_RULES = (
    *(dataclasses.replace(rule, path=f"encoder/{rule.path}") for rule in _VIT_RULES),
    Rule("mask_token", "decoder/mask_token"),
    Rule("decoder_pos_embed", "decoder/pos_embed"),
    *_linear("decoder_embed", "decoder/embed"),
    *_blocks("decoder_blocks", "decoder/blocks"),
    *_norm("decoder_norm", "decoder/norm"),
    *_linear("decoder_pred", "decoder/pred"),
)


def _entry_rules(config: EntryFusionConfig) -> tuple[Rule, ...]:
    """The entry's names; a third source's layer is `linear3`."""
    layers = (_linear(f"linear{i}", name) for i, name in enumerate(config.sources, start=1))
    return (
        Rule("mha.in_proj_weight", "attention/in_proj/kernel", "linear"),
        Rule("mha.in_proj_bias", "attention/in_proj/bias"),
        *_linear("mha.out_proj", "attention/out_proj"),
        *(rule for layer in layers for rule in layer),
        *_linear("linear_key", "key"),
        *_linear("mlp.0", "mlp/fc1"),
        *_linear("mlp.1", "mlp/fc2"),
    )


def _token_rules(config: TokenFusionConfig) -> tuple[Rule, ...]:
    projections = (_linear(f"project.{name}", f"project/{name}") for name in config.projected)
    return (
        Rule("source_embed", "source_embed"),
        *(rule for projection in projections for rule in projection),
        *_norm("norm1", "norm1"),
        *_linear("attn.qkv", "attn/qkv"),
        *_linear("attn.proj", "attn/proj"),
        *_norm("norm2", "norm2"),
        *_affine("local.depthwise", "local/depthwise", "conv", "kernel"),
        *_linear("local.pointwise", "local/pointwise"),
        *_norm("norm", "norm"),
        *_linear("head", "head"),
    )


def _head_rules(config: HeadFusionConfig) -> tuple[Rule, ...]:
    heads = (_linear(f"heads.{name}", f"heads/{name}") for name in config.used)
    return (*_linear("head", "head"), *(rule for head in heads for rule in head))


# Of each configuration: what makes its params, and the rules; those without a leaf are passed over.
_MODELS: dict[type, tuple[Callable, Callable[[Any], tuple[Rule, ...]]]] = {
    ViTConfig: (vit.init, lambda _: _VIT_RULES),
    MAEConfig: (mae.init, lambda _: _MAE_RULES),
    EntryFusionConfig: (fusion.init, _entry_rules),
    TokenFusionConfig: (fusion.init, _token_rules),
    HeadFusionConfig: (fusion.init, _head_rules),
}

_TO_TORCH = {"copy": None, "linear": (1, 0), "conv": (3, 2, 0, 1)}
_FROM_TORCH = {"copy": None, "linear": (1, 0), "conv": (2, 3, 1, 0)}


_ROWS = 64  # turned at a time: numpy alone takes four times as long, missing the cache

Empty = Callable[[tuple[int, ...], np.dtype], np.ndarray]


def _transposed(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    return array if axes is None else array.transpose(axes)


def _write(to: np.ndarray, array: np.ndarray, transform: str, axes: tuple[int, ...] | None) -> None:
    """Fills `to` with the array in the other layout."""
    if transform != "linear":
        to[...] = _transposed(array, axes)
        return
    for begin in range(0, len(array), _ROWS):
        to[:, begin : begin + _ROWS] = array[begin : begin + _ROWS].T


@dataclasses.dataclass(frozen=True)
class Target:
    """One tensor that a model's file holds: its PyTorch name and shape, and where it goes."""

    name: str
    path: str
    transform: str
    block: int | None
    torch_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """In memory, of one block where they are stacked."""
        axes = _FROM_TORCH[self.transform]
        return self.torch_shape if axes is None else tuple(self.torch_shape[i] for i in axes)


@functools.lru_cache(maxsize=64)
def targets(config: ModelConfig) -> Mapping[str, Target]:
    """Every tensor of a model, by its PyTorch name, in the order of the table."""
    init, rules = _MODELS[type(config)]
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    leaves = traverse_util.flatten_dict(shapes, sep="/")
    found = {}
    for rule in rules(config):
        if rule.path not in leaves:
            continue
        shape = leaves[rule.path].shape
        for block in range(shape[0]) if rule.stacked else (None,):
            own = shape if block is None else shape[1:]
            axes = _TO_TORCH[rule.transform]
            torch_shape = own if axes is None else tuple(own[axis] for axis in axes)
            name = rule.name.format(i=block)
            found[name] = Target(name, rule.path, rule.transform, block, torch_shape)
    missing = leaves.keys() - {target.path for target in found.values()}
    assert not missing, f"no rule for {sorted(missing)}"
    return types.MappingProxyType(found)


def layout(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape in PyTorch's layout and dtype of every tensor of a model, by its PyTorch name."""
    dtype = jnp.dtype(config.param_dtype)
    return {name: (target.torch_shape, dtype) for name, target in targets(config).items()}


def _leaf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf of the params, by its path."""
    wanted = targets(config).values()
    depths = Counter(target.path for target in wanted if target.block is not None)
    depth = {path: (number,) for path, number in depths.items()}
    return {target.path: (*depth.get(target.path, ()), *target.shape) for target in wanted}


def param_shapes(config: ModelConfig) -> Params:
    """The params of a model as `jax.ShapeDtypeStruct`s."""
    dtype = jnp.dtype(config.param_dtype)
    leaves = {path: jax.ShapeDtypeStruct(s, dtype) for path, s in _leaf_shapes(config).items()}
    return traverse_util.unflatten_dict(leaves, sep="/")


def from_torch_layout(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> Params:
    """Builds params from tensors in PyTorch's names and layouts.

    Args:
        tensors: exactly the tensors of `targets(config)`.
        config: the model.

    Returns:
        Params as numpy arrays in the dtype of the tensors, blocks stacked.

    Raises:
        ValueError: a tensor is missing, one is left over, or a shape differs; all are named.
    """
    wanted = targets(config)
    faults = [f"missing: {name}" for name in wanted if name not in tensors]
    faults += [f"not part of the model: {name}" for name in tensors if name not in wanted]
    faults += [
        f"{name}: shape {tuple(tensors[name].shape)}, the model has {target.torch_shape}"
        for name, target in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != target.torch_shape
    ]
    if faults:
        raise ValueError("; ".join(faults))
    return stacked(lambda name: np.asarray(tensors[name]), config)


def stacked(
    read: Callable[[str], np.ndarray], config: ModelConfig, empty: Empty = aligned_array
) -> Params:
    """Builds params from tensors in PyTorch's layouts, each read once, in the order of `targets`.

    Args:
        read: a tensor by its PyTorch name, of the shape that `targets(config)` says.
        config: the model.
        empty: makes the arrays of the params, by shape and dtype.

    Returns:
        Params in the dtype of the tensors, blocks stacked. One tensor is held beside them.
    """
    shapes = _leaf_shapes(config)
    leaves: dict[str, np.ndarray] = {}
    for name, target in targets(config).items():
        array = read(name)
        if not target.block:  # the first of its leaf
            leaves[target.path] = empty(shapes[target.path], array.dtype)
        leaf = leaves[target.path]
        own = leaf if target.block is None else leaf[target.block]
        _write(own, array, target.transform, _FROM_TORCH[target.transform])
    return traverse_util.unflatten_dict(leaves, sep="/")


def cut_from_torch_layout(
    tensor: np.ndarray, target: Target, index: tuple[slice, ...]
) -> np.ndarray:
    """The part `index` of a tensor, which is in PyTorch's layout, in the layout of memory.

    Only that part is copied, so that of a mapped file no more is read.
    """
    return np.ascontiguousarray(_transposed(tensor, _FROM_TORCH[target.transform])[index])


def to_torch_layout(params: Params, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (PyTorch name, tensor in PyTorch's layout) for every tensor of the model."""
    leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    for name, target in targets(config).items():
        array = np.asarray(leaves[target.path])
        array = array if target.block is None else array[target.block]
        if target.transform == "copy":
            yield name, np.ascontiguousarray(array)
            continue
        turned = np.empty(target.torch_shape, array.dtype)
        _write(turned, array, target.transform, _TO_TORCH[target.transform])
        yield name, turned
