"""Against torch's CrossEntropyLoss: goldens of tools/make_loss_goldens.py, and live torch.

Focal loss, logit adjustment and effective numbers: against their papers' equations in float64.
"""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.labels import label_space
from fer_jax.ops.losses import (
    CLASS_WEIGHT_SCHEMES,
    LOSSES,
    class_weights,
    classification_loss,
    focal_loss,
    log_prior,
    logit_adjusted_cross_entropy,
    weighted_cross_entropy,
)

GOLDENS = pathlib.Path(__file__).parent / "testdata" / "loss_goldens.npz"
CASES = list(itertools.product(("hard", "hard_ignored", "soft"), (False, True), (0.0, 0.1)))

# float32 against torch's float64: measured 1.5e-7 of the loss (relative), 6e-8 on gradients.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS) as file:
        return dict(file)


def _mean(logits, targets, **options):
    loss_sum, denominator = weighted_cross_entropy(logits, targets, **options)
    return loss_sum / denominator


@pytest.mark.parametrize(("kind", "weighted", "smoothing"), CASES)
def test_equals_torch(goldens, kind, weighted, smoothing):
    loss, gradient = jax.jit(jax.value_and_grad(_mean), static_argnames="label_smoothing")(
        jnp.asarray(goldens["logits"]),
        jnp.asarray(goldens[kind]),
        class_weights=jnp.asarray(goldens["weights"]) if weighted else None,
        label_smoothing=smoothing,
    )
    case = f"{kind}/{'weighted' if weighted else 'plain'}/{smoothing}"
    np.testing.assert_allclose(loss, goldens[f"{case}/loss"], rtol=TOLERANCE)
    np.testing.assert_allclose(gradient, goldens[f"{case}/gradient"], atol=TOLERANCE, rtol=0)


def test_hard_and_soft_divide_differently(goldens):
    """The trap that the goldens hold: one-hot targets are not the same loss as indices."""
    logits, weights = goldens["logits"], goldens["weights"]
    one_hot = np.eye(8, dtype=np.float32)[goldens["hard"]]
    hard_sum, hard_count = weighted_cross_entropy(logits, goldens["hard"], class_weights=weights)
    soft_sum, soft_count = weighted_cross_entropy(logits, one_hot, class_weights=weights)
    np.testing.assert_allclose(hard_sum, soft_sum, rtol=TOLERANCE)
    np.testing.assert_allclose(hard_count, weights[goldens["hard"]].sum(), rtol=TOLERANCE)
    assert soft_count == len(logits)


def test_equals_live_torch_on_other_shapes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for batch, classes in ((1, 2), (33, 7), (64, 13)):
        logits = rng.normal(0, 5, (batch, classes)).astype(np.float32)
        hard = rng.integers(-1, classes, batch)
        hard[0] = 0
        soft = rng.dirichlet(np.ones(classes), batch).astype(np.float32)
        weights = rng.uniform(0.2, 9, classes).astype(np.float32)
        for targets, smoothing in itertools.product((hard, soft), (0.0, 0.3, 1.0)):
            criterion = torch.nn.CrossEntropyLoss(
                torch.tensor(weights), ignore_index=-1, label_smoothing=smoothing
            )
            ours = _mean(logits, targets, class_weights=weights, label_smoothing=smoothing)
            theirs = criterion(torch.tensor(logits), torch.tensor(targets))
            # Both sides float32: measured 3e-7.
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-6)


