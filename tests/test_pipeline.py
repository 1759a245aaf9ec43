"""Batches: their order and what it may depend on, workers, processes, what is refused."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pictures import color_of, write_colors
from pipeline_data import LIVELY, OPTIONS, data, films, number, photos, prepare, same, take

from fer_jax.data.dataset import FaceData, select
from fer_jax.data.pipeline import Sampling, epoch_plan, evaluation_batches, train_batches
from fer_jax.errors import FerJaxError

__all__ = ["data", "films", "photos"]  # fixtures


def test_batches_hold_images_with_their_labels_and_rows(data):
    for batch in take(4, [(data, select(data, "train"))]):
        assert batch["image"].shape == (6, 24, 24, 3)
        assert (batch["image"].dtype, batch["label"].dtype, batch["row"].dtype) == (
            np.uint8,
            np.int32,
            np.int32,
        )
        for image, label, row in zip(batch["image"], batch["label"], batch["row"], strict=True):
            this = number(data, row)
            np.testing.assert_array_equal(image, np.broadcast_to(color_of(this), image.shape))
            assert label == this % 7


def test_each_epoch_has_every_face_once_in_a_new_order(data):
    rows = select(data, "train")
    seen = np.concatenate([batch["row"] for batch in take(10, [(data, rows)])])
    epochs = seen.reshape(3, 20)
    for epoch in epochs:
        assert sorted(epoch) == rows.tolist()
        assert epoch.tolist() != rows.tolist()
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_each_epoch_augments_anew(photos):
    batches = take(8, [(photos, select(photos, "train"))], batch_size=9, augmentation=LIVELY)
    of_row_0 = [batch["image"][batch["row"] == 0].tobytes() for batch in batches]
    assert len(set(of_row_0)) == 8


def test_the_seed_decides(photos):
    sources = [(photos, select(photos, "train"))]
    assert same(take(3, sources, augmentation=LIVELY), take(3, sources, augmentation=LIVELY))
    other = take(3, sources, augmentation=LIVELY, seed=4)
    assert not same(take(3, sources, augmentation=LIVELY), other)


@pytest.mark.parametrize("start", [1, 4, 40])
def test_a_late_start_gives_the_same_batches(photos, start):
    sources = [(photos, select(photos, "train"))]
    expected = take(start + 3, sources, augmentation=LIVELY)[start:]
    assert same(take(3, sources, augmentation=LIVELY, start_step=start), expected)


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
    expected = take(9, sources, **options)
    found = take(9 - start, sources, workers=workers, start_step=start, **options)
    assert same(found, expected[start:])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(frames_per_video=3, balance="class")])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_batch_of_one(photos, films, count, sampling):
    sources = [(photos, select(photos, "train")), (films, select(films, "train"))]
    options = {"augmentation": LIVELY, "sampling": sampling, "votes": True}
    whole = take(5, sources, **options)
    parts = [take(5, sources, places=np.arange(6)[i::count], **options) for i in range(count)]
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
    seen = np.concatenate([batch["row"] for batch in take(19, sources, batch_size=1)])
    # Rows of the second count on from the length of the first.
    assert sorted(seen) == [*rows, *range(30, 39)]


def test_batches_follow_the_plan(films):
    sources = [(films, select(films, "train"))]
    sampling = Sampling(frames_per_video=4, balance="class")
    plan = epoch_plan(sources, sampling, 3)
    seen = np.concatenate([batch["row"] for batch in take(8, sources, sampling=sampling)])
    expected = np.concatenate([plan.order(epoch) for epoch in range(5)])
    assert len(plan) < 20
    np.testing.assert_array_equal(seen, expected[:48])


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
            take(4, [(broken, select(broken, "train"))], workers=workers)


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
    expected = take(3, [(data, select(data, "train"))])
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
        ({"places": np.array([0, 6])}, "below batch_size=6"),
        ({"places": np.array([2, 1])}, "must be rising"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"start_step": -1}, "start_step=-1"),
        ({"workers": -1}, "workers=-1"),
        ({"places": np.array([], int)}, "must be rising"),
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
    other = prepare(tmp_path, "affwild2_expr")
    for sources in ([(data, rows), (other, select(other, "train"))],):
        with pytest.raises(FerJaxError, match=r"labelled in affwild2_expr, .* in expw; prepare"):
            train_batches(sources, **OPTIONS)
        with pytest.raises(FerJaxError, match=r"labelled in affwild2_expr, .* in expw; prepare"):
            evaluation_batches(
                sources, views={"image": "main"}, image_size=24, resize="bicubic", batch_size=4
            )
