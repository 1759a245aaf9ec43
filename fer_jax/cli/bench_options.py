"""The options of `fer-jax bench`."""

import argparse
from collections.abc import Callable
from typing import Any

_CONVERT = """\
Measures `fer-jax convert`, without and with its proof, beside `cp` and `sha256sum` of the same
file: wall time and the peak of anonymous memory, each run in a process of its own, the cases in
turn, the file in the page cache. Two bounds are judged, for the conversions without the proof: the
time of cp + sha256sum + 3 s, and memory of 1.3 times the file. The exit code is 0 where one is
missed, too. Needs free disk space of three times the file. docs/performance.md has figures.
"""
_INPUT = """\
Measures the input pipeline: faces from ArrayRecord decoded, cropped at random, resized, flipped,
stacked to uint8 batches. Where torch and Pillow are installed, a PyTorch DataLoader with Pillow
does the same to the same pictures, as files, in turn. Images a second are told by wall time and by
processor time of all processes, as medians with the middle half of the runs. The bound is twice
the peer's, by processor time; the exit code is 0 where it is missed, too.
"""
_SMOOTHING = """\
Measures the box filter over 1,022,655 frames x 8 classes of 228 ragged videos, window 101, frames
without a face at weight 0, beside pandas' grouped rolling mean (where it is installed) and
scipy.ndimage.uniform_filter1d video by video, in turn. Bounds: 10 times as fast as pandas, at most
3 times slower than scipy without weights. In the same run the results are compared: with pandas
within 1e-6, medians with scipy.ndimage.median_filter to the bit. The exit code is 0 where a bound
is missed, too.
"""
_FUSION = """\
Measures the entry's fusion, and its attention alone, forward and backward in float32, beside the
same with torch.nn.MultiheadAttention(1, 1) where torch is installed, in turn. Bounds: 64 MiB of
temporary memory at a batch of 1024, by the compiler's own account (with the matrix of scores it
would be gigabytes), and 0.9 of torch's time. The exit code is 0 where one is missed, too.
"""
_VIDEO = """\
Measures a video from its file to its table: frames a second, where the time goes stage by stage,
and, with --peer PYTHON (an interpreter that has the package `fer`), how many times as fast as that
it is, in turn, each in its usual way: `fer` finds the faces of every frame by a cascade and scores
them by its own small network. The bound is four times its frames a second. Without --bundle: two
tiny encoders of 112 pixels, random weights. The exit code is 0 where the bound is missed, too.
"""
_BUNDLE = """\
Measures what a bundle costs to run on this machine: parameters, floating-point operations of a
face (a multiply-add is two), milliseconds of a face in float32, temporary memory of a batch. No
bound is judged.
"""
_INFER = """\
Measures a ViT's forward pass on one device, from normalised images to logits, with random weights:
images a second, operations (a multiply-add is two), compile time, peak memory. A plain matrix
product of the same dtype is timed in turn, and the share of what that reaches is told: medians, and
the middle half of the measurements. No bound is judged. tools/bench_peers.py compares with PyTorch.

The model is a size, or that of a training config: --config=FILE.py [--config.FIELD=VALUE ...].
"""
_TRAIN = """\
Measures the training step of a run on all devices: forward, backward, update. With the run's own
data it tells also how long a step waits for its batch, and how fast it would be with one at hand.
Images a second, operations, compile time, peak memory, and the share of what a plain matrix product
reaches, timed in turn. Nothing is written but --out and --trace, and no bound is judged.

  --config=FILE.py         a config of `fer-jax train`; of two views the main one
  --config.FIELD=VALUE     changes one field, e.g. --config.batch_size=64
"""


