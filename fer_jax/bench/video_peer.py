"""A whole video through the package `fer`, in an interpreter of its own: `python video_peer.py V`.

Stands alone: that interpreter has no fer_jax. Prints one line of JSON.
"""

import json
import sys
import time
from importlib import metadata

import cv2

# What the package's README imports is not there; this is.
from fer.fer import FER

_WARM_UP = 5


def label(video: str, most: int = sys.maxsize) -> tuple[int, int]:
    """Detects and scores the faces of a video's frames, as the package does it by default.

    Args:
        video: the file.
        most: frames.

    Returns:
        Frames, and faces.
    """
    detector, capture = label.detector, cv2.VideoCapture(video)
    frames = faces = 0
    while frames < most:
        done, frame = capture.read()
        if not done:
            break
        frames += 1
        faces += len(detector.detect_emotions(frame))
    capture.release()
    return frames, faces


def main(video: str) -> None:
    """Measures one pass, after a few frames that are not counted."""
    label.detector = FER()
    label(video, _WARM_UP)
    begin, processor = time.perf_counter(), time.process_time()
    frames, faces = label(video)
    found = {
        "frames": frames,
        "faces": faces,
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - processor,
        "version": metadata.version("fer"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
