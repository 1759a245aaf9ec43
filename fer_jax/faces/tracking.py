"""Who is who over the frames of a video: tracks of faces, and the person whom a label means."""

import collections
import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy.optimize import linear_sum_assignment

from fer_jax.errors import FerJaxError
from fer_jax.faces.boxes import areas, overlaps

# Over this time a detector's jitter of a few pixels averages out, and people move straight.
_VELOCITY_S = 0.4
# With 1, two in a hundred pairs that cross would swap numbers; with 0, who stops would lose theirs.
_STAYED = 0.5
_BYSTANDER = 0.4


@dataclasses.dataclass
class _Track:
    number: int
    sightings: collections.deque[tuple[float, Float64[np.ndarray, "4"]]]

    @property
    def last_s(self) -> float:
        return self.sightings[-1][0]

    def see(self, time_s: float, box: Float64[np.ndarray, "4"]) -> None:
        self.sightings.append((time_s, box))
        while time_s - self.sightings[0][0] > _VELOCITY_S and len(self.sightings) > 2:
            self.sightings.popleft()

    def at(self, time_s: float) -> Float64[np.ndarray, "4"]:
        """The last box, moved on with the velocity of its centre."""
        (first_s, first), (last_s, last) = self.sightings[0], self.sightings[-1]
        if last_s <= first_s:
            return last
        moved = ((last - first)[:2] + (last - first)[2:]) / 2 / (last_s - first_s)
        return last + np.tile(moved * (time_s - last_s), 2)


