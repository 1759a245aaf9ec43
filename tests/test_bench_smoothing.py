"""`fer-jax bench smoothing`: small, with its comparisons; the bounds are of the real size."""

import functools
import json

import numpy as np
import pytest
from scipy import ndimage

from fer_jax.bench import smoothing as bench
from fer_jax.cli.main import main

SMALL = {"frames": 3000, "videos": 7, "window": 11}


def test_what_is_measured_and_compared():
    found = bench.bench_smoothing(repeats=3, **SMALL)
    names = [case["name"] for case in found["cases"]]
    assert names[:3] == ["fer_jax", "scipy, no weights", "scipy, with weights"]
    for case in found["cases"]:
        for spread in (case["seconds"], case["processor_seconds"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    # scipy's running sum drifts; measured 6e-8, and 3e-8 for pandas.
    assert found["equal"]["box"]["scipy, with weights"] < 1e-6
    assert found["equal"]["box_holds"]
    assert found["equal"]["median_holds"]
    for ratio in found["ratios"]:
        bound = {"pandas": 10, "scipy, no weights": 1 / 3}.get(ratio["peer"])
        assert ratio["bound"] == bound
        if bound is not None:
            assert ratio["holds"] == (ratio["processor_seconds"]["median"] >= bound)


def test_pandas_is_a_peer_where_it_is_installed():
    pytest.importorskip("pandas")
    found = bench.bench_smoothing(repeats=1, **SMALL)
    assert found["equal"]["box"]["pandas"] < 1e-6
    assert found["environment"]["pandas"]


def test_without_pandas(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "bench_smoothing", functools.partial(bench.bench_smoothing, **SMALL))
    assert main(["bench", "smoothing", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "pandas is not installed: not compared with." in printed
    assert "box filter of 11 frames, 3,000 x 8 numbers, 7 ragged videos; 1 runs" in printed
    assert "scipy.ndimage.median_filter's, to the bit: holds" in printed


def test_differences_are_seen(monkeypatch):
    values = bench._draw(500, 1)[0]
    assert bench._median_is_scipys(values, 11)
    honest = ndimage.median_filter
    monkeypatch.setattr(bench.ndimage, "median_filter", lambda *a: np.roll(honest(*a), 1))
    assert not bench._median_is_scipys(values, 11)


def test_for_programs(monkeypatch, capsys):
    monkeypatch.setattr(bench, "bench_smoothing", functools.partial(bench.bench_smoothing, **SMALL))
    assert main(["bench", "smoothing", "--repeats", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["videos"], found["window"]) == (3000, 7, 11)
    _, weights, segments, lengths = bench._draw(3000, 7)
    assert lengths.sum() == 3000
    assert lengths.min() > 0
    assert len(np.unique(segments)) == 7
    assert 0 < (weights == 0).mean() < 0.05
