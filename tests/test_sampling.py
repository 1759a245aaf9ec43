"""The order of an epoch: lengths, coverage, shares and classes, recounted from what comes out."""

import collections
import dataclasses
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.sampling import EpochPlan, Sampling
from fer_jax.errors import FerJaxError


@dataclasses.dataclass(frozen=True)
class Faces:
    """Columns as an index holds them, rows of all videos in any order."""

    label: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    source: np.ndarray
    data: np.ndarray

    def plan(self, seed: int = 0, **sampling) -> EpochPlan:
        return EpochPlan(**dataclasses.asdict(self), sampling=Sampling(**sampling), seed=seed)

    def groups(self, *columns: str) -> dict[tuple, set[int]]:
        """Rows by what makes a video: data set and name; those without a name are left out."""
        found = collections.defaultdict(set)
        for row, video in enumerate(self.video.tolist()):
            if video:
                key = [getattr(self, name)[row] for name in ("data", "video", *columns)]
                found[tuple(key)].add(row)
        return found


def faces(videos: list[tuple[str, int]], *, alone: int = 0, seed: int = 0, classes: int = 3):
    """Videos by name and length, and pictures without one; frames have gaps, rows are mixed."""
    rng = np.random.default_rng(seed)
    names = np.array([name for name, length in videos for _ in range(length)] + [""] * alone)
    frames = [np.sort(rng.choice(5 * n, n, replace=False)) + 1 for _, n in videos]
    frames = np.concatenate([*frames, np.full(alone, -1)]).astype(np.int32)
    order = rng.permutation(len(names))
    label = rng.integers(0, classes, len(names)).astype(np.int32)
    source = np.where(names == "", "photos", "films")
    data = np.zeros(len(names), np.int32)
    return Faces(label, names[order], frames[order], source[order], data)


@st.composite
def some_faces(draw) -> Faces:
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    sides = ("", "_left", "_right")
    videos = [(f"v{i // 3}{sides[i % 3]}", length) for i, length in enumerate(lengths)]
    found = faces(videos, alone=draw(st.integers(0, 9)), seed=draw(st.integers(0, 99)))
    label = np.where(np.arange(len(found.label)) % 7 == 3, -1, found.label).astype(np.int32)
    data = (np.arange(len(label)) % draw(st.integers(1, 2))).astype(np.int32)
    return dataclasses.replace(found, label=label, data=data)


@settings(max_examples=40, deadline=None)
@given(some_faces(), st.integers(0, 2**40))
def test_naturally_each_epoch_is_all_faces_in_another_order(found, seed):
    plan = found.plan(seed)
    number = len(found.label)
    epochs = [plan.order(epoch).tolist() for epoch in (0, 1, 2, 1000)]
    assert all(sorted(epoch) == list(range(number)) for epoch in epochs)
    if number > 9:
        assert len({tuple(epoch) for epoch in epochs}) == 4


