"""Which view moved each frame: what the choice loses when the fusion does not see a view.

A view is dropped by putting its mean features over the data in the place of a frame's own. Zeros
would not do: features are nowhere near them, a fusion was never trained there, and a linear head
would lose what the view says of every face alike. Against the mean it loses exactly what this face
has of its own, W (f - mean f). It is the choice among single frames that is explained, before any
smoothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int8, Int32

from fer_jax.data.pipeline import FaceData
from fer_jax.errors import UsageError
from fer_jax.evaluate.running import Batch, Prepared, prepared_batches
from fer_jax.forward import two_view_features
from fer_jax.models import fusion
from fer_jax.models.fusion import Features, FusionConfig
from fer_jax.predict.recognizer import Recognizer

REFERENCE_FACES = 2048  # of which the mean is taken: all, or so many evenly through the split


def view_changes(
    config: FusionConfig,
    params: fusion.Params,
    features: Features,
    reference: Mapping[str, Float[Array | np.ndarray, "..."]],
    outputs: Int[Array | np.ndarray, "choices"] | None = None,
) -> tuple[Int32[Array, "b"], dict[str, Float32[Array, "b"]]]:
    r"""The choice, and how much of its probability goes when one source is dropped; pure.

    .. math::
        c = \arg\max_k p_k(f), \qquad \Delta_s = p_c(f) - p_c(f \text{ with } f_s := r_s)

    Args:
        config: the fusion; static under `jax.jit`.
        params: its parameters.
        features: by source, as `models.fusion.apply` takes them.
        reference: what stands for a source that is dropped, of the shape of one face's features.
        outputs: the logits among which is chosen; None for all.

    Returns:
        The place among `outputs` that is chosen with all sources; and for each source the change:
        above 0 where the source spoke for the choice, below where it spoke against it.

    Raises:
        FerJaxError: features that do not fit the params, or each other.

    Example:
        >>> from fer_jax.models.fusion import fusion_config, init
        >>> config = fusion_config("main_only", {"main": 3, "aux": 2}, 4)
        >>> params = init(config, jax.random.key(0))
        >>> features = {"main": jnp.ones((2, 3)), "aux": jnp.ones((2, 2))}
        >>> means = {"main": jnp.zeros(3), "aux": jnp.zeros(2)}
        >>> view_changes(config, params, features, means)[1]["aux"].tolist()
        [0.0, 0.0]
    """

    def probabilities(given: Features) -> Float32[Array, "b class"]:
        logits = fusion.apply(config, params, given)[0]
        return jax.nn.softmax(logits if outputs is None else logits[:, outputs])

    everything = probabilities(features)
    choice = everything.argmax(axis=-1).astype(jnp.int32)

    def of_choice(rows: Float32[Array, "b class"]) -> Float32[Array, "b"]:
        return jnp.take_along_axis(rows, choice[:, None], axis=-1)[:, 0]

    changes = {}
    for name in config.sources:
        absent = jnp.broadcast_to(jnp.asarray(reference[name]), features[name].shape)
        without = probabilities({**features, name: absent})
        changes[name] = of_choice(everything) - of_choice(without)
    return choice, changes


def carriers(changes: Mapping[str, Float32[np.ndarray, "rows"]]) -> Int8[np.ndarray, "rows"]:
    """Which source carried each choice: the one whose absence costs it most.

    Args:
        changes: of `view_changes`, by source.

    Returns:
        The place of the source in `changes`; -1 where none spoke for the choice.

    Example:
        >>> rows = {"main": np.float32([0.3, 0.1, -0.1]), "aux": np.float32([0.2, 0.4, 0.0])}
        >>> carriers(rows).tolist()
        [0, 1, -1]
    """
    stacked = np.stack([*changes.values()])
    return np.where(stacked.max(axis=0) > 0, stacked.argmax(axis=0), -1).astype(np.int8)


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """What the views did to the choice of some faces.

    Attributes:
        classes: among which was chosen.
        choice: of single faces, index into `classes`.
        changes: by view, for each face.
        reference_faces: how many the mean features are of.
    """

    classes: tuple[str, ...]
    choice: Int32[np.ndarray, "rows"]
    changes: dict[str, Float32[np.ndarray, "rows"]]
    reference_faces: int

    def summary(self) -> dict[str, Any]:
        """The field `attribution` of metrics.json: over all faces, and over those of each choice.

        Of each: `frames`, the share that each view `carried` (and `none` did), and the mean
        `change` by view; None where there is no frame.
        """
        carrier = carriers(self.changes)

        def part(mask: np.ndarray) -> dict[str, Any]:
            frames = int(mask.sum())
            names = [*self.changes, "none"]
            counts = np.bincount(carrier[mask] % len(names), minlength=len(names)).tolist()
            shares = {n: c / frames if frames else None for n, c in zip(names, counts, strict=True)}
            means = {
                name: float(values[mask].mean()) if frames else None
                for name, values in self.changes.items()
            }
            return {"frames": frames, "carried": shares, "change": means}

        return {
            "of": "the choice of single frames",
            "reference": f"mean features of {self.reference_faces:,} frames",
            **part(np.ones(len(self.choice), bool)),
            "classes": [
                {"name": name, **part(self.choice == i)} for i, name in enumerate(self.classes)
            ],
        }


def check_two_views(recognizer: Recognizer) -> None:
    """Refuses a bundle that has one view.

    Raises:
        UsageError: says what it is instead.
    """
    if recognizer.bundle.kind != "two_view":
        raise UsageError(
            f"{recognizer.path or 'this bundle'}: is of the kind {recognizer.bundle.kind}, which "
            "has no two views to tell apart; leave out --attribution"
        )


def attribute(
    recognizer: Recognizer,
    data: FaceData,
    rows: Int[np.ndarray, "rows"],
    outputs: Mapping[str, int],
    progress: bool = False,
) -> Attribution:
    """Runs a bundle of two views over faces, with both and with each one dropped.

    Args:
        recognizer: of the bundle.
        data: the data set.
        rows: which of its faces.
        outputs: the classes among which is chosen, and the place of each among the logits.
        progress: show a bar if there is a terminal.

    Returns:
        The attribution of each row.

    Raises:
        UsageError: the bundle has one view.
    """
    steps = min(len(rows), REFERENCE_FACES)
    chosen = rows[np.arange(steps) * len(rows) // steps]
    return attribute_batches(
        recognizer,
        prepared_batches(recognizer, data, chosen),
        prepared_batches(recognizer, data, rows, progress),
        outputs,
    )


def attribute_batches(
    recognizer: Recognizer,
    reference: Iterable[Batch],
    batches: Iterable[Batch],
    outputs: Mapping[str, int],
) -> Attribution:
    """The same of faces that come in batches.

    Args:
        recognizer: of a bundle of two views.
        reference: the faces whose mean features stand for a view that is dropped: images as the
            bundle's views take them, and which of them are faces.
        batches: the faces to explain, likewise.
        outputs: as for `attribute`.

    Returns:
        The attribution of each face.

    Raises:
        UsageError: the bundle has one view.
    """
    check_two_views(recognizer)
    bundle = recognizer.bundle
    configs = {name: config for name, (config, _) in bundle.models.items()}
    encode = jax.jit(functools.partial(two_view_features, configs))
    features = _highest(lambda params, images: encode(params, images)[1])
    explain = _highest(jax.jit(view_changes, static_argnums=0))
    params = jax.tree.map(jnp.asarray, bundle.params)
    columns = np.asarray([*outputs.values()])

    means, count = _mean_features(reference, lambda images: features(params, images))
    choices, parts = [], []
    for images, mask in batches:
        given = features(params, images)
        choice, changes = explain(configs["fusion"], params["fusion"], given, means, columns)
        choices.append(np.asarray(choice)[mask])
        parts.append({name: np.asarray(values)[mask] for name, values in changes.items()})
    # jax sorts the keys of dicts.
    sources = configs["fusion"].sources
    changes = {name: np.concatenate([part[name] for part in parts]) for name in sources}
    return Attribution(tuple(outputs), np.concatenate(choices), changes, count)


def _mean_features(
    batches: Iterable[Batch], features: Callable[[Prepared], Features]
) -> tuple[dict[str, np.ndarray], int]:
    """The mean over all faces, and how many there are."""
    sums: dict[str, np.ndarray] = {}
    count = 0
    for images, mask in batches:
        count += int(mask.sum())
        for name, values in features(images).items():
            total = np.asarray(values)[mask].sum(axis=0, dtype=np.float64)
            sums[name] = sums.get(name, 0.0) + total
    return {name: (total / count).astype(np.float32) for name, total in sums.items()}, count


def _highest(function: Callable) -> Callable:
    """Computes in float32 at full precision on any device, as the recognizer does."""

    def run(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments)

    return run
