"""A sample of the campaign of damaged videos and pictures, and that it can fail at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import video_campaign
from video_campaign import KINDS, MEMORY, SCHEDULE, make_case
from video_seeds import read_seeds, write_seeds

FOLDER = Path(__file__).parent
TOOLS = FOLDER.parent / "tools"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The folder of the honest files, which take seconds to write."""
    folder = tmp_path_factory.mktemp("seeds")
    write_seeds(folder)
    return folder


@pytest.fixture(autouse=True)
def _written_once(seeds, monkeypatch):
    def copied(folder):
        shutil.copytree(seeds, folder, dirs_exist_ok=True)

    monkeypatch.setattr(video_campaign, "write_seeds", copied)


def test_runs_over_damaged_files_end_as_promised(capsys):
    status = video_campaign.main(["--count", "40", "--seed", "7", "--workers", "1"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "0 of 40 failed" in printed
    for source in ("folder", "camera", "video", "picture"):
        assert f"| {source} |" in printed


def test_a_number_makes_one_case(seeds, tmp_path):
    honest, made = read_seeds(seeds), []
    for name in ("one", "two"):
        cases = []
        for number in range(2, len(SCHEDULE), 5):
            folder = tmp_path / name / str(number)
            folder.mkdir(parents=True)
            case = make_case(honest, 3, number, folder)
            path = Path(case.pop("path"))
            cases.append((case, path.name, path.read_bytes() if path.is_file() else None))
        made.append(cases)
    assert made[0] == made[1]
    assert len({case["damage"] for case, _, _ in made[0]}) > 10
    assert set(SCHEDULE) == set(KINDS)


def test_a_broken_labeller_is_seen(seeds, tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "broken_labellers.py", tmp_path, seeds],
        env=os.environ | {"PYTHONPATH": f"{TOOLS}:{FOLDER}", "JAX_COMPILATION_CACHE_DIR": ""},
        capture_output=True,
        text=True,
    )
    said = tmp_path / "said.txt"
    assert done.returncode == 0, said.read_text() if said.exists() else done.stderr
    cases = {case["name"]: case for case in map(json.loads, done.stdout.splitlines())}
    for case in cases.values():
        assert case["whole"]["outcome"] != "failed", case
        assert case["whole"]["bytes"] < MEMORY
    broken = {name: case["broken"] for name, case in cases.items()}
    assert broken.pop("takes memory")["bytes"] > MEMORY
    for name, what in {
        "leaves frames out": "13 frames have rows, 14 can be decoded",
        "is silent": "frames without a word",
        "names nothing": "says 'no', which is no line that names the file",
        "raises": "ValueError: Traceback",
        "sums to two": "a face has no box, or probabilities that do not sum to 1",
        "forgets the last": "one.csv has other rows than the file alone",
        "leaves parts": "leaves ['.one.csv.partial-x', 'one.csv', 'one.json'], not",
        "prints": "printed ['moov atom not found'",
        "opens": "leaves a thread or an open file behind",
        "sees grey": "cannot be decoded, and nobody says so",
        "counts no problems": "exit code 0, of 1 problems",
        "writes anew": "the same command does again what was done",
        "ends a camera": "rows of [1, 2], not of 11",
    }.items():
        case = broken.pop(name)
        assert case["outcome"] == "failed", name
        assert what in case["said"], (name, case)
    assert not broken


STAND_IN = """
import json, os, sys, time
print("ready", flush=True)
open(sys.argv[1] + "/said.txt", "w").write("last words")
for number, line in enumerate(sys.stdin):
    if number == 0: os.kill(os.getpid(), 11)
    held = 1 << 40 if number == 1 else 0
    took = 1000.0 if number == 2 else 0.0
    if number == 3: time.sleep(60)
    print(json.dumps({"outcome": "done", "said": "", "seconds": took, "bytes": held}), flush=True)
"""


def test_crashes_hangs_and_memory_fail(tmp_path, monkeypatch, capsys):
    worker = tmp_path / "worker.py"
    monkeypatch.setattr(video_campaign, "_WORKER", worker)
    monkeypatch.setattr(video_campaign, "PATIENCE", 2.0)
    worker.write_text(STAND_IN)
    assert video_campaign.main(["--only", "2", "--out", str(tmp_path / "kept")]) == 1
    assert "ended with -11; it printed 'last words'" in capsys.readouterr().out
    assert list((tmp_path / "kept" / "2").iterdir())
    worker.write_text(STAND_IN.replace("number == 0", "number == 9"))
    assert video_campaign.main(["--count", "5", "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "took 1048576 MiB" in printed
    assert "took 1000 s of the processor" in printed
    assert "killed after 2.0 s" in printed
    assert "3 of 5 failed" in printed
