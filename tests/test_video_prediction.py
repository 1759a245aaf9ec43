"""Frames to tables, end to end: against detector, alignment and model, called plainly."""

import dataclasses
import json
import time

import cv2
import numpy as np
import pytest
from moving_faces import SIZE, moving_frames, photo
from test_table import assert_tables_equal
from tiny_bundles import tiny_bundle, tiny_two_view_bundle

from fer_jax.errors import FerJaxError
from fer_jax.faces.alignment import align
from fer_jax.faces.detector import Detector
from fer_jax.ops.smoothing import smooth_probabilities
from fer_jax.predict import video
from fer_jax.predict.frame_faces import FaceSearch
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer, softmax
from fer_jax.predict.table import concatenated
from fer_jax.predict.time_filter import NO_FILTER, as_stored, parse_filter

_AWAY = range(8, 14)


def aligned_bundle(**changes):
    """Two views of aligned faces of 112 pixels."""
    bundle = tiny_two_view_bundle("linear")
    views = {
        name: dataclasses.replace(view, template="arcface_112")
        for name, view in bundle.views.items()
    }
    return dataclasses.replace(bundle, views=views, **changes)


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer(aligned_bundle(), batch_size=4)


@pytest.fixture(scope="module")
def frames():
    return moving_frames(24, away=_AWAY)


@pytest.fixture(scope="module")
def plain(recognizer, frames):
    """Boxes and probabilities of each frame with a face, one call after the other."""
    detector = Detector()
    found = {}
    for frame in frames:
        faces = detector(frame.image)
        if len(faces):
            aligned = align(frame.image, faces.points[0], 112)
            found[frame.number] = faces.boxes[0], softmax(recognizer.logits(aligned[None]))[0]
    return found


def test_every_frame_has_the_row_that_plain_calls_give(recognizer, frames, plain):
    table = recognizer.predict(iter(frames), search_every=1, smooth="none", fill="hold")
    assert table.frame.tolist() == list(range(1, 25))
    np.testing.assert_allclose(table.time_s, np.arange(24) / 25)
    seen = np.array([frame.number in plain for frame in frames])
    assert sorted(np.flatnonzero(~seen)) == list(_AWAY)
    assert table.status.tolist() == ["ok" if there else "no_face" for there in seen]
    assert table.face_id.tolist() == [0 if there else -1 for there in seen]
    for row in np.flatnonzero(seen):
        box, raw = plain[row + 1]
        left, top, width, height = table.box[row]
        np.testing.assert_allclose([left, top, left + width, top + height], box, atol=0.011)
        np.testing.assert_array_equal(table.raw[row], raw)
        np.testing.assert_array_equal(table.prob[row], raw)
    for row in np.flatnonzero(~seen):
        assert table.fill[row] == "hold"
        np.testing.assert_array_equal(table.prob[row], plain[_AWAY.start][1])
        assert np.isnan(table.raw[row]).all()


def test_smoothing_is_of_the_bundle_unless_told(recognizer, frames, plain):
    smoothing = {"kernel": "box", "window": 5, "stride": 1, "lookahead": None, "fill": "linear"}
    values, weights = np.zeros((24, 7), np.float32), np.zeros(24, np.float32)
    for number, (_, raw) in plain.items():
        values[number - 1], weights[number - 1] = raw, 1
    expected, _ = smooth_probabilities(values, weights, kernel="box", window=5, fill="linear")
    own = Recognizer(aligned_bundle(smoothing=smoothing), batch_size=4)
    found = own.predict(iter(frames), search_every=1)
    # A column is filled on the host: one rounding of float32.
    np.testing.assert_allclose(found.prob, expected, atol=1e-7)
    told = recognizer.predict(iter(frames), search_every=1, smooth="box:5", fill="linear")
    assert_tables_equal(found, told)
    seconds = recognizer.predict(iter(frames), search_every=1, smooth="box:0.2s", fill="linear")
    assert_tables_equal(found, seconds)


def test_live_is_what_the_whole_video_gives(recognizer, frames):
    reading = Reading(FaceSearch(search_every=3), parse_filter("box:5"), causal=True)
    whole = concatenated(list(video.predict_video(recognizer, iter(frames), "frames", reading)))
    alone = Recognizer(recognizer.bundle, batch_size=1)
    came = []

    def camera():
        for frame in frames:
            came.append(frame.number)
            yield frame

    tables = []
    for table in alone.live(camera(), smooth="box:5", search_every=3):
        tables.append(table)
        # Two frames late, and what is read ahead in threads.
        assert came[-1] <= table.frame[0] + 2 + 6
    live = concatenated(tables)
    for name in ("frame", "time_s", "face_id", "box", "status", "fill", "label"):
        np.testing.assert_array_equal(getattr(live, name), getattr(whole, name))
    # Batches of 1 and of 4 differ by some 1e-7.
    np.testing.assert_allclose(live.prob, whole.prob, atol=1e-6)


