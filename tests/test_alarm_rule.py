"""The alarm's two levels and two minimum times."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.alarm import rule as alarm_rule
from fmalign_jax.alarm.rule import AlarmRule


def _active(rule, scores, ticks=None):
    scores = np.asarray(scores, float)
    ticks = np.arange(len(scores)) if ticks is None else np.asarray(ticks)
    return alarm_rule.follow(rule, ticks, scores)


def test_by_hand():
    rule = AlarmRule(raise_at=0.8, clear_at=0.5, raise_ticks=2, clear_ticks=3)
    scores = [0.9, 0.7, 0.8, 0.8, 0.6, 0.4, 0.4, 0.5, 0.4, 0.4, 0.4, 0.9]
    expected = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert _active(rule, scores).tolist() == [bool(on) for on in expected]


def test_a_gap_keeps_the_alarm_and_forgets_what_spoke_for_a_change():
    rule = AlarmRule(raise_at=0.5, clear_at=0.5, raise_ticks=2, clear_ticks=2)
    found = _active(rule, [1, 1, 1, 0, 0, 0], ticks=[0, 2, 3, 9, 20, 21])
    assert found.tolist() == [False, False, True, True, True, False]


@pytest.mark.parametrize(
    "levels",
    [
        {"raise_at": 0.4, "clear_at": 0.5},
        {"raise_at": 1, "clear_at": 1, "raise_ticks": 0},
    ],
)
def test_rules_that_cannot_work_are_refused(levels):
    with pytest.raises(ValueError, match="; "):
        AlarmRule(**levels)


def _by_loop(rule, ticks, scores):
    """The definition, read aloud: the last n scores in a row."""
    on, since, found = False, 0, []
    for i in range(len(scores)):
        n = rule.clear_ticks if on else rule.raise_ticks
        last = range(max(i - n + 1, since), i + 1)
        in_a_row = len(last) == n and ticks[i] - ticks[last[0]] == n - 1
        speaks = [s < rule.clear_at if on else s >= rule.raise_at for s in scores]
        if in_a_row and all(speaks[j] for j in last):
            on, since = not on, i + 1
        found.append(on)
    return found


LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
RULES = st.builds(
    lambda levels, up, down: AlarmRule(max(levels), min(levels), up, down),
    st.tuples(LEVELS, LEVELS),
    st.integers(1, 4),
    st.integers(1, 4),
)
SERIES = st.lists(st.tuples(st.integers(1, 2), LEVELS), min_size=1, max_size=40)


@settings(deadline=None)
@given(RULES, SERIES)
def test_the_recurrence_is_the_definition(rule, series):
    ticks = np.cumsum([gap for gap, _ in series])
    scores = [score for _, score in series]
    assert _active(rule, scores, ticks).tolist() == _by_loop(rule, ticks, scores)


@settings(deadline=None)
@given(st.lists(RULES, min_size=1, max_size=5), SERIES)
def test_many_rules_at_once_are_each_by_itself(rules, series):
    ticks = np.cumsum([gap for gap, _ in series])
    scores = [score for _, score in series]
    names = ("raise_at", "clear_at", "raise_ticks", "clear_ticks")
    together = AlarmRule(*(np.array([getattr(r, n) for r in rules]) for n in names))
    found = _active(together, scores, ticks)
    for column, rule in enumerate(rules):
        np.testing.assert_array_equal(found[:, column], _active(rule, scores, ticks))
