"""Which faces a run trains on, and which it chooses its checkpoint by."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from fer_jax.data.dataset import FaceData, Indexed, select, split_selection
from fer_jax.data.pipeline import epoch_plan
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import LabelSpace
from fer_jax.train.config import TrainConfig
from fer_jax.train.fuse_config import FuseConfig

Part = tuple[tuple[Indexed, np.ndarray], ...]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of which data sets are trained on and selected on.

    Attributes:
        train: data sets, or tables of features, and their rows to train on.
        selection: the same to select on.
        labels: what all their labels mean.
        template: how their faces were aligned; `mixed` if not all in one way.
        epoch: faces that an epoch shows, after sampling.
    """

    train: Part
    selection: Part
    labels: LabelSpace
    template: str
    epoch: int

    @property
    def train_counts(self) -> np.ndarray:
        """Training rows of each class; of those without a label there is no count."""
        labels = np.concatenate([data.index["label"][rows] for data, rows in self.train])
        return np.bincount(labels[labels >= 0], minlength=len(self.labels))

    def fingerprint(self, made_from: Sequence[str] = ()) -> str:
        """A hash of which faces are trained on, and of all that their order depends on.

        Args:
            made_from: hashes of what the run begins with: bundles, tables.
        """
        digest = hashlib.sha256(repr(list(made_from)).encode())
        for data, rows in self.train:
            for column in ("key", "label", "video", "frame", "source"):
                digest.update(np.ascontiguousarray(data.index[column][rows]).tobytes())
        return digest.hexdigest()


def open_rows(config: TrainConfig | FuseConfig) -> Rows:
    """Opens the data sets and parts their training rows.

    Raises:
        UsageError: no data set is named.
        FerJaxError: as `part_rows`.
    """
    names = names_of(config.data)
    if not names:
        raise UsageError("config.data is empty; name one or more folders of `fer-jax prepare`")
    selected = names_of(getattr(config, "selection_data", "")) or names
    unknown = [name for name in selected if name not in names]
    if unknown:
        raise UsageError(f"config.selection_data={unknown[0]}: is not among config.data")
    sets = [FaceData.open(name) for name in names]
    return part_rows(sets, config, [name in selected for name in names])


def part_rows(
    sets: Sequence[Indexed], config: TrainConfig | FuseConfig, selected: Sequence[bool]
) -> Rows:
    """Parts the training rows of data sets.

    Args:
        sets: data sets, or tables of features.
        config: the run.
        selected: from which of them a part is held out to select checkpoints on.

    Raises:
        FerJaxError: label spaces differ, there is nothing to train on, or no votes that are asked
            for.
    """
    where = f"config.data={config.data}" if config.data else f"config.sources={config.sources}"
    train, selection = [], []
    for data, is_selected in zip(sets, selected, strict=True):
        rows = select(data, "train", voted=config.loss.soft_labels)
        if config.selection > 0 and is_selected:
            rows, held = split_selection(data, rows, config.selection, config.seed)
            selection.append((data, held))
        train.append((data, rows))
    first = train[0][0]
    for data, _ in train:
        if data.label_space != first.label_space:
            raise FerJaxError(
                f"{where}: label spaces {first.label_space.name} and "
                f"{data.label_space.name} differ; prepare all with one --labels"
            )
    if config.loss.soft_labels and not any(data.index["voted"][kept].any() for data, kept in train):
        raise FerJaxError(
            f"{where}: no training face has votes, which "
            "config.loss.soft_labels=True takes as targets; prepare such data (again), or set it "
            "to False"
        )
    templates = {data.template for data, _ in train}
    template = templates.pop() if len(templates) == 1 else "mixed"
    epoch = len(epoch_plan(train, config.sampling, config.seed))
    if epoch < config.batch_size:
        found = sum(len(kept) for _, kept in train)
        taken = "" if epoch == found else f", of which an epoch shows {epoch},"
        raise FerJaxError(
            f"{where}: {found} training rows{taken} are fewer than "
            f"config.batch_size={config.batch_size}; lower it"
        )
    return Rows(tuple(train), tuple(selection), first.label_space, template, epoch)


def names_of(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
