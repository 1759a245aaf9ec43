"""Some faces of a video, evenly through it, kept to be looked at again."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

from fer_jax.predict.frame_faces import FrameFaces


class FaceSample:
    """At most so many faces, evenly through frames whose number nobody knows before their end.

    Every face is kept until there are too many; then each second one goes, and of those that come
    only every second is kept, and so on.

    Args:
        most: faces; at the end there are at least half as many, if so many came.

    Attributes:
        images: the aligned faces kept so far, in order.
    """

    def __init__(self, most: int = 256) -> None:
        self.images: list[UInt8[np.ndarray, "size size 3"]] = []
        self._most = most
        self._step, self._seen = 1, 0

    def of(self, frames: Iterable[FrameFaces]) -> Iterator[FrameFaces]:
        """Hands the frames on, and keeps some of their faces."""
        for frame in frames:
            for face in frame.faces:
                self._add(face.image)
            yield frame

    def _add(self, image: UInt8[np.ndarray, "size size 3"]) -> None:
        if self._seen % self._step == 0:
            if len(self.images) == self._most:
                self.images = self.images[::2]
                self._step *= 2
            if self._seen % self._step == 0:
                self.images.append(image)
        self._seen += 1