@pytest.mark.parametrize(("kind", "weighted", "smoothing"), CASES)
def test_exact_over_eight_devices(goldens, kind, weighted, smoothing):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    options = {
        "class_weights": goldens["weights"] if weighted else None,
        "label_smoothing": smoothing,
        "mask": np.arange(24) != 3,
    }

    def loss(logits, targets, mask):
        return _mean(logits, targets, **{**options, "mask": mask})

    arguments = [jnp.asarray(a) for a in (goldens["logits"], goldens[kind], options["mask"])]
    whole = jax.value_and_grad(loss)(*arguments)
    sharded = jax.jit(jax.value_and_grad(loss), in_shardings=rows)(
        *(jax.device_put(a, rows) for a in arguments)
    )
    assert len(sharded[1].sharding.device_set) == 8
    np.testing.assert_allclose(sharded[0], whole[0], rtol=TOLERANCE)  # measured 1.5e-7
    np.testing.assert_allclose(sharded[1], whole[1], atol=TOLERANCE, rtol=0)

    # The same by hand: unequal parts, added before the one division.
    cuts = (slice(0, 1), slice(1, 9), slice(9, 24))
    parts = [
        weighted_cross_entropy(*(a[cut] for a in arguments[:2]), **{**options, "mask": mask[cut]})
        for cut in cuts
        for mask in (arguments[2],)
    ]
    total, count = np.sum(np.asarray(parts, np.float64), axis=0)
    np.testing.assert_allclose(total / count, whole[0], rtol=TOLERANCE)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_padding_may_hold_anything(goldens, kind):
    logits, targets = goldens["logits"], goldens[kind]
    options = {"class_weights": goldens["weights"], "label_smoothing": 0.1}
    padding = np.full((4, 8), np.nan, np.float32)
    padded_targets = np.concatenate(
        [targets, padding if kind == "soft" else np.full(4, 99, targets.dtype)]
    )
    mask = np.arange(28) < 24

    def padded(logits):
        return _mean(logits, padded_targets, mask=mask, **options)

    loss, gradient = jax.value_and_grad(padded)(np.concatenate([logits, padding]))
    expected, expected_gradient = jax.value_and_grad(_mean)(logits, targets, **options)
    np.testing.assert_allclose(loss, expected, rtol=TOLERANCE)
    np.testing.assert_allclose(gradient[:24], expected_gradient, atol=TOLERANCE, rtol=0)
    assert not np.asarray(gradient[24:]).any()


def test_all_left_out_is_zero_over_zero(goldens):
    nobody = np.full(24, -1)
    loss_sum, denominator = weighted_cross_entropy(goldens["logits"], nobody)
    assert (float(loss_sum), float(denominator)) == (0.0, 0.0)


def test_index_outside_the_classes_is_loud(goldens):
    for outside in (8, -2):
        targets = goldens["hard"].copy()
        targets[2] = outside
        assert np.isnan(weighted_cross_entropy(goldens["logits"], targets)[0])


def test_half_precision_logits_are_summed_in_float32(goldens):
    half = jnp.asarray(goldens["logits"], jnp.bfloat16)
    loss_sum, denominator = weighted_cross_entropy(half, goldens["hard"])
    assert loss_sum.dtype == denominator.dtype == jnp.float32
    expected, _ = weighted_cross_entropy(half.astype(jnp.float32), goldens["hard"])
    assert loss_sum == expected


@pytest.mark.parametrize("smoothing", [-0.1, 1.5])
def test_smoothing_outside_its_range_is_refused(goldens, smoothing):
    with pytest.raises(FerJaxError, match="label_smoothing"):
        weighted_cross_entropy(goldens["logits"], goldens["hard"], label_smoothing=smoothing)


def _by_the_paper(name, logits, targets, weights, gamma, tau, prior, smoothing):
    """One row after another in float64: Lin et al., equation 5; Menon et al., equation 10."""
    total = count = 0.0
    for row, target in zip(np.asarray(logits, np.float64), targets, strict=True):
        if np.ndim(target) == 0 and target < 0:
            continue
        share = np.eye(8)[target] if np.ndim(target) == 0 else np.asarray(target, np.float64)
        count += weights[target] if np.ndim(target) == 0 else 1
        share = (1 - smoothing) * share + smoothing / 8
        if name == "logit_adjusted":
            row = row + tau * np.log(prior)
        p = np.exp(row - row.max())
        p /= p.sum()
        factor = (1 - p) ** gamma if name == "focal" else 1
        total -= (weights * share * factor * np.log(p)).sum()
    return total / count


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("kind", "weighted", "smoothing"), CASES)
def test_equals_the_papers(goldens, name, kind, weighted, smoothing):
    weights = goldens["weights"] if weighted else np.ones(8, np.float32)
    prior = COUNTS / COUNTS.sum()
    loss_sum, denominator = jax.jit(
        classification_loss, static_argnums=0, static_argnames=("gamma", "tau", "label_smoothing")
    )(
        name,
        goldens["logits"],
        goldens[kind],
        gamma=1.5,
        log_prior=log_prior(COUNTS),
        tau=0.7,
        class_weights=weights,
        label_smoothing=smoothing,
    )
    expected = _by_the_paper(
        name, goldens["logits"], goldens[kind], weights.astype(float), 1.5, 0.7, prior, smoothing
    )
    # float32 against float64: measured 4e-7 of the loss.
    np.testing.assert_allclose(loss_sum / denominator, expected, rtol=2e-6)


