"""`fer-jax submit`: the official file of the challenge, written or checked."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_jax.errors import FerJaxError, UsageError

if TYPE_CHECKING:
    from fer_jax.data.affwild2_files import Sample
    from fer_jax.evaluate.frame_probabilities import FrameProbabilities
    from fer_jax.predict.finished import FinishedVideos

_DESCRIPTION = """\
Writes what the ABAW challenge takes: a class number for each frame that its sample file names.

  fer-jax submit --bundle B --crops cropped_aligned --sample S.txt --out DIR
      runs the bundle over the organisers' crops of the sample's videos; of folders beside, such as
      cropped_aligned_new_50_vids, those videos that the named one does not have
  fer-jax submit --bundle B --videos ROOT --sample S.txt --out DIR
      finds the faces of the sample's videos itself; the two people of a video (_left, _right) are
      told apart by where they are; submission.json says who was found in how many frames
  fer-jax submit --table T [T ...] --sample S.txt --out DIR
      takes predictions of single frames (raw_ columns) instead, such as DIR/predictions.csv
  fer-jax submit --check FILE --sample S.txt
      says whether anybody's file is complete, line by line

DIR gets
  submission.txt   the file to hand in: the header, and a row for each of the sample's
  predictions.csv  the prediction table of every frame: single, smoothed, filled
  filled.csv       the rows of frames that had no prediction, and how each was filled
  submission.json  what it was made of, and how

A run that was stopped goes on when it is started again: what was predicted of finished
videos waits in DIR.partial, which is removed at the end.

Frames are smoothed as the bundle says (`fer-jax smooth --search --bundle B` stores what is best),
or as --smooth says. --check exits with 1 where something is wrong.
"""
_WRITING = (
    "bundle", "crops", "videos", "table", "out", "smooth", "fill", "allow-missing", "allow-empty",
    "any-crops", "batch-size", "overwrite",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax submit",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--sample", metavar="S.txt", required=True, help="the organisers' sample of a submission")
    add("--bundle", metavar="B", help="folder of the bundle; with --table only for its smoothing")
    add("--crops", metavar="DIR", help="the organisers' crops, a folder for each video")
    add("--videos", metavar="ROOT", help="a folder of videos, instead of --crops")
    add("--table", metavar="T", nargs="+", help="predictions of frames, instead of --crops")
    add("--check", metavar="FILE", help="a file to check, instead of writing one")
    add("--out", metavar="DIR", help="folder to write")
    add(
        "--smooth",
        metavar="KERNEL:WINDOW",
        help="such as box:101, or none (the bundle's own default)",
    )
    add(
        "--fill",
        metavar="METHOD",
        help="how frames without a crop get a prediction: hold, nearest, linear, prior (the "
        "bundle's own default, else hold)",
    )
    add(
        "--allow-missing",
        metavar="CLASS",
        nargs="+",
        default=(),
        help="classes that the predictions need not know, such as Other",
    )
    add("--allow-empty", action="store_true", help="videos without any prediction become Neutral")
    add("--any-crops", action="store_true", help="also where the bundle was trained on other crops")
    add("--batch-size", type=int, metavar="N", help="faces at once (8 on a CPU, else 64)")
    add("--overwrite", action="store_true", help="replace a submission in DIR")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax submit --help`.

    Args:
        argv: the arguments after `submit`.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    _check_usage(arguments)
    return _check(arguments) if arguments.check else _submit(arguments)


def _check_usage(arguments: argparse.Namespace) -> None:
    """Raises UsageError unless the options name one of the three ways."""
    if arguments.check:
        for name in _WRITING:
            if getattr(arguments, name.replace("-", "_")):
                raise UsageError(f"--{name} is for writing a file; leave it out beside --check")
        return
    if not arguments.out:
        raise UsageError("--out DIR is missing, or --check FILE; see --help")
    if sum(map(bool, (arguments.crops, arguments.videos, arguments.table))) != 1:
        raise UsageError(
            "name --crops DIR or --videos ROOT with --bundle B, or --table T; one of them"
        )
    for name in ("any-crops", "batch-size") if arguments.table else ():
        if getattr(arguments, name.replace("-", "_")):
            raise UsageError(f"--{name} goes with --crops; leave it out beside --table")
    if not (arguments.table or arguments.bundle):
        way = "--crops" if arguments.crops else "--videos"
        raise UsageError(f"--bundle B is missing, which is to be run on {way}")


def _check(arguments: argparse.Namespace) -> int:
    from fer_jax.data.affwild2_files import read_sample
    from fer_jax.predict.submission import check_sample
    from fer_jax.predict.submission_check import check_submission

    sample = read_sample(arguments.sample)
    check_sample(arguments.sample, sample)
    findings = check_submission(arguments.check, sample)
    for finding in findings:
        print(f"{arguments.check}: {finding}")
    if not findings:
        rows, videos = len(sample.row_frame), len(sample.videos)
        print(f"{arguments.check}: {rows:,} rows of {videos:,} videos, complete and in order")
    return 1 if findings else 0


def _submit(arguments: argparse.Namespace) -> int:
    from fer_jax.atomic import atomic_directory, check_free
    from fer_jax.cli.arenas import share_arenas
    from fer_jax.cli.compiled import keep_compiled
    from fer_jax.data.affwild2_files import read_sample
    from fer_jax.predict.submission import (
        DOCUMENT_FILE,
        check_sample,
        check_smoothing,
        make_submission,
        official_classes,
        save_submission,
    )

    out = Path(arguments.out)
    check_free(out, marker=DOCUMENT_FILE, overwrite=arguments.overwrite)
    sample = read_sample(arguments.sample)
    check_sample(arguments.sample, sample)
    smoothing, fill = _smoothing(arguments)
    check_smoothing(smoothing, fill)
    finished = None
    share_arenas()
    keep_compiled()
    if arguments.table:
        found, about = _read(arguments)
    else:
        run = _run if arguments.crops else _run_videos
        found, about, finished = run(arguments, sample)
    made = make_submission(
        sample,
        official_classes(found.classes, arguments.allow_missing),
        found.video,
        found.frame,
        found.probabilities,
        smoothing=smoothing,
        fill=fill,
        allow_empty=arguments.allow_empty,
    )
    notes = [*found.notes, *made.notes]
    for note in notes:
        _tell(note)
    about |= {"smoothing": smoothing, "fill": fill, "notes": notes}
    with atomic_directory(out, marker=DOCUMENT_FILE, overwrite=arguments.overwrite) as folder:
        save_submission(folder, arguments.sample, sample, made, about)
    if finished is not None:
        finished.remove()
    rows, filled = len(made.label), int(made.filled.sum())
    print(f"{out}: {rows:,} rows of {len(sample.videos):,} videos, {filled:,} of them filled")
    return 0


def _smoothing(arguments: argparse.Namespace) -> tuple[dict[str, Any] | None, str]:
    """The filter, as a bundle holds it, and how frames are filled."""
    from fer_jax.bundle import read_document
    from fer_jax.evaluate.filters import parse_filter

    own = read_document(Path(arguments.bundle))[1]["smoothing"] if arguments.bundle else None
    fill = arguments.fill or (own or {}).get("fill", "hold")
    if arguments.smooth is None:
        if own is None:
            _tell(
                "nothing is smoothed, since no bundle says how; `fer-jax smooth --search` finds a "
                "filter, --smooth box:101 gives one"
            )
        return own, fill
    if arguments.smooth == "none":
        return None, fill
    return dataclasses.asdict(parse_filter(arguments.smooth)), fill


def _read(arguments: argparse.Namespace) -> tuple["FrameProbabilities", dict[str, Any]]:
    """Predictions that are there already, and what they are."""
    from fer_jax.evaluate.frame_probabilities import read_frame_probabilities

    return read_frame_probabilities(arguments.table), {"table": arguments.table}


def _run(
    arguments: argparse.Namespace, sample: "Sample"
) -> tuple["FrameProbabilities", dict[str, Any], "FinishedVideos"]:
    """What the bundle says of the sample's crops, what was run on what, and what it kept."""
    from fer_jax.data.affwild2 import CROP_KINDS, find_crops
    from fer_jax.data.affwild2_units import TEMPLATES
    from fer_jax.evaluate.frame_probabilities import FrameProbabilities
    from fer_jax.predict.about import bundle_fields
    from fer_jax.predict.crops import check_template, find_videos, predict_crops
    from fer_jax.predict.finished import FinishedVideos
    from fer_jax.predict.recognizer import load
    from fer_jax.predict.submission import official_classes

    kind, known = find_crops(arguments.crops)
    template = TEMPLATES[kind or CROP_KINDS[0]]
    if not kind:
        _tell(
            f"{arguments.crops}: its name does not say how its faces are aligned; they are taken "
            f"as {template!r}, as those of cropped_aligned are"
        )
    videos = find_videos(known, sample, arguments.crops, arguments.allow_empty)
    recognizer = load(arguments.bundle, batch_size=arguments.batch_size)
    official_classes(recognizer.classes, arguments.allow_missing)  # before hours of work
    if not arguments.any_crops:
        check_template(recognizer, template)
    problems: list[str] = []

    def on_problem(line: str) -> None:
        problems.append(line)
        _tell(line)

    out = Path(os.path.abspath(arguments.out))
    finished = FinishedVideos(out.with_name(f"{out.name}.partial"), recognizer)
    columns = predict_crops(
        recognizer, videos, on_problem=on_problem, finished=finished, progress=True
    )
    notes = (f"{len(problems)} crops could not be read, and are filled.",) if problems else ()
    about = {
        "crops": {"path": arguments.crops, "template": template, "template_assumed": not kind},
        **bundle_fields(recognizer),
    }
    return FrameProbabilities(recognizer.classes, *columns, notes), about, finished


