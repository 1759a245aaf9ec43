"""Runs a bundle over the organisers' crops, one video after the other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from tqdm import tqdm

from fer_jax.data.affwild2_files import list_frames
from fer_jax.errors import FerJaxError
from fer_jax.predict.recognizer import Recognizer

_BATCHES = 32  # held at once
_SHOWN = 3


def check_template(recognizer: Recognizer, template: str) -> None:
    """Refuses a bundle whose views were trained on faces that were aligned in another way.

    Args:
        recognizer: of the bundle.
        template: how the crops are aligned.

    Raises:
        FerJaxError: names the view and what it was trained on.
    """
    for name, view in recognizer.bundle.views.items():
        if view.template != template:
            raise FerJaxError(
                f"{recognizer.path or 'this bundle'}: its view {name!r} is of faces aligned as "
                f"{view.template!r} (crops: {view.crop_source}), the crops are {template!r}, which "
                "costs much; train on such crops, or pass --any-crops"
            )


def find_videos(
    known: Mapping[str, Path], videos: Sequence[str], crops: str, allow_empty: bool
) -> dict[str, Path]:
    """The folders of the videos that are wanted.

    Args:
        known: the folder of each video that is there.
        videos: those that are wanted.
        crops: where they were searched, for messages.
        allow_empty: pass over those that have none, unless none has one.

    Raises:
        FerJaxError: videos have no folder.
    """
    found = {name: known[name] for name in videos if name in known}
    absent = [name for name in videos if name not in known]
    if absent and not (allow_empty and found):
        some = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        otherwise = ", or pass --allow-empty" if found else ""
        raise FerJaxError(
            f"{crops}: {len(absent)} of the sample's {len(videos)} videos have no folder of crops "
            f"({some}); name the folder that holds them, unpack what is missing{otherwise}"
        )
    return found


def predict_crops(
    recognizer: Recognizer,
    folders: Mapping[str, Path],
    last: Mapping[str, int],
    *,
    on_problem: Callable[[str], None],
    progress: bool = False,
) -> tuple[np.ndarray, Int64[np.ndarray, "seen"], Float32[np.ndarray, "seen class"]]:
    """Names the expression in every crop of some videos; a few batches are held at once.

    Args:
        recognizer: of a bundle with labels.
        folders: the folder of each video.
        last: the last frame that is wanted of each video.
        on_problem: called with one line for each file that is no picture.
        progress: show a bar if there is a terminal.

    Returns:
        Video, frame and probabilities of every crop that could be read, frames ascending.

    Raises:
        FerJaxError: a folder cannot be read, or the bundle has no labels.
    """
    recognizer.require_labels()
    videos = {}
    for name, folder in folders.items():
        frames = list_frames(folder)
        wanted = frames.numbers[(frames.numbers >= 1) & (frames.numbers <= last[name])]
        videos[name] = [(number, frames.path(number)) for number in wanted.tolist()]
    names, numbers, parts = [], [], []
    total = sum(map(len, videos.values()))
    with tqdm(total=total, unit="frame", disable=None if progress else True) as bar:
        for name, frames in videos.items():
            bar.set_description(name)
            size = _BATCHES * recognizer.batch_size
            for chunk in (frames[i : i + size] for i in range(0, len(frames), size)):
                table = recognizer.predict([path for _, path in chunk], on_problem=on_problem)
                seen = table.status == "ok"
                names += [name] * int(seen.sum())
                numbers.append(np.asarray([number for number, _ in chunk])[seen])
                parts.append(table.raw[seen])
                bar.update(len(chunk))
    return (
        np.asarray(names, object),
        np.concatenate([np.zeros(0, np.int64), *numbers]),
        np.concatenate([np.zeros((0, len(recognizer.classes)), np.float32), *parts]),
    )
