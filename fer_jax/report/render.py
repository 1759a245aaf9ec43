"""A video with what was found drawn onto it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import VideoFrame, VideoReader, read_video
from fer_jax.predict.table import PredictionTable
from fer_jax.report.hidden import HiddenFaces
from fer_jax.report.marks import draw_marks
from fer_jax.report.timeline import only_video

_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_HIGHEST_FPS = 120.0
_LONGEST_S = 60.0  # that a frame is shown: a damaged time stamp must not fill the disk


def render_video(
    table: PredictionTable,
    video: Path | str,
    out: str | os.PathLike[str],
    *,
    faces: bool = True,
    progress: bool = False,
) -> tuple[str, ...]:
    """Writes a video with a box, a label and bars of confidence at each face.

    The frame rate is constant, the one that the file names: frames are repeated or dropped by
    their time stamps, so that a video of varying rate keeps its speed, and its sound fits. Where
    the program ffmpeg is present, sound is taken over from the video. One frame is in memory at a
    time.

    Args:
        table: predictions of this video.
        video: the file.
        out: what to write, `.mp4` or `.avi`; written aside and renamed.
        faces: False covers the faces (`HiddenFaces` says how); sound stays.
        progress: show a progress bar on a terminal.

    Returns:
        What is to be told, a line each: that there is no sound, that the video is damaged.

    Raises:
        FerJaxError: the table is empty or of several videos, the video cannot be read, or `out`
            is of another kind, or cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in _CODECS:
        raise FerJaxError(f"{out}: a video is written as {' or '.join(_CODECS)}; name it so")
    only_video(table)
    reader = read_video(video)
    if out.exists() and out.samefile(reader.path):
        raise FerJaxError(f"{out}: is the video itself; name another file")
    notes: list[str] = []
    with atomic_file(out) as partial:
        _write(_drawn(table, reader, faces, progress), reader, partial, notes)
        if reader.fault:
            notes.append(f"{reader.path}: {reader.fault}")
        notes += _add_sound(partial, reader.path)
    return tuple(notes)


def _drawn(
    table: PredictionTable, reader: VideoReader, faces: bool, progress: bool
) -> Iterator[VideoFrame]:
    """The frames, drawn on in place."""
    from tqdm import tqdm

    hidden = None if faces else HiddenFaces(table)
    numbered = len(np.unique(table.face_id[table.face_id >= 0])) > 1
    order = np.lexsort((table.face_id, table.frame))
    number = table.frame[order]
    frames: Iterable[VideoFrame] = reader
    if progress:
        frames = tqdm(reader, total=reader.announced or None, unit="frame", disable=None)
    for frame in frames:
        if hidden:
            hidden.cover(frame.image, frame.time_s)
        start, stop = np.searchsorted(number, (frame.number, frame.number + 1))
        draw_marks(frame.image, table, order[start:stop].tolist(), numbered=numbered)
        yield frame


def _write(frames: Iterable[VideoFrame], reader: VideoReader, path: Path, notes: list[str]) -> None:
    fps = min(reader.fps, _HIGHEST_FPS)
    code = cv2.VideoWriter_fourcc(*_CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), code, fps, reader.size)
    if not writer.isOpened():
        raise FerJaxError(
            f"{path.suffix}: this OpenCV cannot write videos of {reader.size[0]}x{reader.size[1]} "
            "pixels; run: pip install opencv-python-headless"
        )
    written = 0
    try:
        for image, times in _paced(frames, fps, notes):
            if image.shape[1::-1] != reader.size:  # some files change it on the way
                image = cv2.resize(image, reader.size, interpolation=cv2.INTER_AREA)
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            for _ in range(times):
                writer.write(image)
            written += times
    finally:
        writer.release()
    # The writer does not tell of a full disk.
    whole = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = whole.get(cv2.CAP_PROP_FRAME_COUNT)
    whole.release()
    if found != written:
        raise FerJaxError(
            f"{path.parent}: {found:.0f} of {written} frames could be written; "
            "free some space or write elsewhere"
        )


def _paced(
    frames: Iterable[VideoFrame], fps: float, notes: list[str]
) -> Iterator[tuple[np.ndarray, int]]:
    """Each frame with how often it is to be shown, for each to be shown when it should be."""
    begin, shown, last = 0.0, 0, None
    for frame in frames:
        if last is None:
            begin = frame.time_s
        else:
            lasts = frame.time_s - last.time_s
            if lasts > _LONGEST_S:
                notes.append(
                    f"frame {last.number} is shown for {_LONGEST_S:.0f} s instead of {lasts:.0f} s"
                )
                begin += lasts - _LONGEST_S
            times = round((frame.time_s - begin) * fps) - shown
            yield last.image, times
            shown += times
        last = frame
    if last is not None:
        yield last.image, 1


def _add_sound(path: Path, video: Path) -> list[str]:
    """Puts the sound of the video into a file without any; says why it is not there."""
    if (ffmpeg := shutil.which("ffmpeg")) is None:
        return ["the annotated video has no sound: ffmpeg is not installed"]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}.") as folder:
        joined = Path(folder) / path.name
        for codec in ("copy", "aac"):  # not every sound can stand in every kind of file
            command = [
                ffmpeg, "-v", "error", "-nostdin", "-y", "-i", str(path.resolve()),
                "-i", str(video.resolve()), "-map", "0:v", "-map", "1:a?",
                "-c:v", "copy", "-c:a", codec, str(joined),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if not done.returncode:
                os.replace(joined, path)
                return []
    reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
    return [f"the annotated video has no sound: ffmpeg failed ({reason})"]
