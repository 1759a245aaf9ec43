"""Data sets for the tests of the pipeline, as fixtures, and how they take batches of them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from pictures import CLASSES, write_colors, write_picture
from PIL import Image

from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData
from fer_jax.data.examples import Example
from fer_jax.data.image_folder import read_image_folder
from fer_jax.data.pipeline import Augmentation, train_batches
from fer_jax.labels import label_space

VOTES = (0.0, 2.0, 0.0, 7.0, 1.0, 0.0, 0.0)
STILL = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
LIVELY = Augmentation(crop_scale=(0.3, 1.0), randaugment_layers=2, erasing=0.5)
OPTIONS = {
    "views": {"image": "main"},
    "image_size": 24,
    "batch_size": 6,
    "seed": 3,
    "augmentation": STILL,
}


def prepare(folder: Path, space_name: str = "expw") -> FaceData:
    """The data set of the pictures in `src`."""
    space = label_space(space_name)
    build(*read_image_folder(folder / "src", space), space, folder / "data")
    return FaceData.open(folder / "data")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FaceData:
    """Thirty faces of one colour each, twenty to train on."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_colors(folder / "src", range(20))
    write_colors(folder / "src", range(20, 30), split="validation")
    return prepare(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> FaceData:
    """Nine random smooth pictures of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(9):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        side = 30 + 9 * i
        image = np.asarray(coarse.resize((side, side), Image.BICUBIC))
        write_picture(folder / "src" / CLASSES[i % 7] / f"{i:04d}.png", image)
    return prepare(folder)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> FaceData:
    """Two people of one video, 14 and 6 frames; half of the faces have votes."""
    folder = tmp_path_factory.mktemp("films")
    examples = []
    for i in range(20):
        path = folder / "src" / f"{i:04d}.png"
        write_picture(path, np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8))
        side = "left" if i < 14 else "right"
        votes = VOTES if i % 2 else ()
        examples.append(
            Example(
                path,
                f"{side}/{i:04d}.png",
                i % 3,
                "train",
                video=f"clip_{side}",
                frame=i + 1,
                source="synthetic",
                votes=votes,
            )
        )
    space = label_space("expw")
    build(examples, [], space, folder / "data")
    return FaceData.open(folder / "data")


def number(data: FaceData, row: int) -> int:
    """The picture's number, from its name."""
    return int(data.index["key"][row][-8:-4])


def take(count: int, sources, **options) -> list[dict[str, np.ndarray]]:
    """The first batches to train on."""
    return list(itertools.islice(train_batches(sources, **{**OPTIONS, **options}), count))


def same(one: list[dict], other: list[dict]) -> bool:
    """Whether batches agree bit for bit."""
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )
