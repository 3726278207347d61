"""Means over recordings and seeds: the error from its equation, and what it covers."""

import math

import numpy as np
import pytest
from scipy import stats

from fmalign_jax.evaluation.population import (
    difference,
    holm,
    over_recordings,
    over_recordings_and_seeds,
)


def test_the_error_is_that_of_the_equation():
    values = np.array([[0.8, 0.9], [0.7, 0.6], [0.9, 1.0]])
    found = over_recordings_and_seeds(values)
    by_recording, by_seed = [0.85, 0.65, 0.95], [0.8, 5 / 6]
    own = np.var(by_recording, ddof=1) / 3, np.var(by_seed, ddof=1) / 2
    assert found.mean == pytest.approx(values.mean())
    assert found.error == pytest.approx(math.sqrt(sum(own)))
    freedom = sum(own) ** 2 / (own[0] ** 2 / 2 + own[1] ** 2 / 1)
    assert found.freedom == pytest.approx(freedom)
    reach = stats.t.ppf(0.975, freedom) * found.error
    assert found.interval == pytest.approx(
        (values.mean() - reach, values.mean() + reach)
    )
    assert (found.recordings, found.seeds) == (3, 2)


def test_of_one_seed_the_recordings_alone_give_the_error():
    values = np.array([[0.8], [0.6], [0.7]])
    assert over_recordings_and_seeds(values).error == pytest.approx(0.1 / math.sqrt(3))


def test_one_recording_has_no_error_and_no_spread_a_zero():
    assert over_recordings_and_seeds(np.array([[0.8, 0.9]])).error is None
    found = over_recordings_and_seeds(np.full((3, 2), 0.5))
    assert (found.error, found.interval) == (0.0, (0.5, 0.5))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Recordings and seeds with effects of their own, 400 studies."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        values = (
            0.8
            + 0.03 * rng.normal(size=(10, 1))
            + 0.02 * rng.normal(size=(1, 5))
            + 0.01 * rng.normal(size=(10, 5))
        )
        low, high = over_recordings_and_seeds(values).interval
        held += low <= 0.8 <= high
    assert 0.92 < held / 400 < 0.99


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.array([[0.5, np.nan]])])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="needs a finite value of each"):
        over_recordings_and_seeds(values)


def test_a_difference_pairs_recordings_and_not_seeds():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    found = difference(first, second)
    apart = first.mean(axis=1) - second.mean(axis=1)
    parts = [
        (apart.var(ddof=1) / 6, 5),
        (first.mean(axis=0).var(ddof=1) / 4, 3),
        (second.mean(axis=0).var(ddof=1) / 3, 2),
    ]
    squared = sum(part for part, _ in parts)
    freedom = squared**2 / sum(part**2 / own for part, own in parts)
    t = apart.mean() / math.sqrt(squared)
    assert found.mean == pytest.approx(apart.mean())
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    low, high = stats.t.interval(0.95, freedom, apart.mean(), math.sqrt(squared))
    assert found.interval == pytest.approx((low, high))
    # What all recordings have in common is no error.
    easier = rng.normal(size=(6, 1)) * 100
    shifted = difference(first + easier, second + easier)
    assert shifted.p == pytest.approx(found.p)


def test_no_difference_can_be_told_of_one_recording_or_of_equal_values():
    assert difference(np.ones((1, 2)), np.zeros((1, 2))) is None
    assert difference(np.ones((3, 2)), np.ones((3, 2))) is None


def test_no_difference_is_found_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        recording = 0.02 * rng.normal(size=(10, 1))
        systems = [
            0.8
            + recording
            + 0.02 * rng.normal(size=(10, 1))
            + 0.02 * rng.normal(size=(1, 4))
            for _ in range(2)
        ]
        wrong += difference(*systems).p < 0.05
    assert 0.01 < wrong / 400 < 0.08


def test_several_comparisons_are_adjusted():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_recording_that_does_not_define_a_value_is_left_out_of_its_mean():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 2))
    rows = [{"a": float(a), "b": float(b), "c": None} for a, b in table]
    rows[2]["b"] = None
    names = [f"furnace {i}" for i in range(6)]
    found = over_recordings(names, rows, draws=200, seed=3)
    drawn = np.random.default_rng(3).integers(6, size=(200, 6))
    assert found["a"] == table[:, 0].mean()
    expected = np.percentile(table[drawn, 0].mean(axis=1), (2.5, 97.5))
    np.testing.assert_array_equal(found["intervals"]["a"], expected)
    table[2, 1] = np.nan
    assert found["b"] == pytest.approx(np.nanmean(table[:, 1]))
    expected = np.percentile(np.nanmean(table[drawn, 1], axis=1), (2.5, 97.5))
    assert found["intervals"]["b"] == pytest.approx(expected.tolist())
    assert found["c"] is None
    assert found["intervals"]["c"] is None
    assert found["by_recording"]["furnace 2"] == rows[2]
    assert over_recordings(names[:1], rows[:1], draws=200, seed=3)["intervals"] == {}
    assert over_recordings([], [], draws=200, seed=3) is None
