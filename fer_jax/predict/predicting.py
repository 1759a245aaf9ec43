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
from fer_jax.predict.video import INTERRUPTED, Camera, Progress, frames_of_arrays, predict_video

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
        if crops:
            raise FerJaxError("crops=True is of pictures, each a face; leave it out for frames")
        blocks = _blocks(recognizer, frames, name_of(source), reading, tell, progress, Progress())
        return concatenated(list(blocks))
    pictures, videos = find_files(source)
    if crops and videos:
        raise FerJaxError(f"crops=True is of pictures, each a face; {videos[0]} is a video")
    options = {"crops": crops, "on_problem": tell, "progress": progress}
    tables = []
    try:
        for table in tables_of(recognizer, pictures, videos, reading, **options):
            tables.append(table)
    except KeyboardInterrupt:
        if not tables:
            raise
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
        KeyboardInterrupt: a keyboard stopped it; after the rows so far.
    """
    if pictures:
        with tqdm(pictures_of_files(pictures), unit="picture", disable=_hidden(progress)) as bar:
            yield predict_pictures(recognizer, bar, reading, crops=crops, on_problem=on_problem)
    for path in videos:
        try:
            frames, done = read_video(path), Progress()
            options = (on_problem, progress, done, sample)
            yield from _blocks(recognizer, frames, str(path), reading, *options)
            if done.fault == INTERRUPTED:
                raise KeyboardInterrupt
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
    done: Progress,
    sample: FaceSample | None = None,
) -> Iterator[PredictionTable]:
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


def name_of(source: Source) -> str:
    """What the column `video` says of a source that is no folder or list of files."""
    if isinstance(source, int):
        return f"camera {source}"
    return str(source) if isinstance(source, (str, os.PathLike)) else "frames"


def live_frames(source: Source, fps: float) -> Iterable[VideoFrame]:
    """The frames of one source, as they come.

    Args:
        source: a camera's number, a video file, or an iterable of frames.
        fps: frames a second, where frames have no times of their own.

    Raises:
        FerJaxError: the file is no video.
    """
    frames = frames_of(source, fps)
    return read_video(source) if frames is None else frames
