"""`fer-jax predict`: names the expression of every face in pictures and videos."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_jax.errors import FerJaxError, UsageError

if TYPE_CHECKING:
    from fer_jax.predict.reading import Reading
    from fer_jax.predict.recognizer import Recognizer
    from fer_jax.predict.table import PredictionTable
    from fer_jax.recipes.labelling import Job, Labeller
    from fer_jax.report.beside import Beside

_DESCRIPTION = """\
Names the expression of every face in pictures and videos.

  fer-jax predict photo.jpg --bundle B
      prints a line for each face
  fer-jax predict interview.mp4 --bundle B --out interview.csv
      a row for every frame and face, smoothed over time as the bundle says; .jsonl is JSON lines
  fer-jax predict interviews/ --bundle B --out results/
      a table for each video, pictures.csv for the pictures. A run that was stopped goes on; a video
      that cannot be read is reported and passed by
  fer-jax predict --camera 0 --bundle B [--out rows.csv]
      rows as they come, as late as the smoothing looks ahead; Ctrl-C ends it

A frame without a face has a row too (status no_face), filled over time where the video shows one
person. Faces keep their number face_id through gaps of up to a second. Exit code 1: something could
not be read, and is told; what could is written.
"""

_TABLES = (".csv", ".jsonl")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax predict",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", metavar="SOURCE", nargs="*", help="pictures, videos, folders of them")
    add("--bundle", metavar="B", required=True, help="folder of the bundle")
    add("--out", metavar="PATH", help="a table (.csv, .jsonl), or a folder for one of each video")
    add(
        "--camera",
        type=int,
        metavar="N",
        help="frames of a camera instead of files; 0 is the first",
    )
    add("--overwrite", action="store_true", help="replace tables that were made in another way")
    faces = parser.add_argument_group("faces")
    add = faces.add_argument
    add(
        "--crops",
        action="store_true",
        help="each picture is one face, cut and aligned as the bundle's; none is searched",
    )
    add(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="look at one frame in N; those between take over (%(default)s)",
    )
    add(
        "--search-every",
        type=int,
        default=5,
        metavar="N",
        help="search faces in one of N of those, follow them between (%(default)s)",
    )
    add("--keep", choices=("all", "largest"), default="all", help="which faces (%(default)s)")
    time = parser.add_argument_group("over time")
    add = time.add_argument
    add(
        "--smooth",
        metavar="KERNEL",
        help="box, gaussian, triangular, exponential, median, majority, none (the bundle's)",
    )
    add("--window", metavar="N", help="frames (odd), or seconds: 101, 4s")
    add(
        "--fill",
        metavar="METHOD",
        help="frames without a face: hold, nearest, linear, prior (the bundle's, else hold)",
    )
    add(
        "--abstain",
        type=float,
        default=0.0,
        metavar="P",
        help="no label where the confidence is below P (%(default)s)",
    )
    drawn = parser.add_argument_group(
        "beside the table of a video", "NAME.csv gets NAME.png, NAME.html, NAME_annotated.mp4"
    )
    add = drawn.add_argument
    add("--timeline", action="store_true", help="the probabilities over time, as a picture")
    add("--report", action="store_true", help="one page with timeline, figures, faces")
    add("--annotate", action="store_true", help="the video, with boxes, labels and bars")
    add("--no-faces", action="store_true", help="no picture of a face in any of them")
    parser.add_argument("--batch-size", type=int, metavar="N", help="faces at once")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax predict --help`.

    Args:
        argv: the arguments after `predict`.

    Returns:
        The exit code: 1 where something could not be read, 130 where a keyboard stopped it.
    """
    arguments = _parser().parse_args(argv)
    _check(arguments)
    from fer_jax.predict.sources import find_files

    # Before the bundle is loaded, since that takes seconds: is there what was named?
    pictures, videos = ([], []) if arguments.camera is not None else find_files(arguments.sources)
    _check_beside(arguments, pictures, videos)
    if videos and arguments.crops:
        raise UsageError(f"--crops is for pictures of faces, {videos[0]} is a video; leave it out")
    reading = _reading(arguments)
    recognizer = _load(arguments)
    run = _Run(arguments, recognizer, _with_fill(reading, arguments.fill, recognizer))
    if arguments.camera is not None:
        return run.camera(arguments.camera)
    return run.files(pictures, videos)


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.sources) == (arguments.camera is not None):
        raise UsageError("name pictures, videos or folders, or --camera N; one of the two")
    if arguments.camera is not None and (arguments.crops or arguments.every != 1):
        raise UsageError("--crops and --every are for files; leave them out beside --camera")
    if arguments.window and not arguments.smooth:
        raise UsageError("--window goes with --smooth KERNEL, such as --smooth box --window 4s")
    out = Path(arguments.out or ".")
    if out.suffix in _TABLES and out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if out.suffix not in _TABLES and not _may_be_folder(out):
        raise UsageError(f"--out {out}: must end with .csv or .jsonl, or be a folder")


