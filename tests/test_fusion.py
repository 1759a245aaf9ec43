"""Against torch: goldens of tools/make_fusion_goldens.py, step by step, and live at full size."""

import dataclasses
import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.errors import FerJaxError
from fer_jax.models import fusion
from fer_jax.models.fusion import EntryFusionConfig
from fer_jax.models.vit import parameter_count

GOLDENS = pathlib.Path(__file__).parent / "testdata" / "fusion_entry.npz"
STAGES = ("main", "aux", "key", "attention", "fused", "hidden")

# torch's own float32 lies 1.2e-6 (steps) and 4.1e-6 (gradients, up to 9.9) from its float64;
# ours 7e-7 and 3.8e-6.
STAGE_TOLERANCE = 3e-6
GRADIENT_TOLERANCE = 1e-5

TINY = EntryFusionConfig(widths=(12, 10), width=16, hidden=8)
GOLDEN = TINY  # as tools/make_fusion_goldens.py has it


def _from_torch(state):
    """A state dict under the entry's names, or anything of its form, as params."""

    def linear(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    return {
        "main": linear("linear1"),
        "aux": linear("linear2"),
        "key": linear("linear_key"),
        "attention": {
            "in_proj": {
                "kernel": state["mha.in_proj_weight"].T,
                "bias": state["mha.in_proj_bias"],
            },
            "out_proj": linear("mha.out_proj"),
        },
        "mlp": {"fc1": linear("mlp.0"), "fc2": linear("mlp.1")},
    }


@pytest.fixture(scope="module")
def goldens():
    """Arrays by group: state, features, stage, gradient."""
    groups = {}
    with np.load(GOLDENS) as file:
        for name, array in file.items():
            group, name = name.split("/", 1)
            groups.setdefault(group, {})[name] = array
    return groups


def _assert_trees_close(found, expected, atol):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


def test_every_step_equals_torch(goldens):
    params = _from_torch(goldens["state"])
    run = jax.jit(fusion.apply, static_argnums=0, static_argnames="intermediates")
    logits, stages = run(GOLDEN, params, goldens["features"], intermediates=True)
    assert tuple(stages) == tuple(sorted(STAGES))  # jit sorts
    _assert_trees_close(stages, {name: goldens["stage"][name] for name in STAGES}, STAGE_TOLERANCE)
    np.testing.assert_allclose(logits, goldens["stage"]["logits"], rtol=0, atol=STAGE_TOLERANCE)
    plain, nothing = fusion.apply(GOLDEN, params, goldens["features"])
    assert nothing == {}
    np.testing.assert_allclose(plain, logits, rtol=0, atol=1e-6)


def test_every_gradient_equals_torch(goldens):
    params = jax.tree.map(jnp.asarray, _from_torch(goldens["state"]))

    def loss(params, features):
        return (fusion.apply(GOLDEN, params, features)[0] ** 2).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(params, goldens["features"])
    expected = _from_torch(goldens["gradient"])
    views = {view: goldens["gradient"][f"features/{view}"] for view in ("main", "aux")}
    _assert_trees_close(found, (expected, views), GRADIENT_TOLERANCE)


def test_goldens_tell_every_weight_apart(goldens):
    """No gradient is so small that a wrong one would pass."""
    for name, gradient in goldens["gradient"].items():
        assert np.abs(gradient).max() > 1e3 * GRADIENT_TOLERANCE, name
    for name, tensor in goldens["state"].items():
        assert (tensor != 0).all(), name


def test_equals_live_torch_at_full_size():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.ModuleDict(
        {
            "linear1": nn.Linear(768, 1024),
            "linear2": nn.Linear(768, 1024),
            "linear_key": nn.Linear(2048, 1024),
            "mha": nn.MultiheadAttention(embed_dim=1, num_heads=1, batch_first=True),
            "mlp": nn.Sequential(nn.Linear(1024, 512), nn.Linear(512, 8)),
        }
    )
    with torch.no_grad():
        model["mha"].in_proj_bias.uniform_(-0.5, 0.5)
        model["mha"].out_proj.bias.uniform_(-0.5, 0.5)
    assert sum(x.numel() for x in model.parameters()) == 4_202_000
    views = {view: torch.randn(8, 768, requires_grad=True) for view in ("main", "aux")}
    a, b = model["linear1"](views["main"]), model["linear2"](views["aux"])
    k = model["linear_key"](torch.cat([a, b], dim=1))
    attention, _ = model["mha"](b[..., None], k[..., None], a[..., None])
    theirs = model["mlp"](attention[..., 0] + a)
    theirs.square().sum().backward()

    params = _from_torch({name: x.detach().numpy() for name, x in model.named_parameters()})
    params = jax.tree.map(jnp.asarray, params)
    features = {view: x.detach().numpy() for view, x in views.items()}
    full = EntryFusionConfig()
    ours, _ = jax.jit(fusion.apply, static_argnums=0)(full, params, features)
    # Measured 5.4e-7 on logits of up to 0.7; torch's float32 is 3.6e-7 from its float64.
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-5)

    def loss(params, features):
        return (fusion.apply(full, params, features)[0] ** 2).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(params, features)
    expected = (
        _from_torch({name: x.grad.numpy() for name, x in model.named_parameters()}),
        {view: x.grad.numpy() for view, x in views.items()},
    )
    # Measured 4.3e-6 on gradients of up to 5.7; torch's float32 against its float64: 2.5e-6.
    _assert_trees_close(found, expected, 1e-5)