def test_faces_of_a_crowd_go_through_batches_of_one_shape(recognizer):
    face = cv2.resize(photo(), (100, 118))
    crowd = np.full((360, 640, 3), 90, np.uint8)
    for index in range(9):
        top, left = divmod(index, 5)
        crowd[20 + 170 * top :, 10 + 125 * left :][:118, :100] = np.roll(face, 5 * index, axis=2)
    table = recognizer.predict(iter([crowd, crowd[:, :300].copy(), crowd]), search_every=1)
    counts = [int((table.frame == number).sum()) for number in (1, 2, 3)]
    assert counts[0] == counts[2] == 9
    assert 2 <= counts[1] <= 5
    first, third = table[table.frame == 1], table[table.frame == 3]
    assert sorted(map(tuple, first.raw)) == sorted(map(tuple, third.raw))
    detector = Detector()
    found = detector(crowd)
    plain = [softmax(recognizer.logits(align(crowd, p, 112)[None]))[0] for p in found.points]
    assert sorted(map(tuple, first.raw)) == sorted(map(tuple, plain))


def test_only_the_largest_is_kept(recognizer):
    small, large = cv2.resize(photo(), (100, 118)), cv2.resize(photo(), (170, 200))
    both = np.full((240, 320, 3), 90, np.uint8)
    both[60:178, 5:105], both[20:220, 140:310] = small, large
    alone = np.full_like(both, 90)
    alone[60:178, 5:105] = small
    table = recognizer.predict(iter([both, both, alone, both]), keep="largest", search_every=1)
    assert table.face_id.tolist() == [0] * 4
    assert (table.box[:, 0] > 130).tolist() == [True, True, False, True]


def test_frames_not_looked_at_are_not_scored(recognizer, frames, monkeypatch):
    looked = []
    search = video.faces_of_frames

    def spied(*args):
        for found in search(*args):
            looked.append((found.number, len(found.faces)))
            yield found

    monkeypatch.setattr(video, "faces_of_frames", spied)
    table = recognizer.predict(iter(frames[:8]), every=3, smooth="none", fill="linear")
    assert [number for number, faces in looked if faces] == [1, 4, 7]
    assert table.status.tolist() == ["ok"] * 8
    assert np.isnan(table.raw).any(axis=1).tolist() == [i % 3 != 0 for i in range(8)]
    third = table.prob[0] * np.float32(2 / 3) + table.prob[3] * np.float32(1 / 3)
    np.testing.assert_allclose(table.prob[1], third, atol=1e-7)
    assert table.box[1, 0] == pytest.approx((2 * table.box[0, 0] + table.box[3, 0]) / 3, abs=0.011)


def test_what_came_before_an_error_is_kept(recognizer, frames):
    def dying():
        yield from frames[:6]
        raise OSError("the cable is out")

    told = []
    table = recognizer.predict(dying(), on_problem=told.append)
    assert table.frame.tolist() == list(range(1, 7))
    assert told == ["frames: the cable is out"]
    with pytest.raises(FerJaxError, match="no frame came"):
        recognizer.predict(iter([]))


def test_an_interrupt_keeps_the_rows(recognizer, frames):
    progress = video.Progress()

    def stop():
        if progress.frames == 5:
            raise KeyboardInterrupt

    options = {"progress": progress, "on_frame": stop}
    reading = Reading(filter=NO_FILTER)
    tables = video.predict_video(recognizer, iter(frames), "v", reading, **options)
    assert len(concatenated(list(tables))) == 5
    assert progress.fault == video.INTERRUPTED


def test_an_interrupt_that_nothing_came_before_is_passed_on(recognizer, frames):
    def stop():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        recognizer.predict(stop())


def test_an_interrupted_camera_shows_the_rows_that_wait(recognizer, frames):
    """A window of 5 frames is 2 late: they come when a keyboard ends it."""

    def stopped():
        yield from frames[:7]
        raise KeyboardInterrupt

    rows = []
    with pytest.raises(KeyboardInterrupt):
        for table in recognizer.live(stopped(), smooth="box:5"):
            rows.append(table)
    assert concatenated(rows).frame.tolist() == list(range(1, 8))


