"""Expressions in pictures: every face that is found, or each picture taken whole as a face."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from fer_jax.data.images import decode_image
from fer_jax.errors import FerJaxError
from fer_jax.predict.finish import table_of
from fer_jax.predict.frame_faces import AlignedFace, FrameFaces, faces_of_picture, wanted_alignment
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.row_file import NO_FACE, row_dtype, rows_of
from fer_jax.predict.scoring import score_faces
from fer_jax.predict.sources import Picture
from fer_jax.predict.table import PredictionTable
from fer_jax.predict.time_filter import NO_FILTER

FindFaces = Callable[[np.ndarray], tuple[AlignedFace, ...]]


def predict_pictures(
    recognizer: Recognizer,
    pictures: Iterable[Picture],
    reading: Reading,
    *,
    crops: bool = False,
    on_problem: Callable[[str], None],
) -> PredictionTable:
    """Names the expression of the faces of pictures; nothing is smoothed.

    Args:
        recognizer: of a bundle with labels.
        pictures: as of `predict.sources`.
        reading: how faces are found, and below which confidence nothing is named.
        crops: each picture is a face, aligned as those that the bundle was trained on.
        on_problem: called with one line for each file that is no picture.

    Returns:
        A row for each face, by picture; one for a picture without a face.

    Raises:
        FerJaxError: the bundle has no labels, or an array is no picture.
    """
    # Pictures are not smoothed: what the bundle says of smoothed rows is not for them.
    how = dataclasses.replace(reading, filter=NO_FILTER).finishing(recognizer, "")
    names: list[str] = []
    find = _whole if crops else _finder(recognizer, reading)
    parts = [(np.zeros(0, object), np.zeros(0, row_dtype(len(how.classes))))]
    frames = _faces(pictures, find, names, on_problem)
    with contextlib.closing(score_faces(recognizer, frames)) as scored:
        for index, (frame, raw) in enumerate(scored):
            rows = rows_of(frame, raw)
            parts.append((np.full(len(rows), names[index], object), rows))
    video, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    prob = rows["raw"].copy()
    found = rows["status"] < NO_FACE
    if how.calibrate_frames is not None:
        prob[found] = how.calibrate_frames(prob[found])
    table = table_of(how, rows, prob, np.zeros(len(rows), np.int8))
    return dataclasses.replace(table, video=video)


def _finder(recognizer: Recognizer, reading: Reading) -> FindFaces:
    detector, keep = reading.search.detector(), reading.search.keep
    size = wanted_alignment(recognizer.bundle).size
    return lambda image: faces_of_picture(image, detector, size, keep)


def _whole(image: np.ndarray) -> tuple[AlignedFace, ...]:
    height, width = image.shape[:2]
    return (AlignedFace(0, np.array([0.0, 0.0, width, height]), "ok", image),)


def _faces(
    pictures: Iterable[Picture],
    find: FindFaces,
    names: list[str],
    on_problem: Callable[[str], None],
) -> Iterator[FrameFaces]:
    """The faces of each picture; its name is added to `names`."""
    for name, number, picture in pictures:
        names.append(name)
        try:
            image = decode_image(picture.read_bytes()) if isinstance(picture, Path) else picture
            faces = find(image)
        except (FerJaxError, OSError) as error:
            if not isinstance(picture, Path):
                raise
            what = error.strerror if isinstance(error, OSError) else error
            on_problem(f"{name}: {what}; no expression is named for it, replace or remove it")
            faces = ()
        yield FrameFaces(number, 0.0, True, faces)