class Tracker:
    """Numbers the faces of successive frames so that a person keeps a number.

    A face is matched by the overlap with where a track would be by now if it moved on, or half
    the overlap with where it was last seen, if that is more; the sum is made the greatest.
    Numbers start at 0 and are never given twice; the order of the boxes does not matter.

    Args:
        max_gap_s: a face that comes back within this time, in seconds, may keep its number.
        min_overlap: intersection over union below which a face is another one.

    Raises:
        FerJaxError: a value is out of range.
    """

    def __init__(self, *, max_gap_s: float = 1.0, min_overlap: float = 0.2) -> None:
        if not max_gap_s >= 0:
            raise FerJaxError(f"{max_gap_s=} must not be negative")
        if not 0 < min_overlap < 1:
            raise FerJaxError(f"{min_overlap=} must lie between 0 and 1")
        self.max_gap_s = max_gap_s
        self.min_overlap = min_overlap
        self._tracks: list[_Track] = []
        self._next = 0
        self._time_s = -np.inf

    def update(self, time_s: float, boxes: Float[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n"]:
        """Takes the faces of the next frame.

        Args:
            time_s: the frame's time in seconds, not before that of the last one.
            boxes: (left, top, right, bottom) in pixels; none for a frame without a face, which
                may also be left out.

        Returns:
            The number of each face's track.

        Raises:
            FerJaxError: time runs backwards, or a box is not finite.
        """
        if not time_s >= self._time_s:
            raise FerJaxError(f"the frame at {time_s} s comes after that at {self._time_s} s")
        if not np.isfinite(boxes).all():
            raise FerJaxError(f"a box at {time_s} s is not finite")
        self._time_s = time_s
        # Ties, and the numbers of new tracks, must not depend on the order of the boxes.
        order = np.lexsort(boxes.T[::-1])
        numbers = np.empty(len(boxes), np.int64)
        numbers[order] = self._update(time_s, boxes[order].astype(np.float64))
        return numbers

    def _update(self, time_s: float, boxes: Float64[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n"]:
        # Half a nanosecond: the difference of two times is rounded.
        limit = self.max_gap_s + 5e-10
        self._tracks = [track for track in self._tracks if time_s - track.last_s <= limit]
        numbers = np.full(len(boxes), -1, np.int64)
        if self._tracks and len(boxes):
            moved = np.stack([track.at(time_s) for track in self._tracks])
            stayed = np.stack([track.sightings[-1][1] for track in self._tracks])
            shared = np.maximum(overlaps(moved, boxes), _STAYED * overlaps(stayed, boxes))
            shared[shared < self.min_overlap] = 0
            for track, box in zip(*linear_sum_assignment(shared, maximize=True), strict=True):
                if shared[track, box] > 0:
                    numbers[box] = self._tracks[track].number
                    self._tracks[track].see(time_s, boxes[box])
        for box in np.flatnonzero(numbers < 0):
            numbers[box] = self._next
            self._tracks.append(_Track(self._next, collections.deque([(time_s, boxes[box])])))
            self._next += 1
        return numbers


def choose_person(
    frames: Int[np.ndarray, "n"],
    tracks: Int[np.ndarray, "n"],
    boxes: Float[np.ndarray, "n 4"],
    side: str,
    width: float,
) -> Int64[np.ndarray, "m"]:
    """The faces of the one person whom the labels of a video mean.

    Tracks weigh as much as the sum of their faces' sides: large and lasting ones count. Tracks of
    faces that are much smaller than those of the heaviest one are bystanders and never taken.

    With no side it is the person of the heaviest track. With a side it is one of two people: a
    track belongs to the side on which it mostly is when two faces are seen, and one that is
    always alone to the side that it is nearer to. So a person who is the only one in a frame is
    still known. Lighter tracks are the same person where they fill the gaps of heavier ones.

    Args:
        frames: the number of the frame of each face.
        tracks: the number of the track of each face, as `Tracker` gives it.
        boxes: (left, top, right, bottom) of each face, in pixels.
        side: "left" or "right" as the viewer sees it, or "" for a video of one person.
        width: of the frames in pixels; its middle divides them where nobody is seen together.

    Returns:
        Indices of the chosen faces, one a frame at most, by frame.

    Raises:
        FerJaxError: there is no such side.
    """
    if side not in ("", "left", "right"):
        raise FerJaxError(f"{side=} must be 'left', 'right' or empty")
    if not len(frames):
        return np.zeros(0, np.int64)
    table = _TrackTable(frames, tracks, boxes)
    members = table.of_side(side, width) if side else np.ones(table.count, bool)
    return table.one_a_frame(members)


class _TrackTable:
    """The faces of a video with what is typical of their tracks, the heaviest track first."""

    def __init__(self, frames: np.ndarray, tracks: np.ndarray, boxes: np.ndarray) -> None:
        boxes = boxes.astype(np.float64)
        sides = np.sqrt(areas(boxes))
        numbers, track = np.unique(tracks, return_inverse=True)
        rank = np.empty(len(numbers), np.int64)
        rank[np.argsort(-np.bincount(track, sides), kind="stable")] = np.arange(len(numbers))
        self.count = len(numbers)
        self.frames = frames
        self.track = rank[track]
        self.centers = boxes[:, [0, 2]].mean(axis=1)
        self.typical_center = self._median_of_each(self.centers)
        typical_side = self._median_of_each(sides)
        self.near = typical_side >= _BYSTANDER * typical_side[0]

    def of_side(self, side: str, width: float) -> Bool[np.ndarray, "track"]:
        """Which tracks are on a side."""
        left, right = self._pairs()
        at_left = np.bincount(self.track[left], minlength=self.count)
        at_right = np.bincount(self.track[right], minlength=self.count)
        middle = width / 2
        if len(left):
            middle = (np.median(self.centers[left]) + np.median(self.centers[right])) / 2
        is_left = np.where(at_left == at_right, self.typical_center < middle, at_left > at_right)
        return is_left if side == "left" else ~is_left

    def one_a_frame(self, members: Bool[np.ndarray, "track"]) -> Int64[np.ndarray, "m"]:
        """The faces of the heaviest of these tracks, and of those that fill its gaps."""
        taken = np.zeros(0, np.int64)
        chosen = []
        for track in np.flatnonzero(members & self.near):
            rows = np.flatnonzero(self.track == track)
            free = rows[~np.isin(self.frames[rows], taken)]
            # Who is mostly seen beside the person is somebody else.
            if 2 * len(free) >= len(rows):
                chosen.append(free)
                taken = np.union1d(taken, self.frames[free])
        rows = np.concatenate([np.zeros(0, np.int64), *chosen])
        return rows[np.argsort(self.frames[rows])]

    def _median_of_each(self, values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "track"]:
        return np.array([np.median(values[self.track == k]) for k in range(self.count)])

    def _pairs(self) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "k"]]:
        """The left and the right face of the two heaviest tracks, in frames where two are near."""
        rows = np.flatnonzero(self.near[self.track])
        rows = rows[np.lexsort([self.track[rows], self.frames[rows]])]
        _, starts, counts = np.unique(self.frames[rows], return_index=True, return_counts=True)
        starts = starts[counts >= 2]
        pairs = rows[np.stack([starts, starts + 1], axis=1)]
        pairs = np.take_along_axis(pairs, np.argsort(self.centers[pairs], axis=1), axis=1)
        return pairs[:, 0], pairs[:, 1]
