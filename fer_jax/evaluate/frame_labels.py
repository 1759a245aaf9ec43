"""The labels of frames: of a prepared data set, of Aff-Wild2's own files, or of a CSV file."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, Int32, Int64

from fer_jax.data.affwild2_files import LABELS, is_sample_header, read_annotation
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace
from fer_jax.predict.table import open_csv

if TYPE_CHECKING:
    from fer_jax.data.dataset import FaceData

_COLUMNS = ("video", "frame", "label")
_NO_FRAME = 1 << 31


@dataclasses.dataclass(frozen=True, eq=False)
class FrameLabels:
    """What people saw in each frame, sorted by (video, frame).

    Attributes:
        labels: what the numbers mean.
        video: names, object `[rows]`; `_left` and `_right` are videos of their own.
        frame: counted from 1.
        label: -1 where the frame is not annotated.
    """

    labels: LabelSpace
    video: np.ndarray
    frame: Int64[np.ndarray, "rows"]
    label: Int32[np.ndarray, "rows"]

    def __len__(self) -> int:
        return len(self.label)


def read_labels(path: str | os.PathLike[str], split: str = "validation") -> FrameLabels:
    """Reads the labels of a split, frame by frame.

    Args:
        path: a data set of `fer-jax prepare` (every annotated frame, if it was made of Aff-Wild2,
            else the frames that have a face); a folder that Aff-Wild2 was unpacked into, or one
            of its split folders, whose files are then all read; one annotation file; or a CSV
            file with the columns video, frame and label (a number, or a name of Aff-Wild2's
            classes), of which a column split selects rows if there is one.
        split: its name, such as `validation`; split folders and files without one are taken whole.

    Returns:
        The labels.

    Raises:
        FerJaxError: there is nothing of the split, frames are no frames of a video, or a file
            cannot be trusted.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() == ".txt":
            return _of_annotations([path])
        return _of_csv(path, split)
    if not path.is_dir():
        raise FerJaxError(
            f"{path}: no such file or folder; name a prepared data set, a folder of Aff-Wild2, or "
            "a CSV file with the columns video,frame,label"
        )
    from fer_jax.data.shards import MARKER

    if (path / MARKER).is_file():
        from fer_jax.data.dataset import FaceData

        return labels_of(FaceData.open(path), split)
    files = sorted(path.glob("*.txt"))
    whole = any(map(_is_annotation, files))
    return _of_annotations(files if whole else _files_of_split(path, split))


def labels_of(data: "FaceData", split: str) -> FrameLabels:
    """The labels of a data set whose faces are frames of videos; see `read_labels`.

    Args:
        data: the data set.
        split: its name.

    Returns:
        The labels of every annotated frame, if it was made of Aff-Wild2, else of every face.

    Raises:
        FerJaxError: there is nothing of the split, or the faces are no frames of videos.
    """
    from fer_jax.data.dataset import select

    path = data.path
    if (path / "annotations.npz").is_file():
        with (path / "annotations.npz").open("rb") as file, np.load(file) as columns:
            start, label = columns["start"], columns["label"]
            chosen = np.flatnonzero(columns["split"] == split)
            if not len(chosen):
                raise _no_split(path, split, columns["split"].tolist())
            videos = [(str(columns["video"][i]), label[start[i] : start[i + 1]]) for i in chosen]
        return _of_videos(data.label_space, videos)
    rows = select(data, split, labelled=False)
    video, frame = data.index["video"][rows], data.index["frame"][rows]
    if (video == "").any():
        raise FerJaxError(
            f"{path}: its faces are no frames of videos; name data with videos, or score a bundle "
            "on it: `fer-jax evaluate --bundle B --data DATA`"
        )
    return _sorted(path, data.label_space, video, frame, data.index["label"][rows])


def _files_of_split(path: Path, split: str) -> list[Path]:
    from fer_jax.data.affwild2 import find_layout

    annotations = find_layout(path).annotations
    files = annotations.get(split, {})
    if not files:
        there = [name for name, videos in annotations.items() if videos]
        raise _no_split(path, split, there)
    return list(files.values())


