"""Small trees in the official forms of the collections; the pictures are empty files."""

from pathlib import Path

import numpy as np

from fer_jax.data.examples import Example, Fault
from fer_jax.labels import LabelSpace


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def labelled(examples: list[Example], space: LabelSpace) -> list[tuple[str, str, str]]:
    """Key, split and class of each example, in order."""
    return [(one.key, one.split, space.classes[one.label]) for one in examples]


def reasons(faults: list[Fault]) -> dict[str, str]:
    assert len({fault.name for fault in faults}) == len(faults)
    return {fault.name: fault.reason for fault in faults}


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)


def pixel_text(seed: int) -> str:
    return " ".join(str(value) for value in pixels(seed).ravel())
