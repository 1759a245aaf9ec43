"""What training carries from step to step, and the model it begins from."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh

from fer_jax.bundle import Bundle, View
from fer_jax.bundle_schema import encoder_bundle
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace
from fer_jax.models import vit
from fer_jax.models.mae import MAEConfig
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.normalize import NORMALIZATIONS
from fer_jax.ops.resize import resize_position_embedding
from fer_jax.train import sharding
from fer_jax.train.config import ModelConfig, TrainConfig
from fer_jax.train.pretrain_config import PretrainConfig

# Parts that belong to a task rather than to the encoder; only these may be fresh or left behind.
_TASK_PARTS = ("norm", "fc_norm", "head")
# Fields of the model that a run chooses, whatever it begins from.
_RUN_FIELDS = (
    "pool",
    "drop_path",
    "head_dropout",
    "head_init",
    "dtype",
    "scan_layers",
    "remat",
    "attention",
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree: of arrays, or of their shapes or shardings.

    Attributes:
        step: number of finished steps, an int32 scalar.
        params: parameters.
        opt_state: the optimiser's state, which mirrors them.
        ema: moving average of the parameters, or None.
    """

    step: Any
    params: Params
    opt_state: Any
    ema: Any = None

    @property
    def averaged(self) -> Params:
        """What is scored and released: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def create_state(
    params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False
) -> TrainState:
    """Puts parameters on the mesh by rule, and beside them what is made of them.

    Args:
        params: the same on every process.
        optimizer: without its learning rate.
        mesh: the devices.
        ema: keep a moving average.
    """
    layout = sharding.parameter_shardings(params, mesh)
    params = jax.tree.map(sharding.spread, params, layout)

    def rest(params: Params) -> tuple[Any, Params | None]:
        return optimizer.init(params), jax.tree.map(jnp.copy, params) if ema else None

    shardings = sharding.parameter_shardings(jax.eval_shape(rest, params), mesh)
    opt_state, average = jax.jit(rest, out_shardings=shardings)(params)
    step = sharding.spread(np.zeros((), np.int32), sharding.replicated(mesh))
    return TrainState(step, params, opt_state, average)


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding of every leaf of a state (or of its shapes)."""
    return sharding.parameter_shardings(state, mesh)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        config: the model that will be trained.
        params: its parameters, numpy or jax arrays.
        view: how faces are prepared for it.
        notes: what was made fresh, left behind or resized, a line each.
    """

    config: ViTConfig | MAEConfig
    params: Params
    view: View
    notes: tuple[str, ...]


def from_scratch(config: TrainConfig, labels: LabelSpace, template: str) -> Start:
    """A fresh model of `config.model`."""
    mean, std = NORMALIZATIONS[config.normalize]
    vit_config = scratch_config(config.model, len(labels))
    params = jax.jit(lambda key: vit.init(vit_config, key))(jax.random.key(config.seed))
    view = view_of(config, vit_config.image_size, template, mean, std)
    return Start(vit_config, params, view, ("training from scratch",))


def scratch_config(model: ModelConfig, num_classes: int) -> ViTConfig:
    """The model that a run trains where it has no backbone."""
    given = ("patch_size", "width", "depth", "num_heads")
    overrides = {name: getattr(model, name) for name in given if getattr(model, name)}
    return vit.vit_config(
        model.size,
        **overrides,
        **_run_fields(model),
        image_size=model.image_size or 224,
        mlp_ratio=model.mlp_ratio,
        layer_scale=model.layer_scale,
        norm_eps=model.norm_eps,
        num_classes=num_classes,
    )


def from_bundle(config: TrainConfig, bundle: Bundle, labels: LabelSpace, template: str) -> Start:
    """The bundle's encoder, an MAE's too, with what this task needs put on or taken off.

    A head is kept only if it was trained for the same label space and pooling. Position embeddings
    are interpolated if the size of the input changes.

    Raises:
        FerJaxError: the bundle holds no encoder, or one that does not fit its own configuration.
    """
    if "main" not in bundle.models:
        raise FerJaxError(f"{config.backbone}: is of the kind {bundle.kind}, which has no encoder")
    old_config, old_params = encoder_bundle(bundle).models["main"]
    old_view = bundle.views["main"]
    vit_config = dataclasses.replace(
        old_config,
        **_run_fields(config.model),
        param_dtype="float32",  # whatever the bundle keeps: small steps are lost in fewer bits
        image_size=config.model.image_size or old_config.image_size,
        num_classes=len(labels),
    )
    old = traverse_util.flatten_dict(old_params, sep="/")
    notes = []
    if bundle.labels != labels or vit_config.pool != old_config.pool:
        old = {path: leaf for path, leaf in old.items() if path.split("/")[0] != "head"}
    if vit_config.grid != old_config.grid:
        old["pos_embed"] = resized_positions(old["pos_embed"], vit_config.grid)
        notes.append(resized_note(old_config.grid, vit_config.grid))
    fresh = traverse_util.flatten_dict(
        jax.jit(lambda key: vit.init(vit_config, key))(jax.random.key(config.seed)), sep="/"
    )
    made = sorted({path.split("/")[0] for path in fresh.keys() - old.keys()})
    left = sorted({path.split("/")[0] for path in old.keys() - fresh.keys()})
    wrong = [name for name in made + left if name not in _TASK_PARTS]
    wrong += [path for path in fresh.keys() & old.keys() if fresh[path].shape != old[path].shape]
    if wrong:
        raise FerJaxError(
            f"{config.backbone}: does not fit its own configuration at {', '.join(wrong)}; "
            "convert the checkpoint again"
        )
    if made:
        notes.append(f"fresh: {', '.join(made)}")
    if left:
        notes.append(f"left behind: {', '.join(left)}")
    params = {
        path: np.asarray(old[path], leaf.dtype) if path in old else leaf
        for path, leaf in fresh.items()
    }
    view = view_of(config, vit_config.image_size, template, old_view.mean, old_view.std)
    return Start(vit_config, traverse_util.unflatten_dict(params, sep="/"), view, tuple(notes))


def resized_positions(positions: Any, grid: int) -> np.ndarray:
    """Position embeddings for another grid, float32."""
    return np.asarray(resize_position_embedding(np.asarray(positions, np.float32), (grid, grid)))


def resized_note(old: int, new: int) -> str:
    """A line on it."""
    return f"position embedding {old}x{old} -> {new}x{new} (bicubic)"


def _run_fields(model: ModelConfig) -> dict[str, object]:
    return {name: getattr(model, name) for name in _RUN_FIELDS}


def view_of(
    config: TrainConfig | PretrainConfig,
    image_size: int,
    template: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> View:
    """How a run's faces are prepared for its model."""
    return View(
        template=template,
        crop_source="data",
        view=config.view,
        image_size=image_size,
        resize=config.resize,
        mean=tuple(mean),
        std=tuple(std),
    )
