"""Meshes, whose rows of a batch are whose, and what a sharded step sends."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from test_plan_compiler import needs_compiler

from fer_jax.models import vit
from fer_jax.models.vit import ViTConfig
from fer_jax.plan import compiler
from fer_jax.plan.collectives import count_collectives
from fer_jax.plan.hlo import parse_hlo
from fer_jax.train import sharding
from fer_jax.train.config import MeshConfig, OptimizerConfig
from fer_jax.train.models import Classifier
from fer_jax.train.optimizer import make_optimizer
from fer_jax.train.state import create_state
from fer_jax.train.steps import Recipe
from fer_jax.train.task import jit_train_step


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_each_device_holds_its_rows_of_the_batch(fsdp):
    mesh = sharding.make_mesh(MeshConfig(fsdp=fsdp))
    np.testing.assert_array_equal(sharding.local_places(mesh, 16), np.arange(16))
    rows = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    whole = sharding.to_global({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(whole, rows)
    for number, device in enumerate(mesh.devices.flat):
        (part,) = [one for one in whole.addressable_shards if one.device == device]
        np.testing.assert_array_equal(part.data, rows[2 * number : 2 * number + 2])


def test_what_every_process_holds_is_spread_by_its_sharding():
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    matrix = np.arange(24, dtype=np.float32).reshape(3, 8)
    split = sharding.spread(matrix, jax.NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    np.testing.assert_array_equal(split, matrix)
    assert {part.data.shape for part in split.addressable_shards} == {(3, 2)}
    assert sharding.spread(np.float32(3), sharding.replicated(mesh)).is_fully_replicated


def test_a_step_gathers_parameters_and_not_activations():
    """Two gathers of each split leaf, forward and backward; activations would be 30 times that."""
    config = ViTConfig(
        image_size=64, patch_size=8, width=64, depth=2, num_heads=4, num_classes=5, pool="avg"
    )
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    params = jax.jit(functools.partial(vit.init, config))(jax.random.key(0))
    optimizer = make_optimizer(OptimizerConfig(), params, config.depth)
    state = create_state(params, optimizer, mesh)
    model = Classifier(vit.build(config), (127.5,) * 3, (127.5,) * 3)
    step = jit_train_step(model, optimizer, Recipe(5), state, mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((64, 64, 64, 3), "uint8"),
        "label": jax.ShapeDtypeStruct((64,), "int32"),
    }
    weights = jax.ShapeDtypeStruct((5,), "float32")
    with jax.set_mesh(mesh):
        lowered = step.lower(state, batch, jax.ShapeDtypeStruct((), "float32"), weights)
        text = lowered.compile().as_text()
    gathered = sum(
        one.size for one in count_collectives(parse_hlo(text), [0] * 8) if one.kind == "all-gather"
    )
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert 0.5 * held < gathered <= 2.2 * held


_SLICES = """
import json
from jax.experimental import topologies
from fer_jax.train.config import MeshConfig
from fer_jax.train.sharding import make_mesh
devices = topologies.get_topology_desc("v5e:4x4", platform="tpu", num_slices=2).devices
found = {}
for fsdp in (1, 4, 16, 32):
    try:
        mesh = make_mesh(MeshConfig(fsdp=fsdp), devices)
        found[fsdp] = [sorted({device.slice_index for device in row}) for row in mesh.devices]
    except Exception as error:
        found[fsdp] = str(error)
print(json.dumps(found))
"""


@needs_compiler
def test_slices_lie_along_the_data_axis():
    """Two slices of 16 chips: no row of `fsdp` crosses from one to the other."""
    done = subprocess.run(
        [sys.executable, "-c", _SLICES],
        env=compiler._environment(compiler.os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["1"] == [[0]] * 16 + [[1]] * 16
    assert found["4"] == [[0]] * 4 + [[1]] * 4
    assert found["16"] == [[0], [1]]
    assert found["32"].startswith("config.mesh.fsdp=32: does not fit into one of 2 slices")
