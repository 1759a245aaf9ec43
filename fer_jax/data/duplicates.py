"""Finds the same picture under several names, though it was re-encoded or resized in between.

A picture's hash is the signs of its low cosine frequencies: 256 bits, of which half differ between
two pictures, while a JPEG encoder or a change of size flips a few. Measured on 9,450 aligned faces
of 112 pixels (EffectNet), 3,000 of them copied, and 4,575 loose ones (ExpW):

    at most ... bits apart                  8       12      16      20      28
    copies at JPEG quality 60               99.7 %  99.9 %  100 %   100 %   100 %
    copies at 112/96 the size, quality 60   99.1 %  99.8 %  99.97 % 100 %   100 %
    pairs of the 45 million of EffectNet    15      64      153     262     473
    pairs of the 10 million of ExpW         18      23      28      30      31

All 48 pairs of EffectNet that were looked at, 9 to 12 and 24 to 30 bits apart, show one picture,
at most coloured or cut in another way; different people begin near 36. So the default of 12 misses
one copy in 500 at worst, and leaves a wide gap to what only looks alike. (The sign of horizontal
differences, a common choice, does not do for aligned faces: within 32 of its 256 bits are 3,201
pairs of EffectNet, within 32 of these 551.) Faces enlarged from 24 pixels are found as sharp ones
are, of those from 16 pixels 93 % of the copies at quality 60; what is blurred more is missed.
"""

import functools

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, UInt8

from fer_jax.errors import FerJaxError

DEFAULT_DISTANCE = 12
MOST_DISTANT = 24
MOST_GROUPS = 4

_FREQUENCIES = 16
_LEAST_CONTRAST = 3.0  # grey levels; noise of a JPEG of one colour is below 1
_WINDOW = 256
_CHUNK = 1 << 18
_PENDING = 1 << 22


