"""Aff-Wild2 as its organisers hand it out: where its parts are, and what its files say.

Below one folder, at any depth and in any spelling that the editions of the challenge have used:

    <k>_ABAW_Annotations/EXPR_Recognition_Challenge/{Train_Set,Validation_Set}/<video>.txt
    cropped_aligned/<video>/00001.jpg          and cropped_aligned_new_50_vids/...
    cropped/<video>/00001.jpg                  and cropped_new_50_vids/...
    batch1/<video>.mp4                         and batch2, new_vids, ...; also .avi
    Expression_Recognition_Challenge_test_set_release.txt, and a sample of a submission

Line i of an annotation (from 1, after the header) belongs to picture number i of the video's
folder, which has gaps where no face was found. `_left` and `_right` are two people of one video.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fer_jax.data.affwild2_files import (
    LABELS,
    Annotation,
    Frames,
    Sample,
    frame_name,
    frame_number,
    is_sample_header,
    list_frames,
    read_annotation,
    read_bytes,
    read_sample,
    read_test_list,
    source_video,
)
from fer_jax.data.examples import Fault
from fer_jax.errors import FerJaxError

__all__ = [
    "CROP_KINDS",
    "LABELS",
    "SPLITS",
    "Annotation",
    "Frames",
    "Layout",
    "LayoutFault",
    "Sample",
    "find_crops",
    "find_layout",
    "frame_name",
    "list_frames",
    "read_annotation",
    "read_sample",
    "read_test_list",
    "source_video",
]

SPLITS = {"Train_Set": "train", "Validation_Set": "validation"}
CROP_KINDS = ("cropped_aligned", "cropped")

_SPLIT_NAMES = {"train_set": "train", "training_set": "train", "train": "train"} | dict.fromkeys(
    ("validation_set", "val_set", "validation", "val"), "validation"
)
_CHALLENGE = re.compile(r"expr(ession)?(_(recognition|classification))?(_challenge)?(_\(\d+\))?")
_CROPS = re.compile(r"(cropped_aligned|cropped)(_new_50_vids)?(_\(\d+\))?")
_BATCH = re.compile(r"batch_?\d+")
_TEST_LIST = re.compile(r".*test_set.*release.*\.txt")
_OTHER_CHALLENGE = re.compile(r"(au|va|mtl|action_unit|valence|multi|compound|ce)_")
_VIDEO_EXTENSIONS = (".mp4", ".avi")
_DEEPEST = 8
_A_VIDEO = 1000  # so many frames, and nothing else yet, make a folder that of a video


@dataclasses.dataclass(frozen=True)
class LayoutFault(Fault):
    """Something in the way of the search.

    Attributes:
        kind: `twice`, `unreadable`, or `strangers` for what is no annotation among annotations.
        part: what it belongs to: one of `CROP_KINDS`, another field of `Layout`, or `root` where
            that cannot be told.
    """

    kind: str = "unreadable"
    part: str = "root"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parts of Aff-Wild2 are.

    Attributes:
        root: the folder that was searched.
        annotations: for each split and video the annotation file.
        crops: for each kind of `CROP_KINDS` that is there, the folder of each video.
        videos: the video files by stem, which has no `_left` or `_right`.
        test_list: the names of the test videos, if it is there.
        sample: a submission as it must look, if it is there.
        strays: folders with pictures that are not in a video's folder below a kind of crops.
        faults: what was found more than once, of which the first was taken, and what cannot be
            read.
    """

    root: Path
    annotations: dict[str, dict[str, Path]]
    crops: dict[str, dict[str, Path]]
    videos: dict[str, Path]
    test_list: Path | None
    sample: Path | None
    strays: tuple[Path, ...]
    faults: tuple[LayoutFault, ...]


