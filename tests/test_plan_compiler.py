"""The real TPU compiler, where it is installed: plans of tiny models, and what it refuses."""

import importlib.util
import json
import subprocess
import sys

import pytest

from fer_jax.cli.main import main
from fer_jax.errors import UsageError
from fer_jax.plan import compiler
from fer_jax.plan.chips import GIB, parse_topology
from fer_jax.plan.steps import planned
from fer_jax.train.config import MeshConfig, ModelConfig, TrainConfig
from fer_jax.train.pretrain_config import MAEModelConfig, PretrainConfig

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="libtpu, the TPU compiler, is absent")
FUSE = """\
from fer_jax.train.fuse_config import default_config

def get_config():
    config = default_config()
    config.model.variant = "linear"
    return config
"""


@needs_compiler
def test_a_grid_that_the_compiler_does_not_know():
    (step,) = planned(TrainConfig(batch_size=15))
    with pytest.raises(UsageError, match=r"--topology v5e:3x5: .*not divisible"):
        compiler.ask(step, parse_topology("v5e:3x5"), 8)


@needs_compiler
@pytest.mark.slow
def test_the_real_compiler_plans_a_fusion(tmp_path, capsys):
    (tmp_path / "fuse.py").write_text(FUSE)
    arguments = ["plan", f"--config={tmp_path / 'fuse.py'}", "--topology=v5e:2x2", "--no-search"]
    assert main([*arguments, "--widths=main=256,aux=128", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    train = step["train"]
    assert train["fits"]
    assert train["parameters"] == (256 + 128) * 8 + 8
    # Gradients are summed over the chips, once each.
    reduced = {one["kind"]: one["size"] for one in train["collectives"]}["all-reduce"]
    assert reduced >= 4 * train["parameters"]
    # Tiles are padded: at most to 128 columns, where the head has 8.
    whole = sum(train["arithmetic"].values())
    assert whole <= train["memory"]["arguments"] <= 20 * whole


_PLANTED = """
import sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from fer_jax.plan.chips import parse_topology
from fer_jax.plan.collectives import count_collectives
from fer_jax.plan.hlo import parse_hlo
from fer_jax.plan.worker import topology_mesh
from fer_jax.train.config import MeshConfig

mesh = topology_mesh(parse_topology("v5e:2x2"), MeshConfig(fsdp=2))
batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
copied = NamedSharding(mesh, PartitionSpec())

def step(x, weights):
    def layer(x, w):
        y = jnp.tanh(x @ w)
        if sys.argv[1] == "planted":
            y = jax.lax.with_sharding_constraint(y, copied)
        return jax.lax.with_sharding_constraint(jnp.sin(y), batch), None
    return jax.lax.scan(layer, x, weights)[0]

shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((512, 256), (5, 256, 256))]
jitted = jax.jit(step, in_shardings=(batch, copied), out_shardings=batch)
text = jitted.lower(*shapes).compile().as_text()
print([(one.kind, one.count, one.size) for one in count_collectives(parse_hlo(text), [0] * 4)])
"""


@needs_compiler
@pytest.mark.parametrize("planted", ["clean", "planted"])
def test_a_planted_all_gather_is_seen_in_a_tpu_program(planted):
    done = subprocess.run(
        [sys.executable, "-c", _PLANTED, planted],
        env=compiler._environment(compiler.os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    found = eval(done.stdout.splitlines()[-1])
    size = 5 * 512 * 256 * 4
    assert found == ([("all-gather", 5, size)] if planted == "planted" else [])


@needs_compiler
@pytest.mark.slow
def test_the_real_compiler_plans_a_vit_and_refuses_one_that_is_too_large():
    topology = parse_topology("v5e:2x2")
    model = ModelConfig(width=128, depth=2, num_heads=2, image_size=64, dtype="bfloat16")
    kept = {}
    for fsdp in (1, 4):
        (step,) = planned(TrainConfig(batch_size=16, model=model, mesh=MeshConfig(fsdp=fsdp)))
        found = compiler.ask(step, topology, 8)
        assert found["fits"]
        kept[fsdp] = found["arithmetic"]["params"] + found["arithmetic"]["optimizer"]
        # Tiles are padded, the more the smaller the parts are: 1.1 and 1.6 times here.
        whole = sum(found["arithmetic"].values())
        assert whole <= found["memory"]["arguments"] <= 2 * whole
        kinds = {one["kind"] for one in found["collectives"]}
        assert ("all-gather" in kinds) == (fsdp > 1)
    assert kept[1] / kept[4] == pytest.approx(4, rel=0.1)
    refused = compiler.ask(step.with_fields(batch_size=400_000), topology, 8)
    assert not refused["fits"]
    assert refused["needed"] > refused["limit"] > 15 * GIB


@needs_compiler
@pytest.mark.slow
def test_the_real_compiler_plans_pretraining():
    topology = parse_topology("v5e:2x2")
    model = MAEModelConfig(
        width=128, depth=2, num_heads=2, decoder_width=128, decoder_depth=1, decoder_num_heads=2,
        image_size=64, dtype="bfloat16",
    )  # fmt: skip
    kept, temporaries = {}, {}
    for fsdp, parts in ((1, 1), (4, 1), (1, 4)):
        mesh = MeshConfig(fsdp=fsdp)
        config = PretrainConfig(batch_size=256, model=model, mesh=mesh, accumulate=parts)
        (step,) = planned(config)
        found = compiler.ask(step, topology, 8)
        assert found["fits"]
        kept[fsdp] = found["arithmetic"]["params"] + found["arithmetic"]["optimizer"]
        temporaries[fsdp, parts] = found["memory"]["temporaries"]
        assert found["flops"]["counted"] == pytest.approx(found["flops"]["formula"], rel=0.03)
        kinds = {one["kind"] for one in found["collectives"]}
        assert ("all-gather" in kinds) == (fsdp > 1)
    assert kept[1] / kept[4] == pytest.approx(4, rel=0.1)
    assert temporaries[1, 4] < temporaries[1, 1] / 2
    evaluated = compiler.ask(step, topology, 8, "evaluate")
    assert evaluated["fits"]
    assert evaluated["flops"]["counted"] < found["flops"]["counted"] / 2