def picture_hash(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "32"]:
    """The signs of the grey picture's cosine frequencies, 1 to 16 half waves in both directions.

    The mean and the plain gradients across and down are left out, so light and exposure matter
    little. A flat picture, such as a black frame, has nothing to know it by: its hash is all zero.

    Args:
        image: uint8 RGB.

    Returns:
        The hash, 256 bits.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if cv2.meanStdDev(grey)[1].item() < _LEAST_CONTRAST:
        return np.zeros(_FREQUENCIES**2 // 8, np.uint8)
    height, width = grey.shape
    frequencies = _waves(height) @ grey.astype(np.float32) @ _waves(width).T
    return np.packbits(frequencies.ravel() > 0)


@functools.lru_cache(maxsize=64)
def _waves(length: int) -> Float32[np.ndarray, "16 length"]:
    positions = (np.arange(length) + 0.5) / length
    return np.cos(np.pi * np.arange(1, _FREQUENCIES + 1)[:, None] * positions).astype(np.float32)


def is_flat(hashes: UInt8[np.ndarray, "n 32"]) -> Bool[np.ndarray, "n"]:
    """Which hashes are of flat pictures; these match nothing."""
    return ~hashes.any(axis=1)


def twins(
    hashes: UInt8[np.ndarray, "n 32"],
    groups: Int[np.ndarray, "n"],
    *,
    distance: int = DEFAULT_DISTANCE,
) -> Int64[np.ndarray, "m 2"]:
    """Finds pictures of different groups that are the same.

    Each picture is paired with its nearest in each other group (the first of equals), if that is
    within the distance; of more than `MOST_GROUPS` such groups the nearest are taken. Two hashes
    within distance d agree in one of d + 1 bands of bits at least, so only those that agree in a
    band are compared. Where more than 256 pictures of several groups agree in one band, they are
    sorted by the bits that follow and each is compared with the next 256: then a nearer one, or a
    pair, may be missed. Time is bounded by n x 256 x (d + 1) comparisons and is usually far less.

    Args:
        hashes: of `picture_hash`.
        groups: such as the number of the picture's video; pairs within one are not looked for.
        distance: most bits that may differ.

    Returns:
        Pairs (i, j) with i < j, sorted, each once.

    Raises:
        FerJaxError: the distance is outside [0, 24].
    """
    if not 0 <= distance <= MOST_DISTANT:
        raise FerJaxError(
            f"{distance=} is outside [0, {MOST_DISTANT}] bits; {DEFAULT_DISTANCE} is proven"
        )
    words = np.ascontiguousarray(hashes).view(">u8").astype(np.uint64).reshape(-1, 4)
    group_numbers = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    rows = np.flatnonzero(~is_flat(hashes))
    order = rows[np.lexsort((*words[rows].T, group_numbers[rows]))]
    # Frames of a still video are often equal: each set of equal ones is searched for once.
    fresh = np.ones(len(order), bool)
    fresh[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    fresh[1:] |= group_numbers[order[1:]] != group_numbers[order[:-1]]
    starts = np.flatnonzero(fresh)
    first = order[starts]
    nearest = _Nearest(first, group_numbers[first])
    _search(words[first], group_numbers[first], distance, nearest)
    picture, partner = nearest.result()
    members = np.diff(np.append(starts, len(order)))[picture]
    offsets = np.arange(members.sum()) - np.repeat(np.cumsum(members) - members, members)
    i = order[np.repeat(starts[picture], members) + offsets]
    j = np.repeat(first[partner], members)
    pairs = np.unique(np.minimum(i, j) * len(hashes) + np.maximum(i, j))
    return np.stack([pairs // max(len(hashes), 1), pairs % max(len(hashes), 1)], axis=1)


class _Nearest:
    """For each picture and other group the nearest found so far."""

    def __init__(self, rows: np.ndarray, groups: np.ndarray):
        self.rows = rows
        self.groups = groups
        self.table = np.zeros((3, 0), np.int64)  # picture, partner, distance and partner's row
        self.pending: list[np.ndarray] = []
        # Still videos give thousands of pairs a picture. Most are known to be no use at once:
        # farther than one found last in the same group, or than the last group's that is kept.
        self.last_group = np.full(len(rows), -1, np.int32)
        self.last_rank = np.zeros(len(rows), np.int64)
        self.limit = np.full(len(rows), np.iinfo(np.int64).max)

    def add(self, i: np.ndarray, j: np.ndarray, distances: np.ndarray) -> None:
        for picture, partner in ((i, j), (j, i)):
            rank = distances << 48 | self.rows[partner]
            group = self.groups[partner]
            use = (self.last_group[picture] != group) | (rank < self.last_rank[picture])
            use &= rank < self.limit[picture]
            picture, partner, rank, group = picture[use], partner[use], rank[use], group[use]
            self.last_group[picture] = group
            self.last_rank[picture] = rank
            self.pending.append(np.stack([picture, partner, rank]))
        if sum(found.shape[1] for found in self.pending) > _PENDING:
            self._reduce()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        self._reduce()
        return self.table[0], self.table[1]

    def _reduce(self) -> None:
        table = np.concatenate([self.table, *self.pending], axis=1)
        self.pending = []
        picture, partner, rank = table
        groups = self.groups[partner]
        order = np.lexsort((rank, groups, picture))
        table, groups = table[:, order], groups[order]
        keep = np.ones(len(groups), bool)
        keep[1:] = (table[0, 1:] != table[0, :-1]) | (groups[1:] != groups[:-1])
        table, groups = table[:, keep], groups[keep]
        order = np.lexsort((groups, table[2] >> 48, table[0]))
        table = table[:, order]
        place = np.arange(table.shape[1]) - np.searchsorted(table[0], table[0])
        self.table = table[:, place < MOST_GROUPS]
        full = table[:, place == MOST_GROUPS - 1]
        self.limit[full[0]] = ((full[2] >> 48) + 1) << 48  # as near, but of an earlier group


def _search(words: np.ndarray, groups: np.ndarray, distance: int, nearest: _Nearest) -> None:
    """Compares those that agree in a band of bits."""
    bands = distance + 1
    width = 256 // bands
    for band in range(bands):
        keys = _bits_from(words, band * width)
        order = np.argsort(keys)
        buckets = keys[order] >> np.uint64(64 - min(width, 64))
        starts = np.flatnonzero(np.append(True, buckets[1:] != buckets[:-1])[: len(buckets)])
        if not starts.size:
            return
        lengths = np.diff(np.append(starts, len(order)))
        sorted_groups = groups[order]
        lowest = np.minimum.reduceat(sorted_groups, starts)
        mixed = np.repeat(lowest != np.maximum.reduceat(sorted_groups, starts), lengths)
        ends = np.repeat(np.cumsum(mixed)[starts + lengths - 1], lengths)[mixed]
        order = order[mixed]
        _compare_neighbours(words[order], groups[order], ends, order, distance, nearest)


def _compare_neighbours(
    words: np.ndarray,
    groups: np.ndarray,
    ends: np.ndarray,
    names: np.ndarray,
    distance: int,
    nearest: _Nearest,
) -> None:
    """Compares each with those after it, up to the end of its bucket."""
    alive = np.arange(len(words))
    for step in range(1, _WINDOW + 1):
        alive = alive[alive + step < ends[alive]]
        if not alive.size:
            return
        for chunk in np.array_split(alive, -(-alive.size // _CHUNK)):
            i = chunk[groups[chunk] != groups[chunk + step]]
            j = i + step
            distances = np.bitwise_count(words[i] ^ words[j]).sum(axis=1, dtype=np.int64)
            near = distances <= distance
            if near.any():
                nearest.add(names[i[near]], names[j[near]], distances[near])


def _bits_from(words: np.ndarray, offset: int) -> np.ndarray:
    """The 64 bits from an offset on; after the last comes the first."""
    word, shift = divmod(offset, 64)
    if not shift:
        return words[:, word].copy()
    following = words[:, (word + 1) % 4] >> np.uint64(64 - shift)
    return (words[:, word] << np.uint64(shift)) | following