def find_layout(root: str | os.PathLike[str]) -> Layout:
    """Finds the parts of Aff-Wild2 below a folder, by their names; no folder of frames is listed.

    Args:
        root: the folder that all was unpacked into.

    Returns:
        What was found.

    Raises:
        FerJaxError: there is no such folder, or neither annotations nor crops nor videos in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FerJaxError(f"{root}: is no folder; name the one that Aff-Wild2 was unpacked into")
    search = _Search(root)
    if _CHALLENGE.fullmatch(_plain(root.name)):
        search.challenge(root)
    search.walk(root, 0)
    if not any((*search.annotations.values(), *search.crops.values(), search.videos)):
        raise FerJaxError(
            f"{root}: nothing of Aff-Wild2 is in it: no EXPR_Recognition_Challenge/Train_Set/*.txt,"
            " no cropped_aligned/<video>/, no .mp4 or .avi; name the folder that it was unpacked to"
        )
    return search.layout()


def find_crops(folder: str | os.PathLike[str]) -> tuple[str, dict[str, Path]]:
    """Finds the folders of frames in one folder of crops, and in its siblings of the same kind.

    Args:
        folder: such as `cropped_aligned`, beside which `cropped_aligned_new_50_vids` may lie.

    Returns:
        The kind, one of `CROP_KINDS`, or empty where the folder's name does not say; and the
        folder of each video. Of a video that is in several, the named folder's counts.

    Raises:
        FerJaxError: there is no such folder.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise FerJaxError(
            f"{folder}: is no folder; name the one of the crops, such as cropped_aligned"
        )
    match = _CROPS.fullmatch(_plain(folder.name))
    kind = match[1] if match else ""
    search = _Search(folder.parent)
    search.crop_folder(folder, kind)
    for sibling in sorted(folder.parent.iterdir()) if match else ():
        other = _CROPS.fullmatch(_plain(sibling.name))
        if other and other[1] == kind and sibling.is_dir():
            search.crop_folder(sibling, kind)
    return kind, _sorted(search.crops.get(kind, {}))


