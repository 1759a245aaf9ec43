"""Writes records as ArrayRecord shards in tensorflow-datasets' layout, without TensorFlow.

Records go through tensorflow-datasets' `SequentialWriter` and not through a builder's
`download_and_prepare`: the latter sorts whatever exceeds a gigabyte through files that only
TensorFlow opens, and then holds a whole split in memory.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.batching import batched
from fer_jax.errors import FerJaxError

FORMAT = "fer_jax faces 1"
MARKER = "faces.json"  # the file that says what a data set is
NAME = "faces"
VERSION = "1.0.0"
SHARD_BYTES = 200 << 20
_AT_ONCE = 256  # the writer rewrites its description at each call


def features(num_classes: int) -> tfds.features.FeaturesDict:
    """The fields of a record; `image` holds the encoded bytes of the aligned face."""
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": np.int32,
            "votes": tfds.features.Tensor(shape=(num_classes,), dtype=np.float32),
            "video": tfds.features.Text(),
            "subject": tfds.features.Text(),
            "face_id": np.int32,
            "frame": np.int32,
            "split": tfds.features.Text(),
            "source": tfds.features.Text(),
            "template": tfds.features.Text(),
            "quality": {"score": np.float32, "size": np.int32, "sharpness": np.float32},
        }
    )


def write_shards(
    splits: Mapping[str, Iterable[dict[str, Any]]],
    folder: Path,
    *,
    num_classes: int,
    description: str,
    records_per_shard: Mapping[str, int],
) -> None:
    """Writes the records of every split, in the order given.

    Args:
        splits: split name -> its records, with the fields of `features`.
        folder: gets `faces/1.0.0/`.
        num_classes: length of `votes`.
        description: one sentence for tensorflow-datasets' own description.
        records_per_shard: of each split.

    Raises:
        FerJaxError: the disk is full, or cannot be written.
    """
    data_dir = folder / NAME / VERSION
    data_dir.mkdir(parents=True)
    for split, records in splits.items():
        _write_split(split, records, data_dir, num_classes, description, records_per_shard[split])


def _write_split(
    split: str,
    records: Iterable[dict[str, Any]],
    data_dir: Path,
    num_classes: int,
    description: str,
    records_per_shard: int,
) -> None:
    identity = tfds.core.DatasetIdentity(
        name=NAME, version=tfds.core.Version(VERSION), data_dir=str(data_dir), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=description,
        features=features(num_classes),
        # Records keep the order of the index; training shuffles when reading.
        disable_shuffling=True,
    )
    try:
        writer = tfds.core.SequentialWriter(
            info,
            max_examples_per_shard=records_per_shard,
            overwrite=not (data_dir / "dataset_info.json").exists(),
            file_format="array_record",
        )
        writer.initialize_splits([split])
        for some in batched(records, _AT_ONCE):
            writer.add_examples({split: some})
        writer.close_splits([split])
    except (OSError, RuntimeError) as error:
        # RuntimeError is what array_record makes of a full disk.
        reason = str(error).split(";")[0].splitlines()[0]
        raise FerJaxError(
            f"{data_dir}: the records cannot be written ({reason}); free some space, or write "
            "elsewhere"
        ) from error