def test_arrays_with_and_without_times(recognizer, frames):
    arrays = [frame.image for frame in frames[:4]]
    table = recognizer.predict(iter(arrays), fps=10)
    np.testing.assert_allclose(table.time_s, [0, 0.1, 0.2, 0.3])
    table = recognizer.predict([(1.5, arrays[0]), (4.0, arrays[1])])
    assert table.time_s.tolist() == [1.5, 4.0]
    told = []
    table = recognizer.predict(iter([arrays[0], arrays[1] / 255]), on_problem=told.append)
    assert len(table) == 1
    assert "frame 2 is float64" in told[0]
    told.clear()
    assert (
        len(recognizer.predict([(1.0, arrays[0]), (0.5, arrays[1])], on_problem=told.append)) == 1
    )
    assert told == ["frames: frame 2 at 0.5 s does not come after that at 1.0 s"]
    with pytest.raises(FerJaxError, match="fps=0 must be above 0"):
        recognizer.predict(iter(arrays), fps=0)
    with pytest.raises(FerJaxError, match="crops=True is of pictures"):
        recognizer.predict(iter(arrays), crops=True)


def test_pictures_are_searched(recognizer, frames, plain):
    table = recognizer.predict(frames[0].image)
    np.testing.assert_array_equal(table.raw[0], plain[1][1])
    assert (table.frame.tolist(), table.face_id.tolist()) == ([1], [0])
    blank = np.full((*SIZE[::-1], 3), 90, np.uint8)
    table = recognizer.predict(np.stack([blank, frames[0].image]))
    assert table.status.tolist() == ["no_face", "ok"]
    assert table.frame.tolist() == [1, 2]


def test_small_faces_are_of_low_quality(recognizer):
    image = photo()
    for side, status in ((0.42, "ok"), (0.1, "low_quality")):
        matrix = np.array([[side, 0, 20], [0, side, 20]])
        picture = cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_AREA)
        table = recognizer.predict(picture)
        assert table.status.tolist() == [status], side


def test_a_bundle_of_other_crops_is_told(frames):
    told = []
    Recognizer(tiny_bundle()).predict(frames[0].image, on_problem=told.append)
    assert told == [
        "the bundle was trained on faces cut as 'as_is'; those found here are aligned as "
        "'arcface_112', which may cost accuracy"
    ]


def test_calibration_is_applied_where_it_belongs(frames):
    calibration = {"kind": "temperature", "temperature": 3.0, "refers_to": "frames"}
    calibration["of"] = "log_probabilities"
    plain = Recognizer(aligned_bundle(), batch_size=4)
    cooled = Recognizer(aligned_bundle(calibration=calibration), batch_size=4)
    raw = plain.predict(iter(frames[:6]), smooth="none")
    found = cooled.predict(iter(frames[:6]), smooth="none")
    np.testing.assert_array_equal(found.raw, raw.raw)
    odds = np.maximum(raw.raw.astype(np.float64), 1e-7) ** (1 / 3)
    np.testing.assert_allclose(found.prob, odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)


def test_pictures_are_not_smoothed_and_so_calibrated_as_frames(frames):
    smoothing = as_stored(parse_filter("box:5"))
    calibration = {"kind": "temperature", "temperature": 3.0, "of": "log_probabilities"}
    calibration |= {"refers_to": "smoothed", "smoothing": smoothing}
    bundle = aligned_bundle(calibration=calibration, smoothing=smoothing)
    table = Recognizer(bundle, batch_size=4).predict(frames[0].image)
    np.testing.assert_array_equal(table.prob, table.raw)


def test_threads_end_with_the_run(recognizer, frames):
    import threading

    before = threading.active_count()
    for _ in range(3):
        live = recognizer.live(iter(frames), smooth="none")
        next(live)
        live.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_rows_as_json(recognizer, frames):
    from fer_jax.predict.writing import json_rows

    table = recognizer.predict(iter(frames[:10]), smooth="none", search_every=1)
    rows = json.loads(json.dumps(list(json_rows(table))))
    assert [row["frame"] for row in rows] == list(range(1, 11))
    assert rows[0]["prob"]["Happiness"] == float(table.prob[0, table.classes.index("Happiness")])
    assert (rows[8]["raw"], rows[8]["box"], rows[8]["status"]) == (None, None, "no_face")
    assert rows[0]["label"] == table.labels[0]
