"""Which faces a pre-training run learns from, is judged by, and is probed with."""

import dataclasses
from pathlib import Path

import numpy as np

from fer_jax.data.dataset import FaceData, select, split_selection
from fer_jax.data.pipeline import epoch_plan
from fer_jax.data.shards import MARKER
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import LabelSpace
from fer_jax.train.pretrain_config import PretrainConfig
from fer_jax.train.rows import Part, Rows, names_of


@dataclasses.dataclass(frozen=True)
class Probe:
    """Labelled faces that say what features are worth.

    Attributes:
        bank: training faces that a classifier learns from.
        queries: held-out faces that it names.
    """

    bank: Part
    queries: Part


def open_faces(config: PretrainConfig) -> tuple[Rows, Probe | None]:
    """Opens the data sets and parts their training rows; faces without a label count as others.

    Returns:
        What is trained and judged on; and the probe, None where labels do not suffice for one.

    Raises:
        UsageError: no data set is named, or pictures that are not prepared.
        FerJaxError: a data set cannot be read, those that are judged on have labels of several
            spaces, or there are too few faces.
    """
    names = names_of(config.data)
    if not names:
        raise UsageError("config.data is empty; name one or more folders of `fer-jax prepare`")
    selected = names_of(config.selection_data) or names
    for name in selected:
        if name not in names:
            raise UsageError(f"config.selection_data={name}: is not among config.data")
    opened = {name: _open(name) for name in names}
    space = _space(config, {name: opened[name] for name in selected})
    train, selection = [], []
    for name, data in opened.items():
        data = data if data.label_space == space else _without_labels(data, space)
        rows = select(data, "train", labelled=False)
        if config.selection > 0 and name in selected:
            rows, held = split_selection(data, rows, config.selection, config.seed)
            selection.append((data, held))
        train.append((data, rows))
    templates = {data.template for data, _ in train}
    template = templates.pop() if len(templates) == 1 else "mixed"
    epoch = len(epoch_plan(train, config.sampling, config.seed))
    if epoch < config.batch_size:
        raise FerJaxError(
            f"config.data={config.data}: an epoch shows {epoch} faces, fewer than "
            f"config.batch_size={config.batch_size}; lower it"
        )
    rows = Rows(tuple(train), tuple(selection), space, template, epoch)
    return rows, _probe(config, rows)


def sample(part: Part, number: int, seed: int, *, labelled: bool = False) -> Part:
    """At most so many rows of a part, in their order; the same for the same seed."""
    numbers = np.repeat(np.arange(len(part)), [len(rows) for _, rows in part])
    places = np.concatenate([rows for _, rows in part])
    if labelled:
        known = np.concatenate([data.index["label"][rows] >= 0 for data, rows in part])
        numbers, places = numbers[known], places[known]
    if len(places) > number:
        rng = np.random.default_rng(seed)
        taken = np.sort(rng.choice(len(places), number, replace=False))
        numbers, places = numbers[taken], places[taken]
    return tuple((data, places[numbers == i]) for i, (data, _) in enumerate(part))


def labels_of(part: Part) -> np.ndarray:
    """The labels of a part, in its order."""
    return np.concatenate([data.index["label"][rows] for data, rows in part])


def _probe(config: PretrainConfig, rows: Rows) -> Probe | None:
    if not (config.probe_faces and rows.selection):
        return None
    judged = [data.path for data, _ in rows.selection]
    train = tuple(one for one in rows.train if one[0].path in judged)
    bank = sample(train, config.probe_faces, config.seed, labelled=True)
    queries = sample(rows.selection, config.probe_faces, config.seed, labelled=True)
    taught = len(np.unique(labels_of(bank))) > 1
    return Probe(bank, queries) if taught and len(labels_of(queries)) else None


def _open(name: str) -> FaceData:
    folder = name.rstrip("/")
    if "://" not in name and Path(name).is_dir() and not (Path(name) / MARKER).exists():
        raise UsageError(
            f"{name}: is no prepared data set; run `fer-jax prepare images {folder} --unlabelled "
            f"--out {folder}-data`, and name {folder}-data"
        )
    return FaceData.open(name)


def _space(config: PretrainConfig, judged: dict[str, FaceData]) -> LabelSpace:
    """Of the labels that are probed; where a set has none, its space means nothing."""
    labelled = {name: data for name, data in judged.items() if (data.index["label"] >= 0).any()}
    (first, space), *others = (
        (name, data.label_space) for name, data in (labelled or judged).items()
    )
    for name, other in others if config.probe_faces and config.selection else ():
        if other != space:
            raise FerJaxError(
                f"config.data={config.data}: {first} is labelled in {space.name}, {name} in "
                f"{other.name}; set config.selection_data={first} to judge by it alone, or "
                "config.probe_faces=0"
            )
    return space


def _without_labels(data: FaceData, space: LabelSpace) -> FaceData:
    """Faces of another label space: they are trained on, and nobody is to look at their labels."""
    labels = np.full(len(data), -1, np.int32)
    return FaceData(data.path, space, data.index | {"label": labels})
