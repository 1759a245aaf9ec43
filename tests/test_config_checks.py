"""Every number and name of a model's configuration, and of the wishes for one, has its range."""

import dataclasses

import pytest

from fer_jax.convert.options import Options
from fer_jax.errors import FerJaxError, UsageError
from fer_jax.models.config import DTYPES, MAX_DEPTH, MAX_SIZE, POOLS, SIZES, ViTConfig, vit_config
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.mae import MAEConfig
from fer_jax.ops.resize import POSITION_KERNELS

VIT = ViTConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=4)
MAE = MAEConfig(VIT, decoder_width=16, decoder_depth=1, decoder_num_heads=2)
FUSION = EntryFusionConfig((6, 4), 16, 8)
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("config", "field", "values"),
    [
        *(
            (VIT, field, (0, -32, MAX_SIZE + 32, 10**400))
            for field in ("image_size", "patch_size", "width", "num_heads")
        ),
        (VIT, "depth", (0, -1, MAX_DEPTH + 1)),
        (VIT, "num_classes", (-1, MAX_SIZE + 1)),
        (VIT, "mlp_ratio", (0.0, -4.0, NAN, INFINITY, 1e-3, 1e308, 10**400)),
        (VIT, "norm_eps", (0.0, -1e-9, NAN, INFINITY)),
        (VIT, "dtype", ("foo", "int8", "float64", "")),
        (VIT, "param_dtype", ("foo", "int8", "float64", "")),
        (MAE, "decoder_width", (0, -16, 10**400)),
        (MAE, "decoder_depth", (0, -1, MAX_DEPTH + 1)),
        (MAE, "decoder_num_heads", (0, -2)),
        (MAE, "decoder_mlp_ratio", (0.0, -4.0, NAN, INFINITY, 1e308)),
        (FUSION, "widths", ((0, 4), (6, -1), (6, 10**19))),
        *((FUSION, field, (0, -1, 10**19)) for field in ("width", "hidden", "num_classes")),
        (FUSION, "param_dtype", ("foo", "int8")),
    ],
)
def test_numbers_out_of_range_name_the_field_and_the_value(config, field, values):
    for value in values:
        with pytest.raises(FerJaxError) as caught:
            dataclasses.replace(config, **{field: value})
        assert str(caught.value).startswith(f"{field}={value!r}")


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (VIT, {"width": 1, "num_heads": 1, "depth": 1, "image_size": 1, "patch_size": 1}),
        (VIT, {"depth": MAX_DEPTH, "num_classes": 0, "mlp_ratio": 1 / 32, "norm_eps": 1e-12}),
        *((VIT, {"dtype": dtype, "param_dtype": dtype}) for dtype in DTYPES),
        (MAE, {"decoder_width": 4, "decoder_num_heads": 1, "decoder_depth": MAX_DEPTH}),
        (FUSION, {"widths": (1, 1), "width": 1, "hidden": 1, "num_classes": 1}),
        *((FUSION, {"param_dtype": dtype}) for dtype in DTYPES),
    ],
)
def test_the_ends_of_the_ranges_are_within(config, fields):
    made = dataclasses.replace(config, **fields)
    assert {name: getattr(made, name) for name in fields} == fields


def test_too_many_patches_are_named():
    side = 8 * 1024
    assert dataclasses.replace(VIT, image_size=side).grid == 1024
    with pytest.raises(FerJaxError, match=r"make 1050625 patches, more than 1048576"):
        dataclasses.replace(VIT, image_size=side + 8)


@pytest.mark.parametrize("size", SIZES)
def test_registered_sizes_are_within(size):
    assert vit_config(size).depth == SIZES[size][1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"norm_eps": 0.0}, "--eps 0.0 must lie between 0 and 1"),
        ({"norm_eps": 1.0}, "--eps 1.0 must lie between 0 and 1"),
        ({"norm_eps": -1e-9}, "--eps -1e-09 must lie between 0 and 1"),
        ({"norm_eps": NAN}, "--eps nan must lie between 0 and 1"),
        ({"norm_eps": INFINITY}, "--eps inf must lie between 0 and 1"),
        ({"image_size": 0}, "--image-size 0 must lie between 1 and 4096"),
        ({"image_size": 4097}, "--image-size 4097 must lie between 1 and 4096"),
        ({"num_heads": 0}, "--heads 0 must be 1 or more"),
        ({"num_heads": -4}, "--heads -4 must be 1 or more"),
        ({"decoder_heads": 0}, "--decoder-heads 0 must be 1 or more"),
        ({"decoder_heads": -1}, "--decoder-heads -1 must be 1 or more"),
        ({"pool": "max"}, "--pool 'max' must be one of cls, avg"),
        (
            {"position_resize": "x"},
            f"--position-resize 'x' must be one of {', '.join(POSITION_KERNELS)}",
        ),
        ({"dtype": "int8"}, "--dtype 'int8' must be one of float32, bfloat16, float16"),
    ],
)
def test_wishes_out_of_range_name_the_flag(fields, said):
    with pytest.raises(UsageError) as caught:
        Options(**fields)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm_eps": 1e-12},
        {"norm_eps": 0.5, "image_size": 1, "num_heads": 1, "decoder_heads": 1},
        {"image_size": 4096},
        *({"pool": pool} for pool in POOLS),
        *({"position_resize": kernel} for kernel in POSITION_KERNELS),
    ],
)
def test_wishes_within_their_ranges(fields):
    options = Options(**fields)
    assert {name: getattr(options, name) for name in fields} == fields
