"""Many videos into one folder: a table each, resumable, none that fails stops the others."""

import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from fer_jax.atomic import atomic_file
from fer_jax.data.units import file_state
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.faces.videos import VideoReader, read_video
from fer_jax.predict.about import bundle_fields
from fer_jax.predict.reading import Reading
from fer_jax.predict.recognizer import Recognizer
from fer_jax.predict.table import read_csv
from fer_jax.predict.video import INTERRUPTED, Progress, predict_video, scored_rows
from fer_jax.predict.writing import TableFile
from fer_jax.report.beside import Beside, about_lines, views_of

NOTHING_BESIDE = Beside()
_TRIED = 48  # frames that the estimate is made from


@dataclasses.dataclass(frozen=True)
class Job:
    """A video and its table.

    Attributes:
        video: the file.
        table: where its rows are written; beside it stands a .json file that says how.
    """

    video: Path
    table: Path

    @property
    def document(self) -> Path:
        """What says how the table was made; a table without one is not finished."""
        return self.table.with_suffix(".json")


def jobs_of(videos: Sequence[Path], out: Path, taken: Collection[Path] = ()) -> list[Job]:
    """A table for each video, named as it is.

    Args:
        videos: files.
        out: the folder of the tables.
        taken: tables that something else is written to.

    Raises:
        UsageError: two videos of one name, or one of a name that is taken.
    """
    jobs: dict[Path, Job] = {}
    for video in videos:
        table = out / f"{video.stem}.csv"
        if table in taken:
            raise UsageError(
                f"{video}: its table would be {table}, which is of pictures; rename it"
            )
        if table in jobs:
            raise UsageError(
                f"{video} and {jobs[table].video} would both be written to {table}; name them in "
                "two runs, with a folder each"
            )
        jobs[table] = Job(video, table)
    return list(jobs.values())


