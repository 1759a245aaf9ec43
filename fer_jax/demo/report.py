"""The demo's report: one HTML file with its pictures inside, that opens with no network."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import matplotlib
import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.predict.table import PredictionTable, read_csv

matplotlib.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from fer_jax.demo.run import Step

_INK, _FAINT, _ACCENT, _WRONG = "#1f2933", "#7b8794", "#0f766e", "#b91c1c"
_STYLE = f"""
body {{ font: 16px/1.5 system-ui, sans-serif; color: {_INK}; max-width: 880px; margin: 40px auto;
       padding: 0 20px; background: #fbfbf9; }}
h1 {{ font-size: 28px; margin: 0; }} h2 {{ font-size: 20px; margin: 44px 0 8px; }}
p, li {{ max-width: 68ch; }} .faint {{ color: {_FAINT}; }}
.score {{ font-size: 52px; font-weight: 650; color: {_ACCENT}; line-height: 1.1; }}
img {{ width: 100%; height: auto; }} .half {{ width: 72%; }}
pre {{ margin: 2px 0 0; font-size: 13px; color: {_FAINT}; white-space: pre-wrap;
      overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ padding: 4px 18px 4px 0; border-bottom: 1px solid #e4e7eb; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }} th {{ color: {_FAINT}; font-weight: 500; }}
ol {{ padding-left: 22px; }} li {{ margin: 10px 0; }}
"""


def write_report(path: Path, demo: Path, steps: Sequence["Step"], faces: Sequence[Path]) -> None:
    """Writes the report.

    Args:
        path: the HTML file.
        demo: the demo's folder: run/log.jsonl, scores/ and predictions.csv are read from it.
        steps: what was done, with the seconds it took.
        faces: the pictures that predictions.csv is about; their folder's name is the truth.
    """
    metrics = json.loads((demo / "scores" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (demo / "run" / "log.jsonl").read_text().splitlines()]
    table = read_csv(demo / "predictions.csv")
    macro_f1 = metrics["macro_f1"]
    pictures = {
        "faces": _data_url(_faces_picture(faces, table)),
        "curves": _data_url(_curves_picture(lines)),
        "confusion": _data_url((demo / "scores" / "confusion.png").read_bytes()),
    }
    total = sum(step.seconds for step in steps)
    items = "".join(
        f"<li>{html.escape(step.title)} <span class=faint>({step.seconds:.0f} s)</span>"
        f"<pre>{html.escape(step.shown)}</pre></li>"
        for step in steps
    )
    rows = "".join(
        f"<tr><td>{html.escape(row['name'])}</td><td>{row['f1']:.3f}</td>"
        f"<td>{row['precision']:.3f}</td><td>{row['recall']:.3f}</td><td>{row['images']}</td></tr>"
        for row in metrics["classes"]
    )
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fer_jax demo</title><style>{_STYLE}</style></head><body>
<h1>A checkpoint became a face reader</h1>
<p class="faint">fer_jax demo on drawn faces, {total / 60:.1f} minutes in all</p>
<p class="score">{macro_f1["value"]:.3f}</p>
<p>macro-F1 over the eight expressions of Aff-Wild2, on drawn people that were never trained on
(95 % interval {macro_f1["low"]:.3f} to {macro_f1["high"]:.3f}; guessing gives about 0.125).
Drawn faces are easy: this shows that every part works, and says nothing about real ones.</p>
<h2>Some unseen faces, and what the model says</h2>
<img src="{pictures["faces"]}" alt="faces with predicted expressions">
<h2>Training</h2><img class="half" src="{pictures["curves"]}" alt="loss and macro-F1">
<h2>What was taken for what</h2>
<img src="{pictures["confusion"]}" alt="confusion matrix">
<table><tr><th>expression</th><th>F1</th><th>precision</th><th>recall</th><th>faces</th></tr>
{rows}</table>
<h2>What was done</h2><ol>{items}</ol>
<p>The same commands work on your own pictures and checkpoints: see README.md.</p>
</body></html>
"""
    with atomic_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="#fbfbf9")
    plt.close(figure)
    return buffer.getvalue()


def _faces_picture(faces: Sequence[Path], table: PredictionTable) -> bytes:
    """A grid of faces; below each the answer, and the truth where it was missed."""
    columns = 8
    rows = -(-len(faces) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 1.85 * rows), squeeze=False)
    row_of = {video: row for row, video in enumerate(table.video)}
    # Three of each class come in a row: shown as columns.
    by_class = np.argsort([i % 3 for i in range(len(faces))], kind="stable")
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, by_class, strict=False):
        row = row_of[str(faces[i])]
        truth, answer = faces[i].parent.name, table.labels[row]
        axis.imshow(cv2.cvtColor(cv2.imread(str(faces[i])), cv2.COLOR_BGR2RGB))
        right = truth == answer
        text = f"{answer} {100 * table.confidence[row]:.0f} %"
        axis.text(
            0.5,
            -0.06,
            text if right else f"{text}\nis {truth}",
            transform=axis.transAxes,
            fontsize=9,
            ha="center",
            va="top",
            color=_INK if right else _WRONG,
        )
    figure.subplots_adjust(wspace=0.06, hspace=0.42)
    return _png(figure)


def _curves_picture(lines: Sequence[dict[str, Any]]) -> bytes:
    """Training loss, and macro-F1 on the selection part, over epochs."""
    train = [line for line in lines if line["group"] == "train"]
    selection = [line for line in lines if line["group"] == "selection"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.9))
    left.plot([line["epoch"] for line in train], [line["loss"] for line in train], color=_ACCENT)
    left.set_title("training loss", fontsize=11, loc="left", color=_INK)
    right.plot(
        [line["epoch"] for line in selection],
        [line["macro_f1"] for line in selection],
        color=_ACCENT,
    )
    right.set_title("macro-F1 on the selection part", fontsize=11, loc="left", color=_INK)
    right.set_ylim(0, 1)
    for axis in (left, right):
        axis.set_xlabel("epoch", color=_FAINT)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_FAINT)
        axis.grid(axis="y", color="#e4e7eb")
    figure.tight_layout()
    return _png(figure)
