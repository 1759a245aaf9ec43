"""The competitor's five commands, word for word, from a checkpoint to a file that can be handed in.

A shell runs them in a folder that holds what they name: a checkpoint in MAE-Face's names, a mini
Aff-Wild2 with its sample file, and `configs/`. Nothing is added to the commands; what makes them
quick is in those files. The checkpoint is of the smallest size whose number of attention heads
need not be said, at 32 pixels. `configs/emotic_mae.py` is the project's own but for epochs, batch
sizes and the size of faces, with which it would run for hours.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mini_trees
import numpy as np
import pytest
from pth_files import mae_face_shapes, namespace, state_dict, write_pth
from smoothing_reference import smooth_reference

import fer_jax
from fer_jax.data.images import decode_image
from fer_jax.labels import label_space

pytestmark = pytest.mark.slow  # two minutes of two cores

ROOT = Path(__file__).parent.parent
COMMANDS = """\
fer-jax convert mae_face_pretrain_vit_base.pth backbone --normalize mae_face
fer-jax doctor affwild2/
fer-jax prepare affwild2 affwild2/ --out data/
fer-jax train --config=configs/emotic_mae.py --config.backbone=backbone --config.data=data/ --workdir=run/
fer-jax submit --bundle run/bundle --crops affwild2/cropped_aligned --sample sample.txt --out submission/
"""  # noqa: E501
GAPS = [1, 2, *range(20, 28)]
CONFIG = '''\
"""The project's own recipe, in seconds."""

import runpy


def get_config():
    config = runpy.run_path({path!r})["get_config"]()
    for view in (config.main, config.aux):
        view.epochs = 1
        view.batch_size = 16
        view.model.image_size = 32
    config.fuse.batch_size = 16
    return config
