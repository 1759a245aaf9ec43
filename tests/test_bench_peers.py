"""tools/bench_peers.py and tools/bench_gpu.sh: what they judge, and both sides in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bench_peers
import pytest

from fer_jax.bench.flops import vit_flops
from fer_jax.models.vit import ViTConfig

ROOT = Path(__file__).resolve().parents[1]
MODEL = {
    "image_size": 32, "patch_size": 16, "width": 192, "depth": 2, "num_heads": 3, "num_classes": 8,
    "pool": "avg", "norm_eps": 1e-6,
}  # fmt: skip


def judged(scores_apart=1e-6, kind="infer"):
    seconds = {
        "jax {}": [2.0, 2.0, 4.0],
        "jax slow": [3.0, 3.0, 3.0],
        "torch eager": [3.0, 4.0, 4.0],
        "ceiling": [1.0, 1.0, 1.0],
    }
    programs = {name: {"compile_seconds": 1.0} for name in seconds if name != "ceiling"}
    apart = {"jax {}": 0.0, "jax slow": 0.0, "torch eager": scores_apart}
    case = {"kind": kind, "dtype": "float32", "batch": 4}
    top = {"side": 8, "flops": 10 * bench_peers._flops(MODEL)}
    return case | bench_peers._judged(case, seconds, programs, apart, top, MODEL)


def test_the_ratio_is_that_of_the_fastest_turn_by_turn():
    found = judged()
    assert found["best"] == {"jax": "jax {}", "torch": "torch eager"}
    assert found["ratios"] == [1.5, 2.0, 1.0]
    assert found["ratio"] == 1.5
    assert found["programs"]["jax {}"]["images_per_second"] == 2.0
    # Four images in 2 s beside ten in 1 s; a training step has three times the products.
    assert found["programs"]["jax {}"]["share_of_ceiling"] == pytest.approx(0.2)
    assert judged(kind="train")["programs"]["jax {}"]["share_of_ceiling"] == pytest.approx(0.6)


def test_scores_that_differ_are_told():
    assert judged()["agree"]
    assert not judged(scores_apart=2e-3)["agree"]
    result = {"cases": [judged(scores_apart=2e-3)], "ours": {}, "theirs": {}}
    for side in ("ours", "theirs"):
        result[side] = {"version": side, "device": "cpu"}
    assert "DISAGREES" in "\n".join(bench_peers.table(result))
    assert bench_peers._apart([1.0, -4.0], [1.0, -3.0]) == 0.25


def test_operations_are_those_of_the_package():
    assert bench_peers._flops(MODEL) == vit_flops(ViTConfig(**MODEL))


def test_turns_go_there_and_back():
    asked = []

    def worker(do, name, calls):
        asked.append((name, calls))
        return {"seconds": 0.5}

    found = bench_peers._in_turn({"a": worker, "b": worker}, rounds=2, seconds=1.2)
    assert found == {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    assert asked[4:] == [("a", 3), ("b", 3), ("b", 3), ("a", 3)]


def test_a_worker_that_fails_says_why_and_goes_on():
    worker = bench_peers.Worker(sys.executable, "bench_peers_jax.py")
    try:
        with pytest.raises(RuntimeError, match="KeyError: 'absent'"):
            worker("run", name="absent", calls=1)
        assert worker("forget", name="absent") == {}
    finally:
        worker.close()


@pytest.mark.slow
def test_the_gpu_script_runs_both_sides_in_small(tmp_path):
    """Half a minute on a quiet machine: two interpreters start, eight programs compile."""
    pytest.importorskip("torch")
    small = ["--size", "tiny", "--image-size", "32", "--depth", "2", "--batches", "2"]
    small += ["--rounds", "2", "--seconds", "0.01", "--ceiling-side", "64", "--ours", "{}"]
    environment = os.environ | {
        "OUT": str(tmp_path), "BACKEND": "cpu", "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable,
        "DTYPES": "float32 bfloat16",
    }  # fmt: skip
    script = str(ROOT / "tools" / "bench_gpu.sh")
    subprocess.run(["bash", script, str(tmp_path), *small], env=environment, check=True)
    found = json.loads((tmp_path / "bench_gpu.json").read_text())
    cases = [(case["kind"], case["dtype"]) for case in found["cases"]]
    assert cases == [(k, d) for k in ("infer", "train") for d in ("float32", "bfloat16")]
    for case in found["cases"]:
        assert case["agree"]
        assert case["ratio"] > 0
        # Measured 2e-6 and 1e-2.
        bound = 2e-5 if case["dtype"] == "float32" else 5e-2
        assert 0 < case["programs"]["torch eager"]["apart"] < bound
    assert "ratio" in (tmp_path / "bench_gpu.log").read_text()
