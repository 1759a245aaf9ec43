"""Runs a bundle over whole videos: the people whom the challenge's names mean, found here."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from tqdm import tqdm

from fer_jax.data.affwild2_files import Sample, source_video
from fer_jax.data.units import file_state
from fer_jax.errors import FerJaxError
from fer_jax.faces.tracking import choose_person
from fer_jax.faces.videos import VIDEO_EXTENSIONS, VideoError, read_video
from fer_jax.predict.finished import FinishedVideos, VideoPredictions
from fer_jax.predict.frame_faces import FaceSearch
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.row_file import NO_FACE, RowFile
from fer_jax.predict.video import INTERRUPTED, Progress, scored_rows

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Person:
    """Whom a name of the sample means.

    Attributes:
        name: in the sample.
        video: the file.
        side: `left`, `right`, or "" in a video of one person.
    """

    name: str
    video: Path
    side: str


def find_people(root: str | os.PathLike[str], sample: Sample, allow_empty: bool) -> list[Person]:
    """The videos of a sample's names, below a folder.

    Args:
        root: folder of video files.
        sample: the rows of the submission.
        allow_empty: pass over names that have no video, unless none has one.

    Returns:
        The people, those of one video one after the other.

    Raises:
        FerJaxError: names have no video, or two videos have one name.
    """
    files: dict[str, Path] = {}
    for file in sorted(Path(root).rglob("*")):
        if file.suffix.lower() in VIDEO_EXTENSIONS and file.is_file():
            if file.stem in files:
                raise FerJaxError(
                    f"{file}: {files[file.stem]} has its name too; name a folder that has one"
                )
            files[file.stem] = file
    people = []
    for name in sample.videos:
        stem, side = (name, "") if name in files else source_video(name)
        if stem in files:
            people.append(Person(name, files[stem], side))
    absent = sorted({*sample.videos} - {person.name for person in people})
    if absent and not (allow_empty and people):
        some = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        otherwise = ", or pass --allow-empty" if people else ""
        raise FerJaxError(
            f"{root}: {len(absent)} of the sample's {len(sample.videos)} videos have no file "
            f"({some}); name the folder that holds them{otherwise}"
        )
    return sorted(people, key=lambda person: (person.video, person.side))


def predict_people(
    recognizer: Recognizer,
    people: Sequence[Person],
    search: FaceSearch,
    *,
    on_problem: Callable[[str], None],
    finished: FinishedVideos | None = None,
    progress: bool = False,
) -> tuple[
    tuple[np.ndarray, Int64[np.ndarray, "seen"], Float32[np.ndarray, "seen class"]], list[str]
]:
    """Names the expression of each person in every frame in which they are found.

    The two people of a video are told apart by where they are (`faces.tracking.choose_person`).

    Args:
        recognizer: of a bundle with labels.
        people: as of `find_people`.
        search: how faces are found; all of them are kept.
        on_problem: called with one line for each video that is damaged.
        finished: where finished people are kept, and taken from if they are there.
        progress: show a bar if there is a terminal.

    Returns:
        Video, frame and probabilities of every frame with the person, frames ascending; and a
        line for each person, which says in how many frames they were found.

    Raises:
        FerJaxError: the bundle has no labels.
        KeyboardInterrupt: a keyboard stopped it.
    """
    recognizer.require_labels()
    parts: dict[str, VideoPredictions] = {}
    videos: dict[Path, list[Person]] = {}
    for person in people:
        videos.setdefault(person.video, []).append(person)
    with tqdm(videos.items(), unit="video", disable=None if progress else True) as bar:
        for path, group in bar:
            bar.set_description(path.name)
            parts |= _people_of(recognizer, path, group, search, on_problem, finished)
    lines = []
    for person in people:
        where = f" ({person.side})" if person.side else ""
        found = len(parts[person.name].frame)
        lines.append(f"{person.name}: {person.video.name}{where}, found in {found:,} frames")
    nothing = np.zeros((0, len(recognizer.classes)), np.float32)
    columns = (
        np.repeat(np.asarray(list(parts), object), [len(part.frame) for part in parts.values()]),
        np.concatenate([np.zeros(0, np.int64), *(part.frame for part in parts.values())]),
        np.concatenate([nothing, *(part.probabilities for part in parts.values())]),
    )
    return columns, lines


def _people_of(
    recognizer: Recognizer,
    path: Path,
    group: Sequence[Person],
    search: FaceSearch,
    on_problem: Callable[[str], None],
    finished: FinishedVideos | None,
) -> Mapping[str, VideoPredictions]:
    """What is predicted of the people of one video, which is decoded once."""
    kept = {} if finished is None else {p.name: finished.path_of(_state(p, search)) for p in group}
    parts = {name: finished.read(file) for name, file in kept.items()}
    if not parts or None in parts.values():
        parts = _predicted(recognizer, path, group, search)
        for name, file in kept.items():
            # What could not be read may be read the next time.
            if len(parts[name].frame) or not parts[name].problems:
                finished.write(file, parts[name])
    for problem in parts[group[0].name].problems:
        on_problem(problem)
    return parts


def _predicted(
    recognizer: Recognizer, path: Path, group: Sequence[Person], search: FaceSearch
) -> dict[str, VideoPredictions]:
    progress = Progress()
    try:
        reader = read_video(path)
        with scored_rows(recognizer, reader, search, progress=progress) as rows:
            if progress.fault == INTERRUPTED:
                raise KeyboardInterrupt
            problems = (f"{path}: {progress.fault}",) if progress.fault else ()
            width = reader.size[0]
            return {p.name: _chosen(rows, p.side, width, problems) for p in group}
    except VideoError as error:
        nothing = np.zeros((0, len(recognizer.classes)), np.float32)
        empty = VideoPredictions(np.zeros(0, np.int32), nothing, (str(error),))
        return {person.name: empty for person in group}


def _chosen(rows: RowFile, side: str, width: int, problems: tuple[str, ...]) -> VideoPredictions:
    """The rows of one person."""
    found = rows.between(rows.begin, rows.end)
    found = found[found["status"] < NO_FACE]
    corners = found["box"] + np.concatenate(
        [np.zeros((len(found), 2)), found["box"][:, :2]], axis=1
    )
    own = found[choose_person(found["frame"], found["face"], corners, side, float(width))]
    return VideoPredictions(own["frame"].copy(), own["raw"].copy(), problems)


def _state(person: Person, search: FaceSearch) -> bytes:
    """Changes with the video, with whom it is about, and with how faces are found."""
    fields = (os.path.abspath(person.video), person.side, search, file_state(person.video))
    return hashlib.sha256(repr(fields).encode("utf-8", "surrogateescape")).digest()
