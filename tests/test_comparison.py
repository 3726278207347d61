"""What the same alarms detect by chance; when predicted episodes are visible."""

import numpy as np
import pytest

from fmalign_jax.alarm import comparison, make, thresholds
from fmalign_jax.alarm.comparison import Method, Scored
from fmalign_jax.alarm.episodes import Tally
from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.alarm.thresholds import Definition, Series
from fmalign_jax.data.windows.spec import WindowSpec

DEFINITION = Definition(lead_s=20.0, spread_s=5.0, min_spell_s=0.0)
SECONDS = 400
RULE = AlarmRule(raise_at=0.5, clear_at=0.4, raise_ticks=1, clear_ticks=1)


def _predicting():
    """(a split of one series, scores that are high a lead before its two episodes)."""
    spells = np.array([[100.0, 130.0], [200.0, 240.0]])
    at_s = np.arange(1.0, SECONDS + 1)
    labelled = np.array([[0.0, SECONDS]])
    series = Series("r", np.arange(SECONDS), at_s, 1.0, spells, labelled)
    scores = np.full(SECONDS, 0.1)
    scores[80:110] = scores[180:220] = 0.8
    return {"test": Scored([series], [slice(0, SECONDS)], [], [])}, [scores]


def _method(splits, scores, rule=RULE, settings=None):
    alone = AlarmRule(*(np.array([x]) for x in vars(rule).values()))
    found = thresholds.tallies(splits["test"].series, scores, alone, DEFINITION)
    return Method(settings or {}, {"test": scores}, rule, {"test": found[0]}, {})


def test_chance_is_the_same_alarms_moved_by_half_a_series():
    splits, scores = _predicting()
    model = _method(splits, scores)
    assert model.outcomes["test"][0].alarms == (2, 0, 0, 0, 0)
    chance = comparison.shifted_by_half(model, splits, DEFINITION)
    np.testing.assert_array_equal(
        chance.scores["test"][0], np.concatenate([scores[0][200:], scores[0][:200]])
    )
    # Raised at 1, 281 and 381 s; 20 s after the last there are no labels.
    assert chance.outcomes["test"][0].alarms == (0, 0, 0, 2, 1)
    assert chance.outcomes["test"][0].warning_s == ()


def _tally(detected):
    return Tally(10, (100.0,) * detected, (0,) * 5, 1.0)


@pytest.mark.parametrize(
    ("model", "taught", "expected"),
    [(10, 9, "taught"), (10, 8, "model"), (0, 0, "taught"), (4, None, "model")],
)
def test_taught_is_preferred_unless_it_detects_clearly_less(model, taught, expected):
    methods = {
        name: Method({}, {}, RULE, {"validation": [_tally(detected)]}, {})
        for name, detected in (("model", model), ("taught", taught))
        if detected is not None
    }
    assert make.better(methods) == expected


def _until_visible(warning_s, settings=None, **spec):
    rule = AlarmRule(raise_at=0.5, clear_at=0.4, raise_ticks=3, clear_ticks=1)
    return make.until_visible(
        warning_s,
        _method(*_predicting(), rule, settings or {"recent_s": 30.0}),
        WindowSpec(
            samples_per_tick={"video": 1, "current": 1},
            window_ticks=30,
            tick_s=2.0,
            **spec,
        ),
        Definition(lead_s=240.0, spread_s=45.0, min_spell_s=0.0),
    )


def test_the_condition_is_seen_a_lead_less_what_an_alarm_takes():
    # Half of the 30 s that the head is shown, and two more ticks of 2 s: 19 s.
    found, known_from = _until_visible((100.0,) * 7)
    assert found == (176.0, 221.0, 266.0)
    assert "the lead, less" in known_from
    # A range speaks of its middle; what is taught, of the end: two ticks alone.
    ranged = {"lead_s": 240.0, "lead_range_s": (210.0, 270.0)}
    assert _until_visible((), **ranged)[0][1] == 221.0 - 30.0
    for spec in ({}, ranged):
        assert _until_visible((), {"at_the_end": True}, **spec)[0][1] == 236.0


def test_many_spells_say_themselves_when_the_condition_is_seen():
    found, known_from = _until_visible(tuple(np.arange(100.0, 121.0)))
    assert found == pytest.approx((101.0, 110.0, 119.0))
    assert known_from == "21 episodes of validation (5 - 95 %)"
