"""Predictions of frames, whoever made them: prediction tables, or text files as ABAW takes them."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Float32, Int64

from fer_jax.data.affwild2_files import LABELS, frame_number
from fer_jax.data.images import EXTENSIONS
from fer_jax.errors import FerJaxError
from fer_jax.faces.videos import VIDEO_EXTENSIONS
from fer_jax.labels import LabelSpace
from fer_jax.predict.table import open_csv, read_csv

_LOCATION = "image_location"
_SUM_TOLERANCE = 1e-3  # of files that round to three digits


@dataclasses.dataclass(frozen=True, eq=False)
class FrameProbabilities:
    """Probabilities of the frames that have a face, one row a frame, sorted by (video, frame).

    Attributes:
        classes: display names, in the order of the columns.
        video: names, object `[rows]`.
        frame: counted from 1.
        probabilities: of single frames, not smoothed.
        notes: what was left out, one sentence each.
    """

    classes: tuple[str, ...]
    video: np.ndarray
    frame: Int64[np.ndarray, "rows"]
    probabilities: Float32[np.ndarray, "rows class"]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """What one file says, in its own order; `size` is of the face, in square pixels."""

    path: Path
    classes: tuple[str, ...]
    video: np.ndarray
    frame: np.ndarray
    size: np.ndarray
    probabilities: np.ndarray


def read_frame_probabilities(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> FrameProbabilities:
    """Reads predictions of single frames, from one file or several.

    Prediction tables give their `raw_` columns, and rows without a face are left out; of several
    faces in a frame the largest counts. Rows about images `<video>/00001.jpg` are taken as frames
    of that video. Text files hold `<video>/00001.jpg,<class number>` a line, or a probability for
    each class after the name; without the header `image_location,...` the classes are Aff-Wild2's.

    Args:
        paths: the files, and folders of which every .csv is read.

    Returns:
        The probabilities, with the classes in the order of the first file.

    Raises:
        FerJaxError: no file, other classes than in the first, a frame that is in two files or
            twice in one, two videos of one name, or numbers that are no probabilities.
    """
    files = _files([paths] if isinstance(paths, (str, os.PathLike)) else paths)
    parts = [_read(file) for file in files]
    classes = parts[0].classes
    columns = [_reordered(part, classes) for part in parts]
    video, frame = (np.concatenate([getattr(p, f) for p in parts]) for f in ("video", "frame"))
    size, source = (
        np.concatenate([part.size for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part.frame) for part in parts]),
    )
    probabilities = np.concatenate(columns)
    notes = []
    if before := int((frame < 1).sum()):
        notes.append(f"{before} predictions of a frame 0 are left out: frames are counted from 1.")
    names, number = np.unique(video.astype(str), return_inverse=True)
    # The largest face of each frame comes first, and is the one that stays.
    order = np.lexsort((-size, frame, number))
    order = order[frame[order] >= 1]
    same = np.zeros(len(order), bool)
    same[1:] = (number[order[1:]] == number[order[:-1]]) & (frame[order[1:]] == frame[order[:-1]])
    twice = np.flatnonzero(same & (source[order] != np.roll(source[order], 1)))
    if len(twice):
        row, other = order[twice[0]], order[twice[0] - 1]
        first, second = sorted((source[row], source[other]))
        raise FerJaxError(
            f"{files[second]}: frame {frame[row]} of {video[row]} is in {files[first]} too; name "
            "each frame in one file"
        )
    if same.any():
        notes.append(f"{same.sum()} smaller faces of frames with several are left out.")
    order = order[~same]
    return FrameProbabilities(
        classes,
        names.astype(object)[number[order]],
        frame[order].astype(np.int64),
        probabilities[order],
        tuple(notes),
    )


def _files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(path.glob("*.csv"))
            if not inside:
                raise FerJaxError(f"{path}: no .csv in this folder; name prediction tables")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise FerJaxError(f"{path}: no such file of predictions; check the path")
    if not files:
        raise FerJaxError("no predictions were named; name a file that `fer-jax predict` wrote")
    return files


def _read(path: Path) -> _Rows:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        first = file.readline()
    name = first.partition(",")[0].strip().strip('"').lower()
    if name == _LOCATION or frame_of_image(name) is not None:
        return _read_text(path, header=name == _LOCATION)
    table = read_csv(path)
    chosen = np.flatnonzero((table.status != "no_face") & ~np.isnan(table.raw).any(axis=1))
    places = {name: frame_of_image(name) for name in set(table.video.tolist())}
    pairs = [
        places[name] or (_video_name(name), number)
        for name, number in zip(table.video[chosen], table.frame[chosen].tolist(), strict=True)
    ]
    names = table.video[chosen].tolist()
    sources = [str(PurePath(name).parent) if places[name] else name for name in names]
    _check_once(path, sources, pairs, table.face_id[chosen].tolist())
    size = np.nan_to_num(table.box[chosen, 2] * table.box[chosen, 3])
    return _rows(path, table.classes, pairs, size, table.raw[chosen])


def _read_text(path: Path, *, header: bool) -> _Rows:
    """The file of a submission: a class number a row, or the probability of each class."""
    classes = LABELS.classes
    places, sources, pairs, values = [], [], [], []
    with open_csv(path) as reader:
        if header:
            named = [name.strip() for name in next(reader)[1:] if name.strip()]
            classes = _display_names(path, named) if named else classes
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{path}, line {reader.line_num}"
            name = row[0].strip()
            place = frame_of_image(name)
            if place is None:
                raise FerJaxError(
                    f"{where}: {row[0]!r} is not like <video>/00001.jpg; name the frame so"
                )
            sources.append(str(PurePath(name).parent))
            places.append(place)
            numbers = _numbers([cell for cell in row[1:] if cell.strip()], len(classes), where)
            if numbers is not None:
                pairs.append(place)
                values.append(numbers)
    _check_once(path, sources, places, [0] * len(sources))
    probabilities = np.asarray(values, np.float32).reshape(-1, len(classes))
    return _rows(path, classes, pairs, np.zeros(len(pairs)), probabilities)


def _numbers(cells: list[str], classes: int, where: str) -> list[float] | None:
    """Probabilities of a row; None where it says that there is no prediction."""
    try:
        if len(cells) == 1:
            chosen = int(cells[0])
            if not -1 <= chosen < classes:
                raise ValueError
            return None if chosen < 0 else [float(i == chosen) for i in range(classes)]
        if len(cells) == classes:
            return [float(cell) for cell in cells]
    except ValueError:
        pass
    raise FerJaxError(
        f"{where}: {','.join(cells)!r} is neither a class number below {classes} nor {classes} "
        "probabilities; write the file again"
    )


def _display_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The header's classes under the names that the package uses."""
    try:
        found = LabelSpace("header", tuple(names))
    except FerJaxError as error:
        raise FerJaxError(f"{path}, line 1: {error}") from None
    known = {LABELS.index(name): name for name in names if _is_known(name)}
    own = {name: LABELS.classes[index] for index, name in known.items()}
    return tuple(own.get(name, name) for name in found.classes)


