"""docs/clusters.md: its fields exist, its scripts are bash and do what the page says."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from fer_jax.recipes.two_view_config import TwoViewConfig
from fer_jax.train.config import TrainConfig
from fer_jax.train.config_fields import check_field

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
LOOP = next(block for block in BLOCKS if block.startswith("until"))
JOB = next(block for block in BLOCKS if "#SBATCH" in block)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:30])
def test_scripts_are_bash(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fields_and_files_exist():
    fields = set(re.findall(r"(?<!-)config\.[a-z_.]+[a-z]", TEXT))
    for name in fields:
        check_field(TrainConfig, name)
    commands = re.findall(r"(?s)fer-jax train .*?(?=\n\n|```|;|'\n)", TEXT)
    assert len(commands) >= 5
    for command in commands:
        (config,) = re.findall(r"--config=(\S+)", command)
        assert (ROOT / config).exists()
        kind = TwoViewConfig if "emotic_mae" in config else TrainConfig
        for name in re.findall(r"--(config\.[a-z_.]+)=", command):
            check_field(kind, name)
    for path in re.findall(r"`(tests/\S+?)`", TEXT):
        assert (ROOT / path).exists()


@pytest.fixture
def stand_in(tmp_path):
    """Programs by the names that the scripts call; `fer-jax` ends with the codes of a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "fer-jax": 'code=$(head -n1 codes); sed -i 1d codes; echo "$@" >> calls; exit "$code"',
        "srun": 'while [ "$1" != fer-jax ]; do shift; done; "$@"',
        "scontrol": 'echo "scontrol $@" >> calls',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)

    def run(script, codes):
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
        (tmp_path / "calls").write_text("")
        environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
        }
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment)
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


def test_the_loop_goes_on_after_75_and_ends_otherwise(stand_in):
    code, calls = stand_in(LOOP, [75, 143, 0])
    assert (code, len(calls)) == (0, 3)
    assert len(set(calls)) == 1
    code, calls = stand_in(LOOP, [75, 1, 0])
    assert (code, len(calls)) == (1, 2)


def test_the_job_puts_itself_back_into_the_queue_after_75(stand_in):
    code, calls = stand_in(JOB, [75])
    assert code == 0
    assert calls[-1] == "scontrol requeue 7"
    for ends in (0, 1):
        code, calls = stand_in(JOB, [ends])
        assert (code, len(calls)) == (ends, 1)
