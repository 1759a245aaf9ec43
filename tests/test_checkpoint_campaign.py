"""A sample of the campaign of mutated checkpoints, and that the campaign can fail at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent
TOOLS = FOLDER.parent / "tools"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


def test_mutated_checkpoints_are_refused_or_read_rightly(capsys):
    import checkpoint_campaign

    status = checkpoint_campaign.main(["--count", "200", "--seed", "2", "--workers", "1"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "0 of 200 failed" in printed
    for kind in checkpoint_campaign.KINDS:
        assert f"| {kind.name} |" in printed


def test_a_number_makes_one_file():
    from checkpoint_campaign import KINDS, make_file

    files = [make_file(5, number) for number in range(len(KINDS))]
    assert [kind for kind, _, _ in files] == list(KINDS)
    assert files == [make_file(5, number) for number in range(len(KINDS))]
    assert make_file(6, 0)[1] != files[0][1]


def test_the_second_reader_agrees_on_honest_files(tmp_path):
    from checkpoint_oracle import read_independently
    from checkpoint_seeds import make_seeds

    from fer_jax.convert.checkpoint import open_checkpoint

    for seed in make_seeds():
        path = tmp_path / "file"
        path.write_bytes(seed.data)
        checkpoint = open_checkpoint(path)
        found = read_independently(path, checkpoint.source_keys)
        assert found.keys() == checkpoint.tensors.keys()
        for name, values in found.items():
            np.testing.assert_array_equal(checkpoint.values(name), values)
            assert checkpoint.values(name).dtype == values.dtype


def test_a_broken_reader_is_seen(tmp_path):
    from checkpoint_campaign import MEMORY

    done = subprocess.run(
        [sys.executable, FOLDER / "broken_readers.py", tmp_path],
        env=os.environ | {"PYTHONPATH": str(TOOLS), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cases = {case["name"]: case for case in map(json.loads, done.stdout.splitlines())}
    for case in cases.values():
        assert case["whole"]["outcome"] in ("refused", "original"), case
        assert case["whole"]["bytes"] < MEMORY
    said = {name: case["broken"]["said"] for name, case in cases.items()}
    assert 'did what it must not: ["os.system' in said["runs a command"]
    assert (tmp_path / "ran").exists()
    assert "did what it must not: [\"import('colorsys'" in said["imports a module"]
    assert "other tensors than a second reader" in said["turns tensors round"]
    assert "a key stands twice" in said["takes one of two keys"]
    assert "a line of" in said["says long names"]
    assert "BadZipFile" in said["lets zipfile's errors through"]
    assert cases["unpacks a bomb"]["broken"]["bytes"] > MEMORY + 16 * 500_000


STAND_IN = """
import json, os, sys, time
os.chdir(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    number = int(os.path.basename(json.loads(line)["path"]).split(".")[0])
    if number == 0: os.kill(os.getpid(), 11)
    if number == 1: time.sleep(60)
    if number == 2: open("fer_jax_campaign_ran", "w").close()
    held = 1 << 40 if number == 3 else 0
    took = 10.5 if number == 4 else 0.0
    answer = {"outcome": "refused", "said": "", "seconds": took, "bytes": held}
    print(json.dumps(answer), flush=True)
"""


def test_crashes_hangs_marks_and_memory_fail(tmp_path, monkeypatch, capsys):
    import checkpoint_campaign

    worker = tmp_path / "worker.py"
    worker.write_text(STAND_IN)
    monkeypatch.setattr(checkpoint_campaign, "_WORKER", worker)
    monkeypatch.setattr(checkpoint_campaign, "PATIENCE", 2.0)
    kept = tmp_path / "kept"
    arguments = ["--count", "6", "--workers", "2", "--keep", str(kept)]
    assert checkpoint_campaign.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "--only 0 (bits flipped anywhere): ended with -11" in printed
    assert "--only 1 (bits flipped in the first header): killed after 2.0 s" in printed
    assert "--only 2 (bits flipped in a member's header): a payload ran" in printed
    assert "--only 3 (bits flipped in the directory): 1048576 MiB of memory" in printed
    assert "--only 4 (fields of the directory that lie): took too long" in printed
    assert "5 of 6 failed" in printed
    assert sorted(file.name for file in kept.iterdir()) == [f"{n}.ckpt" for n in range(5)]
    assert checkpoint_campaign.main(["--only", "5"]) == 0
