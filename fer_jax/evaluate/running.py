"""A recognizer over faces of a data set, as it is scored: batch by batch, in order."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int
from tqdm import tqdm

from fer_jax.data.pipeline import FaceData, evaluation_batches
from fer_jax.ops.normalize import normalize
from fer_jax.predict.recognizer import Recognizer

Prepared = dict[str, Float32[np.ndarray, "b size size 3"]]
Batch = tuple[Prepared, Bool[np.ndarray, "b"]]  # images by view, and which of them are faces


def prepared_batches(
    recognizer: Recognizer,
    data: FaceData,
    rows: Int[np.ndarray, "rows"],
    progress: bool = False,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Batch]:
    """The faces of some rows as the bundle's views take them.

    Args:
        recognizer: whose bundle says how.
        data: the data set.
        rows: which of its faces.
        progress: show a bar if there is a terminal.
        change: done to each aligned face first.

    Yields:
        Normalised images by view, of `recognizer.batch_size` faces; and which of them are faces:
        the last batch is filled up.
    """
    views = recognizer.bundle.views
    batches = evaluation_batches(
        [(data, rows)],
        views={name: view.view for name, view in views.items()},
        image_size={name: view.image_size for name, view in views.items()},
        resize={name: view.resize for name, view in views.items()},
        batch_size=recognizer.batch_size,
        change=change,
    )
    with tqdm(total=len(rows), unit="face", disable=None if progress else True) as bar:
        for batch in batches:
            images = {
                name: normalize(batch[name], view.mean, view.std) for name, view in views.items()
            }
            yield images, batch["mask"]
            bar.update(int(batch["mask"].sum()))


def logits_of(
    recognizer: Recognizer,
    data: FaceData,
    rows: Int[np.ndarray, "rows"],
    progress: bool = False,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Float32[np.ndarray, "rows class"]:
    """Runs the recognizer over rows of a data set.

    Args:
        recognizer: of a bundle with labels.
        data: the data set.
        rows: which of its faces.
        progress: show a bar if there is a terminal.
        change: done to each aligned face first.

    Returns:
        Logits, in the order of the rows.
    """
    batches = prepared_batches(recognizer, data, rows, progress, change)
    return np.concatenate([recognizer.logits_normalized(images)[mask] for images, mask in batches])
