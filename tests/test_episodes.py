"""Spells and alarms: worked by hand, and what must hold whatever comes."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.alarm import episodes
from fmalign_jax.alarm.episodes import DETECTS, FALSE, LATE, REPEATS, UNJUDGED
from fmalign_jax.evaluation import events

EVERYWHERE = np.array([[-1e6, 1e6]])
LEAD_S, SPREAD_S = 240.0, 45.0


def _judge(spells, raised_s, **changes):
    options = {
        "scored": EVERYWHERE,
        "labelled": EVERYWHERE,
        "lead_s": LEAD_S,
        "spread_s": SPREAD_S,
    }
    return episodes.match_alarms(
        np.asarray(spells, float).reshape(-1, 2),
        np.asarray(raised_s, float),
        **(options | changes),
    )


def test_a_day_by_hand():
    # Foreshadowed: 715 - 1105 and 2715 - 2845.
    judged = _judge(
        [[1000, 1300], [3000, 3040]],
        [700, 730, 900, 1050, 1200, 2900, 3010],
    )
    assert judged.kinds.tolist() == [
        FALSE,  # 15 s too early to be meant
        DETECTS,
        REPEATS,
        REPEATS,  # the episode is on, but was detected
        FALSE,  # no abnormal current is left: that of the episode ended at 1060
        FALSE,
        FALSE,
    ]
    np.testing.assert_array_equal(judged.warning_s, [270, np.nan])
    counts = episodes.tally(judged, hours=2.0)
    assert counts.episodes == 2
    assert counts.detection_rate == 0.5
    assert counts.warning_s == (270.0,)
    assert counts.false_alarms_per_hour == 2.0
    assert counts.precision == 1 / 5


def test_an_alarm_at_the_onset_is_late_and_not_false():
    judged = _judge([[1000, 1300]], [1000])
    assert judged.kinds.tolist() == [LATE]
    assert np.isnan(judged.warning_s).all()


def test_the_ends_of_what_foreshadows_belong_to_it():
    for at_s, kind in ((715, DETECTS), (714.9, FALSE), (1105, LATE), (1105.1, FALSE)):
        assert _judge([[1000, 1300]], [at_s]).kinds.tolist() == [kind], at_s


def test_two_alarms_serve_two_spells_that_are_close():
    # Foreshadowed: 715 - 865 and 775 - 905: both alarms lie in both.
    judged = _judge([[1000, 1060], [1060, 1100]], [800, 820])
    assert judged.kinds.tolist() == [DETECTS, DETECTS]
    np.testing.assert_array_equal(judged.warning_s, [200, 240])


def test_one_long_alarm_serves_one_spell():
    assert np.isnan(_judge([[1000, 1100], [1500, 1600]], [760]).warning_s).sum() == 1


def test_a_spell_before_the_first_scores_is_not_counted():
    scored = np.array([[720.0, 5000.0]])
    judged = _judge([[1000, 1300], [2000, 2300]], [760, 1760], scored=scored)
    assert judged.counted.tolist() == [False, True]
    counts = episodes.tally(judged, 1.0)
    assert (counts.episodes, counts.warning_s) == (1, (240.0,))
    assert counts.alarms[FALSE] == 0


def test_scores_must_not_lack_when_an_alarm_is_due():
    scored = np.array([[0.0, 750.0], [770.0, 5000.0]])
    assert _judge([[1000, 1300]], [], scored=scored).counted.tolist() == [False]


def test_short_spells_are_neither_missed_nor_do_they_make_alarms_false():
    judged = _judge([[1000, 1010]], [760], min_spell_s=20.0)
    assert not judged.counted.any()
    assert judged.kinds.tolist() == [DETECTS]


def test_an_alarm_beyond_the_labels_is_not_judged():
    labelled = np.array([[0.0, 2000.0]])
    judged = _judge([], [1700, 1720, 1900], labelled=labelled)
    assert judged.kinds.tolist() == [FALSE, UNJUDGED, UNJUDGED]


def test_spans_merge_over_short_gaps_only():
    on = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
    begin_s = 2.0 * np.arange(8)
    found = events.spans_of(on, begin_s, begin_s + 2, merge_gap_s=2.0)
    np.testing.assert_array_equal(found, [[0, 8], [14, 16]])
    assert events.spans_of(on & False, begin_s, begin_s + 2).shape == (0, 2)


def test_missing_ticks_divide_a_span():
    begin_s = np.array([0.0, 2.0, 10.0, 12.0])
    found = events.spans_of(np.ones(4, bool), begin_s, begin_s + 2)
    np.testing.assert_array_equal(found, [[0, 4], [10, 14]])


def test_rates_of_nothing_are_unknown():
    counts = episodes.tally(_judge([], []), hours=0.0)
    assert counts.detection_rate is None
    assert counts.false_alarms_per_hour is None
    assert counts.precision is None


WHOLE_S = st.integers(-3000, 3000)


@st.composite
def _spells(draw):
    edges = sorted(draw(st.sets(WHOLE_S, max_size=12)))
    return np.array(edges[: len(edges) // 2 * 2], float).reshape(-1, 2)


RAISED = st.sets(WHOLE_S, max_size=15).map(lambda s: np.array(sorted(s), float))
LEADS = st.integers(-100, 400).map(float)
SPREADS = st.integers(0, 200).map(float)


@settings(deadline=None)
@given(_spells(), RAISED, LEADS, SPREADS)
def test_what_must_hold_of_every_judgement(spells, raised_s, lead_s, spread_s):
    judged = _judge(spells, raised_s, lead_s=lead_s, spread_s=spread_s)
    detected = ~np.isnan(judged.warning_s)
    assert detected.sum() == (judged.kinds == DETECTS).sum()
    assert (judged.warning_s[detected] > 0).all()
    assert (judged.warning_s[detected] <= lead_s + spread_s).all()
    # What is false belongs to nothing, and the other way round, by plain loops.
    for at_s, kind in zip(raised_s, judged.kinds, strict=True):
        belongs = any(
            o - lead_s - spread_s <= at_s <= f - lead_s + spread_s for o, f in spells
        )
        assert (kind == FALSE) == (not belongs)


@settings(deadline=None)
@given(_spells(), RAISED, WHOLE_S)
def test_the_origin_of_the_clock_does_not_matter(spells, raised_s, shift_s):
    one = _judge(spells, raised_s)
    other = _judge(spells + shift_s, raised_s + shift_s)
    np.testing.assert_array_equal(one.kinds, other.kinds)
    np.testing.assert_array_equal(one.warning_s, other.warning_s)


@settings(deadline=None)
@given(_spells(), RAISED)
def test_one_more_alarm_far_away_is_one_more_false_alarm(spells, raised_s):
    one = episodes.tally(_judge(spells, raised_s), 1.0)
    two = episodes.tally(_judge(spells, np.append(raised_s, 9000.0)), 1.0)
    assert two.alarms[FALSE] == one.alarms[FALSE] + 1
    assert two.warning_s == one.warning_s


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_perfect_alarms_find_all_with_the_whole_lead(lengths):
    onset = 1000.0 * np.arange(len(lengths))
    spells = np.stack([onset, onset + 60 + 100 * np.array(lengths)], axis=1)
    judged = _judge(spells, onset - LEAD_S)
    assert (judged.kinds == DETECTS).all()
    np.testing.assert_array_equal(judged.warning_s, LEAD_S)


@settings(deadline=None)
@given(st.lists(st.tuples(_spells(), RAISED), min_size=1, max_size=4))
def test_recordings_add(parts):
    tallies = [episodes.tally(_judge(*part), 0.5) for part in parts]
    found = episodes.total(tallies)
    assert found.hours == pytest.approx(0.5 * len(parts))
    assert found.episodes == sum(len(spells) for spells, _ in parts)
    assert sum(found.alarms) == sum(len(raised_s) for _, raised_s in parts)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 4).map(float))
def test_spans_hold_what_is_on_and_lie_apart(on, gap):
    begin_s = np.arange(len(on), dtype=float)
    spans = events.spans_of(np.array(on), begin_s, begin_s + 1, merge_gap_s=gap)
    assert (spans[1:, 0] - spans[:-1, 1] > gap).all()
    inside = np.zeros(len(on), bool)
    for begin, end in spans.astype(int):
        inside[begin:end] = True
        assert on[begin]
        assert on[end - 1]
    assert inside[np.array(on)].all()
    if gap == 0:
        np.testing.assert_array_equal(inside, on)
