"""Puts what is wrong into a mini Aff-Wild2: each fault is planted where it can be told apart.

No frame gets two faults, faults of images lie on frames with a label, and the two videos of which
one is a copy of the other get no further fault.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data.duplicates import picture_hash
from fer_jax.data.face_drawing.camera import add_grain, background
from fer_jax.data.face_drawing.parameters import Scene
from fer_jax.data.images import decode_image, encode_image
from fer_jax.data.mini_plan import Person, Video
from fer_jax.data.mini_planted import Mark

_QUALITY = 92
_BROKEN_LINES = ("x", "", "3.5", "Happiness", "1 2")
_NO_CLASSES = (8, 12, -2, 99)


@dataclasses.dataclass
class Reel:
    """One person's files.

    Attributes:
        person: who, by plan.
        video: the source video, by plan.
        annotation: the file, or None.
        crops: the folder of aligned crops, or None.
        loose: the folder of loose crops, or None.
        numbers: of the aligned crops.
        free: of the crops that have a label and no fault yet.
    """

    person: Person
    video: Video
    annotation: Path | None
    crops: Path | None
    loose: Path | None
    numbers: list[int]
    free: list[int] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the annotation and of the folder of crops."""
        return self.person.name


def plant(
    reels: list[Reel], kinds: tuple[str, ...], rng: np.random.Generator
) -> dict[str, tuple[Mark, ...]]:
    """Damages a tree that is whole.

    Args:
        reels: all people of the tree; those without annotation or crops are marked so.
        kinds: of faults, in the order of `FAULTS`.
        rng: of where and how.

    Returns:
        The places of each kind, empty where there was none for it.
    """
    garden = _Garden(reels, rng)
    # Whole videos first: where a folder goes, no image is to be damaged. A file that is cut comes
    # before a line in it is broken.
    first = ("leak", "copied_video", "no_crops", "no_annotation", "frames_beyond_labels")
    order = sorted(kinds, key=lambda kind: (kind not in first, kinds.index(kind)))
    planted = {kind: _PLANTERS[kind](garden) for kind in order}
    return {kind: tuple(sorted(planted[kind], key=_place)) for kind in kinds}


def _place(mark: Mark) -> tuple[str, int]:
    return mark.video, mark.frame


class _Garden:
    """Where faults can still be planted."""

    def __init__(self, reels: list[Reel], rng: np.random.Generator) -> None:
        self.reels, self.rng = reels, rng
        copied = {id(reel.video.copied) for reel in reels} - {id(None)}
        self.whole = [
            reel for reel in reels if reel.video.copied is None and id(reel.video) not in copied
        ]
        # What is taken away whole: nobody's neighbour, nothing that shows another trait of its own.
        videos = [reel for reel in self.whole if reel.person.split == "train"]
        self.spare = [reel for reel in videos if reel.video.index > 3 or len(reels) < 20]
        self.spare = [reel for reel in self.spare if reel.video.index > 1][::-1]
        self.turn = 0

    def train(self) -> Reel:
        """The next video to train on that has an annotation and crops, in turn."""
        able = [
            reel
            for reel in self.whole
            if reel.person.split == "train" and reel.annotation and reel.crops
        ]
        self.turn += 1
        return able[self.turn % len(able)]

    def frames(self, count: int, *, loose: bool = False) -> list[tuple[Reel, int]]:
        """Frames that have no fault yet, most of them to train on."""
        places = []
        for k in range(count):
            split = ("train", "train", "validation", "train", "test")[k % 5]
            able = [
                reel
                for reel in self.whole
                if reel.person.split == split and len(reel.free) > 4 and (reel.loose or not loose)
            ]
            if able:
                reel = able[self.rng.integers(len(able))]
                places.append((reel, self.take(reel)))
        return places

    def take(self, reel: Reel) -> int:
        return reel.free.pop(int(self.rng.integers(len(reel.free))))

    def many(self, share: float) -> int:
        """At least three, more in larger trees."""
        return max(3, round(share * len(self.reels)))


def _leak(garden: _Garden) -> list[Mark]:
    left, right = (reel for reel in garden.reels if reel.video.index == 0)
    splits = (left.person.split, right.person.split)
    detail = f"two people of one video: {splits[0]} and {splits[1]}"
    return [Mark(left.name, detail=detail, other_video=right.name)]


def _copied_video(garden: _Garden) -> list[Mark]:
    marks = []
    for reel in garden.reels:
        if reel.video.copied is None:
            continue
        original = reel.video.copied.people[0]
        count = len(reel.numbers)
        detail = f"{count} images encoded again, all of one to train on"
        marks.append(Mark(reel.name, detail=detail, other_video=original.name))
    return marks


