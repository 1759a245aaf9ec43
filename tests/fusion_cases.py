"""Every fusion, tiny: its configuration, params and features, for the tests of fusions."""

import jax
import numpy as np

from fer_jax.models import fusion
from fer_jax.models.fusion import fusion_config

POOLED = {"main": 12, "aux": 10}
THREE = {"main": 12, "aux": 10, "voice": 6}
MAPS = {"main": 8, "aux": 6}
CASES = {
    "entry": ("entry", POOLED, {"width": 16, "hidden": 8}),
    "entry of three": ("entry", THREE, {"width": 16, "hidden": 8}),
    "main_only": ("main_only", POOLED, {}),
    "main_only of one": ("main_only", {"face": 12}, {}),
    "aux_only": ("aux_only", POOLED, {}),
    "average": ("average", POOLED, {}),
    "average of three": ("average", THREE, {}),
    "linear": ("linear", POOLED, {}),
    "linear of three": ("linear", THREE, {}),
    **{
        f"token {attention} {merge}": ("token", MAPS, {"attention": attention, "merge": merge})
        for attention, merge in (
            *(("none", "mean"), ("self", "mean"), ("local", "mean"), ("both", "mean")),
            *(("both", "concat"), ("both", "updown"), ("none", "updown")),
        )
    },
    "token of two heads": ("token", MAPS, {"num_heads": 2}),
    "token, all projected": ("token", MAPS, {"width": 4}),
    "token of one": ("token", {"face": 8}, {}),
    "token of three": ("token", {"main": 8, "b": 8, "a": 5}, {"merge": "concat"}),
    "token of 5 x 5": ("token", MAPS, {"kernel_size": 5, "merge": "updown"}),
}
CLASSES = 5
# One of every part: where the equations are not in question, these will do.
SOME = (
    *("entry", "entry of three", "main_only", "aux_only", "average of three", "linear"),
    *("token both concat", "token of one"),
)


def made(case, batch=4, seed=0):
    """(configuration, params with every leaf far from 0 and from each other, features)."""
    variant, widths, options = CASES[case]
    config = fusion_config(variant, widths, CLASSES, **options)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: fusion.init(config, jax.random.key(0)))
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)
    grid = (3, 4) if variant == "token" else ()
    features = {
        name: rng.normal(0, 1.5, (batch, *grid, width)).astype(np.float32)
        for name, width in widths.items()
    }
    return config, params, features


def assert_close(found, expected, tolerance):
    """Of the largest value, but for one near 0."""
    expected = np.asarray(expected, np.float64)
    atol = tolerance * max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=atol)
