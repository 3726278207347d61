"""Rolling statistics and CUSUM, against NumPy written out."""

import numpy as np
from hypothesis import given, settings, strategies as st

from fmalign_jax.evaluation import baselines


def _samples(n=20, r=3, c=2, seed=0):
    return np.random.default_rng(seed).normal(9e3, 500, (n, r, c)).astype(np.float32)


@settings(deadline=None)
@given(st.integers(1, 25), st.integers(0, 5))
def test_rolling_statistics_are_those_of_the_last_samples(ticks, seed):
    samples = _samples(seed=seed)
    flat = samples.astype(float).reshape(-1, 2)
    change = np.abs(np.diff(flat, axis=0, prepend=flat[:1]))
    deviations = baselines.rolling_sd(samples, ticks=ticks)
    changes = baselines.rolling_change(samples, ticks=ticks)
    for tick in range(len(samples)):
        own = slice(max(0, 3 * (tick + 1 - ticks)), 3 * (tick + 1))
        np.testing.assert_allclose(
            deviations[tick], -np.log(flat[own].std(axis=0)).mean(), rtol=1e-9
        )
        np.testing.assert_allclose(
            changes[tick], -np.log(change[own].mean(axis=0)).mean(), rtol=1e-9
        )


def test_a_current_that_stands_still_has_a_finite_score():
    still = np.zeros((5, 3, 2), np.float32)
    assert np.isfinite(baselines.rolling_sd(still, ticks=2)).all()
    assert np.isfinite(baselines.rolling_change(still, ticks=2)).all()


def test_cusum_by_hand():
    # Alternating between two levels: the log mean change is that of their distance.
    size = np.array([1.0, 1.0, 1e-2, 1e-2, 1e-2, 1.0, 1.0])
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    samples = (size[:, None] * signs)[:, :, None].astype(np.float32)
    x = baselines.tick_change(samples)
    found = baselines.cusum(samples, slack=0.5, limit=5.0, mean=0.0, deviation=2.0)
    s, expected = 0.0, []
    for value in x:
        s = min(5.0, max(0.0, s - value / 2.0 - 0.5))
        expected.append(s)
    np.testing.assert_allclose(found, expected)
    assert found[1] == 0 < found[3] < found[4] > found[6]


def test_all_are_high_when_the_current_is_calm():
    rng = np.random.default_rng(1)
    loud, calm = rng.normal(0, 1, (40, 4, 3)), rng.normal(0, 0.2, (40, 4, 3))
    samples = np.concatenate([loud, calm]).astype(np.float32)
    found = baselines.candidates([samples], tick_s=2.0, lengths_s=(20.0,))
    assert {name: len(own) for name, own in found.items()} == {
        "rolling_sd": 1,
        "rolling_change": 1,
        "cusum": 6,
    }
    for name, own in found.items():
        for options, score in own:
            values = score(samples)
            assert values[55:].min() > values[15:40].mean(), (name, options)