class Labeller:
    """Makes the tables of videos with one bundle, in one way.

    Args:
        recognizer: of a bundle with labels.
        reading: what becomes of frames.
        beside: what is drawn beside each table.
    """

    def __init__(
        self, recognizer: Recognizer, reading: Reading, beside: Beside = NOTHING_BESIDE
    ) -> None:
        self.recognizer = recognizer
        self.reading = reading
        self.beside = beside
        self.about: dict[str, Any] = {
            "reading": dataclasses.asdict(reading),
            "confidence": reading.confidence_note(recognizer),
            **bundle_fields(recognizer),
        }

    def is_done(self, job: Job) -> bool:
        """Whether a job's table, and what is wanted beside it, was made of this video, in this way.

        Args:
            job: the video and its table.
        """
        return self._has_table(job) and self._has_beside(job)

    def run(self, job: Job, *, on_frame: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Writes the table of a video, then what it is, then what is wanted beside it.

        A table that is there, made of the same video in the same way, is kept.

        Args:
            job: the video and its table.
            on_frame: called after each frame.

        Returns:
            The document: `fault` is what is missing of the video, "" if nothing. Where a keyboard
            stopped it, `fault` is `interrupted`: the rows so far are there, the job is not done.
            `notes` are lines on what is drawn.

        Raises:
            FerJaxError: not one frame could be had, or something not be drawn.
        """
        document = _read(job) if self._has_table(job) else self._label(job, on_frame)
        if document["fault"] != INTERRUPTED and not self._has_beside(job):
            document["notes"] = self.beside.write(
                read_csv(job.table), job.table, job.video,
                about=about_lines(self.recognizer, self.reading), views=document["views"],
            )  # fmt: skip
            if self.beside.sample(self.recognizer) and not document["sampled"]:
                document["notes"] += (
                    f"the report leaves out which view spoke: {job.table} was made without it; "
                    "remove that table to have both made",
                )
            document["beside"] = self._drawn(document)
            _write(job, document)
        return document

    def _label(self, job: Job, on_frame: Callable[[], None]) -> dict[str, Any]:
        progress = Progress()
        reader = read_video(job.video)
        sample = self.beside.sample(self.recognizer)
        options = {"progress": progress, "on_frame": on_frame, "sample": sample}
        # A run that is killed leaves word whose the table is, not that it is done.
        _write(job, {"key": None, "source": os.path.abspath(job.video)})
        with TableFile(job.table) as file:
            name = str(job.video)
            for table in predict_video(self.recognizer, reader, name, self.reading, **options):
                file.write(table)
        document = {
            "key": None if progress.fault == INTERRUPTED else self._key(job),
            "video": name,
            "source": os.path.abspath(job.video),
            "table": file_state(job.table),
            "frames": progress.frames,
            "rows": file.rows,
            "fault": progress.fault,
            "seconds": {name: round(value, 3) for name, value in progress.seconds.items()},
            "views": views_of(self.recognizer, sample),
            "sampled": sample is not None,
            "beside": {},
            "notes": [],
            **self.about,
        }
        _write(job, document)
        return document

    def fault(self, job: Job) -> str:
        """What is missing of a video whose job is done; "" if nothing.

        Args:
            job: the video and its table.
        """
        return _read(job).get("fault", "")

    def foreign(self, job: Job) -> Path | None:
        """A file that a job would replace, though it was not written for this video.

        Args:
            job: the video and its table.
        """
        if _read(job).get("source") == os.path.abspath(job.video):
            return None
        files = (job.table, job.document, *self.beside.files(job.table))
        return next((file for file in files if file.exists()), None)

    def _has_table(self, job: Job) -> bool:
        document = _read(job)
        table = file_state(job.table)
        return bool(table) and (document.get("key"), document.get("table")) == (
            self._key(job),
            table,
        )

    def _has_beside(self, job: Job) -> bool:
        there = all(path.exists() for path in self.beside.files(job.table))
        document = _read(job)
        return there and self._drawn(document) == document.get("beside")

    def _drawn(self, document: dict[str, Any]) -> dict[str, Any]:
        """What of each kind stands beside a table, once what is wanted is drawn."""
        kinds = [kind for kind in ("timeline", "report", "annotate") if getattr(self.beside, kind)]
        return document.get("beside", {}) | dict.fromkeys(kinds, self.beside.faces)

    def estimate(self, jobs: Sequence[Job]) -> tuple[int, float]:
        """Frames as the videos announce them, and the seconds that they will take.

        The first video that can be read is tried for a moment.

        Args:
            jobs: to be done.

        Returns:
            Frames and seconds; 0 seconds where nothing could be tried.
        """
        frames, rate = 0, 0.0
        for job in jobs:
            try:
                reader = read_video(job.video)
                rate = rate or self._rate(reader)
            except FerJaxError:
                continue  # told when its turn comes
            frames += reader.announced
        return frames, frames / rate if rate else 0.0

    def _rate(self, reader: VideoReader) -> float:
        """Frames a second, of some; the first time is for the compiler."""
        for _ in range(2):
            begun, progress = time.perf_counter(), Progress()
            tried = itertools.islice(iter(reader), _TRIED)
            with scored_rows(
                self.recognizer, tried, self.reading.search, progress=progress
            ) as rows:
                rate = rows.frames / (time.perf_counter() - begun)
            if progress.fault == INTERRUPTED:
                raise KeyboardInterrupt
        return rate

    def _key(self, job: Job) -> str:
        """A digest of all that a table depends on; of the video its path, size and time."""
        calibration = self.recognizer.bundle.calibration
        fields = json.dumps([self.about, calibration, str(job.video), file_state(job.video)])
        return hashlib.sha256(fields.encode("utf-8", "surrogateescape")).hexdigest()


def _write(job: Job, document: dict[str, Any]) -> None:
    with atomic_file(job.document) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _read(job: Job) -> dict[str, Any]:
    """The document of a job; nothing where there is none."""
    try:
        document = json.loads(job.document.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
