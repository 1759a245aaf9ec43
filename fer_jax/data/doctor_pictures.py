"""Opens the pictures of a video on several threads, and compares the videos by their hashes."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from fer_jax.data.affwild2 import Frames, frame_name
from fer_jax.data.duplicates import is_flat, picture_hash, twins
from fer_jax.data.examples import read_picture
from fer_jax.data.images import ImageError, decode_image

_CHUNK = 64
_EXAMPLES = 20


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is in the pictures of one video.

    Attributes:
        hashes: one a picture; all zero where it is of one colour or cannot be opened.
        corrupted: for each picture that cannot be opened its number and why.
        flat: how many are of one colour.
        sizes: how many there are of each (width, height).
    """

    hashes: UInt8[np.ndarray, "n 32"]
    corrupted: Mapping[int, str]
    flat: int
    sizes: Mapping[tuple[int, int], int]

    @classmethod
    def none(cls) -> "Pictures":
        """Where no picture was opened."""
        return cls(np.zeros((0, 32), np.uint8), {}, 0, {})


class PictureReader:
    """Opens pictures on several threads."""

    def __init__(self, workers: int):
        """Starts the threads.

        Args:
            workers: how many; decoding lets the others run.
        """
        self._pool = concurrent.futures.ThreadPoolExecutor(workers)

    def __enter__(self) -> "PictureReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, frames: Frames) -> Pictures:
        """Opens the pictures of one video.

        Args:
            frames: which.

        Returns:
            What is in them, in the order of their numbers.
        """
        numbers = frames.numbers.tolist()
        paths = [frames.path(number) for number in numbers]
        chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
        seen = [one for chunk in self._pool.map(_look_at_all, chunks) for one in chunk]
        hashes = np.zeros((len(seen), 32), np.uint8)
        corrupted = {}
        sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        for i, (number, one) in enumerate(zip(numbers, seen, strict=True)):
            if isinstance(one, str):
                corrupted[number] = one
            else:
                hashes[i], size = one
                sizes[size] += 1
        flat = int(is_flat(hashes).sum()) - len(corrupted)
        return Pictures(hashes, corrupted, flat, dict(sizes))


@dataclasses.dataclass(frozen=True)
class Copy:
    """Two videos with the same pictures.

    Attributes:
        videos: the two.
        counts: how many pictures of each are in the other.
        examples: some pairs of pictures.
    """

    videos: tuple[str, str]
    counts: tuple[int, int]
    examples: tuple[str, ...]


def copies(
    hashed: Sequence[tuple[str, Int32[np.ndarray, "_"], UInt8[np.ndarray, "_ 32"]]],
) -> list[Copy]:
    """Finds videos that share pictures.

    Args:
        hashed: each video's name, the numbers of its pictures, and their hashes.

    Returns:
        Each pair of videos once, those with most in common first.
    """
    if not hashed:
        return []
    groups = np.repeat(np.arange(len(hashed)), [len(numbers) for _, numbers, _ in hashed])
    pairs = twins(np.concatenate([hashes for _, _, hashes in hashed]), groups)
    numbers = np.concatenate([numbers for _, numbers, _ in hashed])
    # Pictures are in the order of their videos, so the first of a pair is of the earlier video.
    pair_groups = groups[pairs]
    order = np.lexsort(pair_groups.T[::-1])
    pairs, pair_groups = pairs[order], pair_groups[order]
    starts = np.flatnonzero((np.diff(pair_groups, axis=0, prepend=-1) != 0).any(axis=1))
    found = []
    for both in np.split(pairs, starts[1:]) if starts.size else ():
        names = tuple(hashed[group][0] for group in groups[both[0]].tolist())
        examples = tuple(
            " = ".join(
                f"{name}/{frame_name(number)}"
                for name, number in zip(names, numbers[pair].tolist(), strict=True)
            )
            for pair in both[:_EXAMPLES]
        )
        counts = tuple(len(np.unique(side)) for side in both.T)
        found.append(Copy(names, counts, examples))
    return sorted(found, key=lambda copy: (-sum(copy.counts), copy.videos))


def _look_at_all(paths: Sequence[Path]) -> list[str | tuple[np.ndarray, tuple[int, int]]]:
    return [_look_at(path) for path in paths]


def _look_at(path: Path) -> str | tuple[np.ndarray, tuple[int, int]]:
    """A picture's hash and size, or why it cannot be opened."""
    try:
        image = decode_image(read_picture(path))
    except ImageError as error:
        return str(error)
    return picture_hash(image), (image.shape[1], image.shape[0])