@pytest.mark.parametrize("name", ["focal", "logit_adjusted"])
def test_gradients_of_the_others(goldens, name):
    """Against central differences of the float64 equation, and the same over eight devices."""
    options = {"gamma": 2.0, "log_prior": log_prior(COUNTS), "tau": 1.0}

    def loss(logits, targets):
        loss_sum, denominator = classification_loss(
            name, logits, targets, class_weights=goldens["weights"], **options
        )
        return loss_sum / denominator

    logits, targets = goldens["logits"][:8], goldens["soft"][:8]
    gradient = jax.grad(loss)(logits, targets)
    weights, prior = goldens["weights"].astype(float), COUNTS / COUNTS.sum()
    expected = np.zeros((8, 8))
    for place in np.ndindex(8, 8):
        ends = []
        for step in (1e-4, -1e-4):
            moved = logits.astype(float)
            moved[place] += step
            ends.append(_by_the_paper(name, moved, targets, weights, 2.0, 1.0, prior, 0.0))
        expected[place] = (ends[0] - ends[1]) / 2e-4
    # Measured 3e-7, at gradients up to 2.
    np.testing.assert_allclose(gradient, expected, atol=2e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(jax.grad(loss), in_shardings=rows)(
        jax.device_put(logits, rows), jax.device_put(targets, rows)
    )
    np.testing.assert_allclose(sharded, gradient, atol=TOLERANCE)
    many = jax.vmap(jax.grad(loss))(np.stack([logits, logits]), np.stack([targets, targets]))
    np.testing.assert_allclose(many[1], gradient, atol=TOLERANCE)


def test_nothing_to_modulate_or_adjust_is_plain_cross_entropy(goldens):
    arguments = (goldens["logits"], goldens["hard_ignored"])
    plain = weighted_cross_entropy(*arguments)
    assert focal_loss(*arguments, gamma=0.0) == plain
    shifted = logit_adjusted_cross_entropy(*arguments, log_prior=log_prior(COUNTS), tau=0.0)
    assert shifted == plain


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_the_surest_row_has_a_gradient(gamma):
    logits = jnp.array([[200.0, 0.0, -200.0]])
    loss, gradient = jax.value_and_grad(lambda x: focal_loss(x, jnp.array([0]), gamma=gamma)[0])(
        logits
    )
    assert float(loss) == 0
    assert np.isfinite(gradient).all()
    wrong = jax.grad(lambda x: focal_loss(x, jnp.array([2]), gamma=gamma)[0])(logits)
    np.testing.assert_allclose(wrong, [[1, 0, -1]], atol=1e-6)


def test_losses_that_cannot_be(goldens):
    arguments = (goldens["logits"], goldens["hard"])
    with pytest.raises(FerJaxError, match=r"gamma=-1\.0 is below 0"):
        focal_loss(*arguments, gamma=-1.0)
    with pytest.raises(FerJaxError, match="needs log_prior"):
        classification_loss("logit_adjusted", *arguments)
    with pytest.raises(FerJaxError, match="no loss 'dice'; one of cross_entropy, focal, logit"):
        classification_loss("dice", *arguments)
    with pytest.raises(FerJaxError, match="no sample of class number 1: 'log_prior'"):
        log_prior(np.array([1, 0]))


# method.md's counts of Aff-Wild2 training labels that have an image.
COUNTS = np.array([177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866])


def test_class_weights_of_affwild2():
    space = label_space("affwild2_expr")
    total = COUNTS.sum()
    assert total == 585317
    for scheme, reference in {"neutral": 177198, "balanced": total / 8, "max": 177198}.items():
        found = class_weights(COUNTS, scheme, space)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference / COUNTS, rtol=1e-7)
    assert (class_weights(COUNTS, "none", space) == 1).all()


