"""What a user names: files, folders, arrays; sorted into pictures and videos."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fer_jax.data.images import EXTENSIONS
from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import VIDEO_EXTENSIONS

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Source = Paths | np.ndarray | int | Iterable[Any]

# The name that the table gives it, its frame, and where it is.
Picture = tuple[str, int, Path | np.ndarray]


def find_files(paths: Paths, *, without: Path | None = None) -> tuple[list[Path], list[Path]]:
    """The pictures and the videos that are named.

    Args:
        paths: files and folders; what is in a folder is told by its extension, a file that is
            named is a video unless it has the extension of a picture.
        without: a folder that is passed over where it lies in one that is named, such as that
            of the results.

    Returns:
        Pictures and videos, sorted within each folder.

    Raises:
        FerJaxError: a path does not exist or is no file, or there is neither.
    """
    sources = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    pictures: list[Path] = []
    videos: list[Path] = []
    for path in map(Path, sources):
        if path.is_dir():
            skipped = _below(without, path)
            inside = sorted(
                file
                for file in path.rglob("*")
                if _wanted(file)
                and not file.name.startswith(".")
                and not (skipped and file.is_relative_to(skipped))
            )
            if not inside:
                raise FerJaxError(
                    f"{path}: no picture or video in this folder; name one that holds "
                    f"{', '.join((*EXTENSIONS, *VIDEO_EXTENSIONS))}"
                )
        elif path.is_file():
            inside = [path]
        elif path.exists():  # a pipe would be waited for
            raise FerJaxError(f"{path}: is no file but a pipe or device; name a picture or a video")
        else:
            raise FerJaxError(f"{path}: no such picture, video or folder; check the path")
        for file in inside:
            (pictures if file.suffix.lower() in EXTENSIONS else videos).append(file)
    if not pictures and not videos:
        raise FerJaxError("nothing was named; name a picture, a video or a folder")
    return pictures, videos


def _below(folder: Path | None, above: Path) -> Path | None:
    """A folder by its path from `above`, where it is below that."""
    if folder is None or above.resolve() not in folder.resolve().parents:
        return None
    return above / folder.resolve().relative_to(above.resolve())


def _wanted(file: Path) -> bool:
    return file.suffix.lower() in (*EXTENSIONS, *VIDEO_EXTENSIONS) and file.is_file()


def pictures_of_files(files: Sequence[Path]) -> list[Picture]:
    """Files as pictures, by their path."""
    return [(str(file), 1, file) for file in files]


def pictures_of_array(array: np.ndarray) -> list[Picture]:
    """The pictures of an array `[height, width, 3]` or `[n, height, width, 3]`, uint8 RGB.

    Raises:
        FerJaxError: it is no such array, or holds none.
    """
    images = checked_faces(array[None] if array.ndim == 3 else array)
    found: list[Picture] = [("array", number, image) for number, image in enumerate(images, 1)]
    if not found:
        raise FerJaxError("the array holds no picture; give at least one")
    return found


def checked_faces(faces: Any) -> UInt8[np.ndarray, "b h w 3"]:
    """The faces themselves, or an error that says what they are instead."""
    faces = np.asarray(faces)
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[-1] != 3:
        raise FerJaxError(
            f"faces are {faces.dtype} of the shape {faces.shape}; "
            "give uint8 RGB of the shape (batch, height, width, 3)"
        )
    return faces