'''


def write_checkpoint(path):
    """As MAE's training saves it: by torch, or without it in the same format."""
    rng = np.random.default_rng(0)
    shapes = mae_face_shapes(width=192, patches=4, decoder_width=64, decoder_depth=1)
    tensors = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes}
    if importlib.util.find_spec("torch"):
        import torch

        model = {name: torch.from_numpy(values) for name, values in tensors.items()}
        torch.save({"model": model, "epoch": 7, "args": argparse.Namespace(lr=0.1)}, path)
    else:
        model, storages = state_dict(tensors)
        write_pth(path, {"model": model, "epoch": 7, "args": namespace(lr=0.1)}, storages)


def video_of(folder):
    """The first video of the sample."""
    return (folder / "sample.txt").read_text().splitlines()[1].partition("/")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("competitor")
    options = ("--videos", "10", "--frames", "40", "50", "--faults", "none", "--seed", "3")
    mini_trees.make(folder / "affwild2", *options)
    (sample,) = (folder / "affwild2").glob("*sample*.txt")
    shutil.copyfile(sample, folder / "sample.txt")
    crops = folder / "affwild2" / "cropped_aligned" / video_of(folder)
    for number in GAPS:  # as where no face is found
        (crops / f"{number:05d}.jpg").unlink()
    write_checkpoint(folder / "mae_face_pretrain_vit_base.pth")
    (folder / "configs").mkdir()
    own = CONFIG.format(path=str(ROOT / "configs" / "emotic_mae.py"))
    (folder / "configs" / "emotic_mae.py").write_text(own)
    return folder


@pytest.fixture(scope="module")
def shell(folder):
    """Runs a line as a user's shell does, with the `fer-jax` of this environment and this code."""
    programs = Path(sys.executable).parent
    if not (programs / "fer-jax").exists():
        pytest.skip("the package is not installed, so there is no `fer-jax`; see `make test`")
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(line):
        return subprocess.run(
            line, shell=True, cwd=folder, env=os.environ | path, capture_output=True, text=True
        )

    return run


@pytest.fixture(scope="module")
def printed(shell):
    """Standard output of each command."""
    texts = []
    for line in COMMANDS.splitlines():
        done = shell(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        texts.append(done.stdout)
    return texts


def test_readme_names_these_commands(printed):
    assert f"```sh\n{COMMANDS}```" in (ROOT / "README.md").read_text()


def test_each_says_what_it_made(printed, folder):
    converted, examined, prepared, _, submitted = printed
    assert "family mae" in converted
    assert "proof: PASS" in converted
    assert "it can be trained on" in examined
    assert re.search(r"^data: \d+ faces, arcface_112$", prepared, flags=re.MULTILINE)
    rows = len((folder / "sample.txt").read_text().splitlines()) - 1
    assert submitted.startswith(f"submission: {rows} rows of 2 videos, ")


def test_the_bundle_loads_and_says_all(printed, folder):
    backbone = fer_jax.load(folder / "backbone").bundle
    bundle = fer_jax.load(folder / "run" / "bundle").bundle
    assert (backbone.kind, bundle.kind) == ("encoder", "two_view")
    assert bundle.labels == label_space("affwild2_expr")
    assert {name: view.view for name, view in bundle.views.items()} == {
        "main": "main",
        "aux": "eyes_mouth",
    }
    for view in (*backbone.views.values(), *bundle.views.values()):
        assert view.mean == (0.49895147, 0.41043906, 0.36561476)
        assert view.std == (0.29708471, 0.26990031, 0.26525996)
    assert {view.template for view in bundle.views.values()} == {"arcface_112"}
    assert {"frames_macro_f1", "smoothed_macro_f1_of_left_out_videos"} <= bundle.scores.keys()


def test_the_report_is_there(printed, folder):
    metrics = json.loads((folder / "run" / "report" / "metrics.json").read_text())
    assert 0 <= metrics["macro_f1"]["value"] <= 1
    assert metrics["frames"]["labelled"] == 90
    page = (folder / "run" / "report" / "report.html").read_text()
    assert f"macro-F1 {metrics['macro_f1']['value']:.3f}" in page


def test_the_file_is_complete(printed, folder, shell):
    done = shell("fer-jax submit --check submission/submission.txt --sample sample.txt")
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = (folder / "submission" / "submission.txt").read_text().splitlines()
    asked, *names = (folder / "sample.txt").read_text().splitlines()
    assert header == asked
    assert [row.partition(",")[0] for row in rows] == [name.partition(",")[0] for name in names]
    (folder / "short.txt").write_text("\n".join([header, *rows[:-1]]))
    done = shell("fer-jax submit --check short.txt --sample sample.txt")
    assert done.returncode == 1
    assert f"short.txt: {names[-1].partition(',')[0]} is missing" in done.stdout


@pytest.mark.parametrize("wished", ["own", "box:9"])
def test_the_labels_are_those_of_a_plain_loop(printed, folder, shell, wished):
    """Each crop by itself, smoothed and held in float64; by the bundle's filter, and by another."""
    target, filter_ = "submission", fer_jax.load(folder / "run" / "bundle").bundle.smoothing
    assert filter_["fill"] == "hold"
    if wished != "own":
        target, filter_ = "other", {"kernel": "box", "window": 9}
        done = shell(
            "fer-jax submit --table submission/predictions.csv --sample sample.txt "
            f"--smooth {wished} --out {target}"
        )
        assert done.returncode == 0, done.stderr
    video = video_of(folder)
    expected = labels_of(folder, video, **{n: v for n, v in filter_.items() if n != "fill"})
    lines = (folder / target / "submission.txt").read_text().splitlines()
    rows = dict(line.split(",") for line in lines[1:])
    found = [int(rows[f"{video}/{frame:05d}.jpg"]) for frame in range(1, len(expected) + 1)]
    assert f"{video}/{len(expected) + 1:05d}.jpg" not in rows
    assert found == expected
    assert len(set(found)) > 1


def labels_of(folder, video, kernel, window, **options):
    """The label of each frame of a video, from its pictures."""
    recognizer = fer_jax.load(folder / "run" / "bundle", batch_size=1)
    last = (folder / "sample.txt").read_text().count(f"{video}/")
    values, weights = np.zeros((last, 8)), np.zeros(last)
    for frame in range(1, last + 1):
        path = folder / "affwild2" / "cropped_aligned" / video / f"{frame:05d}.jpg"
        if path.exists():
            logits = recognizer.logits(decode_image(path.read_bytes())[None])[0].astype(float)
            odds = np.exp(logits - logits.max())
            values[frame - 1], weights[frame - 1] = odds / odds.sum(), 1
    assert {frame for frame in range(1, last + 1) if not weights[frame - 1]} >= set(GAPS)
    rows = smooth_reference(values, weights, np.zeros(last), kernel, window, **options)
    labels, held = [], int(np.flatnonzero(weights)[0])
    for frame in range(last):
        held = frame if weights[frame] else held
        labels.append(int(rows[held].argmax()))
    return labels