def _is_known(name: str) -> bool:
    try:
        return LABELS.index(name) >= 0
    except FerJaxError:
        return False


def frame_of_image(name: str) -> tuple[str, int] | None:
    """Video and frame of `.../<video>/00001.jpg`; None for the name of a video."""
    path = Path(name)
    if path.suffix.lower() not in EXTENSIONS or not path.parent.name:
        return None
    number = frame_number(f"{path.stem}.jpg")
    return None if number < 0 else (path.parent.name, number)


def _video_name(name: str) -> str:
    """The file's name without its extension, and whole where it has none: `a.x` is not `a`."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in (*VIDEO_EXTENSIONS, *EXTENSIONS) else path.name


def _check_once(
    path: Path, sources: Iterable[str], pairs: Iterable[tuple[str, int]], faces: Iterable[int]
) -> None:
    """Refuses two sources that would become one video, and a face that is twice in a frame."""
    source_of: dict[str, str] = {}
    seen = set()
    for source, (video, frame), face in zip(sources, pairs, faces, strict=True):
        if (known := source_of.setdefault(video, source)) != source:
            raise FerJaxError(
                f"{path}: {video} is both {known} and {source}; give every video a name of its own"
            )
        if (video, frame, face) in seen:
            raise FerJaxError(
                f"{path}: frame {frame} of {video} is there twice; name each frame once, and give "
                "each of several faces a face_id of its own"
            )
        seen.add((video, frame, face))


def _rows(
    path: Path,
    classes: tuple[str, ...],
    pairs: Sequence[tuple[str, int]],
    size: np.ndarray,
    probabilities: np.ndarray,
) -> _Rows:
    total = probabilities.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(
        ~((probabilities >= 0).all(axis=1) & (np.abs(total - 1) <= _SUM_TOLERANCE))
    )
    if len(wrong):
        video, frame = pairs[wrong[0]]
        raise FerJaxError(
            f"{path}: frame {frame} of {video}: the numbers are no probabilities, they add up to "
            f"{total[wrong[0]]:.4g}; apply a softmax before writing them"
        )
    video = np.asarray([video for video, _ in pairs], object)
    frame = np.asarray([frame for _, frame in pairs], np.int64)
    return _Rows(path, tuple(classes), video, frame, np.asarray(size, np.float64), probabilities)


def _reordered(part: _Rows, classes: tuple[str, ...]) -> np.ndarray:
    if sorted(part.classes) != sorted(classes):
        raise FerJaxError(
            f"{part.path}: its classes {', '.join(part.classes)} are not those of the first file, "
            f"{', '.join(classes)}; name files of one model"
        )
    return part.probabilities[:, [part.classes.index(name) for name in classes]]
