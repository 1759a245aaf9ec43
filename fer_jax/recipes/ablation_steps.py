"""The commands behind a cell of an ablation: stages that cells with the same settings share."""

import dataclasses
import hashlib
import json
import pprint
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax.atomic import atomic_file
from fer_jax.bench.processes import run
from fer_jax.bundle import PARAMS_FILE, bundle_hash
from fer_jax.data.dataset import FaceData
from fer_jax.errors import UsageError
from fer_jax.evaluate.frame_probabilities import FrameProbabilities
from fer_jax.evaluate.table_predictions import table_predictions
from fer_jax.models.fusion import VIEWS
from fer_jax.recipes.ablation_cells import Cell
from fer_jax.recipes.ablation_config import AUGMENTATIONS, LOSSES, AblateConfig
from fer_jax.recipes.stages import Results, Stage
from fer_jax.train.config import TrainConfig
from fer_jax.train.fuse_config import FuseConfig
from fer_jax.train.rows import names_of

# A command's arguments and the file for what it prints -> the peak of its memory, bytes.
Execute = Callable[[Sequence[str], Path], int | None]

_CONFIG = """\
from {module} import default_config


def get_config():
    config = default_config()
    config.update(
{changes}
    )
    return config
"""


def in_a_process(argv: Sequence[str], log: Path) -> int | None:
    """Runs `fer-jax ARGV` in a process of its own."""
    return run([sys.executable, "-m", "fer_jax.cli.main", *argv], log).resident


@dataclasses.dataclass(frozen=True)
class Steps:
    """What one cell needs, for one seed.

    Attributes:
        stages: in their order.
        bundle: what they end in.
        predictions: the file of its probabilities.
        costs: the file of `fer-jax bench bundle`.
    """

    stages: tuple[Stage, ...]
    bundle: Path
    predictions: Path
    costs: Path


