"""Opens the pictures of a video on several threads, and compares the videos by their hashes."""

import collections
import concurrent.futures
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from fer_jax.data.affwild2 import Frames, frame_name
from fer_jax.data.cleaning import Cleaning
from fer_jax.data.duplicates import is_flat, picture_hash, twins
from fer_jax.data.examples import read_picture
from fer_jax.data.images import ImageError, decode_image, sharpness
from fer_jax.faces.detector import Detector

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
        poor: for each reason of cleaning the pictures that it would leave out, and what was
            measured of them.
    """

    hashes: UInt8[np.ndarray, "n 32"]
    corrupted: Mapping[int, str]
    flat: int
    sizes: Mapping[tuple[int, int], int]
    poor: Mapping[str, Mapping[int, str]]

    @classmethod
    def none(cls) -> "Pictures":
        """Where no picture was opened."""
        return cls(np.zeros((0, 32), np.uint8), {}, 0, {}, {})


class PictureReader:
    """Opens pictures on several threads."""

    def __init__(self, workers: int, *, find_faces: bool = False):
        """Starts the threads.

        Args:
            workers: how many; decoding lets the others run.
            find_faces: whether the face detector looks at each picture.
        """
        look = _Look(Detector() if find_faces else None)
        self._look_at_all = functools.partial(_look_at_all, look=look)
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
        seen = [one for chunk in self._pool.map(self._look_at_all, chunks) for one in chunk]
        hashes = np.zeros((len(seen), 32), np.uint8)
        corrupted = {}
        sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        poor: dict[str, dict[int, str]] = collections.defaultdict(dict)
        for i, (number, one) in enumerate(zip(numbers, seen, strict=True)):
            if isinstance(one, str):
                corrupted[number] = one
            else:
                hashes[i] = one.hash
                sizes[one.size] += 1
                if one.poor:
                    poor[one.poor][number] = one.measured
        flat = int(is_flat(hashes).sum()) - len(corrupted)
        return Pictures(hashes, corrupted, flat, dict(sizes), dict(poor))


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


@dataclasses.dataclass(frozen=True)
class _Seen:
    hash: np.ndarray
    size: tuple[int, int]
    poor: str
    measured: str


@dataclasses.dataclass(frozen=True)
class _Look:
    """Judges pictures one by one, by the thresholds that cleaning has unless told otherwise."""

    detector: Detector | None

    def at(self, path: Path) -> _Seen | str:
        """What is in a picture, or why it cannot be opened."""
        try:
            image = decode_image(read_picture(path))
        except ImageError as error:
            return str(error)
        hashed = picture_hash(image)
        # A picture of one colour is told as such, not as a blurred one as well.
        poor = self._poor(image) if hashed.any() else ("", "")
        return _Seen(hashed, (image.shape[1], image.shape[0]), *poor)

    def _poor(self, image: np.ndarray) -> tuple[str, str]:
        rules = Cleaning()
        if self.detector is not None:
            score = self.detector.best_score(image)
            if score < rules.min_score:
                return "non_face", f"score {score:.2g}"
        height, width = image.shape[:2]
        if min(height, width) < rules.min_size:
            return "low_resolution", f"{width}x{height}"
        sharp = sharpness(image)
        return ("blurred", f"sharpness {sharp:.3g}") if sharp < rules.min_sharpness else ("", "")


def _look_at_all(paths: Sequence[Path], *, look: _Look) -> list[_Seen | str]:
    return [look.at(path) for path in paths]
