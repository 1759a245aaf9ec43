"""Goes from drawn faces to predictions by the commands, and ends with a report.

The checkpoint that is converted holds random weights under PyTorch's names: it stands where a
user's own file would, so the scores are those of a tiny model trained from scratch.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import config_dict
from safetensors.numpy import save_file

from fer_jax.cli.main import main as command
from fer_jax.data.synthetic import write_synthetic_faces
from fer_jax.errors import FerJaxError
from fer_jax.models import torch_layout, vit
from fer_jax.models.positions import sincos_positions
from fer_jax.models.vit import ViTConfig
from fer_jax.train.config import default_config, freeze
from fer_jax.train.finetune import finetune

# Eyes and mouth in four by four patches: whatever moves is seen large, and minutes are enough.
MODEL = ViTConfig(image_size=48, patch_size=12, width=96, depth=3, num_heads=3)
IDENTITIES, IMAGES_PER_IDENTITY, VALIDATION = 400, 16, 0.2
FACE = 80  # pixels: the view's width is then the model's


def demo_config() -> config_dict.ConfigDict:
    """The training run of the demo; data and backbone are filled in when it runs."""
    config = default_config()
    config.view = "eyes_mouth"
    config.epochs = 50
    config.batch_size = 64
    config.selection = 0.1
    config.checkpoint_every = 10
    config.workers = 1  # decodes beside the training: half as fast again on two cores
    config.model.pool = "cls"
    config.model.drop_path = 0.0
    config.model.head_init = 0.05
    config.model.scan_layers = False
    config.augment.crop_scale = (0.85, 1.0)
    config.augment.crop_ratio = (0.95, 1.05)
    config.optimizer.learning_rate = 8e-3  # for 256 faces; 2e-3 for these 64
    config.optimizer.layer_decay = 1.0
    config.optimizer.warmup_epochs = 1.0
    config.loss.label_smoothing = 0.1
    config.license = "Apache-2.0: trained on drawn faces"
    return config


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the demo as the report tells it."""

    title: str
    shown: str
    seconds: float


class _Teller:
    """Prints each step before it runs, and keeps what it took."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def python(self, title: str, shown: str, run) -> None:
        print(f"\n{len(self.steps) + 1}. {title}\n   {shown}", flush=True)
        start = time.perf_counter()
        run()
        self.steps.append(Step(title, shown, time.perf_counter() - start))

    def command(self, title: str, arguments: Sequence[str], shown: str = "") -> None:
        def run() -> None:
            code = command(list(arguments))
            if code:
                raise FerJaxError(f"the demo stopped: `fer-jax {arguments[0]}` answered {code}")

        self.python(title, f"$ fer-jax {shown or ' '.join(arguments)}", run)


def run_demo(
    out: str | Path,
    *,
    identities: int = IDENTITIES,
    images_per_identity: int = IMAGES_PER_IDENTITY,
    epochs: int | None = None,
    seed: int = 0,
) -> Path:
    """Runs the demo.

    Args:
        out: folder for everything it makes; must be absent or empty.
        identities: drawn people, a fifth of them only for scoring.
        images_per_identity: pictures of each.
        epochs: of training; none for the config's.
        seed: of the faces and of training.

    Returns:
        The path of report.html.

    Raises:
        FerJaxError: the folder is in use, or a step failed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FerJaxError(f"{out}: exists already; remove it, or name another --out")
    faces, data, backbone, run = (str(out / n) for n in ("faces", "data", "backbone", "run"))
    checkpoint, scores, table = (
        str(out / n) for n in ("checkpoint.safetensors", "scores", "predictions.csv")
    )
    bundle = f"{run}/bundle"
    config = demo_config()
    fields = {"data": data, "backbone": backbone}
    if seed:
        fields["seed"] = seed
    if epochs is not None:
        fields["epochs"] = epochs
        fields["optimizer.warmup_epochs"] = min(config.optimizer.warmup_epochs, epochs / 4)
    config.update_from_flattened_dict(fields)
    config = freeze(config)
    overrides = " ".join(f"--config.{name}={value}" for name, value in fields.items())
    out.mkdir(parents=True, exist_ok=True)
    teller = _Teller()
    teller.python(
        f"Draw {identities * images_per_identity:,} faces of {identities} people "
        "in eight expressions",
        f'write_synthetic_faces("{faces}", identities={identities}, '
        f"images_per_identity={images_per_identity}, size={FACE}, seed={seed})",
        lambda: write_synthetic_faces(
            faces,
            identities=identities,
            images_per_identity=images_per_identity,
            size=FACE,
            seed=seed,
            validation_fraction=VALIDATION,
        ),
    )
    teller.command(
        "Store them as a data set that trains fast",
        ["prepare", "images", faces, "--csv", f"{faces}/labels.csv", "--labels",
         "affwild2_expr", "--template", "drawn", "--out", data],
    )  # fmt: skip
    teller.python(
        "Write a checkpoint as PyTorch would: random weights, MAE's names",
        f'save_file(to_torch_layout(params), "{checkpoint}")',
        lambda: _write_checkpoint(checkpoint, seed),
    )
    teller.command(
        "Convert it",
        ["convert", checkpoint, backbone, "--normalize", "imagenet", "--heads",
         str(MODEL.num_heads), "--license", "Apache-2.0"],
    )  # fmt: skip
    teller.python(
        "Fine-tune it",
        f"$ fer-jax train --config=configs/demo.py {overrides} --workdir={run}",
        lambda: finetune(config, run),
    )
    teller.command(
        "Score it on people that it never saw",
        ["evaluate", "--bundle", bundle, "--data", data, "--split", "validation", "--out", scores],
    )
    chosen = _some_faces(Path(faces), seed)
    teller.command(
        "Name the expressions of some of them",
        ["predict", *map(str, chosen), "--crops", "--bundle", bundle, "--out", table],
        shown=f"predict {chosen[0]} ... --crops --bundle {bundle} --out {table}",
    )
    from fer_jax.demo.report import write_report

    report = out / "report.html"
    write_report(report, out, teller.steps, chosen)
    return report


def _write_checkpoint(path: str, seed: int) -> None:
    """Random weights with MAE's positions; patches are kept small beside those.

    A model this small, trained for minutes, otherwise spends most of them finding out where each
    patch is.
    """
    params = vit.init(MODEL, jax.random.key(seed))
    params["pos_embed"] = 0.7 * sincos_positions(MODEL.width, MODEL.grid)
    params["patch_embed"]["kernel"] = 0.3 * params["patch_embed"]["kernel"]
    save_file(dict(torch_layout.to_torch_layout(params, MODEL)), path)


def _some_faces(faces: Path, seed: int) -> list[Path]:
    """Three unseen faces of each class, in the order of the classes."""
    rng = np.random.default_rng(seed)
    chosen = []
    for folder in sorted((faces / "validation").iterdir()):
        pictures = sorted(folder.glob("*.png"))
        picked = rng.choice(len(pictures), size=min(3, len(pictures)), replace=False)
        chosen += [pictures[i] for i in picked]
    return chosen
