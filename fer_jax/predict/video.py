"""A video, a camera or any frames, from decoding to a table with a row for every frame."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import VideoError, VideoFrame, read_image
from fer_jax.predict.face_sample import FaceSample
from fer_jax.predict.finish import finished
from fer_jax.predict.frame_faces import FaceSearch, faces_of_frames, wanted_alignment
from fer_jax.predict.read_ahead import ReadAhead
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.row_file import RowFile
from fer_jax.predict.scoring import score_faces
from fer_jax.predict.table import PredictionTable

INTERRUPTED = "interrupted"

_DECODED = 4  # frames held ahead; of 8K one is 100 MB
_FOUND = 32

Frames = Iterable[VideoFrame]


@dataclasses.dataclass
class Progress:
    """What a run over a video did, filled in while it runs.

    Attributes:
        frames: finished so far.
        fault: what ended it early, or is missing from it; "" if nothing.
        seconds: of the processor by stage (`decode`, `find`, `prepare`), and `total` of the clock.
    """

    frames: int = 0
    fault: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def scored_rows(
    recognizer: Recognizer,
    frames: Frames,
    search: FaceSearch,
    *,
    progress: Progress | None = None,
    on_frame: Callable[[], None] = lambda: None,
    sample: FaceSample | None = None,
) -> RowFile:
    """The faces of every frame with their scores.

    Decoding, searching, preparing and the model overlap, each in a thread of its own. Memory does
    not grow with the number of frames. Where the frames end in an error or an interrupt, what came
    before it is kept.

    Args:
        recognizer: of a bundle with labels.
        frames: in order; a `VideoReader`, a `Camera`, or any.
        search: how faces are found.
        progress: filled in.
        on_frame: called after each frame.
        sample: keeps some of the faces.

    Returns:
        The rows, to be closed.

    Raises:
        FerJaxError: the bundle has no labels, or not one frame could be had.
        KeyboardInterrupt: a keyboard stopped it before the first frame.
    """
    recognizer.require_labels()
    progress = Progress() if progress is None else progress
    size = wanted_alignment(recognizer.bundle).size
    begun = time.perf_counter()
    seconds = progress.seconds
    interrupted = False
    with (
        contextlib.ExitStack() as unfinished,
        ReadAhead(until_fault(frames, progress), _DECODED) as decoded,
        ReadAhead(faces_of_frames(decoded, search, size), _FOUND) as found,
        contextlib.closing(
            score_faces(recognizer, sample.of(found) if sample else found, seconds=seconds)
        ) as scored,
    ):
        rows = unfinished.enter_context(RowFile(len(recognizer.classes)))
        try:
            for frame, raw in scored:
                rows.append(frame, raw)
                progress.frames += 1
                on_frame()
        except KeyboardInterrupt:
            if not rows.frames:
                raise
            interrupted = True
        seconds |= {"decode": decoded.seconds, "find": found.seconds}
        if not rows.frames:
            raise VideoError(progress.fault or "no frame came")
        unfinished.pop_all()
    if interrupted:  # said last: the threads, which have ended now, tell of their faults there, too
        progress.fault = INTERRUPTED
    seconds["total"] = time.perf_counter() - begun
    return rows


def predict_video(
    recognizer: Recognizer,
    frames: Frames,
    name: str,
    reading: Reading,
    *,
    progress: Progress | None = None,
    on_frame: Callable[[], None] = lambda: None,
    sample: FaceSample | None = None,
) -> Iterator[PredictionTable]:
    """The prediction table of a video, in blocks of some thousand frames.

    Args:
        recognizer: of a bundle with labels.
        frames: as for `scored_rows`, as are `progress`, `on_frame` and `sample`.
        name: the table's column `video`.
        reading: what becomes of the frames.
        progress: as above.
        on_frame: as above.
        sample: as above.

    Yields:
        Rows by frame, then by face: at least one for each frame.

    Raises:
        FerJaxError: as `scored_rows`; or a filter that cannot be.
    """
    how = reading.finishing(recognizer, name)
    options = {"progress": progress, "on_frame": on_frame, "sample": sample}
    with scored_rows(recognizer, frames, reading.search, **options) as rows:
        yield from finished(rows, how)


class Camera:
    """The frames of a camera, as long as it gives any; time stamps are those of their arrival.

    Args:
        index: 0 is the first camera.

    Attributes:
        fault: why it ended; known after an iteration.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.fault = ""

    def __iter__(self) -> Iterator[VideoFrame]:
        capture = cv2.VideoCapture(self.index)
        try:
            if not capture.isOpened():
                raise VideoError(f"camera {self.index}: cannot be opened; see that it is connected")
            number, begun, last_s = 0, time.monotonic(), -1.0
            while True:
                image = read_image(capture)
                if image is None:
                    self.fault = f"camera {self.index}: gives no more frames; see to its cable"
                    return
                number += 1
                last_s = max(time.monotonic() - begun, last_s + 1e-6)
                yield VideoFrame(number, last_s, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        finally:
            capture.release()


def frames_of_arrays(arrays: Iterable[Any], fps: float) -> Iterator[VideoFrame]:
    """Frames of arrays, of pairs (seconds, array), or frames as they are.

    Args:
        arrays: uint8 RGB `[height, width, 3]`.
        fps: frames a second, where arrays have no times of their own.

    Yields:
        The frames, numbered from 1.

    Raises:
        FerJaxError: something that is no picture, time that does not pass, or no frame rate.
    """
    if not fps > 0:
        raise FerJaxError(f"{fps=} must be above 0 frames a second")
    last_s = -np.inf
    for number, item in enumerate(arrays, start=1):
        if isinstance(item, VideoFrame):
            yield item
            continue
        time_s, image = item if isinstance(item, tuple) else ((number - 1) / fps, item)
        if not time_s > last_s:
            raise FerJaxError(
                f"frame {number} at {time_s} s does not come after that at {last_s} s"
            )
        last_s = time_s
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise FerJaxError(
                f"frame {number} is {image.dtype} of the shape {image.shape}; "
                "give uint8 RGB of the shape (height, width, 3)"
            )
        yield VideoFrame(number, float(time_s), image)


def until_fault(frames: Frames, progress: Progress) -> Iterator[VideoFrame]:
    """The frames up to an error, so that those before it come to their end.

    Args:
        frames: in order.
        progress: its `fault` says what went wrong, or what the frames themselves say is missing.

    Yields:
        The frames.
    """
    try:
        yield from frames
    except (FerJaxError, OSError, cv2.error) as error:
        progress.fault = (str(error).strip() or repr(error)).splitlines()[0]
    else:
        progress.fault = getattr(frames, "fault", "")
