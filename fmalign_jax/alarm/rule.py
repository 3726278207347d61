"""From scores to alarms: two levels and two minimum times, one tick after another.

An alarm is raised when the score has been at or above `raise_at` for `raise_ticks`
ticks in a row, and cleared when it has been below `clear_at` for `clear_ticks` in a
row. Both the live monitor and the comparison of thresholds go through `step`: its
arithmetic takes one rule or a whole array of them. NumPy only.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


@dataclasses.dataclass(frozen=True)
class AlarmRule:
    """When an alarm is raised and when it is cleared; numbers, or arrays [K] of them.

    Attributes:
      raise_at: least score that speaks for an alarm.
      clear_at: scores below it speak against it; at most `raise_at` (hysteresis).
      raise_ticks: how many ticks in a row must speak for it; at least 1.
      clear_ticks: how many in a row must speak against it; at least 1.

    Raises:
      ValueError: levels in the wrong order, or less than one tick.
    """

    raise_at: Any
    clear_at: Any
    raise_ticks: Any = 1
    clear_ticks: Any = 1

    def __post_init__(self) -> None:
        if np.any(np.asarray(self.clear_at) > np.asarray(self.raise_at)):
            raise ValueError(
                "clear_at must be at most raise_at; got "
                f"{self.clear_at} and {self.raise_at}; lower clear_at"
            )
        if np.min(self.raise_ticks) < 1 or np.min(self.clear_ticks) < 1:
            raise ValueError(
                "raise_ticks and clear_ticks must be at least 1; got "
                f"{self.raise_ticks} and {self.clear_ticks}; use 1 for no delay"
            )


class AlarmState(NamedTuple):
    """What is carried from tick to tick.

    Attributes:
      active: whether the alarm is on; [] or [K].
      run: ticks in a row that spoke for the other state.
      tick: number of the last tick that had a score.
    """

    active: Any
    run: Any
    tick: int


def start(rule: AlarmRule) -> AlarmState:
    """Returns the state before the first tick: no alarm."""
    shape = np.broadcast(
        rule.raise_at, rule.clear_at, rule.raise_ticks, rule.clear_ticks
    ).shape
    return AlarmState(np.zeros(shape, bool), np.zeros(shape, np.int64), -2)


def step(rule: AlarmRule, state: AlarmState, tick: int, score: float) -> AlarmState:
    """Returns the state after one more score.

    Args:
      rule: the levels and times.
      state: after the tick before.
      tick: number of this tick. Ticks between it and the last had no score: the alarm
        stays as it was, and what spoke for a change is forgotten.
      score: of this tick.
    """
    wanted = np.where(state.active, score < rule.clear_at, score >= rule.raise_at)
    before = state.run if tick == state.tick + 1 else 0
    run = np.where(wanted, before + 1, 0)
    flips = run >= np.where(state.active, rule.clear_ticks, rule.raise_ticks)
    return AlarmState(state.active ^ flips, np.where(flips, 0, run), tick)


def follow(
    rule: AlarmRule, ticks: Int[ndarray, " N"], scores: Float[ndarray, " N"]
) -> Bool[ndarray, "N *K"]:
    """Returns whether the alarm is on after each score.

    Args:
      rule: one rule, or K of them in arrays.
      ticks: number of each tick, rising.
      scores: of each tick.
    """
    state = start(rule)
    active = np.zeros((len(scores), *state.active.shape), bool)
    for row, (tick, score) in enumerate(
        zip(ticks.tolist(), scores.tolist(), strict=True)
    ):
        state = step(rule, state, tick, score)
        active[row] = state.active
    return active
