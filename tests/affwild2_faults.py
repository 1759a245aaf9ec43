"""A whole little Aff-Wild2 without faults, and each fault that the doctor knows, to plant in it."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from affwild2_trees import CHALLENGE, HEADER, picture, write_frames, write_labels

from fer_jax.data.doctor_findings import FRAME_TOLERANCE

ALL = list(range(8))


def clean_tree(root: Path) -> Path:
    """Four annotated videos, two for the test, and nothing to complain about."""
    for split, video in (
        ("train", "1-30-1280x720"),
        ("train", "2_left"),
        ("train", "2_right"),
        ("validation", "3"),
    ):
        write_labels(root, split, video, ALL)
        write_frames(root, video, range(1, 9))
    for video in ("8", "9"):
        write_frames(root, video, range(1, 4), crops="cropped_aligned_new_50_vids")
    (root / "batch1").mkdir()
    for video in ("1-30-1280x720", "2", "3", "8", "9"):
        (root / "batch1" / f"{video}.mp4").touch()
    (root / "Expression_Recognition_Challenge_test_set_release.txt").write_text("8\n9\n")
    rows = [f"{video}/{number:05d}.jpg,0" for video in ("8", "9") for number in (1, 2, 3)]
    (root / "sample.txt").write_text("\n".join([f"image_location,{HEADER}", *rows, ""]))
    return root


def corrupt(root):
    """Of the eight pictures, one is cut short, one is empty, one is no picture at all."""
    folder = root / "cropped_aligned" / "1-30-1280x720"
    for number, content in ((2, None), (3, b""), (4, b"no picture")):
        path = folder / f"{number:05d}.jpg"
        path.write_bytes(path.read_bytes()[:400] if content is None else content)


def labels_of(video, labels, split="train", **options):
    return lambda root: write_labels(root, split, video, labels, **options)


def copy_video(root):
    """Video 3 (validation) shows 1 (train) again, re-encoded and a little smaller."""
    for number in range(1, 9):
        image = cv2.imread(str(root / "cropped_aligned" / "1-30-1280x720" / f"{number:05d}.jpg"))
        small = cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA)
        back = cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC)
        path = str(root / "cropped_aligned" / "3" / f"{number:05d}.jpg")
        assert cv2.imwrite(path, back, [cv2.IMWRITE_JPEG_QUALITY, 60])


def leak(root):
    """The two people of video 2 come into different splits."""
    annotations = root / CHALLENGE
    shutil.move(annotations / "Train_Set" / "2_left.txt", annotations / "Validation_Set")


def remove(*names):
    def plant(root):
        for name in names:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def flat_picture(root):
    image = np.full((112, 112, 3), 7, np.uint8)
    assert cv2.imwrite(str(root / "cropped_aligned" / "3" / "00005.jpg"), image)


def small_picture(root):
    image = picture(77, 1, side=90)
    assert cv2.imwrite(str(root / "cropped_aligned" / "3" / "00005.jpg"), image)


def blurred_picture(root):
    image = cv2.GaussianBlur(picture(77, 1), (0, 0), 3)
    assert cv2.imwrite(str(root / "cropped_aligned" / "3" / "00005.jpg"), image)


def tiny_picture(root):
    image = picture(77, 1, side=31)
    assert cv2.imwrite(str(root / "cropped_aligned" / "3" / "00005.jpg"), image)


def count_from_zero(root):
    path = root / "cropped_aligned" / "3"
    for number in range(8):
        (path / f"{number + 1:05d}.jpg").rename(path / f"{number:05d}.jpg")


def frames_of(video, numbers, **options):
    return lambda root: write_frames(root, video, numbers, **options)


def write(name, text):
    def plant(root):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return plant


def no_fear(root):
    for video in ("1-30-1280x720", "2_left", "2_right"):
        write_labels(root, "train", video, [0, 1, 2, 2, 4, 5, 6, 7])


_SAMPLE = f"image_location,{HEADER}\n"
_NINE = "".join(f"9/{number:05d}.jpg,0\n" for number in (1, 2, 3))
_SWAPPED = HEADER.replace("Fear,Happiness", "Happiness,Fear")
_LIST = "Expression_Recognition_Challenge_test_set_release.txt"
# What is planted, and all that is to be found then.
PLANTED = {
    "bad line": (
        labels_of("3", [0, 1, "x", *ALL[3:]], "validation"),
        {("annotation", "3"), ("pictures_without_label", "validation")},
    ),
    "label 8": (
        labels_of("3", [8, *ALL[1:]], "validation"),
        {("annotation", "3"), ("pictures_without_label", "validation")},
    ),
    "header": (labels_of("3", ALL, "validation", header=_SWAPPED), {("annotation", "3")}),
    "no header": (labels_of("3", ALL, "validation", header=None), {("annotation", "3")}),
    "from zero": (
        count_from_zero,
        {
            ("from_zero", "3"),
            ("labels_without_picture", "validation"),
            ("pictures_without_label", "validation"),
        },
    ),
    "beyond": (
        frames_of("3", range(9, 10 + FRAME_TOLERANCE)),
        {("beyond_labels", "3"), ("pictures_without_label", "validation")},
    ),
    "a frame or three more": (
        frames_of("3", range(9, 9 + FRAME_TOLERANCE)),
        {("frame_count", "3"), ("pictures_without_label", "validation")},
    ),
    "in two splits": (labels_of("3", ALL), {("two_splits", "3")}),
    "trained and tested": (
        write(_LIST, "8\n9\n3\n"),
        {("two_splits", "3"), ("test_list_and_sample", "in the test list only")},
    ),
    "no folder": (remove("cropped_aligned/3"), {("no_pictures", "3")}),
    "empty folder": (
        lambda root: remove(*(f"cropped_aligned/3/{number:05d}.jpg" for number in range(1, 9)))(
            root
        ),
        {("no_pictures", "3")},
    ),
    "another edition": (
        labels_of("3", [0, *ALL[:-1]], "validation", challenge="x/EXPR_Classification_Challenge"),
        {("ambiguous", "x/EXPR_Classification_Challenge/Validation_Set")},
    ),
    "crops twice": (
        frames_of("3", [1], crops="cropped_aligned_new_50_vids"),
        {("ambiguous", "cropped_aligned_new_50_vids")},
    ),
    "corrupted": (corrupt, {("corrupted", "1-30-1280x720")}),
    "copied": (copy_video, {("duplicates", "1-30-1280x720 | 3")}),
    "leak": (leak, {("shared_video", "2")}),
    "gap": (
        remove("cropped_aligned/3/00004.jpg", "cropped_aligned/3/00005.jpg"),
        {("labels_without_picture", "validation")},
    ),
    "size": (small_picture, {("size", "3")}),
    "low_resolution": (tiny_picture, {("low_resolution", "3"), ("size", "3")}),
    "blurred": (blurred_picture, {("blurred", "3")}),
    "no crops": (
        remove("cropped_aligned", "cropped_aligned_new_50_vids"),
        {("no_crops", "crops")},
    ),
    "no annotations": (
        remove(f"{CHALLENGE}/Validation_Set"),
        {("no_annotations", "validation"), ("without_annotation", "crops")},
    ),
    "no Fear": (no_fear, {("empty_class", "Fear")}),
    "test video without crops": (
        remove("cropped_aligned_new_50_vids/9"),
        {("test_without_crops", "test")},
    ),
    "test list of another edition": (
        write(_LIST, "8\n"),
        {("test_list_and_sample", "in the sample file only")},
    ),
    "sample of another edition": (
        write("sample.txt", _SAMPLE + _NINE),
        {("test_list_and_sample", "in the test list only")},
    ),
    "broken sample": (write("sample.txt", _SAMPLE + "9.jpg,0\n"), {("unreadable", "sample.txt")}),
    "a link to itself": (
        lambda root: (root / "cropped_aligned" / "7").symlink_to("7"),
        {("unreadable", "cropped_aligned/7")},
    ),
    "a name that is no text": (
        lambda root: (root / "cropped_aligned" / "7\udce9").mkdir(),
        {("unreadable", "cropped_aligned/7\\xe9")},
    ),
    "video twice": (write("batch2/3.avi", ""), {("several", "batch2")}),
    "a stray picture beside all": (write("00001.jpg", ""), {("strays", ".")}),
    "stray": (frames_of("7", [1], crops="faces"), {("strays", "faces")}),
    "-1": (
        labels_of("3", [-1, -1, *ALL[2:]], "validation"),
        {("pictures_without_label", "validation")},
    ),
    "all -1": (
        labels_of("3", [-1] * 8, "validation"),
        {("unlabelled_video", "3"), ("pictures_without_label", "validation")},
    ),
    "no annotation": (frames_of("7", [1, 2]), {("without_annotation", "crops")}),
    "flat": (flat_picture, {("flat", "3")}),
    "stranger": (write("cropped_aligned/3/Thumbs.db", ""), {("strangers", "3")}),
    "no annotation file": (
        write(f"{CHALLENGE}/Train_Set/notes.doc", ""),
        {("strangers", f"{CHALLENGE}/Train_Set/notes.doc")},
    ),
    "sample row without picture": (
        remove("cropped_aligned_new_50_vids/9/00002.jpg"),
        {("sample_without_picture", "test")},
    ),
    "no video file": (remove("batch1/2.mp4"), {("no_video_file", "videos")}),
}
