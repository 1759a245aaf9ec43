"""One call for whatever a user has: pictures, folders, videos, a camera, frames."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import VideoError, VideoFrame, read_video
from fer_jax.predict.face_sample import FaceSample
from fer_jax.predict.frame_faces import wanted_alignment
from fer_jax.predict.pictures import predict_pictures
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.sources import (
    Source,
    find_files,
    pictures_of_array,
    pictures_of_files,
)
from fer_jax.predict.table import PredictionTable, concatenated
from fer_jax.predict.video import Camera, Progress, frames_of_arrays, predict_video

OnProblem = Callable[[str], None]


def predict(
    recognizer: Recognizer,
    source: Source,
    reading: Reading,
    *,
    crops: bool = False,
    fps: float = 25.0,
    on_problem: OnProblem | None = None,
    progress: bool = False,
) -> PredictionTable:
    """See `Recognizer.predict`, which this is."""
    recognizer.require_labels()
    tell = _warn if on_problem is None else on_problem
    if not crops and (note := wanted_alignment(recognizer.bundle).note):
        tell(note)
    if isinstance(source, np.ndarray):
        pictures = pictures_of_array(source)
        return predict_pictures(recognizer, pictures, reading, crops=crops, on_problem=tell)
    if (frames := frames_of(source, fps)) is not None:
        name = f"camera {source}" if isinstance(source, int) else "frames"
        return concatenated(list(_blocks(recognizer, frames, name, reading, tell, progress)))
    pictures, videos = find_files(source)
    options = {"crops": crops, "on_problem": tell, "progress": progress}
    tables = list(tables_of(recognizer, pictures, videos, reading, **options))
    if not tables:
        raise FerJaxError(f"none of {len(videos)} videos could be read; see the lines before")
    return concatenated(tables)


def tables_of(
    recognizer: Recognizer,
    pictures: Sequence[Path],
    videos: Sequence[Path],
    reading: Reading,
    *,
    crops: bool = False,
    on_problem: OnProblem,
    progress: bool = False,
    sample: FaceSample | None = None,
) -> Iterator[PredictionTable]:
    """The rows of files, block by block: pictures, then one video after the other.

    Args:
        recognizer: of a bundle with labels.
        pictures: files, as are `videos`.
        videos: one that cannot be read is told and passed by, unless it is all there is.
        reading: what becomes of them.
        crops: pictures are faces.
        on_problem: called with a line for each thing that goes wrong.
        progress: show a bar if there is a terminal.
        sample: keeps some of the videos' faces.

    Yields:
        Tables of at least one row.

    Raises:
        FerJaxError: the only file is a video that cannot be read.
    """
    if pictures:
        with tqdm(pictures_of_files(pictures), unit="picture", disable=_hidden(progress)) as bar:
            yield predict_pictures(recognizer, bar, reading, crops=crops, on_problem=on_problem)
    for path in videos:
        try:
            frames = read_video(path)
            yield from _blocks(recognizer, frames, str(path), reading, on_problem, progress, sample)
        except VideoError as error:
            if len(pictures) + len(videos) == 1:
                raise
            on_problem(str(error))


def frames_of(source: Any, fps: float) -> Iterable[VideoFrame] | None:
    """The frames of a camera's number or of an iterable of frames; None for files and folders.

    Args:
        source: as of `Recognizer.predict`.
        fps: frames a second, where frames have no times of their own.
    """
    if isinstance(source, int):
        return Camera(source)
    if isinstance(source, (str, os.PathLike)):
        return None
    if isinstance(source, (list, tuple)):
        files = all(isinstance(item, (str, os.PathLike)) for item in source)
        return None if files else frames_of_arrays(source, fps)
    return frames_of_arrays(source, fps)


def _blocks(
    recognizer: Recognizer,
    frames: Iterable[VideoFrame],
    name: str,
    reading: Reading,
    tell: OnProblem,
    progress: bool,
    sample: FaceSample | None = None,
) -> Iterator[PredictionTable]:
    done = Progress()
    total = getattr(frames, "announced", 0) or None
    with tqdm(desc=Path(name).name, total=total, unit="frame", disable=_hidden(progress)) as bar:
        options = {"progress": done, "on_frame": bar.update, "sample": sample}
        yield from predict_video(recognizer, frames, name, reading, **options)
    if done.fault:
        tell(done.fault if done.fault.startswith(name) else f"{name}: {done.fault}")


def _hidden(progress: bool) -> bool | None:
    """For tqdm: None shows a bar on a terminal."""
    return None if progress else True


def _warn(problem: str) -> None:
    warnings.warn(problem, stacklevel=2)


def live_frames(source: Source, fps: float) -> Iterator[VideoFrame]:
    """The frames of one source, as they come.

    Args:
        source: a camera's number, a video file, or an iterable of frames.
        fps: frames a second, where frames have no times of their own.

    Raises:
        FerJaxError: the file is no video.
    """
    frames = frames_of(source, fps)
    return iter(read_video(source) if frames is None else frames)
