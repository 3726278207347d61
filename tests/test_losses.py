"""The loss functions against NumPy forms written from the equations."""

from __future__ import annotations

import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax import losses

SEEDS = st.integers(0, 2**31 - 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("module", ["club", "contrastive", "elementary"])
def test_docstring_examples(module: str):
    loaded = importlib.import_module(f"fmalign_jax.losses.{module}")
    finder = doctest.DocTestFinder()
    functions = [name for name in losses.__all__ if callable(getattr(losses, name))]
    examples = [
        test
        for name in functions
        if losses.__dict__[name].__module__ == loaded.__name__
        for test in finder.find(
            losses.__dict__[name], name, globs={**vars(loaded), "jax": jax}
        )
        if test.examples
    ]
    public = [name for name in functions if getattr(loaded, name, None)]
    assert len(examples) == len(public)
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.summarize().failed == 0


# --- elementary -------------------------------------------------------------------


def test_masked_mean_counts_each_window_once():
    values = jnp.array([1.0, 2.0, jnp.nan, 6.0])
    mask = jnp.array([True, True, False, True])
    assert losses.masked_mean(values, mask) == 3.0
    assert losses.masked_mean(values, jnp.zeros(4, bool)) == 0.0
    gradient = jax.grad(losses.masked_mean)(values, mask)
    np.testing.assert_allclose(gradient, [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)


# XLA takes subnormal numbers of float32 for 0 on a CPU.
@given(SEEDS, st.floats(0, 1, width=32, allow_subnormal=False))
@settings(deadline=None, max_examples=20)
def test_gradient_scale_keeps_the_value_and_scales_the_gradient(seed, scale):
    x = jnp.asarray(normal(seed, 5) * 1e3)
    np.testing.assert_array_equal(losses.gradient_scale(x, scale), x)
    gradient = jax.grad(lambda x: losses.gradient_scale(x, scale).sum())(x)
    np.testing.assert_array_equal(gradient, np.full(5, scale, np.float32))


def test_squared_error_is_a_mean_over_everything_but_the_window():
    prediction, target = normal(0, 3, 4, 2, 5), normal(1, 3, 4, 2, 5)
    expected = ((prediction - target) ** 2).reshape(3, -1).mean(1)
    actual = losses.squared_error(jnp.asarray(prediction), jnp.asarray(target))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_squared_error_of_half_precision_is_taken_in_fp32():
    x = jnp.full((1, 1), 300.0, jnp.bfloat16)
    error = losses.squared_error(x, jnp.zeros_like(x))
    assert error.dtype == jnp.float32
    assert error[0] == float(x[0, 0]) ** 2


def test_commitment_moves_features_and_never_codes():
    z, e = jnp.asarray(normal(0, 2, 3, 4)), jnp.asarray(normal(1, 2, 3, 4))
    loss = lambda z, e: losses.commitment(z, e).sum()  # noqa: E731
    to_z, to_e = jax.grad(loss, (0, 1))(z, e)
    np.testing.assert_allclose(to_z, 2 * (z - e) / 12, rtol=1e-6)
    assert not np.any(to_e)


# --- InfoNCE ----------------------------------------------------------------------


@given(SEEDS, st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_info_nce_normalises_over_the_candidates_of_a_context(seed, batch):
    logits = normal(seed, 2, batch, batch) * 5
    expected = -np.diagonal(log_softmax(logits), axis1=1, axis2=2)
    actual = losses.info_nce(jnp.asarray(logits))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_info_nce_distinguishes_rows_from_columns():
    # A candidate that every context prefers: contexts disagree, columns would not.
    logits = jnp.array([[0.0, 9.0], [0.0, 9.0]])
    np.testing.assert_allclose(losses.info_nce(logits), [9.0, 0.0], atol=2e-4)


def test_info_nce_survives_huge_logits():
    logits = jnp.array([[1e30, -1e30], [3e4, -3e4]])
    value, gradient = jax.value_and_grad(lambda x: losses.info_nce(x).sum())(logits)
    assert np.isclose(value, 6e4)
    np.testing.assert_array_equal(gradient, [[0, 0], [1, -1]])


@pytest.mark.parametrize(
    "function", [losses.info_nce, lambda x, m: losses.cwcl(x, jnp.exp(x), m)]
)
def test_masked_windows_are_neither_counted_nor_negatives(function):
    logits = jnp.asarray(normal(3, 5, 5))
    mask = jnp.array([True, False, True, True, False])
    kept = np.flatnonzero(mask)
    actual = function(logits, mask)
    inside = function(logits[np.ix_(kept, kept)], None)
    np.testing.assert_allclose(actual[kept], inside, rtol=1e-5)
    assert not np.any(actual[np.array([1, 4])])
    gradient = np.array(jax.grad(lambda x: function(x, mask).sum())(logits))
    assert np.isfinite(gradient).all()
    assert not gradient[[1, 4]].any()
    assert not gradient[:, [1, 4]].any()


def test_own_is_nearest_leaves_masked_candidates_out():
    logits = jnp.array([[1.0, 0.0, 5.0], [0.0, 1.0, 5.0], [0.0, 0.0, 5.0]])
    everyone = losses.own_is_nearest(logits)
    np.testing.assert_array_equal(everyone, [0, 0, 1])
    masked = losses.own_is_nearest(logits, jnp.array([True, True, False]))
    np.testing.assert_array_equal(masked, [1, 1, 0])
    np.testing.assert_array_equal(losses.own_is_nearest(jnp.zeros((3, 3))), [1, 0, 0])


# --- code matching ----------------------------------------------------------------


def numpy_code_distribution(z: np.ndarray, e: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(z[:, :, None].astype(np.float64) - e, axis=-1)
    return np.exp(log_softmax(-distance)).mean(1)


def numpy_code_matching(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    batch = len(p)
    s = np.zeros((batch, batch))
    for b in range(batch):
        for c in range(batch):
            s[b, c] = (p[b] * np.log(q[c]) + q[c] * np.log(p[b])).sum()
    return -(np.diag(log_softmax(s)) + np.diag(log_softmax(s.T))) / 2


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_code_matching_equals_numpy(seed):
    a, v, e = normal(seed, 4, 3, 8), normal(seed + 1, 4, 3, 8), normal(seed + 2, 6, 8)
    p, q = numpy_code_distribution(a, e), numpy_code_distribution(v, e)
    log_p = losses.log_code_distribution(jnp.asarray(a), jnp.asarray(e))
    log_q = losses.log_code_distribution(jnp.asarray(v), jnp.asarray(e))
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-4)
    actual = losses.code_matching(log_p, log_q)
    np.testing.assert_allclose(actual, numpy_code_matching(p, q), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(actual, losses.code_matching(log_q, log_p), rtol=1e-5)


@given(SEEDS, st.floats(0.1, 10))
@settings(deadline=None, max_examples=20)
def test_code_prediction_equals_numpy(seed, temperature):
    z, e = normal(seed, 4, 3, 8), normal(seed + 1, 6, 8)
    codes = np.random.default_rng(seed).integers(6, size=(4, 3))
    distance = np.linalg.norm(z[:, :, None] - e, axis=-1)
    log_p = log_softmax(-distance / temperature)
    expected = -np.take_along_axis(log_p, codes[..., None], axis=-1).mean(axis=(1, 2))
    actual = losses.code_prediction(
        jnp.asarray(z), jnp.asarray(e), jnp.asarray(codes), temperature
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_code_prediction_draws_to_the_likeliest_code_and_not_to_the_mean():
    """Two codes, chosen 3 : 1 for the same window; commitment would end at 1/4."""
    e = jnp.array([[0.0, 0.0], [4.0, 0.0]])
    codes = jnp.array([[0, 0, 0, 1]])
    loss = lambda z: losses.code_prediction(  # noqa: E731
        jnp.broadcast_to(z, (1, 4, 2)), e, codes, 0.1
    )[0]
    z = jnp.array([3.0, 0.5])
    for _ in range(200):
        z -= 0.05 * jax.grad(loss)(z)
    nearest = jnp.linalg.norm(z - e, axis=-1).argmin()
    assert nearest == 0


def test_code_distances_keep_their_digits_far_from_the_origin():
    z, e = normal(0, 2, 3, 8), normal(1, 6, 8)
    near = losses.log_code_distribution(jnp.asarray(z), jnp.asarray(e))
    far = losses.log_code_distribution(jnp.asarray(z + 256), jnp.asarray(e + 256))
    np.testing.assert_allclose(far, near, atol=1e-4)


def test_code_distribution_has_a_gradient_on_a_code_and_far_from_all():
    e = jnp.asarray(normal(0, 5, 4))
    loss = lambda z: losses.log_code_distribution(z, e)[0, 0]  # noqa: E731
    on_codes = e[None]
    assert np.isfinite(jax.grad(loss)(on_codes)).all()
    same = losses.log_code_distribution(on_codes * 0, e * 0)
    np.testing.assert_allclose(same, np.log(1 / 5), rtol=1e-6)
    assert np.isfinite(jax.grad(loss)(on_codes + 1e5)).all()


def test_code_matching_survives_codes_of_probability_zero():
    log_p = jnp.array([[0.0, -1e4], [-1e4, 0.0]])
    loss = lambda x: losses.code_matching(x, log_p).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(log_p)
    assert value == 0
    assert np.isfinite(gradient).all()


# --- CWCL -------------------------------------------------------------------------


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_cwcl_equals_numpy(seed):
    logits, p = normal(seed, 5, 5), normal(seed + 1, 5, 3)
    w = unit(p) @ unit(p).T / 2 + 0.5
    expected = -(w * log_softmax(logits)).sum(1) / w.sum(1)
    weights = losses.cwcl_weights(jnp.asarray(p))
    np.testing.assert_allclose(weights, w, atol=1e-6)
    actual = losses.cwcl(jnp.asarray(logits), weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@given(SEEDS, st.floats(0.1, 100))
@settings(deadline=None, max_examples=20)
def test_cwcl_with_identity_weights_is_info_nce(seed, scale):
    logits = jnp.asarray(normal(seed, 6, 6) * scale)
    weighted = losses.cwcl(logits, jnp.eye(6))
    np.testing.assert_allclose(weighted, losses.info_nce(logits), rtol=1e-6, atol=1e-6)


def test_cwcl_weights_leave_masked_windows_out_of_the_centre():
    p = normal(0, 6, 3)
    mask = np.array([True] * 4 + [False] * 2)
    weights = losses.cwcl_weights(jnp.asarray(p), jnp.asarray(mask), centre=True)
    alone = losses.cwcl_weights(jnp.asarray(p[:4]), centre=True)
    np.testing.assert_allclose(weights[:4, :4], alone, atol=1e-6)


def test_cwcl_weights_give_no_gradient_and_survive_a_zero_vector():
    p = jnp.asarray(normal(0, 4, 3)).at[1].set(0.0)
    assert np.isfinite(losses.cwcl_weights(p)).all()
    gradient = jax.grad(lambda p: losses.cwcl_weights(p, temperature=0.1).sum())(p)
    assert not np.any(gradient)


def two_states(offset: float) -> tuple[jax.Array, np.ndarray]:
    """Features of two working states around a common offset, and who shares one."""
    state = np.repeat([-1.0, 1.0], 8)
    features = normal(0, 16, 8) * 0.02
    features[:, 0] += state
    features[:, 1] += offset
    return jnp.asarray(features), state[:, None] == state


def optimal_softmax(weights: jax.Array) -> np.ndarray:
    """What free logits become when CWCL alone drives them."""
    step = jax.jit(
        lambda x: x - 4 * jax.grad(lambda x: losses.cwcl(x, weights).sum())(x)
    )
    logits = jnp.asarray(normal(1, *weights.shape))
    for _ in range(300):
        logits = step(logits)
    return np.exp(log_softmax(np.array(logits)))


def test_plain_cwcl_collapses_with_two_states():
    features, same = two_states(offset=10.0)
    optimum = optimal_softmax(losses.cwcl_weights(features))
    np.testing.assert_allclose(optimum, 1 / 16, rtol=0.05)  # uniform: nothing learnt
    np.testing.assert_allclose((optimum * same).sum(1), 0.5, atol=0.02)


@pytest.mark.parametrize(
    "options",
    [{"centre": True}, {"temperature": 1e-3}, {"centre": True, "temperature": 0.1}],
)
def test_centred_or_sharpened_cwcl_separates_two_states(options):
    features, same = two_states(offset=10.0)
    optimum = optimal_softmax(losses.cwcl_weights(features, **options))
    assert (optimum * same).sum(1).min() > 0.95
    # ... and the other windows of the same state are no negatives.
    assert optimum[same].min() > 0.5 / 8


# --- triplet ----------------------------------------------------------------------


def numpy_triplet(a, p, allowed, margin):
    a, p = unit(a.astype(np.float64)), unit(p.astype(np.float64))
    result = []
    for i in range(len(a)):
        distance = ((a[i] - p) ** 2).sum(1)
        negatives = distance[allowed[i]]
        farther = negatives[negatives > distance[i]]
        if not len(negatives):
            result.append(0.0)
            continue
        chosen = farther.min() if len(farther) else negatives.max()
        result.append(max(0.0, distance[i] - chosen + margin))
    return np.array(result)


@given(SEEDS, st.floats(0.05, 2))
@settings(deadline=None, max_examples=20)
def test_triplet_equals_numpy(seed, margin):
    a, p = normal(seed, 6, 3), normal(seed + 1, 6, 3)
    allowed = np.random.default_rng(seed).random((6, 6)) < 0.5
    np.fill_diagonal(allowed, False)
    actual = losses.triplet(
        jnp.asarray(a), jnp.asarray(p), jnp.asarray(allowed), margin=margin
    )
    expected = numpy_triplet(a, p, allowed, margin)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_triplet_cannot_be_won_by_growing():
    a, p = jnp.asarray(normal(0, 4, 3)), jnp.asarray(normal(1, 4, 3))
    allowed = ~jnp.eye(4, dtype=bool)
    loss = lambda p: losses.triplet(a, p, allowed, margin=1.0).sum()  # noqa: E731
    np.testing.assert_allclose(loss(p), loss(1000 * p), rtol=1e-5)
    radial = (jax.grad(loss)(p) * p).sum(1)
    np.testing.assert_allclose(radial, 0, atol=1e-5)
    assert np.isfinite(jax.grad(loss)(p.at[0].set(0.0))).all()


# --- CLUB -------------------------------------------------------------------------


def gaussian_case(seed: int = 0) -> list[jax.Array]:
    shapes = normal(seed, 3, 5, 2, 3)
    return [jnp.asarray(x) for x in (shapes[0], np.tanh(shapes[1]), shapes[2])]


def numpy_club_pair(mean, log_variance, s, b, other) -> float:
    """One window against one negative, tick by tick."""
    per_tick = [
        0.5
        * ((mean[b, t] - s[other, t]) ** 2 - (mean[b, t] - s[b, t]) ** 2)
        / np.exp(log_variance[b, t])
        for t in range(s.shape[1])
    ]
    return float(np.mean(np.sum(per_tick, axis=-1)))


def test_gaussian_log_likelihood_equals_the_density():
    mean, log_variance, s = (np.array(x, np.float64) for x in gaussian_case())
    std = np.exp(log_variance / 2)
    density = np.exp(-((s - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
    actual = losses.gaussian_log_likelihood(*gaussian_case())
    np.testing.assert_allclose(actual, np.log(density).sum(-1), rtol=1e-5)


def test_club_below_zero_is_not_clamped():
    # The critic expects each window's s in the other one: own error 4, other's 0.
    s = jnp.array([0.0, 2.0]).reshape(2, 1, 1)
    blank, swap = jnp.zeros_like(s), jnp.array([1, 0])
    np.testing.assert_allclose(losses.club_sampled(s[swap], blank, s, swap), [-2, -2])
    np.testing.assert_allclose(losses.club_full(s[swap], blank, s), [-2, -2])


def test_club_sampled_equals_numpy():
    case = gaussian_case()
    permutation = [2, 0, 1, 4, 3]
    expected = [
        numpy_club_pair(*map(np.array, case), b, permutation[b]) for b in range(5)
    ]
    actual = losses.club_sampled(*case, jnp.asarray(permutation))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert (actual < 0).any()  # not clamped


def test_club_full_is_the_mean_over_all_other_windows():
    case = gaussian_case()
    arrays = [np.array(x) for x in case]
    expected = [
        np.mean([numpy_club_pair(*arrays, b, o) for o in range(5) if o != b])
        for b in range(5)
    ]
    np.testing.assert_allclose(losses.club_full(*case), expected, rtol=1e-4)
    shifts = [jnp.roll(jnp.arange(5), k) for k in range(1, 5)]
    sampled = jnp.stack([losses.club_sampled(*case, shift) for shift in shifts])
    np.testing.assert_allclose(losses.club_full(*case), sampled.mean(0), rtol=1e-4)


def test_club_full_leaves_masked_windows_out():
    case = gaussian_case()
    mask = jnp.array([True, True, False, True, False])
    kept = np.flatnonzero(mask)
    actual = losses.club_full(*case, mask)
    alone = losses.club_full(*(x[kept] for x in case))
    np.testing.assert_allclose(actual[kept], alone, rtol=1e-5)
    assert not np.any(actual[np.array([2, 4])])
    assert not np.any(losses.club_full(*case, jnp.arange(5) == 0))  # no negatives


@given(SEEDS, st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_random_cycle_gives_everyone_another_window_that_counts(seed, batch):
    mask = np.random.default_rng(seed).random(batch) < 0.7
    cycle = np.array(losses.random_cycle(jax.random.key(seed), jnp.asarray(mask)))
    np.testing.assert_array_equal(np.sort(cycle), np.arange(batch))
    np.testing.assert_array_equal(cycle[~mask], np.flatnonzero(~mask))
    assert mask[cycle[mask]].all()
    if mask.sum() > 1:
        assert (cycle[mask] != np.flatnonzero(mask)).all()


def test_random_cycle_depends_on_the_key():
    mask = jnp.ones(16, bool)
    draws = {
        tuple(losses.random_cycle(jax.random.key(i), mask).tolist()) for i in range(5)
    }
    assert len(draws) == 5
