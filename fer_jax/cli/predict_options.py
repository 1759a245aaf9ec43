"""The options of `fer-jax predict`, and what they must be like."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax.errors import UsageError

if TYPE_CHECKING:
    from fer_jax.predict.reading import Reading
    from fer_jax.predict.recognizer import Recognizer
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

TABLES = (".csv", ".jsonl")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, alone and together as they must be.

    Args:
        argv: the arguments after `predict`.

    Raises:
        UsageError: they do not go together.
    """
    arguments = _parser().parse_args(argv)
    _check(arguments)
    return arguments


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
    add(
        "--overwrite",
        action="store_true",
        help="replace what others wrote where the rows are to go",
    )
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


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.sources) == (arguments.camera is not None):
        raise UsageError("name pictures, videos or folders, or --camera N; one of the two")
    if arguments.camera is not None and (arguments.crops or arguments.every != 1 or arguments.fill):
        raise UsageError(
            "--crops, --every and --fill are for files; leave them out beside --camera, whose "
            "frames are filled from what came before them"
        )
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise UsageError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if arguments.window and not arguments.smooth:
        raise UsageError("--window goes with --smooth KERNEL, such as --smooth box --window 4s")
    out = Path(arguments.out or ".")
    if out.suffix in TABLES and out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it")
    if out.suffix not in TABLES and not _may_be_folder(out):
        raise UsageError(f"--out {out}: must end with .csv or .jsonl, or be a folder")
    if arguments.camera is not None and out.is_file() and not arguments.overwrite:
        raise UsageError(f"--out {out}: is there already; name another, or pass --overwrite")


def folder_of(arguments: argparse.Namespace) -> Path | None:
    """Where everything is written; None where nothing is."""
    if not arguments.out:
        return None
    out = Path(arguments.out)
    return out.parent if out.suffix in TABLES else out


def check_beside(arguments: argparse.Namespace, pictures: list[Path], videos: list[Path]) -> None:
    """Raises UsageError where there is no one table of one video to draw beside."""
    if arguments.no_faces and not (arguments.report or arguments.annotate):
        raise UsageError("--no-faces goes with --report or --annotate")
    if not beside_of(arguments):
        return
    if not videos:
        raise UsageError("--timeline, --report and --annotate are of videos; leave them out")
    out = Path(arguments.out or "")
    if out.suffix in TABLES and len(pictures) + len(videos) > 1:
        raise UsageError(
            f"--out {out} holds several videos, and a timeline, a report is of one; name a folder"
        )
    if not arguments.out:
        raise UsageError("--timeline, --report and --annotate are written beside --out; name it")
    folder = folder_of(arguments).resolve()
    if folder in (Path(source).resolve() for source in arguments.sources):
        raise UsageError(
            f"--out {out} is in the folder of the videos, where what is drawn would be labelled "
            "the next time; name another folder, such as one in it"
        )


def beside_of(arguments: argparse.Namespace) -> "Beside":
    """What is to be drawn beside a table."""
    from fer_jax.report.beside import Beside

    return Beside(
        arguments.timeline, arguments.report, arguments.annotate, faces=not arguments.no_faces
    )


def _may_be_folder(path: Path) -> bool:
    return path.is_dir() or not (path.exists() or path.suffix)


def reading_of(arguments: argparse.Namespace) -> "Reading":
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


def completed(reading: "Reading", fill: str | None, recognizer: "Recognizer") -> "Reading":
    """The same, with what the bundle says of filter and filling where no option does."""
    from fer_jax.predict.time_filter import stored_filter

    own = stored_filter(recognizer.bundle.smoothing)
    filter_ = dataclasses.replace(reading.filter or own, fill=fill or own.fill)
    return dataclasses.replace(reading, filter=filter_)
