"""Runs a bundle over the organisers' crops, one video after the other."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from tqdm import tqdm

from fer_jax.data.affwild2_files import Frames, Sample, list_frames
from fer_jax.errors import FerJaxError
from fer_jax.predict.finished import FinishedVideos, VideoPredictions
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
    known: Mapping[str, Path], sample: Sample, crops: str, allow_empty: bool
) -> dict[str, Frames]:
    """The crops that are wanted: of each video those up to the last frame that the sample names.

    Args:
        known: the folder of each video that is there.
        sample: the rows of the submission.
        crops: where they were searched, for messages.
        allow_empty: pass over videos that have none, unless none has one.

    Raises:
        FerJaxError: videos have no such crop, or a folder cannot be read.
    """
    found = {}
    for name in sample.videos:
        frames = _wanted(known[name], int(sample.frames[name].max())) if name in known else None
        if frames is not None and len(frames.numbers):
            found[name] = frames
    absent = [name for name in sample.videos if name not in found]
    if absent and not (allow_empty and found):
        some = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        otherwise = ", or pass --allow-empty" if found else ""
        raise FerJaxError(
            f"{crops}: {len(absent)} of the sample's {len(sample.videos)} videos have no crop of "
            f"its frames ({some}); name the folder that holds them, unpack what is "
            f"missing{otherwise}"
        )
    return found


def _wanted(folder: Path, last: int) -> Frames:
    frames = list_frames(folder)
    numbers = frames.numbers
    return dataclasses.replace(frames, numbers=numbers[(numbers >= 1) & (numbers <= last)])


def predict_crops(
    recognizer: Recognizer,
    videos: Mapping[str, Frames],
    *,
    on_problem: Callable[[str], None],
    finished: FinishedVideos | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, Int64[np.ndarray, "seen"], Float32[np.ndarray, "seen class"]]:
    """Names the expression in every crop of some videos; a few batches are held at once.

    Args:
        recognizer: of a bundle with labels.
        videos: the crops of each video, as of `find_videos`.
        on_problem: called with one line for each file that is no picture, or is there no more.
        finished: where finished videos are kept, and taken from if they are there.
        progress: show a bar if there is a terminal.

    Returns:
        Video, frame and probabilities of every crop that could be read, frames ascending.

    Raises:
        FerJaxError: the bundle has no labels.
    """
    recognizer.require_labels()
    done = []
    total = sum(len(frames.numbers) for frames in videos.values())
    with tqdm(total=total, unit="frame", disable=None if progress else True) as bar:
        for name, frames in videos.items():
            bar.set_description(name)
            path = None if finished is None else finished.path(frames)
            video = None if path is None else finished.read(path)
            if video is None:
                video = _predict_video(recognizer, frames, on_problem, bar)
                if path is not None:
                    finished.write(path, video)
            else:
                bar.update(len(frames.numbers))
                for line in video.problems:
                    on_problem(line)
            done.append(video)
    return (
        np.repeat(np.asarray(list(videos), object), [len(video.frame) for video in done]),
        np.concatenate([np.zeros(0, np.int64), *(video.frame for video in done)]),
        np.concatenate(
            [
                np.zeros((0, len(recognizer.classes)), np.float32),
                *(video.probabilities for video in done),
            ]
        ),
    )


def _predict_video(
    recognizer: Recognizer, frames: Frames, on_problem: Callable[[str], None], bar: tqdm
) -> VideoPredictions:
    problems: list[str] = []

    def told(line: str) -> None:
        problems.append(line)
        on_problem(line)

    numbers, parts = [np.zeros(0, np.int32)], []
    size = _BATCHES * recognizer.batch_size
    for start in range(0, len(frames.numbers), size):
        there = []
        for number in frames.numbers[start : start + size].tolist():
            path = frames.path(number)
            if os.path.isfile(path):
                there.append((number, path))
            else:  # a link to nowhere, or removed since it was listed
                told(f"{path}: is no file; no expression is named for it, replace or remove it")
        if there:
            table = recognizer.predict([path for _, path in there], crops=True, on_problem=told)
            seen = table.status == "ok"
            numbers.append(np.asarray([number for number, _ in there], np.int32)[seen])
            parts.append(table.raw[seen])
        bar.update(min(size, len(frames.numbers) - start))
    nothing = np.zeros((0, len(recognizer.classes)), np.float32)
    return VideoPredictions(
        np.concatenate(numbers), np.concatenate([nothing, *parts]), tuple(problems)
    )
