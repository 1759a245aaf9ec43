"""AdamW with layer-wise decay (MAE's recipe), Adam with steps (the entry's), and their schedules.

Layer-wise decay, with depth L and decay d: the rate of a tensor is that of the head times
d^(L + 1 - id), where id is 0 for cls_token, pos_embed and patch_embed, i + 1 for block i, and L + 1
for the rest. The decoupled weight decay is scaled by the same rate, as torch's AdamW does.
Source: facebookresearch/mae `util/lr_decay.py`, `util/lr_sched.py`.
"""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import traverse_util

from fer_jax.models.vit import Params
from fer_jax.train.config import OptimizerConfig

_EMBEDDING = ("cls_token", "pos_embed", "patch_embed")
UNDECAYED = ("bias", "scale", "gamma", "cls_token", "pos_embed")
# In MAE's pre-training both tokens decay; positions are fixed.
UNDECAYED_IN_PRETRAINING = ("bias", "scale", "gamma", "pos_embed")


def decays(params: Params, undecayed: Collection[str] = UNDECAYED) -> Params:
    """True at every leaf that weight decay acts on: by name, since stacked biases have rank 2."""
    return traverse_util.path_aware_map(lambda path, _: path[-1] not in undecayed, params)


def layer_scales(params: Params, layer_decay: float, depth: int | Mapping[str, int]) -> Params:
    """The factor on the learning rate for every leaf.

    Args:
        params: of a ViT, or of several models by name; or their shapes.
        layer_decay: d in (0, 1].
        depth: number of blocks L; of each model by name, where one that is not named has none.

    Returns:
        A tree like `params` of float32 arrays: (depth, 1, ...) for stacked leaves, else a scalar
        with the leaf's rank in ones.
    """
    if isinstance(depth, Mapping):
        return {
            name: layer_scales(own, layer_decay, depth.get(name, 0)) for name, own in params.items()
        }

    def scale(path: tuple[str, ...], leaf: Any) -> np.ndarray:
        ones = (1,) * (len(leaf.shape) - 1)
        if path[0] == "blocks":
            ids = np.arange(depth) + 1
            return (layer_decay ** (depth + 1.0 - ids)).astype(np.float32).reshape(depth, *ones)
        layer = 0 if path[0] in _EMBEDDING else depth + 1
        return np.full((1, *ones), layer_decay ** (depth + 1.0 - layer), np.float32)

    return traverse_util.path_aware_map(scale, params)


class Schedule(NamedTuple):
    """The learning rate at a step; evaluated on the host, handed to the step as a number."""

    config: OptimizerConfig
    peak: float
    steps_per_epoch: int
    epochs: int

    def __call__(self, step: int) -> float:
        """The rate for the update after `step` finished ones."""
        config, epoch = self.config, step / self.steps_per_epoch
        if epoch < config.warmup_epochs:
            return self.peak * epoch / config.warmup_epochs
        if config.schedule == "step":
            return self.peak * config.step_gamma ** (int(epoch) // config.step_epochs)
        if config.schedule == "cosine":
            length = max(self.epochs - config.warmup_epochs, 1e-9)
            cosine = 0.5 * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / length))
            floor = min(config.min_learning_rate, self.peak)
            return floor + (self.peak - floor) * cosine
        return self.peak


def make_schedule(
    config: OptimizerConfig, *, batch_size: int, steps_per_epoch: int, epochs: int
) -> Schedule:
    """The schedule of a run; `learning_rate` counts for 256 samples where `scale_by_batch`."""
    scale = batch_size / 256 if config.scale_by_batch else 1.0
    return Schedule(config, config.learning_rate * scale, steps_per_epoch, epochs)


def make_optimizer(
    config: OptimizerConfig,
    params: Params,
    depth: int | Mapping[str, int],
    undecayed: Collection[str] = UNDECAYED,
) -> optax.GradientTransformation:
    """The optimiser without its learning rate: the training step multiplies by that.

    Args:
        config: the recipe.
        params: the tree that is trained, or its shapes.
        depth: number of blocks, for layer-wise decay; of several models by name.
        undecayed: names of leaves that weight decay leaves alone.

    Returns:
        A transformation from gradients to the step direction, at rate 1, already negative.
    """
    steps = []
    if config.clip_norm > 0:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    steps.append(optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=1e-8))
    if config.name == "adamw":
        if config.weight_decay > 0:
            decayed = functools.partial(decays, undecayed=undecayed)
            steps.append(optax.add_decayed_weights(config.weight_decay, mask=decayed))
        if config.layer_decay < 1:
            scales = layer_scales(params, config.layer_decay, depth)
            steps.append(
                optax.stateless(
                    lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scales)
                )
            )
    steps.append(optax.scale(-1.0))
    return optax.chain(*steps)
