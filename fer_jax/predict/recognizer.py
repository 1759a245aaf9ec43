"""Names expressions: a bundle that is loaded, checked and ready to be run on faces."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8
from tqdm import tqdm

from fer_jax.bundle import Bundle, bundle_function, load_bundle
from fer_jax.bundle_schema import encoder_bundle
from fer_jax.errors import FerJaxError
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import ViTConfig
from fer_jax.ops.normalize import normalize
from fer_jax.ops.resize import resize_host
from fer_jax.ops.views import cut_view
from fer_jax.predict.images import ImageBatches, Source, checked_faces, find_images
from fer_jax.predict.table import PredictionTable


def load(
    path: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    dtype: str = "float32",
    precision: str = "highest",
    verify: bool = True,
) -> "Recognizer":
    """Opens a bundle to use it.

    Args:
        path: the bundle's folder.
        batch_size: faces at once; every batch is padded to it. None: 8 on a CPU, else 64.
        dtype: of the computation: `float32`, or `bfloat16` for speed.
        precision: of matrix products in float32: `highest`, or `default` (bfloat16 on a TPU, TF32
            on a GPU: faster, and 1e-3 off).
        verify: compute the bundle's golden sample first.

    Returns:
        The recognizer.

    Raises:
        FerJaxError: no bundle, a damaged one, or an option that is not known.
    """
    return Recognizer(
        load_bundle(path, verify=verify),
        batch_size=batch_size,
        dtype=dtype,
        precision=precision,
        path=path,
    )


class Recognizer:
    """A bundle, ready to be run; faces are whole aligned faces, RGB, channels last.

    Every batch is padded to one shape and so runs through one compiled program: what comes out for
    a face is the same to the last bit, whatever faces stand beside it.

    Attributes:
        bundle: weights, views, labels and provenance.
        path: where the bundle was read, or None.
        batch_size: faces at once.
        dtype: of the computation.
        precision: of matrix products.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        batch_size: int | None = None,
        dtype: str = "float32",
        precision: str = "highest",
        path: str | os.PathLike[str] | None = None,
    ):
        """Makes a recognizer of a bundle in memory; `load` opens one on disk."""
        if dtype not in ("float32", "bfloat16"):
            raise FerJaxError(f"{dtype=} must be float32 or bfloat16")
        if precision not in ("highest", "default"):
            raise FerJaxError(f"{precision=} must be highest or default")
        if batch_size is None:
            batch_size = 8 if jax.default_backend() == "cpu" else 64
        if batch_size < 1:
            raise FerJaxError(f"{batch_size=} must be at least 1")
        self.bundle = bundle
        self.path = None if path is None else Path(path)
        self.batch_size = batch_size
        self.dtype = dtype
        self.precision = precision
        if bundle.kind == "fusion":
            raise FerJaxError(
                f"{path or 'this bundle'}: is a fusion, which takes the features of encoders "
                "and no faces; call fer_jax.models.fusion.apply with its parameters"
            )
        runs = encoder_bundle(bundle)
        models = {
            name: (_in_dtype(config, dtype), params)
            for name, (config, params) in runs.models.items()
        }
        function = bundle_function(dataclasses.replace(runs, models=models))

        def run(params: Any, inputs: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return function(params, inputs)

        self._function = jax.jit(run)
        self._params = jax.tree.map(jnp.asarray, runs.params)
        self._widths = {
            name: config.width if isinstance(config, ViTConfig) else config.fused_width
            for name, (config, _) in runs.models.items()
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Display names of the classes, in the order of the logits.

        Raises:
            FerJaxError: the bundle has no labels.
        """
        self.require_labels()
        return self.bundle.labels.classes

    def logits(self, faces: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, "b class"]:
        """Scores of the classes before the softmax.

        Args:
            faces: uint8 RGB, of any size; each view is cut and resized here.

        Returns:
            Logits, in the order of `classes`.

        Raises:
            FerJaxError: the bundle has no labels, or these are no faces.
        """
        self.require_labels()
        logits, _ = self._run(map(self.prepare, self._chunks(checked_faces(faces))))
        return logits

    def logits_normalized(
        self, inputs: Mapping[str, Float[Array | np.ndarray, "b size size 3"]]
    ) -> Float32[np.ndarray, "b class"]:
        """Scores of the classes for images that are cut, resized and normalised already.

        Args:
            inputs: `{"main": images, ...}`, one array for each view of the bundle.

        Returns:
            Logits, in the order of `classes`.

        Raises:
            FerJaxError: the bundle has no labels, or a view is missing or of another size.
        """
        self.require_labels()
        for name, view in self.bundle.views.items():
            shape = inputs[name].shape if name in inputs else None
            size = view.image_size
            if shape is None or len(shape) != 4 or shape[1:] != (size, size, 3):
                found = "missing" if shape is None else f"of the shape {shape}"
                raise FerJaxError(
                    f"the view {name!r} is {found}; "
                    f"give normalised images of the shape (batch, {size}, {size}, 3)"
                )
        images = {name: np.asarray(inputs[name], np.float32) for name in self.bundle.views}
        if len({len(values) for values in images.values()}) > 1:
            raise FerJaxError("the views are not of the same number of faces; give each its own")
        chunks = zip(*(self._chunks(values) for values in images.values()), strict=True)
        logits, _ = self._run(dict(zip(images, chunk, strict=True)) for chunk in chunks)
        return logits

    def features(
        self, faces: UInt8[np.ndarray, "b h w 3"]
    ) -> dict[str, Float32[np.ndarray, "b width"]]:
        """Pooled features of each view, and of two views what the fusion makes of them.

        Args:
            faces: uint8 RGB, of any size.

        Returns:
            `{"main": features, ...}`; a bundle of two views has `main`, `aux` and `fusion`.

        Raises:
            FerJaxError: these are no faces.
        """
        _, features = self._run(map(self.prepare, self._chunks(checked_faces(faces))))
        return features

    def predict(
        self,
        source: Source,
        *,
        on_problem: Callable[[str], None] | None = None,
        progress: bool = False,
    ) -> PredictionTable:
        """Names the expression of faces.

        Args:
            source: an image, a folder (all images in it, sorted), a list of either, or an array:
                one face (height, width, 3) or several, uint8 RGB. A whole image is taken as the
                face, and should be aligned as the faces that the model was trained on.
            on_problem: called with one line for each file that is no image; warns if not given.
            progress: show a bar if there is a terminal.

        Returns:
            One row for each image, in order; a file that is no image has the status `no_face`.

        Raises:
            FerJaxError: the bundle has no labels, a file is missing, or there is no image at all.
        """
        self.require_labels()
        report = on_problem if on_problem is not None else _warn
        images = find_images(source)
        with tqdm(images, unit="face", disable=None if progress else True) as bar:
            batches = ImageBatches(bar, self.prepare, self.batch_size, report)
            logits, _ = self._run(batches)
        rows = batches.rows
        raw = np.full((len(rows), len(self.classes)), np.nan, np.float32)
        raw[[row["status"] == "ok" for row in rows]] = softmax(logits)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return PredictionTable.from_probabilities(self.classes, raw=raw, **columns)

    def prepare(
        self, faces: Iterable[UInt8[np.ndarray, "_ _ 3"]]
    ) -> dict[str, Float32[np.ndarray, "b size size 3"]]:
        """Cuts, resizes and normalises faces on the host, each by itself.

        Args:
            faces: uint8 RGB; each may have its own size.

        Returns:
            What `logits_normalized` takes.
        """
        faces = list(faces)
        prepared = {}
        for name, view in self.bundle.views.items():
            size = view.image_size
            images = [resize_host(cut_view(face, view.view), size, view.resize) for face in faces]
            images = np.asarray(images, np.float32).reshape(-1, size, size, 3)
            prepared[name] = normalize(images, view.mean, view.std)
        return prepared

    def _chunks(self, values: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(values), self.batch_size):
            yield values[start : start + self.batch_size]

    def _run(
        self, batches: Iterable[Mapping[str, np.ndarray]]
    ) -> tuple[Any, dict[str, Float32[np.ndarray, "b width"]]]:
        """Runs batches of up to `batch_size`; prepares the next while one is computed."""
        done, running = [], None
        for inputs in batches:
            number = len(next(iter(inputs.values())))
            padding = ((0, self.batch_size - number), (0, 0), (0, 0), (0, 0))
            padded = {name: np.pad(values, padding) for name, values in inputs.items()}
            outputs = self._function(self._params, padded)
            if running is not None:
                done.append(_fetch(*running))
            running = (outputs, number)
        if running is not None:
            done.append(_fetch(*running))
        features = {
            name: np.concatenate([np.zeros((0, width), np.float32), *(f[name] for _, f in done)])
            for name, width in self._widths.items()
        }
        if self.bundle.labels is None:
            return None, features
        nothing = np.zeros((0, len(self.bundle.labels)), np.float32)
        return np.concatenate([nothing, *(logits for logits, _ in done)]), features

    def require_labels(self) -> None:
        """Raises a FerJaxError that says what to do, where the bundle names no expressions."""
        if self.bundle.labels is None:
            raise FerJaxError(
                f"{self.path or 'this bundle'}: is of the kind {self.bundle.kind!r}, which has "
                "features but names no expressions; fine-tune it first, with `fer-jax train`"
            )


def _in_dtype(config: ModelConfig, dtype: str) -> ModelConfig:
    """An encoder that computes in `dtype`; a fusion, which is small, stays in float32."""
    if not isinstance(config, ViTConfig):
        return config
    return dataclasses.replace(config, dtype=dtype, attention="xla")


def softmax(logits: Float[np.ndarray, "b class"]) -> Float32[np.ndarray, "b class"]:
    """Probabilities, computed on the host in float64, so that they do not depend on a device."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(shifted)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _fetch(
    outputs: tuple[Array | None, dict[str, Array]], number: int
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    logits, features = outputs
    here = {name: np.asarray(values)[:number] for name, values in features.items()}
    return (None if logits is None else np.asarray(logits)[:number]), here


def _warn(problem: str) -> None:
    warnings.warn(problem, stacklevel=2)
