"""Whether an exported file computes what its bundle computes: measured on the bytes read back."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.bundle import Bundle
from fer_jax.data.images import ImageError, decode_image
from fer_jax.data.synthetic import synthetic_face
from fer_jax.errors import FerJaxError
from fer_jax.export.program import frame_calibration
from fer_jax.golden import GOLDEN_TOLERANCE, golden_outputs
from fer_jax.ops.resize import resize_host
from fer_jax.predict.confidence import calibrated
from fer_jax.predict.recognizer import Recognizer, softmax
from fer_jax.predict.sources import find_files

# Largest difference over largest value. Where both run the same batches on one CPU, logits of the
# file were within 2e-7 (mostly the same bits), its probabilities within 3e-7, of tiny bundles as of
# a ViT-B. Another batch size, that is rounding alone, is 1e-7 to 9e-7 off; resizing on the host is
# 2e-7 to 7e-7 off in logits, up to 2.3e-6 in probabilities.
TOLERANCE = 1e-6
# Beside another machine's outputs, or the host's resizing, the file may be further off by what this
# process itself is; but that may be no more than other machines are (`golden.GOLDEN_TOLERANCE`).
LARGEST_FLOOR = GOLDEN_TOLERANCE

FACES = 100
BATCHES = (1, 3, 8)  # faces at once: each of the first two once, then the third to the end

Run = Callable[[UInt8[np.ndarray, "b h w 3"]], Mapping[str, np.ndarray]]
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One output of the file beside another way to the same numbers.

    Attributes:
        what: what was computed, and how it was computed otherwise.
        output: its name.
        difference: the largest, over the largest value.
        floor: how far the bundle itself, run in this process without the file, is from the other
            way; 0 where the other way is just that.
    """

    what: str
    output: str
    difference: float
    floor: float = 0.0

    @property
    def allowed(self) -> float:
        """What the difference may be."""
        return TOLERANCE + self.floor

    @property
    def passed(self) -> bool:
        """Whether it holds; no number is no match."""
        return self.difference <= self.allowed and self.floor <= LARGEST_FLOOR


def compare_golden(
    run: Run, bundle: Bundle, faces: UInt8[np.ndarray, "b h w 3"], stored: Mapping[str, np.ndarray]
) -> list[Comparison]:
    """The golden sample of the bundle through the file.

    Args:
        run: the file's function, for faces of this size.
        bundle: what was exported.
        faces: of the golden sample.
        stored: its outputs, as they stand in the bundle; the machine that made them may be another.
    """
    found = run(faces)
    here = wanted_outputs(bundle, golden_outputs(bundle, {"faces": faces}))
    kept = wanted_outputs(bundle, stored)
    return [
        *_compare("golden sample, computed here", found, here),
        *_compare("golden sample, as stored", found, kept, of_here=here),
    ]


def compare_faces(
    run: Run, bundle: Bundle, faces: UInt8[np.ndarray, "b h w 3"], name: str
) -> list[Comparison]:
    """Many faces through the file, at the batch sizes of `BATCHES`.

    Args:
        run: the file's function.
        bundle: what was exported.
        faces: of the size that the file takes.
        name: what they are, for people.

    Returns:
        For each output, beside the bundle's own program on the device, and beside the `Recognizer`,
        which resizes on the host.
    """
    parts = np.split(faces, np.cumsum(batch_sizes(len(faces)))[:-1])
    found = _joined([run(part) for part in parts])
    device = _joined([golden_outputs(bundle, {"faces": part}) for part in parts])
    here = wanted_outputs(bundle, device)
    recognizer = Recognizer(bundle)
    if bundle.labels is None:
        host = {"features_main": recognizer.features(faces)["main"]}
    else:
        host = {"logits": recognizer.logits(faces)}
    what = f"{len(faces)} {name}"
    return [
        *_compare(f"{what}, computed here", found, here),
        *_compare(f"{what}, Recognizer", found, wanted_outputs(bundle, host), of_here=here),
    ]


def wanted_outputs(bundle: Bundle, outputs: Mapping[str, np.ndarray]) -> Arrays:
    """What the file should give, by the names of its outputs.

    Args:
        bundle: what was exported.
        outputs: `logits`, or of an encoder `features_main`, of the bundle without the file.

    Returns:
        `features`; or `logits` and `probabilities`, these computed on the host in float64.
    """
    if bundle.labels is None:
        return {"features": outputs["features_main"]}
    probabilities = softmax(outputs["logits"])
    calibration = frame_calibration(bundle)
    if calibration is not None:
        probabilities = calibrated(probabilities, calibration)
    return {"logits": outputs["logits"], "probabilities": probabilities}


def drawn_faces(size: int, number: int = FACES) -> UInt8[np.ndarray, "{number} {size} {size} 3"]:
    """Drawn faces of as many people, the classes taking turns."""
    return np.stack([synthetic_face(0, i, i, size=size)[0] for i in range(number)])


def folder_faces(
    folder: str | os.PathLike[str], size: int, number: int = FACES
) -> UInt8[np.ndarray, "b {size} {size} 3"]:
    """The first pictures of a folder, each taken as one aligned face.

    Args:
        folder: searched with the folders in it, in order of the names.
        size: side in pixels; pictures of another size are resized to it.
        number: at most.

    Raises:
        FerJaxError: there is no picture, or one that cannot be read.
    """
    pictures, _ = find_files(folder)
    if not pictures:
        raise FerJaxError(f"{folder}: holds no picture; name a folder of faces")
    return np.stack([_face(path, size) for path in pictures[:number]])


def _face(path: Path, size: int) -> np.ndarray:
    try:
        image = decode_image(path.read_bytes())
    except ImageError as error:
        raise FerJaxError(f"{path}: {error}; remove it") from error
    if image.shape == (size, size, 3):
        return image
    return np.clip(np.rint(resize_host(image, size, "bicubic_antialias")), 0, 255).astype(np.uint8)


def batch_sizes(number: int) -> list[int]:
    """How so many faces are divided: 100 into 1, 3 and twelve times 8."""
    sizes: list[int] = []
    for size in itertools.chain(BATCHES, itertools.repeat(BATCHES[-1])):
        if number <= 0:
            return sizes
        sizes.append(min(size, number))
        number -= size
    return sizes


def _joined(parts: list[Mapping[str, np.ndarray]]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compare(
    what: str, found: Mapping[str, Any], wanted: Arrays, of_here: Arrays | None = None
) -> Iterator[Comparison]:
    for name, values in wanted.items():
        floor = 0.0 if of_here is None else _difference(of_here[name], values)
        yield Comparison(what, name, _difference(found[name], values), floor)


def _difference(values: Float[np.ndarray, "b _"], wanted: Float[np.ndarray, "b _"]) -> float:
    largest = np.abs(wanted).max()
    return float(np.abs(values - wanted).max() / (largest if largest > 0 else 1))
