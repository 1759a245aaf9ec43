"""The command of docs/export.md runs, and its example does where there is jax and no fer_jax."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import flatbuffers
import jax
import jaxlib
import jaxtyping
import ml_dtypes
import numpy as np
import opt_einsum
import pytest
import scipy
from test_stablehlo import of_template, softmax64
from tiny_bundles import noise_faces, tiny_two_view_bundle

from fer_jax.bundle import save_bundle
from fer_jax.cli.main import main
from fer_jax.predict.recognizer import Recognizer

TEXT = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
# jax, and what it imports. Nothing else of what is installed here can be seen by the example.
JAX_ALONE = (jax, jaxlib, ml_dtypes, np, opt_einsum, scipy, flatbuffers)

ALONE = """
import importlib.util, sys
sys.path.append({packages!r})
found = [name for name in ("fer_jax", "flax", "cv2") if importlib.util.find_spec(name)]
assert not found, found
{example}
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def bundle():
    return of_template(tiny_two_view_bundle(labels="affwild2_expr"), "arcface_112")


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    """What the reader has: a bundle, aligned faces, and what the command made of the bundle."""
    folder = tmp_path_factory.mktemp("export_page")
    save_bundle(bundle, folder / "run" / "bundle")
    faces = noise_faces(5, size=115)[:, :112, :112]
    np.save(folder / "faces.npy", faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        patch.chdir(folder)
        for line in "".join(blocks("sh")).splitlines():
            assert main(shlex.split(line)[1:]) == 0
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with jax and what it needs; on Linux their wheels keep libraries in NAME.libs."""
    folder = tmp_path_factory.mktemp("packages")
    for package in JAX_ALONE:
        path = Path(package.__file__).parent
        (folder / path.name).symlink_to(path)
        libraries = path.with_name(f"{path.name}.libs")
        if libraries.is_dir():
            (folder / libraries.name).symlink_to(libraries)
    return folder


def test_the_example_runs_with_jax_alone(bundle, folder, packages):
    (example,) = blocks("python")
    code = ALONE.format(packages=str(packages), example=example)
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    wanted = softmax64(Recognizer(bundle).logits(np.load(folder / "faces.npy")))
    assert len({*wanted.argmax(axis=1)}) > 1
    lines = [line.split() for line in found.stdout.splitlines()]
    assert [name for name, _ in lines] == [
        bundle.labels.classes[index] for index in wanted.argmax(axis=1)
    ]
    np.testing.assert_allclose(
        [float(number) for _, number in lines], wanted.max(axis=1), rtol=0, atol=6e-4
    )


def test_without_flatbuffers_jax_says_what_is_missing(folder, packages, tmp_path):
    """The page asks for it; were jax to bring it one day, the page could be shorter."""
    for path in packages.iterdir():
        if path.name != "flatbuffers":
            (tmp_path / path.name).symlink_to(path.resolve())
    (example,) = blocks("python")
    code = ALONE.format(packages=str(tmp_path), example=example)
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "install 'flatbuffers'" in found.stderr
