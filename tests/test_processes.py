"""Random processes: exact variance and memory for any step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.data.simulator.processes import (
    generator,
    ornstein_uhlenbeck,
    poisson_spans,
    pulses,
    resonance,
    smooth_steps,
    white,
)

STEPS = 40_000


def autocorrelation(x, lag):
    return float((x[lag:] * x[:-lag]).mean() / (x * x).mean())


@pytest.mark.parametrize("step_s", [0.04, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("tau_s", [0.2, 0.4, 8.0])
def test_ornstein_uhlenbeck_is_exact_for_any_step(tau_s, step_s):
    innovations = white(generator(1, "ou"), STEPS, 8)
    x = ornstein_uhlenbeck(innovations, tau_s=tau_s, step_s=step_s)
    # STEPS * step_s / (2 tau_s) values a channel are independent.
    effective = 8 * STEPS * min(1, step_s / (2 * tau_s))
    assert x.var() == pytest.approx(1, abs=5 * math.sqrt(2 / effective))
    for lag in (1, 5):
        expected = math.exp(-lag * step_s / tau_s)
        assert autocorrelation(x, lag) == pytest.approx(
            expected, abs=5 / math.sqrt(effective)
        )


def test_ornstein_uhlenbeck_starts_stationary():
    innovations = white(generator(2, "ou"), 3, 50_000)
    x = ornstein_uhlenbeck(innovations, tau_s=100.0, step_s=0.04)
    np.testing.assert_allclose(x.var(axis=1), 1, atol=0.04)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 50), st.floats(0.02, 5), st.integers(0, 100), st.integers(2, 30))
def test_ornstein_uhlenbeck_follows_its_recurrence(tau_s, step_s, seed, steps):
    innovations = white(generator(seed, "ou"), steps, 2)
    decay = math.exp(-step_s / tau_s)
    expected = [innovations[0]]
    for row in innovations[1:]:
        expected.append(decay * expected[-1] + math.sqrt(1 - decay**2) * row)
    x = ornstein_uhlenbeck(innovations, tau_s=tau_s, step_s=step_s)
    np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-9)


def test_heavy_tails_have_variance_one():
    x = white(generator(3, "heavy"), 400_000, 1, degrees_of_freedom=5.0)
    assert x.var() == pytest.approx(1, abs=0.03)
    # Kurtosis of Student's t with 5 degrees of freedom is 9, sampled slowly from below.
    assert (x**4).mean() / x.var() ** 2 > 4.5


def test_resonance_has_variance_one_and_its_period():
    innovations = white(generator(4, "ar2"), STEPS, 8)
    x = resonance(innovations, period_s=6.0, quality=3.0, step_s=0.5)[200:]
    assert x.var() == pytest.approx(1, abs=0.03)
    power = (np.abs(np.fft.rfft(x, axis=0)) ** 2).mean(axis=1)
    frequency_hz = np.fft.rfftfreq(len(x), 0.5)
    smooth = np.convolve(power, np.ones(301) / 301, mode="same")
    assert 1 / frequency_hz[np.argmax(smooth)] == pytest.approx(6.0, abs=0.5)


def test_smooth_steps_is_half_done_after_tau_ln_2():
    step = np.repeat([0.0, 2.0], [100, 4000])
    smooth = smooth_steps(step, tau_s=10.0, step_s=0.01)
    assert not smooth[:100].any()
    half = (np.argmax(smooth >= 1.0) - 100) * 0.01
    assert half == pytest.approx(10 * math.log(2), abs=0.02)
    np.testing.assert_allclose(smooth_steps(np.full(9, 3.0), tau_s=1.0, step_s=1.0), 3)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.floats(-5, 25), st.floats(0, 9), st.floats(-2, 2)), max_size=6
    )
)
def test_pulses_add_up_what_lasts(events):
    time_s = np.arange(0, 20, 0.5)
    spans = np.array([(b, b + length) for b, length, _ in events]).reshape(-1, 2)
    height = np.array([h for _, _, h in events])
    expected = [
        sum(h for b, length, h in events if b <= t < b + length) for t in time_s
    ]
    np.testing.assert_allclose(pulses(time_s, spans, height), expected, atol=1e-9)


def test_poisson_spans_come_at_the_rate_and_length_asked_for():
    spans = poisson_spans(
        generator(5, "spans"),
        begin_s=-100.0,
        end_s=90_000.0,
        interval_s=30.0,
        length_s=(2.0, 4.0),
    )
    assert len(spans) == pytest.approx(90_100 / 30, abs=5 * math.sqrt(3000))
    begin, length = spans[:, 0], spans[:, 1] - spans[:, 0]
    assert -100 <= begin.min() <= begin.max() <= 90_000
    assert (np.diff(begin) >= 0).all()
    assert 2 <= length.min() <= length.max() <= 4


def test_generators_of_different_purpose_are_independent():
    first = generator(1, "a").standard_normal(10_000)
    np.testing.assert_array_equal(first, generator(1, "a").standard_normal(10_000))
    for other in (generator(1, "b"), generator(2, "a"), generator(1, "a", 1)):
        correlation = np.corrcoef(first, other.standard_normal(10_000))[0, 1]
        assert abs(correlation) < 0.05
