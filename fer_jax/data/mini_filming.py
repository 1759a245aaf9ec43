"""Shoots the videos of a mini Aff-Wild2: draws each frame, writes the video and the crops."""

import dataclasses
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from fer_jax.data.face_drawing.film import Actor, Film, frame_points
from fer_jax.data.face_drawing.motion import move, perform
from fer_jax.data.face_drawing.parameters import Scene, sample_scene
from fer_jax.data.images import encode_image
from fer_jax.data.mini_plan import Person, Video
from fer_jax.data.synthetic import CLASSES, sample_expression, synthetic_identity
from fer_jax.errors import FerJaxError

_QUALITY = 92
_NOT_FOUND = 0.004  # share of frames in which a face is there, but the detector missed it
_WIDEST_YAW = 33.0  # degrees to which a face is found
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_EYES = 35.2  # pixels between the eyes of the template


@dataclasses.dataclass
class Shot:
    """One person's part of a video.

    Attributes:
        points: float32 [frames, 5, 2], pixels of the frame; not-a-number where no face is seen.
        numbers: of the frames whose crops were written, from 1.
    """

    points: np.ndarray
    numbers: list[int]


def crop_folders(root: Path, person: Person) -> list[Path]:
    """The folders of a person's crops: aligned, and loose if there are such."""
    kinds = (person.crops, "cropped") if person.loose else (person.crops,)
    return [root / kind / person.name for kind in kinds]


def shoot(root: Path, video: Video, seed: int) -> list[Shot]:
    """Draws a video and writes it, and the crops of its people.

    Args:
        root: of the data.
        video: what to draw.
        seed: of the data.

    Returns:
        One shot for each annotated person.

    Raises:
        FerJaxError: OpenCV cannot write videos.
    """
    rng = np.random.default_rng((seed, 4, video.index))
    film = Film(_sample_scene(rng), video.width, video.height)
    casts = [_act(video, person, seed, rng) for person in video.people]
    shots = [Shot(_seen_points(cast, video), []) for cast in casts]
    found = rng.random((len(shots), video.frames)) >= _NOT_FOUND
    casts += [_act_aside(video, subject, seed, rng) for subject in video.extras]
    for person in video.people:
        for folder in crop_folders(root, person):
            folder.mkdir(parents=True)
    with _VideoFile(root / video.file, video) as file:
        for k in range(video.frames):
            plate = film.expose([cast[k] for cast in casts])
            file.write(film.frame(plate, rng))
            for person, shot, here in zip(video.people, shots, found[:, k], strict=True):
                if here and not np.isnan(shot.points[k]).any():
                    _write_crops(root, person, film, plate, shot.points[k], k + 1, rng)
                    shot.numbers.append(k + 1)
    return shots


def _write_crops(
    root: Path,
    person: Person,
    film: Film,
    plate: np.ndarray,
    points: np.ndarray,
    number: int,
    rng: np.random.Generator,
) -> None:
    # What a detector finds lies a little beside the true points.
    unit = np.linalg.norm(points[1] - points[0]) / _EYES
    points = points + rng.normal(0, 0.35 * unit, (5, 2))
    aligned, *loose = crop_folders(root, person)
    faces = [(aligned, film.aligned_face(plate, points, rng))]
    faces += [(folder, film.loose_face(plate, points, rng)) for folder in loose]
    for folder, face in faces:
        encoded = encode_image(face, lossless=False, quality=_QUALITY)
        (folder / f"{number:05d}.jpg").write_bytes(encoded)


def _sample_scene(rng: np.random.Generator) -> Scene:
    """A scene in which faces are found: in colour, no bad telephone, and nothing before them."""
    scene = sample_scene(rng)
    return dataclasses.replace(
        scene,
        ambient=max(scene.ambient, 0.55),
        gain=min(max(scene.gain, 0.8), 1.0),
        contrast=min(max(scene.contrast, 0.95), 1.1),
        unevenness=min(scene.unevenness, 0.12),
        occluder="none",
        grey=False,
        blur=min(scene.blur, 0.5),
        noise=min(scene.noise, 5.0),
        jpeg=0,
    )


def _act(video: Video, person: Person, seed: int, rng: np.random.Generator) -> list[Actor]:
    """An annotated person in each frame."""
    targets = [sample_expression(CLASSES[label], rng) for label, _ in person.spans]
    spans = np.array([length for _, length in person.spans])
    expressions = perform(targets, spans, video.fps, rng)
    alone = len(video.people) + len(video.extras) == 1
    poses, turned = move(
        video.frames,
        video.fps,
        rng,
        aspect=video.width / video.height,
        centre=person.place,
        reach=0.12 if alone else 0.025,
        scales=person.scales,
        absences=person.absences,
    )
    identity = synthetic_identity(seed, person.subject)
    acted = zip(expressions, poses, turned.tolist(), strict=True)
    return [Actor(identity, *now) for now in acted]


def _act_aside(video: Video, subject: int, seed: int, rng: np.random.Generator) -> list[Actor]:
    """Somebody at the right who is not annotated."""
    spans = ((0, video.frames),)
    person = dataclasses.replace(
        video.people[0], subject=subject, place=0.73, spans=spans, absences=()
    )
    return _act(video, person, seed, rng)


def _seen_points(cast: list[Actor], video: Video) -> np.ndarray:
    """The five points in each frame, not-a-number where the face is turned away or cut off."""
    points = np.stack([frame_points(actor, video.height) for actor in cast])
    margin = 0.25 * np.linalg.norm(points[:, 1] - points[:, 0], axis=1)[:, None]
    inside = (points.min(1) > margin) & (points.max(1) < (video.width, video.height) - margin)
    facing = np.array([not a.turned and abs(a.pose.yaw) < _WIDEST_YAW for a in cast])
    points[~(inside.all(1) & facing)] = np.nan
    return points.astype(np.float32)


class _VideoFile:
    """A video that is being written."""

    def __init__(self, path: Path, video: Video) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter_fourcc(*_CODECS[path.suffix])
        self._path = path
        self._writer = cv2.VideoWriter(str(path), codec, video.fps, (video.width, video.height))

    def __enter__(self) -> "_VideoFile":
        if not self._writer.isOpened():
            raise FerJaxError(
                f"{self._path}: this OpenCV cannot write {_CODECS[self._path.suffix]} video; "
                "install opencv-python-headless from PyPI"
            )
        return self

    def write(self, frame: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.release()
