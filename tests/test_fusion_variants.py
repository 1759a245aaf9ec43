"""Every fusion against its equations in float64 numpy, written with loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from fusion_cases import CASES, CLASSES, SOME, assert_close, made
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.models import fusion, torch_layout

# Largest difference from float64 over the largest value. Measured over all cases: logits 2.1e-7,
# fused features 1.7e-7.
TOLERANCE = 1e-6


def _linear(params, x):
    return x @ params["kernel"] + params["bias"]


def _norm(params, x):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params["bias"]


def _entry(config, params, features):
    """One face, its scores written out."""
    tokens = [_linear(params[name], features[name]) for name in config.sources]
    keys = _linear(params["key"], np.concatenate(tokens))
    in_proj, out_proj = params["attention"]["in_proj"], params["attention"]["out_proj"]
    (wq, wk, wv), (bq, bk, bv) = in_proj["kernel"][0], in_proj["bias"]
    wo, bo = out_proj["kernel"].item(), out_proj["bias"].item()
    fused = tokens[0].copy()
    for query in tokens[1:]:
        scores = np.outer(wq * query + bq, wk * keys + bk)
        fused += wo * (scipy.special.softmax(scores, axis=1) @ (wv * tokens[0] + bv)) + bo
    return fused, _linear(params["mlp"]["fc2"], _linear(params["mlp"]["fc1"], fused))


def _heads(config, params, features):
    names = {"main_only": config.sources[:1], "aux_only": config.sources[1:2]}
    used = [features[name] for name in names.get(config.variant, config.sources)]
    fused = np.concatenate(used)
    if config.variant != "average":
        return fused, _linear(params["head"], fused)
    each = [
        scipy.special.softmax(_linear(params["heads"][name], x))
        for name, x in zip(config.sources, used, strict=True)
    ]
    return fused, np.log(np.mean(each, axis=0))


def _token(config, params, features):
    maps = []
    for i, (name, own) in enumerate(zip(config.sources, config.widths, strict=True)):
        x = features[name]
        if own != config.width:
            x = _linear(params["project"][name], x)
        maps.append(x + params["source_embed"][i])
    height, columns, width = maps[0].shape
    if config.attention in ("self", "both"):
        tokens = np.concatenate([x.reshape(-1, width) for x in maps])
        qkv = _linear(params["attn"]["qkv"], _norm(params["norm1"], tokens))
        size = width // config.num_heads
        mixed = np.zeros_like(tokens)
        for head in range(config.num_heads):
            q, k, v = (qkv[:, i * width + head * size :][:, :size] for i in range(3))
            weights = scipy.special.softmax(q @ k.T / np.sqrt(size), axis=1)
            mixed[:, head * size : (head + 1) * size] = weights @ v
        tokens = tokens + _linear(params["attn"]["proj"], mixed)
        maps = [part.reshape(height, columns, width) for part in np.split(tokens, len(maps))]
    if config.merge == "updown":
        maps = [np.concatenate(maps, axis=0)]
    if config.attention in ("local", "both"):
        maps = [_local(config, params, x) for x in maps]
    pooled = [x.mean(axis=(0, 1)) for x in maps]
    fused = np.concatenate(pooled) if config.merge == "concat" else np.mean(pooled, axis=0)
    fused = _norm(params["norm"], fused)
    return fused, _linear(params["head"], fused)


def _local(config, params, x):
    normed = _norm(params["norm2"], x)
    kernel, reach = params["local"]["depthwise"]["kernel"], config.kernel_size // 2
    mixed = np.zeros_like(x) + params["local"]["depthwise"]["bias"]
    for row, column in np.ndindex(x.shape[:2]):
        for i, j in np.ndindex(kernel.shape[:2]):
            y, z = row + i - reach, column + j - reach
            if 0 <= y < x.shape[0] and 0 <= z < x.shape[1]:
                mixed[row, column] += kernel[i, j, 0] * normed[y, z]
    return x + scipy.special.expit(_linear(params["local"]["pointwise"], mixed)) * normed


def reference(config, params, features):
    """(fused, logits) in float64, face by face."""
    one = {"entry": _entry, "token": _token}.get(config.variant, _heads)
    params, features = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, features))
    number = len(next(iter(features.values())))
    faces = ({name: x[i] for name, x in features.items()} for i in range(number))
    fused, logits = zip(*(one(config, params, face) for face in faces), strict=True)
    return np.stack(fused), np.stack(logits)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_equations(case):
    config, params, features = made(case)
    run = functools.partial(fusion.apply, config, intermediates=True)
    logits, steps = jax.jit(run)(params, features)
    fused, expected = reference(config, params, features)
    assert logits.dtype == jnp.float32
    assert_close(logits, expected, TOLERANCE)
    assert_close(steps["fused"], fused, TOLERANCE)
    assert steps["fused"].shape == (4, config.fused_width)


@pytest.mark.parametrize("case", SOME)
def test_gradients_equal_finite_differences_of_the_equations(case):
    """Along one random direction for each leaf, in float64."""
    config, params, features = made(case, batch=2)
    weights = np.random.default_rng(1).normal(size=(2, CLASSES))

    def loss(params, features):
        return (fusion.apply(config, params, features)[0] * weights.astype(np.float32)).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(params, features)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, features))
    leaves, tree = jax.tree.flatten(wide)
    rng = np.random.default_rng(2)
    for i, gradient in enumerate(jax.tree.leaves(found)):
        direction = rng.normal(size=leaves[i].shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [x + step * direction if j == i else x for j, x in enumerate(leaves)]
            ends.append((reference(config, *tree.unflatten(moved))[1] * weights).sum())
        expected = (ends[0] - ends[1]) / 2e-6
        size = np.linalg.norm(gradient) * np.linalg.norm(direction)
        # Measured 3.5e-7; 0 where a source is not used.
        assert abs((gradient * direction).sum() - expected) < 2e-6 * size + 1e-8
        unused = config.variant in ("main_only", "aux_only")
        assert size > 1e-4 or unused  # nothing is left out by mistake


def test_token_equals_torch():
    """Its layers, and an order of rows that is theirs: weights can be taken over as they are."""
    torch = pytest.importorskip("torch")
    config, params, features = made("token of two heads")
    state = {name: torch.tensor(x) for name, x in torch_layout.to_torch_layout(params, config)}
    tensors = {name: torch.tensor(x) for name, x in features.items()}
    functional = torch.nn.functional

    def layer(name, x):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name, x):
        wide = (x.shape[-1],)
        return functional.layer_norm(x, wide, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    grids = [tensors["main"], layer("project.aux", tensors["aux"])]
    grids = [x + state["source_embed"][i] for i, x in enumerate(grids)]
    tokens = torch.cat([x.flatten(1, 2) for x in grids], dim=1)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(state["attn.qkv.weight"])
        attention.in_proj_bias.copy_(state["attn.qkv.bias"])
        attention.out_proj.weight.copy_(state["attn.proj.weight"])
        attention.out_proj.bias.copy_(state["attn.proj.bias"])
        normed = norm("norm1", tokens)
        tokens = tokens + attention(normed, normed, normed)[0]
        pooled = []
        for part in tokens.chunk(2, dim=1):
            normed = norm("norm2", part).unflatten(1, (3, 4))
            gate = functional.conv2d(
                normed.permute(0, 3, 1, 2),
                state["local.depthwise.weight"],
                state["local.depthwise.bias"],
                padding=1,
                groups=8,
            ).permute(0, 2, 3, 1)
            gate = torch.sigmoid(layer("local.pointwise", gate))
            pooled.append((part.unflatten(1, (3, 4)) + gate * normed).mean((1, 2)))
        expected = layer("head", norm("norm", torch.stack(pooled).mean(0)))
    run = jax.jit(fusion.apply, static_argnums=0)
    assert_close(run(config, params, features)[0], expected.numpy(), TOLERANCE)


@pytest.mark.parametrize("case", ["entry", "average", "token both updown"])
def test_sharded_over_eight_devices_equals_one(case):
    config, params, features = made(case, batch=16)
    labels = np.arange(16) % CLASSES

    def loss(params, features):
        logits, _ = fusion.apply(config, params, features)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -chosen.mean(), logits

    run = jax.value_and_grad(loss, has_aux=True)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    sharded = jax.jit(run, in_shardings=(whole, rows))(
        jax.device_put(params, whole), jax.device_put(features, rows)
    )
    alone = jax.jit(run)(params, features)
    norm = max(np.linalg.norm(x) for x in jax.tree.leaves(alone[1]))
    for ours, theirs in zip(jax.tree.leaves(sharded[0]), jax.tree.leaves(alone[0]), strict=True):
        assert_close(ours, theirs, 1e-6)
    for ours, theirs in zip(jax.tree.leaves(sharded[1]), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * norm)


@pytest.mark.parametrize("case", ["entry of three", "average", "linear", "token both concat"])
def test_vmap_over_models_and_over_faces(case):
    config, params, features = made(case)
    other = made(case, seed=1)[1]
    models = jax.tree.map(lambda *leaves: np.stack(leaves), params, other)
    run = jax.jit(lambda params, features: fusion.apply(config, params, features)[0])
    found = jax.jit(jax.vmap(run, in_axes=(0, None)))(models, features)
    for ours, own in zip(found, (params, other), strict=True):
        assert_close(ours, run(own, features), 1e-6)

    def one(face):
        return run(params, jax.tree.map(lambda x: x[None], face))[0]

    assert_close(jax.jit(jax.vmap(one))(features), run(params, features), 1e-6)


def test_entry_of_three_equal_to_two_where_the_third_says_nothing():
    """The answers are added: a third source whose answer is out_proj's bias adds that bias."""
    config, params, features = made("entry of three")
    params["attention"]["out_proj"]["bias"] = np.zeros(1, np.float32)
    params["attention"]["in_proj"]["kernel"][0, 2] = 0  # all values are the bias
    _, steps = fusion.apply(config, params, features, intermediates=True)
    value = params["attention"]["in_proj"]["bias"][2] * params["attention"]["out_proj"]["kernel"]
    np.testing.assert_allclose(steps["attention"], np.full((4, 16), 2 * value), rtol=1e-5)


