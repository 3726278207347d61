"""The rule of an alarm, chosen on validation for a budget of false alarms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from fmalign_jax.alarm import episodes, rule as alarm_rule
from fmalign_jax.alarm.episodes import FALSE, Tally
from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.evaluation import events
from fmalign_jax.evaluation.events import Spans


@dataclasses.dataclass(frozen=True)
class Series:
    """One continuous recording (or block of one), as an alarm receives it.

    Attributes:
      name: of the recording.
      ticks: [N], number of each tick that has a score.
      at_s: [N], when its score is known.
      tick_s: length of a tick.
      episodes: onset and end of each abnormal episode, as labelled.
      labelled: where labels are known.
    """

    name: str
    ticks: Int[ndarray, " N"]
    at_s: Float[ndarray, " N"]
    tick_s: float
    episodes: Spans
    labelled: Spans

    @property
    def hours(self) -> float:
        """Returns how long there were scores."""
        return len(self.ticks) * self.tick_s / 3600

    @property
    def scored(self) -> Spans:
        """Returns when there were scores."""
        on = np.ones(len(self.at_s), bool)
        return events.spans_of(on, self.at_s - self.tick_s, self.at_s)

    def foreshadowed(
        self, lead_s: float
    ) -> tuple[Bool[ndarray, " N"], Bool[ndarray, " N"]]:
        """Returns whether a lead after each tick an episode is seen, and is known."""
        at_s = self.at_s - self.tick_s / 2 + lead_s
        return _within(at_s, self.episodes), _within(at_s, self.labelled)


def _within(at_s: Float[ndarray, " N"], spans: Spans) -> Bool[ndarray, " N"]:
    begun = np.searchsorted(spans[:, 0], at_s, side="right") - 1
    ends_s = np.append(spans[:, 1], -np.inf)  # the last, for what precedes all
    return np.asarray(at_s < ends_s[begun])


@dataclasses.dataclass(frozen=True)
class Definition:
    """What counts as an episode and as foreshadowing it; see `match_alarms`."""

    lead_s: float
    spread_s: float
    min_spell_s: float


Scores = Sequence[Float[ndarray, " N"]]
"""One array a series, a score a tick."""


def rules(
    scores: Scores,
    *,
    levels: int,
    hysteresis: float,
    raise_ticks: Sequence[int],
    clear_ticks: int,
) -> AlarmRule:
    """Returns all rules to choose from, K = levels * len(raise_ticks) in arrays.

    Levels are quantiles of the scores, so that scores of any scale are treated in the
    same way: an alarm is raised at quantile q and cleared below quantile q -
    hysteresis. The highest level lies above all scores: a rule that never raises an
    alarm.
    """
    q = np.linspace(hysteresis, 1, levels)
    pooled = np.concatenate(scores)
    raise_at = np.quantile(pooled, q)
    raise_at[-1] = np.nextafter(raise_at[-1], np.inf)
    clear_at = np.quantile(pooled, q - hysteresis)
    return AlarmRule(
        raise_at=np.tile(raise_at, len(raise_ticks)),
        clear_at=np.tile(clear_at, len(raise_ticks)),
        raise_ticks=np.repeat(np.asarray(raise_ticks, np.int64), levels),
        clear_ticks=np.full(levels * len(raise_ticks), clear_ticks),
    )


def one_of(rule: AlarmRule, number: int | ndarray) -> AlarmRule:
    """Returns one rule, or some, of those in arrays."""
    return AlarmRule(
        *(getattr(rule, field.name)[number] for field in dataclasses.fields(rule))
    )


def tallies(
    series: Sequence[Series], scores: Scores, rule: AlarmRule, definition: Definition
) -> list[list[Tally]]:
    """Returns what each of K rules does on each series, [K][series]."""
    found: list[list[Tally]] = [[] for _ in np.atleast_1d(rule.raise_at)]
    for own, values in zip(series, scores, strict=True):
        active = alarm_rule.follow(rule, own.ticks, values).reshape(len(values), -1)
        raised = active & ~np.concatenate(
            [np.zeros((1, len(found)), bool), active[:-1]]
        )
        scored = own.scored
        for number, column in enumerate(raised.T):
            judged = episodes.match_alarms(
                own.episodes,
                own.at_s[column],
                scored=scored,
                labelled=own.labelled,
                **dataclasses.asdict(definition),
            )
            found[number].append(episodes.tally(judged, own.hours))
    return found


def preference(counts: Tally, budget_per_hour: float) -> tuple[Any, ...]:
    """Returns a value by which rules are compared: the larger is better.

    Within the budget of false alarms: most episodes detected, then fewest false alarms,
    then the longest median warning. No rule beyond the budget beats one within it.
    """
    false = counts.false_alarms_per_hour or 0.0
    warning_s = float(np.median(counts.warning_s)) if counts.warning_s else 0.0
    within = false <= budget_per_hour
    return (
        within,
        len(counts.warning_s) if within else -false,
        -counts.alarms[FALSE],
        warning_s,
    )