def _no_crops(garden: _Garden) -> list[Mark]:
    if len(garden.spare) < 2:
        return []
    reel = garden.spare.pop(0)
    for folder in (reel.crops, reel.loose):
        if folder:
            shutil.rmtree(folder)
    reel.crops = reel.loose = None
    reel.numbers, reel.free = [], []
    return [Mark(reel.name, detail="annotated, but no folder of crops")]


def _no_annotation(garden: _Garden) -> list[Mark]:
    if len(garden.spare) < 2:
        return []
    reel = garden.spare.pop(0)
    reel.annotation.unlink()
    reel.annotation, reel.free = None, []
    return [Mark(reel.name, detail="crops, but neither an annotation nor in the test list")]


def _frames_beyond_labels(garden: _Garden) -> list[Mark]:
    reel = garden.train()
    lines = _lines(reel)
    labels = len(lines) - 1
    # The last crops may be missing: cut until some lie beyond.
    left = min(labels - int(garden.rng.integers(4, 10)), reel.numbers[-4])
    _write_lines(reel, lines[: left + 1])
    beyond = [number for number in reel.numbers if number > left]
    reel.free = [number for number in reel.free if number <= left]
    return [Mark(reel.name, beyond[0], len(beyond), f"images beyond the {left} labels")]


def _wrong_header(garden: _Garden) -> list[Mark]:
    reel = garden.train()
    lines = _lines(reel)
    classes = lines[0].split(",")
    classes[1], classes[4] = classes[4], classes[1]
    _write_lines(reel, [",".join(classes), *lines[1:]])
    return [Mark(reel.name, detail=f"header: {classes[1]} and {classes[4]} have changed places")]


def _malformed_line(garden: _Garden) -> list[Mark]:
    return _broken(garden, _BROKEN_LINES[: garden.many(0.1)])


def _label_out_of_range(garden: _Garden) -> list[Mark]:
    return _broken(garden, tuple(str(label) for label in _NO_CLASSES[: garden.many(0.1)]))


def _broken(garden: _Garden, words: tuple[str, ...]) -> list[Mark]:
    reel, marks = garden.train(), []
    lines = _lines(reel)
    for word in words:
        frame = garden.take(reel)
        lines[frame] = word
        marks.append(Mark(reel.name, frame, detail=f"line {frame + 1}: {word!r}"))
    _write_lines(reel, lines)
    return marks


def _frame_zero(garden: _Garden) -> list[Mark]:
    reel = garden.train()
    shutil.copyfile(reel.crops / f"{reel.numbers[0]:05d}.jpg", reel.crops / "00000.jpg")
    return [Mark(reel.name, detail="00000.jpg")]


def _stranger_file(garden: _Garden) -> list[Mark]:
    reel = garden.train()
    (reel.crops / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504))
    return [Mark(reel.name, detail="Thumbs.db")]


def _duplicate_image(garden: _Garden) -> list[Mark]:
    marks = []
    for k in range(garden.many(0.1)):
        able = [reel for reel in garden.whole if len(reel.free) > 4]
        sources = [reel for reel in able if reel.person.split == "train"]
        split = "validation" if k % 2 else "train"
        source = sources[garden.rng.integers(len(sources))]
        targets = [
            reel
            for reel in able
            if reel.person.split == split and reel.video.index != source.video.index
        ]
        if not targets:
            continue
        target = targets[garden.rng.integers(len(targets))]
        frame, copy = _most_distinct(source), garden.take(target)
        shutil.copyfile(source.crops / f"{frame:05d}.jpg", target.crops / f"{copy:05d}.jpg")
        marks.append(Mark(target.name, copy, 1, "the same bytes in two videos", source.name, frame))
    return marks


def _most_distinct(reel: Reel) -> int:
    """Takes the free frame that is least like the other frames of its video.

    A frame and its neighbour may differ so little that both are rightly called copies of the
    planted one; then nobody could say which of them was found.
    """
    paths = [reel.crops / f"{number:05d}.jpg" for number in reel.numbers]
    hashes = np.stack([picture_hash(decode_image(path.read_bytes())) for path in paths])
    bits = np.unpackbits(hashes, axis=1)
    apart = (bits[:, None] != bits[None, :]).sum(-1)
    np.fill_diagonal(apart, bits.shape[1])
    nearest = dict(zip(reel.numbers, apart.min(1).tolist(), strict=True))
    number = max(reel.free, key=lambda free: nearest[free])
    reel.free.remove(number)
    return number


