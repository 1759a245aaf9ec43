"""Which faces a run trains on, where some were voted on and some votes tie."""

import numpy as np
import pytest
from pictures import write_picture

from fer_jax.data.builder import build
from fer_jax.data.examples import Example
from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.train.config import freeze
from fer_jax.train.rows import open_rows

# Label and votes for Neutral, Anger, ...; the third is a tie, the fourth was judged by nobody.
FACES = [
    (0, (9, 1, 0, 0, 0, 0, 0)),
    (1, (1, 8, 0, 0, 0, 0, 1)),
    (-1, (5, 5, 0, 0, 0, 0, 0)),
    (-1, ()),
    (6, ()),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("votes")

    def make(name, votes):
        examples = []
        for i, (label, counted) in enumerate(FACES):
            path = folder / f"{i}.png"
            write_picture(path, np.full((32, 32, 3), 40 * i, np.uint8))
            counted = counted if votes else ()
            examples.append(Example(path, path.name, label, "train", votes=counted))
        build(examples, [], label_space("expw"), folder / name)
        return str(folder / name)

    return {"voted": make("voted", True), "labels": make("labels", False)}


def rows(data, soft):
    config = {"data": data, "batch_size": 1, "selection": 0.0, "loss": {"soft_labels": soft}}
    return open_rows(freeze(config))


@pytest.mark.parametrize(("soft", "kept"), [(False, [0, 1, 4]), (True, [0, 1, 2, 4])])
def test_a_tie_is_trained_on_where_votes_are_the_target(prepared, soft, kept):
    found = rows(prepared["voted"], soft)
    ((data, chosen),) = found.train
    assert [int(key[0]) for key in data.index["key"][chosen]] == kept
    assert found.epoch == len(kept)
    # Of the tie there is no class to count.
    assert found.train_counts.tolist() == [1, 1, 0, 0, 0, 0, 1]


def test_soft_labels_without_a_vote_are_refused(prepared):
    with pytest.raises(FerJaxError, match="no training face has votes"):
        rows(prepared["labels"], True)
    assert rows(prepared["labels"], False).epoch == 3
