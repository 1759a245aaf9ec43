"""Batches of faces, by grain: shuffled and augmented to train on, in order and whole to score."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.dataset import FaceData, RecordReader, select, split_selection
from fer_jax.data.images import decode_image
from fer_jax.errors import FerJaxError
from fer_jax.ops.resize import KERNELS, resize_host
from fer_jax.ops.views import VIEWS, cut_view

__all__ = [
    "Augmentation",
    "FaceData",
    "evaluation_batches",
    "select",
    "split_selection",
    "train_batches",
]

Sources = Sequence[tuple[FaceData, np.ndarray]]
_BUFFERED_BATCHES = 4


class _Faces:
    """Several data sets' rows as one sequence of encoded faces, which pickles without records."""

    def __init__(self, sources: Sources):
        self._readers: list[RecordReader] = [data.records for data, _ in sources]
        self._paths = [data.path for data, _ in sources]
        counts = [len(rows) for _, rows in sources]
        self._source = np.repeat(np.arange(len(sources)), counts)
        self._row = np.concatenate([np.asarray(rows) for _, rows in sources])
        self._label = np.concatenate([data.index["label"][rows] for data, rows in sources])
        first = np.cumsum([0, *(len(data) for data, _ in sources)])[:-1]
        self._number = self._row + np.repeat(first, counts)

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, row = int(self._source[i]), int(self._row[i])
        return {
            "encoded": self._readers[source][row]["image"],
            "name": f"{self._paths[source]} row {row}",
            "label": np.int32(self._label[i]),
            "row": np.int32(self._number[i]),
        }