def test_parameter_count_and_shapes():
    init = functools.partial(fusion.init, EntryFusionConfig())
    params = jax.eval_shape(init, jax.random.key(0))
    assert parameter_count(params) == 4_202_000
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes == {
        "main": {"kernel": (768, 1024), "bias": (1024,)},
        "aux": {"kernel": (768, 1024), "bias": (1024,)},
        "key": {"kernel": (2048, 1024), "bias": (1024,)},
        "attention": {
            "in_proj": {"kernel": (1, 3), "bias": (3,)},
            "out_proj": {"kernel": (1, 1), "bias": (1,)},
        },
        "mlp": {
            "fc1": {"kernel": (1024, 512), "bias": (512,)},
            "fc2": {"kernel": (512, 8), "bias": (8,)},
        },
    }


def test_init_draws_as_torch_does():
    params = jax.jit(fusion.init, static_argnums=0)(EntryFusionConfig(), jax.random.key(1))
    layers = (params["main"], params["aux"], params["key"], *params["mlp"].values())
    for layer in layers:
        bound = layer["kernel"].shape[0] ** -0.5
        for leaf in layer.values():
            assert np.abs(leaf).max() <= bound
        # Uniform: a standard deviation of bound / sqrt(3), and values up to the bound.
        assert np.std(layer["kernel"]) == pytest.approx(bound / 3**0.5, rel=0.03)
        assert np.abs(layer["kernel"]).max() > 0.99 * bound
        assert np.std(layer["bias"]) > 0
    assert not any(np.any(params["attention"][name]["bias"]) for name in ("in_proj", "out_proj"))

    keys = jax.random.split(jax.random.key(2), 2000)
    draw = jax.jit(jax.vmap(lambda key: fusion.init(TINY, key)["attention"]))(keys)
    for name, bound in (("in_proj", 1.5**0.5), ("out_proj", 1.0)):
        kernel = np.asarray(draw[name]["kernel"])
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert abs(kernel.mean()) < 0.05


