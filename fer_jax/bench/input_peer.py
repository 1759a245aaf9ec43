"""What `data.pipeline` makes of pictures, made by PyTorch's DataLoader and Pillow, to compare."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fer_jax.data.augment import Augmentation, crop_box, flips

_ENDLESS = 1 << 40


class Pictures(Dataset):
    """Picture files, decoded, cropped, resized and flipped by Pillow.

    The crop is drawn as in our own pipeline, which is cheaper than torchvision's way, and Pillow
    cuts and resizes in one call, which is its fastest: the peer is not held back.
    """

    def __init__(
        self, files: Sequence[str], labels: Sequence[int], size: int, augmentation: Augmentation
    ):
        """Keeps the names; nothing is opened yet.

        Args:
            files: one for each picture.
            labels: one for each picture.
            size: side of the images, in pixels.
            augmentation: its crop and flip.
        """
        self._files = files
        self._labels = labels
        self._size = size
        self._augmentation = augmentation
        self._rng: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        if self._rng is None:
            self._rng = np.random.default_rng(torch.initial_seed())  # another one in each worker
        with Image.open(self._files[number]) as file:
            image = file.convert("RGB")
        image = self.augment(image, self._rng)
        return torch.from_numpy(np.array(image)), self._labels[number]

    def augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """What `data.augment.augment` does for the crop and the flip, with the same draws."""
        mirrored = flips(rng, self._augmentation)
        top, left, rows, columns = crop_box(image.height, image.width, rng, self._augmentation)
        image = image.resize(
            (self._size, self._size),
            Image.Resampling.BICUBIC,
            box=(left, top, left + columns, top + rows),
        )
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def peer_batches(
    files: Sequence[str],
    labels: Sequence[int],
    *,
    image_size: int,
    batch_size: int,
    augmentation: Augmentation,
    workers: int,
) -> Iterator[list[torch.Tensor]]:
    """Endless shuffled batches of [images (uint8 [batch, size, size, 3]), labels].

    Args:
        files: one for each picture.
        labels: one for each picture.
        image_size: side of the images, in pixels.
        batch_size: pictures of a batch.
        augmentation: its crop and flip.
        workers: processes; 0 decodes in this one.

    Yields:
        What the DataLoader makes; its workers end when the generator is closed.
    """
    torch.set_num_threads(1)
    dataset = Pictures(files, labels, image_size, augmentation)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        # Without end, so that no epoch's end interrupts the workers.
        sampler=RandomSampler(dataset, num_samples=_ENDLESS),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # forking is unsafe beside jax
    )
    yield from loader
