"""The interface of all fusions: sizes from params, the order of sources, names, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fusion_cases import CASES, CLASSES, MAPS, POOLED, SOME, assert_close, made

from fer_jax.errors import FerJaxError
from fer_jax.models import fusion, torch_layout
from fer_jax.models.fusion import fusion_attention, fusion_config, fusion_init


@pytest.mark.parametrize("case", SOME)
def test_the_interface_reads_sizes_off_the_params(case):
    variant, widths, options = CASES[case]
    config, params, features = made(case)
    logits, _ = jax.jit(fusion.apply, static_argnums=0)(config, params, features)
    order = {"sources": tuple(widths)} if len(widths) > 2 else {}
    if variant != "token":
        options = {}
    run = functools.partial(fusion_attention, variant=variant, **order, **options)
    np.testing.assert_array_equal(jax.jit(run)(params, features), logits)
    drawn = fusion_init(jax.random.key(3), variant, widths, CLASSES, **CASES[case][2])
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)


def test_the_first_source_is_the_main_one_whatever_the_order_of_a_dict():
    widths = {"voice": 7, "face": 7, "body": 7}
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(3, 7)).astype(np.float32) for name in widths}
    for variant in ("entry", "token", "average", "linear", "main_only", "aux_only"):
        maps = {name: x[:, None, None] for name, x in features.items()}
        given = maps if variant == "token" else features
        merge = {"merge": "concat"} if variant == "token" else {}
        params = fusion_init(jax.random.key(0), variant, widths, 4, **merge)
        static = ("variant", "sources", *merge)
        run = jax.jit(fusion_attention, static_argnames=static)
        run = functools.partial(run, variant=variant, **merge)
        found = run(params, given, sources=tuple(widths))
        sorted_features = dict(sorted(given.items()))
        again = run(params, sorted_features, sources=tuple(widths))
        np.testing.assert_array_equal(found, again)
        turned = run(params, given, sources=("face", "voice", "body"))
        same = np.array_equal(found, turned)
        assert same == (variant == "average")  # which alone has a head for each name
        with pytest.raises(FerJaxError, match=r"of body, face, voice; pass sources="):
            run(params, given)


@pytest.mark.parametrize("case", SOME)
def test_one_face_is_a_batch_of_one(case):
    config, params, features = made(case)
    run = jax.jit(functools.partial(fusion.apply, config, params, intermediates=True))
    one = run({name: x[1] for name, x in features.items()})
    lone = run({name: x[1:2] for name, x in features.items()})
    assert one[0].shape == (CLASSES,)
    assert one[1].keys() == lone[1].keys()
    # Float32 sums in another order: measured 1e-7 (jax 0.12; 0 before), 4e-8 and 2e-7.
    jax.tree.map(lambda ours, theirs: assert_close(ours, theirs[0], 1e-6), one, lone)
    assert_close(jax.vmap(run)(features)[0], run(features)[0], 1e-6)
    order = config.sources if len(config.sources) > 1 else None
    options = {"merge": config.merge} if config.variant == "token" else {}
    same = fusion_attention(
        params,
        {name: x[1] for name, x in features.items()},
        config.variant,
        sources=order,
        **options,
    )
    assert_close(same, one[0], 1e-6)


def test_one_face_beside_a_batch_is_refused():
    config, params, features = made("entry", batch=1)
    with pytest.raises(
        FerJaxError, match=r"aux are \(10,\); .* \(10,\) of all sources for one face"
    ):
        fusion.apply(config, params, features | {"aux": features["aux"][0]})


@pytest.mark.parametrize("case", SOME)
def test_init_draws_every_leaf_of_its_own(case):
    config = made(case)[0]
    first, other = (
        jax.jit(fusion.init, static_argnums=0)(config, jax.random.key(seed)) for seed in (0, 1)
    )
    starts = []
    for (path, leaf), second in zip(
        jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(other), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        constant = ("norm" in name) or ("attention" in name and "bias" in name)
        assert constant == np.array_equal(leaf, second), name
        if not constant and leaf.size > 3:
            starts.append(round(float(leaf.ravel()[0] / leaf.ravel()[1]), 5))
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("case", CASES)
def test_torch_layout_goes_both_ways(case):
    config, params, _ = made(case)
    tensors = dict(torch_layout.to_torch_layout(params, config))
    assert set(tensors) == set(torch_layout.layout(config))
    again = torch_layout.from_torch_layout(tensors, config)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    for name, x in tensors.items():
        assert x.shape == torch_layout.layout(config)[name][0]
    if config.variant == "entry":
        assert {f"linear{i + 1}.weight" for i in range(len(config.sources))} <= set(tensors)
    if config.variant == "token" and "local.depthwise.weight" in tensors:
        size = config.kernel_size
        assert tensors["local.depthwise.weight"].shape == (config.width, 1, size, size)


@pytest.mark.parametrize(
    ("variant", "widths", "options", "said"),
    [
        ("mixer", POOLED, {}, "fusion 'mixer' must be one of entry, token, main_only, aux_only"),
        ("entry", POOLED, {"merge": "mean"}, "'entry' has no option 'merge'; it has dropout"),
        ("linear", POOLED, {"width": 4}, "'linear' has no option 'width'"),
        ("entry", {"main": 3}, {}, r"sources=\('main',\) must be a tuple of 2 names or more"),
        ("aux_only", {"main": 3}, {}, "must be a tuple of 2 names or more"),
        ("token", {}, {}, "must be a tuple of 1 names or more"),
        ("linear", {"main": 0}, {}, r"widths=\(0,\) must be positive"),
        ("linear", {"key": 4}, {}, "'key' must be a word of letters, digits and _, and none of"),
        ("linear", {"a.b": 4}, {}, r"'a\.b' must be a word"),
        ("linear", POOLED, {"dropout": 1.0}, r"dropout=1\.0 must lie in \[0, 1\)"),
        ("token", MAPS, {"num_heads": 3}, "num_heads=3 must divide width=8"),
        ("token", MAPS, {"kernel_size": 4}, "kernel_size=4 must be odd"),
        ("token", MAPS, {"merge": "max"}, "merge='max' must be one of mean, concat, updown"),
        ("token", MAPS, {"attention": "all"}, "attention='all' must be one of self, local, both"),
        ("token", MAPS, {"norm_eps": 0.0}, r"norm_eps=0\.0 must be finite and above 0"),
    ],
)
def test_wrong_configurations_are_named(variant, widths, options, said):
    with pytest.raises(FerJaxError, match=said):
        fusion_config(variant, widths, 8, **options)


def test_wrong_features_and_params_are_named():
    config, params, features = made("token both mean")
    attend = functools.partial(fusion_attention, params, variant="token")
    with pytest.raises(FerJaxError, match=r"main are \(4, 12\); this fusion takes maps"):
        fusion.apply(config, params, {name: np.zeros((4, 12)) for name in features})
    with pytest.raises(FerJaxError, match="all must be of the same faces and of one grid"):
        attend({"main": features["main"], "aux": features["aux"][:, :2]})
    with pytest.raises(FerJaxError, match="features of main; the fusion also takes aux"):
        attend({"main": features["main"]}, sources=("main", "aux"))
    with pytest.raises(
        FerJaxError, match=r"params\['head'\]\['kernel'\] is \(8, 5\) where .* \(16, 5\)"
    ):
        attend(features, merge="concat")
    with pytest.raises(FerJaxError, match=r"params\['attn'\].* is .* where .* has none"):
        attend(features, attention="local")
    pooled = {name: x[:, 0, 0] for name, x in features.items()}
    with pytest.raises(FerJaxError, match=r"which are not those of the fusion 'entry' of main"):
        fusion_attention(params, pooled)
    with pytest.raises(FerJaxError, match="fusion 'mean' must be one of"):
        fusion_attention(params, pooled, "mean")
    with pytest.raises(FerJaxError, match=r"params\['head'\]\['kernel'\] is \(8, 5\) where"):
        fusion_attention({"head": params["head"]}, pooled, "linear")
