"""The plan of a mini Aff-Wild2: which videos, who is in them, what is shown and what is missing."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from fer_jax.data.face_drawing.motion import Absence, sample_spans
from fer_jax.labels import label_space

CLASSES = len(label_space("affwild2_expr"))

# Neutral and Other are the most frequent, as in the real data.
_DECK = (0, 0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 7)
_FPS = (24.0, 25.0, 30.0)
_ENOUGH_FOR_RARITIES = 20  # videos


@dataclasses.dataclass(frozen=True)
class Person:
    """One annotated person of a video.

    Attributes:
        name: of the annotation and of the folder of crops.
        split: `train`, `validation` or `test`.
        subject: number of the identity.
        place: centre of the person's movement, as a share of the frame's width.
        scales: side of the aligned face, as shares of the frame's height.
        crops: folder of the aligned crops.
        loose: whether there are loose crops too.
        spans: class and number of frames of what is shown, one after the other.
        unlabelled: first frame, from 0, and number of frames that have the label -1.
        absences: when the face is not to be seen.
        extra_label: whether the organisers count a frame more than there is.
        newline: what ends a line of the annotation.
        ending: what follows its last line.
    """

    name: str
    split: str
    subject: int
    place: float
    scales: tuple[float, float]
    crops: str
    loose: bool
    spans: tuple[tuple[int, int], ...]
    unlabelled: tuple[tuple[int, int], ...]
    absences: tuple[Absence, ...]
    extra_label: bool
    newline: str
    ending: str

    @property
    def labels(self) -> list[int]:
        """The label of each frame that the organisers count."""
        labels = [label for label, frames in self.spans for _ in range(frames)]
        for start, frames in self.unlabelled:
            labels[start : start + frames] = [-1] * frames
        return labels + labels[-1:] * self.extra_label


@dataclasses.dataclass(frozen=True)
class Video:
    """One source video.

    Attributes:
        index: number in the plan, from 0.
        file: path relative to the root.
        width: pixels.
        height: pixels.
        fps: frames a second.
        frames: how many.
        people: those that are annotated, from left to right.
        extras: identities of those who are seen to their right, and not annotated.
        copied: the video that this one is a copy of, if it is one.
    """

    index: int
    file: str
    width: int
    height: int
    fps: float
    frames: int
    people: tuple[Person, ...]
    extras: tuple[int, ...] = ()
    copied: "Video | None" = None


def plan_videos(
    videos: int, frames: tuple[int, int], seed: int, *, leak: bool, copy: bool
) -> list[Video]:
    """Plans everything that does not need a brush.

    Args:
        videos: number of source videos, at least 5.
        frames: fewest and most frames of a video.
        seed: two equal seeds give the same plan.
        leak: the two people of the first video are in different splits.
        copy: a video of the validation split is a copy of one to train on, if there are enough.

    Returns:
        The videos: those to train on first, then validation, then test.
    """
    rng = np.random.default_rng((seed, 2))
    test, validation = max(1, round(0.15 * videos)), max(1, round(0.2 * videos))
    splits = ["train"] * (videos - test - validation)
    splits += ["validation"] * validation + ["test"] * test
    kinds = ("train", "validation", "test")
    decks = {split: _deal(np.random.default_rng((seed, 3, k))) for k, split in enumerate(kinds)}
    company = _company(splits)
    taken: set[str] = set()
    plans = []
    for index, split in enumerate(splits):
        kind = company.get(index, "alone")
        size = (384, 216) if kind != "alone" or rng.random() < 0.4 else (320, 240)
        stem, fps = _name(rng, size, taken, leak=leak and index == 0)
        new = index == 2 or rng.random() < 0.12
        folder = "new_vids" if new else f"batch{1 + index % 2}"
        extension = "avi" if index == 1 or rng.random() < 0.15 else "mp4"
        count = int(rng.integers(frames[0], frames[1] + 1))
        loose = index == 1 or (not new and rng.random() < 0.25)
        people = []
        for side, (suffix, place, scales) in enumerate(_places(kind)):
            own = "validation" if leak and index == 0 and side == 1 else split
            person = _person(rng, decks[own], count, fps, always=index == 0 and side == 0)
            people.append(
                Person(
                    name=stem + suffix,
                    split=own,
                    subject=2 * index + side,
                    place=place,
                    scales=scales,
                    crops="cropped_aligned_new_50_vids" if new else "cropped_aligned",
                    loose=loose,
                    extra_label=index == 0 or bool(rng.random() < 0.5),
                    newline="\r\n" if index == 1 or rng.random() < 0.2 else "\n",
                    ending=_ending(rng, always=index == 2),
                    **person,
                )
            )
        plans.append(
            Video(
                index=index,
                file=f"{folder}/{stem}.{extension}",
                width=size[0],
                height=size[1],
                fps=fps,
                frames=count,
                people=tuple(people),
                extras=(2 * index + 1,) if kind == "left_only" else (),
            )
        )
    if copy and validation > 1:
        _make_copy(plans, splits)
    return plans


def _company(splits: list[str]) -> dict[int, str]:
    """Which videos show two people: one always, more in a larger set, in all ways there are."""
    company = {0: "both"}
    if len(splits) >= _ENOUGH_FOR_RARITIES:
        company |= {3: "left_only", splits.index("test"): "both"}
        company[splits.index("validation")] = "main_and_right"
    return company


def _places(kind: str) -> tuple[tuple[str, float, tuple[float, float]], ...]:
    """Suffix, place and size of those who are annotated."""
    if kind == "alone":
        return (("", 0.5, (0.4, 0.58)),)
    left, right = ("_left", 0.27, (0.37, 0.44)), ("_right", 0.73, (0.37, 0.44))
    if kind == "main_and_right":
        return ("", 0.29, (0.44, 0.5)), ("_right", 0.76, (0.34, 0.38))
    return (left, right) if kind == "both" else (left,)


def _deal(rng: np.random.Generator) -> Iterator[int]:
    """Classes without end, never the same twice in a row; the first eight are all different."""
    waiting = rng.permutation(CLASSES).tolist()
    last = -1
    while True:
        if not any(card != last for card in waiting):
            waiting += rng.permutation(_DECK).tolist()
        last = waiting.pop(next(k for k, card in enumerate(waiting) if card != last))
        yield last


def _person(
    rng: np.random.Generator, deck: Iterator[int], frames: int, fps: float, *, always: bool
) -> dict:
    """What one person shows; `always` makes sure of a time away and of one without labels."""
    # Even a short film shows a few expressions.
    longest = min(3.0, max(1.0, 0.45 * frames / fps))
    lengths = sample_spans(rng, frames, fps, longest_s=longest)
    spans = tuple((next(deck), int(length)) for length in lengths)
    unlabelled: tuple[tuple[int, int], ...] = ()
    if always or rng.random() < 0.4:
        length = max(1, int(frames * rng.uniform(0.04, 0.12)))
        unlabelled = ((int(rng.integers(0, frames - length)), length),)
    absences: tuple[Absence, ...] = ()
    if always or rng.random() < 0.35:
        away = min(int(fps * rng.uniform(1.2, 1.7)), int(0.4 * frames))
        start = int(rng.integers(0, frames - away))
        absences = (Absence(start, away, turned=bool(rng.random() < 0.5)),)
    return {"spans": spans, "unlabelled": unlabelled, "absences": absences}


def _ending(rng: np.random.Generator, *, always: bool) -> str:
    if always:
        return "\n\n\n"
    return str(rng.choice(["\n", "\n", "\n", "", "\n\n"]))


def _name(
    rng: np.random.Generator, size: tuple[int, int], taken: set[str], *, leak: bool
) -> tuple[str, float]:
    """A stem as the real ones are, `112`, `12-24-384x216` or `video37`, and the frame rate."""
    if leak:
        stem, fps = f"135-24-{size[0]}x{size[1]}", 24.0
        taken.add("135")
        return stem, fps
    while True:
        fps, number, form = _FPS[rng.integers(3)], int(rng.integers(1, 430)), rng.random()
        # Two stems never share their number, so that no name begins as another one ends.
        if str(number) in taken:
            continue
        taken.add(str(number))
        if form < 0.4:
            return f"{number}", fps
        if form < 0.8:
            return f"{number}-{fps:.0f}-{size[0]}x{size[1]}", fps
        return f"video{number}", 29.97


def _make_copy(plans: list[Video], splits: list[str]) -> None:
    """Puts a copy of a video to train on into the place of one of the validation split."""
    target = splits.index("test") - 1
    source = plans[2]
    # Its name must say no other frame rate than its file has.
    name = "video" + re.findall(r"\d+", plans[target].people[0].name)[0]
    person = dataclasses.replace(source.people[0], name=name, split="validation")
    plans[target] = dataclasses.replace(
        source,
        index=target,
        file=f"batch{1 + target % 2}/{name}.{source.file.rpartition('.')[2]}",
        people=(dataclasses.replace(person, crops="cropped_aligned"),),
        copied=source,
    )
