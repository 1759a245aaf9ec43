"""`fer-jax bench input`: runs on a small data set, compares like with like, says errors."""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from pictures import write_colors

from fer_jax.bench import input as bench
from fer_jax.bench import processes
from fer_jax.cli.main import main
from fer_jax.data.augment import Augmentation, augment, flips
from fer_jax.data.builder import build
from fer_jax.data.image_folder import read_image_folder
from fer_jax.data.synthetic import synthetic_face
from fer_jax.labels import label_space

MIB = 1 << 20
QUICK = ["--seconds", "0.05", "--repeats", "2", "--workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_colors(folder / "src", range(20))
    space = label_space("expw")
    build(*read_image_folder(folder / "src", space), space, folder / "data")
    return folder / "data"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(bench, "_SETTLE", 0.0)
    monkeypatch.setattr(bench, "_WARM", 1)


def test_a_small_data_set_for_programs(data, tmp_path, capsys):
    pytest.importorskip("torch")
    out = tmp_path / "found.json"
    arguments = [*QUICK, "--data", str(data), "--size", "32", "--json", "--out", str(out)]
    assert main(["bench", "input", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    files = list((data.parent / "src").rglob("*.png"))
    mean = sum(file.stat().st_size for file in files) / 20
    assert found["pictures"] == {"number": 20, "mean_bytes": pytest.approx(mean)}
    assert [(case["name"], case["workers"]) for case in found["cases"]] == [
        ("fer_jax", 0),
        ("torch + Pillow", 0),
    ]
    for case in found["cases"]:
        for spread in (case["per_second"], case["per_core_second"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    (ratio,) = found["ratios"]
    assert ratio["holds"] == (ratio["per_core_second"]["median"] >= 2)
    assert found["memory"] is None
    assert set(found["environment"]) >= {"torch", "pillow", "python", "cpu"}


def test_without_torch_ours_is_measured_alone(data, capsys, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "input", *QUICK, "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "torch and Pillow are not both installed: nothing to compare with." in printed
    assert "times the peer" not in printed
    assert "| fer_jax |" in printed


def test_faces_are_drawn_where_no_data_are_named(capsys, monkeypatch):
    monkeypatch.setattr(bench, "_peer_versions", dict)
    found = bench.bench_input(None, seconds=0.05, repeats=1, size=32, workers=[0], pictures=10)
    assert found["pictures"]["number"] == 10
    assert 2000 < found["pictures"]["mean_bytes"] < 10000
    assert found["ratios"] == []


def test_ratios_are_of_runs_side_by_side():
    """Medians of the pairs' ratios, by hand; the processor's time decides, where it is known."""
    measured = {
        ("fer_jax", 0): [(300.0, 900.0), (100.0, 700.0), (200.0, 800.0)],
        ("torch + Pillow", 0): [(100.0, 300.0), (100.0, 400.0), (40.0, 450.0)],
    }
    found = bench._ratio(measured, 0)
    # 3, 1, 5 and 3, 1.75, 1.78: of three, the quartiles lie half way to the ends.
    assert found["per_second"] == {"median": 3.0, "low": 2.0, "high": 4.0}
    middle = 800 / 450
    expected = {"median": middle, "low": (1.75 + middle) / 2, "high": (3 + middle) / 2}
    assert found["per_core_second"] == pytest.approx(expected)
    assert not found["holds"]
    untold = {case: [(wall, None) for wall, _ in runs] for case, runs in measured.items()}
    assert bench._ratio(untold, 0)["per_core_second"] is None
    assert bench._ratio(untold, 0)["holds"]
    line = bench._ratio_line(found)
    assert line == (
        "0 workers: 1.78 times the peer by processor time (1.76 to 2.39), 3.00 times the peer by "
        "wall time (2.00 to 4.00); at least 2: MISSED"
    )


def test_the_peer_makes_the_same_images():
    """The same draws on the same face: two bicubic kernels apart, half of them mirrored."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torch")
    from fer_jax.bench.input_peer import Pictures

    options = Augmentation()
    mirrored = []
    for seed in range(12):
        face, _ = synthetic_face(0, seed, seed)
        rng = np.random.default_rng(seed)
        mirrored.append(flips(rng, options))
        ours = augment(face, rng, image_size=112, augmentation=options, mirrored=mirrored[-1])
        peer = Pictures([], [], 112, options).augment(
            image.fromarray(face), np.random.default_rng(seed)
        )
        difference = np.abs(ours.astype(int) - np.asarray(peer, int))
        # 0.9 levels were seen at most; one pixel further it would be 4 or more.
        assert difference.mean() < 1.5
    assert 0 < sum(mirrored) < 12


def test_the_peer_hands_out_every_picture(data):
    torch = pytest.importorskip("torch")
    from fer_jax.bench.input_peer import peer_batches

    files = sorted((data.parent / "src").rglob("*.png"))
    still = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    batches = peer_batches(
        [str(file) for file in files], list(range(20)), image_size=24, batch_size=10,
        augmentation=still, workers=0,
    )  # fmt: skip
    seen = []
    for images, labels in itertools.islice(batches, 4):
        assert (images.shape, images.dtype) == ((10, 24, 24, 3), torch.uint8)
        seen += labels.tolist()
    batches.close()
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20] != seen[20:]


def test_memory_is_a_line_through_what_was_seen(data, capsys, monkeypatch):
    begin = time.monotonic()
    monkeypatch.setattr(
        bench, "anonymous_bytes", lambda: int(MIB * (100 + (time.monotonic() - begin) / 2))
    )
    found = bench._watch(itertools.repeat({}), 0.02)
    assert found["mib_per_minute"] == pytest.approx(30, rel=0.05)
    assert 100 < found["mib_first"] < found["mib_last"] == found["mib_most"] < 110
    assert found["looks"] > 10
    assert found["images"] % 64 == 0


def test_memory_that_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(bench, "anonymous_bytes", lambda: None)
    assert bench._watch(itertools.repeat({}), 0.02) is None


def test_children_count_and_their_end_is_no_error():
    if processes.cpu_seconds() is None:
        pytest.skip("no /proc")
    code = "x = bytearray(80 << 20)\nwhile True: x[0] += 1; x[0] -= 1"
    before, own = processes.cpu_seconds(), time.process_time()
    memory = processes.anonymous_bytes()
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        while processes.cpu_seconds() - before - (time.process_time() - own) < 0.3:
            time.sleep(0.02)
        assert processes.anonymous_bytes() - memory > 75 * MIB
    finally:
        child.kill()
        child.wait()
    assert processes.anonymous_bytes() - memory < 20 * MIB


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--seconds", "0"], 2, "--seconds 0.0 must be at least 0.01"),
        (["--minutes", "inf"], 2, "--minutes inf must be at least 0"),
        (["--size", "0"], 2, "--size 0 must be at least 1"),
        (["--repeats", "0"], 2, "--repeats 0 must be at least 1"),
        (["--workers", "0", "-2"], 2, "--workers -2 must be at least 0"),
        (["--data", "absent"], 1, "absent: no such data set"),
    ],
)
def test_errors_are_a_line(arguments, code, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "input", *arguments]) == code
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith(f"fer-jax bench: {line}")