class _Search:
    """Collects the parts while walking; of what is found twice the first stays."""

    def __init__(self, root: Path):
        self.root = root
        self.annotations: dict[str, dict[str, Path]] = {split: {} for split in SPLITS.values()}
        self.crops: dict[str, dict[str, Path]] = {}
        self.videos: dict[str, Path] = {}
        self.lists: list[Path] = []
        self.samples: list[Path] = []
        self.strays: list[Path] = []
        self.faults: list[LayoutFault] = []
        self.twice: dict[tuple[str, Path, Path], list[str]] = collections.defaultdict(list)
        self.seen: set[str] = set()  # so that a link to a folder above ends somewhere

    def walk(self, folder: Path, depth: int) -> None:
        if self._was_here(folder):
            return
        folders, files = self._entries(folder, "root", whole=False)
        if any(frame_number(path.name) >= 0 for path in files):
            self.strays.append(folder)
        for path in files:
            self._file(path)
        for path in folders:
            name = _plain(path.name)
            if match := _CROPS.fullmatch(name):
                self.crop_folder(path, match[1])
            elif not (_CHALLENGE.fullmatch(name) and self.challenge(path)) and depth < _DEEPEST:
                self.walk(path, depth + 1)

    def challenge(self, folder: Path) -> bool:
        """Whether it has a folder for a split, whose files are then taken."""
        folders, _ = self._entries(folder, "annotations")
        splits = [path for path in folders if _plain(path.name) in _SPLIT_NAMES]
        for split_folder in splits:
            known = self.annotations[_SPLIT_NAMES[_plain(split_folder.name)]]
            for path in self._entries(split_folder, "annotations")[1]:
                if path.suffix.lower() != ".txt":
                    reason = "is no .txt file; it is passed over"
                    self._fault("strangers", "annotations", path, reason)
                elif path.stem not in known:
                    known[path.stem] = path
                elif not _same_content(known[path.stem], path):
                    twice = ("annotations", split_folder, known[path.stem].parent)
                    self.twice[twice].append(path.stem)
        return bool(splits)

    def crop_folder(self, folder: Path, kind: str) -> None:
        if self._was_here(folder):
            return
        known = self.crops.setdefault(kind, {})
        folders, files = self._entries(folder, kind)
        if any(frame_number(path.name) >= 0 for path in files):
            self.strays.append(folder)
        for path in folders:
            name = _plain(path.name)
            if match := _CROPS.fullmatch(name):
                self.crop_folder(path, match[1])
            elif _BATCH.fullmatch(name):
                self.crop_folder(path, kind)
            elif path.name in known:
                self.twice[kind, folder, known[path.name].parent].append(path.name)
            else:
                known[path.name] = path

    def _file(self, path: Path) -> None:
        name = _plain(path.name)
        if path.suffix.lower() in _VIDEO_EXTENSIONS:
            if path.stem in self.videos:
                self.twice["videos", path.parent, self.videos[path.stem].parent].append(path.stem)
            self.videos.setdefault(path.stem, path)
        elif _TEST_LIST.fullmatch(name):
            if not _OTHER_CHALLENGE.match(name):
                self.lists.append(path)
        elif path.suffix.lower() in (".txt", ".csv") and _is_sample(path):
            self.samples.append(path)

    def _entries(
        self, folder: Path, part: str, *, whole: bool = True
    ) -> tuple[list[Path], list[Path]]:
        """Its folders and files, sorted; unless whole, of a video's folder the first frames."""
        folders, files = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    path = Path(entry.path)
                    try:
                        is_folder = entry.is_dir()
                    except OSError as error:
                        reason = f"cannot be read ({error.strerror}); mend it or remove it"
                        self._fault("unreadable", _part_of(path, part), path, reason)
                        continue
                    if _is_text(entry.name):
                        (folders if is_folder else files).append(path)
                    elif is_folder or _part_of(path, part) != "root":
                        reason = "its name is no text (UTF-8): rename it"
                        self._fault("unreadable", _part_of(path, part), path, reason)
                    if not whole and len(files) == _A_VIDEO and _are_frames(files) and not folders:
                        break
        except OSError as error:
            reason = f"cannot be read ({error.strerror}); check its rights"
            self._fault("unreadable", part, folder, reason)
        return sorted(folders), sorted(files)

    def _was_here(self, folder: Path) -> bool:
        real = os.path.realpath(folder)
        known = real in self.seen
        self.seen.add(real)
        return known

    def _fault(self, kind: str, part: str, path: Path, reason: str) -> None:
        self.faults.append(LayoutFault(self._name(path), reason, kind=kind, part=part))

    def _name(self, path: Path) -> str:
        name = os.fsencode(path.relative_to(self.root).as_posix())
        return name.decode(errors="backslashreplace")

    def _one(self, part: str, paths: list[Path], hints: Iterable[str]) -> Path | None:
        """The only one, or the only one whose name holds a hint."""
        hinted = [path for path in paths if any(hint in path.name.lower() for hint in hints)]
        paths = hinted or paths
        if len(paths) > 1:
            others = ", ".join(self._name(path) for path in paths[1:])
            reason = f"is used; there are also {others}: remove what is not it"
            self._fault("twice", part, paths[0], reason)
        return paths[0] if paths else None

    def layout(self) -> Layout:
        # The conflict is of folders, not of files: an edition too many is one fault, not 318.
        for (part, folder, first), names in self.twice.items():
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            reason = f"{len(names)} in it are in {self._name(first)} too ({some})"
            self._fault("twice", part, folder, f"{reason}; remove the ones that are wrong")
        return Layout(
            self.root,
            {split: _sorted(paths) for split, paths in self.annotations.items()},
            {kind: _sorted(self.crops[kind]) for kind in CROP_KINDS if self.crops.get(kind)},
            _sorted(self.videos),
            self._one("test_list", self.lists, ("expr",)),
            self._one("sample", self.samples, ("sample", "example")),
            tuple(self.strays),
            tuple(self.faults),
        )


def _sorted(paths: Mapping[str, Path]) -> dict[str, Path]:
    return dict(sorted(paths.items()))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _part_of(path: Path, part: str) -> str:
    return "videos" if part == "root" and path.suffix.lower() in _VIDEO_EXTENSIONS else part


def _are_frames(files: Iterable[Path]) -> bool:
    return all(frame_number(path.name) >= 0 for path in files)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # file systems allow any bytes, labels and reports do not
        return False
    return True


def _is_sample(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            return is_sample_header(file.readline(200))
    except OSError:
        return False


def _same_content(first: Path, second: Path) -> bool:
    try:
        return read_bytes(first) == read_bytes(second)
    except FerJaxError:
        return False
