"""`fer-jax predict`: names the expression of every face in pictures and videos."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_jax.cli.predict_options import (
    TABLES,
    beside_of,
    check_beside,
    completed,
    folder_of,
    parse,
    reading_of,
)
from fer_jax.errors import FerJaxError, UsageError

if TYPE_CHECKING:
    from fer_jax.predict.reading import Reading
    from fer_jax.predict.recognizer import Recognizer
    from fer_jax.predict.table import PredictionTable
    from fer_jax.recipes.labelling import Job, Labeller


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax predict --help`.

    Args:
        argv: the arguments after `predict`.

    Returns:
        The exit code: 1 where something could not be read, 130 where a keyboard stopped it.
    """
    arguments = parse(argv)
    from fer_jax.predict.sources import find_files

    pictures, videos = [], []
    if arguments.camera is None:
        # Before the bundle is loaded, since that takes seconds: is there what was named?
        pictures, videos = find_files(arguments.sources, without=folder_of(arguments))
    check_beside(arguments, pictures, videos)
    if videos and arguments.crops:
        raise UsageError(f"--crops is for pictures of faces, {videos[0]} is a video; leave it out")
    reading = reading_of(arguments)
    recognizer = _load(arguments)
    run = _Run(arguments, recognizer, completed(reading, arguments.fill, recognizer))
    if arguments.camera is not None:
        return run.camera(arguments.camera)
    return run.files(pictures, videos)


def _load(arguments: argparse.Namespace) -> "Recognizer":
    from fer_jax.cli.arenas import share_arenas
    from fer_jax.cli.compiled import keep_compiled

    share_arenas()
    keep_compiled()
    from fer_jax.predict.recognizer import load

    # Of a camera each frame is scored at once: a batch of one is the quickest.
    size = arguments.batch_size or (1 if arguments.camera is not None else None)
    return load(arguments.bundle, batch_size=size)


