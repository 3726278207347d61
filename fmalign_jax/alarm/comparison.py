"""The same alarm on several scores: series of ticks, rules chosen, outcomes counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.alarm import episodes, thresholds
from fmalign_jax.alarm.episodes import Tally
from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.alarm.thresholds import Definition, Scores, Series
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.evaluation import baselines, events
from fmalign_jax.evaluation.baselines import Samples
from fmalign_jax.evaluation.labelled_windows import LabelledWindows, tick_labels
from fmalign_jax.evaluation.splits import VALIDATION, EvaluationSplits
from fmalign_jax.structs import UNLABELLED

Candidate = tuple[Mapping[str, Any], Mapping[str, Scores]]
"""Settings of a score, and the score by split: an array a series."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One score with the rule that was chosen for it.

    Attributes:
      settings: of the score, as chosen.
      scores: by split, as chosen.
      rule: as chosen.
      outcomes: by split, what the rule does on each series.
      curve: by split, the level and the counts of each rule of other levels.
    """

    settings: Mapping[str, Any]
    scores: Mapping[str, Scores]
    rule: AlarmRule
    outcomes: Mapping[str, list[Tally]]
    curve: Mapping[str, list[tuple[float, Tally]]]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A split with a window a tick, cut into continuous pieces.

    Attributes:
      series: the pieces.
      rows: the windows of each.
      samples: the target's samples [n, R, C] of all ticks up to the last of each.
      places: which of those ticks the windows of each end with.
    """

    series: list[Series]
    rows: list[slice]
    samples: list[Samples]
    places: list[Int[ndarray, " _"]]

    def cut(self, scores: Float[ndarray, " N"]) -> Scores:
        """Returns scores of windows by series."""
        return [scores[rows] for rows in self.rows]

    def score(self, function: baselines.Score) -> Scores:
        """Returns what a function of samples says at the end of each window."""
        pairs = zip(self.samples, self.places, strict=True)
        return [function(samples)[places] for samples, places in pairs]


def scored(
    split: LabelledWindows,
    config: ConfigDict,
    spec: WindowSpec,
    classes: tuple[str, ...],
    abnormal: int,
) -> Scored:
    """Cuts a split into series.

    Args:
      split: a window a tick.
      config: as from `early_warning_config`.
      spec: how the windows were laid.
      classes: their names.
      abnormal: class of the episodes.
    """
    ticks, windows = split.windows.ticks, split.windows
    labels = tick_labels(split, classes)
    found = Scored([], [], [], [])
    segment = ticks.segment[windows.start]
    _, first = np.unique(segment, return_index=True)
    for begin, end in zip(first, [*first[1:], len(windows)], strict=True):
        rows = slice(int(begin), int(end))
        last = windows.start[rows] + windows.window_ticks - 1
        own = np.flatnonzero(ticks.segment == segment[begin])
        label, begin_s, end_s = labels[own], ticks.start_s[own], ticks.end_s[own]
        found.rows.append(rows)
        found.series.append(
            Series(
                name=split.store.names[windows.recording[begin]],
                ticks=last,
                at_s=ticks.end_s[last] + spec.last_shift_s(config.target),
                tick_s=spec.tick_s,
                episodes=events.spans_of(
                    label == abnormal, begin_s, end_s, merge_gap_s=config.merge_gap_s
                ),
                labelled=events.spans_of(label != UNLABELLED, begin_s, end_s),
            )
        )
        read = np.arange(windows.start[begin], last[-1] + 1)
        found.places.append(last - windows.start[begin])
        slots = spec.samples_per_tick[config.target]
        found.samples.append(split.samples(config.target, read, slots))
    return found


