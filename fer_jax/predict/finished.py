"""Predictions of videos that are done, kept until the run that they belong to has ended."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from fer_jax.atomic import atomic_file
from fer_jax.bundle import DOCUMENT_FILE
from fer_jax.data.affwild2_files import Frames
from fer_jax.data.units import folder_state
from fer_jax.predict.about import bundle_fields, file_sha256
from fer_jax.predict.recognizer import Recognizer

_PREFIX = "done-"


@dataclasses.dataclass(frozen=True, eq=False)
class VideoPredictions:
    """What was predicted of one video.

    Attributes:
        frame: of each crop that could be read, ascending.
        probabilities: of each.
        problems: one line for each crop that could not be read.
    """

    frame: Int32[np.ndarray, "seen"]
    probabilities: Float32[np.ndarray, "seen class"]
    problems: tuple[str, ...]


class FinishedVideos:
    """A folder with a file for each finished video, so that a run that was killed goes on.

    A file counts for the same bundle, computed in the same way, on the same crops or videos:
    their names, sizes and times.
    """

    def __init__(self, folder: Path, recognizer: Recognizer):
        """Makes nothing yet.

        Args:
            folder: made when the first video is done.
            recognizer: of a bundle that was read from a folder.
        """
        self._folder = folder
        document = file_sha256(recognizer.path / DOCUMENT_FILE)
        self._made_by = json.dumps([bundle_fields(recognizer), document])

    def path(self, frames: Frames) -> Path:
        """Where the predictions of a video's crops are, or will be."""
        folder = os.fsencode(os.path.abspath(frames.folder))
        return self.path_of(
            folder + frames.numbers.tobytes() + folder_state(frames.folder).encode()
        )

    def path_of(self, state: bytes) -> Path:
        """Where the predictions of something are, or will be; `state` changes as it does."""
        digest = hashlib.sha256(self._made_by.encode("utf-8", "surrogateescape"))
        digest.update(state)
        return self._folder / f"{_PREFIX}{digest.hexdigest()}.npz"

    def read(self, path: Path) -> VideoPredictions | None:
        """What an earlier run left there; None where it left nothing."""
        if not path.is_file():
            return None
        with np.load(path) as found:
            problems = tuple(found["problems"].tolist())
            return VideoPredictions(found["frame"], found["probabilities"], problems)

    def write(self, path: Path, video: VideoPredictions) -> None:
        """Keeps what was predicted."""
        columns = dataclasses.asdict(video) | {"problems": np.asarray(video.problems, np.str_)}
        with atomic_file(path) as partial:
            np.savez(partial, **columns)

    def remove(self) -> None:
        """Removes all that was kept; whatever else is in the folder stays, and the folder then."""
        if not self._folder.is_dir():
            return
        for pattern in (f"{_PREFIX}*.npz", f".{_PREFIX}*.npz"):
            for path in self._folder.glob(pattern):
                path.unlink()
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
