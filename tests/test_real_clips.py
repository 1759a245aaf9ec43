"""Real clips, labelled: who is where, every frame has a row, time stamps are the file's own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_video_prediction import aligned_bundle

from fer_jax.predict.recognizer import Recognizer

# Frames decoded by another decoder (tests/test_videos.py), and those in which a person sees a face.
CLIPS = {
    "face_noface.mov": (169, range(1, 73)),
    "noface_face.mov": (169, range(97, 169)),
    "no_face.mp4": (95, range(0)),
    "single_face.mp4": (72, range(1, 73)),
    "intel_female-and-male.gif": (56, range(1, 57)),
    "WolfgangLanger_Pexels.mp4": (472, range(1, 473)),
}
# A frame is shown for a time of whole units of its container: milliseconds in Matroska, hundredths
# of a second in GIF; OpenCV counts milliseconds as floats.
_STAMPS = 1.5e-3

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def folder():
    folder = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "videos"
    if not (folder / "no_face.mp4").is_file():
        pytest.skip("FER_JAX_SHARED_DATA/videos holds no no_face.mp4")
    return folder


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer(aligned_bundle())


@pytest.mark.parametrize("name", CLIPS)
def test_faces_are_where_they_are(folder, recognizer, name):
    frames, with_face = CLIPS[name]
    table = recognizer.predict(folder / name, smooth="none")
    assert np.unique(table.frame).tolist() == [*range(1, frames + 1)]
    ok = {*table.frame[table.status == "ok"].tolist()}
    assert ok <= {*with_face}
    # 31 of 32: a hand covers the face now and then.
    assert len(ok) >= 0.97 * len(with_face)


def test_two_people_keep_their_numbers(folder, recognizer):
    table = recognizer.predict(folder / "intel_female-and-male.gif", smooth="none")
    assert {*table.face_id.tolist()} == {0, 1}
    centre = table.box[:, 0] + table.box[:, 2] / 2
    left, right = (centre[table.face_id == number] for number in np.argsort(
        [centre[table.face_id == number].mean() for number in (0, 1)]
    ))  # fmt: skip
    assert left.max() < right.min()
    assert len(left) == len(right) == 56


@pytest.mark.parametrize(
    "name", ["WolfgangLanger_Pexels.mp4", "face_noface.mov", "intel_asl_yes.mkv", "intel_male.gif"]
)
def test_time_stamps_are_those_of_ffprobe(folder, recognizer, name):
    if shutil.which("ffprobe") is None:
        pytest.skip("no ffprobe here")
    words = "-v error -select_streams v:0 -show_entries frame=best_effort_timestamp_time -of json"
    command = ["ffprobe", *words.split(), str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    stamps = [
        float(frame["best_effort_timestamp_time"]) for frame in json.loads(done.stdout)["frames"]
    ]
    table = recognizer.predict(folder / name, every=10, smooth="none")
    found = dict(zip(table.frame.tolist(), table.time_s.tolist(), strict=True))
    assert len(stamps) == len(found)
    since_first = np.asarray(stamps) - stamps[0]  # one of them begins 33 ms after its sound
    np.testing.assert_allclose([found[k] for k in sorted(found)], since_first, atol=_STAMPS, rtol=0)
