"""The training step is traced once, compiled once, and moves nothing that it was not told to."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.labels import label_space
from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig
from fer_jax.train import sharding
from fer_jax.train.config import MeshConfig, TrainConfig
from fer_jax.train.loop import fit
from fer_jax.train.models import Classifier
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.preemption import Notice
from fer_jax.train.rows import Rows
from fer_jax.train.state import create_state
from fer_jax.train.task import make_task

LABELS = label_space("expw")
MODEL = ViTConfig(
    image_size=16, patch_size=8, width=32, depth=2, num_heads=2, num_classes=len(LABELS),
    drop_path=0.1,
)  # fmt: skip
STEPS = 6


class TracedClassifier(Classifier):
    """Counts how often the program of its logits is traced."""

    traces = 0

    def logits(self, params, inputs, key=None):
        type(self).traces += 1
        return super().logits(params, inputs, key)


class Table:
    """What `Rows` needs of a data set."""

    path, label_space, template = Path("drawn"), LABELS, "drawn"

    def __init__(self, number):
        self.index = {"label": np.arange(number, dtype=np.int32) % len(LABELS)}


class Quiet:
    """Stands for the log and the checkpoints: takes everything, keeps what was written."""

    def __init__(self):
        self.written = []

    def write(self, step, group, values):
        self.written.append((step, values["loss"]))

    def advance(self):
        pass

    def say(self, line):
        pass

    def save(self, state, progress):
        pass

    def record(self, step, score):
        pass

    def wait(self):
        pass


def drawn_batches(first):
    for step in itertools.count(first):
        rng = np.random.default_rng(step)
        yield {
            "image": rng.integers(0, 256, (16, 16, 16, 3), np.uint8),
            "label": rng.integers(0, len(LABELS), 16, np.int32),
        }


def make_run(mesh):
    config = TrainConfig(epochs=1, batch_size=16, selection=0.0)
    params = vit.init(MODEL, jax.random.key(0))
    optimizer = make_optimizer(config.optimizer, params, MODEL.depth)
    state = create_state(params, optimizer, mesh)
    data = Table(16 * STEPS)
    rows = Rows(((data, np.arange(16 * STEPS)),), (), LABELS, "drawn", 16 * STEPS)
    model = TracedClassifier(vit.build(MODEL), (127.5,) * 3, (127.5,) * 3)
    task = make_task(
        config, rows, model, optimizer, state, mesh,
        batches=drawn_batches, selection=lambda: iter(()), augment=config.augment,
    )  # fmt: skip
    return task, state


@pytest.fixture
def mesh():
    return sharding.make_mesh(MeshConfig(data=4, fsdp=2))


@pytest.fixture
def compilations(caplog):
    """Names of the programs that XLA compiles meanwhile."""
    jax.config.update("jax_log_compiles", True)
    yield lambda: [
        record.getMessage() for record in caplog.records
        if record.getMessage().startswith("Finished XLA compilation")
    ]  # fmt: skip
    jax.config.update("jax_log_compiles", False)


@pytest.mark.usefixtures("annotations_off")  # `Quiet` stands for other classes
def test_steps_are_traced_once_compiled_once_and_move_only_what_is_told(mesh, compilations):
    task, state = make_run(mesh)
    TracedClassifier.traces = 0
    log = Quiet()
    with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
        fit(
            task, state, Quiet(), log, mesh, Notice(),
            progress={}, log_every=1, checkpoint_every=1,
        )  # fmt: skip
    assert [step for step, _ in log.written] == list(range(1, STEPS + 1))
    assert np.isfinite([loss for _, loss in log.written]).all()
    assert TracedClassifier.traces == 1
    steps = [name for name in compilations() if "train_step" in name]
    assert len(steps) == 1, compilations()


def test_the_guard_sees_what_is_moved_unasked():
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed"):
        jax.jit(jnp.sin)(np.float32(1.0))
