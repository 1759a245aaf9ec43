"""What is in a batch: views, their augmentation, votes, and faces as they are scored."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pictures import color_of, write_picture
from PIL import Image
from pipeline_data import VOTES, data, films, number, photos, prepare, take

from fer_jax.data.dataset import FaceData, select
from fer_jax.data.images import decode_image
from fer_jax.data.pipeline import Augmentation, evaluation_batches
from fer_jax.ops.resize import resize_host
from fer_jax.ops.views import cut_view

__all__ = ["data", "films", "photos"]  # fixtures


def test_the_view_is_cut_before_augmenting(photos):
    batch = take(
        1, [(photos, np.array([8]))], views={"image": "eyes"}, batch_size=1, image_size=50
    )[0]
    face = Image.open(_source_of(photos, 8))
    box = [int(share * face.width) for share in (0.2, 0.35, 0.8, 0.55)]
    expected = face.crop(box).resize((50, 50), Image.BICUBIC)
    # Two bicubic kernels differ by 0.4 levels here (measured), another view by 61.
    assert np.abs(batch["image"][0].astype(int) - np.asarray(expected, int)).mean() < 1


def test_views_are_augmented_apart_but_mirrored_together(tmp_path):
    """A face bright on its left: which side is bright says what was mirrored."""
    face = np.full((40, 40, 3), 30, np.uint8)
    face[:, :20] = 220
    write_picture(tmp_path / "src" / "train" / "Anger" / "0000.png", face)
    found = prepare(tmp_path)
    sources = [(found, np.array([0]))]
    apart = Augmentation(crop_scale=(0.3, 0.9), flip=True)
    options = {"augmentation": apart, "batch_size": 200}
    (batch,) = take(1, sources, views={"main": "main", "aux": "eyes_mouth"}, **options)
    sides = {}
    for name in ("main", "aux"):
        images = batch[name].astype(float)
        assert images.shape == (200, 24, 24, 3)
        sides[name] = images[:, :, :8].mean(axis=(1, 2, 3)) - images[:, :, -8:].mean(axis=(1, 2, 3))
    seen = (np.abs(sides["main"]) > 60) & (np.abs(sides["aux"]) > 60)
    assert seen.sum() > 100  # else the crop shows one side only
    assert (np.sign(sides["main"]) == np.sign(sides["aux"]))[seen].all()
    mirrored = (sides["main"] < 0)[seen].mean()
    assert 0.35 < mirrored < 0.65
    # Crops are drawn apart: how much of the bright side is seen does not go along.
    shares = [(batch[name] > 125).mean(axis=(1, 2, 3)) for name in ("main", "aux")]
    unmirrored = sides["main"] > 0
    assert abs(np.corrcoef(shares[0][unmirrored], shares[1][unmirrored])[0, 1]) < 0.3
    # The same view twice, with no flip: nothing is left but the draws.
    options["augmentation"] = dataclasses.replace(apart, flip=False)
    (twice,) = take(1, sources, views={"one": "main", "two": "main"}, **options)
    equal = (twice["one"] == twice["two"]).all(axis=(1, 2, 3))
    assert equal.mean() < 0.2
    options["augmentation"] = apart
    # The first view does not depend on whether there is a second.
    (alone,) = take(1, sources, views={"image": "main"}, **options)
    np.testing.assert_array_equal(alone["image"], batch["main"])


def test_each_view_may_have_its_size(photos):
    sources = [(photos, select(photos, "train"))]
    views = {"main": "main", "aux": "mouth"}
    (batch,) = take(1, sources, views=views, image_size={"main": 32, "aux": 20})
    assert (batch["main"].shape, batch["aux"].shape) == ((6, 32, 32, 3), (6, 20, 20, 3))
    scored = next(
        evaluation_batches(
            sources,
            views=views,
            image_size={"main": 32, "aux": 20},
            resize={"main": "bicubic", "aux": "bilinear_antialias"},
            batch_size=3,
        )
    )
    face = decode_image(photos.records.image(int(scored["row"][1])))
    np.testing.assert_array_equal(scored["main"][1], resize_host(face, 32, "bicubic"))
    mouth = resize_host(cut_view(face, "mouth"), 20, "bilinear_antialias")
    np.testing.assert_array_equal(scored["aux"][1], mouth)


def test_votes_come_along_if_asked_for(films, photos):
    sources = [(photos, select(photos, "train")), (films, select(films, "train"))]
    (batch,) = take(1, sources, batch_size=29, votes=True)
    assert (batch["votes"].shape, batch["votes"].dtype) == ((29, 7), np.float32)
    scored = list(
        evaluation_batches(
            sources, views={"image": "main"}, image_size=24, resize="bicubic", batch_size=8,
            votes=True,
        )
    )  # fmt: skip
    for found in (batch, *scored):
        for votes, row in zip(found["votes"], found["row"], strict=True):
            voted = row >= 9 and (row - 9) % 2 == 1
            assert votes.tolist() == (list(VOTES) if voted else [0.0] * 7)
    assert "votes" not in take(1, sources)[0]


def test_fields_read_alone_are_those_of_the_whole_record(films, photos):
    """Against tensorflow-datasets' own reading."""
    for found in (films, photos):
        for row in range(len(found)):
            whole = found.records[row]
            assert found.records.image(row) == bytes(whole["image"])
            votes = found.records.votes(row)
            assert votes.dtype == whole["votes"].dtype == np.float32
            np.testing.assert_array_equal(votes, whole["votes"])


