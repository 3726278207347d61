"""Calibration of a target's scores by the recording's own source."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import balanced_accuracy_score

from fmalign_jax.evaluation import calibration


def pair(score):
    """Two-class probabilities of log-odds."""
    return np.stack([expit(-score), expit(score)], axis=1)


def planted(n=400, shift=2.0, scale=0.5, rare=0.3, seed=0):
    """A furnace whose target scores lie too high and vary too little."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < rare).astype(int)
    target = (2 * label - 1) * 1.5 + rng.normal(size=n)
    source = (2 * label - 1) * 3.0 + rng.normal(size=n)
    return label, pair(scale * target + shift), pair(source)


def accuracy(label, probability):
    return balanced_accuracy_score(label, probability.argmax(axis=1))


def test_a_shifted_furnace_is_told_right_without_a_label():
    label, target, source = planted()
    assert accuracy(label, target) < 0.75
    found = calibration.fit(target, source)
    assert accuracy(label, found(target)) > 0.9
    assert found.windows == 400


def test_it_minimises_what_it_says():
    """Balanced cross-entropy and the prior, for two classes in log-odds."""
    _, target, source = planted(n=60)
    found = calibration.fit(target, source)
    x, w = logit(target[:, 1]), source / source.sum(axis=0) * 30

    def loss(parameters):
        # With log p of both classes, log-odds are scale * x + offset_1 - offset_0.
        log_scale, low, high = parameters
        z = np.exp(log_scale) * x + high - low
        fit = w[:, 1] @ np.logaddexp(0, -z) + w[:, 0] @ np.logaddexp(0, z)
        return fit + 0.5 * np.sum(np.square(parameters))

    expected = minimize(loss, np.zeros(3)).x
    assert found.scale == pytest.approx(np.exp(expected[0]), rel=1e-2)
    assert np.diff(found.offset)[0] == pytest.approx(
        expected[2] - expected[1], abs=1e-2
    )


def test_how_often_it_is_abnormal_does_not_move_the_level():
    """The same windows, the abnormal ones once and ten times as often.

    With a sure source: what an unsure one takes for abnormal by mistake weighs the
    more, the rarer the abnormal windows are.
    """
    label, target, _ = planted(n=2000, rare=0.5)
    source = np.eye(2)[label]
    rare = (label == 0) | (np.arange(2000) % 10 == 0)
    often, seldom = (
        calibration.fit(target[rows], source[rows]) for rows in (label >= 0, rare)
    )
    predicted = [found(target)[:, 1] > 0.5 for found in (often, seldom)]
    assert (predicted[0] == predicted[1]).mean() > 0.97
    assert abs(predicted[1].mean() - 0.5) < 0.05


def test_a_recording_of_one_class_is_left_as_it_is():
    _, target, _ = planted(n=50)
    source = np.tile([0.99, 0.01], (50, 1))
    found = calibration.fit(target, source)
    np.testing.assert_allclose(found(target), target, atol=1e-9)
    assert found.windows == 0


def test_no_window_is_calibrated_by_its_own_reference():
    _, target, source = planted(n=80)
    recording = np.zeros(80, int)
    before = calibration.by_recording(target, source, recording)
    changed = source.copy()
    changed[:20] = source[:20, ::-1]  # the first of four blocks
    after = calibration.by_recording(target, changed, recording)
    np.testing.assert_array_equal(before[:20], after[:20])
    assert np.abs(before[20:] - after[20:]).max() > 1e-3


def test_each_recording_is_calibrated_by_itself():
    one, other = planted(n=80, shift=2.0), planted(n=80, shift=-2.0, seed=1)
    target, source = (np.concatenate([one[i], other[i]]) for i in (1, 2))
    label, recording = np.concatenate([one[0], other[0]]), np.repeat([3, 7], 80)
    found = calibration.by_recording(target, source, recording)
    assert accuracy(label, found) > accuracy(label, target) + 0.1
    alone = calibration.by_recording(one[1], one[2], recording[:80])
    np.testing.assert_array_equal(found[:80], alone)


def test_a_causal_calibration_uses_nothing_that_is_not_known_yet():
    _, target, source = planted(n=600)
    at_s = 10.0 * np.arange(600)
    how = {"known_after_s": 240.0, "stride": 3}
    before = calibration.causal(target, source, at_s, **how)
    changed = source.copy()
    changed[300:] = source[300:, ::-1]  # from 3000 s, known from 3240 s on
    after = calibration.causal(target, changed, at_s, **how)
    first = np.flatnonzero(np.abs(before - after).max(axis=1) > 1e-9)[0]
    assert 3240 <= at_s[first] < 3240 + 2 * calibration.EVERY_S
    # Until something is known, scores are as they were.
    np.testing.assert_allclose(before[:24], target[:24], atol=1e-9)


def test_a_causal_calibration_finds_the_level_in_time():
    label, target, source = planted(n=600)
    at_s = 60.0 * np.arange(600)
    found = calibration.causal(target, source, at_s, known_after_s=240.0, stride=1)
    assert accuracy(label[60:], found[60:]) > 0.9 > accuracy(label, target) + 0.1


@given(st.integers(2, 5), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_what_comes_out_are_probabilities(classes, seed):
    rng = np.random.default_rng(seed)
    target, source = rng.dirichlet(np.full(classes, 0.3), size=(2, 40))
    target[0], source[1] = np.eye(classes)[0], np.eye(classes)[1]  # certain ones too
    found = calibration.by_recording(target, source, np.repeat([0, 1], 20))
    assert (found >= 0).all()  # and none is NaN
    np.testing.assert_allclose(found.sum(axis=1), 1)
