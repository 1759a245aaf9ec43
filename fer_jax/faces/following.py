"""Faces of successive frames: searched in some, followed by optical flow in those between."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import alignment_error, similarity, transform
from fer_jax.faces.boxes import overlaps
from fer_jax.faces.detector import Detector
from fer_jax.faces.tracking import Tracker

# Flow is computed on pictures of this longest side: enough for points, and as quick for 4K.
_FLOW_SIDE = 480
_FLOW = {"winSize": (15, 15), "maxLevel": 3}
# Points that flow there and back again come home within this share of the face's side.
_HOME = 0.03
_LEAST_KEPT = 0.6
_GRID = np.stack(np.meshgrid([0.25, 0.5, 0.75], [0.2, 0.4, 0.6, 0.8]), axis=-1).reshape(-1, 2)
# Grey levels that a frame differs from the last one, on average, at a cut.
_CUT = 12.0
# Of so many searches one is whole; the others are coarse where the faces followed are this large
# in the detector's picture, by their shorter side, and found again.
_WHOLE = 5
_LARGE = 80.0
_SAME_FACE = 0.3
# A face that changes more than this from one frame to the next has been lost.
_MOST_CHANGE = 1.25


@dataclasses.dataclass(frozen=True)
class FollowedFace:
    """A face in a frame.

    Attributes:
        face_id: who it is; the same from frame to frame, and after a gap of up to a second.
        box: (left, top, right, bottom) in pixels.
        points: five points in pixels, as `Faces.points` has them.
        score: of the detector, in [0, 1], when the face was last searched and found.
    """

    face_id: int
    box: Float32[np.ndarray, "4"]
    points: Float32[np.ndarray, "5 2"]
    score: float


class Follower:
    """Finds the faces of one video's frames, each of which must be shown to it in order.

    Every `search_every`-th frame is searched; in those between, the points of each face are
    followed by optical flow (Lucas and Kanade, there and back), which costs a tenth. Where the flow
    of a face is lost (a cut, a hand, a turn of the head), the frame is searched at once, and so is
    one that differs much from a last one without faces. Somebody who comes in otherwise is seen up
    to `search_every - 1` frames late. Where some frames are not searched, and all faces are large,
    four searches in five are coarse: a far smaller face comes in up to five searches late.

    Args:
        detector: finds faces in a picture.
        search_every: frames from one search to the next; 1 searches each.

    Raises:
        FerJaxError: a number that is not at least 1.
    """

    def __init__(self, detector: Detector, *, search_every: int = 1) -> None:
        if search_every < 1:
            raise FerJaxError(f"{search_every=} must be at least 1; 1 searches every frame")
        self._detector = detector
        self._search_every = search_every
        self._tracker = Tracker()
        self._since = search_every
        self._coarse = 0  # searches since the last whole one
        self._before: UInt8[np.ndarray, "h w"] | None = None
        self._size: tuple[int, ...] = ()
        self._faces: list[FollowedFace] = []

    def __call__(
        self, time_s: float, image: UInt8[np.ndarray, "height width 3"]
    ) -> list[FollowedFace]:
        """The faces of the next frame.

        Args:
            time_s: when it is shown, in seconds, not before the last one.
            image: RGB.

        Returns:
            The faces, by their numbers.

        Raises:
            FerJaxError: time runs backwards.
        """
        small = _grey(image) if self._search_every > 1 else None
        followed = None
        if self._since < self._search_every and not self._is_cut(small, image.shape):
            followed = self._follow(small, image.shape[1] / small.shape[1])
        if followed is None:
            due = self._since >= self._search_every > 1
            followed = (self._search_again(image) if due else None) or self._search(image)
            self._since = 0
        boxes = np.array([face.box for face in followed], np.float32).reshape(-1, 4)
        numbers = self._tracker.update(time_s, boxes).tolist()
        named = [
            dataclasses.replace(face, face_id=number)
            for face, number in zip(followed, numbers, strict=True)
        ]
        self._faces = sorted(named, key=lambda face: face.face_id)
        self._since, self._before, self._size = self._since + 1, small, image.shape
        return self._faces

    def _is_cut(self, small: np.ndarray, size: tuple[int, ...]) -> bool:
        """Whether a frame has little to do with the last; where faces are followed, flow tells."""
        if size != self._size:
            return True
        return not self._faces and bool(cv2.absdiff(small, self._before).mean() > _CUT)

    def _search_again(self, image: np.ndarray) -> list[FollowedFace] | None:
        """A coarse search; None where that is not enough."""
        shrunk = min(1.0, self._detector.max_side / max(image.shape[:2]))
        boxes = np.array([face.box for face in self._faces]).reshape(-1, 4)
        sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) * shrunk
        if not len(boxes) or sides.min() < _LARGE or self._coarse == _WHOLE - 1:
            return None
        faces = self._search(image, coarse=True)
        found = np.array([face.box for face in faces]).reshape(-1, 4)
        if not len(found) or overlaps(boxes, found).max(axis=1).min() < _SAME_FACE:
            return None
        self._coarse += 1
        return faces

    def _search(self, image: np.ndarray, *, coarse: bool = False) -> list[FollowedFace]:
        found = self._detector(image, coarse=coarse)
        self._coarse = self._coarse if coarse else 0
        rows = zip(found.boxes, found.points, found.scores.tolist(), strict=True)
        return [FollowedFace(-1, *row) for row in rows if _can_be_aligned(row[1])]

    def _follow(self, small: np.ndarray, scale: float) -> list[FollowedFace] | None:
        """The faces of the last frame where they are now; None where one is lost."""
        moved = []
        for face in self._faces:
            matrix = _motion(self._before, small, face, scale)
            if matrix is None:
                return None
            corners = transform(matrix, face.box.reshape(2, 2))
            points = transform(matrix, face.points).astype(np.float32)
            box = _within(corners.reshape(4), small.shape[1] * scale, small.shape[0] * scale)
            if box is None or not _can_be_aligned(points):
                return None
            moved.append(dataclasses.replace(face, box=box, points=points))
        return moved


def _motion(
    before: UInt8[np.ndarray, "h w"],
    now: UInt8[np.ndarray, "h w"],
    face: FollowedFace,
    scale: float,
) -> Float[np.ndarray, "2 3"] | None:
    """The similarity that moves a face from one frame to the next; None where it is lost."""
    box = face.box / scale
    side = max(float((box[2:] - box[:2]).max()), 1.0)
    start = np.concatenate([face.points / scale, box[:2] + _GRID * (box[2:] - box[:2])])
    start = start.astype(np.float32)[:, None]
    end, there, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, **_FLOW)
    home, back, _ = cv2.calcOpticalFlowPyrLK(now, before, end, None, **_FLOW)
    apart = np.hypot(*(home - start)[:, 0].T)
    good = (there[:, 0] > 0) & (back[:, 0] > 0) & (apart <= max(_HOME * side, 0.5))
    if good.mean() < _LEAST_KEPT:
        return None
    start, end = start[good, 0] * scale, end[good, 0] * scale
    try:
        matrix = similarity(start, end)
    except FerJaxError:
        return None
    # Once more without what did not move along.
    apart = np.hypot(*(transform(matrix, start) - end).T)
    near = apart <= max(2 * float(np.median(apart)), 1e-3 * side * scale)
    matrix = similarity(start[near], end[near]) if near.sum() >= len(_GRID) // 2 else matrix
    size = float(np.hypot(*matrix[:, 0]))
    return matrix if 1 / _MOST_CHANGE < size < _MOST_CHANGE else None


def _within(
    box: Float[np.ndarray, "4"], width: float, height: float
) -> Float32[np.ndarray, "4"] | None:
    """The part of a box in the picture; None where most of it is outside."""
    inside = np.clip(box, 0, [width, height, width, height])
    shared, whole = (np.prod(part[2:] - part[:2]) for part in (inside, box))
    return inside.astype(np.float32) if shared > 0.5 * whole > 0 else None


def _can_be_aligned(points: Float[np.ndarray, "5 2"]) -> bool:
    try:
        alignment_error(points)
    except FerJaxError:  # on one spot, or scrambled
        return False
    return True


def _grey(image: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = _FLOW_SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
