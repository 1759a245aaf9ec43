"""What must hold of the rows that a video or a picture gave, and of what was said of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax.faces.containers import is_avi
from fer_jax.predict.table import PredictionTable

_LONGEST_LINE = 600  # characters; a message that a person can read
# AVI, GIF, Flash, Matroska, Windows Media.
_BEGINNINGS = (b"RIFF", b"GIF8", b"FLV", b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75")
_ATTEMPTS = 64  # reads that may fail before a video is taken to have ended
# Damage after which a file may well hold less than before, by its own word too.
OTHER_FILES = ("another name", "beginning and end of two files")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What came of reading one file.

    Attributes:
        table: its rows; None where it was refused.
        told: the lines that said what is wrong with it.
        refusal: why there is no table.
        pixels: a digest of the frames that were decoded, "" of a picture.
    """

    table: PredictionTable | None
    told: tuple[str, ...] = ()
    refusal: str = ""
    pixels: str = ""

    @property
    def rows(self) -> list[str]:
        """The lines of the table without the name of the file."""
        if self.table is None:
            return []
        return [line.partition(",")[2] for line in self.table.csv_rows().splitlines()]

    @property
    def frames(self) -> list[int]:
        """The frames that have a row, each once, in the order of the rows."""
        return [] if self.table is None else list(dict.fromkeys(self.table.frame.tolist()))

    @property
    def said(self) -> list[str]:
        """All that was said."""
        return [*self.told, *([self.refusal] if self.refusal else [])]


def count_frames(path: Path) -> int:
    """How many frames OpenCV hands out in a plain loop; 0 if it opens nothing."""
    if not path.is_file():
        return 0
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    count, failures = 0, 0
    while capture.isOpened() and failures < _ATTEMPTS:
        done, image = capture.read()
        failures = 0 if done and image is not None and image.size else failures + 1
        count += not failures
    capture.release()
    return count


def says_its_length(path: Path) -> bool:
    """Whether the file is of a kind that says how long it is, so that what is missing is missed.

    MPEG streams do not, of which only half a packet at the end tells, nor does what has lost the
    beginning by which its kind is known.
    """
    content = path.read_bytes()
    boxes = content[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
    half_a_packet = content[:1] == content[188:189] == b"\x47" and len(content) % 188 > 0
    return content.startswith(_BEGINNINGS) or boxes or half_a_packet


def wrong_words(attempt: Attempt, path: Path | str) -> list[str]:
    """Messages that are not one printable line that names the file."""
    return [
        f"says {line[:200]!r}, which is no line that names the file"
        for line in attempt.said
        if str(path) not in line or not line.isprintable() or len(line) > _LONGEST_LINE
    ]


def wrong_rows(table: PredictionTable) -> list[str]:
    """Rows out of order, and probabilities that are none."""
    found = []
    order = list(zip(table.frame.tolist(), table.face_id.tolist(), strict=True))
    if order != sorted(set(order)):
        found.append("its rows are out of order, or there twice")
    times = dict(zip(table.frame.tolist(), table.time_s.tolist(), strict=True))
    if not (np.diff(list(times.values())) > 0).all():
        found.append("its times do not grow")
    seen = np.isin(table.status, ("ok", "low_quality"))
    sums = np.abs(table.prob.sum(axis=1) - 1) < 1e-4
    if not (sums[seen] & np.isfinite(table.box[seen]).all(axis=1)).all():
        found.append("a face has no box, or probabilities that do not sum to 1")
    if not (sums | np.isnan(table.prob).all(axis=1)).all() or (table.prob < 0).any():
        found.append("probabilities are neither missing nor a distribution")
    if not np.isnan(table.raw[~seen]).all():
        found.append("a frame without a face has probabilities of its own")
    return found


def wrong_video(attempt: Attempt, path: Path, honest: Attempt, damage: str) -> list[str]:
    """What breaks the promise for a video: each decoded frame has a row, what is missing is told.

    Args:
        attempt: what came of it.
        path: the file.
        honest: what came of the file from which it was made.
        damage: what was done to it.
    """
    found = wrong_words(attempt, path)
    count = count_frames(path)
    if attempt.table is None:
        if count and "beyond" not in attempt.refusal:
            found.append(f"is refused, though {count} frames can be decoded: {attempt.refusal}")
        return found
    found += wrong_rows(attempt.table)
    frames = attempt.frames
    if len(frames) != count:
        found.append(f"{len(frames)} frames have rows, {count} can be decoded")
    if frames != list(range(1, len(frames) + 1)) and not attempt.told:
        found.append(f"has the frames {_ranges(frames)} without a word of the others")
    # Sound files too announce a few frames more than they show; AVI alone does not.
    enough = len(honest.frames) * (1 if is_avi(path) else 0.9)
    fewer = len(frames) < enough and damage not in OTHER_FILES
    if fewer and not attempt.told and says_its_length(path):
        found.append(f"gives {len(frames)} of {len(honest.frames)} frames without a word")
    return found


def wrong_picture(attempt: Attempt, path: Path, honest: Path, damage: str) -> list[str]:
    """What breaks the promise for a picture: it has rows, or is named and has an empty row.

    Args:
        attempt: what came of it.
        path: the file.
        honest: the file from which it was made.
        damage: what was done to it.
    """
    found = wrong_words(attempt, path)
    if attempt.table is None:
        return [*found, "is refused, though it is there"] if path.is_file() else found
    found += [fault for fault in wrong_rows(attempt.table) if "times" not in fault]
    empty = attempt.table.status.tolist() == ["no_face"] and np.isnan(attempt.table.prob).all()
    if attempt.told:
        whole = damage in ("none", "another format")
        found += ["is told, but has rows"] if not empty else []
        found += [f"is whole, but told: {attempt.told}"] if whole else []
        return found
    image = _decoded(path)
    if image is None:
        found.append("cannot be decoded, and nobody says so")
    elif damage in ("cut", "the last bytes gone"):
        before = _decoded(honest)
        if image.shape != before.shape or (image != before).any():
            found.append("is cut, shows something else than before, and nobody says so")
    return found


def _decoded(path: Path) -> np.ndarray | None:
    content = path.read_bytes() if path.is_file() else b""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None


def same(one: Attempt, other: Attempt) -> bool:
    """Whether two attempts at files gave the same rows, and both none or both some words."""
    alike = (one.table is None) == (other.table is None)
    return alike and one.rows == other.rows and bool(one.said) == bool(other.said)


def _ranges(frames: Sequence[int]) -> str:
    return ", ".join(map(str, frames[:30])) + (", ..." if len(frames) > 30 else "")
