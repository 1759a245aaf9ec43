"""What a fusion is trained on: for each source a table of features, and its row of each face."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from fer_jax.bundle import bundle_hash, read_document
from fer_jax.data.dataset import FaceData
from fer_jax.data.features import FeatureTable, joined
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.train import processes
from fer_jax.train.extract import extract
from fer_jax.train.fuse_config import FuseConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of features.

    Attributes:
        name: such as `main`.
        table: its features.
        parts: the tables that it is joined of.
        rows: its row of each face of the first source.
        bundle: the bundle that makes such features, if it is still there.
        model: which of its encoders.
        view: what was cut from the faces; empty where there is no bundle.
    """

    name: str
    table: FeatureTable
    parts: tuple[FeatureTable, ...]
    rows: Int64[np.ndarray, "n"]
    bundle: Path | None
    model: str
    view: str


def parse(text: str) -> dict[str, list[Path]]:
    """`main=PATH,aux=PATH` by name, in order; a name may stand there for several paths.

    Raises:
        UsageError: it cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, path = (word.strip() for word in part.partition("="))
        if not name.isidentifier() or not path or name in ("label", "mask"):
            raise UsageError(
                f"config.sources={text!r}: {part!r} is not one name=path; "
                "write them as in main=run/main/bundle,aux=run/aux/bundle"
            )
        found.setdefault(name, []).append(Path(path))
    if not found:
        raise UsageError("config.sources is empty; write main=PATH,aux=PATH")
    return found


def open_sources(config: FuseConfig, workdir: Path, *, patches: bool) -> list[Source]:
    """Opens all sources; features of bundles are extracted into `workdir/features` first.

    Of several processes the first one extracts.

    Args:
        config: the run.
        workdir: of the run.
        patches: maps of patches are fused, and not pooled features.

    Returns:
        The sources, the main one first.

    Raises:
        UsageError: `config.sources` cannot be read.
        FerJaxError: a source is none of the three kinds, faces are missing from it, or the first
            one knows no labels.
    """
    found: list[Source] = []
    wanted = parse(config.sources)
    with processes.first_goes_before("features"):
        tables = {
            name: _tables(config, name, paths, workdir / "features", patches)
            for name, paths in wanted.items()
        }
    for name, parts in tables.items():
        path = wanted[name][0]
        table = joined(parts)
        if (table.features.ndim == 4) != patches:
            have, want = ("maps", "pooled features") if not patches else ("pooled features", "maps")
            raise FerJaxError(
                f"{path}: holds {have}, where config.model.variant={config.model.variant} takes "
                f"{want}; extract {'with' if patches else 'without'} --patches"
            )
        if not found and table.label_space is None:
            raise FerJaxError(
                f"{path}: knows no labels, which the first source must; put a bundle or a table of "
                "`fer-jax extract` first"
            )
        keys = found[0].table.index["key"] if found else table.index["key"]
        rows = np.arange(len(table)) if not found else table.rows_of(keys)
        found.append(Source(name, table, tuple(parts), rows, *_maker(table)))
    return found


def _tables(
    config: FuseConfig, name: str, paths: list[Path], folder: Path, patches: bool
) -> list[FeatureTable]:
    """The tables of one source; a bundle makes one of each data set."""
    if not (paths[0] / "bundle.json").is_file():
        return [FeatureTable.open(path) for path in paths]
    sets = [part.strip() for part in config.data.split(",") if part.strip()]
    if not sets or len(paths) > 1:
        raise UsageError(
            f"config.sources: {paths[0]} is a bundle, so config.data must be named"
            if not sets
            else f"config.sources: {name} is a bundle and something else; name one bundle, or "
            "tables of several data sets"
        )
    outs = [folder / (f"{name}-{number}" if number else name) for number in range(len(sets))]
    return [
        _of_bundle(name, paths[0], data, out, patches) for data, out in zip(sets, outs, strict=True)
    ]


def _of_bundle(name: str, bundle: Path, data: str, out: Path, patches: bool) -> FeatureTable:
    """The table of a bundle, made unless it is there already."""
    configs, _, _ = read_document(bundle)
    model = name if name in configs else "main"
    if out.exists():
        about = FeatureTable.open(out).about
        if (
            about["bundle"]["sha256"] == bundle_hash(bundle)
            and about["bundle"]["model"] == model
            and about["data"]["fingerprint"] == FaceData.open(data).fingerprint()
            and about["kind"] == ("patches" if patches else "pooled")
        ):
            return FeatureTable.open(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return extract(bundle, data, out, model=model, patches=patches, overwrite=True, progress=True)


def _maker(table: FeatureTable) -> tuple[Path | None, str, str]:
    """The bundle that made a table, which of its models, of which view; where that is still so."""
    about = table.about.get("bundle")
    if about is None:
        return None, "", ""
    path = Path(about["path"])
    same = (path / "bundle.json").is_file() and bundle_hash(path) == about["sha256"]
    return (path if same else None), about["model"], table.about["view"]
