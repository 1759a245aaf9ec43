"""Which combinations a grid has; counted and named by hand."""

import pytest

from fer_jax.errors import UsageError
from fer_jax.recipes.ablation_cells import cells_of, varied_axes
from fer_jax.recipes.ablation_config import AblateConfig, AxesConfig


def grid(design="one_at_a_time", **axes):
    given = {"uncleaned": "u", "synthetic_data": "s", "backbone": "b"}
    return AblateConfig(data="d", design=design, axes=AxesConfig(**axes), **given)


def titles(config):
    cells = cells_of(config)
    return [cell.title(cells[0], varied_axes(cells)) for cell in cells]


def test_one_axis_at_a_time():
    config = grid(
        views="main+eyes_mouth,main,mouth",
        fusion="entry,token",
        attention="both,local",
        loss="balanced,plain",
        smoothing="search,none",
        encoder="fine_tuned,frozen,end_to_end",
    )
    assert titles(config) == [
        "base",
        "main",
        "mouth",
        "token, attention both",
        "token, attention local",
        "plain",
        "smoothing none",
        "frozen",
        "end_to_end",
    ]


def test_what_an_axis_does_not_change_is_not_run_for_its_values():
    """A single view has no fusion, so of 2 x 3 combinations four are left."""
    config = grid("product", views="main+mouth,main", fusion="entry,linear,token")
    assert [(cell.views, cell.fusion) for cell in cells_of(config)] == [
        ("main+mouth", "entry"),
        ("main+mouth", "linear"),
        ("main+mouth", "token"),
        ("main", "-"),
    ]
    frozen = grid("product", encoder="frozen", augmentation="none,strong")
    assert [cell.augmentation for cell in cells_of(frozen)] == ["-"] * 3
    single = grid("product", views="main", encoder="fine_tuned,end_to_end")
    assert [cell.encoder for cell in cells_of(single)] == ["fine_tuned"]


def test_a_product_has_all_combinations():
    config = grid("product", loss="plain,focal,effective", cleaning="on,off", synthetic="0,0.2,0.5")
    assert len(cells_of(config)) == 3 * 3 * 2 * 3


@pytest.mark.parametrize(
    ("axis", "value", "message"),
    [
        ("views", "main+main", "two of them such as"),
        ("views", "nose", "must be one of main, eyes_mouth"),
        ("fusion", "main_only", "must be one of entry, token"),
        ("smoothing", "box:4", "KERNEL:WINDOW"),
        ("synthetic", "1", "from 0 to below 1"),
        ("loss", " , ", "is empty"),
    ],
)
def test_a_value_that_is_not_known_is_named(axis, value, message):
    with pytest.raises(UsageError, match=rf"config.axes.{axis}.*{message}"):
        cells_of(grid(**{axis: value}))


@pytest.mark.parametrize(
    ("axis", "value", "field"),
    [
        ("cleaning", "off", "uncleaned"),
        ("synthetic", "0.1", "synthetic_data"),
        ("encoder", "frozen", "backbone"),
    ],
)
def test_what_a_value_needs_must_be_named(axis, value, field):
    config = AblateConfig(data="d", axes=AxesConfig(**{axis: value}))
    with pytest.raises(UsageError, match=f"config.{field} must name"):
        cells_of(config)