class _Run:
    """One run of the command."""

    def __init__(
        self, arguments: argparse.Namespace, recognizer: "Recognizer", reading: "Reading"
    ) -> None:
        self._arguments = arguments
        self._recognizer = recognizer
        self._reading = reading
        self._problems = 0
        self._out = None if arguments.out is None else Path(arguments.out)

    def files(self, pictures: list[Path], videos: list[Path]) -> int:
        """Pictures and videos; the exit code."""
        if not self._arguments.crops:
            self._note_alignment()
        if self._out is None or self._out.suffix in TABLES:
            return self._one_table(pictures, videos)
        return self._folder(pictures, videos)

    def camera(self, index: int) -> int:
        """Rows of a camera until it ends; the exit code."""
        import contextlib

        from fer_jax.predict.live import live
        from fer_jax.predict.video import Camera, Progress
        from fer_jax.predict.writing import TableFile

        self._note_alignment()
        camera, progress = Camera(index), Progress()
        tables = live(self._recognizer, camera, f"camera {index}", self._reading, progress=progress)
        with contextlib.ExitStack() as stack:
            file = None
            try:
                for table in tables:
                    if self._out is None:
                        for line in lines_of(table):
                            print(line, flush=True)
                        continue
                    if file is None:
                        file = stack.enter_context(TableFile(self._out, growing=True))
                    file.write(table)
            except KeyboardInterrupt:
                return 130
        self._tell(progress.fault)
        return 1

    def _one_table(self, pictures: list[Path], videos: list[Path]) -> int:
        """Everything in one table, or told in lines."""
        import contextlib

        from fer_jax.predict.predicting import tables_of
        from fer_jax.predict.table import concatenated
        from fer_jax.predict.writing import TableFile
        from fer_jax.report.beside import about_lines, views_of

        counts: dict[str, int] = {}
        interrupted = False
        beside, kept = beside_of(self._arguments), []
        sample = beside.sample(self._recognizer)
        tables = tables_of(
            self._recognizer, pictures, videos, self._reading,
            crops=self._arguments.crops, on_problem=self._tell, progress=True, sample=sample,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(tables))
            file = stack.enter_context(TableFile(self._out)) if self._out else None
            try:
                for table in tables:
                    _count(table, counts)
                    if file is not None:
                        file.write(table)
                        kept += [table] if beside else []
                    elif not videos:
                        print("\n".join(lines_of(table)))
            except KeyboardInterrupt:
                if not counts:
                    raise
                interrupted = True
            if not counts:
                raise FerJaxError("nothing could be read; see the lines before")
        if file is not None or videos:
            print(_summary(str(self._out or "in all"), counts))
        if interrupted:
            self._tell("interrupted; these are the rows so far")
            return 130
        if beside:
            notes = beside.write(
                concatenated(kept), self._out, videos[0],
                about=about_lines(self._recognizer, self._reading),
                views=views_of(self._recognizer, sample), progress=True,
            )  # fmt: skip
            self._drawn(beside.files(self._out), notes)
        return 1 if self._problems else 0

    def _folder(self, pictures: list[Path], videos: list[Path]) -> int:
        """A table for each video, one for all pictures."""
        from fer_jax.predict.pictures import predict_pictures
        from fer_jax.predict.sources import pictures_of_files
        from fer_jax.recipes.labelling import Labeller, jobs_of

        self._out.mkdir(parents=True, exist_ok=True)
        labeller = Labeller(self._recognizer, self._reading, beside_of(self._arguments))
        of_pictures = self._out / "pictures.csv"
        jobs = jobs_of(videos, self._out, taken=[of_pictures] if pictures else [])
        waiting = [job for job in jobs if not labeller.is_done(job)]
        for job in waiting:
            foreign = labeller.foreign(job)
            if foreign and not self._arguments.overwrite:
                raise UsageError(
                    f"{foreign}: is there, and not made of {job.video}; name another folder, or "
                    "pass --overwrite"
                )
        if len(waiting) < len(jobs):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} videos are done already")
            for job in jobs:
                if job not in waiting and (fault := labeller.fault(job)):
                    self._tell(f"{job.video}: {fault}")
        if pictures:
            table = predict_pictures(
                self._recognizer, pictures_of_files(pictures), self._reading,
                crops=self._arguments.crops, on_problem=self._tell,
            )  # fmt: skip
            table.to_csv(of_pictures)
            print(f"{of_pictures}: {len(table):,} rows")
        return self._videos(labeller, waiting)

    def _videos(self, labeller: "Labeller", jobs: "list[Job]") -> int:
        from tqdm import tqdm

        from fer_jax.predict.video import INTERRUPTED

        if len(jobs) > 1:
            frames, seconds = labeller.estimate(jobs)
            print(f"{len(jobs)} videos, {frames:,} frames: about {_duration(seconds)}", flush=True)
        else:
            frames = 0
        with tqdm(total=frames or None, unit="frame", disable=None) as bar:
            for job in jobs:
                bar.set_description(job.video.name)
                try:
                    document = labeller.run(job, on_frame=bar.update)
                except FerJaxError as error:
                    self._tell(str(error))
                    continue
                tqdm.write(
                    f"{job.table}: {document['rows']:,} rows of {document['frames']:,} frames"
                )
                self._drawn(labeller.beside.files(job.table), document["notes"])
                if document["fault"] == INTERRUPTED:
                    self._tell(f"{job.video}: interrupted; the same command goes on")
                    return 130
                if document["fault"]:
                    self._tell(f"{job.video}: {document['fault']}")
        return 1 if self._problems else 0

    def _drawn(self, files: Iterable[Path], notes: Iterable[str]) -> None:
        from tqdm import tqdm

        for line in [*map(str, files), *notes]:
            tqdm.write(line)

    def _note_alignment(self) -> None:
        from fer_jax.predict.frame_faces import wanted_alignment

        if note := wanted_alignment(self._recognizer.bundle).note:
            print(f"fer-jax predict: {self._arguments.bundle}: {note}", file=sys.stderr)

    def _tell(self, problem: str) -> None:
        from tqdm import tqdm

        self._problems += 1
        tqdm.write(f"fer-jax predict: {problem}", file=sys.stderr)


def lines_of(table: "PredictionTable") -> list[str]:
    """A line for each row, for people."""
    found = []
    for index, label in enumerate(table.labels.tolist()):
        where = f"{table.video[index]}"
        if table.time_s[index]:
            where += f" {table.time_s[index]:.2f} s"
        face = f" face {table.face_id[index]}" if table.face_id[index] >= 0 else ""
        sure = table.confidence[index]
        said = f"{label or 'unsure'} {sure:.2f}" if sure == sure else table.status[index]
        found.append(f"{where}{face}: {said}")
    return found


def _count(table: "PredictionTable", counts: dict[str, int]) -> None:
    """Adds how many rows a table has of each word."""
    for name, status in zip(table.labels.tolist(), table.status.tolist(), strict=True):
        word = name or ("no face" if status == "no_face" else "unsure")
        counts[word] = counts.get(word, 0) + 1


def _summary(what: str, counts: dict[str, Any]) -> str:
    """How many rows were named what, most frequent first."""
    words = [f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda c: -c[1])]
    return f"{what}: {sum(counts.values()):,} rows: {', '.join(words)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
