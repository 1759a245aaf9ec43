"""`fer-jax bench WHAT`: measures this machine, and says which bounds hold."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from fer_jax.cli.bench_options import parser_of_bench
from fer_jax.errors import UsageError

_CLASSES = 8  # of a model that is not trained


def main(argv: Sequence[str]) -> int:
    """Runs the command; see `fer-jax bench --help`."""
    parser = parser_of_bench()
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
        "video": _video,
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


def _video(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from fer_jax.bench.video import bench_video, draw_stages, table

    found = bench_video(
        options.video,
        bundle=options.bundle,
        search_every=options.search_every,
        dtype=options.dtype,
        peer_python=options.peer,
        repeats=options.repeats,
    )
    if options.picture:
        draw_stages(found, options.picture)
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
