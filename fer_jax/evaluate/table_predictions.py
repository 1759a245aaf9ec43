"""Predictions of a bundle from features that are extracted already: no encoder runs."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from fer_jax.bundle import load_bundle
from fer_jax.bundle_schema import Bundle
from fer_jax.data.dataset import FaceData, Indexed, select
from fer_jax.data.features import FeatureTable
from fer_jax.errors import FerJaxError
from fer_jax.evaluate.frame_labels import FrameLabels, labels_of
from fer_jax.evaluate.frame_probabilities import FrameProbabilities
from fer_jax.models import fusion
from fer_jax.models.fusion.layers import linear

_BATCH = 1024


def are_frames(data: Indexed, split: str) -> bool:
    """Whether the faces of a split are frames of videos, and not pictures by themselves."""
    return bool((data.index["video"][select(data, split, labelled=False)] != "").all())


def table_predictions(
    bundle: str | os.PathLike[str],
    tables: Mapping[str, str | os.PathLike[str]],
    split: str,
) -> FrameProbabilities:
    """Probabilities of every face of a split, from its features.

    Args:
        bundle: a classifier, whose head is applied to the one table; or a bundle with a fusion,
            applied to the tables of its sources.
        tables: of one data set, by source; a classifier's is `main`.
        split: its name.

    Returns:
        Probabilities by frame; a picture that is no frame of a video is the first frame of a
        video that has the name of its key.

    Raises:
        FerJaxError: a table is missing or has other faces, or the bundle has neither head nor
            fusion.
    """
    loaded = load_bundle(bundle, verify=False)
    head, names = _head(loaded, bundle)
    missing = [name for name in names if name not in tables]
    if missing:
        raise FerJaxError(f"{bundle}: takes features of {missing[0]}, of which no table is named")
    opened = {name: FeatureTable.open(tables[name]) for name in names}
    first = opened[names[0]]
    chosen = select(first, split, labelled=False)
    keys = first.index["key"][chosen]
    rows = {name: table.rows_of(keys) for name, table in opened.items()}
    found = []
    for start in range(0, len(chosen), _BATCH):
        batch = {}
        for name, table in opened.items():
            part = rows[name][start : start + _BATCH]
            features = np.zeros((_BATCH, *table.features.shape[1:]), np.float32)
            features[: len(part)] = table.features[part]
            batch[name] = features
        count = min(_BATCH, len(chosen) - start)
        found.append(np.asarray(head(batch))[:count])
    video, frame = _places(first, chosen)
    order = np.lexsort((frame, video))
    probabilities = np.concatenate(found)[order]
    return FrameProbabilities(
        loaded.labels.classes, video.astype(object)[order], frame[order], probabilities
    )


def table_labels(data: FaceData, split: str) -> FrameLabels:
    """The labels that such predictions are scored against; of pictures, under the same names."""
    if are_frames(data, split):
        return labels_of(data, split)
    rows = select(data, split)
    video, frame = _places(data, rows)
    order = np.argsort(video, kind="stable")
    label = data.index["label"][rows].astype(np.int32)
    return FrameLabels(data.label_space, video.astype(object)[order], frame[order], label[order])


def _places(data: Indexed, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    video, frame = data.index["video"][rows], data.index["frame"][rows].astype(np.int64)
    if (video != "").all():
        return video, frame
    return data.index["key"][rows], np.ones(len(rows), np.int64)


def _head(bundle: Bundle, path: Any) -> tuple[Any, tuple[str, ...]]:
    """A jitted function of features to probabilities, and the sources that it takes."""
    if "fusion" in bundle.models:
        config, params = bundle.models["fusion"]
        apply = functools.partial(fusion.apply, config, params)
        return jax.jit(lambda batch: _softmax(apply(batch)[0])), config.sources
    if bundle.kind != "classifier":
        raise FerJaxError(
            f"{path}: a bundle of the kind {bundle.kind} has neither head nor fusion, and predicts "
            "nothing from features"
        )
    _, params = bundle.models["main"]
    head = params["head"]
    return jax.jit(lambda batch: _softmax(linear(head, batch["main"]))), ("main",)


def _softmax(logits: jax.Array) -> Float32[jax.Array, "b c"]:
    return jax.nn.softmax(logits.astype(np.float32))
