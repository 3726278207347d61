"""Rules chosen for a budget of false alarms."""

import numpy as np
import pytest

from fmalign_jax.alarm import episodes, thresholds
from fmalign_jax.alarm.episodes import FALSE, Tally
from fmalign_jax.alarm.thresholds import Definition, Series

DEFINITION = Definition(lead_s=20.0, spread_s=5.0, min_spell_s=0.0)
SPELLS = np.array([[100.0, 130.0], [200.0, 240.0]])


def _series(n=300):
    begin_s = np.arange(float(n))
    return Series("r", np.arange(n), begin_s + 1, 1.0, SPELLS, np.array([[0.0, n]]))


def _scores(*, blip):
    """High while an episode is foreshadowed, and once for no reason."""
    scores = np.full(300, 0.1)
    for onset, end in SPELLS.astype(int):
        scores[onset - 20 : end - 20] = 0.8
    scores[150:153] = blip
    return scores


def _rules(scores, **changes):
    options = {
        "levels": 9,
        "hysteresis": 0.1,
        "raise_ticks": [1, 6],
        "clear_ticks": 2,
    }
    return thresholds.rules([scores], **(options | changes))


def test_levels_go_from_the_lowest_scores_to_above_them_all():
    scores = np.random.default_rng(0).uniform(size=1000)
    rule = _rules(scores)
    assert len(rule.raise_at) == 18
    assert (np.diff(rule.raise_at[:9]) > 0).all()
    assert rule.raise_at[8] > scores.max()
    share = (scores < rule.raise_at[4]).mean() - (scores < rule.clear_at[4]).mean()
    assert share == pytest.approx(0.1, abs=0.01)
    assert rule.raise_ticks.tolist() == [1] * 9 + [6] * 9


def test_tallies_are_those_of_each_rule_alone():
    scores, series = _scores(blip=0.9), _series()
    rule = _rules(scores)
    together = thresholds.tallies([series], [scores], rule, DEFINITION)
    for number in range(len(rule.raise_at)):
        one = thresholds.one_of(rule, np.array([number]))
        alone = thresholds.tallies([series], [scores], one, DEFINITION)
        assert alone[0] == together[number]
    assert together[0][0].hours == pytest.approx(300 / 3600)


def test_the_choice_lets_the_blip_pass_by_waiting():
    scores, series = _scores(blip=0.9), _series()
    rule = _rules(scores, raise_ticks=[1, 5])
    found = thresholds.tallies([series], [scores], rule, DEFINITION)
    ranks = [thresholds.preference(episodes.total(t), 1.0) for t in found]
    best = max(range(len(ranks)), key=ranks.__getitem__)
    counts = episodes.total(found[best])
    assert rule.raise_ticks[best] == 5
    assert counts.alarms[FALSE] == 0
    # The score is known at the end of its tick, and five of them are waited for.
    assert counts.warning_s == (15.0, 15.0)


def test_a_budget_allows_what_it_says():
    many, few, none = (
        Tally(4, (200.0,) * found, (found, 0, 0, false, 0), 2.0)
        for found, false in ((4, 3), (3, 2), (0, 0))
    )
    order = [thresholds.preference(t, 1.0) for t in (none, few)]
    assert thresholds.preference(many, 1.0) < order[0] < order[1]
    assert thresholds.preference(many, 1.5) > thresholds.preference(few, 1.5)


def test_the_longer_warning_breaks_a_tie():
    early, late = (
        Tally(2, (warning_s,), (1, 0, 0, 0, 0), 1.0) for warning_s in (200.0, 100.0)
    )
    assert thresholds.preference(early, 0.25) > thresholds.preference(late, 0.25)


def test_a_tick_is_labelled_by_what_is_seen_a_lead_later():
    label, known = _series().foreshadowed(20.0)
    assert np.array_equal(label, _scores(blip=0.1) > 0.5)
    assert np.array_equal(known, np.arange(300) < 280)
    label, known = _series().foreshadowed(-20.0)
    assert np.array_equal(np.flatnonzero(~known), np.arange(20))
    assert not label[:20].any()
