"""Rows of videos that were never filmed."""

import numpy as np

from fer_jax.predict.frame_faces import AlignedFace, FrameFaces
from fer_jax.predict.row_file import RowFile

CLASSES = ("Anger", "Happiness", "Neutral")
_IMAGE = np.zeros((1, 1, 3), np.uint8)


def drawn_rows(seed: int, *, frames: int, faces: int, every: int = 1, fps: float = 25.0) -> RowFile:
    """Faces that come, go and are missed at random; probabilities are random too."""
    rng = np.random.default_rng(seed)
    there = rng.random((faces, frames)) < rng.choice([0.3, 0.9])
    for face in range(faces):
        begin, end = sorted(rng.integers(0, frames + 1, 2))
        there[face, :begin] = there[face, end:] = False
    rows = RowFile(len(CLASSES))
    for index in range(frames):
        looked = index % every == 0
        seen = np.flatnonzero(there[:, index]) if looked else ()
        found = tuple(
            AlignedFace(int(face), np.array([index, face, 10.0, 10.0]), "ok", _IMAGE)
            for face in seen
        )
        raw = rng.dirichlet(np.ones(len(CLASSES)), len(found)).astype(np.float32)
        rows.append(FrameFaces(index + 1, index / fps, looked, found), raw)
    return rows
