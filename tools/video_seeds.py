"""Honest files for `tools/video_campaign.py`: videos of many kinds, and pictures.

They show a photographed face that moves (`tests/moving_faces.py`), two that show nobody, and two
that show two hundred faces. OpenCV writes five; FFmpeg, where it is installed, the others.
"""

import dataclasses
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from moving_faces import moving_frames, photo

SIZE = (200, 152)
FRAMES = 14
_AWAY = range(6, 8)

_BY_OPENCV = {
    "mjpg.avi": "MJPG",
    "xvid.avi": "XVID",
    "mp4v.mp4": "mp4v",
    "mjpg.mkv": "MJPG",
}
_SOUND = "-f lavfi -i sine=frequency=440:duration=0.56"
# What FFmpeg is told before and after the frames that it is given.
_BY_FFMPEG = {
    "h264.mp4": "-c:v libx264 -g 6",
    "h264.mkv": "-c:v libx264 -g 6",
    "h264.ts": "-c:v libx264 -g 6",
    "rotated.mov": "-c:v libx264 -g 6",
    "fragments.mp4": "-c:v libx264 -g 6 -movflags frag_keyframe+empty_moov",
    "in_front.mp4": "-c:v libx264 -movflags faststart",
    "variable.mp4": "-vf select=not(eq(mod(n\\,4)\\,1)) -vsync vfr -c:v libx264",
    "vp8.webm": "-c:v libvpx -b:v 400k",
    "vp9.webm": "-c:v libvpx-vp9 -b:v 400k -deadline realtime",
    "mpeg2.mpg": "-c:v mpeg2video",
    "flash.flv": "-c:v flv",
    "windows.wmv": "-c:v wmv2",
    "ten_bits.mkv": "-c:v ffv1 -pix_fmt yuv422p10le",
    "grey.mp4": "-c:v libx264 -pix_fmt gray",
    "alpha.mov": "-c:v png -pix_fmt rgba",
    "raw.avi": "-c:v rawvideo -pix_fmt yuv420p",
    "palette.gif": "",
    "sound.mp4": f"{_SOUND} -c:v libx264 -c:a aac -shortest",
    "sound_only.mp4": f"{_SOUND} -map 1:a -c:a aac",
    "sound_only.mkv": f"{_SOUND} -map 1:a -c:a aac",
}
_TURNED = "rotated.mov"
# Seldom taken: large frames take seconds.
RARE = ("8k.avi", "crowd.avi", "crowd.jpg")


@dataclasses.dataclass(frozen=True)
class Seed:
    """An honest file.

    Attributes:
        name: of the file.
        path: where it lies.
        picture: it is one; else a video.
    """

    name: str
    path: Path
    picture: bool


def write_seeds(folder: Path) -> None:
    """Writes all of them; the same bytes each time, with the same OpenCV and FFmpeg."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = [cv2.resize(frame.image, SIZE)[..., ::-1] for frame in moving_frames(16)][:FRAMES]
    frames = [np.full_like(f, 90) if i in _AWAY else f for i, f in enumerate(frames)]
    nobody = [np.full_like(frame, 90) for frame in frames]
    for name, codec in _BY_OPENCV.items():
        _write(folder / name, codec, frames)
    _write(folder / "one_frame.avi", "MJPG", frames[:1])
    _write(folder / "nobody.avi", "MJPG", nobody)
    _write(folder / "crowd.avi", "MJPG", [_crowd()] * 3)
    _write(folder / "8k.avi", "MJPG", [cv2.resize(frames[0], (7680, 4320))] * 2)
    if shutil.which("ffmpeg"):
        for name, options in _BY_FFMPEG.items():
            turned = [np.rot90(frame) for frame in frames] if name == _TURNED else frames
            _write_by_ffmpeg(folder / name, options, turned)
        _turn(folder / _TURNED)
    for name, image in _pictures(frames[0]).items():
        cv2.imwrite(str(folder / name), image)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    cv2.imwrite(str(folder / "progressive.jpg"), frames[0], progressive)


def read_seeds(folder: Path) -> list[Seed]:
    """What `write_seeds` wrote, by name."""
    names = sorted(path.name for path in folder.iterdir())
    pictures = {"progressive.jpg", *_pictures(np.zeros((8, 8, 3), np.uint8))}
    return [Seed(name, folder / name, name in pictures) for name in names]


def _pictures(face: np.ndarray) -> dict[str, np.ndarray]:
    grey = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)
    return {
        "photo.jpg": face,
        "grey.jpg": grey,
        "photo.png": face,
        "grey.png": grey,
        "alpha.png": np.dstack([face, np.full_like(grey, 200)]),
        "sixteen.png": face.astype(np.uint16) * 257,
        "photo.webp": face,
        "photo.bmp": face,
        "photo.tiff": face,
        "nobody.jpg": np.full_like(face, 90),
        "crowd.jpg": _crowd() if face.shape[0] > 8 else face,
    }


def _crowd() -> np.ndarray:
    """Two hundred faces, twenty in a row."""
    face = cv2.resize(photo()[75:375, 114:414], (64, 64), interpolation=cv2.INTER_AREA)[..., ::-1]
    return np.tile(face, (10, 20, 1))


def _write(path: Path, codec: str, frames: list[np.ndarray]) -> None:
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25.0, size)
    for frame in frames:
        writer.write(frame)
    writer.release()


def _turn(path: Path) -> None:
    """A quarter turn in the matrix of the track's header, as phones store it."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    one = 1 << 16
    content[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))


def _write_by_ffmpeg(path: Path, options: str, frames: list[np.ndarray]) -> None:
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24"]
    command += [
        "-s",
        f"{frames[0].shape[1]}x{frames[0].shape[0]}",
        "-r",
        "25",
        "-i",
        "-",
        *options.split(),
    ]
    command += ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", str(path)]
    given = b"".join(frame.tobytes() for frame in frames)
    subprocess.run(command, input=given, check=True)
