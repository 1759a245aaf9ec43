"""Tracks over frames: who keeps a number, and whose face a label means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.errors import FerJaxError
from fer_jax.faces.boxes import areas, overlaps
from fer_jax.faces.tracking import Tracker, choose_person

NONE = np.zeros((0, 4), np.float32)


def box(x: float, y: float, side: float = 100.0) -> np.ndarray:
    """A square box about (x, y)."""
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)


def boxes(*centers: tuple[float, float], side: float = 100.0) -> np.ndarray:
    return np.stack([box(x, y, side) for x, y in centers]) if centers else NONE


def test_overlaps_by_hand():
    first = np.array([[0, 0, 10, 10], [0, 0, 0, 5]], np.float32)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]], np.float32)
    expected = [[1, 50 / 150, 0, 4 / 100], [0, 0, 0, 0]]
    np.testing.assert_allclose(overlaps(first, second), expected, atol=1e-12)
    np.testing.assert_allclose(areas(second), [100, 100, 100, 4])
    assert overlaps(NONE, second).shape == (0, 4)


def test_numbers_are_given_from_left_to_right_and_kept():
    tracker = Tracker()
    assert tracker.update(0.0, boxes((300, 100), (100, 100))).tolist() == [1, 0]
    assert tracker.update(0.04, boxes((104, 101), (297, 99))).tolist() == [0, 1]
    assert tracker.update(0.08, NONE).tolist() == []
    assert tracker.update(0.12, boxes((500, 100), (292, 98))).tolist() == [2, 1]
    assert tracker.update(0.16, boxes((110, 100))).tolist() == [0]


@pytest.mark.parametrize(("gap", "same"), [(0.5, True), (1.0, True), (1.04, False), (5.0, False)])
def test_gap_up_to_a_second(gap, same):
    tracker = Tracker()
    for k in range(10):
        assert tracker.update(k * 0.04, boxes((200, 200))).tolist() == [0]
    # Whether the frames between have no face or do not exist makes no difference.
    if gap < 2:
        tracker.update(9 * 0.04 + gap / 2, NONE)
    after = tracker.update(9 * 0.04 + gap, boxes((205, 202)))
    assert after.tolist() == [0 if same else 1]


def test_gap_of_a_second_is_not_a_matter_of_rounding():
    for k in range(60):
        tracker = Tracker()
        tracker.update(k / 30, boxes((200, 200)))
        assert tracker.update((k + 30) / 30, boxes((200, 200))).tolist() == [0]


def test_another_face_further_off_is_another_one():
    tracker = Tracker()
    tracker.update(0.0, boxes((200, 200)))
    assert tracker.update(0.04, boxes((285, 200))).tolist() == [1]  # overlap 15 / 185


def test_numbers_are_never_given_twice():
    tracker = Tracker(max_gap_s=0.1)
    seen = [int(tracker.update(float(k), boxes((200, 200)))[0]) for k in range(50)]
    assert seen == list(range(50))


def test_face_that_moves_on_behind_something():
    """At 10 pixels a frame, 20 hidden frames: two boxes' width from where it was seen last."""
    tracker = Tracker()
    for k in range(12):
        tracker.update(k / 25, boxes((100 + 10 * k, 200)))
    assert tracker.update(32 / 25, boxes((100 + 320, 200))).tolist() == [0]
    assert tracker.update(33 / 25, boxes((100 + 120, 200), (430, 200))).tolist() == [1, 0]


def test_face_that_stops_behind_something():
    tracker = Tracker()
    for k in range(12):
        tracker.update(k / 25, boxes((100 + 10 * k, 200)))
    assert tracker.update(32 / 25, boxes((225, 200))).tolist() == [0]


def test_velocity_is_that_of_the_last_moments():
    """There and back again, then hidden for 15 frames."""
    tracker = Tracker()
    for k in range(60):
        tracker.update(k / 25, boxes((100 + 10 * min(k, 60 - k), 200)))
    assert tracker.update(75 / 25, boxes((100 - 150, 200))).tolist() == [0]


