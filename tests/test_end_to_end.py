"""Two encoders and their fusion trained together, on images."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from test_fuse import folder, run, tiny  # noqa: F401  # fixtures are found by their names
from tiny_bundles import noise_faces

import fer_jax
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.train.fuse import fuse
from fer_jax.train.optimizer import layer_scales

pytestmark = pytest.mark.slow  # two minutes of two cores

CHANGES = {
    "end_to_end": True,
    "epochs": 1,
    "encoder__drop_path": 0.1,
    "augment__mixup": 0.5,
    "model__dropout": 0.1,
}


def test_a_rate_of_zero_gives_back_the_bundle(folder, run):  # noqa: F811
    """What is gone on with is the bundle's own encoders and fusion, views and labels."""
    bundle = run[1]
    config = tiny(
        folder,
        f"main={bundle},aux={bundle}",
        **CHANGES,
        resize="bicubic",
        optimizer__learning_rate=0.0,
    )
    _, path = fuse(config, folder / "zero")
    before, after = fer_jax.load(bundle), fer_jax.load(path)
    for name, view in before.bundle.views.items():
        assert after.bundle.views[name] == dataclasses.replace(view, crop_source="data")
    faces = noise_faces(9, seed=3)
    np.testing.assert_array_equal(after.logits(faces), before.logits(faces))


def test_all_three_models_learn(folder, capsys):  # noqa: F811
    config = tiny(folder, **CHANGES | {"epochs": 2}, optimizer__learning_rate=1e-3)
    state, path = fuse(config, folder / "trained")
    printed = capsys.readouterr()
    assert "the fusion is fresh" in printed.out + printed.err
    bundle = fer_jax.load(path).bundle
    assert bundle.kind == "two_view"
    for name in ("main", "aux"):
        old = fer_jax.load(folder / name).bundle.models["main"][1]
        moved = jax.tree.map(
            lambda a, b: float(np.abs(np.asarray(a) - b).max()),
            {part: old[part] for part in ("patch_embed", "blocks")},
            {part: bundle.models[name][1][part] for part in ("patch_embed", "blocks")},
        )
        # The keys' bias has no gradient: a softmax does not see it.
        assert (
            sum(change > 1e-4 for change in jax.tree.leaves(moved))
            >= len(jax.tree.leaves(moved)) - 1
        )
    assert bundle.provenance["step"] in (int(state.step) // 2, int(state.step))


def test_rates_of_blocks_decay_in_each_encoder_by_itself():
    shapes = {
        "main": {
            "cls_token": np.zeros((1, 1, 4)),
            "blocks": {"w": np.zeros((3, 4))},
            "norm": {"scale": np.zeros(4)},
        },
        "aux": {"blocks": {"w": np.zeros((2, 4))}},
        "fusion": {"fc": {"kernel": np.zeros((4, 2))}},
    }
    found = layer_scales(shapes, 0.5, {"main": 3, "aux": 2})
    assert found["main"]["cls_token"].item() == 0.5**4
    assert found["main"]["blocks"]["w"].ravel().tolist() == [0.5**3, 0.5**2, 0.5]
    assert found["main"]["norm"]["scale"].item() == 1
    assert found["aux"]["blocks"]["w"].ravel().tolist() == [0.5**2, 0.5]
    assert found["fusion"]["fc"]["kernel"].item() == 1


@pytest.mark.parametrize(
    ("sources", "kind", "message"),
    [
        ("main={0}/main", UsageError, "the sources are main=BUNDLE,aux=BUNDLE"),
        ("main={0}/main,aux={0}/nowhere", FerJaxError, "no bundle"),
    ],
)
def test_what_cannot_run_says_why(folder, tmp_path, sources, kind, message):  # noqa: F811
    with pytest.raises(kind, match=message):
        fuse(tiny(folder, sources, end_to_end=True), tmp_path / "run")


def test_it_is_not_gone_on_with_from_other_bundles(folder, tmp_path):  # noqa: F811
    for name in ("main", "aux"):
        shutil.copytree(folder / name, tmp_path / name)
    config = tiny(tmp_path, **CHANGES, data=str(folder / "data"))
    fuse(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "main")
    shutil.copytree(folder / "aux", tmp_path / "main")
    with pytest.raises(UsageError, match="holds other faces, labels or features than"):
        fuse(config, tmp_path / "run")
