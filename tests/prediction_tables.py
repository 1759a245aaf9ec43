"""Prediction tables made by hand: what a video of people would have given."""

import numpy as np

from fer_jax.predict.table import PredictionTable

CLASSES = ("Neutral", "Anger", "Happiness")
_FIELDS = ("video", "frame", "time_s", "face_id", "box", "status", "fill", "raw", "prob")


def table_of(rows, classes=CLASSES):
    """Of dicts; what is left out of a row is that of a face that was found and scored."""
    columns = {name: [] for name in _FIELDS}
    for row in rows:
        nobody = row.get("face_id", 0) < 0
        usual = {
            "video": "a.mp4",
            "time_s": (row["frame"] - 1) / 25,
            "face_id": 0,
            "box": (np.nan,) * 4 if nobody else (10.0, 10.0, 20.0, 20.0),
            "status": "no_face" if nobody else "ok",
            "fill": "none",
            "raw": row.get("prob", (np.nan,) * len(classes)),
            "prob": (np.nan,) * len(classes),
        }
        for name in _FIELDS:
            columns[name].append(row.get(name, usual.get(name)))
    return PredictionTable.from_probabilities(classes, **columns)


def one_face(labels, classes=CLASSES, **more):
    """A video of one face; -1 is a frame without it, and without probabilities."""
    rows = []
    for number, label in enumerate(labels, 1):
        row = {"frame": number, "face_id": 0 if label >= 0 else -1} | more
        if label >= 0:
            row["prob"] = np.where(np.arange(len(classes)) == label, 0.6, 0.4 / (len(classes) - 1))
        rows.append(row)
    return table_of(rows, classes)


def random_table(seed, frames=40, faces=2, video="a.mp4", vary=True):
    """Faces that come and go, at a varying rate."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.02, 0.2, frames) if vary else np.full(frames, 0.04)
    times = np.cumsum(steps) + 3.0
    rows = []
    for frame in range(1, frames + 1):
        there = np.flatnonzero(rng.random(faces) < 0.7).tolist()
        for face in there or [-1]:
            row = {"video": video, "frame": frame, "time_s": times[frame - 1], "face_id": face}
            if face >= 0 and rng.random() < 0.8:
                row["prob"] = rng.dirichlet(np.ones(len(CLASSES)))
                row["fill"] = "hold" if rng.random() < 0.2 else "none"
                row["status"] = rng.choice(["ok", "low_quality", "no_face"], p=[0.6, 0.2, 0.2])
            rows.append(row)
    order = rng.permutation(len(rows))
    return table_of([rows[i] for i in order])
