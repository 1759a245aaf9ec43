"""Writes faces as ArrayRecord shards with a tensorflow-datasets builder, without TensorFlow.

A data set is a folder: `faces.json` (label space, splits, format), `index.npz` (one row a face, to
select and to group without reading records), `skipped.csv` (what was left out, and why) and
`faces/1.0.0/` (the shards, in tensorflow-datasets' layout).
"""

import concurrent.futures
import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from fer_jax.atomic import atomic_directory
from fer_jax.data.examples import Example, Fault
from fer_jax.data.images import (
    ImageError,
    cut_square,
    decode_image,
    encode_image,
    is_lossless,
    sharpness,
)
from fer_jax.errors import FerJaxError
from fer_jax.labels import LabelSpace

FORMAT = "fer_jax faces 1"
VERSION = "1.0.0"
AS_IS = "as_is"  # the template of faces that are stored untouched
_SHOWN_FAULTS = 5
_PART = 256


@dataclasses.dataclass(frozen=True)
class Record:
    """A face that has been looked at: where it comes from, how it is stored, its quality."""

    example: Example
    template: str
    size: int
    sharpness: float


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


# Registered builders must have unique names in a process; this one is only ever made here.
with tfds.core.registered.skip_registration():

    class FaceBuilder(tfds.core.GeneratorBasedBuilder):
        """Stores checked faces, one tensorflow-datasets split for each of ours."""

        VERSION = tfds.core.Version(VERSION)
        name = "faces"

        def __init__(
            self, *, records: Sequence[Record], space: LabelSpace, margin: float, data_dir: Path
        ):
            self._records = records
            self._space = space
            self._margin = margin
            super().__init__(data_dir=str(data_dir), file_format="array_record")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Faces labelled in the space {self._space.name}.",
                features=features(len(self._space)),
                # Records keep the order of the index; training shuffles when reading.
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager) -> dict[str, Iterator]:
            del dl_manager  # nothing is downloaded
            splits = sorted({record.example.split for record in self._records})
            progress = _progress(len(self._records), "writing")
            return {split: self._generate_examples(split, progress) for split in splits}

        def _generate_examples(self, split: str, progress: tqdm.tqdm) -> Iterator:
            for record in self._records:
                example = record.example
                if example.split != split:
                    continue
                yield (
                    example.key,
                    {
                        "key": example.key,
                        "image": _stored_bytes(example, self._margin),
                        "label": example.label,
                        "votes": np.zeros(len(self._space), np.float32),
                        "video": example.video,
                        "subject": example.subject,
                        "face_id": example.face_id,
                        "frame": example.frame,
                        "split": split,
                        "source": example.source,
                        "template": record.template,
                        "quality": {
                            "score": example.score,
                            "size": record.size,
                            "sharpness": record.sharpness,
                        },
                    },
                )
                progress.update()


def build(
    examples: Sequence[Example],
    faults: Sequence[Fault],
    space: LabelSpace,
    out: str | os.PathLike[str],
    *,
    margin: float = 1.2,
    template: str = AS_IS,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> list[Fault]:
    """Checks every picture, then writes the data set aside and renames it into place.

    A picture with a box is cut to the square about it and encoded again (JPEG of quality 95, or
    PNG if it was lossless); one without is stored byte for byte.

    Args:
        examples: the faces to store.
        faults: what was found wrong before any picture was opened.
        space: what the labels mean.
        out: the folder to make.
        margin: side of the square as a multiple of the box's longer side.
        template: how faces without a box were aligned, such as `arcface_112`.
        skip_bad: leave out what cannot be used, instead of refusing.
        overwrite: replace a data set that exists.

    Returns:
        What was left out; empty unless `skip_bad`.

    Raises:
        FerJaxError: something cannot be used and `skip_bad` is false, or nothing is left; `out`
            exists and `overwrite` is false; `margin` is not positive.
    """
    if not 0 < margin <= 10:
        raise FerJaxError(f"margin {margin:g} is not in (0, 10]; 1.2 keeps the whole head")
    with atomic_directory(out, marker="faces.json", overwrite=overwrite) as folder:
        records, undecodable = _check(examples, margin, template)
        faults = [*faults, *undecodable]
        if faults and not skip_bad:
            raise FerJaxError(_describe(faults, len(faults) + len(records)))
        if not records:
            raise FerJaxError(f"no face can be used: {_first(faults)}; check the folder")
        records.sort(key=lambda record: record.example.split)  # stable: as tfds writes them
        _write_shards(records, space, margin, folder)
        _write_index(records, folder / "index.npz")
        _write_skipped(faults, folder / "skipped.csv")
        splits = [record.example.split for record in records]
        description = {
            "format": FORMAT,
            "label_space": space.name,
            "classes": list(space.classes),
            "splits": {split: splits.count(split) for split in dict.fromkeys(splits)},
            "skipped": len(faults),
        }
        (folder / "faces.json").write_text(json.dumps(description, indent=2) + "\n")
    return faults


def _check(
    examples: Sequence[Example], margin: float, template: str
) -> tuple[list[Record], list[Fault]]:
    """Decodes every picture; those that fail become faults."""

    def check(example: Example) -> Record | Fault:
        try:
            image = decode_image(example.read())
            if example.box is None:
                return Record(example, template, min(image.shape[:2]), sharpness(image))
            square = cut_square(image, example.box, margin)
            left, top, right, bottom = example.box
            size = round(max(right - left, bottom - top))
            return Record(example, f"box_square_{margin:g}", size, sharpness(square))
        except ImageError as error:
            return Fault(example.name, str(error))

    checked = []
    # OpenCV releases the interpreter while it decodes. A part at a time: an interrupt waits for
    # what was handed to the pool.
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        _progress(len(examples), "checking") as progress,
    ):
        for start in range(0, len(examples), _PART):
            checked += pool.map(check, examples[start : start + _PART])
            progress.update(len(checked) - start)
    records = [one for one in checked if isinstance(one, Record)]
    return records, [one for one in checked if isinstance(one, Fault)]


