"""Frames as they come: the rows of a camera, a fixed number of frames late."""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fer_jax.errors import FerJaxError
from fer_jax.ops.smoothing import window_reach
from fer_jax.ops.smoothing_stream import State, smoothing_stream
from fer_jax.predict.finish import Finishing, table_of
from fer_jax.predict.frame_faces import faces_of_frames, wanted_alignment
from fer_jax.predict.read_ahead import ReadAhead
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.row_file import NO_FACE, rows_of
from fer_jax.predict.scoring import score_faces
from fer_jax.predict.table import FILLS, PredictionTable
from fer_jax.predict.video import Frames, Progress, Reading, until_fault


class LiveRows:
    """Smooths and fills the rows of frames as they come.

    The rows are those that `predict.finish.finished` gives of the whole video with `causal`, to the
    bit; that of a frame comes when the one `delay` frames after it has been given.

    Args:
        how: every frame is looked at, `causal` is set, and windows are of frames.

    Attributes:
        delay: frames from a frame to its rows.

    Raises:
        FerJaxError: a filter that cannot be, or one of seconds.
    """

    def __init__(self, how: Finishing) -> None:
        filter_ = how.filter
        if filter_.window.seconds or filter_.stride.seconds:
            raise FerJaxError("a window of seconds: give frames, which a live filter counts")
        if how.every != 1 or not how.causal:
            raise FerJaxError("live rows are of every frame, and causal; set every=1, causal=True")
        window, stride = filter_.window.window(1.0), filter_.stride.stride(1.0)
        self.delay = window_reach(window, filter_.lookahead)[1]
        self._how = how
        self._init, self._step = _stream(
            filter_.kernel, window, stride, filter_.lookahead, filter_.width
        )
        self._states: dict[int, State] = {}
        self._last_seen: dict[int, int] = {}
        self._waiting: collections.deque[np.ndarray] = collections.deque()
        self._held: dict[int, np.ndarray] = {}
        self._seen: set[int] = set()
        self._number = 0

    def push(self, rows: np.ndarray) -> PredictionTable | None:
        """Takes the rows of the next frame, as a `RowFile` holds them.

        Returns:
            The rows of the frame `delay` frames before; None while there is none.
        """
        seen = rows[rows["status"] < NO_FACE]
        raw = seen["raw"]
        if self._how.calibrate_frames is not None and len(raw):
            raw = self._how.calibrate_frames(raw).astype(np.float32)
        self._waiting.append(rows)
        return self._advance(dict(zip(seen["face"].tolist(), raw, strict=True)))

    def flush(self) -> Iterator[PredictionTable]:
        """The rows of the last `delay` frames, when no more come."""
        for _ in range(self.delay):
            if (table := self._advance({})) is not None:
                yield table

    def _advance(self, raw: dict[int, np.ndarray]) -> PredictionTable | None:
        classes = len(self._how.classes)
        for face in raw:
            self._last_seen[face] = self._number
            if face not in self._states:
                self._states[face] = self._init(classes, self._number)
        nothing, smoothed = np.zeros(classes, np.float32), {}
        for face, state in self._states.items():
            weight = np.float32(face in raw)
            self._states[face], row, total = self._step(state, raw.get(face, nothing), weight)
            if total > 0:
                smoothed[face] = np.asarray(row)
        self._number += 1
        self._forget()
        if self._number <= self.delay or not self._waiting:
            return None
        return self._table(self._waiting.popleft(), smoothed)

    def _forget(self) -> None:
        """Drops faces whose windows have become empty; if they come back, they begin anew."""
        span = self._how.filter.window.window(1.0) + self._how.filter.stride.stride(1.0)
        for face, number in list(self._last_seen.items()):
            if self._number - number > span:
                del self._states[face], self._last_seen[face]

    def _table(self, rows: np.ndarray, smoothed: dict[int, np.ndarray]) -> PredictionTable:
        prob = np.full(rows["raw"].shape, np.nan, np.float32)
        fill = np.zeros(len(rows), np.int8)
        for index, (face, status) in enumerate(zip(rows["face"], rows["status"], strict=True)):
            whose = int(face)
            if status == NO_FACE:
                whose = next(iter(self._seen)) if len(self._seen) == 1 else -1
            else:
                self._seen.add(whose)
                if whose in smoothed:
                    self._held[whose] = prob[index] = smoothed[whose]
                    continue
            if whose in self._held:
                prob[index], fill[index] = self._held[whose], FILLS.index("hold")
        return table_of(self._how, rows, prob, fill)


@functools.cache
def _stream(kernel: str, *sizes: Any) -> tuple[Callable[..., State], Callable[..., Any]]:
    """`init` of a stream, and its `step`, compiled once: of a row also the sum before division."""
    names = ("window", "stride", "lookahead", "width")
    stream = smoothing_stream(kernel=kernel, **dict(zip(names, sizes, strict=True)))

    def step(state: State, row: Array, weight: Array) -> tuple[State, Array, Array]:
        state, row, _ = stream.step(state, row, weight)
        total = row.sum()
        divided = row / jnp.where(total > 0, total, 1) if kernel == "median" else row
        return state, divided, total

    return stream.init, jax.jit(step)


def live(
    recognizer: Recognizer,
    frames: Frames,
    name: str,
    reading: Reading,
    *,
    progress: Progress | None = None,
) -> Iterator[PredictionTable]:
    """The rows of frames as they come, each `LiveRows.delay` frames late.

    Args:
        recognizer: of a bundle with labels.
        frames: in order, such as of a `predict.video.Camera`.
        name: the table's column `video`.
        reading: what becomes of the frames; windows are of frames.
        progress: its `fault` says how it ended.

    Yields:
        The rows of one frame after the other.

    Raises:
        FerJaxError: what `LiveRows` refuses; and, after the last row, what ended the frames, if
            `progress` is not there to be told.
        KeyboardInterrupt: a keyboard stopped it; after the last row, too.
    """
    recognizer.require_labels()
    rows = LiveRows(reading.finishing(recognizer, name))
    size = wanted_alignment(recognizer.bundle).size
    done = Progress() if progress is None else progress
    sound = until_fault(frames, done)
    with (
        ReadAhead(faces_of_frames(sound, reading.search, size), 1) as found,
        contextlib.closing(score_faces(recognizer, found, prompt=True)) as scored,
    ):
        try:
            for frame, raw in scored:
                if (table := rows.push(rows_of(frame, raw))) is not None:
                    yield table
        except KeyboardInterrupt:
            yield from rows.flush()
            raise
    yield from rows.flush()
    if done.fault and progress is None:
        raise FerJaxError(done.fault)
