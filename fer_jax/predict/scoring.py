"""Scores of the faces of frames: batches of one shape, across faces and frames."""

import collections
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

from fer_jax.predict.frame_faces import FrameFaces
from fer_jax.predict.read_ahead import ReadAhead
from fer_jax.predict.recognizer import Recognizer, softmax

_MOST_WAITING = 256  # frames without a face that wait for a batch to become full

Scored = tuple[FrameFaces, Float32[np.ndarray, "face class"]]


def score_faces(
    recognizer: Recognizer,
    frames: Iterable[FrameFaces],
    *,
    prompt: bool = False,
    seconds: dict[str, float] | None = None,
) -> Iterator[Scored]:
    """Probabilities of the expressions of each face of each frame, in order.

    Batches are prepared in a thread while the model runs.

    Args:
        recognizer: of a bundle with labels.
        frames: in order.
        prompt: score each frame at once instead of waiting for a full batch.
        seconds: of the processor, that preparing took, are put in here as `prepare`.

    Yields:
        Each frame with the probabilities of its faces, float32.
    """
    waiting: collections.deque[FrameFaces] = collections.deque()
    scores: collections.deque[np.ndarray] = collections.deque()
    batches = _batches(frames, recognizer, prompt)
    with ReadAhead(batches, 1 if prompt else 4) as ahead:
        told = _Told(ahead)
        for logits, _ in recognizer.stream(told, ahead=0 if prompt else 1):
            scores.extend(softmax(logits))
            waiting.extend(told.frames.popleft())
            while waiting and len(waiting[0].faces) <= len(scores):
                frame = waiting.popleft()
                rows = [scores.popleft() for _ in frame.faces]
                yield frame, np.array(rows, np.float32).reshape(-1, len(recognizer.classes))
        if seconds is not None:
            seconds["prepare"] = ahead.seconds


class _Told:
    """The inputs of batches; which frames came with each is kept until it is asked for."""

    def __init__(self, batches: Iterable[tuple[list[FrameFaces], dict[str, np.ndarray]]]):
        self._batches = batches
        self.frames: collections.deque[list[FrameFaces]] = collections.deque()

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for frames, inputs in self._batches:
            self.frames.append(frames)
            yield inputs


def _batches(
    frames: Iterable[FrameFaces], recognizer: Recognizer, prompt: bool
) -> Iterator[tuple[list[FrameFaces], dict[str, np.ndarray]]]:
    """Frames as they begin, and the inputs of a batch; a frame's faces may go on in the next."""
    size = recognizer.batch_size
    begun: list[FrameFaces] = []
    images: list[np.ndarray] = []
    for frame in frames:
        begun.append(frame)
        images += [face.image for face in frame.faces]
        while len(images) >= size:
            yield begun, recognizer.prepare(images[:size])
            begun, images = [], images[size:]
        if begun and (prompt or len(begun) >= _MOST_WAITING):
            yield begun, recognizer.prepare(images)
            begun, images = [], []
    if begun or images:
        yield begun, recognizer.prepare(images)
