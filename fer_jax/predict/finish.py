"""From the rows of a video to its prediction table: smoothed over time, filled, block by block.

What comes out for a frame depends on the frames of its window alone, so a video may be finished in
pieces; they give what `ops.smoothing.smooth` gives of the whole, to the bit.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int8, Int32

from fer_jax.ops.smoothing import smooth, window_reach
from fer_jax.predict.row_file import NO_FACE, SKIPPED, STATUS_CODES, RowFile
from fer_jax.predict.table import FILLS, PredictionTable
from fer_jax.predict.time_filter import NO_FILTER, TableFilter

BLOCK = 4096  # frames

_NO_FRAMES = np.zeros(0, np.int32)

Probabilities = Float32[np.ndarray, "rows class"]


@dataclasses.dataclass(frozen=True)
class Finishing:
    """How rows become a table.

    Attributes:
        classes: display names.
        video: the table's column `video`.
        filter: over time, and how frames without a face are filled.
        every: one frame in so many was looked at.
        causal: fill from what came before only, as one must who sees the frames come: rows are
            held; a frame without a face takes the row of the only face seen until then.
        calibrate_frames: changes the probabilities of single frames before they are smoothed.
        calibrate_smoothed: changes them after.
        abstain: rows with a confidence below it have no label.
    """

    classes: tuple[str, ...]
    video: str
    filter: TableFilter = NO_FILTER
    every: int = 1
    causal: bool = False
    calibrate_frames: Callable[[Probabilities], Probabilities] | None = None
    calibrate_smoothed: Callable[[Probabilities], Probabilities] | None = None
    abstain: float = 0.0


def finished(rows: RowFile, how: Finishing, *, block: int = BLOCK) -> Iterator[PredictionTable]:
    """The table of a video, a block of frames after the other.

    Each face is smoothed by itself; frames in which it was not seen weigh nothing. Frames that were
    not looked at have a row for each face that is seen both before and after. In a video with one
    face, frames without it are filled from it; where there are several nobody knows whose they
    would be, and they stay empty.

    Args:
        rows: complete.
        how: to be done.
        block: frames of a piece.

    Yields:
        Rows by frame, then by face.

    Raises:
        FerJaxError: a filter that cannot be.
    """
    smoother = _Smoother(rows, how, block)
    for start, end in rows.blocks(block):
        yield table_of(how, *smoother.block(start, end))


def table_of(
    how: Finishing, rows: np.ndarray, prob: Probabilities, fill: Int8[np.ndarray, "rows"]
) -> PredictionTable:
    """Rows as a prediction table, with label and confidence.

    Args:
        how: to be done.
        rows: of a `RowFile`.
        prob: smoothed and filled; NaN where there is nothing.
        fill: index into `FILLS`.
    """
    known = ~np.isnan(prob[:, 0])
    if how.calibrate_smoothed is not None and known.any():
        prob = prob.copy()
        prob[known] = how.calibrate_smoothed(prob[known])
    statuses = np.asarray([*STATUS_CODES[:3], "no_face"], object)
    table = PredictionTable.from_probabilities(
        how.classes,
        video=np.full(len(rows), how.video, object),
        frame=rows["frame"],
        time_s=rows["time_s"],
        face_id=rows["face"],
        box=rows["box"],
        status=statuses[rows["status"]],
        fill=np.asarray(FILLS, object)[fill],
        raw=rows["raw"],
        prob=prob,
    )
    if how.abstain:
        label = np.where(table.confidence >= how.abstain, table.label, -1).astype(np.int32)
        table = dataclasses.replace(table, label=label)
    return table


@dataclasses.dataclass(frozen=True, eq=False)
class _Track:
    """Where a face is seen in a block, and its smoothed rows there; one more on either side."""

    frames: Int32[np.ndarray, "n"]
    rows: Probabilities
    boxes: np.ndarray

    def filled(self, at: np.ndarray, method: str) -> tuple[Probabilities, Int8[np.ndarray, "at"]]:
        """Rows for frames in which it is not seen, and how each was found (`ops.gaps`)."""
        after = np.searchsorted(self.frames, at)
        prev, next_ = after > 0, after < len(self.frames)
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(self.frames) - 1)
        to_last, to_next = at - self.frames[before], self.frames[after] - at
        earlier = prev if method == "hold" else prev & (~next_ | (to_last <= to_next))
        rows = self.rows[np.where(earlier, before, after)]
        how = np.full(len(at), FILLS.index("nearest"), np.int8)
        if method == "hold":
            how[prev] = FILLS.index("hold")
        elif method == "linear":
            both = prev & next_
            share = (to_last / np.maximum(to_last + to_next, 1)).astype(np.float32)[:, None]
            between = self.rows[before] * (1 - share) + self.rows[after] * share
            rows = np.where(both[:, None], between, rows)
            how[both] = FILLS.index("linear")
        elif method == "prior":
            rows = np.full_like(rows, 1 / rows.shape[1])
            how[:] = FILLS.index("prior")
        return rows, how

    def box_at(self, at: np.ndarray) -> np.ndarray:
        """Boxes between those that are seen, by the distance."""
        columns = [np.interp(at, self.frames, column) for column in self.boxes.T]
        return np.round(np.stack(columns, axis=1), 2)


class _Smoother:
    """Reads, smooths and fills the frames of a video, whose blocks are asked for in order."""

    def __init__(self, rows: RowFile, how: Finishing, block: int):
        self._rows, self._how, self._block = rows, how, block
        rate = rows.rate or 1.0
        filter_ = how.filter
        window, self._stride = filter_.window.window(rate), filter_.stride.stride(rate)
        self._back, self._ahead = window_reach(window, filter_.lookahead)
        self._options = {
            "kernel": filter_.kernel,
            "window": window,
            "stride": self._stride,
            "lookahead": filter_.lookahead,
            "width": filter_.width,
        }
        self._plain = window == 1 and self._stride == 1 and filter_.kernel != "majority"
        self._length = block + self._back + 2 * self._stride + self._ahead
        self._before: dict[int, _Track] = {}  # the last sighting before the block
        self._after: dict[int, _Track | None] = {}  # the first one after it
        self._looked_before: np.ndarray = _NO_FRAMES
        order = sorted(rows.first, key=rows.first.get)
        self._only = order[0] if order and (how.causal or len(order) == 1) else None
        self._only_until = rows.first[order[1]] if len(order) > 1 else rows.end

    def block(
        self, start: int, end: int
    ) -> tuple[np.ndarray, Probabilities, Int8[np.ndarray, "rows"]]:
        """Rows, smoothed probabilities and fills of the frames from `start` to before `end`."""
        around = self._read(start, end)
        here = around[(around["frame"] >= start) & (around["frame"] < end)]
        seen = here[here["status"] < NO_FACE]
        tracks: dict[int, _Track] = {}
        parts = []
        for face in self._faces(start, end):
            tracks[face] = track = self._track(face, around, start, end)
            own = seen[seen["face"] == face]
            prob, fill = self._filled(track, own["frame"])
            found = np.isin(own["frame"], track.frames)  # not so: rows that are all 0
            prob[found] = track.rows[np.searchsorted(track.frames, own["frame"][found])]
            fill[found] = FILLS.index("none")
            parts.append((own, prob, fill))
        parts += self._skipped(here, around, tracks)
        without = here[here["status"] == NO_FACE]
        spanned = np.concatenate([_NO_FRAMES, *(p[0]["frame"] for p in parts)])
        skipped = here[(here["status"] == SKIPPED) & ~np.isin(here["frame"], spanned)]
        parts += [self._without(part, tracks) for part in (without, skipped)]
        for face, track in tracks.items():
            inside = (track.frames < end).nonzero()[0]
            if len(inside):
                last = slice(inside[-1], inside[-1] + 1)
                self._before[face] = _Track(track.frames[last], track.rows[last], track.boxes[last])
        looked = here["frame"][here["status"] != SKIPPED]
        self._looked_before = looked[-1:] if len(looked) else self._looked_before
        rows, prob, fill = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((rows["face"], rows["frame"]))
        return rows[order], prob[order], fill[order]

    def _read(self, start: int, end: int) -> np.ndarray:
        """What smoothing a block, and looking around its frames, needs."""
        after = max(self._ahead, self._how.every)
        return self._rows.between(start - self._back - 2 * self._stride, end + after)

    def _faces(self, start: int, end: int) -> list[int]:
        """Those that are in a block or around it, and the one that fills frames without a face."""
        first, last = self._rows.first, self._rows.last
        found = [face for face in first if first[face] < end and last[face] >= start]
        if self._only is not None and self._only not in found and start < self._only_until:
            found.append(self._only)
        return sorted(found)

    def _track(self, face: int, around: np.ndarray, start: int, end: int) -> _Track:
        parts = [self._smoothed(face, around, start, end)]
        if face in self._before:
            parts.insert(0, self._before[face])
        elsewhere = around["frame"][(around["frame"] >= start) & (around["frame"] < end)]
        own = parts[-1].frames
        # Only where something after the last sighting, or before the first, has to be filled.
        late = not len(own) or own[-1] < (elsewhere[-1] if len(elsewhere) else end)
        if late and (after := self._next(face, end)) is not None:
            parts.append(after)
        fields = ("frames", "rows", "boxes")
        return _Track(*(np.concatenate([getattr(p, name) for p in parts]) for name in fields))

    def _next(self, face: int, end: int) -> _Track | None:
        """The first sighting of a face from a frame on."""
        known = self._after.get(face)
        if known is not None and known.frames[0] >= end:
            return known
        found = None
        for start in range(end, self._rows.last[face] + 1, self._block):
            rows = self._rows.between(start, start + self._block)
            own = rows[(rows["face"] == face) & (rows["status"] < NO_FACE)]
            for frame in own["frame"].tolist():
                track = self._smoothed(face, self._read(frame, frame + 1), frame, frame + 1)
                if len(track.frames):
                    found = track
                    break
            if found is not None:
                break
        self._after[face] = found
        return found

    def _smoothed(self, face: int, around: np.ndarray, start: int, end: int) -> _Track:
        """Smoothed rows of the frames in which a face is seen."""
        own = around[(around["face"] == face) & (around["status"] < NO_FACE)]
        raw = own["raw"]
        if self._how.calibrate_frames is not None and len(own):
            raw = self._how.calibrate_frames(raw).astype(np.float32)
        inside = (own["frame"] >= start) & (own["frame"] < end)
        frames, boxes = own["frame"][inside], own["box"][inside]
        if self._plain or not len(frames):
            return _Track(frames, raw[inside], boxes)
        # Strides are counted from the video's first frame.
        behind = max(0, start - self._back - self._stride - self._rows.begin)
        origin = self._rows.begin + behind // self._stride * self._stride
        places = own["frame"] - origin
        kept = (places >= 0) & (places < self._length)
        values = np.zeros((self._length, raw.shape[1]), np.float32)
        weights = np.zeros(self._length, np.float32)
        values[places[kept]], weights[places[kept]] = raw[kept], 1.0
        rows = smooth(values, weights=weights, **self._options)
        total = rows.sum(axis=1, keepdims=True)
        if self._options["kernel"] == "median":
            rows = rows / jnp.where(total > 0, total, 1)
        rows, total = (np.asarray(array)[frames - origin] for array in (rows, total))
        kept = total[:, 0] > 0
        return _Track(frames[kept], rows[kept], boxes[kept])

    def _filled(self, track: _Track, at: np.ndarray) -> tuple[Probabilities, np.ndarray]:
        classes = len(self._how.classes)
        prob = np.full((len(at), classes), np.nan, np.float32)
        fill = np.zeros(len(at), np.int8)
        if not len(track.frames):
            return prob, fill
        if not self._how.causal:
            return track.filled(at, self._how.filter.fill)
        since = at > track.frames[0]
        prob[since], fill[since] = track.filled(at[since], "hold")
        return prob, fill

    def _skipped(
        self, here: np.ndarray, around: np.ndarray, tracks: dict[int, _Track]
    ) -> list[tuple[np.ndarray, Probabilities, np.ndarray]]:
        """Rows of frames that were not looked at, for each face that is seen before and after."""
        skipped = here[here["status"] == SKIPPED]
        looked = np.unique(around["frame"][around["status"] != SKIPPED])
        looked = np.union1d(self._looked_before, looked)
        if not len(skipped) or not len(looked):
            return []
        place = np.searchsorted(looked, skipped["frame"])
        # After the last frame that was looked at, who was there is taken to have stayed.
        at_end = place == len(looked) if around["frame"][-1] + 1 == self._rows.end else False
        inner = (place > 0) & ((place < len(looked)) | at_end)
        skipped, place = skipped[inner], place[inner]
        parts = []
        for face, track in tracks.items():
            on = np.isin(looked, track.frames)
            spans = on[place - 1] & on[np.minimum(place, len(looked) - 1)]
            own = skipped[spans].copy()
            own["face"], own["status"] = face, STATUS_CODES.index("ok")
            own["box"] = track.box_at(own["frame"]) if len(own) else own["box"]
            parts.append((own, *self._filled(track, own["frame"])))
        return parts

    def _without(
        self, rows: np.ndarray, tracks: dict[int, _Track]
    ) -> tuple[np.ndarray, Probabilities, np.ndarray]:
        """Rows of frames without a face."""
        prob = np.full((len(rows), len(self._how.classes)), np.nan, np.float32)
        fill = np.zeros(len(rows), np.int8)
        if self._only in tracks:
            ours = rows["frame"] < self._only_until
            prob[ours], fill[ours] = self._filled(tracks[self._only], rows["frame"][ours])
        return rows, prob, fill
