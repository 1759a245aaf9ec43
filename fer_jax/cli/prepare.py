"""`fer-jax prepare`: pictures and labels become a data set that trains fast."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fer_jax.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from fer_jax.data.cleaning import Cleaning
    from fer_jax.data.cleaning_files import EditedList
    from fer_jax.data.examples import Example, Fault
    from fer_jax.data.staging import Look
    from fer_jax.data.units import Unit
    from fer_jax.labels import LabelSpace

_IMAGES = """\
Stores labelled faces as a data set: DATA/faces (ArrayRecord shards), index.npz, faces.json.

SRC is a folder SRC/<class>/... or SRC/<split>/<class>/... whose class folders carry names of the
label space, such as happiness or Happy. With --unlabelled all pictures in SRC are training faces
without a label, whatever their folders are called. Or, with --csv, a file says what is in SRC. Its
columns:
  path, label            needed; path is relative to SRC, label a class name
  split                  train (if absent), validation, test, ...
  subject, video, frame  faces of one subject stay together when a part is split off
  source, confidence     the collection; the face detector's score
  votes_<Class>          how many people named the class; the label may then be empty
  box_left, box_top, box_right, box_bottom
                         the face in pixels: the square about it is cut out
"""

_ANY_SPACE = "affwild2_expr"  # a data set has one, also where no face has a label

_AFFWILD2 = """\
Stores Aff-Wild2's EXPR faces as a data set. SRC is the folder that the organisers' archives were
unpacked into; `fer-jax doctor SRC` says first what is wrong with it. Faces are the organisers'
crops, or with --from-videos found and aligned anew. Training pictures that show no face, are
blurred or repeat others are left out: see DATA/cleaning.csv and DATA/cleaning.png. Every annotated
frame, with or without a picture, is kept in DATA/annotations.npz.

What was seen of each video is kept in DATA.staging until the data set is whole: a run that is
stopped goes on with the video it was at.
"""

_VIDEOS = """\
Stores the faces of any videos as a data set without labels, for `fer-jax pretrain`. SRC is a
folder, whose videos are found at any depth, or one file. Every few frames the faces are found and
aligned. Faces that are small, blurred or there already in another video are left out: see
DATA/cleaning.csv and DATA/cleaning.png.

What was seen of each video is kept in DATA.staging until the data set is whole: a run that is
stopped goes on with the video it was at.
"""


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a kind of collection hands on to be stored."""

    units: "Sequence[Unit]"
    faults: "Sequence[Fault]"
    space: "LabelSpace"
    look: "Look"
    skip_bad: bool
    extras: "dict[str, dict[str, np.ndarray]]" = dataclasses.field(default_factory=dict)


