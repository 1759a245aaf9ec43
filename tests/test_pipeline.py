import dataclasses
import itertools
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from pictures import CLASSES, color_of, write_colors, write_picture
from PIL import Image

from fer_jax.data.builder import build
from fer_jax.data.dataset import FaceData, select
from fer_jax.data.examples import Example
from fer_jax.data.image_folder import read_image_folder
from fer_jax.data.images import decode_image
from fer_jax.data.pipeline import (
    Augmentation,
    Sampling,
    epoch_plan,
    evaluation_batches,
    train_batches,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.ops.resize import resize_host
from fer_jax.ops.views import cut_view

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


def _prepare(folder: Path, space_name: str = "expw") -> FaceData:
    space = label_space(space_name)
    build(*read_image_folder(folder / "src", space), space, folder / "data")
    return FaceData.open(folder / "data")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FaceData:
    """Thirty faces of one colour each, twenty to train on."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_colors(folder / "src", range(20))
    write_colors(folder / "src", range(20, 30), split="validation")
    return _prepare(folder)


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
    return _prepare(folder)


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


def _number(data: FaceData, row: int) -> int:
    return int(data.index["key"][row][-8:-4])


def _take(count: int, sources, **options) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(train_batches(sources, **{**OPTIONS, **options}), count))


def _same(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_batches_hold_images_with_their_labels_and_rows(data):
    for batch in _take(4, [(data, select(data, "train"))]):
        assert batch["image"].shape == (6, 24, 24, 3)
        assert (batch["image"].dtype, batch["label"].dtype, batch["row"].dtype) == (
            np.uint8,
            np.int32,
            np.int32,
        )
        for image, label, row in zip(batch["image"], batch["label"], batch["row"], strict=True):
            number = _number(data, row)
            np.testing.assert_array_equal(image, np.broadcast_to(color_of(number), image.shape))
            assert label == number % 7


def test_each_epoch_has_every_face_once_in_a_new_order(data):
    rows = select(data, "train")
    seen = np.concatenate([batch["row"] for batch in _take(10, [(data, rows)])])
    epochs = seen.reshape(3, 20)
    for epoch in epochs:
        assert sorted(epoch) == rows.tolist()
        assert epoch.tolist() != rows.tolist()
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_each_epoch_augments_anew(photos):
    batches = _take(8, [(photos, select(photos, "train"))], batch_size=9, augmentation=LIVELY)
    of_row_0 = [batch["image"][batch["row"] == 0].tobytes() for batch in batches]
    assert len(set(of_row_0)) == 8


def test_the_seed_decides(photos):
    sources = [(photos, select(photos, "train"))]
    assert _same(_take(3, sources, augmentation=LIVELY), _take(3, sources, augmentation=LIVELY))
    other = _take(3, sources, augmentation=LIVELY, seed=4)
    assert not _same(_take(3, sources, augmentation=LIVELY), other)


@pytest.mark.parametrize("start", [1, 4, 40])
def test_a_late_start_gives_the_same_batches(photos, start):
    sources = [(photos, select(photos, "train"))]
    expected = _take(start + 3, sources, augmentation=LIVELY)[start:]
    assert _same(_take(3, sources, augmentation=LIVELY, start_step=start), expected)


@pytest.mark.parametrize(("workers", "start"), [(1, 5), (2, 0), (4, 5)])
def test_the_number_of_workers_changes_nothing(photos, films, workers, start):
    """With two views, two data sets, thinned out, classes and sources mixed, from mid-epoch on."""
    sources = [(photos, select(photos, "train")), (films, select(films, "train"))]
    options = {
        "views": {"main": "main", "aux": "eyes_mouth"},
        "augmentation": LIVELY,
        "sampling": Sampling(stride=2, balance="class", source_weights="src=1,synthetic=2"),
        "votes": True,
    }
    assert len(epoch_plan(sources, options["sampling"], 3)) % 6
    expected = _take(9, sources, **options)
    found = _take(9 - start, sources, workers=workers, start_step=start, **options)
    assert _same(found, expected[start:])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(frames_per_video=3, balance="class")])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_batch_of_one(photos, films, count, sampling):
    sources = [(photos, select(photos, "train")), (films, select(films, "train"))]
    options = {"augmentation": LIVELY, "sampling": sampling, "votes": True}
    whole = _take(5, sources, **options)
    parts = [
        _take(5, sources, process_index=i, process_count=count, **options) for i in range(count)
    ]
    for step, batch in enumerate(whole):
        for name, expected in batch.items():
            merged = np.empty_like(expected)
            for i in range(count):
                assert len(parts[i][step][name]) == 6 // count
                merged[i::count] = parts[i][step][name]
            np.testing.assert_array_equal(merged, expected)


def test_several_sources_are_one(data, photos):
    rows = select(data, "validation")
    sources = [(data, rows), (photos, select(photos, "train"))]
    seen = np.concatenate([batch["row"] for batch in _take(19, sources, batch_size=1)])
    # Rows of the second count on from the length of the first.
    assert sorted(seen) == [*rows, *range(30, 39)]


def test_the_view_is_cut_before_augmenting(photos):
    batch = _take(
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
    found = _prepare(tmp_path)
    sources = [(found, np.array([0]))]
    apart = Augmentation(crop_scale=(0.3, 0.9), flip=True)
    options = {"augmentation": apart, "batch_size": 200}
    (batch,) = _take(1, sources, views={"main": "main", "aux": "eyes_mouth"}, **options)
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
    (twice,) = _take(1, sources, views={"one": "main", "two": "main"}, **options)
    equal = (twice["one"] == twice["two"]).all(axis=(1, 2, 3))
    assert equal.mean() < 0.2
    options["augmentation"] = apart
    # The first view does not depend on whether there is a second.
    (alone,) = _take(1, sources, views={"image": "main"}, **options)
    np.testing.assert_array_equal(alone["image"], batch["main"])


def test_each_view_may_have_its_size(photos):
    sources = [(photos, select(photos, "train"))]
    views = {"main": "main", "aux": "mouth"}
    (batch,) = _take(1, sources, views=views, image_size={"main": 32, "aux": 20})
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
    (batch,) = _take(1, sources, batch_size=29, votes=True)
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
    assert "votes" not in _take(1, sources)[0]


def test_fields_read_alone_are_those_of_the_whole_record(films, photos):
    """Against tensorflow-datasets' own reading."""
    for found in (films, photos):
        for row in range(len(found)):
            whole = found.records[row]
            assert found.records.image(row) == bytes(whole["image"])
            votes = found.records.votes(row)
            assert votes.dtype == whole["votes"].dtype == np.float32
            np.testing.assert_array_equal(votes, whole["votes"])


def test_batches_follow_the_plan(films):
    sources = [(films, select(films, "train"))]
    sampling = Sampling(frames_per_video=4, balance="class")
    plan = epoch_plan(sources, sampling, 3)
    seen = np.concatenate([batch["row"] for batch in _take(8, sources, sampling=sampling)])
    expected = np.concatenate([plan.order(epoch) for epoch in range(5)])
    assert len(plan) < 20
    np.testing.assert_array_equal(seen, expected[:48])


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
    assert batch["label"].tolist() == [_number(data, row) % 7 for row in rows]
    assert batch["mask"].all()
    expected = [color_of(_number(data, row)) for row in rows]
    np.testing.assert_allclose(batch["image"].mean(axis=(1, 2)), expected, atol=1e-3)


def test_a_record_that_went_bad_in_a_worker_is_named(photos, tmp_path):
    shutil.copytree(photos.path, tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("faces/*/*train.array_record*")
    content = bytearray(shard.read_bytes())
    begin = content.index(b"\x89PNG")
    content[begin + 20 : begin + 60] = bytes(40)
    shard.write_bytes(content)
    broken = FaceData.open(tmp_path / "data")
    for workers in (0, 1):
        with pytest.raises(FerJaxError, match=r"data row \d: "):
            _take(4, [(broken, select(broken, "train"))], workers=workers)


def test_workers_start_where_no_absl_flag_was_ever_parsed(data, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import itertools
            from fer_jax.data.pipeline import *

            if __name__ == "__main__":
                data = FaceData.open({str(data.path)!r})
                batches = train_batches(
                    [(data, select(data, "train"))], views=dict(image="main"), image_size=24,
                    batch_size=6, seed=3, augmentation=Augmentation(), workers=1,
                )
                for batch in itertools.islice(batches, 3):
                    print(*batch["row"])
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = _take(3, [(data, select(data, "train"))])
    assert done.stdout.split() == [str(row) for batch in expected for row in batch["row"]]


def test_a_record_that_went_bad_is_named(data, tmp_path):
    class Broken:
        def image(self, row):
            return b"nothing"

    broken = FaceData(data.path, data.label_space, data.index)
    broken.records = Broken()
    with pytest.raises(FerJaxError, match="row 4: is not an image"):
        list(
            evaluation_batches(
                [(broken, np.array([4]))],
                views={"image": "main"},
                image_size=24,
                resize="bicubic",
                batch_size=1,
            )
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": {"image": "nose"}}, "no view 'nose'"),
        (
            {"batch_size": 5, "process_count": 2},
            "batch_size=5 must be a positive multiple of the 2",
        ),
        ({"batch_size": 0}, "batch_size=0"),
        ({"start_step": -1}, "start_step=-1"),
        ({"workers": -1}, "workers=-1"),
        ({"process_index": 2, "process_count": 2}, "process_index=2"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": {"main": 24}}, "image_size=0 of 'image'"),
        ({"views": {}}, "name one or more arrays"),
        ({"views": {"label": "main"}}, "none of them label"),
        ({"seed": -1}, "seed=-1"),
        ({"sampling": Sampling(source_weights="faces=1")}, "there is no source 'faces'"),
    ],
)
def test_impossible_batches_are_refused(data, options, words):
    with pytest.raises(FerJaxError, match=words):
        train_batches([(data, select(data, "train"))], **{**OPTIONS, **options})


def test_impossible_sources_are_refused(data, tmp_path):
    rows = select(data, "train")
    with pytest.raises(FerJaxError, match="no faces to read"):
        train_batches([(data, rows[:0])], **OPTIONS)
    with pytest.raises(FerJaxError, match="no faces to read"):
        train_batches([], **OPTIONS)
    with pytest.raises(FerJaxError, match="rows 0 to 30 are asked for, it has 30"):
        train_batches([(data, np.arange(31))], **OPTIONS)
    with pytest.raises(FerJaxError, match="no resize kernel 'lanczos'"):
        evaluation_batches(
            [(data, rows)], views={"image": "main"}, image_size=24, resize="lanczos", batch_size=4
        )
    write_colors(tmp_path / "src", range(7))
    other = _prepare(tmp_path, "affwild2_expr")
    for sources in ([(data, rows), (other, select(other, "train"))],):
        with pytest.raises(FerJaxError, match=r"labelled in affwild2_expr, .* in expw; prepare"):
            train_batches(sources, **OPTIONS)
        with pytest.raises(FerJaxError, match=r"labelled in affwild2_expr, .* in expw; prepare"):
            evaluation_batches(
                sources, views={"image": "main"}, image_size=24, resize="bicubic", batch_size=4
            )