def _corrupt_image(garden: _Garden) -> list[Mark]:
    def truncate(encoded: bytes) -> bytes:
        return encoded[: len(encoded) * 3 // 5]

    damages: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("truncated", truncate),
        ("an empty file", lambda encoded: b""),
        ("text", lambda encoded: b"This is not the image that you are looking for.\n"),
    )
    marks = []
    for k, (reel, frame) in enumerate(garden.frames(garden.many(0.2))):
        detail, damage = damages[k % len(damages)]
        path = reel.crops / f"{frame:05d}.jpg"
        path.write_bytes(damage(path.read_bytes()))
        marks.append(Mark(reel.name, frame, detail=detail))
    return marks


def _non_face(garden: _Garden) -> list[Mark]:
    marks = []
    for k, (reel, frame) in enumerate(garden.frames(garden.many(0.3))):
        picture = draw_non_face(garden.rng, objects=6 if k % 2 else 0)
        _store(reel.crops / f"{frame:05d}.jpg", picture)
        marks.append(Mark(reel.name, frame, detail="objects" if k % 2 else "a background"))
    return marks


def _blurred(garden: _Garden) -> list[Mark]:
    marks = []
    for k, (reel, frame) in enumerate(garden.frames(garden.many(0.3))):
        path = reel.crops / f"{frame:05d}.jpg"
        picture = decode_image(path.read_bytes())
        if k % 2:
            length = int(garden.rng.integers(11, 15))
            # A shaken camera blurs most along one axis, and a little across it.
            picture = cv2.GaussianBlur(cv2.blur(picture, (length, 1)), (0, 0), 1.8)
            detail = f"moved by {length} pixels"
        else:
            spread = float(garden.rng.uniform(2.5, 3.2))
            picture = cv2.GaussianBlur(picture, (0, 0), spread)
            detail = f"standard deviation {spread:.1f} pixels"
        _store(path, picture)
        marks.append(Mark(reel.name, frame, detail=detail))
    return marks


def _low_resolution(garden: _Garden) -> list[Mark]:
    marks = []
    for reel, frame in garden.frames(garden.many(0.3)):
        path = reel.crops / f"{frame:05d}.jpg"
        side = int(garden.rng.integers(20, 29))
        picture = decode_image(path.read_bytes())
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        _store(path, cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC))
        marks.append(Mark(reel.name, frame, detail=f"{side} pixels, enlarged"))
    return marks


def _small_image(garden: _Garden) -> list[Mark]:
    marks = []
    for reel, frame in garden.frames(garden.many(0.1), loose=True):
        path = reel.loose / f"{frame:05d}.jpg"
        picture = decode_image(path.read_bytes())
        width = int(garden.rng.integers(20, 29))
        size = (width, round(width * picture.shape[0] / picture.shape[1]))
        _store(path, cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
        marks.append(Mark(reel.name, frame, detail=f"{size[0]}x{size[1]} pixels, loose crop"))
    return marks


def draw_non_face(rng: np.random.Generator, *, objects: int, size: int = 112) -> np.ndarray:
    """A background, with things in it or without, as sharp as a face: uint8 [size, size, 3]."""
    canvas = background(Scene(seed=int(rng.integers(2**31))), 2 * size)
    for _ in range(objects):
        colour, at = rng.uniform(0, 255, 3).tolist(), rng.uniform(0.1, 0.9, 2) * 2 * size
        sides = rng.uniform(0.05, 0.3, 2) * 2 * size
        box = cv2.boxPoints((at.tolist(), sides.tolist(), float(rng.uniform(0, 90))))
        cv2.fillPoly(canvas, [np.rint(box).astype(np.int32)], colour, cv2.LINE_AA)
    picture = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    grainy = add_grain(picture.astype(np.float32), 24, rng)
    return cv2.convertScaleAbs(cv2.max(grainy, 0))


def _store(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(encode_image(picture, lossless=False, quality=_QUALITY))


def _lines(reel: Reel) -> list[str]:
    """The header and the labels; the blank lines at the end are left out."""
    return reel.annotation.read_bytes().decode().rstrip().splitlines()


def _write_lines(reel: Reel, lines: list[str]) -> None:
    text = reel.person.newline.join(lines) + reel.person.ending.replace("\n", reel.person.newline)
    reel.annotation.write_bytes(text.encode())


_PLANTERS: dict[str, Callable[[_Garden], list[Mark]]] = {
    "leak": _leak,
    "copied_video": _copied_video,
    "duplicate_image": _duplicate_image,
    "corrupt_image": _corrupt_image,
    "non_face": _non_face,
    "blurred": _blurred,
    "low_resolution": _low_resolution,
    "small_image": _small_image,
    "frames_beyond_labels": _frames_beyond_labels,
    "wrong_header": _wrong_header,
    "malformed_line": _malformed_line,
    "label_out_of_range": _label_out_of_range,
    "no_crops": _no_crops,
    "no_annotation": _no_annotation,
    "frame_zero": _frame_zero,
    "stranger_file": _stranger_file,
}