def test_init_is_pure_and_no_two_leaves_are_alike():
    init = jax.jit(fusion.init, static_argnums=0)
    first, again, other = (init(TINY, jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["main"]["kernel"] != other["main"]["kernel"]).all()
    # Each leaf scaled to one range: two drawn from one key would share their first numbers.
    starts = [
        float(leaf.ravel()[0] / np.abs(leaf).max())
        for leaf in jax.tree.leaves(first)
        if leaf.size > 3
    ]
    assert len(set(np.round(starts, 6))) == len(starts) == 10


def test_params_of_another_type_are_computed_in_float32():
    config = dataclasses.replace(TINY, param_dtype="bfloat16")
    params = jax.jit(fusion.init, static_argnums=0)(config, jax.random.key(6))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    features = {"main": jnp.ones((2, 12)), "aux": jnp.ones((2, 10))}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    run = jax.jit(fusion.apply, static_argnums=0)
    found, expected = (run(config, tree, features)[0] for tree in (params, wide))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


def test_half_precision_features_and_host_params(goldens):
    params = _from_torch(goldens["state"])
    half = {view: jnp.asarray(x, jnp.bfloat16) for view, x in goldens["features"].items()}
    run = functools.partial(fusion.apply, GOLDEN, intermediates=True)
    logits, stages = jax.jit(run)(params, half)
    assert {x.dtype for x in (logits, *stages.values())} == {jnp.dtype("float32")}
    single = {view: np.asarray(x, np.float32) for view, x in half.items()}
    np.testing.assert_array_equal(logits, jax.jit(run)(params, single)[0])


def test_vmap_over_models(goldens):
    params, features = _from_torch(goldens["state"]), goldens["features"]
    half = jax.tree.map(lambda leaf: leaf / 2, params)
    models = jax.tree.map(lambda *leaves: np.stack(leaves), params, half)
    run = jax.jit(lambda params: fusion.apply(GOLDEN, params, features)[0])
    found = jax.jit(jax.vmap(run))(models)
    for i, model in enumerate((params, half)):
        np.testing.assert_allclose(found[i], run(model), rtol=0, atol=1e-6)


def test_memory_at_the_size_of_the_entry():
    """4 GiB a matrix of scores if they were stored; compiled only, not run."""
    config = EntryFusionConfig()
    params = jax.eval_shape(functools.partial(fusion.init, config), jax.random.key(0))
    features = {view: jax.ShapeDtypeStruct((1024, 768), jnp.float32) for view in fusion.VIEWS}

    def loss(params, features):
        return (fusion.apply(config, params, features)[0] ** 2).sum()

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, features).compile()
    # Measured 60 MiB with jax 0.10.2 and 0.12; the bound is the project's.
    assert compiled.memory_analysis().temp_size_in_bytes <= 64 * 2**20


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"main": (2, 12)}, "features of main; the fusion also takes aux"),
        ({}, "features of no source; the fusion also takes main, aux"),
        ({"main": (2, 12), "aux": (2, 12)}, r"features of aux are \(2, 12\); .* \(batch, 10\)"),
        ({"main": (2, 10), "aux": (2, 12)}, r"features of main are \(2, 10\); .* \(batch, 12\)"),
        ({"main": (2, 12), "aux": (3, 10)}, r"main are \(2, 12\) and of aux \(3, 10\)"),
    ],
)
def test_wrong_features_are_named(goldens, features, message):
    params = _from_torch(goldens["state"])
    arrays = {view: np.zeros(shape, np.float32) for view, shape in features.items()}
    with pytest.raises(FerJaxError, match=message):
        fusion.apply(TINY, params, arrays)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (768, 0)}, r"widths=\(768, 0\) must be positive"),
        ({"width": 0}, "width=0 must be positive"),
        ({"hidden": -1}, "hidden=-1 must be positive"),
        ({"num_classes": 0}, "num_classes=0 must be positive"),
    ],
)
def test_wrong_config_is_named(fields, message):
    with pytest.raises(FerJaxError, match=message):
        EntryFusionConfig(**fields)


def test_import_stays_light():
    heavy = ("flax", "cv2", "orbax", "grain", "tensorflow_datasets", "matplotlib", "optax")
    code = (
        "import sys; import fer_jax.models.fusion; "
        f"print(sorted(set(sys.modules) & set({heavy!r})))\n"
        # Without the annotations' hook, so that the package's own checks speak.
        "from fer_jax.models.fusion import EntryFusionConfig\n"
        "for widths in ((768,), [768, 768]):\n"
        "    try: EntryFusionConfig(widths=widths)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [
        "[]",
        "FerJaxError widths=(768,) must be a tuple of 2, for main, aux",
        "FerJaxError widths=[768, 768] must be a tuple of 2, for main, aux",
    ]