@settings(max_examples=60, deadline=None)
@given(some_faces(), st.integers(2, 12))
def test_a_stride_takes_every_s_th_frame_of_each_video_from_a_fresh_one(found, stride):
    plan = found.plan(stride=stride)
    videos = found.groups()
    alone = set(np.flatnonzero(found.video == "").tolist())
    for epoch in range(3):
        chosen = plan.order(epoch).tolist()
        assert len(chosen) == len(plan) == len(set(chosen))
        assert alone <= set(chosen)
        for rows in videos.values():
            ordered = sorted(rows, key=lambda row: found.frame[row])
            places = [place for place, row in enumerate(ordered) if row in set(chosen)]
            assert len(places) == max(1, len(rows) // stride)
            assert set(np.diff(places)) <= {stride}


def test_a_stride_favours_no_frame():
    """Ten strides, four frames over: each frame once in seven epochs, but for the ends."""
    plan = faces([("v", 74)]).plan(stride=7)
    frame = faces([("v", 74)]).frame
    rank = np.argsort(np.argsort(frame))
    counts = np.bincount(
        np.concatenate([rank[plan.order(epoch)] for epoch in range(1400)]), minlength=74
    )
    # 200 +- 13 in the middle. The first or last of a row of eleven is left out in turn.
    assert (np.abs(counts[7:-7] - 200) < 65).all()
    assert (counts[[0, 1, 2, 3]] < 150).all()
    assert counts.min() > 50


@settings(max_examples=60, deadline=None)
@given(some_faces(), st.integers(1, 50))
def test_n_frames_of_each_video_without_repetition(found, number):
    plan = found.plan(frames_per_video=number)
    for epoch in range(3):
        chosen = plan.order(epoch).tolist()
        assert len(chosen) == len(plan) == len(set(chosen))
        assert set(np.flatnonzero(found.video == "").tolist()) <= set(chosen)
        for rows in found.groups().values():
            assert len(rows & set(chosen)) == min(number, len(rows))


def test_n_frames_are_drawn_anew_and_evenly():
    found = faces([("a_left", 40), ("a_right", 3)])
    plan = found.plan(frames_per_video=10)
    epochs = [frozenset(plan.order(epoch).tolist()) for epoch in range(400)]
    assert len(set(epochs)) == 400
    counts = np.bincount([row for epoch in epochs for row in epoch])
    assert (counts[found.video == "a_right"] == 400).all()
    left = counts[found.video == "a_left"]
    assert (np.abs(left - 100) < 45).all()  # +- 8.7
    assert left.sum() == 4000


@settings(max_examples=60, deadline=None)
@given(some_faces(), st.sampled_from([{}, {"stride": 3}, {"frames_per_video": 4}]))
def test_classes_come_equally_often_and_none_is_lost(found, thinning):
    labels = set(found.label.tolist()) - {-1}
    if not labels:
        return
    plan = found.plan(balance="class", **thinning)
    for epoch in range(3):
        drawn = found.label[plan.order(epoch)]
        assert len(drawn) == len(plan)
        counts = collections.Counter(drawn.tolist())
        assert set(counts) == labels
        assert len(set(counts.values())) == 1
        # Frames are thinned out in each video for each class by itself.
        chosen = set(plan.order(epoch).tolist())
        for (*_, label), rows in found.groups("label").items():
            most = len(rows)
            if "stride" in thinning:
                most = max(1, most // 3)
            most = min(most, thinning.get("frames_per_video", most))
            assert len(rows & chosen) <= (most if label >= 0 else 0)
    natural = found.plan(**thinning)
    if not thinning:
        labelled = int((found.label >= 0).sum())
        assert labelled - len(labels) < len(plan) <= max(labelled, len(labels)) <= len(natural)


@settings(max_examples=40, deadline=None)
@given(some_faces(), st.integers(1, 6))
def test_no_face_of_a_class_comes_twice_before_each_came_once(found, epochs):
    if (found.label < 0).all():
        return
    plan = found.plan(balance="class")
    drawn = np.concatenate([plan.order(epoch) for epoch in range(epochs)])
    counts = np.bincount(drawn, minlength=len(found.label))
    for label in set(found.label.tolist()) - {-1}:
        # Over epochs too: commoner classes are shown little by little.
        own = counts[found.label == label]
        assert own.max() - own.min() <= 1
    assert not counts[found.label == -1].any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0.05, 20),
    st.sampled_from(["natural", "class"]),
)
def test_sources_have_their_shares(films, photos, weight, balance):
    found = faces([("a", films)], alone=photos)
    plan = found.plan(source_weights=f"photos={weight}, films=1", balance=balance)
    share = (found.source[plan.order(0)] == "photos").mean()
    # Whole faces, and with classes whole threes of them.
    allowed = (1 if balance == "natural" else 3) / len(plan)
    assert abs(share - weight / (1 + weight)) <= allowed + 1e-9
    assert films + photos - 6 <= len(plan) <= films + photos + 6