@settings(deadline=None, max_examples=60)
@given(
    speed=st.floats(3, 12),
    other_speed=st.floats(-12, -3),
    drop=st.floats(-8, 8),
    jitter=st.integers(0, 2**32 - 1),
    hidden=st.integers(0, 6),
)
def test_crossing_faces_keep_their_numbers(speed, other_speed, drop, jitter, hidden):
    """Two faces of 100 pixels go straight through each other, the rear one unseen on the way.

    A face jitters by up to 2 pixels, as a detector's boxes do.
    """
    rng = np.random.default_rng(jitter)
    tracker, numbers = Tracker(), []
    meet = 40
    for k in range(80):
        noise = rng.uniform(-2, 2, (2, 2))
        first = (500 + speed * (k - meet), 300) + noise[0]
        second = (500 + other_speed * (k - meet), 300 + drop) + noise[1]
        both = abs(k - meet) > hidden
        found = tracker.update(k / 25, boxes(first, second) if both else boxes(first))
        numbers.append(found.tolist())
    assert numbers[0] == [0, 1]
    assert numbers[-1] == [0, 1]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_order_of_the_boxes_does_not_matter(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    plain, shuffled = Tracker(max_gap_s=0.2), Tracker(max_gap_s=0.2)
    centers = rng.uniform(0, 600, (4, 2))
    for k in range(15):
        centers += rng.normal(0, 25, centers.shape)
        present = rng.random(len(centers)) < 0.8
        found = boxes(*centers[present], side=120)
        order = np.array(data.draw(st.permutations(range(len(found)))), int)
        expected = plain.update(k / 25, found)
        assert len(set(expected.tolist())) == len(expected)
        np.testing.assert_array_equal(shuffled.update(k / 25, found[order]), expected[order])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_faces_far_apart_are_never_confused(seed):
    """Each of four people shivers in a corner of their own and is often not seen."""
    rng = np.random.default_rng(seed)
    home = np.array([(150, 150), (650, 150), (150, 650), (650, 650)], float)
    tracker, owner, absent_s = Tracker(), {}, np.full(4, -np.inf)
    for k in range(100):
        time_s = k / 25
        present = np.flatnonzero(rng.random(4) < 0.3)
        found = boxes(*(home[present] + rng.uniform(-12, 12, (len(present), 2))))
        for person, number in zip(present, tracker.update(time_s, found), strict=True):
            assert owner.setdefault(int(number), person) == person
            if time_s - absent_s[person] < 0.99:
                assert number == max(n for n, p in owner.items() if p == person)
            absent_s[person] = time_s


def test_bad_input_is_refused():
    tracker = Tracker()
    tracker.update(1.0, boxes((100, 100)))
    with pytest.raises(FerJaxError, match=r"0\.5 s comes after that at 1\.0 s"):
        tracker.update(0.5, boxes((100, 100)))
    with pytest.raises(FerJaxError, match=r"2\.0 s is not finite"):
        tracker.update(2.0, np.full((1, 4), np.nan, np.float32))
    with pytest.raises(FerJaxError, match="after"):
        tracker.update(np.nan, NONE)
    with pytest.raises(FerJaxError, match="max_gap_s=-1"):
        Tracker(max_gap_s=-1.0)
    with pytest.raises(FerJaxError, match="min_overlap=1"):
        Tracker(min_overlap=1.0)
    with pytest.raises(FerJaxError, match="side='up'"):
        choose_person(np.zeros(0, int), np.zeros(0, int), NONE, "up", 640.0)


def person(rows: list[tuple[int, int, np.ndarray]], side: str = "", width: float = 640.0):
    """What `choose_person` takes of (frame, track, box): a list of (frame, track)."""
    frames, tracks, found = (np.array(column) for column in zip(*rows, strict=True))
    chosen = choose_person(frames, tracks, found, side, width)
    return [(int(frames[k]), int(tracks[k])) for k in chosen]


def test_nobody_is_chosen_of_nothing():
    assert choose_person(np.zeros(0, int), np.zeros(0, int), NONE, "", 640.0).tolist() == []


def test_main_person_is_large_and_lasting():
    rows = [(k, 4, box(300, 200)) for k in range(1, 61)]
    rows += [(k, 7, box(100, 200, 30)) for k in range(50, 131)]  # small, and mostly alone
    rows += [(k, 9, box(500, 200, 150)) for k in range(20, 30)]  # large, for a moment
    assert person(rows) == [(k, 4) for k in range(1, 61)]


def test_main_person_is_found_again_under_another_number():
    rows = [(k, 0, box(300, 200)) for k in range(1, 41)]
    rows += [(k, 5, box(310, 200, 90)) for k in range(60, 90)]
    # Two frames show both numbers, as when the detector sees one face twice.
    rows += [(k, 5, box(305, 200, 95)) for k in (40, 39)]
    expected = [(k, 0) for k in range(1, 41)] + [(k, 5) for k in range(60, 90)]
    assert person(rows) == expected


def test_who_is_seen_beside_the_main_person_does_not_fill_the_gaps():
    rows = [(k, 0, box(300, 200)) for k in (*range(1, 50), *range(60, 100))]
    rows += [(k, 1, box(500, 200, 90)) for k in range(20, 70)]
    assert person(rows) == [(k, 0) for k in (*range(1, 50), *range(60, 100))]


def two_people() -> list[tuple[int, int, np.ndarray]]:
    """Track 3 sits left of track 1; frames 41 to 50 show only one or the other."""
    rows = [(k, 3, box(380, 200)) for k in range(1, 41)]
    rows += [(k, 1, box(560, 190, 80)) for k in range(1, 41)]
    rows += [(k, 3, box(400, 200)) for k in range(41, 46)]
    rows += [(k, 1, box(550, 200, 80)) for k in range(46, 51)]
    return rows


def test_left_and_right_of_two_people():
    """Both are right of the middle, and each is known when alone."""
    left, right = person(two_people(), "left"), person(two_people(), "right")
    assert left == [(k, 3) for k in range(1, 46)]
    assert right == [(k, 1) for k in (*range(1, 41), *range(46, 51))]


def test_new_numbers_go_to_the_nearer_side():
    rows = two_people()
    rows += [(k, 8, box(370, 200)) for k in range(60, 70)]
    rows += [(k, 9, box(590, 200)) for k in range(75, 80)]
    assert person(rows, "left")[-10:] == [(k, 8) for k in range(60, 70)]
    assert person(rows, "right")[-5:] == [(k, 9) for k in range(75, 80)]


def test_side_is_that_of_the_person_not_of_the_frame():
    """The camera pans: for a while both are far to the right, under other numbers."""
    rows = [(k, 0, box(100, 200)) for k in range(1, 61)]
    rows += [(k, 1, box(220, 200)) for k in range(1, 61)]
    rows += [(k, 2, box(480, 200)) for k in range(61, 81)]
    rows += [(k, 3, box(600, 200)) for k in range(61, 81)]
    assert person(rows, "left") == [(k, 0 if k < 61 else 2) for k in range(1, 81)]
    assert person(rows, "right") == [(k, 1 if k < 61 else 3) for k in range(1, 81)]


def test_bystander_is_no_side():
    rows = two_people()
    rows += [(k, 6, box(20, 100, 25)) for k in range(1, 60)]
    assert person(rows, "left") == person(two_people(), "left")
    assert person(rows, "right") == person(two_people(), "right")


def test_third_person_does_not_stand_in():
    """A third, seen between the two and beside both, is not taken when the left one is away."""
    rows = two_people()
    rows += [(k, 6, box(455, 100, 70)) for k in range(1, 51)]
    assert person(rows, "left") == person(two_people(), "left")


def test_people_who_swap_places_keep_their_side():
    rows = []
    for k in range(1, 101):
        first, second = (200, 440) if k <= 70 else (440, 200)
        rows += [(k, 0, box(first, 200)), (k, 1, box(second, 200))]
    assert person(rows, "left") == [(k, 0) for k in range(1, 101)]
    assert person(rows, "right") == [(k, 1) for k in range(1, 101)]


def test_one_person_alone_is_on_the_side_of_the_middle():
    rows = [(k, 0, box(250, 200)) for k in range(1, 11)]
    assert person(rows, "left") == [(k, 0) for k in range(1, 11)]
    assert person(rows, "right") == []
    assert person(rows, "right", width=480.0) == [(k, 0) for k in range(1, 11)]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["", "left", "right"]))
def test_one_face_a_frame_whatever_the_order_of_the_rows(seed, side):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 60))
    pairs = rng.permutation(240)[:count]  # each pair of frame and track at most once
    frames, tracks = pairs // 8 + 1, pairs % 8
    centers = tracks * 70 + rng.uniform(0, 60, count)
    found = np.stack(
        [box(x, 100, side) for x, side in zip(centers, rng.uniform(20, 90, count), strict=True)]
    )
    chosen = choose_person(frames, tracks, found, side, 640.0)
    assert (np.diff(frames[chosen]) > 0).all()
    order = rng.permutation(count)
    again = choose_person(frames[order], tracks[order], found[order], side, 640.0)
    np.testing.assert_array_equal(order[again], chosen)
