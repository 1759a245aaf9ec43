"""From what a user names (files, folders, arrays) to batches of faces, and the rows about them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fer_jax.data.images import EXTENSIONS, decode_image
from fer_jax.errors import FerJaxError

Source = str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str]]

# The name that the table gives it, its frame, and where it is.
Found = tuple[str, int, Path | np.ndarray]


def find_images(source: Source) -> list[Found]:
    """What there is to predict: (name, frame, path or face) in order.

    Args:
        source: see `Recognizer.predict`.

    Returns:
        Files by their path; the faces of an array under the name `array`, numbered from 1.

    Raises:
        FerJaxError: a path does not exist, or there is no image.
    """
    if isinstance(source, np.ndarray):
        faces = checked_faces(source[None] if source.ndim == 3 else source)
        found = [("array", number, face) for number, face in enumerate(faces, start=1)]
        if not found:
            raise FerJaxError("the array holds no face; give at least one")
        return found
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    files: list[Path] = []
    for path in map(Path, sources):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in EXTENSIONS
                and not file.name.startswith(".")
                and file.is_file()
            )
            if not inside:
                raise FerJaxError(
                    f"{path}: no image in this folder; name one that holds {', '.join(EXTENSIONS)}"
                )
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise FerJaxError(f"{path}: no such image or folder; check the path")
    if not files:
        raise FerJaxError("no image was named; name a file or a folder")
    return [(str(file), 1, file) for file in files]


class ImageBatches:
    """Iterates over the batches of images that can be read; says of every image what it was.

    Attributes:
        rows: the columns of the prediction table but for the probabilities, one dict an image;
            complete when the iteration has ended.
    """

    def __init__(
        self,
        images: Iterable[Found],
        prepare: Callable[[list[np.ndarray]], dict[str, np.ndarray]],
        batch_size: int,
        on_problem: Callable[[str], None],
    ):
        """Reads nothing yet.

        Args:
            images: from `find_images`.
            prepare: faces to the model's inputs.
            batch_size: images of a batch; the last may have fewer.
            on_problem: called with one line for each file that is no image.
        """
        self._images, self._prepare = images, prepare
        self._batch_size, self._on_problem = batch_size, on_problem
        self.rows: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batch: list[dict[str, np.ndarray]] = []
        for name, frame, image in self._images:
            prepared = self._read(name, frame, image)
            batch += [] if prepared is None else [prepared]
            if len(batch) == self._batch_size:
                yield _concatenate(batch)
                batch = []
        if batch:
            yield _concatenate(batch)

    def _read(
        self, name: str, frame: int, image: Path | np.ndarray
    ) -> dict[str, np.ndarray] | None:
        row = {"video": name, "frame": frame, "time_s": 0.0, "fill": "none"}
        try:
            face = decode_image(image.read_bytes()) if isinstance(image, Path) else image
            prepared = self._prepare([face])
        except (FerJaxError, OSError) as error:
            if not isinstance(image, Path):
                raise
            what = error.strerror if isinstance(error, OSError) else error
            self._on_problem(f"{name}: {what}; no expression is named for it, replace or remove it")
            nowhere = (np.nan, np.nan, np.nan, np.nan)
            self.rows.append(row | {"face_id": -1, "box": nowhere, "status": "no_face"})
            return None
        height, width = face.shape[:2]
        self.rows.append(row | {"face_id": 0, "box": (0, 0, width, height), "status": "ok"})
        return prepared


def checked_faces(faces: Any) -> UInt8[np.ndarray, "b h w 3"]:
    """The faces themselves, or an error that says what they are instead."""
    faces = np.asarray(faces)
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[-1] != 3:
        raise FerJaxError(
            f"faces are {faces.dtype} of the shape {faces.shape}; "
            "give uint8 RGB of the shape (batch, height, width, 3)"
        )
    return faces


def _concatenate(batch: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([one[name] for one in batch]) for name in batch[0]}
