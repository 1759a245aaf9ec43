"""Batches of faces, by grain: in a sampled order and augmented, or in order and whole to score."""

import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import grain
import numpy as np
from absl import flags

from fer_jax.data.augment import Augmentation, augment, flips
from fer_jax.data.dataset import FaceData, Indexed, select, split_selection
from fer_jax.data.images import decode_checked
from fer_jax.data.sampling import EVERYTHING, EpochPlan, Sampling
from fer_jax.errors import FerJaxError
from fer_jax.ops.resize import KERNELS
from fer_jax.ops.views import VIEWS, cut_view, view_images_host

__all__ = [
    "Augmentation",
    "FaceData",
    "Sampling",
    "epoch_plan",
    "evaluation_batches",
    "select",
    "split_selection",
    "train_batches",
]

Sources = Sequence[tuple[FaceData, np.ndarray]]
IndexedSources = Sequence[tuple[Indexed, np.ndarray]]
Batch = dict[str, np.ndarray]
_COLUMNS = ("label", "row", "votes", "mask")
_BUFFERED_BATCHES = 4
_BUFFERED_EVALUATION = 2  # of float32


class _Faces:
    """Several data sets' rows as one sequence of faces, which pickles without records."""

    def __init__(self, sources: Sources):
        self._readers = [data.records for data, _ in sources]
        self._paths = [data.path for data, _ in sources]
        self._source = _numbers(sources)
        self._row = np.concatenate([np.asarray(rows, np.int32) for _, rows in sources])
        self._label = _column(sources, "label").astype(np.int32)
        first = np.cumsum([0, *(len(data) for data, _ in sources)])[:-1]
        self._first = first.astype(np.int32)
        self._classes = len(sources[0][0].label_space)

    def __len__(self) -> int:
        return len(self._row)

    def image(self, number: int) -> np.ndarray:
        source, row = self._source[number], int(self._row[number])
        encoded = self._readers[source].image(row)
        try:
            return decode_checked(encoded)
        except FerJaxError as error:
            raise FerJaxError(f"{self._paths[source]} row {row}: {error}") from error

    def votes(self, numbers: np.ndarray, size: int) -> np.ndarray:
        """The votes of some faces, filled up with zeros."""
        found = np.zeros((size, self._classes), np.float32)
        for i, number in enumerate(numbers):
            found[i] = self._readers[self._source[number]].votes(int(self._row[number]))
        return found

    def columns(self, numbers: np.ndarray, size: int) -> Batch:
        """Label and row of some faces, filled up with -1."""
        filled = np.full((2, size), -1, np.int32)
        filled[0, : len(numbers)] = self._label[numbers]
        filled[1, : len(numbers)] = self._row[numbers] + self._first[self._source[numbers]]
        return {"label": filled[0], "row": filled[1]}


@dataclasses.dataclass(frozen=True)
class _View:
    """What a batch holds of a face under one name."""

    view: str
    size: int
    resize: str | None

    def array(self, batch_size: int, dtype: type) -> np.ndarray:
        return np.zeros((batch_size, self.size, self.size, 3), dtype)


class _Draws:
    """The random numbers of face i and view j, whatever was drawn before: Philox is a counter.

    One generator is set back and forth, since making one takes eight times as long.
    """

    def __init__(self, seed: int):
        key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self._bits = np.random.Philox(key=key)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def of(self, face: int, view: int) -> np.random.Generator:
        self._state["state"]["counter"] = (0, 0, view, face)
        self._bits.state = self._state
        return self._generator


@dataclasses.dataclass(frozen=True)
class _TrainBatches:
    """Batch k, for any k: of the faces k B to (k + 1) B - 1 of endless epochs, those at `places`.

    What face i draws for each of its views depends on the seed and on i alone; the flip is the
    first view's. So it does not matter which process makes a batch, nor which were made before.
    """

    faces: _Faces
    plan: EpochPlan
    views: Mapping[str, _View]
    augmentation: Augmentation
    seed: int
    batch_size: int
    places: np.ndarray
    votes: bool

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> Batch:
        size = len(self.places)
        images = {name: view.array(size, np.uint8) for name, view in self.views.items()}
        numbers = np.empty(size, np.int64)
        draws = _Draws(self.seed)
        for i, within_batch in enumerate(self.places):
            place = step * self.batch_size + int(within_batch)
            epoch, within = divmod(place, len(self.plan))
            numbers[i] = self.plan.order(epoch)[within]
            face = self.faces.image(int(numbers[i]))
            mirrored = False
            for j, (name, view) in enumerate(self.views.items()):
                rng = draws.of(place, j)
                if j == 0:
                    mirrored = flips(rng, self.augmentation)
                images[name][i] = augment(
                    cut_view(face, view.view),
                    rng,
                    image_size=view.size,
                    augmentation=self.augmentation,
                    mirrored=mirrored,
                )
        batch = images | self.faces.columns(numbers, size)
        return batch | {"votes": self.faces.votes(numbers, size)} if self.votes else batch


