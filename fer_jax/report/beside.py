"""What is drawn beside the table of a video: timeline, report, annotated video."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax.predict.about import bundle_fields
from fer_jax.predict.face_sample import FaceSample
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.table import PredictionTable
from fer_jax.predict.time_filter import stored_filter

if TYPE_CHECKING:
    from fer_jax.evaluate.running import Batch


@dataclasses.dataclass(frozen=True)
class Beside:
    """What is wanted.

    Attributes:
        timeline: `NAME.png`, of a table NAME.csv.
        report: `NAME.html`.
        annotate: `NAME_annotated.mp4`.
        faces: False leaves every picture of a face out.
    """

    timeline: bool = False
    report: bool = False
    annotate: bool = False
    faces: bool = True

    def __bool__(self) -> bool:
        return self.timeline or self.report or self.annotate

    def sample(self, recognizer: Recognizer) -> FaceSample | None:
        """What collects the faces that the report explains; None where there is nothing to."""
        return FaceSample() if self.report and recognizer.bundle.kind == "two_view" else None

    def files(self, table: Path) -> list[Path]:
        """What is written beside a table.

        Args:
            table: its path.
        """
        names = {
            "timeline": f"{table.stem}.png",
            "report": f"{table.stem}.html",
            "annotate": f"{table.stem}_annotated.mp4",
        }
        return [table.with_name(name) for kind, name in names.items() if getattr(self, kind)]

    def write(
        self,
        table: PredictionTable,
        path: Path,
        video: Path,
        *,
        about: dict[str, str],
        views: dict[str, Any] | None = None,
        progress: bool = False,
    ) -> tuple[str, ...]:
        """Draws what is wanted.

        Args:
            table: of the video.
            path: of the table.
            video: the file.
            about: what was run, for the report.
            views: of `views_of`, for the report.
            progress: show a bar if there is a terminal.

        Returns:
            What is to be told, a line each.

        Raises:
            FerJaxError: the video cannot be read any more, or a file not be written.
        """
        from fer_jax.report.page import write_report
        from fer_jax.report.render import render_video
        from fer_jax.report.timeline import draw_timeline

        notes: tuple[str, ...] = ()
        for file in self.files(path):
            if file.suffix == ".png":
                draw_timeline(table, file)
            elif file.suffix == ".html":
                write_report(
                    table, file, video=video, faces=self.faces, about=about, views=views
                )  # fmt: skip
            else:
                notes = render_video(table, video, file, faces=self.faces, progress=progress)
        return notes


def about_lines(recognizer: Recognizer, reading: Reading) -> dict[str, str]:
    """What was run, in words, for the report.

    Args:
        recognizer: that ran.
        reading: how.
    """
    fields, search = bundle_fields(recognizer), reading.search
    filter_ = reading.filter or stored_filter(recognizer.bundle.smoothing)
    looked = "in every frame" if search.every == 1 else f"in one of {search.every} frames"
    searched = f"{looked}; searched in one of {search.search_every} of them, followed in between"
    lines = {
        "bundle": f"{recognizer.path or 'in memory'} ({recognizer.bundle.kind})",
        "weights": f"sha256 {fields['bundle']['params_sha256'] or 'unknown'}",
        "licence": recognizer.bundle.license,
        "faces": f"{searched}; {search.keep}",
        "smoothing": f"{filter_}; frames without a face: {filter_.fill}",
        "confidence": reading.confidence_note(recognizer),
    }
    if reading.abstain:
        lines["no label"] = f"where the confidence is below {reading.abstain:g}"
    return lines


def views_of(recognizer: Recognizer, sample: FaceSample | None) -> dict[str, Any] | None:
    """Which view spoke for the choices among a video's faces.

    A view that is dropped is replaced by its mean features over the same faces.

    Args:
        recognizer: of a bundle of two views.
        sample: some of the video's faces.

    Returns:
        The field `summary()` of `evaluate.attribution.Attribution`; None where there is no face.
    """
    if sample is None or not sample.images:
        return None
    from fer_jax.evaluate.attribution import attribute_batches

    outputs = {name: index for index, name in enumerate(recognizer.classes)}
    reference, batches = (_batches(recognizer, sample.images) for _ in range(2))
    return attribute_batches(recognizer, reference, batches, outputs).summary()


def _batches(recognizer: Recognizer, images: list[np.ndarray]) -> "Iterator[Batch]":
    size = recognizer.batch_size
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        padded = batch + batch[-1:] * (size - len(batch))
        yield recognizer.prepare(padded), np.arange(size) < len(batch)
