"""Makes a tree of the size and shape of Aff-Wild2, to measure `fer-jax doctor` on.

    python tools/big_affwild2_tree.py FOLDER
    /usr/bin/time -v fer-jax doctor FOLDER --names-only

248 + 70 annotations with as many labels of each class as the real ones, 228 test videos with
1,022,655 rows of the sample file, and 2.9 million pictures, of which 2.0 % and 1.3 % of the labels
have none. The pictures are empty files, whose names are all that `--names-only` reads. With
--pictures they are JPEGs of 112x112 pixels, a slowly moving pattern for each video; every ten in a
row are links to one file, which saves disk but no work of the doctor's (1.5 GB instead of 12).
"""

import argparse
import os
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

CLASSES = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
# Labelled frames with a picture, by class, and the labels in all: of train and validation.
PICTURED = {
    "Train_Set": (177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866),
    "Validation_Set": (82258, 6126, 5296, 8408, 34511, 25157, 12332, 106444),
}
LABELLED = {"Train_Set": 597361, "Validation_Set": 284230}
VIDEOS = {"Train_Set": 248, "Validation_Set": 70, "test": 228, "other": 52}
TEST_ROWS = 1_022_655
PICTURES = 2_900_000
UNLABELLED = 0.08  # share of the lines that are -1
_STRETCH = 40  # frames that an expression or a gap lasts, on average
_STILL = 10  # pictures in a row that are one file


def main() -> int:
    """Makes the tree."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", action="store_true", help="JPEGs instead of empty files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    root = arguments.folder
    root.mkdir(parents=True)
    rng = np.random.default_rng(arguments.seed)
    plan = _plan(rng)
    made = _write_annotations(root, plan, rng)
    for number, (video, frames) in enumerate(tqdm(made.items(), unit="video")):
        crops = "cropped_aligned" if number % 12 else "cropped_aligned_new_50_vids"
        write = _write_pictures if arguments.pictures else _write_empty
        write(root / crops / video, frames.tolist())
    print(f"{sum(map(len, made.values())):,} pictures of {len(made)} videos", file=sys.stderr)
    return 0


def _plan(rng: np.random.Generator) -> dict[str, list[tuple[str, int]]]:
    """For each part its videos and how many frames they have."""
    lines = {name: round(count / (1 - UNLABELLED)) for name, count in LABELLED.items()}
    lines["test"] = TEST_ROWS
    lines["other"] = round(PICTURES / 0.98) - sum(lines.values())
    plan = {}
    for part, count in VIDEOS.items():
        shares = rng.lognormal(0, 1, count)
        lengths = np.maximum(30, lines[part] * shares / shares.sum()).astype(int)
        lengths[-1] += lines[part] - lengths.sum()
        size = ("1280x720", "1920x1080")
        plan[part] = [
            (f"{part[:2]}{i}-30-{size[i % 2]}", length) for i, length in enumerate(lengths.tolist())
        ]
    return plan


def _write_annotations(
    root: Path, plan: dict[str, list[tuple[str, int]]], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Writes all text files; for each video the numbers of its pictures."""
    made = {}
    for part in LABELLED:
        folder = root / "6th_ABAW_Annotations" / "EXPR_Recognition_Challenge" / part
        folder.mkdir(parents=True)
        total = sum(length for _, length in plan[part])
        labels = _stretches(_labels(part, total, rng), rng)
        start = 0
        for video, length in plan[part]:
            own = labels[start : start + length]
            start += length
            text = "\n".join([CLASSES, *map(str, np.where(own >= 8, own - 8, own).tolist()), ""])
            (folder / f"{video}.txt").write_text(text)
            # Labels without a picture were marked by adding 8.
            made[video] = np.flatnonzero(own < 8) + 1
    for part in ("test", "other"):
        for video, length in plan[part]:
            made[video] = np.flatnonzero(rng.random(length) > 0.02) + 1
    names = "".join(f"{video}\n" for video, _ in plan["test"])
    (root / "Expression_Recognition_Challenge_test_set_release.txt").write_text(names)
    with (root / "sample.txt").open("w") as file:
        file.write(f"image_location,{CLASSES}\n")
        for video, length in plan["test"]:
            file.writelines(f"{video}/{number:05d}.jpg,0\n" for number in range(1, length + 1))
    return made


def _labels(part: str, total: int, rng: np.random.Generator) -> np.ndarray:
    pictured = np.repeat(np.arange(8), PICTURED[part])
    missing = rng.choice(8, LABELLED[part] - len(pictured)) + 8
    unlabelled = np.full(total - LABELLED[part], -1)
    return np.concatenate([pictured, missing, unlabelled])


def _stretches(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same labels in another order, in which each lasts for a while."""
    labels = np.sort(labels)
    cuts = np.flatnonzero(rng.random(len(labels)) < 1 / _STRETCH)
    pieces = np.split(labels, cuts[cuts > 0])
    return np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])


def _write_empty(folder: Path, numbers: list[int]) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        os.close(os.open(f"{folder}/{number:05d}.jpg", os.O_CREAT | os.O_WRONLY))


def _write_pictures(folder: Path, numbers: list[int]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(folder.name.encode()))
    coarse = rng.integers(0, 256, (14, 14, 3), np.uint8)
    pattern = cv2.resize(coarse, (160, 160), interpolation=cv2.INTER_CUBIC)
    place = np.array([24.0, 24.0])
    for i, number in enumerate(numbers):
        path = f"{folder}/{number:05d}.jpg"
        if i % _STILL == 0:
            place = np.clip(place + rng.normal(0, 0.7, 2), 0, 48)
            centre = (place[0] + 55.5, place[1] + 55.5)
            image = cv2.getRectSubPix(pattern, (112, 112), centre)
            cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 90])
            first = path
        else:
            os.link(first, path)


if __name__ == "__main__":
    sys.exit(main())