class Planner:
    """Makes the stages of cells; equal settings give equal stages, in equal folders."""

    def __init__(self, config: AblateConfig, workdir: Path, execute: Execute = in_a_process):
        """Reads which faces there are.

        Args:
            config: the grid.
            workdir: every stage has a folder in it.
            execute: runs a command.

        Raises:
            FerJaxError: a data set or the backbone cannot be read.
        """
        self._config, self._workdir, self._execute = config, workdir, execute
        self._prints: dict[str, str] = {}
        for name in names_of(f"{config.data},{config.uncleaned},{config.synthetic_data}"):
            self._prints[name] = FaceData.open(name).fingerprint()
        self._backbone = bundle_hash(config.backbone) if config.backbone else ""

    def steps(self, cell: Cell, seed: int) -> Steps:
        """The stages of a cell.

        Args:
            cell: the combination; its smoothing does not matter here.
            seed: of all that is random.
        """
        data = names_of(self._config.data if cell.cleaning == "on" else self._config.uncleaned)
        trained = [*data, *(names_of(self._config.synthetic_data) if float(cell.synthetic) else ())]
        stages: list[Stage] = []
        bundles = []
        for view in cell.parts:
            if cell.encoder == "frozen":
                bundles.append((Path(self._config.backbone), view))
            else:
                stages.append(self._view(cell, view, seed, data, trained))
                bundles.append((self._workdir / stages[-1].name / "bundle", ""))
        names = VIEWS[: len(bundles)]
        patches = cell.fusion == "token"

        def tables(of: Sequence[str], sources: Sequence[tuple[Path, str, str]]) -> list[list[Path]]:
            found = []
            for bundle, view, model in sources:
                made = [self._table(bundle, view, model, name, patches) for name in of]
                stages.extend(made)
                found.append([self._workdir / stage.name for stage in made])
            return found

        sources = [(bundle, view, "main") for bundle, view in bundles]
        if cell.encoder == "end_to_end":
            given = [[bundle] for bundle, _ in bundles]
            stages.append(self._fusion(cell, seed, trained, names, given, _of(stages)))
            bundle = self._workdir / stages[-1].name / "bundle"
            sources = [(bundle, "", name) for name in names]
            found = tables(data[:1], sources)
        elif len(bundles) > 1 or cell.encoder == "frozen":
            found = tables(trained, sources)
            stages.append(self._fusion(cell, seed, trained, names, found, _of(stages)))
            bundle = self._workdir / stages[-1].name / "bundle"
        else:
            found = tables(data[:1], sources)
            ((bundle, _),) = bundles
        own = bundle.parent.name
        predictions = self._workdir / "predictions" / f"{own}.npz"
        costs = self._workdir / "costs" / f"{own}.json"
        scored = {name: paths[0] for name, paths in zip(names, found, strict=True)}
        needs = _of(stages)
        stages.append(self._predictions(predictions, bundle, scored, needs))
        stages.append(self._costs(costs, bundle, needs))
        return Steps(tuple(stages), bundle, predictions, costs)

    def usage(self, stages: Sequence[Stage]) -> tuple[float, int | None]:
        """Seconds of stages that are done, together, and the largest peak of their memory."""
        seconds, peaks = 0.0, []
        for stage in stages:
            path = self._commands(stage.name, "json")
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
                seconds += found["seconds"]
                peaks += [found["peak_bytes"]] * (found["peak_bytes"] is not None)
        return seconds, max(peaks, default=None)

    def _view(self, cell: Cell, view: str, seed: int, data: list[str], trained: list[str]) -> Stage:
        base = self._config.view
        config = dataclasses.replace(
            base,
            data=",".join(trained),
            selection_data=",".join(data) if len(trained) > len(data) else "",
            backbone=self._config.backbone,
            view=view,
            seed=seed,
            loss=dataclasses.replace(base.loss, **LOSSES[cell.loss]),
            augment=dataclasses.replace(base.augment, **AUGMENTATIONS[cell.augmentation]),
            sampling=self._sampling(base.sampling, cell, data),
        )
        return self._training("train", f"views/{view}", config, "fer_jax.train.config", trained)

    def _fusion(
        self,
        cell: Cell,
        seed: int,
        trained: list[str],
        names: Sequence[str],
        sources: list[list[Path]],
        needs: tuple[str, ...],
    ) -> Stage:
        whole = cell.encoder == "end_to_end"
        base = self._config.end_to_end if whole else self._config.fuse
        variant = "main_only" if len(names) == 1 else cell.fusion
        attention = cell.attention if variant == "token" else base.model.attention
        data = names_of(self._config.data if cell.cleaning == "on" else self._config.uncleaned)
        held = data if whole else list(map(str, sources[0][: len(data)]))
        config = dataclasses.replace(
            base,
            data=",".join(trained) if whole else "",
            end_to_end=whole,
            selection_data=",".join(held) if len(trained) > len(data) else "",
            seed=seed,
            sources=",".join(
                f"{name}={path}"
                for name, paths in zip(names, sources, strict=True)
                for path in paths
            ),
            model=dataclasses.replace(base.model, variant=variant, attention=attention),
            loss=dataclasses.replace(base.loss, **LOSSES[cell.loss]),
            augment=dataclasses.replace(base.augment, **AUGMENTATIONS.get(cell.augmentation, {})),
            sampling=self._sampling(base.sampling, cell, data),
        )
        label = f"fusions/{cell.views}-{variant}"
        return self._training("fuse", label, config, "fer_jax.train.fuse_config", trained, needs)

    def _sampling(self, base: Any, cell: Cell, data: list[str]) -> Any:
        """With the share of synthetic faces; real sources keep their shares of the rest."""
        share = float(cell.synthetic)
        if not share:
            return base
        weights: dict[str, float] = {}
        for names, whole in ((data, 1 - share), (names_of(self._config.synthetic_data), share)):
            sources = np.concatenate([_training_sources(name) for name in names])
            kinds, counts = np.unique(sources, return_counts=True)
            for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
                if kind in weights:
                    raise UsageError(
                        f"config.synthetic_data: the source {kind!r} is also that of the other "
                        "faces, so their shares cannot be told apart; prepare it from a folder of "
                        "another name"
                    )
                weights[kind] = whole * count / len(sources)
        text = ",".join(f"{name}={weight:.6g}" for name, weight in weights.items())
        return dataclasses.replace(base, source_weights=text)

    def _training(
        self,
        command: str,
        label: str,
        config: TrainConfig | FuseConfig,
        module: str,
        data: list[str],
        needs: tuple[str, ...] = (),
    ) -> Stage:
        settings = [dataclasses.asdict(config), [self._prints[name] for name in data]]
        settings.append(self._backbone)
        name = f"{label}-{_digest(settings)}"

        def work(results: Results) -> dict[str, Any]:
            file = self._commands(name, "py")
            file.parent.mkdir(parents=True, exist_ok=True)
            changes = pprint.pformat(_differences(config, type(config)()), indent=1, width=88)
            lines = "\n".join(f"        {line}" for line in changes.splitlines())
            file.write_text(_CONFIG.format(module=module, changes=lines), encoding="utf-8")
            self._command(name, [command, f"--config={file}", f"--workdir={self._workdir / name}"])
            return {"sha256": bundle_hash(self._workdir / name / "bundle")}

        made = self._workdir / name / "bundle" / PARAMS_FILE
        return Stage(name, settings, work, needs, (made,))

    def _table(self, bundle: Path, view: str, model: str, data: str, patches: bool) -> Stage:
        of = f"{bundle.parent.name}" if not view else f"frozen-{view}"
        settings = [str(bundle), view, model, data, self._prints[data], patches, self._backbone]
        name = f"tables/{of}-{_digest(settings)}"
        out = self._workdir / name
        argv = ["extract", "--bundle", str(bundle), "--data", data, "--model", model]
        argv += ["--out", str(out), "--overwrite"] + ["--view", view] * bool(view)
        # A map takes as many times the space as there are patches.
        argv += ["--patches", "--dtype", "float16"] * patches

        def work(results: Results) -> dict[str, Any]:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._command(name, argv)
            return {"bundle": bundle_hash(bundle)}

        return Stage(name, settings, work, self._made_by(bundle), (out / "features.json",))

    def _made_by(self, bundle: Path) -> tuple[str, ...]:
        """The stage that makes a bundle; the backbone is there already."""
        if bundle == Path(self._config.backbone):
            return ()
        return (bundle.parent.relative_to(self._workdir).as_posix(),)

    def _predictions(
        self, path: Path, bundle: Path, tables: dict[str, Path], needs: tuple[str, ...]
    ) -> Stage:
        split = self._config.split

        def work(results: Results) -> dict[str, Any]:
            write_predictions(path, table_predictions(bundle, tables, split))
            return {}

        settings = [split, {name: str(table) for name, table in tables.items()}]
        return Stage(f"predictions/{path.stem}", settings, work, needs, (path,))

    def _costs(self, path: Path, bundle: Path, needs: tuple[str, ...]) -> Stage:
        name = f"costs/{path.stem}"

        def work(results: Results) -> dict[str, Any]:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not under the name of the stage: what is measured is no part of the cell's time.
            log = self._commands(name, "log")
            log.parent.mkdir(parents=True, exist_ok=True)
            self._execute(["bench", "bundle", str(bundle), "--out", str(path)], log)
            return {}

        return Stage(name, None, work, needs, (path,))

    def _command(self, name: str, argv: Sequence[str]) -> None:
        """Runs a command, and adds what it took to what earlier tries took."""
        file = self._commands(name, "json")
        file.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        begin, peaks = time.monotonic(), [before.get("peak_bytes")]
        try:
            peaks.append(self._execute(argv, self._commands(name, "log")))
        finally:
            document = {
                "command": ["fer-jax", *argv],
                "seconds": round(before.get("seconds", 0.0) + time.monotonic() - begin, 1),
                "peak_bytes": max(filter(None, peaks), default=None),
            }
            with atomic_file(file) as partial:
                partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def _commands(self, name: str, kind: str) -> Path:
        return self._workdir / "commands" / f"{name.replace('/', '_')}.{kind}"


def write_predictions(path: Path, found: FrameProbabilities) -> None:
    """Keeps predictions for `read_predictions`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            classes=np.array(found.classes),
            video=found.video.astype(np.str_),
            frame=found.frame,
            probabilities=found.probabilities,
        )


def read_predictions(path: Path) -> FrameProbabilities:
    """What `write_predictions` wrote."""
    with np.load(path) as columns:
        return FrameProbabilities(
            tuple(columns["classes"].tolist()),
            columns["video"].astype(object),
            columns["frame"],
            columns["probabilities"],
        )


def _of(stages: Sequence[Stage]) -> tuple[str, ...]:
    return tuple(stage.name for stage in stages)


def _training_sources(name: str) -> np.ndarray:
    index = FaceData.open(name).index
    return index["source"][(index["split"] == "train") & (index["label"] >= 0)]


def _digest(settings: Any) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _differences(config: Any, default: Any) -> dict[str, Any]:
    """The fields that are not the default, nested."""
    found = {}
    for field in dataclasses.fields(config):
        own, usual = getattr(config, field.name), getattr(default, field.name)
        if own == usual:
            continue
        nested = dataclasses.is_dataclass(own)
        found[field.name] = _differences(own, usual) if nested else own
    return found
