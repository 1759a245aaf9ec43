"""What drawn people do over time: expressions that last and melt into each other, moving heads."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_jax.data.face_drawing.parameters import Expression, Pose

_CHANGE_S = 0.28  # from one expression to the next
_BLINK_S = 0.2
_LEAVE_S = 0.5  # from within the picture to outside of it, or from facing the camera to the side


@dataclasses.dataclass(frozen=True)
class Absence:
    """A time in which a person's face is not to be seen.

    Attributes:
        start: first frame, from 0.
        frames: how many, the way out and back included.
        turned: the back of the head is shown; otherwise the person leaves the picture.
    """

    start: int
    frames: int
    turned: bool


def sample_spans(
    rng: np.random.Generator,
    frames: int,
    fps: float,
    *,
    shortest_s: float = 0.5,
    longest_s: float = 3.0,
) -> Int[np.ndarray, " n"]:
    """Divides a film into spans that each show one expression.

    Args:
        rng: two generators in the same state give the same spans.
        frames: of the film.
        fps: frames a second.
        shortest_s: seconds that a span lasts at least, but for a film that is shorter.
        longest_s: seconds that a span lasts at most.

    Returns:
        How many frames each span has; their sum is `frames`.
    """
    shortest, longest = max(1, round(shortest_s * fps)), max(2, int(longest_s * fps))
    spans: list[int] = []
    left = frames
    while left > longest:
        # What is left must be nothing, or long enough for a span.
        spans.append(int(rng.integers(shortest, min(longest, left - shortest) + 1)))
        left -= spans[-1]
    return np.array([*spans, left])


def perform(
    targets: Sequence[Expression],
    spans: Int[np.ndarray, " n"],
    fps: float,
    rng: np.random.Generator,
) -> list[Expression]:
    """Plays expressions one after the other, with smooth changes, and blinks in between.

    Args:
        targets: one expression for each span.
        spans: frames of each.
        fps: frames a second.
        rng: of how strongly each is shown, and of the blinks.

    Returns:
        One expression for each frame. A change is centred on the first frame of the new span.
    """
    seconds = np.arange(int(spans.sum())) / fps
    strength = 0.9 + 0.1 * _drift(rng, seconds, period_s=(1.0, 3.0))
    fields = [field.name for field in dataclasses.fields(Expression)]
    shown = np.array([dataclasses.astuple(target) for target in targets])
    played = np.repeat(shown[:1], len(seconds), axis=0)
    # Counted to the middle of the frame, so that the change is half way between two frames.
    middle = np.arange(len(seconds)) + 0.5
    for target, start in zip(shown[1:], np.cumsum(spans).tolist(), strict=False):
        part = _smooth((middle - start) / (_CHANGE_S * fps) + 0.5)[:, None]
        played = (1 - part) * played + part * target
    played *= strength[:, None]
    for name in ("gaze_x", "gaze_y"):
        column = played[:, fields.index(name)]
        column += 0.35 * _drift(rng, seconds, period_s=(1.0, 4.0))
        np.clip(column, -1, 1, out=column)
    shut = _blinks(rng, seconds)
    for name in ("blink_left", "blink_right"):
        column = played[:, fields.index(name)]
        np.maximum(column, shut, out=column)
    return [Expression(*row) for row in played.tolist()]


def move(
    frames: int,
    fps: float,
    rng: np.random.Generator,
    *,
    aspect: float,
    centre: float,
    reach: float,
    scales: tuple[float, float],
    absences: Sequence[Absence] = (),
) -> tuple[list[Pose], Bool[np.ndarray, " n"]]:
    """Moves a head about its place in a frame: it turns, nods, sways, comes nearer and goes back.

    Args:
        frames: how many.
        fps: frames a second.
        rng: two generators in the same state give the same movement.
        aspect: width of the frame by its height.
        centre: of the movement, as a share of the frame's width.
        reach: how far the head goes to each side, as a share of the frame's width.
        scales: smallest and largest side of the aligned face, as a share of the frame's height.
        absences: when the face is not to be seen.

    Returns:
        The pose in each frame, for a square as high as the frame, and whether the back of the head
        is shown.
    """
    seconds = np.arange(frames) / fps

    def drift(*period_s: float) -> np.ndarray:
        return _drift(rng, seconds, period_s=period_s)

    yaw, pitch, roll = 21 * drift(1.5, 5), 9 * drift(1.5, 5), 8 * drift(2, 6)
    x = (centre + reach * drift(3, 8)) * aspect
    y = 0.54 + 0.05 * drift(2, 6)
    scale = scales[0] + (scales[1] - scales[0]) * (0.5 + 0.5 * drift(4, 10))
    turned = np.zeros(frames, bool)
    for absence in absences:
        gone = _gone(seconds, fps, absence)
        side = 1.0 if centre > 0.5 or (centre == 0.5 and rng.random() < 0.5) else -1.0
        if absence.turned:
            yaw = (1 - gone) * yaw + gone * side * 55
            turned |= gone > 0.85
        else:
            outside = (0.5 + side * 0.5) * aspect + side * 0.75 * scale
            x = (1 - gone) * x + gone * outside
    poses = zip(
        yaw.tolist(),
        pitch.tolist(),
        roll.tolist(),
        (112 * x - 56).tolist(),
        (112 * y - 56).tolist(),
        scale.tolist(),
        strict=True,
    )
    return [Pose(*pose) for pose in poses], turned


def _gone(seconds: np.ndarray, fps: float, absence: Absence) -> Float[np.ndarray, " n"]:
    """0 while the face is there, 1 while it is not, smooth in between."""
    start, end = absence.start / fps, (absence.start + absence.frames) / fps
    leave = min(_LEAVE_S, (end - start) / 2.5)
    return np.minimum(_smooth((seconds - start) / leave), _smooth((end - seconds) / leave))


def _smooth(part: np.ndarray) -> np.ndarray:
    """From 0 to 1 without a corner: 3 t^2 - 2 t^3."""
    part = np.clip(part, 0, 1)
    return part * part * (3 - 2 * part)


def _drift(
    rng: np.random.Generator, seconds: np.ndarray, *, period_s: tuple[float, ...]
) -> Float[np.ndarray, " n"]:
    """A wandering number in [-1, 1]: three waves of different lengths."""
    periods, phases = rng.uniform(*period_s, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * seconds[:, None] / periods + phases)
    return waves @ np.array((0.5, 0.3, 0.2))


def _blinks(rng: np.random.Generator, seconds: np.ndarray) -> Float[np.ndarray, " n"]:
    """How far the lids are shut: now and then, for a fifth of a second."""
    shut = np.zeros(len(seconds))
    at = rng.uniform(0.3, 3)
    while at < seconds[-1]:
        shut = np.maximum(shut, np.clip(1.5 - np.abs(seconds - at) / (_BLINK_S / 3), 0, 1))
        at += rng.uniform(1.5, 5)
    return shut