def _source_of(data: FaceData, row: int) -> Path:
    return data.path.parent / "src" / str(data.index["key"][row])


@pytest.mark.parametrize("view", ["main", "eyes_mouth"])
@pytest.mark.parametrize(
    ("kernel", "pillow"),
    [("bicubic_antialias", Image.BICUBIC), ("bilinear_antialias", Image.BILINEAR)],
)
def test_evaluation_prepares_as_pillow_does(photos, view, kernel, pillow):
    rows = select(photos, "train")
    batches = list(
        evaluation_batches(
            [(photos, rows)], views={"image": view}, image_size=48, resize=kernel, batch_size=4
        )
    )
    assert [batch["image"].shape for batch in batches] == [(4, 48, 48, 3)] * 3
    images = np.concatenate([batch["image"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert (images.dtype, mask.dtype) == (np.float32, np.bool_)
    assert mask.tolist() == [True] * 9 + [False] * 3
    assert np.concatenate([batch["row"] for batch in batches]).tolist() == [*rows, -1, -1, -1]
    labels = np.concatenate([batch["label"] for batch in batches])
    assert labels.tolist() == [*photos.index["label"][rows], -1, -1, -1]
    assert not images[9:].any()
    for image, row in zip(images[:9], rows, strict=True):
        face = cut_view(np.asarray(Image.open(_source_of(photos, row))), view)
        expected = np.asarray(Image.fromarray(face).resize((48, 48), pillow), np.float32)
        # Pillow rounds twice to whole levels and clips; measured: 0.32 at the mean, 1.7 at most.
        difference = np.abs(np.clip(image, 0, 255) - expected)
        assert difference.mean() < 0.4
        assert difference.max() < 2


def test_evaluation_takes_rows_in_the_given_order(data):
    rows = np.array([7, 3, 12])
    (batch,) = evaluation_batches(
        [(data, rows)], views={"image": "main"}, image_size=24, resize="bicubic", batch_size=3
    )
    assert batch["row"].tolist() == [7, 3, 12]
    assert batch["label"].tolist() == [number(data, row) % 7 for row in rows]
    assert batch["mask"].all()
    expected = [color_of(number(data, row)) for row in rows]
    np.testing.assert_allclose(batch["image"].mean(axis=(1, 2)), expected, atol=1e-3)
