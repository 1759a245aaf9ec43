"""Which faces an epoch shows, and in which order: frames thinned out, classes and sources mixed."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Int64, Shaped

from fer_jax.errors import FerJaxError

BALANCES = ("natural", "class")

# What a generator is for, as part of its seed.
_FRAMES, _WALK, _SHUFFLE = range(3)
_BLOCK = 1 << 13
_KEPT_EPOCHS = 2  # a batch may begin in one epoch and end in the next


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which faces an epoch shows. Adjacent frames are near duplicates, and classes are unequal.

    Attributes:
        stride: of each video one frame in `stride` an epoch, from another first frame in each
            epoch; of a video of n frames max(1, n // stride). 1 takes all.
        frames_per_video: of each video that many frames an epoch, drawn anew without repetition;
            all of a shorter one. 0 takes all. Not together with `stride`.
        balance: `natural`, or `class`: classes that have faces come equally often, rarer ones by
            being repeated, commoner ones by being shown over several epochs. Frames are then
            thinned out in each video for each class by itself, so that no class drops out, and
            faces without a label are left out.
        source_weights: shares of an epoch by the index column `source`, such as
            `synthetic=0.3,affwild2=0.7`; all sources that are there must be named, a weight of 0
            leaves one out. Empty takes faces as they come. With `balance` it is the classes of
            each source that come equally often.

    Raises:
        FerJaxError: a value is out of its range, or the weights cannot be read.
    """

    stride: int = 1
    frames_per_video: int = 0
    balance: str = "natural"
    source_weights: str = ""

    def __post_init__(self):
        for name, least in (("stride", 1), ("frames_per_video", 0)):
            value = getattr(self, name)
            if value < least:
                raise FerJaxError(f"sampling.{name}={value}: must be at least {least}")
        if self.stride > 1 and self.frames_per_video:
            raise FerJaxError(
                f"sampling.stride={self.stride}: does not go together with "
                f"frames_per_video={self.frames_per_video}; set one of them"
            )
        if self.balance not in BALANCES:
            raise FerJaxError(
                f"sampling.balance={self.balance!r}: must be one of {', '.join(BALANCES)}"
            )
        self.weights()

    def weights(self) -> dict[str, float]:
        """The weight of each source that is named; empty if none is."""
        found: dict[str, float] = {}
        for part in filter(None, map(str.strip, self.source_weights.split(","))):
            name, _, number = part.rpartition("=")
            name = name.strip()
            try:
                weight = float(number)
            except ValueError:
                weight = -1.0
            if not (name and weight >= 0 and math.isfinite(weight)) or name in found:
                raise FerJaxError(
                    f"sampling.source_weights={self.source_weights!r}: {part!r} is not one "
                    "source=weight; write them as in synthetic=0.3,affwild2=0.7"
                )
            found[name] = weight
        if found and not any(found.values()):
            raise FerJaxError(
                f"sampling.source_weights={self.source_weights!r}: all weights are 0; "
                "one must be positive"
            )
        return found


EVERYTHING = Sampling()


class EpochPlan:
    """The order of the faces in every epoch: a pure function of the faces, the seed and the epoch.

    The frames of a video form a group, and a group gives the same number of faces, its slots, in
    every epoch. A cell is what is weighed: a source, a class, a class of a source, or everything.
    Each cell fills a fixed part of every epoch by walking through its slots in one random order
    after the other, so that no slot comes twice before each has come once, also from one epoch to
    the next. So all epochs have the same length, and none depends on those before.
    """

    def __init__(
        self,
        *,
        label: Int[np.ndarray, "n"],
        video: Shaped[np.ndarray, "n"],
        frame: Int[np.ndarray, "n"],
        source: Shaped[np.ndarray, "n"],
        data: Int[np.ndarray, "n"],
        sampling: Sampling,
        seed: int,
    ):
        """Groups the faces; one entry of each array a face.

        Args:
            label: class, -1 = none.
            video: name; an empty one means that the face stands alone. `x_left` and `x_right` are
                two videos.
            frame: number in the video.
            source: where it comes from.
            data: which data set: videos of different ones are different.
            sampling: what is wished for.
            seed: of everything random, not negative.

        Raises:
            FerJaxError: nothing is left to show, sources that the weights do not name, or weights
                of sources that are not there.
        """
        if seed < 0:
            raise FerJaxError(f"seed={seed} must not be negative")
        self._seed = seed
        self._sampling = sampling
        cell, shares = np.zeros(len(label), np.int64), np.ones(1)
        if weights := sampling.weights():
            cell, shares = _weighed(source, weights)
        usable = shares[cell] > 0
        classes = 1
        if sampling.balance == "class":
            usable &= label >= 0
            classes = int(label.max(initial=0)) + 1
            cell = cell * classes + np.maximum(label, 0)
        rows = np.flatnonzero(usable)
        if not rows.size:
            raise FerJaxError(
                "no faces to show: none is labelled, or all sources have the weight 0; "
                "change config.sampling or the data"
            )
        self._thinned = sampling.stride > 1 or sampling.frames_per_video > 0
        group = _groups(video[rows], data[rows]) if self._thinned else np.arange(len(rows))
        order = np.lexsort((frame[rows], group, cell[rows]))
        cell, group = cell[rows][order], group[order]
        first = np.ones(len(rows), bool)
        first[1:] = (cell[1:] != cell[:-1]) | (group[1:] != group[:-1])
        begin = np.flatnonzero(first)
        length = np.diff(np.append(begin, len(rows)))
        if sampling.frames_per_video:
            slots = np.minimum(length, sampling.frames_per_video)
        else:
            slots = np.maximum(1, length // sampling.stride)
        cells, place = np.unique(cell[begin], return_inverse=True)
        self._cell_slots = np.bincount(place, weights=slots).astype(np.int64)
        self._quotas = _quotas(cells // classes, shares, self._cell_slots, sampling)
        # What follows travels to the workers: four bytes a face.
        self._rows = rows[order].astype(np.int32)
        self._group = np.repeat(np.arange(len(begin), dtype=np.int32), length)
        self._begin, self._length, self._slots = begin, length, slots
        if not self._thinned:
            self._group = self._begin = self._length = self._slots = np.zeros(0, np.int32)
        self._cache: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Faces in an epoch, the same in each."""
        return int(self._quotas.sum())

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_cache": {}}

    def order(self, epoch: int) -> Int64[np.ndarray, "length"]:
        """The faces of an epoch in their order, as places in the arrays of the constructor.

        Args:
            epoch: from 0 on.

        Returns:
            A read-only array; the last epochs are kept.
        """
        if epoch not in self._cache:
            found = self._order(epoch)
            found.flags.writeable = False
            for old in list(self._cache)[: 1 - _KEPT_EPOCHS]:
                del self._cache[old]
            self._cache[epoch] = found
        return self._cache[epoch]

    def _order(self, epoch: int) -> np.ndarray:
        first = np.cumsum(self._cell_slots) - self._cell_slots
        walks = [first[cell] + self._walk(cell, epoch) for cell in range(len(first))]
        rows = self._rows_of_slots(epoch)[np.concatenate(walks)].astype(np.int64)
        if len(walks) > 1:
            self._generator(_SHUFFLE, epoch).shuffle(rows)
        return rows

    def _walk(self, cell: int, epoch: int) -> np.ndarray:
        """A cell's slots of one epoch: the next part of its endless random orders.

        The orders come in blocks, so that a cell of a few slots needs no generator for each.
        """
        slots, quota = int(self._cell_slots[cell]), int(self._quotas[cell])
        rounds = max(1, _BLOCK // slots)
        begin, end, size = epoch * quota, (epoch + 1) * quota, rounds * slots
        parts = []
        for block in range(begin // size, -(-end // size)):
            orders = np.tile(np.arange(slots), (rounds, 1))
            orders = self._generator(_WALK, cell, block).permuted(orders, axis=1).ravel()
            parts.append(orders[max(begin - block * size, 0) : end - block * size])
        return np.concatenate(parts)

    def _rows_of_slots(self, epoch: int) -> np.ndarray:
        """The face in each slot, which changes from epoch to epoch where videos are thinned out."""
        stride = self._sampling.stride
        if not self._thinned:
            return self._rows
        rng = self._generator(_FRAMES, epoch)
        within = np.arange(self._slots.sum()) - np.repeat(
            np.cumsum(self._slots) - self._slots, self._slots
        )
        if self._sampling.frames_per_video:
            mixed = rng.permutation(len(self._rows))
            mixed = mixed[np.argsort(self._group[mixed], kind="stable")]
            return self._rows[mixed[np.repeat(self._begin, self._slots) + within]]
        # A video of q strides and r frames more has q slots. Where the phase would give q + 1
        # frames, either the first or the last of them is left out, at random.
        phase = rng.integers(0, np.minimum(self._length, stride))
        spare = (self._length >= stride) & (phase < self._length % stride)
        phase += stride * (spare & (rng.random(len(phase)) < 0.5))
        return self._rows[np.repeat(self._begin + phase, self._slots) + stride * within]

    def _generator(self, *what: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self._seed, *what))))


def _weighed(source: np.ndarray, weights: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """(number of each face's source, share of each source)."""
    names, number = _codes(source)
    there = ", ".join(f"{name} ({n})" for name, n in zip(names, np.bincount(number), strict=True))
    unknown = [name for name in weights if name not in names]
    unnamed = [name for name in names.tolist() if name not in weights]
    if unknown or unnamed:
        fault = (
            f"there is no source {unknown[0]!r}" if unknown else f"has no weight for {unnamed[0]!r}"
        )
        raise FerJaxError(f"sampling.source_weights: {fault}; the sources are {there}")
    shares = np.array([weights[name] for name in names.tolist()])
    return number, shares / shares.sum()


def _groups(video: np.ndarray, data: np.ndarray) -> np.ndarray:
    """A number for each video of each data set, and for each face that is of none."""
    names, number = _codes(video)
    group = data.astype(np.int64) * len(names) + number
    alone = np.flatnonzero(video == "")
    group[alone] = (int(data.max()) + 1) * len(names) + np.arange(len(alone))
    return group


def _codes(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`np.unique` with the inverse, fast where equal names stand side by side."""
    first = np.ones(len(column), bool)
    first[1:] = column[1:] != column[:-1]
    names, number = np.unique(column[first], return_inverse=True)
    return names, number[np.cumsum(first) - 1]


def _quotas(
    source: np.ndarray, shares: np.ndarray, slots: np.ndarray, sampling: Sampling
) -> np.ndarray:
    """How many faces of an epoch each cell gives; at least one of each.

    Args:
        source: of each cell.
        shares: of each source; they add up to one over the sources that are there.
        slots: of each cell.
        sampling: what is wished for.
    """
    if not sampling.weights() and sampling.balance == "natural":
        return slots
    total = int(slots.sum())
    quotas = np.zeros(len(slots), np.int64)
    parts = _apportion(total, np.where(np.isin(np.arange(len(shares)), source), shares, 0.0))
    for number in np.unique(source):
        cells = np.flatnonzero(source == number)
        quotas[cells] = max(1, parts[number] // len(cells))
    return quotas


def _apportion(total: int, shares: np.ndarray) -> list[int]:
    """Whole numbers that add up to the total, each within one of its share."""
    exact = shares / shares.sum() * total
    parts = np.floor(exact).astype(np.int64)
    left = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:left]] += 1
    return parts.tolist()
