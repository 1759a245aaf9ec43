import numpy as np
import pytest

from fer_jax.data.cleaning import Cleaning, judge
from fer_jax.data.examples import Fault
from fer_jax.errors import FerJaxError

RULES = Cleaning(min_score=0.5, min_size=32, min_sharpness=40.0, duplicate_distance=6)


def _table(rows: list[dict]) -> dict[str, np.ndarray]:
    """Good training pictures of one video each, with hashes far apart, changed by `rows`."""
    rng = np.random.default_rng(0)
    good = {
        "split": "train",
        "video": "",
        "label": 0,
        "score": 0.9,
        "size": 112,
        "sharpness": 400.0,
    }
    table = []
    for i, row in enumerate(rows):
        picture = rng.integers(0, 256, 32, dtype=np.uint8)
        table.append({"key": f"{i}.jpg", "hash": picture, **good, **row})
    dtypes = {
        "label": np.int32,
        "score": np.float32,
        "size": np.int32,
        "sharpness": np.float32,
        "hash": np.uint8,
    }
    return {
        name: np.asarray([row[name] for row in table], dtypes.get(name, np.str_))
        for name in table[0]
    }


def _verdicts(rows: list[dict], rules: Cleaning = RULES) -> dict[str, tuple[str, str]]:
    table = _table(rows)
    rejects = judge(table, rules)
    keys = table["key"][list(rejects.rows)].tolist()
    return dict(zip(keys, zip(rejects.reasons, rejects.values, strict=True), strict=True))


def _flipped(picture: np.ndarray, bits: int) -> np.ndarray:
    found = np.unpackbits(picture)
    found[:bits] ^= 1
    return np.packbits(found)


def test_each_rule_rejects_below_its_threshold_and_not_at_it():
    verdicts = _verdicts(
        [
            {},
            {"score": 0.49},
            {"score": 0.5},
            {"score": np.nan},
            {"size": 31},
            {"size": 32},
            {"sharpness": 39.99},
            {"sharpness": 40.0},
        ]
    )
    assert verdicts == {
        "1.jpg": ("non_face", "0.49"),
        "4.jpg": ("low_resolution", "31"),
        "6.jpg": ("blurred", "39.99"),
    }


def test_the_first_rule_that_is_broken_is_named():
    rows = [{"score": 0.1, "size": 5, "sharpness": 1.0}, {"size": 5, "sharpness": 1.0}]
    assert [reason for reason, _ in _verdicts(rows).values()] == ["non_face", "low_resolution"]


def test_what_is_scored_never_shrinks():
    bad = {"score": 0.0, "size": 1, "sharpness": 0.0}
    assert _verdicts([{**bad, "split": "validation"}, {**bad, "split": "test"}, {}]) == {}


def test_every_rule_can_be_turned_off():
    off = Cleaning(min_score=0, min_size=0, min_sharpness=0, duplicate_distance=-1)
    same = np.arange(32, dtype=np.uint8)
    bad = {"score": 0.0, "size": 1, "sharpness": 0.0, "hash": same}
    assert _verdicts([bad, bad], off) == {}


@pytest.mark.parametrize(("bits", "found"), [(0, True), (6, True), (7, False)])
def test_two_pictures_are_one_within_the_distance(bits, found):
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    rows = [{}, {"hash": first}, {"hash": _flipped(first, bits)}]
    expected = {"2.jpg": ("duplicate", "1.jpg (train)")} if found else {}
    assert _verdicts(rows) == expected


def test_a_copy_of_what_is_scored_is_not_trained_on():
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    rows = [{"hash": first}, {"hash": first, "split": "validation"}]
    assert _verdicts(rows) == {"0.jpg": ("duplicate", "1.jpg (validation)")}
    # The copy in the scored split may be blurred itself: it is scored all the same.
    rows[1]["sharpness"] = 1.0
    assert _verdicts(rows) == {"0.jpg": ("duplicate", "1.jpg (validation)")}


def test_both_go_where_their_labels_contradict():
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    verdicts = _verdicts([{"hash": first}, {"hash": first, "label": 3}])
    assert sorted(verdicts) == ["0.jpg", "1.jpg"]


def test_a_picture_without_a_label_contradicts_none():
    """It goes itself, wherever it stands; two such count as one label."""
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    labelled, unlabelled = {"hash": first, "label": 3}, {"hash": first, "label": -1}
    assert _verdicts([labelled, unlabelled]) == {"1.jpg": ("duplicate", "0.jpg (train)")}
    assert _verdicts([unlabelled, labelled]) == {"0.jpg": ("duplicate", "1.jpg (train)")}
    assert _verdicts([unlabelled, unlabelled]) == {"1.jpg": ("duplicate", "0.jpg (train)")}
    both = _verdicts([unlabelled, labelled, {**labelled, "label": 5}])
    assert sorted(both) == ["0.jpg", "1.jpg", "2.jpg"]


def test_the_unlabelled_split_is_no_split_that_is_scored():
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    trained = {"hash": first, "label": 3}
    assert _verdicts([trained, {"hash": first, "label": -1, "split": "unlabelled"}]) == {}
    assert _verdicts([trained, {"hash": first, "label": -1, "split": "test"}]) == {
        "0.jpg": ("duplicate", "1.jpg (test)")
    }


def test_neighbours_in_a_video_are_no_duplicates_but_another_video_is():
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    one = {"hash": first, "video": "a"}
    assert _verdicts([one, one, one]) == {}
    assert sorted(_verdicts([one, one, {**one, "video": "b"}, {**one, "video": "b"}])) == [
        "2.jpg",
        "3.jpg",
    ]


def test_a_picture_that_is_left_out_already_is_no_original():
    first = np.random.default_rng(3).integers(0, 256, 32, dtype=np.uint8)
    assert sorted(_verdicts([{"hash": first, "score": 0.1}, {"hash": first}])) == ["0.jpg"]


def test_the_summary_counts_shares_of_the_training_pictures():
    rows = [{"score": 0.0}, {"size": 3}, *[{}] * 6, *[{"split": "validation"}] * 20]
    corrupted = [Fault(name, "is empty", "train") for name in ("x.jpg", "y.jpg")]
    rejects = judge(_table(rows), RULES, corrupted)
    assert rejects.trained == 10
    assert rejects.total == 4
    assert rejects.counts() == {"corrupted": 2, "non_face": 1, "low_resolution": 1}
    assert rejects.summary() == (
        "cleaning: 4 of 10 training pictures left out (40.00%): corrupted 2 (20.00%), "
        "non_face 1 (10.00%), low_resolution 1 (10.00%)"
    )


@pytest.mark.parametrize(
    "wrong",
    [{"min_score": 1.5}, {"min_size": -1}, {"min_sharpness": -1.0}, {"duplicate_distance": 25}],
)
def test_impossible_thresholds_are_refused(wrong):
    with pytest.raises(FerJaxError, match=f"cleaning.{next(iter(wrong))}=.* to 24"):
        Cleaning(**wrong)


def test_the_farthest_distance_that_is_taken_is_one_that_can_be_searched():
    assert _verdicts([{}, {}], Cleaning(duplicate_distance=24)) == {}
