"""`fer-jax summarize`: prediction tables -> what goes into a statistics program."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_jax.errors import FerJaxError, UsageError

if TYPE_CHECKING:
    from fer_jax.report.segments import Segment
    from fer_jax.report.summary import Summary

_DESCRIPTION = """\
Summarizes prediction tables, one person (face_id) of one video at a time. DIR gets

  summary.csv      a row for each video, person and segment: its length, the share of time with the
                   face found (seen), filled in (filled), filled in without a face being found
                   (filled_no_face), and of each expression: share of time (share_; they add up to
                   1 with share_unknown), mean probability (prob_), number, mean and longest length
                   of its episodes; transitions between expressions
  episodes.csv     a row for each stretch of one label; at_start and at_end are 1 where the segment
                   cuts it off, so that its true length is not known
  transitions.csv  how often one label came directly after another; pairs that are not there: never
  summary.png      the shares, as a picture

Each frame counts for as long as it lasts, until the next one's time stamp. Where a table has no
times, all is in frames; the column unit says which. Times without a label are "unknown", and so
are those without a row of this person. Rows of frames without a face are the video's only
person's; of several people they are nobody's.

--segments names stretches of videos, such as the turns of an interview, which may overlap:

  video,start_s,end_s,name
  anna.mp4,0,12.5,question
  anna.mp4,12.5,80,answer

with each video's path as in the tables, its file name, or that without its ending, and seconds on
the tables' time axis. What reaches beyond the video is cut. Videos that no segment names are left
out: they are listed, and the exit code is 1.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax summarize",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tables", metavar="TABLE", nargs="+", help="prediction tables; folders of .csv")
    add("--segments", metavar="TURNS.csv", help="stretches of videos, instead of whole videos")
    add("--out", metavar="DIR", required=True, help="folder to write")
    add("--overwrite", action="store_true", help="replace a summary in DIR")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax summarize --help`.

    Args:
        argv: the arguments after `summarize`.

    Returns:
        The exit code: 1 where a video was left out.
    """
    options = _parser().parse_args(argv)
    from fer_jax.atomic import atomic_directory, check_free
    from fer_jax.report.segments import check_videos, read_segments
    from fer_jax.report.summary_files import PICTURE_FILE, SUMMARY_FILE, write_summaries
    from fer_jax.report.summary_picture import draw_summaries

    out = Path(options.out)
    files = _files(options.tables)
    check_free(out, marker=SUMMARY_FILE, overwrite=options.overwrite)
    segments = read_segments(options.segments) if options.segments else None
    summaries, videos = _summaries(files, segments)
    left_out = check_videos(options.segments, segments, videos) if segments else []
    with atomic_directory(out, marker=SUMMARY_FILE, overwrite=options.overwrite) as partial:
        write_summaries(partial, summaries)
        draw_summaries(partial / PICTURE_FILE, summaries)
    people = len({(one.video, one.face_id) for one in summaries})
    print(
        f"{out}: {len(videos) - len(left_out):,} videos, {people:,} people, "
        f"{len(summaries):,} rows, {sum(len(one.episodes.label) for one in summaries):,} episodes"
    )
    if left_out:
        more = f" and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
        print(
            f"fer-jax summarize: no segment names {', '.join(left_out[:3])}{more}: left out",
            file=sys.stderr,
        )
    return 1 if left_out else 0


def _files(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path}: no .csv in this folder; name prediction tables")
        files += inside
    return files


def _summaries(
    files: Sequence[Path], segments: "Sequence[Segment] | None"
) -> "tuple[list[Summary], list[str]]":
    """Of all tables, which are read one after the other, and the videos in them."""
    from tqdm import tqdm

    from fer_jax.predict.table import read_csv
    from fer_jax.report.summary import summarize

    summaries: list[Summary] = []
    read_from: dict[str, Path] = {}
    classes: tuple[str, ...] = ()
    for file in tqdm(files, unit="table", disable=None):
        table = read_csv(file)
        if not len(table):
            raise FerJaxError(f"{file}: has no rows; leave it out")
        if (classes or table.classes) != table.classes:
            raise FerJaxError(
                f"{file}: its classes are {', '.join(table.classes)}, those of {files[0]} "
                f"{', '.join(classes)}; summarize them apart"
            )
        classes = table.classes
        for video in dict.fromkeys(table.video.tolist()):
            if video in read_from:
                raise FerJaxError(
                    f"{file}: {video} is in {read_from[video]}, too; name each video's table once"
                )
            read_from[video] = file
        summaries += summarize(table, segments)
    return summaries, list(read_from)