def _parser() -> argparse.ArgumentParser:
    from fer_jax.data.collections import READERS

    parser = argparse.ArgumentParser(
        prog="fer-jax prepare",
        description="Pictures and labels -> a data set that trains fast.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_images(_kind(kinds, "images", "a folder, or a CSV file of paths and labels", _IMAGES))
    _add_videos(_kind(kinds, "videos", "faces without labels, from any videos", _VIDEOS))
    _add_affwild2(_kind(kinds, "affwild2", "Aff-Wild2 EXPR, as handed out", _AFFWILD2))
    for name, reader in READERS.items():
        description = f"SRC holds {reader.layout}. Label space: {reader.space}."
        _add_collection(_kind(kinds, name, f"the collection: {reader.layout}", description))
    return parser


def _kind(kinds, name: str, title: str, description: str) -> argparse.ArgumentParser:
    return kinds.add_parser(
        name,
        help=title,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("src", metavar="SRC", help="folder with the pictures")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument(
        "--labels", metavar="SPACE", help="label space, such as affwild2_expr, expw"
    )
    labels.add_argument(
        "--unlabelled", action="store_true", help="all pictures below SRC, for `fer-jax pretrain`"
    )
    add("--csv", metavar="FILE", help="CSV file that lists the pictures")
    add("--subject-column", metavar="NAME", help="CSV column that holds the subject (subject)")
    add("--margin", type=float, default=1.2, help="square side / longer box side (%(default)s)")
    _add_align(parser)
    add("--template", default="as_is", help="how faces without a box are aligned (%(default)s)")
    _add_split_fraction(parser)
    _add_common(parser, clean=False, workers=0)


def _add_videos(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("src", metavar="SRC", help="folder with the videos, or one of them")
    add("--every", type=int, default=10, metavar="N", help="search a frame in N (%(default)s)")
    add("--size", type=int, default=112, help="pixels of the aligned faces (%(default)s)")
    _add_common(parser, clean=True, workers=os.cpu_count() or 1)


def _add_affwild2(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("src", metavar="SRC", help="folder that Aff-Wild2 was unpacked into")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument(
        "--crops",
        metavar="KIND",
        default="cropped_aligned",
        help="which crops: cropped_aligned | cropped (%(default)s)",
    )
    origin.add_argument(
        "--from-videos", action="store_true", help="find and align the faces in the videos"
    )
    add("--size", type=int, default=112, help="pixels of faces from videos (%(default)s)")
    add("--unlabelled", action="store_true", help="frames without a label and test videos as well")
    _add_common(parser, clean=True, workers=os.cpu_count() or 1)


def _add_collection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("src", metavar="SRC", help="folder of the collection")
    add("--labels", metavar="SPACE", help="label space to map to (the collection's own)")
    add("--margin", type=float, default=1.2, help="square side / longer box side (%(default)s)")
    _add_align(parser)
    _add_split_fraction(parser)
    _add_common(parser, clean=False, workers=0)


def _add_align(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--align",
        type=int,
        nargs="?",
        const=112,
        default=0,
        metavar="PIXELS",
        help="find each face and store it aligned, as those of videos are (112); a picture "
        "without one is taken as it is, with score 0",
    )


def _add_common(parser: argparse.ArgumentParser, *, clean: bool, workers: int) -> None:
    add = parser.add_argument
    add("--out", metavar="DATA", required=True, help="folder to make")
    add("--skip-bad", action="store_true", help="leave out what cannot be used; see skipped.csv")
    add("--overwrite", action="store_true", help="replace DATA if it exists")
    add("--workers", type=int, default=workers, help="processes; 0 for threads (%(default)s)")
    cleaning = parser.add_argument_group("cleaning, of training pictures only")
    add = cleaning.add_argument
    add(
        "--clean",
        action=argparse.BooleanOptionalAction,
        default=clean,
        help="leave out what is no face, too small, blurred or there already",
    )
    add("--min-score", type=float, metavar="P", help="of the face detector, 0 to 1; 0 is off")
    add("--min-size", type=int, metavar="PIXELS", help="of the face's shorter side; 0 is off")
    add("--min-sharpness", type=float, metavar="V", help="variance of the Laplacian; 0 is off")
    add("--duplicate-distance", type=int, metavar="BITS", help="of 256; -1 is off")
    add("--review", action="store_true", help="stop after cleaning, to look at DATA.staging")
    add("--cleaning", metavar="FILE", help="go by this edited cleaning.csv, not by the rules")


def _add_split_fraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split-fraction",
        metavar="SPLIT=F",
        action="append",
        default=[],
        help="make a part of the training faces another split, such as validation=0.1",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="which faces --split-fraction takes (%(default)s)"
    )


def _rules(arguments: argparse.Namespace) -> "Cleaning | None":
    from fer_jax.data.cleaning import Cleaning

    names = [field.name for field in dataclasses.fields(Cleaning)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if given and (arguments.cleaning or not arguments.clean):
        option = f"--{next(iter(given)).replace('_', '-')}"
        why = "goes by an edited list" if arguments.cleaning else "does not clean"
        raise UsageError(f"{option}: this run {why}; leave one of the two out")
    if arguments.review and not (arguments.clean or arguments.cleaning):
        raise UsageError("--review: this run does not clean; pass --clean as well")
    return Cleaning(**given) if arguments.clean and not arguments.cleaning else None


def _edited(arguments: argparse.Namespace) -> "EditedList | None":
    if not arguments.cleaning:
        return None
    from fer_jax.data.cleaning_files import read_list

    return read_list(arguments.cleaning)


def _fractions(texts: Sequence[str]) -> list[tuple[str, float]]:
    fractions = []
    for text in texts:
        split, _, number = text.partition("=")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if not split or not 0 < fraction < 1:
            raise UsageError(f"--split-fraction {text!r} is not like validation=0.1")
        fractions.append((split, fraction))
    return fractions


def _images(arguments: argparse.Namespace, detect: bool) -> _Source:
    fractions = _fractions(arguments.split_fraction)
    if arguments.subject_column and not arguments.csv:
        raise UsageError("--subject-column names a column of --csv FILE; pass that too")
    if arguments.unlabelled and arguments.csv:
        raise UsageError("--csv lists labels, which --unlabelled has none of; pass --labels SPACE")
    from fer_jax.labels import label_space

    space = label_space(arguments.labels or _ANY_SPACE)

    from fer_jax.data import image_folder

    if arguments.unlabelled:
        examples, faults = image_folder.read_unlabelled(arguments.src)
    elif arguments.csv:
        examples, faults = image_folder.read_csv(
            arguments.csv,
            arguments.src,
            space,
            subject_column=arguments.subject_column or "subject",
        )
    else:
        examples, faults = image_folder.read_image_folder(arguments.src, space)
    return _listed(arguments, examples, faults, space, fractions, arguments.template, detect)


def _collection(arguments: argparse.Namespace, detect: bool) -> _Source:
    fractions = _fractions(arguments.split_fraction)
    from fer_jax.data.collections import READERS
    from fer_jax.data.collections.mapping import map_examples
    from fer_jax.data.staging import AS_IS
    from fer_jax.labels import label_space

    reader = READERS[arguments.kind]
    space = label_space(arguments.labels or reader.space)
    examples, faults = reader.read(arguments.src)
    examples, lost = map_examples(examples, label_space(reader.space), space)
    return _listed(arguments, examples, [*faults, *lost], space, fractions, AS_IS, detect)


def _listed(
    arguments: argparse.Namespace,
    examples: "Sequence[Example]",
    faults: "Sequence[Fault]",
    space: "LabelSpace",
    fractions: Sequence[tuple[str, float]],
    template: str,
    detect: bool,
) -> _Source:
    from fer_jax.data.face_videos import check_size
    from fer_jax.data.splits import move_fraction
    from fer_jax.data.staging import AS_IS, Look
    from fer_jax.data.units import listed_units

    for split, fraction in fractions:
        examples = move_fraction(examples, split, fraction, arguments.seed)
    if arguments.align:
        check_size(arguments.align)
        if template != AS_IS:
            raise UsageError(f"--template {template} says that the faces are aligned; drop --align")
    look = Look(arguments.margin, template, detect, arguments.align)
    return _Source(listed_units(examples), faults, space, look, arguments.skip_bad)


def _affwild2(arguments: argparse.Namespace, detect: bool) -> _Source:
    from fer_jax.data.affwild2_units import crop_units
    from fer_jax.data.staging import Look
    from fer_jax.labels import label_space

    options = {"unlabelled": arguments.unlabelled, "skip_bad": arguments.skip_bad}
    if arguments.from_videos:
        from fer_jax.data.affwild2_videos import video_units

        found = video_units(arguments.src, size=arguments.size, **options)
    else:
        found = crop_units(arguments.src, kind=arguments.crops, **options)
    # What has no picture is told, and counted when scoring; it does not stop a run.
    return _Source(
        found.units,
        found.faults,
        label_space("affwild2_expr"),
        Look(detect=detect),
        skip_bad=True,
        extras={"annotations.npz": found.annotations},
    )


def _videos(arguments: argparse.Namespace, detect: bool) -> _Source:
    from fer_jax.data.face_videos import face_videos
    from fer_jax.data.staging import Look
    from fer_jax.labels import label_space

    units, faults = face_videos(arguments.src, every=arguments.every, size=arguments.size)
    look = Look(detect=detect)
    return _Source(units, faults, label_space(_ANY_SPACE), look, arguments.skip_bad)


def _staging(arguments: argparse.Namespace, out: str) -> str | None:
    """Where what was seen is kept: of videos always, of lists from a review to the next run."""
    staging = f"{out}.staging"
    kept = arguments.kind in ("affwild2", "videos") or arguments.review or os.path.isdir(staging)
    return staging if kept else None


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    rules = _rules(arguments)
    detect = rules is not None and rules.min_score > 0
    edited = _edited(arguments)
    read = {"images": _images, "videos": _videos, "affwild2": _affwild2}
    source = read.get(arguments.kind, _collection)(arguments, detect)

    from fer_jax.data.builder import build_units
    from fer_jax.data.dataset import FaceData
    from fer_jax.data.split_table import split_table

    out = arguments.out.rstrip("/")
    built = build_units(
        source.units,
        source.faults,
        source.space,
        out,
        look=source.look,
        cleaning=rules,
        edited=edited,
        staging=_staging(arguments, out),
        review=arguments.review,
        workers=arguments.workers,
        skip_bad=source.skip_bad,
        overwrite=arguments.overwrite,
        extras=source.extras,
    )
    if not arguments.review:
        print(split_table(FaceData.open(out)))
    if built.rejects is not None:
        print(f"{built.rejects.summary()}; see {built.folder}/cleaning.csv and cleaning.png")
    if arguments.review:
        print(
            "edit cleaning.csv as you like, then run again without --review and with "
            f"--cleaning {built.folder}/cleaning.csv"
        )
    if built.skipped:
        print(
            f"fer-jax prepare: left out {len(built.skipped)}, see {built.folder}/skipped.csv",
            file=sys.stderr,
        )
    return 0
