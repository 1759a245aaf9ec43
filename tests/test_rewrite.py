"""Bundles made of bundles: fewer blocks, another dtype."""

import jax
import ml_dtypes
import numpy as np
import pytest
from tiny_bundles import noise_faces, tiny_bundle, tiny_two_view_bundle, write_tiny_bundle

import fer_jax
from fer_jax.bundle import load_bundle, save_bundle
from fer_jax.cli.main import main
from fer_jax.convert.rewrite import cast, shortened
from fer_jax.models import vit


def test_blocks_are_those_that_are_named(tmp_path, capsys):
    write_tiny_bundle(tmp_path / "b")
    whole = load_bundle(tmp_path / "b")
    assert main(["convert", str(tmp_path / "b"), str(tmp_path / "s"), "--blocks", "1"]) == 0
    assert "parameters, float32" in capsys.readouterr().out
    short = load_bundle(tmp_path / "s")
    config, params = short.models["main"]
    assert config.depth == 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        old = whole.models["main"][1]
        for key in path:
            old = old[key.key]
        old = np.asarray(old)
        expected = old[1:2] if path[0].key == "blocks" else old
        np.testing.assert_array_equal(leaf, expected)
    assert short.provenance["blocks"] == "1"
    assert short.labels == whole.labels


def test_a_model_of_repeated_blocks_computes_as_its_blocks_do():
    """All blocks in their order are the model itself; in another order they are another."""
    bundle = tiny_bundle()
    config = bundle.models["main"][0]
    depth = config.depth
    images = np.random.default_rng(0).normal(size=(2, config.image_size, config.image_size, 3))
    images = images.astype(np.float32)

    def logits(bundle):
        config, params = bundle.models["main"]
        return np.asarray(vit.apply(vit.build(config), params, images)[0])

    same = shortened(bundle, ",".join(map(str, range(depth))), "b")
    np.testing.assert_array_equal(logits(same), logits(bundle))
    turned = shortened(bundle, ",".join(map(str, reversed(range(depth)))), "b")
    assert np.abs(logits(turned) - logits(bundle)).max() > 1e-4


def test_bfloat16_halves_the_file_and_stays_near(tmp_path):
    save_bundle(tiny_two_view_bundle("entry"), tmp_path / "b")
    arguments = ["convert", str(tmp_path / "b"), str(tmp_path / "h"), "--dtype", "bfloat16"]
    assert main([*arguments, "--license", "research only"]) == 0
    before, after = (fer_jax.load(tmp_path / name) for name in ("b", "h"))
    sizes = [(tmp_path / name / "params.safetensors").stat().st_size for name in ("b", "h")]
    assert sizes[1] < 0.6 * sizes[0]
    assert after.bundle.license == "research only"
    pair = (jax.tree.leaves(found.bundle.params) for found in (after, before))
    for leaf, old in zip(*pair, strict=True):
        np.testing.assert_array_equal(leaf, np.asarray(old).astype(ml_dtypes.bfloat16))
    faces = noise_faces(3)
    # Eight bits of mantissa: 0.4 % of each weight.
    expected = before.logits(faces)
    assert 0 < np.abs(after.logits(faces) - expected).max() < 0.05 * np.abs(expected).max()
    wide = cast(after.bundle, "float32")
    np.testing.assert_array_equal(
        jax.tree.leaves(wide.params)[0], jax.tree.leaves(after.bundle.params)[0]
    )


@pytest.mark.parametrize(
    ("source", "out", "options", "message"),
    [
        ("b", "o", [], "to write another bundle, name --blocks"),
        ("b", "o", ["--blocks", "x"], "--blocks x: write numbers from 0"),
        ("b", "o", ["--blocks", "0,7"], "has the blocks 0 to 1, not 0,7"),
        ("b", "o", ["--family", "mae"], "--family is for a checkpoint"),
        ("b", "o.pth", ["--blocks", "0"], "--blocks makes another bundle, "),
        ("two", "o", ["--blocks", "0"], "is of the kind two_view; --blocks is of one encoder"),
        ("b", "two", ["--blocks", "0"], "exists already"),
        ("b/params.safetensors", "o", ["--blocks", "0"], "--blocks is for a bundle"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, capsys, source, out, options, message):
    write_tiny_bundle(tmp_path / "b")
    save_bundle(tiny_two_view_bundle("linear"), tmp_path / "two")
    assert main(["convert", str(tmp_path / source), str(tmp_path / out), *options]) in (1, 2)
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert message in printed
    assert not (tmp_path / "o").exists()
