"""`fer-jax plan`: its answers, its files, its errors; without the TPU compiler."""

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

TINY = """\
from fer_jax.train.config import default_config

def get_config():
    config = default_config()
    config.batch_size = 16
    config.model.update(width=64, depth=2, num_heads=2, image_size=32, patch_size=16)
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
    assert "| full | unrolled | 1 |" in page
    (step,) = plan["steps"]
    policies, parts = step["alternatives"][:6], step["alternatives"][6:]
    assert [(one["remat"], one["scan_layers"]) for one in policies] == [
        (remat, scan) for scan in (True, False) for remat in ("none", "full", "dots")
    ]
    assert {one["accumulate"] for one in policies} == {1}
    assert [one["configured"] for one in step["alternatives"]] == [True] + 5 * [False]
    assert parts == []  # 16 faces on 16 chips
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


def test_the_batch_in_other_parts(config, without_compiler, capsys, monkeypatch):
    """Only in those that the chips can share; and no batch is tried that the run would refuse."""
    asked = []

    def in_parts(step, topology, num_classes, program="train"):
        own = step.config
        assert own.batch_size % (topology.chips * own.accumulate) == 0
        asked.append((own.batch_size, own.accumulate, own.model.remat, own.model.scan_layers))
        return invented(step.with_fields(batch_size=own.batch_size // own.accumulate), topology, 8)

    monkeypatch.setattr(run, "ask", in_parts)
    fields = ["--config.batch_size=48", "--config.accumulate=2", "--config.model.remat=dots"]
    arguments = ["plan", config, "--topology=v5e:2x2", "--alternatives", *fields]
    assert main([*arguments, "--no-search", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert [one["accumulate"] for one in step["alternatives"]] == [2] * 6 + [1, 4]
    assert asked[-2:] == [(48, 1, "dots", True), (48, 4, "dots", True)]
    in_one, in_four = step["alternatives"][6:]
    assert in_one["needed"] > step["train"]["needed"] > in_four["needed"]
    assert [one["configured"] for one in step["alternatives"]].index(True) == 2
    assert main(arguments) == 0
    text = capsys.readouterr().out
    # 0.1 GiB for a face of a chip, half of them at a time.
    size = int(text.split("Largest batch that fits: ")[1].split()[0].replace(",", ""))
    assert 0.94 * 1120 <= size <= 1120


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


def test_the_page_names_real_commands():
    page = (Path(__file__).parent.parent / "docs" / "plan.md").read_text()
    assert "fer-jax plan --config=configs/" in page
    assert "make campaign-plan" in page


def test_the_campaign_adds_rows_in_their_place():
    """A row of the same config, step and topology is replaced; all others stay as they are."""
    from plan_campaign import add, plan_place

    head = ["| config | step | topology | batch |", "|---|---|---|---|"]

    def row(config, step, topology, batch):
        return f"| {config} | {step} | {topology} | {batch} |"

    old = [
        row("emotic_mae", "main, train", "v5e:4x4", 1),
        row("ablate", "view, train", "v5e:4x4", 2),
        row("emotic_mae", "main, train", "v6e:4x4", 3),
    ]
    page = "\n".join(["before", "<!-- t -->", "", *head, *old, "", "<!-- end of t -->", "after"])
    new = [
        row("pretrain_tiny", "pre-train, train", "v5e:4x4", 4),
        row("pretrain_mae_vit_base", "pre-train, train", "v5e:4x4", 5),
        row("ablate", "view, train", "v5e:4x4", 6),
    ]
    found = add(page, "t", [*head, *new], 3, plan_place)
    rows = [old[0], new[1], new[2], new[0], old[2]]
    whole = ["before", "<!-- t -->", "", *head, *rows, "", "<!-- end of t -->", "after"]
    assert found == "\n".join(whole)
    assert add(found, "t", head, 3, plan_place) == found
