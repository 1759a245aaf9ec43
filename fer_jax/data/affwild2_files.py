"""The files of Aff-Wild2: annotations, folders of frames, the test list and the sample file."""

import dataclasses
import os
import re
import stat
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int32

from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space

LABELS = label_space("affwild2_expr")

_HEADER = ",".join(LABELS.classes)
SUBMISSION_HEADER = f"image_location,{_HEADER}"
_LABEL_OF = {str(label).encode(): label for label in range(-1, len(LABELS))}
_MOST_BYTES = 1 << 26  # a day of video at 30 frames a second takes 8 MB


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The labels of one person in one video.

    Attributes:
        path: the file.
        labels: the i-th, from 0, belongs to frame i + 1; -1 is unlabelled or unreadable.
        faults: what is wrong with the file, each with its line.
    """

    path: Path
    labels: Int8[np.ndarray, "n"]
    faults: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Frames:
    """The pictures of one video's folder.

    Attributes:
        folder: where they are.
        numbers: of the pictures, sorted; 0 is kept, though frames are counted from 1.
        strangers: names of what else is there, sorted.
    """

    folder: Path
    numbers: Int32[np.ndarray, "n"]
    strangers: tuple[str, ...]

    def path(self, number: int) -> Path:
        """Where the picture of a number is."""
        return self.folder / frame_name(number)


@dataclasses.dataclass(frozen=True)
class Sample:
    """The rows that a submission must have.

    Attributes:
        videos: in the order of their first row.
        frames: for each video the frame numbers, in the order of its rows.
        row_video: for each row the place of its video in `videos`.
        row_frame: for each row its frame number.
    """

    videos: tuple[str, ...]
    frames: dict[str, Int32[np.ndarray, "n"]]
    row_video: Int32[np.ndarray, "rows"]
    row_frame: Int32[np.ndarray, "rows"]


def frame_name(number: int) -> str:
    """The name of a picture.

    Example:
        >>> frame_name(1)
        '00001.jpg'
    """
    return f"{number:05d}.jpg"


def source_video(video: str) -> tuple[str, str]:
    """The video file's stem that a person's video was taken from, and which person it is.

    Args:
        video: the name of an annotation or a folder of crops.

    Returns:
        The stem, and `"left"`, `"right"` or, where the video shows one person, `""`.

    Example:
        >>> source_video("6-30-1920x1080_left")
        ('6-30-1920x1080', 'left')
    """
    for side in ("left", "right"):
        stem = video.removesuffix(f"_{side}")
        if stem and stem != video:
            return stem, side
    return video, ""


def read_annotation(path: str | os.PathLike[str]) -> Annotation:
    """Reads the labels of one video.

    A byte-order mark, Windows line ends, blanks about a value and empty lines at the end are
    taken as they are meant. An empty or unreadable line within keeps its place, as -1, and is a
    fault: leaving it out would move every label after it to another frame.

    Args:
        path: the file.

    Returns:
        The labels, and what is wrong with them.

    Raises:
        FerJaxError: the file cannot be read.
    """
    path = Path(path)
    size = _size(path)
    if size > _MOST_BYTES:
        reason = f"is {size / 2**20:.0f} MiB, which no annotation is"
        return Annotation(path, np.zeros(0, np.int8), (reason,))
    lines = [line.strip() for line in read_bytes(path).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return Annotation(path, np.zeros(0, np.int8), ("is empty",))
    faults = []
    first = 1
    if lines[0] in _LABEL_OF:
        faults.append("line 1: no header, but a label; it is taken for frame 1")
        first = 0
    elif header := _header_fault(_shown(lines[0])):
        faults.append(f"line 1: {header}")
    rows = lines[first:]
    labels = np.fromiter((_LABEL_OF.get(row, -128) for row in rows), np.int8, len(rows))
    faults += _line_faults(rows, labels, first + 1)
    return Annotation(path, np.where(labels == -128, np.int8(-1), labels), tuple(faults))


def list_frames(folder: str | os.PathLike[str]) -> Frames:
    """Lists the pictures of one video by name; nothing is opened.

    Args:
        folder: the video's folder.

    Returns:
        The numbers of the files named as `frame_name` names them, and what else is there.

    Raises:
        FerJaxError: the folder cannot be read.
    """
    numbers, strangers = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                number = frame_number(entry.name)
                if number < 0 or _is_folder(entry):
                    strangers.append(entry.name)
                else:
                    numbers.append(number)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Frames(Path(folder), np.sort(np.asarray(numbers, np.int32)), tuple(sorted(strangers)))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: who opens it will say so
        return False


def read_test_list(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads the names of the test videos, in the file's order and each once.

    Args:
        path: the file, one name a line.

    Returns:
        The names.

    Raises:
        FerJaxError: the file cannot be read.
    """
    lines = (_shown(line) for line in read_bytes(Path(path)).splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def read_sample(path: str | os.PathLike[str]) -> Sample:
    """Reads which rows a submission must have; what they predict is passed over.

    Args:
        path: the file: a header, then `<video>/<frame>.jpg,<class number>` a line.

    Returns:
        The videos and their frames.

    Raises:
        FerJaxError: the file cannot be read, has another header, or a row names no picture.
    """
    path = Path(path)
    lines = read_bytes(path).splitlines()
    if not lines or not is_sample_header(lines[0]):
        raise FerJaxError(
            f"{path}: line 1 is not '{SUBMISSION_HEADER}'; pass the organisers' sample file"
        )
    place: dict[str, int] = {}
    videos, numbers = [], []
    for i, line in enumerate(lines[1:], 2):
        location = line.partition(b",")[0].strip().decode(errors="replace")
        if picture := picture_of(location):
            video, number = picture
            videos.append(place.setdefault(video, len(place)))
            numbers.append(number)
        elif line.strip():
            raise FerJaxError(
                f"{path}: line {i}: {quoted(location)} is not like <video>/00001.jpg; "
                "pass the organisers' sample file"
            )
    row_video, row_frame = np.asarray(videos, np.int32), np.asarray(numbers, np.int32)
    order = np.argsort(row_video, kind="stable")
    starts = np.flatnonzero(np.diff(row_video[order])) + 1
    parts = np.split(row_frame[order], starts) if len(order) else []
    return Sample(tuple(place), dict(zip(place, parts, strict=True)), row_video, row_frame)


def picture_of(location: str) -> tuple[str, int] | None:
    """Video and frame of `<video>/00001.jpg`, as a submission names its rows; None for others."""
    video, _, name = location.rpartition("/")
    number = frame_number(name)
    return (video, number) if video and number >= 0 else None


def frame_number(name: str) -> int:
    """The number of a picture that is named as `frame_name` names it, else -1."""
    digits = name[:-4]
    if name[-4:] != ".jpg" or len(digits) < 5 or not (digits.isascii() and digits.isdigit()):
        return -1
    # One name for each number: 000001.jpg would be another file with the number of 00001.jpg.
    return -1 if len(digits) > 9 or (len(digits) > 5 and digits[0] == "0") else int(digits)


def _line_faults(rows: list[bytes], labels: np.ndarray, first_line: int) -> list[str]:
    """Names the unreadable lines; neighbours with the same content share a fault."""
    faults = []
    bad = np.flatnonzero(labels == -128).tolist()
    start = 0
    for i in range(1, len(bad) + 1):
        if i < len(bad) and bad[i] == bad[i - 1] + 1 and rows[bad[i]] == rows[bad[start]]:
            continue
        line, last = bad[start] + first_line, bad[i - 1] + first_line
        where = f"line {line}" if line == last else f"lines {line} to {last}"
        row = rows[bad[start]]
        what = f"{quoted(_shown(row))} is no class number (-1 to 7)" if row else "empty"
        faults.append(f"{where}: {what}")
        start = i
    return faults


def _header_fault(header: str) -> str:
    names = [name.strip().lower() for name in header.split(",")]
    official = [name.lower() for name in LABELS.classes]
    if names == official:
        return ""
    if sorted(names) == sorted(official):
        return f"the classes are in another order than {_HEADER}: {quoted(header)}"
    return f"the header is not {_HEADER} but {quoted(header)}"


def is_sample_header(line: bytes) -> bool:
    """Whether a line is the first one of a submission."""
    return re.sub(r"\s", "", _shown(line)).lower().rstrip(",") == SUBMISSION_HEADER.lower()


def _shown(line: bytes) -> str:
    return line.decode(errors="replace").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").strip()


def quoted(text: str) -> str:
    """A text as messages show it: what is long is cut."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path, *, raw: bool = False) -> bytes:
    """The content of a text file as UTF-8, without a byte-order mark; or as it is, if raw.

    Raises:
        FerJaxError: the file cannot be read, or is none: a pipe would be waited for.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FerJaxError(f"{path}: is no file but a folder, pipe or device; remove it")
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return content if raw else as_utf8(content)


def as_utf8(content: bytes) -> bytes:
    """A text as UTF-8 without a byte-order mark; one with the mark of UTF-16 is taken so."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # Windows' "Unicode"
        return content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(b"\xef\xbb\xbf")


def _unreadable(path: str | os.PathLike[str], error: OSError) -> FerJaxError:
    return FerJaxError(f"{path}: cannot be read ({error.strerror}); check the path and its rights")
