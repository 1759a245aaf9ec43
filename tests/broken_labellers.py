"""Breaks the labeller on purpose, one way after another, and prints what the campaign says of each.

A script, run by test_video_campaign.py in a process of its own: an `Examiner` takes the standard
output and error of its process.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from video_worker import Examiner

from fer_jax.cli import predict as command
from fer_jax.data.images import ImageError
from fer_jax.faces import videos
from fer_jax.predict import pictures, predicting, scoring, video
from fer_jax.recipes import labelling

KEPT = []


def main(folder: Path, seeds: Path) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    examiner = Examiner(folder, seeds)
    whole = seeds / "mjpg.avi"
    half, noise, grey = (folder / name for name in ("half.avi", "noise.mp4", "half.jpg"))
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    noise.write_bytes(np.random.default_rng(0).bytes(9000))
    photo = (seeds / "photo.jpg").read_bytes()
    grey.write_bytes(photo[: len(photo) // 2])
    mixture = folder / "mixture"
    mixture.mkdir()
    (mixture / "one.avi").write_bytes(whole.read_bytes())
    (mixture / "two.avi").write_bytes(b"RIFF no video")

    camera = {"what": "camera", "number": 7}

    def run(name: str, task: dict[str, Any], target: object, attribute: str, value: object) -> None:
        task = {"path": "", "honest": "mjpg.avi", "number": 0} | task
        before = examiner.examine(task)
        remove(folder / "results")
        with mock.patch.object(target, attribute, value):
            broken = examiner.examine(task)
        remove(folder / "results")
        answers.write(json.dumps({"name": name, "whole": before, "broken": broken}) + "\n")

    def of(path: Path, damage: str = "cut") -> dict[str, Any]:
        honest = "photo.jpg" if path.suffix == ".jpg" else "mjpg.avi"
        return {"what": "file", "path": str(path), "damage": damage, "honest": honest}

    def of_folder(path: Path) -> dict[str, Any]:
        return {"what": "folder", "path": str(path), "honest": {"one.avi": "mjpg.avi"}}

    run("leaves frames out", of(whole), predicting, "read_video", without_the_fifth)
    run("is silent", of(half), videos.VideoReader, "_fault", lambda *_: "")
    run("names nothing", of(noise), predicting, "read_video", raising(videos.VideoError("no")))
    run("raises", of(whole), predicting, "read_video", raising(ValueError("ours")))
    run("sums to two", of(whole), scoring, "softmax", doubled(scoring.softmax))
    run(
        "forgets the last",
        of(whole),
        labelling,
        "predict_video",
        all_but_one(labelling.predict_video),
    )
    run("leaves parts", of(whole), labelling, "TableFile", leaving_parts(labelling.TableFile))
    run("prints", of(whole), predicting, "read_video", printing(predicting.read_video))
    run("opens", of(whole), predicting, "read_video", opening(predicting.read_video))
    run("sees grey", of(grey), pictures, "decode_image", grey_instead(pictures.decode_image))
    run("takes memory", of(whole), predicting, "read_video", hoarding(predicting.read_video))
    run("counts no problems", of_folder(mixture), command._Run, "_tell", tell_only)
    run("writes anew", of_folder(mixture), labelling.Labeller, "_has_table", lambda *_: False)
    run("ends a camera", camera, video, "read_image", twice(video.read_image))


def remove(folder: Path) -> None:
    """A folder of files."""
    for file in folder.glob("*"):
        file.unlink()
    if folder.exists():
        folder.rmdir()


def without_the_fifth(path: Path) -> list[videos.VideoFrame]:
    return [frame for frame in videos.read_video(path) if frame.number != 5]


def raising(error: Exception) -> Callable:
    def read(path: Path) -> None:
        raise error

    return read


def doubled(softmax: Callable) -> Callable:
    return lambda logits: softmax(logits) * 2


def all_but_one(predict: Callable) -> Callable:
    def fewer(*arguments: Any, **options: Any) -> Any:
        for table in predict(*arguments, **options):
            yield table[: len(table) - 1]

    return fewer


def leaving_parts(file: type) -> type:
    class Leaving(file):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            self.path.with_name(".one.csv.partial-x").touch()

    return Leaving


def printing(read: Callable) -> Callable:
    def told(path: Path) -> Any:
        print("moov atom not found", file=sys.stderr)
        return read(path)

    return told


def opening(read: Callable) -> Callable:
    def kept(path: Path) -> Any:
        KEPT.append(open(path, "rb"))  # noqa: SIM115 (that is what is broken)
        return read(path)

    return kept


def grey_instead(decode: Callable) -> Callable:
    def image(encoded: bytes) -> np.ndarray:
        try:
            return decode(encoded)
        except ImageError:
            return np.full((152, 200, 3), 90, np.uint8)

    return image


def hoarding(read: Callable) -> Callable:
    def held(path: Path) -> Any:
        np.ones(5 << 29, np.uint8)
        return read(path)

    return held


def twice(read: Callable) -> Callable:
    calls = iter(range(2))
    return lambda capture: None if next(calls, None) is None else read(capture)


def tell_only(run: command._Run, problem: str) -> None:
    print(f"fer-jax predict: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