def _check_beside(arguments: argparse.Namespace, pictures: list[Path], videos: list[Path]) -> None:
    """Raises UsageError where there is no one table of one video to draw beside."""
    if arguments.no_faces and not (arguments.report or arguments.annotate):
        raise UsageError("--no-faces goes with --report or --annotate")
    if not _beside(arguments):
        return
    if not videos:
        raise UsageError("--timeline, --report and --annotate are of videos; leave them out")
    out = Path(arguments.out or "")
    if out.suffix in _TABLES and len(pictures) + len(videos) > 1:
        raise UsageError(
            f"--out {out} holds several videos, and a timeline, a report is of one; name a folder"
        )
    if not arguments.out:
        raise UsageError("--timeline, --report and --annotate are written beside --out; name it")


def _beside(arguments: argparse.Namespace) -> "Beside":
    from fer_jax.report.beside import Beside

    return Beside(
        arguments.timeline, arguments.report, arguments.annotate, faces=not arguments.no_faces
    )


def _may_be_folder(path: Path) -> bool:
    return path.is_dir() or not (path.exists() or path.suffix)


def _load(arguments: argparse.Namespace) -> "Recognizer":
    from fer_jax.cli.arenas import share_arenas
    from fer_jax.cli.compiled import keep_compiled

    share_arenas()
    keep_compiled()
    from fer_jax.predict.recognizer import load

    # Of a camera each frame is scored at once: a batch of one is the quickest.
    size = arguments.batch_size or (1 if arguments.camera is not None else None)
    return load(arguments.bundle, batch_size=size)


def _reading(arguments: argparse.Namespace) -> "Reading":
    """What the options say; without --smooth the filter is None, for the bundle's."""
    from fer_jax.predict.frame_faces import FaceSearch
    from fer_jax.predict.reading import Reading
    from fer_jax.predict.time_filter import parse_filter

    window = f":{arguments.window}" if arguments.window else ""
    chosen = parse_filter((arguments.smooth or "none") + window, arguments.fill or "hold")
    return Reading(
        FaceSearch(every=arguments.every, search_every=arguments.search_every, keep=arguments.keep),
        chosen if arguments.smooth else None,
        arguments.abstain,
        causal=arguments.camera is not None,
    )


def _with_fill(reading: "Reading", fill: str | None, recognizer: "Recognizer") -> "Reading":
    """The same with a filter, which the bundle has where no option does."""
    from fer_jax.predict.time_filter import stored_filter

    filter_ = reading.filter or stored_filter(recognizer.bundle.smoothing)
    return dataclasses.replace(
        reading, filter=dataclasses.replace(filter_, fill=fill) if fill else filter_
    )


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
        if self._out is None or self._out.suffix in _TABLES:
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
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(TableFile(self._out, growing=True)) if self._out else None
            try:
                for table in live(
                    self._recognizer, camera, f"camera {index}", self._reading, progress=progress
                ):
                    if file is None:
                        for line in lines_of(table):
                            print(line, flush=True)
                    else:
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
        beside, kept = _beside(self._arguments), []
        sample = beside.sample(self._recognizer)
        tables = tables_of(
            self._recognizer, pictures, videos, self._reading,
            crops=self._arguments.crops, on_problem=self._tell, progress=True, sample=sample,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(tables))
            file = stack.enter_context(TableFile(self._out)) if self._out else None
            for table in tables:
                for name, status in zip(table.labels.tolist(), table.status.tolist(), strict=True):
                    word = name or ("no face" if status == "no_face" else "unsure")
                    counts[word] = counts.get(word, 0) + 1
                if file is not None:
                    file.write(table)
                    kept += [table] if beside else []
                elif not videos:
                    print("\n".join(lines_of(table)))
            if not counts:
                raise FerJaxError("nothing could be read; see the lines before")
        if file is not None or videos:
            print(_summary(str(self._out or "in all"), counts))
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
        from fer_jax.recipes.labelling import Labeller, is_ours, jobs_of

        self._out.mkdir(parents=True, exist_ok=True)
        labeller = Labeller(self._recognizer, self._reading, _beside(self._arguments))
        jobs = jobs_of(videos, self._out)
        waiting = [job for job in jobs if not labeller.is_done(job)]
        for job in waiting:
            if not (is_ours(job) or self._arguments.overwrite):
                raise UsageError(
                    f"{job.table}: is there, and not of such a run; name another folder, or pass "
                    "--overwrite"
                )
        if len(waiting) < len(jobs):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} videos are done already")
        if pictures:
            table = predict_pictures(
                self._recognizer, pictures_of_files(pictures), self._reading,
                crops=self._arguments.crops, on_problem=self._tell,
            )  # fmt: skip
            table.to_csv(self._out / "pictures.csv")
            print(f"{self._out / 'pictures.csv'}: {len(table):,} rows")
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


def _summary(what: str, counts: dict[str, Any]) -> str:
    """How many rows were named what, most frequent first."""
    words = [f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda c: -c[1])]
    return f"{what}: {sum(counts.values()):,} rows: {', '.join(words)}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
