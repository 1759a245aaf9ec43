"""`fer-jax evaluate`: scores a bundle on a data set, or anybody's predictions of frames."""

import argparse
import sys
from collections.abc import Sequence

from fer_jax.errors import UsageError

_DESCRIPTION = """\
Scores on every labelled face or frame of one split.

  fer-jax evaluate --bundle B --data DATA --out DIR
      a bundle on a data set that `fer-jax prepare` made
  fer-jax evaluate --predictions P [P ...] --labels PATH --out DIR
      anybody's predictions of frames: tables of `fer-jax predict`, or text files
      <video>/00001.jpg,<class number> or ,<a probability for each class>; PATH is a prepared
      data set, a folder of Aff-Wild2, or a CSV file with the columns video,frame,label

DIR gets
  metrics.json   macro-F1, accuracy, F1 of each class, with bootstrap intervals; counts; what
                 was scored, with which weights, when
  table.md       the same to read; also printed
and of single images
  confusion.png  what was taken for what
and of frames of videos, where intervals are of resampled videos, and frames without a face are
scored too,
  report.html     with pictures: classes, confusion, reliability, the videos as strips
  predictions.csv the prediction table of every frame, filled, and smoothed if wished

Where the label space of the predictions is not the data's, the classes that both have are scored,
and what is left out is said.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-jax evaluate",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", metavar="B", help="folder of the bundle; with --predictions only for storing")
    add("--data", metavar="DATA", help="data set, made by `fer-jax prepare`")
    add("--predictions", metavar="P", nargs="+", help="predictions of frames, or folders of .csv")
    add("--labels", "--annotations", metavar="PATH", help="what predictions are scored against")
    add("--split", default="validation", help="part of the data or labels (%(default)s)")
    add("--out", metavar="DIR", required=True, help="folder for the report")
    add(
        "--smooth",
        metavar="KERNEL:WINDOW",
        help="score smoothed frames as well, such as box:101; none for single frames alone (a "
        "bundle's own filter, if it has one)",
    )
    add(
        "--fill",
        metavar="METHOD",
        help="how frames without a face get a prediction: hold, nearest, linear, prior (as the "
        "bundle's filter says, else hold)",
    )
    add(
        "--compare",
        metavar="Q",
        nargs="+",
        help="predictions of another model, to compare with; of single images another bundle",
    )
    add(
        "--calibrate",
        metavar="KIND",
        help="fit temperature or vector on this split, and store it in --bundle; without one it "
        "is in metrics.json alone",
    )
    add(
        "--attribution",
        action="store_true",
        help="say which view moved each frame (columns drop_<view> of predictions.csv)",
    )
    add(
        "--cover",
        metavar="REGIONS",
        help="score faces with a region covered as well: eyes, nose, mouth, with commas between, "
        "or + for several at a time",
    )
    add("--batch-size", type=int, metavar="N", help="faces at once (8 on a CPU, else 64)")
    add("--overwrite", action="store_true", help="replace a report in DIR")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: its arguments.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    _check(arguments)
    from fer_jax.evaluate.filters import parse_filter
    from fer_jax.evaluate.frame_evaluation import FrameOptions, evaluate_predictions
    from fer_jax.evaluate.frame_report import frame_report_text
    from fer_jax.evaluate.report import report_text
    from fer_jax.evaluate.robustness import parse_regions

    options = FrameOptions(
        smoothing=None if arguments.smooth in (None, "none") else parse_filter(arguments.smooth),
        own_filter=arguments.smooth is None,
        fill=arguments.fill,
        calibrate=arguments.calibrate,
        bundle=arguments.bundle if arguments.calibrate else None,
        attribution=arguments.attribution,
        cover=parse_regions(arguments.cover) if arguments.cover else (),
    )
    common = {
        "options": options,
        "compare": arguments.compare or (),
        "overwrite": arguments.overwrite,
        "say": lambda line: print(f"fer-jax evaluate: {line}", file=sys.stderr),
    }
    if arguments.predictions:
        if arguments.calibrate and not arguments.bundle:
            common["say"]("the calibration is stored in no bundle, since --bundle names none")
        metrics = evaluate_predictions(
            arguments.predictions, arguments.labels, arguments.split, arguments.out, **common
        )
    else:
        from fer_jax.evaluate.evaluation import evaluate_bundle

        metrics = evaluate_bundle(
            arguments.bundle,
            arguments.data,
            arguments.split,
            arguments.out,
            batch_size=arguments.batch_size,
            progress=True,
            **common,
        )
    print((frame_report_text if "frames" in metrics else report_text)(metrics), end="")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError unless the options name either a bundle and data, or predictions."""
    if arguments.predictions:
        if not arguments.labels:
            raise UsageError("--labels is missing: predictions need something to be scored against")
        if arguments.data:
            raise UsageError(
                "--data goes with --bundle; name the labels of predictions by --labels"
            )
        for name in ("attribution", "cover", "batch-size"):
            if getattr(arguments, name.replace("-", "_")):
                raise UsageError(f"--{name} needs the faces themselves; use --bundle and --data")
        if arguments.bundle and not arguments.calibrate:
            raise UsageError(
                "--bundle beside --predictions only says where --calibrate stores; leave it out, "
                "or add --calibrate temperature"
            )
    elif not (arguments.bundle and arguments.data):
        raise UsageError(
            "name --bundle B and --data DATA, or --predictions P and --labels PATH; see --help"
        )
    elif arguments.labels:
        raise UsageError("--labels goes with --predictions; a bundle is scored on --data's labels")