def test_neutral_is_found_by_name():
    space = label_space("rafdb")  # where Neutral comes last
    counts = np.array([2, 4, 8, 16, 32, 64, 128])
    assert class_weights(counts, "neutral", space).tolist() == [64, 32, 16, 8, 4, 2, 1]
    with pytest.raises(FerJaxError, match="needs the label space"):
        class_weights(counts, "neutral")


@pytest.mark.parametrize("scheme", CLASS_WEIGHT_SCHEMES[1:])
def test_class_without_samples_is_named(scheme):
    counts = COUNTS.copy()
    counts[3] = 0
    with pytest.raises(FerJaxError, match="no sample of class Fear"):
        class_weights(counts, scheme, label_space("affwild2_expr"))


def test_wrong_scheme_and_wrong_number_of_counts():
    with pytest.raises(FerJaxError, match="'inverse'; one of none, neutral, balanced, max"):
        class_weights(COUNTS, "inverse")
    with pytest.raises(FerJaxError, match="8 counts for the 7 classes of expw"):
        class_weights(COUNTS, "max", label_space("expw"))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 0.9999999, 1.0])
def test_effective_numbers(beta):
    """Cui et al., equation 2, summed term by term: E = 1 + beta + ... + beta^(n - 1)."""
    counts = np.array([3, 1, 40])
    effective = [sum(beta**i for i in range(n)) for n in counts.tolist()]
    expected = 1 / np.array(effective)
    expected *= 3 / expected.sum()
    np.testing.assert_allclose(class_weights(counts, "effective", beta=beta), expected, rtol=1e-6)
    with pytest.raises(FerJaxError, match=r"beta=1.5 is outside \[0, 1\]"):
        class_weights(counts, "effective", beta=1.5)


@pytest.mark.parametrize("kind", ["hard_ignored", "soft"])
@pytest.mark.parametrize("name", LOSSES)
def test_one_sample_and_more_axes(goldens, name, kind):
    logits, targets = jnp.asarray(goldens["logits"]), jnp.asarray(goldens[kind])
    options = {"class_weights": goldens["weights"], "label_smoothing": 0.1}
    prior = log_prior(COUNTS)
    loss = jax.jit(functools.partial(classification_loss, name, log_prior=prior, **options))
    mask = jnp.arange(24) % 5 / 4
    each = [loss(*row) for row in zip(logits, targets, strict=True)]
    rows = [loss(row[None], target[None]) for row, target in zip(logits, targets, strict=True)]
    np.testing.assert_array_equal(each, rows)
    # float32 sums in another order: measured 1.2e-7.
    mapped = jax.vmap(loss)(logits, targets)
    np.testing.assert_allclose(mapped, np.transpose(each), rtol=TOLERANCE)
    np.testing.assert_array_equal(loss(goldens["logits"][0], goldens[kind][0]), each[0])
    folded = [x.reshape(4, 6, *x.shape[1:]) for x in (logits, targets, mask)]
    np.testing.assert_array_equal(
        loss(*folded[:2], mask=folded[2]), loss(logits, targets, mask=mask)
    )
    gradient = jax.grad(lambda *row: loss(*row)[0])
    one, whole = gradient(logits[0], targets[0]), gradient(logits, targets)
    np.testing.assert_allclose(one, whole[0], atol=TOLERANCE, rtol=TOLERANCE)  # 3e-7 of it


def test_shapes_that_do_not_fit_are_named(annotations_off):
    logits = jnp.zeros((2, 3, 8))
    with pytest.raises(FerJaxError, match=r"targets of shape \(3, 2\) for logits of \(2, 3, 8\)"):
        weighted_cross_entropy(logits, jnp.zeros((3, 2), int))
    with pytest.raises(FerJaxError, match=r"a mask of shape \(3, 2\) .*; give \(2, 3\)"):
        weighted_cross_entropy(logits, jnp.zeros((2, 3), int), mask=jnp.ones((3, 2)))
