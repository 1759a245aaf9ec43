"""Which filter over time is best, chosen on videos other than those that it is then judged on."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from fer_jax.bundle import read_document, update_document
from fer_jax.errors import FerJaxError
from fer_jax.evaluate.filters import NONE, Filter
from fer_jax.evaluate.frame_scores import (
    confusions_of_videos,
    film_numbers,
    of_films,
    predicted,
)
from fer_jax.evaluate.frames import Timeline
from fer_jax.evaluate.intervals import Comparison, Intervals, bootstrap_videos, compare_videos
from fer_jax.ops.metrics import f1_by_class

FOLDS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class WindowSearch:
    """What `search_windows` found.

    Attributes:
        filters: those that were tried, the first of them none at all.
        confusions: `[filter, video, class, class]`, a row for each true class.
        fold: the fold of each video.
        chosen: index of the best filter on all videos: the one to use.
        chosen_without: for each fold, that of the best one on all the other folds.
        left_out: `[video, class, class]`: each video under the filter that was chosen without its
            fold. What these say of the score is not flattered by the choice.
        gain: of `left_out` over no filter, by macro-F1; None where one video alone has labels.
        intervals: of the scores of `left_out`; None likewise.
    """

    filters: list[Filter]
    confusions: Int64[np.ndarray, "filter video class class"]
    fold: Int[np.ndarray, "video"]
    chosen: int
    chosen_without: list[int]
    left_out: Int64[np.ndarray, "video class class"]
    gain: Comparison | None
    intervals: Intervals | None

    def macro_f1(self, which: np.ndarray | None = None) -> Float[np.ndarray, "filter"]:
        """Macro-F1 of each filter over the videos of a mask, all of them if there is none."""
        videos = slice(None) if which is None else which
        return f1_by_class(self.confusions[:, videos].sum(axis=1)).mean(axis=-1)


def search_windows(
    timeline: Timeline,
    tried: Sequence[Filter],
    *,
    fill: str = "hold",
    folds: int = FOLDS,
    progress: Callable[[Sequence[Filter]], Sequence[Filter]] = list,
) -> WindowSearch:
    """Tries filters, and judges the choice among them on left-out videos.

    The videos are divided into folds, two people of one video into the same. For each fold the
    filter with the best macro-F1 over all labelled frames of the *other* folds is chosen (of
    equals the first) and applied to the fold: together these are the left-out scores.

    Args:
        timeline: predictions joined with labels.
        tried: filters, as of `filters`; the first must be `NONE`, with which gains are measured.
        fill: how frames without a prediction get one; see `ops.gaps.fill_gaps`.
        folds: at least 2; fewer are made where there are fewer videos.
        progress: wraps the filters, such as a progress bar.

    Returns:
        The search.

    Raises:
        FerJaxError: fewer than two videos with labels, or filters that cannot be.
    """
    fold = _folds(timeline, folds)
    everything = np.ones(len(timeline), bool)
    confusions = np.stack(
        [
            confusions_of_videos(timeline, _probabilities(timeline, filter_, fill), everything)
            for filter_ in progress(tried)
        ]
    ).astype(np.int64)
    scores = f1_by_class(confusions.sum(axis=1)).mean(axis=-1)
    left_out = np.zeros_like(confusions[0])
    chosen_without = []
    for number in range(fold.max() + 1):
        own = fold == number
        others = f1_by_class(confusions[:, ~own].sum(axis=1)).mean(axis=-1)
        chosen_without.append(int(others.argmax()))
        left_out[own] = confusions[chosen_without[-1]][own]
    return WindowSearch(
        filters=list(tried),
        confusions=confusions,
        fold=fold,
        chosen=int(scores.argmax()),
        chosen_without=chosen_without,
        left_out=left_out,
        gain=compare_videos(*(of_films(timeline.videos, c) for c in (left_out, confusions[0]))),
        intervals=bootstrap_videos(of_films(timeline.videos, left_out)),
    )


def _probabilities(timeline: Timeline, filter_: Filter, fill: str) -> np.ndarray:
    return predicted(timeline, fill, None if filter_ == NONE else filter_).probabilities


def _folds(timeline: Timeline, folds: int) -> np.ndarray:
    """The fold of each video, of about as many labelled frames each."""
    group = film_numbers(timeline.videos)
    groups = group.max() + 1
    counts = np.bincount(group[timeline.segment[timeline.label >= 0]], minlength=groups)
    if (counts > 0).sum() < 2:
        raise FerJaxError(
            f"{(counts > 0).sum()} video with labels cannot be divided: a filter is chosen on some "
            "and judged on others; name labels of more videos"
        )
    fold_of = np.zeros(groups, np.int64)
    sizes = np.zeros(min(folds, int((counts > 0).sum())), np.int64)
    for number in np.argsort(-counts, kind="stable"):
        fold_of[number] = sizes.argmin()
        sizes[fold_of[number]] += max(counts[number], 1)
    return fold_of[group]


def search_document(search: WindowSearch, timeline: Timeline, fill: str) -> dict[str, Any]:
    """The search as plain values, for a file.

    Args:
        search: from `search_windows`.
        timeline: it was made of.
        fill: it was made with.

    Returns:
        `smoothing` (what a bundle stores), `left_out` (the score of the choice), `without`,
        `gain`, `classes`, `folds`, `grid`.
    """
    everywhere = search.macro_f1()
    per_fold = np.stack([search.macro_f1(search.fold == k) for k in range(search.fold.max() + 1)])
    judged, plain = (f1_by_class(c.sum(0)) for c in (search.left_out, search.confusions[0]))
    best = f1_by_class(search.confusions[search.chosen].sum(axis=0))
    support = search.left_out.sum(axis=(0, 2))
    smoothing = dataclasses.asdict(search.filters[search.chosen]) | {"fill": fill}
    return {
        "smoothing": smoothing,
        "left_out": {
            "macro_f1": float(judged.mean()),
            "low": float(search.intervals.macro_f1[0]),
            "high": float(search.intervals.macro_f1[1]),
        },
        "without": {"macro_f1": float(plain.mean())},
        "chosen_on_all": {"macro_f1": float(everywhere[search.chosen])},
        "gain": dataclasses.asdict(search.gain),
        "frames": int(search.left_out.sum()),
        "videos": len(timeline.videos),
        "classes": [
            {
                "name": name,
                "frames": int(support[i]),
                "f1_without": float(plain[i]),
                "f1_left_out": float(judged[i]),
                "gain": float(judged[i] - plain[i]),
                "f1_chosen_on_all": float(best[i]),
            }
            for i, name in enumerate(timeline.classes)
        ],
        "folds": [
            {
                "videos": [v for v, f in zip(timeline.videos, search.fold, strict=True) if f == k],
                "chosen": dataclasses.asdict(search.filters[index]),
                "macro_f1": float(per_fold[k, index]),
                "macro_f1_without": float(per_fold[k, 0]),
            }
            for k, index in enumerate(search.chosen_without)
        ],
        "grid": [
            {
                **dataclasses.asdict(filter_),
                "macro_f1": float(everywhere[i]),
                "macro_f1_of_folds": per_fold[:, i].tolist(),
            }
            for i, filter_ in enumerate(search.filters)
        ],
        "notes": list(timeline.notes),
    }


def search_text(document: dict[str, Any]) -> str:
    """The search for people: tables in Markdown.

    Args:
        document: from `search_document`.

    Returns:
        The text, ending in a newline.
    """
    judged, gain = document["left_out"], document["gain"]
    chosen = Filter.stored(document["smoothing"])
    level = f"{100 * gain['level']:g} %"
    lines = [
        f"# smoothing: {chosen}",
        "",
        f"{document['frames']:,} labelled frames of {document['videos']} videos; "
        f"{len(document['grid'])} filters tried",
        "",
        "| | macro-F1 | |",
        "|---|---|---|",
        f"| no filter | {document['without']['macro_f1']:.4f} | |",
        f"| chosen on the other videos | {judged['macro_f1']:.4f} | {level}: "
        f"{judged['low']:.4f} to {judged['high']:.4f} |",
        f"| gain | {gain['difference']:+.4f} | {level}: {gain['low']:+.4f} to {gain['high']:+.4f}, "
        f"p = {gain['p_value']:.3g} |",
        f"| {chosen}, on the videos that it was chosen on | "
        f"{document['chosen_on_all']['macro_f1']:.4f} | flattered by the choice |",
        "",
        "| class | frames | no filter | left out | gain |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['name']} | {one['frames']:,} | {one['f1_without']:.4f} | "
        f"{one['f1_left_out']:.4f} | {one['gain']:+.4f} |"
        for one in document["classes"]
    ]
    lines += ["", "| fold | videos | chosen without it | macro-F1 | no filter |"]
    lines += ["|---|---|---|---|---|"]
    for number, fold in enumerate(document["folds"], 1):
        lines.append(
            f"| {number} | {len(fold['videos'])} | {Filter(**fold['chosen'])} | "
            f"{fold['macro_f1']:.4f} | {fold['macro_f1_without']:.4f} |"
        )
    lines += ["", *(f"- {note}" for note in document["notes"])] if document["notes"] else []
    return "\n".join(lines) + "\n"


def check_smoothable(path: str | os.PathLike[str]) -> None:
    """Refuses a bundle that has no use for a filter, before one is searched.

    Args:
        path: the bundle.

    Raises:
        FerJaxError: there is no bundle, or one whose outputs are no classes.
    """
    path = Path(path)
    _, fields, _ = read_document(path)
    if fields["labels"] is None:
        raise FerJaxError(
            f"{path}: a bundle without labels predicts nothing that could be smoothed; name a "
            "classifier, fusion or two_view bundle"
        )


def store_smoothing(path: str | os.PathLike[str], smoothing: dict[str, Any]) -> str | None:
    """Makes a filter the default of a bundle; weights and golden sample stay as they are.

    A calibration of rows that another filter smoothed goes: it does not fit those of this one.

    Args:
        path: the bundle.
        smoothing: `smoothing` of `search_document`.

    Returns:
        A line that says that a calibration was taken out; None where none was.

    Raises:
        FerJaxError: as `check_smoothable`.
    """
    check_smoothable(path)
    own = read_document(Path(path))[1]["calibration"] or {}
    if own.get("refers_to") != "smoothed" or own.get("smoothing") == smoothing:
        update_document(path, smoothing=smoothing)
        return None
    update_document(path, smoothing=smoothing, calibration=None)
    return (
        f"{path}: its calibration was of rows smoothed by another filter and is taken out; fit it "
        "anew by `fer-jax evaluate --calibrate`"
    )