def _of_annotations(files: Sequence[Path]) -> FrameLabels:
    videos = []
    for file in files:
        annotation = read_annotation(file)
        if annotation.faults:
            otherwise = "" if _is_annotation(file) else ", or move it elsewhere if it is none"
            raise FerJaxError(
                f"{file}: {annotation.faults[0]}; repair the file, since scores need every "
                f"label{otherwise}"
            )
        videos.append((file.stem, annotation.labels))
    return _of_videos(LABELS, videos)


def _of_videos(space: LabelSpace, videos: Iterable[tuple[str, np.ndarray]]) -> FrameLabels:
    videos = sorted(videos, key=lambda one: one[0])
    lengths = [len(labels) for _, labels in videos]
    return FrameLabels(
        labels=space,
        video=np.repeat(np.asarray([name for name, _ in videos], object), lengths),
        frame=np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(1, n + 1, dtype=np.int64) for n in lengths)]
        ),
        label=np.concatenate([np.zeros(0, np.int32), *(labels for _, labels in videos)]).astype(
            np.int32
        ),
    )


def _of_csv(path: Path, split: str) -> FrameLabels:
    video, frame, label = [], [], []
    splits = set()
    with open_csv(path) as reader:
        header = next(reader, [])
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise FerJaxError(
                f"{path}: has no column {missing[0]!r}; the first line must name the columns "
                "video,frame,label"
            )
        for cells in filter(None, reader):
            row = dict(zip(header, cells, strict=False))
            if (own := row.get("split")) is not None:
                splits.add(own)
                if own != split:
                    continue
            where = f"{path}, line {reader.line_num}"
            texts = [row.get(name, "") for name in _COLUMNS]
            video.append(texts[0])
            frame.append(_frame(texts[1], where))
            label.append(_label(texts[2].strip(), where))
    if not video and splits:
        raise _no_split(path, split, sorted(splits))
    if not all(video):
        raise FerJaxError(f"{path}: a row names no video; give every row one")
    numbers = (np.asarray(column, np.int64) for column in (frame, label))
    return _sorted(path, LABELS, np.asarray(video, object), *numbers)


def _sorted(
    path: Path,
    space: LabelSpace,
    video: np.ndarray,
    frame: Int[np.ndarray, "rows"],
    label: Int[np.ndarray, "rows"],
) -> FrameLabels:
    if not len(video):
        raise FerJaxError(f"{path}: has no frame; name a file with labels")
    names, number = np.unique(video.astype(str), return_inverse=True)
    order = np.lexsort((frame, number))
    number, frame, label = number[order], frame[order], label[order]
    if frame.min() < 1:
        raise FerJaxError(
            f"{path}: frame {frame.min()} of {names[number[frame.argmin()]]}; frames are counted "
            "from 1, number them so"
        )
    again = np.flatnonzero((number[1:] == number[:-1]) & (frame[1:] == frame[:-1]))
    if len(again):
        row = again[0]
        raise FerJaxError(
            f"{path}: frame {frame[row]} of {names[number[row]]} is there twice; one label a frame "
            "can be scored, give each person a video of its own"
        )
    names = names.astype(object)
    return FrameLabels(space, names[number], frame.astype(np.int64), label.astype(np.int32))


def _frame(text: str, where: str) -> int:
    try:
        number = int(text)
        if abs(number) >= _NO_FRAME:
            raise ValueError
        return number
    except ValueError:
        raise FerJaxError(f"{where}: frame {text!r} is no number; give 1, 2, ...") from None


def _label(text: str, where: str) -> int:
    try:
        number = int(text)
    except ValueError:
        try:
            return LABELS.index(text) if text else -1
        except FerJaxError as error:
            raise FerJaxError(f"{where}: {error}") from None
    if not -1 <= number < len(LABELS):
        raise FerJaxError(f"{where}: label {text} is outside -1 to {len(LABELS) - 1}; correct it")
    return number


def _is_annotation(path: Path) -> bool:
    with open(path, "rb") as file:
        line = file.readline(400)
    names = [name.strip().lower() for name in line.decode("utf-8", "replace").split(",")]
    known = {name.lower() for name in LABELS.classes}
    # The sample of a submission names the classes too, after the column of its pictures.
    return not is_sample_header(line) and len(known.intersection(names)) >= 2


def _no_split(path: Path, split: str, there: Sequence[str]) -> FerJaxError:
    known = ", ".join(dict.fromkeys(there)) or "none"
    return FerJaxError(f"{path}: no labels of a split {split!r} (there: {known}); name another one")
