"""Names expressions: a bundle that is loaded, checked and ready to be run on faces."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from fer_jax.bundle import Bundle, bundle_function, load_bundle
from fer_jax.bundle_schema import encoder_bundle
from fer_jax.errors import FerJaxError
from fer_jax.models.torch_layout import ModelConfig
from fer_jax.models.vit import ViTConfig
from fer_jax.ops.normalize import normalize
from fer_jax.ops.resize import resize_host
from fer_jax.ops.views import cut_view
from fer_jax.predict.sources import Source, checked_faces
from fer_jax.predict.time_filter import TableFilter, parse_filter, stored_filter

if TYPE_CHECKING:
    from fer_jax.predict.reading import Reading
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
        crops: bool = False,
        every: int = 1,
        search_every: int = 5,
        keep: str = "all",
        smooth: str | TableFilter | None = None,
        fill: str | None = None,
        abstain: float = 0.0,
        fps: float = 25.0,
        on_problem: Callable[[str], None] | None = None,
        progress: bool = False,
    ) -> "PredictionTable":
        """Names the expression of every face in pictures and videos.

        Args:
            source: a picture or a video file, a folder of them, a list of either; an array, uint8
                RGB `[height, width, 3]` or `[n, height, width, 3]`; the number of a camera; an
                iterator of frames: arrays, or pairs (seconds, array).
            crops: each picture is a face already cut out, aligned as the model was trained.
            every: of a video, one frame in so many is looked at; the others take over from it.
            search_every: of those, one in so many is searched; in those between faces are followed.
            keep: `all` faces or the `largest`.
            smooth: over time: `none`, `box:101` (frames), `median:2s`; None is the bundle's own.
            fill: how frames without a face get a row: `hold`, `nearest`, `linear`, `prior`; None is
                the bundle's own, else `hold`.
            abstain: rows with a confidence below it have no label.
            fps: frames a second, of arrays that have no times.
            on_problem: called with one line for each thing that went wrong; warns if not given.
            progress: show a bar if there is a terminal.

        Returns:
            One row for each face, by frame; a frame without one has one row. Confidence is
            calibrated where the bundle has a calibration for rows of this kind.

        Raises:
            FerJaxError: the bundle has no labels, a path is missing, or nothing could be read.
        """
        from fer_jax.predict.predicting import predict

        reading = self._reading(every, search_every, keep, smooth, fill, abstain)
        options = {"crops": crops, "fps": fps, "on_problem": on_problem, "progress": progress}
        return predict(self, source, reading, **options)

    def live(
        self,
        source: Source,
        *,
        search_every: int = 5,
        keep: str = "all",
        smooth: str | TableFilter | None = None,
        abstain: float = 0.0,
        fps: float = 25.0,
    ) -> "Iterator[PredictionTable]":
        """Names the expression of faces as frames come, a fixed number of frames late.

        The delay is what the smoothing looks ahead: half a centred window. The rows are those that
        the whole video gives with `fill="hold"`, but for frames before anybody was seen, which stay
        empty, and for frames without a face, which take the row of the only face seen until then.

        Args:
            source: the number of a camera, a video file, or an iterator of frames.
            search_every: as for `predict`.
            keep: as for `predict`.
            smooth: as for `predict`; windows are of frames.
            abstain: as for `predict`.
            fps: as for `predict`.

        Yields:
            The rows of one frame after the other.

        Raises:
            FerJaxError: the bundle has no labels, or the source gives no frame.
        """
        from fer_jax.predict.live import live
        from fer_jax.predict.predicting import live_frames, name_of

        reading = self._reading(1, search_every, keep, smooth, "hold", abstain)
        reading = dataclasses.replace(reading, causal=True)
        yield from live(self, live_frames(source, fps), name_of(source), reading)

    def _reading(
        self,
        every: int,
        search_every: int,
        keep: str,
        smooth: str | TableFilter | None,
        fill: str | None,
        abstain: float,
    ) -> "Reading":
        from fer_jax.predict.frame_faces import FaceSearch
        from fer_jax.predict.reading import Reading

        own = stored_filter(self.bundle.smoothing)
        filter_ = own if smooth is None else smooth
        if isinstance(filter_, str):
            filter_ = parse_filter(filter_, own.fill)
        if fill is not None:
            filter_ = dataclasses.replace(filter_, fill=fill)
        search = FaceSearch(every=every, search_every=search_every, keep=keep)
        return Reading(search, filter_, abstain)

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

    def stream(
        self, batches: Iterable[Mapping[str, Float[np.ndarray, "b size size 3"]]], *, ahead: int = 1
    ) -> Iterator[tuple[Any, dict[str, Float32[np.ndarray, "b width"]]]]:
        """Runs batches as they come; the next one is taken while one is computed.

        Args:
            batches: as of `prepare`, of up to `batch_size` faces.
            ahead: how many are taken before the result of one is waited for.

        Yields:
            Logits (None where the bundle has no labels) and pooled features of each.
        """
        running: collections.deque = collections.deque()
        for inputs in batches:
            number = len(next(iter(inputs.values())))
            padding = ((0, self.batch_size - number), (0, 0), (0, 0), (0, 0))
            padded = {name: np.pad(values, padding) for name, values in inputs.items()}
            running.append((self._function(self._params, padded), number))
            if len(running) > ahead:
                yield _fetch(*running.popleft())
        while running:
            yield _fetch(*running.popleft())

    def _run(
        self, batches: Iterable[Mapping[str, np.ndarray]]
    ) -> tuple[Any, dict[str, Float32[np.ndarray, "b width"]]]:
        """All of `stream` in one piece."""
        done = list(self.stream(batches))
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
