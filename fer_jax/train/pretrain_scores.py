"""What a pre-training run is judged by: hidden patches of held-out faces, probes, a picture."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fer_jax.data import pipeline
from fer_jax.models.vit import Params
from fer_jax.ops import metrics
from fer_jax.train import processes, sharding
from fer_jax.train.loop import Batch
from fer_jax.train.masked_steps import (
    MaskedModel,
    MaskedRecipe,
    evaluate_step,
    features,
    fixed_noise,
)
from fer_jax.train.pretrain_config import PretrainConfig
from fer_jax.train.pretrain_rows import Probe, labels_of, sample
from fer_jax.train.probes import linear_probe, nearest_neighbours
from fer_jax.train.reconstruction import draw_reconstructions, in_colour, paint
from fer_jax.train.rows import Part, Rows
from fer_jax.train.state import TrainState, state_shardings

LOSS = "masked_loss"
PICTURE = "reconstruction.png"
_SHOWN = 8  # faces of the picture


class Judge:
    """Evaluates parameters, with programs that are compiled once."""

    def __init__(
        self,
        config: PretrainConfig,
        rows: Rows,
        probe: Probe | None,
        model: MaskedModel,
        state: TrainState,
        mesh: Mesh,
        workdir: Path,
    ):
        """Jits the programs.

        Args:
            config: the run.
            rows: whose `selection` is judged on.
            probe: labelled faces, or None.
            model: what is trained.
            state: its shapes decide where parameters lie.
            mesh: the devices.
            workdir: gets the picture.
        """
        self._config, self._rows, self._probe = config, rows, probe
        self._model, self._mesh, self._workdir = model, mesh, workdir
        self._recipe = MaskedRecipe(seed=config.seed)
        own = state_shardings(state, mesh).params
        split, copied = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        jit = functools.partial(jax.jit, out_shardings=copied)
        self._errors = jit_evaluate_step(model, self._recipe, state, mesh)
        self._features = jit(functools.partial(features, model=model), in_shardings=(own, split))
        self._reconstruct = jit(self._painted, in_shardings=(own, copied, copied))
        self._pictured: Batch | None = None

    def __call__(self, params: Params, look_up: Callable[[], None]) -> dict[str, Any]:
        """The numbers of `Task.evaluate`; writes the picture, too."""
        if not self._rows.selection:
            return {}
        sums = []
        for batch in self._batches(self._rows.selection):
            look_up()
            wanted = {name: batch[name] for name in ("image", "mask", "row")}
            sums.append(self._errors(params, sharding.to_global(wanted, self._mesh)))
        total = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *jax.device_get(sums))
        found = {LOSS: float(total["error_sum"] / total["count"])}
        if self._probe is not None:
            found |= self._probes(self._probe, params, look_up)
        self._draw(params)
        return found

    def _probes(
        self, probe: Probe, params: Params, look_up: Callable[[], None]
    ) -> dict[str, float]:
        known, asked = (
            self._all_features(part, params, look_up) for part in (probe.bank, probe.queries)
        )
        labels, truth = labels_of(probe.bank), labels_of(probe.queries)
        found = {}
        for name, classify in (("knn", nearest_neighbours), ("probe", linear_probe)):
            named = classify(known, labels, asked)
            confusion = metrics.confusion_matrix(
                truth, named.astype(np.int32), len(self._rows.labels)
            )
            scored = metrics.scores(np.asarray(confusion))
            found |= {f"{name}_accuracy": scored.accuracy, f"{name}_macro_f1": scored.macro_f1}
        return found

    def _all_features(self, part: Part, params: Params, look_up: Callable[[], None]) -> np.ndarray:
        found = []
        for batch in self._batches(part):
            look_up()
            images = sharding.to_global({"image": batch["image"]}, self._mesh)["image"]
            found.append(np.asarray(self._features(params, images)))
        return np.concatenate(found)[: sum(len(rows) for _, rows in part)]

    def _painted(self, params: Params, faces: jax.Array, rows: jax.Array) -> tuple[jax.Array, ...]:
        noise = fixed_noise(self._recipe.seed, rows, self._model.patches)
        images, out = self._model.run(params, {"image": faces}, noise)
        return images, out.prediction, out.mask

    def _draw(self, params: Params) -> None:
        """The same few faces each time, with the masks that they are judged with."""
        if self._pictured is None:
            part = sample(self._rows.selection, _SHOWN, self._config.seed)
            number = sum(len(rows) for _, rows in part)
            self._pictured = next(iter(self._evaluation(part, number)))
        copied = sharding.replicated(self._mesh)
        given = [sharding.spread(self._pictured[name], copied) for name in ("image", "row")]
        images, prediction, mask = map(np.asarray, self._reconstruct(params, *given))
        if not processes.is_first():
            return
        model = self._model
        seen, painted = paint(
            images,
            prediction,
            mask,
            patch_size=model.config.encoder.patch_size,
            norm_pix=model.config.norm_pix,
            mean=model.mean,
            std=model.std,
        )
        original = in_colour(images, model.mean, model.std)
        draw_reconstructions(self._workdir / PICTURE, original, seen, painted)

    def _batches(self, part: Part) -> Iterator[Batch]:
        size = self._config.evaluate_batch_size or self._config.batch_size
        return self._evaluation(part, size, sharding.local_places(self._mesh, size))

    def _evaluation(
        self, part: Part, size: int, places: np.ndarray | None = None
    ) -> Iterator[Batch]:
        return pipeline.evaluation_batches(
            part,
            views={"image": self._config.view},
            image_size=self._model.config.image_size,
            resize=self._config.resize,
            batch_size=size,
            places=places,
        )


def jit_evaluate_step(
    model: MaskedModel, recipe: MaskedRecipe, state: TrainState, mesh: Mesh
) -> jax.stages.Wrapped:
    """`evaluate_step` of (params, padded batch) for the mesh, its sums on every device."""
    return jax.jit(
        functools.partial(evaluate_step, model=model, recipe=recipe),
        in_shardings=(state_shardings(state, mesh).params, sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )
