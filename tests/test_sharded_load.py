"""Checkpoints and bundles straight onto 8 CPU devices."""

import jax
import numpy as np
import pytest
from pth_files import vit_tensors, write_checkpoint

from fer_jax.bundle import load_bundle
from fer_jax.cli.main import main
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import convert_checkpoint
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.labels import label_space
from fer_jax.train import sharded_load, sharding
from fer_jax.train.config import MeshConfig

OPTIONS = Options(num_heads=4, labels=label_space("affwild2_expr"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    arrays = vit_tensors(classes=8, norm="fc_norm")
    return write_checkpoint(tmp_path_factory.mktemp("sharded"), arrays)


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("sharded") / "bundle")
    wishes = ["--normalize", "imagenet", "--heads", "4", "--labels", "affwild2_expr"]
    assert main(["convert", str(checkpoint), out, "--no-proof", *wishes]) == 0
    return out


def same(found, wanted) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_a_checkpoint_lands_as_if_it_were_converted_and_split(checkpoint, fsdp):
    mesh = sharding.make_mesh(MeshConfig(fsdp=fsdp))
    config, params = sharded_load.load_sharded(checkpoint, mesh, OPTIONS)
    whole = convert_checkpoint(open_checkpoint(checkpoint), OPTIONS)
    assert config == whole.config
    same(jax.device_get(params), whole.params)
    wanted = sharding.parameter_shardings(whole.params, mesh)
    alike = jax.tree.map(lambda x, rule: x.sharding.is_equivalent_to(rule, x.ndim), params, wanted)
    assert jax.tree.all(alike)
    kernel = params["blocks"]["mlp"]["fc1"]["kernel"]
    assert {shard.data.size * fsdp for shard in kernel.addressable_shards} == {kernel.size}


def test_no_more_is_cut_than_a_device_holds(checkpoint, monkeypatch):
    """Of every tensor that is split, only a device's part is ever copied."""
    cut, sizes = sharded_load.cut_from_torch_layout, []

    def recorded(tensor, target, index):
        part = cut(tensor, target, index)
        sizes.append((target.path, tensor.size, part.size))
        return part

    monkeypatch.setattr(sharded_load, "cut_from_torch_layout", recorded)
    sharded_load.load_sharded(checkpoint, sharding.make_mesh(MeshConfig(fsdp=8)), OPTIONS)
    split = [one for one in sizes if one[0] == "blocks/attn/qkv/kernel"]
    assert split
    assert all(part * 8 == whole for _, whole, part in split)


def test_a_bundle_lands_bit_for_bit(bundle):
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    config, params = sharded_load.load_sharded(bundle, mesh)
    own, whole = load_bundle(bundle).models["main"]
    assert config == own
    same(jax.device_get(params), whole)


def test_resized_and_rounded_on_the_way(checkpoint):
    mesh = sharding.make_mesh(MeshConfig(fsdp=2))
    options = Options(num_heads=4, image_size=40, dtype="bfloat16")
    _, params = sharded_load.load_sharded(checkpoint, mesh, options)
    whole = convert_checkpoint(open_checkpoint(checkpoint), options)
    same(jax.device_get(params), whole.params)


def test_mistakes_are_clear(checkpoint, bundle, tmp_path):
    mesh = sharding.make_mesh(MeshConfig())
    with pytest.raises(UsageError, match="options are for a checkpoint"):
        sharded_load.load_sharded(bundle, mesh, OPTIONS)
    with pytest.raises(UsageError, match="has no model 'aux'; it holds main"):
        sharded_load.load_sharded(bundle, mesh, model="aux")
    with pytest.raises(FerJaxError, match="no bundle"):
        sharded_load.load_sharded(tmp_path, mesh)
    arrays = vit_tensors()
    arrays["blocks.1.mlp.fc1.bias"][3] = np.nan
    broken = write_checkpoint(tmp_path, arrays)
    with pytest.raises(FerJaxError, match=r"blocks.0.mlp.fc1.bias \(or another block's\) holds"):
        sharded_load.load_sharded(broken, mesh, Options(num_heads=4))
