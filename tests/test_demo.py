"""The demo at a small size: every step runs, and the report holds what it promises."""

import json
import re

import pytest

from fer_jax.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    arguments = ["--identities", "10", "--images", "16", "--epochs", "2", "--out", str(out)]
    assert main(["demo", *arguments]) == 0
    return out


def test_every_step_leaves_its_result(demo):
    for made in ("faces/labels.csv", "data/index.npz", "backbone/params.safetensors",
                 "run/bundle/bundle.json", "scores/confusion.png", "predictions.csv"):  # fmt: skip
        assert (demo / made).stat().st_size > 0


def test_the_report_is_one_file_with_the_figures_of_metrics_json(demo):
    page = (demo / "report.html").read_text()
    metrics = json.loads((demo / "scores" / "metrics.json").read_text())
    assert f'<p class="score">{metrics["macro_f1"]["value"]:.3f}</p>' in page
    assert page.count("data:image/png;base64,") == 3
    # Nothing is fetched when it is opened.
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_folder_in_use_is_refused(demo, capsys):
    assert main(["demo", "--out", str(demo)]) == 1
    assert "exists already" in capsys.readouterr().err