def _view(element: dict[str, Any], view: str) -> np.ndarray:
    try:
        return cut_view(decode_image(element["encoded"]), view)
    except FerJaxError as error:
        raise FerJaxError(f"{element['name']}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _TrainImage(grain.transforms.RandomMap):
    view: str
    image_size: int
    augmentation: Augmentation

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = augment(
            _view(element, self.view),
            rng,
            image_size=self.image_size,
            augmentation=self.augmentation,
        )
        return {"image": image, "label": element["label"], "row": element["row"]}


@dataclasses.dataclass(frozen=True)
class _EvaluationImage(grain.transforms.Map):
    view: str
    image_size: int
    resize: str

    def map(self, element: dict[str, Any]) -> dict[str, Any]:
        image = resize_host(_view(element, self.view), self.image_size, self.resize)
        return {"image": image, "label": element["label"], "row": element["row"]}


def train_batches(
    sources: Sources,
    *,
    view: str,
    image_size: int,
    batch_size: int,
    augmentation: Augmentation,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless training batches: every face once an epoch, shuffled and augmented anew in each.

    Batch k depends on the seed and on k alone: not on where the run started, on `workers`, or on
    how many processes share the batch (theirs, interleaved, are the batch of one process).

    Args:
        sources: data sets and the rows of each, in one label space.
        view: a name of `ops.views.VIEWS`, cut before augmenting.
        image_size: side of the images, in pixels.
        batch_size: of all processes together.
        augmentation: how faces vary.
        seed: of the order and of the augmentation.
        start_step: number of the first batch.
        workers: processes that decode and augment; 0 does so in a thread of this one. They are
            spawned, so a script that asks for some needs `if __name__ == "__main__":`.
        process_index: which part of each batch is ours.
        process_count: how many processes share a batch.

    Returns:
        Batches of `image` (uint8 [local batch, size, size, 3]), `label` (int32, -1 = none) and
        `row` (int32: the row in the data set's index; with several sources, rows count on from
        one data set to the next).

    Raises:
        FerJaxError: no row, differing label spaces, a batch that the processes cannot share
            evenly, or an unknown view.
    """
    _check(sources, view, image_size)
    if batch_size < 1 or batch_size % process_count:
        raise FerJaxError(
            f"batch_size={batch_size} must be a positive multiple of the {process_count} processes"
        )
    if start_step < 0 or workers < 0 or not 0 <= process_index < process_count:
        raise FerJaxError(
            f"start_step={start_step} and workers={workers} must not be negative, and "
            f"process_index={process_index} must be below process_count={process_count}"
        )
    # The order matters. Augmenting before repeating gives each epoch its own draws, and slicing
    # after shuffling makes n processes see what one would. Batching before workers share the
    # batches out keeps the order the same for any number of them; starting late is a plain slice.
    faces = (
        grain.MapDataset.source(_Faces(sources))
        .seed(seed)
        .shuffle()
        .random_map(_TrainImage(view, image_size, augmentation))
        .repeat()[process_index::process_count]
        .batch(batch_size // process_count, drop_remainder=True)[start_step:]
    )
    if not workers:
        return iter(faces.to_iter_dataset(_threads(1)))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # workers are handed absl flags, which raises before
    options = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=_BUFFERED_BATCHES
    )
    # The workers are the parallelism; threads in each would only get in each other's way.
    return iter(faces.to_iter_dataset(_threads(1)).mp_prefetch(options, worker_init_fn=_one_thread))


def evaluation_batches(
    sources: Sources, *, view: str, image_size: int, resize: str, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Every row once, in order, prepared exactly as a bundle prepares faces up to normalisation.

    Args:
        sources: data sets and the rows of each, in one label space.
        view: a name of `ops.views.VIEWS`.
        image_size: side of the images, in pixels.
        resize: kernel, a name of `ops.resize.KERNELS`.
        batch_size: of every batch; the last one is filled up with zeros.

    Returns:
        Batches of `image` (float32 [batch, size, size, 3] in [0, 255]), `label` (int32, -1 =
        none), `mask` (bool, false where filled up) and `row` (int32, -1 where filled up).

    Raises:
        FerJaxError: no row, differing label spaces, or an unknown view or kernel.
    """
    _check(sources, view, image_size)
    if resize not in KERNELS:
        raise FerJaxError(f"no resize kernel {resize!r}; one of {', '.join(KERNELS)}")
    if batch_size < 1:
        raise FerJaxError(f"batch_size={batch_size} must be positive")
    faces = grain.MapDataset.source(_Faces(sources)).map(_EvaluationImage(view, image_size, resize))
    return _padded(faces.to_iter_dataset(_threads(1, buffered=2 * batch_size)), batch_size)


def _padded(elements, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    batch: list[dict[str, Any]] = []
    for element in elements:
        batch.append(element)
        if len(batch) == batch_size:
            yield _stack(batch, batch_size)
            batch = []
    if batch:
        yield _stack(batch, batch_size)


def _stack(batch: list[dict[str, Any]], size: int) -> dict[str, np.ndarray]:
    images = np.zeros((size, *batch[0]["image"].shape), np.float32)
    numbers = {"label": np.full(size, -1, np.int32), "row": np.full(size, -1, np.int32)}
    for i, element in enumerate(batch):
        images[i] = element["image"]
        for name, column in numbers.items():
            column[i] = element[name]
    return {"image": images, "mask": np.arange(size) < len(batch), **numbers}


def _threads(number: int, buffered: int = _BUFFERED_BATCHES) -> grain.ReadOptions:
    # grain's defaults, 16 threads and 500 elements, would hold gigabytes of batches.
    return grain.ReadOptions(num_threads=number, prefetch_buffer_size=buffered)


def _one_thread(worker: int, workers: int) -> None:
    del worker, workers  # grain says which one it is
    cv2.setNumThreads(0)


def _check(sources: Sources, view: str, image_size: int) -> None:
    if not sources or not sum(len(rows) for _, rows in sources):
        raise FerJaxError("no faces to read: the sources have no rows; check the split")
    if view not in VIEWS:
        raise FerJaxError(f"no view {view!r}; one of {', '.join(VIEWS)}")
    if image_size < 1:
        raise FerJaxError(f"image_size={image_size} must be positive")
    first = sources[0][0]
    for data, rows in sources:
        if data.label_space != first.label_space:
            raise FerJaxError(
                f"{data.path} is labelled in {data.label_space.name}, {first.path} in "
                f"{first.label_space.name}; prepare both with the same --labels"
            )
        rows = np.asarray(rows)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(data)):
            raise FerJaxError(
                f"{data.path}: rows {rows.min()} to {rows.max()} are asked for, it has {len(data)}"
            )
