"""`fer-jax plan`: its answers, its files, its errors; and the real TPU compiler where it is."""

import dataclasses
import importlib.util
import io
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from fer_jax.cli.main import main
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.plan import compiler, run, worker
from fer_jax.plan.chips import ENVIRONMENT, GIB, parse_topology
from fer_jax.plan.picture import memory_parts
from fer_jax.plan.steps import planned
from fer_jax.train.config import MeshConfig, ModelConfig, TrainConfig

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="libtpu, the TPU compiler, is absent")
TINY = """\
from fer_jax.train.config import default_config

def get_config():
    config = default_config()
    config.batch_size = 16
    config.model.update(width=64, depth=2, num_heads=2, image_size=32, patch_size=16)
    return config
"""
FUSE = """\
from fer_jax.train.fuse_config import default_config

def get_config():
    config = default_config()
    config.model.variant = "linear"
    return config
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    return f"--config={tmp_path / 'tiny.py'}"


def invented(step, topology, num_classes, program="train"):
    """Answers as the compiler's process gives them: 0.1 GiB for each face of a chip, and 1 GiB."""
    size = step.config.batch_size
    own = {"params": GIB // 4, "optimizer": GIB // 2, "batch": size * 1000}
    found = {
        "batch_size": size,
        "mesh": {"data": topology.chips, "fsdp": 1},
        "parameters": 1234,
        "unsharded": ["head/kernel"],
        "arithmetic": own,
        "flops": {"counted": 2e12, "formula": 1.99e12},
        "needed": GIB + size * GIB // (10 * topology.chips),
    }
    if found["needed"] > 15 * GIB:
        return found | {"fits": False, "limit": 15 * GIB}
    memory = {"arguments": GIB, "outputs": GIB, "aliased": GIB, "code": 0}
    memory["temporaries"] = found["needed"] - GIB
    line = {"compute": 2e-3, "memory": 3e-3, "links": 1e-3, "network": 0.0, "step": 3e-3}
    return found | {
        "fits": True,
        "memory": memory,
        "traffic": 10**9,
        "collectives": [
            {"kind": "all-reduce", "between_slices": False, "count": 3, "size": 2**20, "sent": 9}
        ],
        "unknown_loops": 0,
        "roofline": line | {"bound": "memory"},
        "compile_seconds": 1.0,
    }


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.setattr(run, "ask", invented)
    monkeypatch.setattr(run, "check_compiler", lambda: None)
    version = run.metadata.version
    monkeypatch.setattr(
        run.metadata, "version", lambda name: "0" if name == "libtpu" else version(name)
    )


def test_a_plan_in_words(config, without_compiler, capsys):
    assert main(["plan", config, "--topology=v5e:2x2"]) == 0
    text = capsys.readouterr().out
    assert "4 chips with 16 GiB each" in text
    assert "1,234 parameters" in text
    assert "3, 1.0 MiB" in text
    assert "Copied to every chip, for no dimension divides: head/kernel" in text
    # 0.1 GiB for a face of a chip: 140 fit into 15 GiB beside the first one.
    size = int(text.split("Largest batch that fits: ")[1].split()[0])
    assert 0.94 * 560 <= size <= 560


def test_a_plan_for_programs_and_its_files(config, without_compiler, capsys, monkeypatch, tmp_path):
    out = tmp_path / "plan"
    assert main(["plan", config, "--alternatives", "--json", f"--out={out}"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert json.loads((out / "plan.json").read_text()) == plan
    assert (out / "plan.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "plan.md").read_text()
    assert "| fits | yes | yes |" in page
    assert "full | unrolled" in page
    (step,) = plan["steps"]
    assert [(one["remat"], one["scan_layers"]) for one in step["alternatives"]] == [
        (remat, scan) for scan in (True, False) for remat in ("none", "full", "dots")
    ]
    assert [one["configured"] for one in step["alternatives"]] == [True] + 5 * [False]
    # The same folder is not written over unasked, and nothing is compiled in vain.
    monkeypatch.setattr(run, "ask", None)
    assert main(["plan", config, f"--out={out}"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_what_does_not_fit_is_an_answer_with_the_batch_that_would(config, without_compiler, capsys):
    arguments = ["plan", config, "--topology=v5e:2x2", "--config.batch_size=4096", "--no-search"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "DOES NOT FIT" in text
    size = int(text.split("Largest batch that fits: ")[1].split()[0])
    assert 0.94 * 560 <= size <= 560
    assert main([*arguments, "--require-fit"]) == 1
    assert "does not fit v5e:2x2" in capsys.readouterr().err


def test_the_parts_of_the_picture_add_up():
    (step,) = planned(TrainConfig(batch_size=16))
    fits = invented(step, parse_topology("v5e:4x4"), 8)
    assert sum(memory_parts(fits).values()) == fits["needed"]
    (step,) = planned(TrainConfig(batch_size=4096))
    refused = invented(step, parse_topology("v5e:4x4"), 8)
    assert sum(memory_parts(refused).values()) == refused["needed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v9:2x2"], "must begin with one of v4, v5e, v5p, v6e"),
        (["--slices=0"], "--slices 0"),
        (["--classes=0"], "--classes 0"),
        (["--widths=main"], "write them as in main=768,aux=768"),
        (["--config.model.wdth=3"], "did you mean config.model.width?"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_wrong_use(config, arguments, message, capsys):
    assert main(["plan", config, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_config_that_is_not_there(capsys):
    assert main(["plan", "--config=nowhere.py"]) == 2
    assert "nowhere.py: no such file" in capsys.readouterr().err


def test_without_the_compiler_it_says_how_to_get_it(config, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name)
    )
    assert main(["plan", config]) == 2
    assert 'pip install "fer-jax[tpu-plan]"' in capsys.readouterr().err


def test_a_process_that_crashes_is_told_in_one_line(monkeypatch):
    (step,) = planned(TrainConfig(batch_size=48))
    code = "import sys; print('its last words', file=sys.stderr); sys.exit(3)"
    real = subprocess.run
    monkeypatch.setattr(
        compiler.subprocess,
        "run",
        lambda argv, **options: real([sys.executable, "-c", code], **options),
    )
    with pytest.raises(FerJaxError, match="exit code 3: its last words"):
        compiler.ask(step, parse_topology("v5e:2x2"), 8)


def test_the_environment_of_the_process(monkeypatch):
    """Whatever runs here, the compiler's process is on the CPU, with nothing of a real TPU."""
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("TPU_NAME", "real")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    seen = compiler._environment({**compiler.os.environ, "HOME": "h"})
    assert {name: seen[name] for name in ENVIRONMENT} == ENVIRONMENT
    assert "TPU_NAME" not in seen
    assert "XLA_FLAGS" not in seen
    assert seen["HOME"] == "h"


def request(program="train", **fields):
    model = ModelConfig(width=64, depth=2, num_heads=2, image_size=32, patch_size=16)
    config = TrainConfig(**{"batch_size": 16, "model": model, **fields})
    return {
        "kind": "finetune",
        "config": dataclasses.asdict(config),
        "widths": {},
        "classes": 8,
        "topology": "v5e:2x4",
        "slices": 1,
        "program": program,
    }


@pytest.fixture
def eight_cpus(monkeypatch):
    """The worker's own work, without the TPU compiler."""
    described = types.SimpleNamespace(devices=jax.devices())
    monkeypatch.setattr(
        worker.topologies, "get_topology_desc", lambda name, platform, **options: described
    )


def needed(memory):
    return sum(memory.values()) - 2 * memory["aliased"]


def test_the_answer_of_the_process(eight_cpus):
    found = worker.answer(request())
    assert json.loads(json.dumps(found)) == found
    assert found["mesh"] == {"data": 8, "fsdp": 1}
    # No tiles on a CPU: what is passed is what the arithmetic says, and the rate and the weights.
    assert found["memory"]["arguments"] == sum(found["arithmetic"].values()) + 4 + 8 * 4
    assert found["needed"] == needed(found["memory"])
    # Every gradient is summed over the chips once; besides, some single numbers.
    (reduced,) = found["collectives"]
    gradients = 4 * found["parameters"]
    assert reduced["kind"] == "all-reduce"
    assert gradients <= reduced["size"] <= gradients + 100
    assert found["roofline"]["compute"] == found["flops"]["counted"] / 8 / 197e12


@pytest.mark.slow
def test_the_answer_where_parameters_are_sharded_or_only_run(eight_cpus):
    found = worker.answer(request(mesh=MeshConfig(fsdp=8)))
    assert found["mesh"] == {"data": 1, "fsdp": 8}
    assert found["memory"]["arguments"] == sum(found["arithmetic"].values()) + 4 + 8 * 4
    assert "all-gather" in {one["kind"] for one in found["collectives"]}
    evaluated = worker.answer(request("evaluate"))
    assert evaluated["flops"]["counted"] < found["flops"]["counted"] / 2
    # The optimiser's state is no argument, but it lies there.
    kept = evaluated["arithmetic"]
    assert evaluated["memory"]["arguments"] == kept["params"] + kept["batch"]
    assert evaluated["needed"] == needed(evaluated["memory"]) + kept["optimizer"]


def test_the_compilers_refusal_is_an_answer(eight_cpus, monkeypatch):
    def refuse(self):
        raise jax.errors.JaxRuntimeError(
            "Ran out of memory on HBM, the total memory required for HLO temporaries (17.50G) "
            "exceeds available HBM (15.75G)."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    for program in ("train", "evaluate"):
        found = worker.answer(request(program))
        assert not found["fits"]
        # Evaluated or trained, parameters, optimiser and batch lie there besides.
        assert found["needed"] == int(17.5 * GIB) + sum(found["arithmetic"].values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh": MeshConfig(fsdp=3)}, "fsdp=3 does not cover 8 devices"),
        ({"mesh": MeshConfig(data=2)}, "data=2 x fsdp=1 does not cover 8 devices"),
        ({"batch_size": 20}, "config.batch_size=20: must be a multiple of the 8 devices"),
    ],
)
def test_what_does_not_go_with_the_chips(eight_cpus, fields, message):
    with pytest.raises(UsageError, match=message):
        worker.answer(request(**fields))


def test_errors_of_the_process_are_answers(eight_cpus, monkeypatch, capsys):
    def said(text):
        monkeypatch.setattr(worker.sys, "stdin", io.StringIO(json.dumps(text)))
        worker.main()
        return json.loads(capsys.readouterr().out)

    wrong = said(request(batch_size=20))
    assert wrong["usage"]
    assert "multiple of the 8 devices" in wrong["error"]
    absent = said(request(backbone="nowhere"))
    assert not absent["usage"]
    assert "nowhere: no bundle" in absent["error"]


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


def test_the_page_names_real_commands():
    page = (Path(__file__).parent.parent / "docs" / "plan.md").read_text()
    assert "fer-jax plan --config=configs/" in page
    assert "make campaign-plan" in page
