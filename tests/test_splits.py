from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_jax.data.examples import Example
from fer_jax.data.splits import move_fraction, split_off
from fer_jax.errors import FerJaxError


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=40),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 100),
)
def test_groups_stay_whole_and_neither_part_is_empty(sizes, fraction, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    labels = rng.integers(0, 3, len(groups))
    mask = split_off(groups, labels, fraction, seed)
    assert 0 < mask.sum() < len(mask)
    assert not set(groups[mask]) & set(groups[~mask])
    # The same faces whatever order they come in.
    order = rng.permutation(len(groups))
    np.testing.assert_array_equal(
        split_off(groups[order], labels[order], fraction, seed), mask[order]
    )


def test_single_faces_are_split_class_by_class():
    labels = np.repeat([0, 1, 2], [1000, 200, 30])
    keys = np.array([f"k{i}" for i in range(len(labels))])
    mask = split_off(keys, labels, 0.1, 0)
    assert np.bincount(labels[mask]).tolist() == [100, 20, 3]
    assert not np.array_equal(mask, split_off(keys, labels, 0.1, 1))


def test_subjects_are_split_nearly_class_by_class():
    errors = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        subjects = np.array([f"s{i}" for i in rng.integers(0, 150, 3000)])
        labels = rng.choice(4, 3000, p=[0.5, 0.3, 0.15, 0.05])
        mask = split_off(subjects, labels, 0.2, seed)
        errors.append(np.abs(np.bincount(labels[mask]) - 0.2 * np.bincount(labels)).sum())
    # Subjects of 20 faces each: 9 faces off at the median, 29 for subjects drawn blindly.
    assert np.median(errors) < 15


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(FerJaxError, match="between 0 and 1"):
        split_off(np.array(["a", "b"]), np.array([0, 1]), fraction, 0)


def test_one_subject_cannot_be_split():
    with pytest.raises(FerJaxError, match="1 group of faces cannot be split"):
        split_off(np.array(["a", "a"]), np.array([0, 1]), 0.5, 0)


def test_moving_a_fraction_takes_whole_subjects_of_the_training_part():
    examples = [
        Example(Path(f"{i}.jpg"), f"{i}.jpg", i % 2, "train" if i < 90 else "test", f"s{i // 3}")
        for i in range(99)
    ]
    moved = move_fraction(examples, "validation", 0.2, 0)
    validation = [e for e in moved if e.split == "validation"]
    assert 15 <= len(validation) <= 21
    assert all(int(e.name.split(".")[0]) < 90 for e in validation)
    subjects = {e.subject for e in validation}
    assert not subjects & {e.subject for e in moved if e.split == "train"}
    assert [(e.name, e.label, e.subject) for e in moved] == [
        (e.name, e.label, e.subject) for e in examples
    ]
    with pytest.raises(FerJaxError, match="already have a split 'test'"):
        move_fraction(examples, "test", 0.2, 0)
    with pytest.raises(FerJaxError, match="'va/l' cannot name a split"):
        move_fraction(examples, "va/l", 0.2, 0)
