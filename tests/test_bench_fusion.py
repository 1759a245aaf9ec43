"""`fer-jax bench fusion`: runs on a small fusion, judges bounds, compares the right thing."""

import functools
import json

import jax
import numpy as np
import pytest

from fer_jax.bench import fusion as bench
from fer_jax.cli.main import main
from fer_jax.models import fusion
from fer_jax.models.fusion import EntryFusionConfig

SMALL = EntryFusionConfig((6, 5), 16, 8, 4)


@pytest.fixture
def small(monkeypatch):
    run = functools.partial(bench.bench_fusion, config=SMALL)
    monkeypatch.setattr(bench, "bench_fusion", run)


@pytest.mark.slow
def test_a_small_fusion_for_programs(small, capsys):
    assert main(["bench", "fusion", "--batch", "32", "--repeats", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["benchmark"], found["batch"], found["repeats"]) == ("fusion", 32, 2)
    assert found["memory"]["holds"]
    assert found["memory"]["naive_bytes"] > 32 * 16 * 16 * 4
    assert 0 < found["memory"]["bytes"] < found["memory"]["naive_bytes"]
    assert [case["name"] for case in found["cases"]] == ["entry", "attention alone"]
    for case in found["cases"]:
        assert 0 < case["jax"]["least"] <= case["jax"]["median"] <= case["jax"]["most"]
    assert found["naive"]["batch"] == 2
    if found["environment"]["torch"] is not None:
        # Measured 3e-7: two float32 results.
        assert found["gradients"] < 3e-6
        for case in found["cases"]:
            assert case["of_torch"] == case["jax"]["median"] / case["torch"]["median"]


def test_the_naive_form_is_the_same_fusion():
    params, features, _ = bench._draw(SMALL, 8)
    found = jax.jit(bench._naive_entry)(params, features)
    expected, _ = fusion.apply(SMALL, params, features)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_peer_alone_is_the_attention_alone():
    pytest.importorskip("torch")
    from fer_jax.bench.fusion_peer import TorchEntry
    from fer_jax.models.torch_layout import to_torch_layout

    params, features, tokens = bench._draw(SMALL, 8)
    params["attention"]["in_proj"]["bias"] = np.float32([0.3, -0.2, 0.1])
    peer = TorchEntry(dict(to_torch_layout(params, SMALL)), features, tokens)
    peer.run_attention()
    attention, given = bench._compiled(bench._attention, params["attention"], tokens)(
        params["attention"], tokens
    )
    for name, x in given.items():
        theirs = peer._tokens[name].grad.numpy()[..., 0]
        np.testing.assert_allclose(x, theirs, atol=3e-6 * np.abs(theirs).max())
    weight = dict(peer._model.named_parameters())["mha.in_proj_weight"].grad.numpy()
    np.testing.assert_allclose(attention["in_proj"]["kernel"], weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_table_judges_the_bounds(small, capsys, monkeypatch):
    pytest.importorskip("torch")
    seconds = {("entry", "jax"): 0.9, ("attention alone", "jax"): 0.91}
    monkeypatch.setattr(
        bench, "_in_turn", lambda runs, repeats: {n: [(seconds.get(n, 1.0), 2.0)] for n in runs}
    )
    monkeypatch.setattr(bench, "MEMORY_BOUND", 1)
    assert main(["bench", "fusion", "--batch", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    assert "0.90 (processor 1.00) | 0.90 (holds)" in rows["entry"]
    assert "0.91 (processor 1.00) | 0.90 (MISSED)" in rows["attention alone"]
    assert "-" in rows["entry, torch"]
    assert len({len(row) for row in rows.values()}) == 1
    assert any("at most 0 MiB (MISSED)" in line for line in lines)


def test_without_torch_nothing_is_compared(small, capsys, monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "fusion", "--batch", "4", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "torch is not installed: pip install 'fer-jax[torch]'" in printed
    assert printed.count("(not measured)") == 2


def test_wrong_use(capsys):
    assert main(["bench", "fusion", "--batch", "0"]) == 2
    assert capsys.readouterr().err == "fer-jax bench: --batch 0 must be at least 1\n"
