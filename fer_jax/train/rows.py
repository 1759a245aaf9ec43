"""Which faces a run trains on, and which it chooses its checkpoint by."""

import dataclasses
import hashlib

import numpy as np

from fer_jax.data.dataset import FaceData, select, split_selection
from fer_jax.data.pipeline import epoch_plan
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import LabelSpace
from fer_jax.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of which data sets are trained on and selected on.

    Attributes:
        train: data sets and their rows to train on.
        selection: the same to select on.
        labels: what all their labels mean.
        template: how their faces were aligned; `mixed` if not all in one way.
        epoch: faces that an epoch shows, after sampling.
    """

    train: tuple[tuple[FaceData, np.ndarray], ...]
    selection: tuple[tuple[FaceData, np.ndarray], ...]
    labels: LabelSpace
    template: str
    epoch: int

    @property
    def train_counts(self) -> np.ndarray:
        """Training rows of each class."""
        found = [data.index["label"][rows] for data, rows in self.train]
        return np.bincount(np.concatenate(found), minlength=len(self.labels))

    def fingerprint(self) -> str:
        """A hash of which faces are trained on, and of all that their order depends on."""
        digest = hashlib.sha256()
        for data, rows in self.train:
            for column in ("key", "label", "video", "frame", "source"):
                digest.update(np.ascontiguousarray(data.index[column][rows]).tobytes())
        return digest.hexdigest()


def open_rows(config: TrainConfig) -> Rows:
    """Opens the data sets and parts their training rows.

    Raises:
        UsageError: no data set is named.
        FerJaxError: label spaces differ, or there is nothing to train on.
    """
    names = _names(config.data)
    if not names:
        raise UsageError("config.data is empty; name one or more folders of `fer-jax prepare`")
    selected = _names(config.selection_data) or names
    unknown = [name for name in selected if name not in names]
    if unknown:
        raise UsageError(f"config.selection_data={unknown[0]}: is not among config.data")
    train, selection = [], []
    for name in names:
        data = FaceData.open(name)
        rows = select(data, "train")
        if config.selection > 0 and name in selected:
            rows, held = split_selection(data, rows, config.selection, config.seed)
            selection.append((data, held))
        train.append((data, rows))
    first = train[0][0]
    for data, _ in train:
        if data.label_space != first.label_space:
            raise FerJaxError(
                f"config.data={config.data}: label spaces {first.label_space.name} and "
                f"{data.label_space.name} differ; prepare all with one --labels"
            )
    templates = {data.template for data, _ in train}
    template = templates.pop() if len(templates) == 1 else "mixed"
    epoch = len(epoch_plan(train, config.sampling, config.seed))
    if epoch < config.batch_size:
        found = sum(len(kept) for _, kept in train)
        taken = "" if epoch == found else f", of which an epoch shows {epoch},"
        raise FerJaxError(
            f"config.data={config.data}: {found} training rows{taken} are fewer than "
            f"config.batch_size={config.batch_size}; lower it"
        )
    return Rows(tuple(train), tuple(selection), first.label_space, template, epoch)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