def _run_videos(
    arguments: argparse.Namespace, sample: "Sample"
) -> tuple["FrameProbabilities", dict[str, Any], "FinishedVideos"]:
    """The same of whole videos, whose people are found here."""
    from fer_jax.evaluate.frame_probabilities import FrameProbabilities
    from fer_jax.predict.about import bundle_fields
    from fer_jax.predict.finished import FinishedVideos
    from fer_jax.predict.frame_faces import FaceSearch, wanted_alignment
    from fer_jax.predict.people import find_people, predict_people
    from fer_jax.predict.recognizer import load
    from fer_jax.predict.submission import official_classes

    people = find_people(arguments.videos, sample, arguments.allow_empty)
    recognizer = load(arguments.bundle, batch_size=arguments.batch_size)
    official_classes(recognizer.classes, arguments.allow_missing)  # before hours of work
    if (note := wanted_alignment(recognizer.bundle).note) and not arguments.any_crops:
        raise FerJaxError(f"{arguments.bundle}: {note}; pass --any-crops to go on")
    out = Path(os.path.abspath(arguments.out))
    finished = FinishedVideos(out.with_name(f"{out.name}.partial"), recognizer)
    search = FaceSearch()
    columns, lines = predict_people(
        recognizer, people, search, on_problem=_tell, finished=finished, progress=True
    )
    for line in lines:
        _tell(line)
    about = {
        "videos": {"path": arguments.videos, "search": dataclasses.asdict(search)},
        "people": lines,
        **bundle_fields(recognizer),
    }
    return FrameProbabilities(recognizer.classes, *columns, ()), about, finished


def _tell(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"fer-jax submit: {line}", file=sys.stderr)