def _stored_bytes(example: Example, margin: float) -> bytes:
    encoded = example.read()
    if example.box is None:
        return encoded
    square = cut_square(decode_image(encoded), example.box, margin)
    return encode_image(square, lossless=is_lossless(encoded))


def _write_shards(
    records: Sequence[Record], space: LabelSpace, margin: float, folder: Path
) -> None:
    tfds.disable_progress_bar()  # it has one for every split and stage; ours counts faces
    builder = FaceBuilder(records=records, space=space, margin=margin, data_dir=folder)
    try:
        with redirect_stdout(io.StringIO()):  # it announces the folder that is renamed afterwards
            builder.download_and_prepare()
    except (
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError is what array_record makes of a full disk
        reason = str(error).split(";")[0].splitlines()[0]
        raise FerJaxError(
            f"{folder.parent}: the records cannot be written ({reason}); free some space, or "
            "write elsewhere"
        ) from error
    for path in (folder / "downloads" / "extracted", folder / "downloads"):
        path.rmdir()


def _write_index(records: Sequence[Record], path: Path) -> None:
    examples = [record.example for record in records]
    splits = np.asarray([example.split for example in examples], np.str_)
    np.savez_compressed(
        path,
        key=np.asarray([example.key for example in examples], np.str_),
        split=splits,
        label=np.asarray([example.label for example in examples], np.int32),
        subject=np.asarray([example.subject for example in examples], np.str_),
        video=np.asarray([example.video for example in examples], np.str_),
        frame=np.asarray([example.frame for example in examples], np.int32),
        face_id=np.asarray([example.face_id for example in examples], np.int32),
        source=np.asarray([example.source for example in examples], np.str_),
        template=np.asarray([record.template for record in records], np.str_),
        score=np.asarray([example.score for example in examples], np.float32),
        size=np.asarray([record.size for record in records], np.int32),
        sharpness=np.asarray([record.sharpness for record in records], np.float32),
        # Where a record lies among those of its split, in the order of the shards.
        position=np.concatenate([np.arange(n) for n in np.unique_counts(splits).counts]).astype(
            np.int64
        ),
    )


def _write_skipped(faults: Sequence[Fault], path: Path) -> None:
    if not faults:
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerows((fault.name, fault.reason) for fault in faults)


def _describe(faults: Sequence[Fault], total: int) -> str:
    return (
        f"{len(faults)} of {total} pictures cannot be used: {_first(faults)}; "
        "repair them, or pass --skip-bad to leave them out and list them in skipped.csv"
    )


def _first(faults: Sequence[Fault]) -> str:
    shown = "; ".join(f"{fault.name}: {fault.reason}" for fault in faults[:_SHOWN_FAULTS])
    more = len(faults) - _SHOWN_FAULTS
    return f"{shown}; and {more} more" if more > 0 else shown


def _progress(total: int, what: str) -> tqdm.tqdm:
    return tqdm.tqdm(total=total, desc=what, unit="face", disable=not sys.stderr.isatty())