def test_merges_differ_where_they_should():
    """Without local attention updown is mean; with it the seam is seen."""
    run = jax.jit(fusion.apply, static_argnums=0)
    for attention, same in (("none", True), ("self", True), ("local", False), ("both", False)):
        config, params, features = made(f"token {attention} mean")
        updown = dataclasses.replace(config, merge="updown")
        found, other = (run(c, params, features)[0] for c in (config, updown))
        assert (np.abs(found - other).max() < 1e-5) == same
    # A convolution that looks only at itself sees no seam.
    params["local"]["depthwise"]["kernel"][[0, 2]] = 0
    found, other = (run(c, params, features)[0] for c in (config, updown))
    assert_close(found, other, TOLERANCE)


def test_average_is_a_mean_of_probabilities_even_of_extreme_ones():
    config, params, features = made("average")
    params["heads"]["main"]["kernel"] *= 1e4
    logits = fusion.apply(config, params, features)[0]
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-6)
    gradient = jax.grad(lambda p: fusion.apply(config, p, features)[0].sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("case", ["entry", "aux_only", "average", "linear", "token both mean"])
def test_dropout_needs_a_key_and_keeps_the_mean(case):
    config, params, features = made(case, batch=1)
    dropped = dataclasses.replace(config, dropout=0.3)
    apply = jax.jit(fusion.apply, static_argnums=0, static_argnames="intermediates")
    plain, steps = apply(config, params, features, intermediates=True)
    np.testing.assert_array_equal(apply(dropped, params, features)[0], plain)
    np.testing.assert_array_equal(apply(config, params, features, jax.random.key(0))[0], plain)
    keys = jax.random.split(jax.random.key(1), 4000)
    run = jax.jit(jax.vmap(lambda key: fusion.apply(dropped, params, features, key)[0][0]))
    found = run(keys)
    assert len(np.unique(found, axis=0)) > 100
    if config.variant != "average":  # of the others logits are linear in the features
        spread = found.std(axis=0) / len(keys) ** 0.5
        assert (np.abs(found.mean(axis=0) - plain[0]) < 5 * spread).all()
        # Var = r / (1 - r) sum_i (x_i w_i)^2
        head = (
            params["mlp"]["fc1"]["kernel"] @ params["mlp"]["fc2"]["kernel"]
            if (case == "entry")
            else params["head"]["kernel"]
        )
        expected = 0.3 / 0.7 * (np.square(steps["fused"][0][:, None] * head)).sum(axis=0)
        np.testing.assert_allclose(found.var(axis=0), expected, rtol=0.15)


def test_half_precision_features_are_computed_in_float32():
    config, params, features = made("token both mean")
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), features)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), half)
    run = jax.jit(functools.partial(fusion.apply, config))
    np.testing.assert_array_equal(run(params, half)[0], run(params, single)[0])
    bfloat = dataclasses.replace(config, param_dtype="bfloat16")
    drawn = fusion.init(bfloat, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype("bfloat16")}
