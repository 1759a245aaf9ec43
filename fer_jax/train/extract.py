"""Features of every face of a data set, by one encoder of a bundle, to a table on disk."""

import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from fer_jax.bundle import Bundle, View, bundle_hash, load_bundle
from fer_jax.bundle_schema import encoder_bundle
from fer_jax.data import features
from fer_jax.data.dataset import FaceData
from fer_jax.data.features import FeatureTable, FeatureWriter
from fer_jax.data.pipeline import evaluation_batches
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models import vit
from fer_jax.models.vit import Params, ViTConfig
from fer_jax.ops.normalize import normalize
from fer_jax.ops.views import VIEWS
from fer_jax.train import sharding
from fer_jax.train.config import MeshConfig

_SAVE_EVERY = 30.0  # seconds between two points that a killed run can go on from


def extract(
    bundle: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str = "main",
    view: str = "",
    patches: bool = False,
    dtype: str = "float32",
    compute: str = "float32",
    batch_size: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> FeatureTable:
    """Runs an encoder over a data set, every face of every split, and keeps what it makes of them.

    Killed, it goes on where it was, with the same result bit for bit.

    Args:
        bundle: folder of a bundle with an encoder.
        data: folder of a data set.
        out: folder of the table.
        model: which of the bundle's encoders.
        view: what is cut from the faces, one of `ops.views.VIEWS`; empty takes the encoder's own.
        patches: keep the map of patches `[h, w, width]` instead of the pooled feature; a face then
            takes as much space as there are patches.
        dtype: of the table: `float32` | `float16`.
        compute: of the computation: `float32` | `bfloat16`.
        batch_size: faces at once, a multiple of the devices; None: 8 a CPU, 64 another device.
        overwrite: replace a table.
        progress: show a bar if there is a terminal.

    Returns:
        The table.

    Raises:
        UsageError: an option that is not known, or a batch that the devices cannot share.
        FerJaxError: no such model, another table stands there, or the data cannot be read.
    """
    for name, value, known in (
        ("dtype", dtype, features.DTYPES),
        ("compute", compute, ("float32", "bfloat16")),
        ("view", view, ("", *VIEWS)),
    ):
        if value not in known:
            raise UsageError(f"{name}={value!r} must be one of {', '.join(filter(None, known))}")
    out = Path(out)
    features.check_place(out, overwrite=overwrite)
    mesh = sharding.make_mesh(MeshConfig(), jax.local_devices())  # one process extracts
    batch_size = batch_size or mesh.size * (8 if jax.default_backend() == "cpu" else 64)
    if batch_size < 1 or batch_size % mesh.size:
        raise UsageError(f"batch_size={batch_size} must be a multiple of the {mesh.size} devices")
    loaded = encoder_bundle(load_bundle(bundle))
    config, params, prepared = _encoder(bundle, loaded, model)
    prepared = dataclasses.replace(prepared, view=view or prepared.view)
    faces = FaceData.open(data)
    grid = (config.grid, config.grid) if patches else ()
    about = {
        "bundle": {
            "path": str(Path(bundle).resolve()),
            "sha256": bundle_hash(bundle),
            "model": model,
        },
        "view": prepared.view,
        "template": faces.template,
        "data": {"path": str(data), "fingerprint": faces.fingerprint()},
        "kind": "patches" if patches else "pooled",
        "compute": compute,
        "dtype": dtype,
    }
    writer = FeatureWriter(out, (len(faces), *grid, config.width), dtype, about)
    rows = np.arange(writer.done, len(faces))
    # Computed as where batches began anew: a face's batch does not change its feature.
    run = _program(config, prepared, patches, compute, mesh)
    params = jax.device_put(params, sharding.replicated(mesh))
    saved = time.monotonic()
    bar = tqdm(
        total=len(faces), initial=writer.done, unit="face", disable=None if progress else True
    )
    with features.saving(writer), bar:
        for batch in _batches(faces, rows, prepared, batch_size) if len(rows) else ():
            images = sharding.to_global({"main": batch["main"]}, mesh)["main"]
            found = np.asarray(run(params, images))[batch["mask"]]
            if not np.isfinite(found).all():
                raise FerJaxError(f"{bundle}: its features are not finite; see `fer-jax inspect`")
            writer.write(found)
            bar.update(len(found))
            if time.monotonic() - saved > _SAVE_EVERY:
                writer.save()
                saved = time.monotonic()
    writer.finish(out, faces.index, _votes(faces), faces.label_space)
    return FeatureTable.open(out)


def _encoder(
    path: str | os.PathLike[str], bundle: Bundle, model: str
) -> tuple[ViTConfig, Params, View]:
    known = [name for name, (config, _) in bundle.models.items() if isinstance(config, ViTConfig)]
    if model not in known:
        there = f"its encoders are {', '.join(known)}" if known else "it has no encoder"
        raise FerJaxError(f"{path}: has no encoder {model!r}; {there}")
    config, params = bundle.models[model]
    return config, params, bundle.views[model]


def _batches(faces: FaceData, rows: np.ndarray, view: View, batch_size: int):
    return evaluation_batches(
        [(faces, rows)],
        views={"main": view.view},
        image_size=view.image_size,
        resize=view.resize,
        batch_size=batch_size,
    )


def _program(config: ViTConfig, view: View, patches: bool, compute: str, mesh: jax.sharding.Mesh):
    config = dataclasses.replace(config, dtype=compute, attention="xla")
    forward = functools.partial(_features, config=config, view=view, patches=patches)
    batch = sharding.batch_sharding(mesh)
    return jax.jit(forward, in_shardings=(sharding.replicated(mesh), batch), out_shardings=batch)


def _features(
    params: Params,
    images: Float[Array, "b s s 3"],
    *,
    config: ViTConfig,
    view: View,
    patches: bool,
) -> Float[Array, "b *_ width"]:
    with jax.default_matmul_precision("highest"):
        _, found = vit.apply(vit.build(config), params, normalize(images, view.mean, view.std))
    return vit.patch_map(config, found) if patches else found["pooled"]


def _votes(faces: FaceData) -> np.ndarray | None:
    if not faces.index["voted"].any():
        return None
    found = np.zeros((len(faces), len(faces.label_space)), np.float32)
    for row in np.flatnonzero(faces.index["voted"]).tolist():
        found[row] = faces.records.votes(row)
    return found


def describe(table: FeatureTable) -> dict[str, Any]:
    """What a table holds, in numbers: rows, width, splits."""
    splits, counts = np.unique(table.index["split"], return_counts=True)
    return {
        "rows": len(table),
        "width": table.width,
        "splits": dict(zip(splits.tolist(), counts.tolist(), strict=True)),
    }
