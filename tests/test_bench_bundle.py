"""What a bundle costs to run."""

import json

import jax
import pytest
from tiny_bundles import write_tiny_bundle

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main


def test_its_figures_are_the_bundles(tmp_path, capsys):
    write_tiny_bundle(tmp_path / "bundle", "affwild2_expr")
    out = str(tmp_path / "costs.json")
    command = ["bench", "bundle", str(tmp_path / "bundle"), "--repeats", "2", "--batch"]
    assert main([*command, "3", "--out", out]) == 0
    found = json.loads((tmp_path / "costs.json").read_text())
    leaves = jax.tree.leaves(load_bundle(tmp_path / "bundle").params)
    assert found["parameters"] == sum(leaf.size for leaf in leaves)
    assert found["milliseconds"]["low"] > 0
    assert f"{found['flops']:,}" in capsys.readouterr().out
    assert main([*command, "1", "--out", out]) == 0
    assert json.loads((tmp_path / "costs.json").read_text())["flops"] == found["flops"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "nowhere: no bundle"), (["nowhere", "--batch", "0"], "--batch 0 must be")],
)
def test_what_cannot_be_measured_says_why(arguments, message, capsys):
    assert main(["bench", "bundle", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