def test_all_at_once():
    """Three sources, classes in equal parts of each, videos thinned out."""
    rng = np.random.default_rng(0)
    number = 6000
    source = rng.choice(["affwild2", "expw", "synthetic"], number, p=[0.7, 0.2, 0.1])
    label = rng.choice(8, number, p=[0.44, 0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 0.2]).astype(np.int32)
    video = np.where(source == "affwild2", [f"v{i % 12}" for i in range(number)], "")
    found = Faces(label, video, np.arange(number, dtype=np.int32), source, np.zeros(number, int))
    weights = "synthetic=0.3,affwild2=0.6,expw=0.1"
    plan = found.plan(stride=4, balance="class", source_weights=weights)
    order = plan.order(5)
    pairs = collections.Counter(zip(source[order].tolist(), label[order].tolist(), strict=True))
    assert len(pairs) == 24
    # Mixed, not one class after the other: neighbours agree by chance only.
    assert (label[order][1:] == label[order][:-1]).mean() == pytest.approx(1 / 8, abs=0.05)
    assert (source[order][1:] == source[order][:-1]).mean() == pytest.approx(0.46, abs=0.07)
    for name, share in (("synthetic", 0.3), ("affwild2", 0.6), ("expw", 0.1)):
        own = {pairs[name, c] for c in range(8)}
        assert len(own) == 1
        assert own.pop() * 8 / len(order) == pytest.approx(share, abs=0.003)
    for (_, name, *_), rows in found.groups("label").items():
        chosen = len(rows & set(order.tolist()))
        assert name
        assert chosen <= max(1, len(rows) // 4)
    left_out = found.plan(source_weights="synthetic=0,affwild2=1,expw=1")
    assert set(source[left_out.order(0)]) == {"affwild2", "expw"}
    assert len(left_out) == (source != "synthetic").sum()


def test_videos_of_two_data_sets_are_two():
    one = faces([("a", 30)])
    both = dataclasses.replace(one, data=(np.arange(30) % 2).astype(np.int32))
    assert len(one.plan(frames_per_video=5)) == 5
    assert len(both.plan(frames_per_video=5)) == 10


@settings(max_examples=30, deadline=None)
@given(
    some_faces(),
    st.sampled_from([{}, {"stride": 3}, {"frames_per_video": 4}, {"source_weights": "on"}]),
    st.sampled_from(["natural", "class"]),
)
def test_an_epoch_is_a_function_of_seed_and_number(found, options, balance):
    if balance == "class" and (found.label < 0).all():
        return
    if "source_weights" in options:
        names = sorted(set(found.source.tolist()))
        options = {"source_weights": ",".join(f"{name}=1" for name in names)}
    one, other = (found.plan(7, balance=balance, **options) for _ in range(2))
    there = [one.order(epoch).copy() for epoch in range(5)]
    again = {epoch: other.order(epoch).copy() for epoch in (4, 0, 3, 1, 2)}
    travelled = pickle.loads(pickle.dumps(one))
    for epoch, expected in enumerate(there):
        np.testing.assert_array_equal(again[epoch], expected)
        np.testing.assert_array_equal(travelled.order(epoch), expected)
        assert len(expected) == len(one)
    if len(one) > 9:
        elsewhere = found.plan(8, balance=balance, **options)
        assert not np.array_equal(elsewhere.order(0), there[0])


def test_orders_are_kept_for_two_epochs_and_cannot_be_written_to():
    plan = faces([("a", 50)]).plan()
    first, second = plan.order(0), plan.order(1)
    assert plan.order(0) is first
    assert plan.order(1) is second
    plan.order(2)
    assert plan.order(1) is second
    assert plan.order(0) is not first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    assert len(pickle.dumps(plan)) < len(pickle.dumps(faces([("a", 50)]))) + 1000


def test_a_whole_challenge_is_ordered_at_once():
    """600,000 faces: an epoch in 0.1 s of a quiet core, at four bytes a face for each worker."""
    number = 600_000
    found = Faces(
        label=(np.arange(number) % 8).astype(np.int32),
        video=np.repeat([f"{i}-30-1920x1080_left" for i in range(300)], number // 300),
        frame=np.arange(number, dtype=np.int32),
        source=np.repeat(["affwild2", "synthetic"], number // 2),
        data=np.zeros(number, np.int32),
    )
    plan = found.plan(
        frames_per_video=1000, balance="class", source_weights="affwild2=1,synthetic=2"
    )
    seconds = []
    for epoch in range(3):
        begin = time.process_time()
        plan.order(epoch)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 0.4
    assert len(pickle.dumps(plan)) < 9 * number


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 0}, "sampling.stride=0: must be at least 1"),
        ({"frames_per_video": -1}, "sampling.frames_per_video=-1: must be at least 0"),
        ({"stride": 2, "frames_per_video": 3}, "does not go together with frames_per_video=3"),
        ({"balance": "even"}, "sampling.balance='even': must be one of natural, class"),
        ({"source_weights": "a"}, "'a' is not one source=weight"),
        ({"source_weights": "a=x"}, "'a=x' is not one source=weight"),
        ({"source_weights": "a=-1"}, "'a=-1' is not one source=weight"),
        ({"source_weights": "a=nan"}, "'a=nan' is not one source=weight"),
        ({"source_weights": "=1"}, "'=1' is not one source=weight"),
        ({"source_weights": "a=1,b=2,a=1"}, "'a=1' is not one source=weight"),
        ({"source_weights": "a=0,b=0"}, "all weights are 0"),
    ],
)
def test_impossible_wishes_are_named(options, words):
    with pytest.raises(FerJaxError, match=words):
        Sampling(**options)


def test_wishes_that_do_not_fit_the_faces_are_named():
    found = faces([("a", 4)], alone=2)
    with pytest.raises(
        FerJaxError, match=r"no source 'expw'; the sources are films \(4\), photos \(2\)"
    ):
        found.plan(source_weights="expw=1,films=1,photos=1")
    with pytest.raises(FerJaxError, match=r"no weight for 'films'; the sources are films \(4\)"):
        found.plan(source_weights="photos=1")
    nobody = dataclasses.replace(found, label=np.full(6, -1, np.int32))
    assert len(nobody.plan()) == 6
    with pytest.raises(FerJaxError, match="no faces to show: none is labelled"):
        nobody.plan(balance="class")
    with pytest.raises(FerJaxError, match="seed=-1"):
        found.plan(seed=-1)
