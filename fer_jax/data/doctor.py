"""Examines Aff-Wild2 before anybody trains on it: counts, gaps, broken files, copies and leaks.

It works video by video and keeps, of each picture, its hash only.
"""

import collections
import dataclasses
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, UInt8
from tqdm import tqdm

from fer_jax.data.affwild2 import (
    CROP_KINDS,
    LABELS,
    Annotation,
    Frames,
    Layout,
    Sample,
    find_layout,
    list_frames,
    read_annotation,
    read_sample,
    read_test_list,
    source_video,
)
from fer_jax.data.doctor_counts import VideoCheck, check_video, percent, worst
from fer_jax.data.doctor_findings import (
    FRAME_TOLERANCE,
    Finding,
    layout_findings,
    some,
    sort_findings,
)
from fer_jax.data.doctor_pictures import PictureReader, Pictures, copies
from fer_jax.errors import FerJaxError

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Examination:
    """All that was found.

    Attributes:
        layout: where the parts are.
        crops: which kind of pictures was examined, empty if there is none.
        opened: whether the pictures were opened, or only their names were read.
        videos: each video of each split.
        findings: the most serious first.
        sample_rows: rows of the sample file, 0 without one.
        seconds: how long it took.
    """

    layout: Layout
    crops: str
    opened: bool
    videos: tuple[VideoCheck, ...]
    findings: tuple[Finding, ...]
    sample_rows: int
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether something would corrupt training."""
        return any(finding.severity == "error" for finding in self.findings)

    def split(self, name: str) -> tuple[VideoCheck, ...]:
        """The videos of a split."""
        return tuple(video for video in self.videos if video.split == name)

    def counts(self, split: str, *, pictured: bool) -> Int[np.ndarray, "class"]:
        """Labels of each class in a split: all, or those that have a picture."""
        videos = self.split(split)
        rows = [video.pictured if pictured else video.labels for video in videos]
        return np.sum([np.zeros(len(LABELS), np.int64), *rows], axis=0)


def examine(
    root: str | os.PathLike[str],
    *,
    crops: str | None = None,
    open_pictures: bool = True,
    find_faces: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> Examination:
    """Examines what is below a folder.

    Args:
        root: the folder that Aff-Wild2 was unpacked into.
        crops: `cropped_aligned` or `cropped`; none means the first of them that is there.
        open_pictures: decode every picture, to find broken and blurred ones and copies.
        find_faces: let the face detector look at each, to find what is no face.
        workers: threads that do so.
        progress: show a bar on a terminal.

    Returns:
        The examination.

    Raises:
        FerJaxError: nothing of Aff-Wild2 is there, or not this kind of crops.
    """
    begin = time.monotonic()
    layout = find_layout(root)
    kind = _kind_of_crops(layout, crops)
    doctor = _Doctor(layout, kind, open_pictures)
    with PictureReader(workers, find_faces=find_faces) as reader:
        names = tqdm(
            doctor.names(), "videos", unit="video", disable=not (progress and sys.stderr.isatty())
        )
        for video in names:
            doctor.examine_video(video, reader)
    doctor.compare_videos()
    findings = sort_findings(doctor.findings)
    seconds = time.monotonic() - begin
    return Examination(
        layout,
        kind,
        open_pictures and bool(kind),
        tuple(doctor.checks),
        findings,
        doctor.sample_rows,
        seconds,
    )


class _Doctor:
    """Collects findings video by video."""

    def __init__(self, layout: Layout, kind: str, open_pictures: bool):
        self.layout = layout
        self.kind = kind
        self.folders = layout.crops.get(kind, {})
        self.open_pictures = open_pictures
        self.findings: list[Finding] = []
        self.checks: list[VideoCheck] = []
        self.hashed: list[tuple[str, Int32[np.ndarray, "_"], UInt8[np.ndarray, "_ 32"]]] = []
        self._look_at_layout()
        self.sample, self.sample_rows = self._read_sample(), 0
        self.sample_gaps: dict[str, int] = {}
        self.splits = self._splits()

    def names(self) -> list[str]:
        """All videos that an annotation, a folder or the test list names."""
        return sorted({*self.splits, *self.folders})

    def examine_video(self, video: str, reader: PictureReader) -> None:
        """Looks at one video's annotations and pictures."""
        splits = self.splits.get(video, [""])
        frames, pictures = self._frames(video, splits, reader)
        self._look_at_pictures(video, splits, frames, pictures)
        for split in splits:
            path = self.layout.annotations.get(split, {}).get(video)
            annotation = self._annotation(path, video, split) if path else None
            labels = annotation.labels if annotation else np.zeros(0, np.int8)
            check = check_video(video, split, labels, frames.numbers, pictures)
            self.checks.append(check)
            if annotation:
                self._compare_labels(check, annotation, frames)
        if self.sample and video in self.sample.frames:
            wanted = self.sample.frames[video]
            self.sample_rows += len(wanted)
            missing = int((~np.isin(wanted, frames.numbers)).sum())
            if missing and frames.numbers.size:
                self.sample_gaps[video] = missing

    def compare_videos(self) -> None:
        """What shows only when all videos are known."""
        self._look_at_splits()
        self._look_at_sources()
        self._look_at_test_files()
        split_of = {video: splits[0] for video, splits in self.splits.items()}
        for copy in copies(self.hashed):
            names = [split_of.get(video) or "no split" for video in copy.videos]
            message = (
                f"in both: {copy.counts[0]:,} of the first ({names[0]}), "
                f"{copy.counts[1]:,} of the second ({names[1]})"
            )
            self._find(
                "duplicates", " | ".join(copy.videos), message, "", sum(copy.counts), copy.examples
            )

    def _find(
        self,
        kind: str,
        where: str,
        message: str,
        split: str = "",
        count: int = 1,
        details: Iterable[str] = (),
    ) -> None:
        self.findings.append(Finding(kind, where, message, split, count, tuple(details)))

    def _look_at_layout(self) -> None:
        self.findings += layout_findings(self.layout)
        if not self.folders:
            message = "there is no folder cropped_aligned/<video>/ or cropped/<video>/"
            self._find("no_crops", "crops", message)
        for split, paths in self.layout.annotations.items():
            if not paths:
                self._find("no_annotations", split, f"no annotation of {split} is there", split)

    def _read_sample(self) -> Sample | None:
        try:
            return read_sample(self.layout.sample) if self.layout.sample else None
        except FerJaxError as error:
            self._find("unreadable", self._name(self.layout.sample), _reason(error))
            return None

    def _splits(self) -> dict[str, list[str]]:
        """For each video the splits that name it."""
        splits = collections.defaultdict(list)
        for split, paths in self.layout.annotations.items():
            for video in paths:
                splits[video].append(split)
        self.listed: tuple[str, ...] = ()
        try:
            if self.layout.test_list:
                self.listed = read_test_list(self.layout.test_list)
        except FerJaxError as error:
            self._find("unreadable", self._name(self.layout.test_list), _reason(error))
        for video in dict.fromkeys((*self.listed, *(self.sample.videos if self.sample else ()))):
            splits[video].append("test")
        return dict(splits)

    def _frames(
        self, video: str, splits: list[str], reader: PictureReader
    ) -> tuple[Frames, Pictures]:
        nothing = Frames(self.layout.root, np.zeros(0, np.int32), ())
        if video not in self.folders:
            return nothing, Pictures.none()
        try:
            frames = list_frames(self.folders[video])
        except FerJaxError as error:
            self._find("unreadable", self._name(self.folders[video]), _reason(error), splits[0])
            return nothing, Pictures.none()
        if not self.open_pictures:
            return frames, Pictures.none()
        pictures = reader.read(frames)
        self.hashed.append((video, frames.numbers, pictures.hashes))
        return frames, pictures

    def _look_at_pictures(
        self, video: str, splits: list[str], frames: Frames, pictures: Pictures
    ) -> None:
        split, images = splits[0], len(frames.numbers)
        if frames.strangers:
            number, names = len(frames.strangers), some(frames.strangers)
            message = f"{number:,} {'files are' if number > 1 else 'file is'} no frame: {names}"
            self._find("strangers", video, message, split, number, frames.strangers)
        if images and frames.numbers[0] == 0:
            message = "has a picture 00000.jpg: its pictures seem to be counted from 0"
            self._find("from_zero", video, message, split)
        for kind, bad in {"corrupted": pictures.corrupted, **pictures.poor}.items():
            if bad:
                names = [f"{frames.path(number).name} {reason}" for number, reason in bad.items()]
                message = f"{len(bad):,} of {images:,} pictures: {some(names, 5)}"
                self._find(kind, video, message, split, len(bad), names)
        if pictures.flat:
            message = f"{pictures.flat:,} of {images:,} pictures are of one colour"
            self._find("flat", video, message, split, pictures.flat)
        others = {size: n for size, n in pictures.sizes.items() if size != (112, 112)}
        if others and self.kind == "cropped_aligned":
            number = sum(others.values())
            sizes = some(f"{width}x{height}" for width, height in sorted(others))
            message = f"{number:,} of {images:,} pictures are {sizes} pixels"
            self._find("size", video, message, split, number)

    def _annotation(self, path: Path, video: str, split: str) -> Annotation | None:
        try:
            annotation = read_annotation(path)
        except FerJaxError as error:
            self._find("unreadable", self._name(path), _reason(error), split)
            return None
        if faults := annotation.faults:
            message = some(faults, 2)
            self._find("annotation", video, message, split, len(faults), faults)
        elif not (annotation.labels >= 0).any():
            self._find("unlabelled_video", video, "all its lines are -1", split)
        return annotation

    def _compare_labels(self, check: VideoCheck, annotation: Annotation, frames: Frames) -> None:
        lines, last, video, split = check.lines, check.last_image, check.video, check.split
        if check.labelled and not check.images and self.folders:
            where = "its folder is empty" if video in self.folders else "it has no folder"
            message = f"{check.labelled:,} labels and not a single picture: {where}"
            self._find("no_pictures", video, message, split, check.labelled)
        if check.images and last > lines and lines:
            kind = "beyond_labels" if last > lines + FRAME_TOLERANCE else "frame_count"
            beyond = int((frames.numbers > lines).sum())
            message = f"{lines:,} labels, but pictures up to number {last:,}"
            self._find(kind, video, message, split, beyond)

    def _look_at_splits(self) -> None:
        for split in SPLITS:
            checks = [check for check in self.checks if check.split == split]
            missing = [check for check in checks if check.images and check.labels_without_image]
            if missing:
                number = sum(check.labels_without_image for check in missing)
                labelled = sum(check.labelled for check in checks if check.images)
                each = worst(missing, "labels_without_image", "labelled")
                message = (
                    f"{number:,} of {labelled:,} labels ({percent(number, labelled)}) in "
                    f"{len(missing)} videos have no picture; most in {some(each)}"
                )
                self._find("labels_without_picture", split, message, split, number, each)
            bare = [check for check in checks if check.lines and check.images_without_label]
            if bare:
                number = sum(check.images_without_label for check in bare)
                images = sum(check.images for check in checks)
                each = worst(bare, "images_without_label", "images")
                message = (
                    f"{number:,} of {images:,} pictures ({percent(number, images)}) in "
                    f"{len(bare)} videos have no label; most in {some(each)}"
                )
                self._find("pictures_without_label", split, message, split, number, each)
        train = [check.pictured for check in self.checks if check.split == "train"]
        if train and self.folders:
            for name, number in zip(LABELS.classes, np.sum(train, axis=0), strict=True):
                if not number:
                    self._find("empty_class", name, f"no training picture is {name}", "train")
        others = sorted(set(self.folders) - set(self.splits))
        if others:
            message = f"{len(others):,} that no annotation or test list names: {some(others)}"
            self._find("without_annotation", "crops", message, "", len(others), others)

    def _look_at_sources(self) -> None:
        sources: dict[str, dict[str, list[str]]] = {}
        for video, splits in self.splits.items():
            if len(splits) > 1:
                self._find("two_splits", video, f"is in {' and in '.join(splits)}")
            else:
                stem = source_video(video)[0]
                sources.setdefault(stem, {}).setdefault(splits[0], []).append(video)
        for stem, by_split in sources.items():
            if len(by_split) > 1:
                parts = [f"{some(videos)} in {split}" for split, videos in by_split.items()]
                videos = [video for found in by_split.values() for video in found]
                self._find("shared_video", stem, ", ".join(parts), "", len(videos), videos)
        files = self.layout.videos
        annotated = {video for paths in self.layout.annotations.values() for video in paths}
        absent = sorted(video for video in annotated if source_video(video)[0] not in files)
        # Some videos carry a suffix of their own that looks like a side.
        absent = [video for video in absent if video not in files]
        if files and absent:
            message = f"{len(absent):,} of {len(annotated):,}: {some(absent)}"
            self._find("no_video_file", "videos", message, "", len(absent), absent)

    def _look_at_test_files(self) -> None:
        pictured = {check.video for check in self.checks if check.images}
        test = [video for video, splits in self.splits.items() if "test" in splits]
        absent = sorted(set(test) - pictured)
        if absent and self.folders:
            message = f"{len(absent):,} of {len(test):,} have no picture: {some(absent)}"
            self._find("test_without_crops", "test", message, "test", len(absent), absent)
        if gaps := self.sample_gaps:
            worst_first = sorted(gaps, key=lambda video: (-gaps[video], video))
            each = [f"{video} ({gaps[video]:,})" for video in worst_first]
            number = sum(gaps.values())
            message = (
                f"{number:,} of {self.sample_rows:,} rows ({percent(number, self.sample_rows)}) in "
                f"{len(gaps)} videos; most in {some(each)}"
            )
            self._find("sample_without_picture", "test", message, "test", number, each)
        if self.listed and self.sample:
            listed, sampled = set(self.listed), set(self.sample.videos)
            for where, names in (
                ("in the test list only", sorted(listed - sampled)),
                ("in the sample file only", sorted(sampled - listed)),
            ):
                if names:
                    message = f"{len(names)} videos: {some(names)}"
                    self._find("test_list_and_sample", where, message, "test", len(names), names)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.layout.root).as_posix()


def _kind_of_crops(layout: Layout, wanted: str | None) -> str:
    kinds = [kind for kind in CROP_KINDS if kind in layout.crops]
    if wanted is None:
        return kinds[0] if kinds else ""
    if wanted not in kinds:
        raise FerJaxError(
            f"{layout.root}: has no folder {wanted}; there is {' and '.join(kinds) or 'none'}: "
            "unpack it, or choose another by --crops"
        )
    return wanted


def _reason(error: FerJaxError) -> str:
    """The error's text without the path before it."""
    return str(error).partition(": ")[2] or str(error)