@dataclasses.dataclass(frozen=True)
class _EvaluationBatches:
    """Every face once, in order; the last batch is filled up."""

    faces: _Faces
    views: Mapping[str, _View]
    batch_size: int
    places: np.ndarray
    votes: bool
    change: Callable[[np.ndarray], np.ndarray] | None

    def __len__(self) -> int:
        return -(-len(self.faces) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        size = len(self.places)
        numbers = step * self.batch_size + self.places
        numbers = numbers[numbers < len(self.faces)]
        images = {name: view.array(size, np.float32) for name, view in self.views.items()}
        for i, number in enumerate(numbers):
            face = self.faces.image(int(number))
            face = face if self.change is None else self.change(face)
            for name, view in self.views.items():
                images[name][i] = view_images_host(face, view.view, view.size, view.resize)
        batch = images | self.faces.columns(numbers, size)
        batch["mask"] = np.arange(size) < len(numbers)
        return batch | {"votes": self.faces.votes(numbers, size)} if self.votes else batch


def epoch_plan(sources: IndexedSources, sampling: Sampling, seed: int) -> EpochPlan:
    """The plan that `train_batches` follows; its length is the number of faces in an epoch.

    Args:
        sources: data sets, or tables of features, and the rows of each.
        sampling: which of them an epoch shows.
        seed: of the order.

    Returns:
        The plan, over the rows of all sources one after the other.

    Raises:
        FerJaxError: nothing is left to show, or the weights do not name the sources.
    """
    columns = {name: _column(sources, name) for name in ("label", "video", "frame", "source")}
    return EpochPlan(**columns, data=_numbers(sources), sampling=sampling, seed=seed)


def train_batches(
    sources: Sources,
    *,
    views: Mapping[str, str],
    image_size: int | Mapping[str, int],
    batch_size: int,
    augmentation: Augmentation,
    seed: int,
    sampling: Sampling = EVERYTHING,
    votes: bool = False,
    start_step: int = 0,
    workers: int = 0,
    places: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Endless training batches, one epoch after the other, shuffled and augmented anew in each.

    Batch k depends on the seed and on k alone: not on where the run started, on `workers`, or on
    how processes share it by `places`. An epoch ends where its faces end, which may be within a
    batch.

    Args:
        sources: data sets and the rows of each, in one label space.
        views: for each array of images its name in the batch, and the view that is cut from the
            stored face, a name of `ops.views.VIEWS`. Each view is augmented by itself, after it was
            cut; the flip is shared.
        image_size: side of the images, in pixels; or of each view's.
        batch_size: of all processes together.
        augmentation: how faces vary.
        seed: of the order and of the augmentation.
        sampling: which faces an epoch shows.
        votes: hand over the votes too.
        start_step: number of the first batch.
        workers: processes that decode and augment; 0 does so in a thread of this one. They are
            spawned, so a script that asks for some needs `if __name__ == "__main__":`.
        places: which rows of each batch this process makes, rising; all of them if left out.

    Returns:
        Batches of the views (uint8 [places, size, size, 3]), `label` (int32, -1 = none),
        `row` (int32: the row in the data set's index; with several sources, rows count on from
        one data set to the next) and, if wished, `votes` (float32 [places, classes], zeros
        where there are none).

    Raises:
        FerJaxError: no row, differing label spaces, places that are not of the batch, an unknown
            view, or a sampling that does not fit the sources.
    """
    _check(sources)
    places = _places(places, batch_size)
    if start_step < 0 or workers < 0:
        raise FerJaxError(f"start_step={start_step} and workers={workers} must not be negative")
    batches = _TrainBatches(
        _Faces(sources),
        epoch_plan(sources, sampling, seed),
        _views(views, image_size),
        augmentation,
        seed,
        batch_size,
        places,
        votes,
    )
    # grain's elements are whole batches: its work for each element would cost as much as a face.
    chain = grain.MapDataset.source(batches)[start_step:].to_iter_dataset(
        _thread(_BUFFERED_BATCHES)
    )
    if not workers:
        return iter(chain)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # workers are handed absl flags, which raises before
    options = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=_BUFFERED_BATCHES
    )
    # The workers are the parallelism; threads in each would only get in each other's way.
    return iter(chain.mp_prefetch(options, worker_init_fn=_begin_worker))


def evaluation_batches(
    sources: Sources,
    *,
    views: Mapping[str, str],
    image_size: int | Mapping[str, int],
    resize: str | Mapping[str, str],
    batch_size: int,
    votes: bool = False,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    places: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every row once, in order, prepared exactly as a bundle prepares faces up to normalisation.

    Args:
        sources: data sets and the rows of each, in one label space.
        views: for each array of images its name in the batch, and a name of `ops.views.VIEWS`.
        image_size: side of the images, in pixels; or of each view's.
        resize: kernel, a name of `ops.resize.KERNELS`; or of each view's.
        batch_size: of every batch; the last one is filled up with zeros.
        votes: hand over the votes too.
        change: done to each aligned face (uint8) before its views are cut.
        places: which rows of each batch this process makes, rising; all of them if left out.

    Returns:
        Batches of the views (float32 [places, size, size, 3] in [0, 255]), `label` (int32, -1 =
        none), `mask` (bool, false where filled up), `row` (int32, -1 where filled up) and, if
        wished, `votes` (float32 [places, classes]).

    Raises:
        FerJaxError: no row, differing label spaces, places that are not of the batch, or an unknown
            view or kernel.
    """
    _check(sources)
    batches = _EvaluationBatches(
        _Faces(sources),
        _views(views, image_size, resize),
        batch_size,
        _places(places, batch_size),
        votes,
        change,
    )
    chain = grain.MapDataset.source(batches)
    return iter(chain.to_iter_dataset(_thread(_BUFFERED_EVALUATION)))


def without_rows(batch: Batch) -> Batch:
    """A batch as a model takes it: numbers of rows are for those who look things up."""
    return {name: value for name, value in batch.items() if name != "row"}


def _places(places: np.ndarray | None, batch_size: int) -> np.ndarray:
    if batch_size < 1:
        raise FerJaxError(f"batch_size={batch_size} must be positive")
    if places is None:
        return np.arange(batch_size)
    places = np.asarray(places)
    if not len(places) or places[0] < 0 or places[-1] >= batch_size or (np.diff(places) <= 0).any():
        raise FerJaxError(
            f"places={places.tolist()} must be rising, and below batch_size={batch_size}"
        )
    return places


def _column(sources: IndexedSources, name: str) -> np.ndarray:
    return np.concatenate([data.index[name][rows] for data, rows in sources])


def _numbers(sources: IndexedSources) -> np.ndarray:
    """Which of the sources each face is of."""
    return np.repeat(np.arange(len(sources), dtype=np.int32), [len(rows) for _, rows in sources])


def _views(
    views: Mapping[str, str],
    image_size: int | Mapping[str, int],
    resize: str | Mapping[str, str] | None = None,
) -> dict[str, _View]:
    """The views of a batch; training has no `resize`, since a random crop is resized as it is."""
    if not views or set(views) & set(_COLUMNS):
        raise FerJaxError(
            f"views={dict(views)}: name one or more arrays, none of them {', '.join(_COLUMNS)}"
        )
    sizes = dict.fromkeys(views, image_size) if isinstance(image_size, int) else image_size
    kernels = resize if isinstance(resize, Mapping) else dict.fromkeys(views, resize)
    found = {}
    for name, view in views.items():
        size, kernel = sizes.get(name, 0), kernels.get(name, "")
        if view not in VIEWS:
            raise FerJaxError(f"no view {view!r}; one of {', '.join(VIEWS)}")
        if size < 1:
            raise FerJaxError(f"image_size={size} of {name!r} must be positive")
        if resize is not None and kernel not in KERNELS:
            raise FerJaxError(f"no resize kernel {kernel!r}; one of {', '.join(KERNELS)}")
        found[name] = _View(view, size, kernel)
    return found


def _thread(buffered: int) -> grain.ReadOptions:
    # grain's defaults, 16 threads and 500 elements, would hold gigabytes of batches.
    return grain.ReadOptions(num_threads=1, prefetch_buffer_size=buffered)


def _begin_worker(worker: int, workers: int) -> None:
    del worker, workers  # grain says which one it is
    # Sent to the whole group, it is for the run, which saves and then ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)


def _check(sources: Sources) -> None:
    if not sources or not sum(len(rows) for _, rows in sources):
        raise FerJaxError("no faces to read: the sources have no rows; check the split")
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