def parser_of_bench() -> argparse.ArgumentParser:
    """The parser of all kinds of measurement."""
    parser = argparse.ArgumentParser(
        prog="fer-jax bench", description="Measures this machine, and says which bounds hold."
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    convert = kinds.add_parser(
        "convert",
        help="a checkpoint of MAE-Face's size to a bundle: time and memory",
        description=_CONVERT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = convert.add_argument
    add("--file", metavar="FILE", help="a checkpoint; left out, one of MAE-Face's size is made")
    add("--repeats", type=int, default=5, metavar="N", help="runs of each case (%(default)s)")
    add("--json", action="store_true", help="for programs")
    pipeline = kinds.add_parser(
        "input",
        help="training batches: images a second, memory",
        description=_INPUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = pipeline.add_argument
    add("--data", metavar="DATA", help="a prepared data set; left out, 2,000 faces are drawn")
    add("--seconds", type=float, default=0.5, metavar="S", help="of each run (%(default)s)")
    add("--repeats", type=int, default=21, metavar="N", help="runs of each case (%(default)s)")
    add(
        "--workers", type=int, nargs="+", default=[0, 2], metavar="N",
        help="cases: numbers of processes that decode, 0 for none beside this one (0 2)",
    )  # fmt: skip
    add("--size", type=int, default=112, metavar="PIXELS", help="of the images (%(default)s)")
    add(
        "--minutes", type=float, default=0.0, metavar="M",
        help="then make batches for so long, and tell how the memory grows",
    )  # fmt: skip
    add("--json", action="store_true", help="for programs")
    add("--out", metavar="FILE", help="write what --json prints to a file, too")
    smoothing = kinds.add_parser(
        "smoothing",
        help="the box filter over a whole test set: time, beside pandas and scipy",
        description=_SMOOTHING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = smoothing.add_argument
    add("--repeats", type=int, default=21, metavar="N", help="runs of each case (%(default)s)")
    add("--json", action="store_true", help="for programs")
    entry = kinds.add_parser(
        "fusion",
        help="the entry's fusion and its gradients: time, memory",
        description=_FUSION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = entry.add_argument
    add("--batch", type=int, default=1024, metavar="N", help="faces (%(default)s)")
    add("--repeats", type=int, default=7, metavar="N", help="runs of each case (%(default)s)")
    add("--json", action="store_true", help="for programs")
    bundle = kinds.add_parser(
        "bundle",
        help="what a bundle costs to run: parameters, operations, time, memory",
        description=_BUNDLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = bundle.add_argument
    add("bundle", metavar="BUNDLE", help="its folder")
    add("--batch", type=int, metavar="N", help="faces at once (8 on a CPU, else 64)")
    add("--repeats", type=int, default=7, metavar="N", help="runs (%(default)s)")
    add("--json", action="store_true", help="for programs")
    add("--out", metavar="FILE", help="write what --json prints to a file, too")
    video = kinds.add_parser(
        "video",
        help="a video to its table: frames a second, beside the package fer",
        description=_VIDEO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = video.add_argument
    add("video", metavar="VIDEO", help="the file")
    add("--bundle", metavar="B", help="folder of a bundle (two tiny encoders, random weights)")
    add("--peer", metavar="PYTHON", help="an interpreter that has `fer`")
    add(
        "--search-every", type=int, default=5, metavar="N",
        help="search faces in one of N frames (%(default)s)",
    )  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    add("--repeats", type=int, default=5, metavar="N", help="passes of each (%(default)s)")
    add("--picture", metavar="FILE.png", help="draw where the time goes")
    add("--json", action="store_true", help="for programs")
    add("--out", metavar="FILE", help="write what --json prints to a file, too")
    infer = kinds.add_parser(
        "infer",
        help="a model's forward pass: images a second, share of the ceiling",
        description=_INFER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = infer.add_argument
    add("--size", help="tiny, small, base, large or huge (base)")
    add("--image-size", type=int, metavar="PIXELS", help="side of the images (224)")
    add("--batch", type=int, default=16, metavar="N", help="images at once (%(default)s)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the computation (float32)")
    add("--unroll", action="store_true", help="do not scan over the blocks")
    _measuring(add)
    train = kinds.add_parser(
        "train",
        help="a training step: images a second, waiting for input, share of the ceiling",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = train.add_argument
    add(
        "--synthetic", action="store_true",
        help="one batch of random images: neither data nor backbone are read",
    )  # fmt: skip
    add("--classes", type=int, default=8, metavar="N", help="of synthetic labels (%(default)s)")
    _measuring(add)
    return parser


def _measuring(add: Callable[..., Any]) -> None:
    add("--repeats", type=int, default=7, metavar="N", help="measurements (%(default)s)")
    add("--seconds", type=float, default=1.0, metavar="S", help="least of each (%(default)s)")
    add("--trace", metavar="DIR", help="then write a profile, for TensorBoard or Perfetto")
    add("--json", action="store_true", help="for programs")
    add("--out", metavar="FILE", help="write what --json prints to a file, too")
