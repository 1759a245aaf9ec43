"""`fer-jax bench WHAT`: measures this machine, and says which bounds hold."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from fer_jax.errors import UsageError

_CLASSES = 8  # of a model that is not trained

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


def _parser() -> argparse.ArgumentParser:
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


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax bench --help`."""
    parser = _parser()
    options, options.config = parser.parse_known_args(argv)
    if options.config and options.what not in ("infer", "train"):
        parser.error(f"unrecognized arguments: {' '.join(options.config)}")
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats} must be at least 1")
    measure = {
        "convert": _convert,
        "input": _input,
        "smoothing": _smoothing,
        "fusion": _fusion,
        "bundle": _bundle,
        "infer": _infer,
        "train": _train,
    }
    found, lines = measure[options.what](options)
    if getattr(options, "out", None):
        from fer_jax.atomic import atomic_file

        with atomic_file(options.out) as partial:
            partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines))
    return 0


def _convert(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from fer_jax.bench.convert import bench_convert, table

    found = bench_convert(options.file, repeats=options.repeats)
    return found, table(found)


def _input(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    for name, least in (("seconds", 0.01), ("minutes", 0), ("size", 1)):
        value = getattr(options, name)
        if not least <= value < float("inf"):
            raise UsageError(f"--{name} {value} must be at least {least}")
    if min(options.workers) < 0:
        raise UsageError(f"--workers {min(options.workers)} must be at least 0")
    from fer_jax.bench.input import bench_input, table

    found = bench_input(
        options.data,
        seconds=options.seconds,
        repeats=options.repeats,
        size=options.size,
        workers=sorted(set(options.workers)),
        minutes=options.minutes,
    )
    return found, table(found)


def _smoothing(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from fer_jax.bench.smoothing import bench_smoothing, table

    found = bench_smoothing(repeats=options.repeats)
    return found, table(found)


def _fusion(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch} must be at least 1")
    from fer_jax.bench.fusion import bench_fusion, table

    found = bench_fusion(batch=options.batch, repeats=options.repeats)
    return found, table(found)


def _bundle(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    if options.batch is not None and options.batch < 1:
        raise UsageError(f"--batch {options.batch} must be at least 1")
    from fer_jax.bench.bundle import bench_bundle, table

    found = bench_bundle(options.bundle, batch=options.batch, repeats=options.repeats)
    return found, table(found)


def _infer(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    _check_measuring(options, "batch", "image_size")
    if options.config and options.size:
        raise UsageError("--size and --config both name a model; give one of them")
    from fer_jax.bench.infer import bench_infer, table
    from fer_jax.models.vit import SIZES, vit_config

    overrides: dict[str, Any] = {}
    if options.image_size:
        overrides["image_size"] = options.image_size
    if options.dtype:
        overrides["dtype"] = options.dtype
    if options.unroll:
        overrides["scan_layers"] = False
    if options.config:
        from fer_jax.train.state import scratch_config

        run = _run_config(options.config)
        config = dataclasses.replace(scratch_config(run.model, _CLASSES), **overrides)
    else:
        size = options.size or "base"
        if size not in SIZES:
            raise UsageError(f"--size {size} is not known; one of {', '.join(SIZES)}")
        config = vit_config(size, num_classes=_CLASSES, pool="avg", **overrides)
    found = bench_infer(
        config,
        batch=options.batch,
        repeats=options.repeats,
        seconds=options.seconds,
        trace=options.trace,
    )
    return found, table(found)


def _train(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    _check_measuring(options, "classes")
    config = _run_config(options.config)
    from fer_jax.bench.train import bench_train, table

    found = bench_train(
        config,
        synthetic=options.synthetic,
        classes=options.classes,
        repeats=options.repeats,
        seconds=options.seconds,
        trace=options.trace,
    )
    return found, table(found)


def _check_measuring(options: argparse.Namespace, *counts: str) -> None:
    if not 0 < options.seconds < float("inf"):
        raise UsageError(f"--seconds {options.seconds} must be above 0")
    for name in counts:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value} must be at least 1")


def _run_config(argv: Sequence[str]) -> Any:
    """The fine-tuning run that a config file asks for: of a recipe of two views, its main one."""
    from fer_jax.cli.configs import parse_config
    from fer_jax.recipes.two_view_config import TwoViewConfig
    from fer_jax.train.config import TrainConfig

    config = parse_config("bench", argv, TrainConfig, TwoViewConfig)
    if not isinstance(config, TwoViewConfig):
        return config
    own = {name: getattr(config, name) for name in ("data", "backbone", "seed")}
    return dataclasses.replace(config.main, **own)
