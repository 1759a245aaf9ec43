"""Names of splits, and parts of the training faces that become one."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np

from fer_jax.data.examples import Example
from fer_jax.errors import FerJaxError

DEFAULT_SPLIT = "train"
_SWEEPS = 5


def check_splits(splits: set[str], where: str | os.PathLike[str]) -> None:
    """Refuses names that tensorflow-datasets cannot give to a split.

    Args:
        splits: the names.
        where: what named them, for the message.

    Raises:
        FerJaxError: one of them is not of letters, digits and _, or is `all`.
    """
    # "all" is what tensorflow-datasets calls everything together.
    wrong = sorted(s for s in splits if not re.fullmatch(r"[A-Za-z]\w*", s) or s == "all")
    if wrong:
        raise FerJaxError(
            f"{where}: {wrong[0]!r} cannot name a split; use letters, digits and _, such as "
            "train, validation, test"
        )


def split_off(groups: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Chooses whole groups that hold a fraction of every class, as nearly as groups allow.

    The groups are gone through in random order, a few times; one is taken, or put back, if that
    brings the counts per class closer (in the sum of absolute differences) to the fraction of all.

    Args:
        groups: one name per sample; samples of a group stay together.
        labels: one integer per sample; -1 counts as a class of its own.
        fraction: of the samples to choose, between 0 and 1.
        seed: of the order.

    Returns:
        A mask of the chosen samples; the same whatever order the samples come in.

    Raises:
        FerJaxError: the fraction is not between 0 and 1, or there are fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise FerJaxError(f"a part of {fraction:g} cannot be split off; name one between 0 and 1")
    names, group_of = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    if len(names) < 2:
        raise FerJaxError(
            f"{len(names)} group of faces cannot be split in two; give more subjects or faces"
        )
    classes, class_of = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    wanted = counts.sum(axis=0) * fraction
    have = np.zeros(len(classes))
    chosen = np.zeros(len(names), bool)
    order = np.random.default_rng(seed).permutation(len(names))
    for _ in range(_SWEEPS):
        before = chosen.copy()
        for group in order:
            after = have - counts[group] if chosen[group] else have + counts[group]
            if np.abs(after - wanted).sum() < np.abs(have - wanted).sum():
                have = after
                chosen[group] = not chosen[group]
        if np.array_equal(chosen, before):
            break
    if not chosen.any():
        # Every group overshoots: the one that does so least.
        chosen[order[np.abs(counts[order] - wanted[None, :]).sum(axis=1).argmin()]] = True
    elif chosen.all():
        chosen[order[-1]] = False
    return chosen[group_of]


def move_fraction(
    examples: Sequence[Example], split: str, fraction: float, seed: int
) -> list[Example]:
    """Gives a part of the training examples, by whole subjects, the name of another split.

    Args:
        examples: with some in the split `train`.
        split: the name of the part, which must not exist yet.
        fraction: of the training examples.
        seed: which ones.

    Returns:
        All examples, in the order given.

    Raises:
        FerJaxError: the split exists, or the training examples cannot be split.
    """
    if any(example.split == split for example in examples):
        raise FerJaxError(
            f"the data already have a split {split!r}; leave out --split-fraction {split}=..."
        )
    check_splits({split}, "--split-fraction")
    train = [i for i, example in enumerate(examples) if example.split == DEFAULT_SPLIT]
    groups = [examples[i].subject or examples[i].video or examples[i].name for i in train]
    labels = [examples[i].label for i in train]
    mask = split_off(np.asarray(groups, np.str_), np.asarray(labels), fraction, seed)
    moved = {i for i, chosen in zip(train, mask, strict=True) if chosen}
    return [
        dataclasses.replace(example, split=split) if i in moved else example
        for i, example in enumerate(examples)
    ]
