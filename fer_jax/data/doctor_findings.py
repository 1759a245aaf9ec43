"""What `fer-jax doctor` can find, how serious each is, and what to do about it."""

import collections
import dataclasses
from collections.abc import Iterable

from fer_jax.data.affwild2 import CROP_KINDS, Layout

SEVERITIES = ("error", "warning", "note")

# The organisers count one frame more or less than decoders do; three are a tenth of a second.
FRAME_TOLERANCE = 3


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: `error` if training would silently take something wrong, `warning` if what is
            wrong is seen and left out (or must be known), else `note`.
        title: heads its findings.
        remedy: what to do.
    """

    severity: str
    title: str
    remedy: str


KINDS = {
    "annotation": Kind(
        "error",
        "Annotation files that do not say what they should",
        "mend the file, or take it from the organisers' archive again",
    ),
    "ambiguous": Kind(
        "error",
        "Parts that are there twice",
        "remove the one that does not belong to this edition",
    ),
    "two_splits": Kind(
        "error",
        "Videos in two splits",
        "remove one of the two, else the score is of frames that were trained on",
    ),
    "no_pictures": Kind(
        "error",
        "Annotated videos without a single picture",
        "unpack the crops of these videos, and name their folders as the annotations",
    ),
    "from_zero": Kind(
        "error",
        "Pictures that are numbered from 0",
        "number them from 1: else every label is one frame off",
    ),
    "beyond_labels": Kind(
        "error",
        "Pictures numbered beyond the labels",
        "check that annotation and pictures are of the same video and counted alike",
    ),
    "unreadable": Kind(
        "error", "Folders and files that cannot be read", "check their rights and the disk"
    ),
    "corrupted": Kind(
        "warning", "Pictures that cannot be opened", "nothing: they are left out and named"
    ),
    "non_face": Kind(
        "warning",
        "Pictures that show no face",
        "nothing: cleaning leaves those of the training part out",
    ),
    "low_resolution": Kind(
        "warning",
        "Pictures that are too small",
        "nothing: cleaning leaves those of the training part out",
    ),
    "blurred": Kind(
        "warning",
        "Blurred or enlarged pictures",
        "nothing: cleaning leaves those of the training part out",
    ),
    "duplicates": Kind(
        "warning",
        "The same pictures in two videos",
        "keep one of the two in training; across splits the score is too good",
    ),
    "shared_video": Kind(
        "warning",
        "Videos whose two people are in different splits",
        "leave the training one out if the score must be free of leaks",
    ),
    "labels_without_picture": Kind(
        "warning", "Labels without a picture", "nothing: no face was found there; they are left out"
    ),
    "size": Kind(
        "warning",
        "Aligned pictures that are not 112x112",
        "check that they are the organisers' cropped_aligned, not their cropped",
    ),
    "no_crops": Kind(
        "warning", "No crops", "unpack cropped_aligned, or cut the faces from the videos"
    ),
    "no_annotations": Kind(
        "warning", "Splits without annotations", "unpack the annotations of the EXPR challenge"
    ),
    "empty_class": Kind(
        "warning", "Classes without a single training picture", "check the annotations and crops"
    ),
    "test_without_crops": Kind(
        "warning",
        "Test videos without crops",
        "unpack them too: a submission without all rows is ruled invalid",
    ),
    "test_list_and_sample": Kind(
        "warning",
        "Test list and sample file that do not agree",
        "take both from the same edition of the challenge",
    ),
    "several": Kind("warning", "Files that are there twice", "remove what is not wanted"),
    "strays": Kind(
        "warning",
        "Folders of pictures that were not looked at",
        "move them below a folder named cropped_aligned or cropped",
    ),
    "frame_count": Kind(
        "note",
        f"Up to {FRAME_TOLERANCE} pictures more than labels",
        "nothing: the organisers and decoders count differently by so much",
    ),
    "pictures_without_label": Kind(
        "note", "Pictures without a label", "nothing: they are not trained on"
    ),
    "without_annotation": Kind(
        "note", "Crops without an annotation", "nothing: they are not trained on"
    ),
    "unlabelled_video": Kind(
        "note", "Annotations without a single label", "nothing: there is nothing to learn from"
    ),
    "flat": Kind("note", "Pictures of one colour", "nothing, or leave them out when cleaning"),
    "strangers": Kind(
        "note", "Other files among the pictures", "nothing: only names like 00001.jpg are read"
    ),
    "sample_without_picture": Kind(
        "note",
        "Rows of the sample file without a picture",
        "nothing: a submission fills them from the frames around",
    ),
    "no_video_file": Kind(
        "note", "Annotated videos without a video file", "nothing, unless crops are cut from videos"
    ),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to know about the data.

    Attributes:
        kind: a key of `KINDS`.
        where: the video, pair of videos, file or split that it is about.
        message: what it is, one line.
        split: the split, empty if it concerns none or several.
        count: how many pictures, labels or lines.
        details: each of them by name, where they have names.
    """

    kind: str
    where: str
    message: str
    split: str = ""
    count: int = 1
    details: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind].severity


def layout_findings(layout: Layout) -> list[Finding]:
    """What is there twice, cannot be read, or does not belong where it is."""
    findings = []
    for fault in layout.faults:
        kind = fault.kind
        if kind == "twice":
            kind = "ambiguous" if fault.part in ("annotations", *CROP_KINDS) else "several"
        findings.append(Finding(kind, fault.name, fault.reason))
    root = layout.root
    parents = collections.Counter(root if path == root else path.parent for path in layout.strays)
    for parent, number in parents.items():
        message = f"holds pictures in {number} places, but is not named as crops are"
        name = parent.relative_to(root).as_posix()
        findings.append(Finding("strays", name, message, count=number))
    return findings


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings in the order of `KINDS`, which is from the most serious on."""
    order = {kind: i for i, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda finding: (order[finding.kind], finding.where)))


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