def judged(
    splits: EvaluationSplits, config: ConfigDict, spec: WindowSpec, abnormal: int
) -> tuple[Definition, dict[str, Scored]]:
    """Returns what counts, and the splits on which alarms are judged, cut by `scored`.

    Args:
      splits: with a window a tick.
      config: as from `early_warning_config`.
      spec: how the windows were laid.
      abnormal: class of the episodes.
    """
    definition = Definition(
        lead_s=-spec.shift_s(config.target),
        spread_s=config.spread_s,
        min_spell_s=config.min_spell_s,
    )
    return definition, {
        name: scored(split, config, spec, splits.classes, abnormal)
        for name, split in splits.reported.items()
    }


def choose(
    config: ConfigDict,
    splits: Mapping[str, Scored],
    candidates: Sequence[Candidate],
    definition: Definition,
    tick_s: float,
) -> Method:
    """Returns the best score and rule on validation, and what they do everywhere."""
    budget = config.false_alarms_per_hour
    best: Any = None
    for settings, scores in candidates:
        rules = thresholds.rules(
            scores[VALIDATION],
            levels=config.levels,
            hysteresis=config.hysteresis,
            raise_ticks=[ticks_of(s, tick_s) for s in config.raise_after_s],
            clear_ticks=ticks_of(config.clear_after_s, tick_s),
        )
        found = thresholds.tallies(
            splits[VALIDATION].series, scores[VALIDATION], rules, definition
        )
        ranks = [thresholds.preference(episodes.total(t), budget) for t in found]
        number = max(range(len(ranks)), key=ranks.__getitem__)
        if best is None or ranks[number] > best[0]:
            best = ranks[number], settings, scores, rules, number
    _, settings, scores, rules, number = best
    outcomes, curve = {}, {}
    alike = np.flatnonzero(rules.raise_ticks == rules.raise_ticks[number])
    levels = thresholds.one_of(rules, alike)
    for name, split in splits.items():
        found = thresholds.tallies(split.series, scores[name], levels, definition)
        outcomes[name] = found[int(np.flatnonzero(alike == number)[0])]
        curve[name] = [
            (float(level), episodes.total(own))
            for level, own in zip(levels.raise_at, found, strict=True)
        ]
    rule = thresholds.one_of(rules, number)
    return Method(settings, scores, rule, outcomes, curve)


def shifted_by_half(
    method: Method, splits: Mapping[str, Scored], definition: Definition
) -> Method:
    """Returns what the same alarms would detect by chance: shifted by half a series."""
    rule = AlarmRule(
        *(
            np.atleast_1d(getattr(method.rule, field.name))
            for field in dataclasses.fields(AlarmRule)
        )
    )
    rolled: dict[str, Scores] = {
        name: [np.roll(values, len(values) // 2) for values in method.scores[name]]
        for name in splits
    }
    outcomes = {
        name: thresholds.tallies(split.series, rolled[name], rule, definition)[0]
        for name, split in splits.items()
    }
    return Method({"moved": "by half a series"}, rolled, method.rule, outcomes, {})


def baseline_scores(
    config: ConfigDict,
    splits: EvaluationSplits,
    split_scores: Mapping[str, Scored],
    spec: WindowSpec,
) -> dict[str, list[Candidate]]:
    """Returns by baseline the settings to choose from, with their scores."""
    reference = samples_of(splits.head, config.target, spec)
    found = baselines.candidates(
        reference, tick_s=spec.tick_s, lengths_s=tuple(config.baseline_lengths_s)
    )
    return {
        name: [
            (settings, {n: own.score(score) for n, own in split_scores.items()})
            for settings, score in candidates
        ]
        for name, candidates in found.items()
    }


def samples_of(split: LabelledWindows, stream: str, spec: WindowSpec) -> list[Samples]:
    """Returns the samples of all ticks that windows read, by recording and clip."""
    tick = split.windows.read_ticks()
    segment = split.windows.ticks.segment[tick]
    slots = spec.samples_per_tick[stream]
    return [
        split.samples(stream, tick[segment == number], slots)
        for number in np.unique(segment)
    ]


def ticks_of(seconds: float, tick_s: float) -> int:
    """Returns how many scores in a row last so many seconds; at least one."""
    return 1 + round(seconds / tick_s)
