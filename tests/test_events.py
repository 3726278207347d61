"""Spells of ticks and how they match: by hand, and against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.evaluation import events

MERGE = {"merge_gap_s": 20.0, "least_s": 20.0}


def _pairs(true, said, least):
    iou = events.temporal_iou(np.asarray(true, float), np.asarray(said, float))
    rows, columns = events.matched(iou, least=least)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


@st.composite
def _spans(draw):
    edges = draw(st.lists(st.integers(0, 60), max_size=10, unique=True))
    edges = sorted(edges)[: len(edges) // 2 * 2]
    return np.array(edges, float).reshape(-1, 2)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=120), st.sampled_from([2.0, 5.0]))
def test_gaps_are_filled_first_and_short_spells_dropped_then(on, tick_s):
    begin_s = tick_s * np.arange(len(on))
    on = np.array(on, bool)
    found = events.spells(on, begin_s, begin_s + tick_s, **MERGE)
    whole = on.copy()
    for value, runs in ((False, 0), (True, 1)):  # fill what is off, drop what is on
        place = 0
        for state, run in itertools.groupby(whole.copy().tolist()):
            length = len(list(run))
            inner = place > 0 and place + length < len(whole)
            short = length * tick_s < 20 if runs else length * tick_s <= 20 and inner
            if state == value and short:
                whole[place : place + length] = not value
            place += length
    expected = np.zeros(len(on), bool)
    for begin, end in found:
        expected |= (begin <= begin_s) & (begin_s < end)
        assert end - begin >= 20
    np.testing.assert_array_equal(whole, expected)
    assert (found[1:, 0] - found[:-1, 1] > 20).all()


@settings(deadline=None)
@given(_spans(), _spans())
def test_the_share_of_common_time_is_that_of_seconds(true, said):
    found = events.temporal_iou(true, said)
    for (i, one), (j, two) in itertools.product(enumerate(true), enumerate(said)):
        a, b = (set(range(int(s[0]), int(s[1]))) for s in (one, two))
        assert found[i, j] == pytest.approx(len(a & b) / len(a | b))


@settings(deadline=None)
@given(_spans(), _spans())
def test_pairs_are_taken_one_by_one_from_the_best(true, said):
    iou = events.temporal_iou(true, said)
    for least in events.IOU_LEVELS:
        left, expected = iou.copy(), []
        while left.size and left.max() >= least:
            row, column = np.unravel_index(left.argmax(), left.shape)
            expected.append((int(row), int(column)))
            left[row], left[:, column] = -1, -1
        assert _pairs(true, said, least) == expected
        # What lies at a higher level are the first of those at a lower one.
        assert expected == _pairs(true, said, events.IOU_LEVELS[0])[: len(expected)]


@settings(deadline=None)
@given(_spans(), _spans(), st.sampled_from([0.51, 0.7]))
def test_above_one_half_no_other_pairing_has_more(true, said, least):
    good = events.temporal_iou(true, said) >= least
    few, many = sorted([range(len(true)), range(len(said))], key=len)
    if len(true) > len(said):
        good = good.T
    most = max(
        sum(bool(good[i, j]) for i, j in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    assert len(_pairs(true, said, least)) == most


def test_one_long_alarm_over_two_spells_is_no_half_of_either():
    true = [[0, 100], [130, 230]]
    assert _pairs(true, [[0, 230]], 0.5) == []
    assert _pairs(true, [[0, 230]], 0.3) == [(0, 0)]
    assert _pairs(true, [[20, 100], [131, 230]], 0.7) == [(1, 1), (0, 0)]
    assert _pairs(np.zeros((0, 2)), [[0, 1]], 0.3) == []
