"""What `early_warning` reports: counts with intervals, notes, a table, a picture."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.alarm import episodes, rule as alarm_rule
from fmalign_jax.alarm.comparison import Method
from fmalign_jax.alarm.episodes import FALSE, LATE, REPEATS, UNJUDGED, Tally
from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.alarm.thresholds import Definition, Scores, Series
from fmalign_jax.alarm.tick_measures import vus_pr
from fmalign_jax.cli import print_table
from fmalign_jax.evaluation import fonts, report as evaluation_report
from fmalign_jax.evaluation.splits import TEST, VALIDATION, EvaluationSplits
from fmalign_jax.objectives.total import LABELS, NO_LABELS, label_level
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.structs import is_normal

_DPI = 110
_TIMELINES = 4
_INTERVALS = (
    "detection_rate",
    "false_alarms_per_hour",
    "precision",
    "median_warning_s",
)


def counts(found: Tally) -> dict[str, Any]:
    """Returns counts and rates by name; None where something is undefined."""
    quartiles = [None, None, None]
    if found.warning_s:
        quartiles = np.quantile(found.warning_s, [0.25, 0.5, 0.75]).tolist()
    return {
        "spells": found.episodes,
        "detected": len(found.warning_s),
        "detection_rate": found.detection_rate,
        "median_warning_s": quartiles[1],
        "quartiles_warning_s": [quartiles[0], quartiles[2]],
        "false_alarms": found.alarms[FALSE],
        "false_alarms_per_hour": found.false_alarms_per_hour,
        "precision": found.precision,
        "repeated_alarms": found.alarms[REPEATS],
        "late_alarms": found.alarms[LATE],
        "unjudged_alarms": found.alarms[UNJUDGED],
        "hours": found.hours,
    }


def describe(
    methods: Mapping[str, Method],
    series: Mapping[str, Sequence[Series]],
    definition: Definition,
    config: ConfigDict,
) -> dict[str, Any]:
    """Returns by method its settings, rule, outcome of each split, and its curve."""
    return {
        name: {
            "settings": dict(method.settings),
            "rule": {
                field.name: getattr(method.rule, field.name).item()
                for field in dataclasses.fields(method.rule)
            },
            "splits": {
                split: {
                    **counts(episodes.total(tallies)),
                    "vus_pr": _vus_pr(method.scores[split], series[split], definition),
                    "intervals": intervals(
                        tallies, draws=config.bootstrap_draws, seed=config.seed
                    ),
                }
                for split, tallies in method.outcomes.items()
            },
            "curve": {
                split: [{"raise_at": level, **counts(own)} for level, own in points]
                for split, points in method.curve.items()
            },
        }
        for name, method in methods.items()
    }


def _vus_pr(
    scores: Scores, series: Sequence[Series], definition: Definition
) -> float | None:
    """Returns VUS-PR of the ticks whose label a lead later is known."""
    labels, own = [], []
    for values, piece in zip(scores, series, strict=True):
        label, known = piece.foreshadowed(definition.lead_s)
        labels.append(label[known])
        own.append(values[known])
    tick_s = series[0].tick_s if series else 1.0
    most_ticks = round(2 * definition.spread_s / tick_s)
    return vus_pr(labels, own, most_ticks=most_ticks)


def intervals(
    tallies: Sequence[Tally], *, draws: int, seed: int
) -> dict[str, list[float] | None]:
    """Returns 95 % percentile intervals by resampling whole series.

    None where there is one series, or the value is undefined in most draws.
    """
    if len(tallies) < 2 or not draws:
        return dict.fromkeys(_INTERVALS)
    rng = np.random.default_rng(seed)
    drawn = [
        counts(
            episodes.total(
                [tallies[i] for i in rng.integers(0, len(tallies), len(tallies))]
            )
        )
        for _ in range(draws)
    ]
    found: dict[str, list[float] | None] = {}
    for name in _INTERVALS:
        values = [own[name] for own in drawn if own[name] is not None]
        enough = 2 * len(values) > draws
        found[name] = np.quantile(values, [0.025, 0.975]).tolist() if enough else None
    return found


def notes(
    run: OpenedRun, splits: EvaluationSplits, method: Method, config: ConfigDict
) -> list[str]:
    """Returns what a reader must know to interpret the numbers."""
    found = [run.note] if run.note else []
    level = label_level(run.config)
    if level != NO_LABELS:
        found.append(
            f"{LABELS[level]} ({level}): compare this alarm with those of the oracle"
        )
    first, *others = splits.classes
    if not config.abnormal and not first.isdigit() and not is_normal(first):
        found.append(
            f"warned of is {others[-1]!r}, the second of the classes: nothing says "
            f"that {first!r} is the normal one; --config.abnormal=NAME chooses"
        )
    if TEST not in splits.by_name:
        found.append(
            "there is no test split: the numbers are those of the validation split, on "
            "which the level was chosen; give unseen recordings with "
            "--config.test_data=GLOB"
        )
    validation = episodes.total(method.outcomes[VALIDATION])
    if not validation.episodes:
        found.append(
            "no episode of validation counts (docs/early_warning.md says which do): "
            "there was nothing to detect, and the level says nothing; give recordings "
            "with episodes with --config.validation_data=GLOB"
        )
    elif not validation.warning_s:
        found.append(
            "within the budget of false alarms no episode of validation is detected: "
            "this alarm never warns in time; allow more false_alarms_per_hour"
        )
    if validation.hours * config.false_alarms_per_hour < 1:
        found.append(
            f"{validation.hours:.1f} h of validation allow no false alarm within "
            f"{config.false_alarms_per_hour:g} an hour, and one highest score sets the "
            "level; give more recordings with --config.validation_data=GLOB"
        )
    described = evaluation_report.describe(splits, (config.source, config.target))
    return found + evaluation_report.transductive(described, level)


def print_report(report: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Prints the results of each method on the headline split."""
    headline = report["headline_split"]
    definition = report["definition"]
    print(
        f"alarm of {report['abnormal']!r} by {report['target']} alone, at most "
        f"{definition['false_alarms_per_hour']:g} false alarms an hour in validation; "
        f"lead {definition['lead_s']:g} s, window {definition['window_s']:g} s"
    )
    rows = [
        [
            *(headline, "detected", "episodes", "warning s", "false/h", "precision"),
            *("VUS-PR", "h"),
        ]
    ]
    for name, method in report["methods"].items():
        own = method["splits"].get(headline)
        low, high = own["quartiles_warning_s"]
        warning = _text(own["median_warning_s"], ".0f")
        if low is not None:
            warning += f" ({low:.0f} - {high:.0f})"
        rows.append(
            [
                name,
                _with_interval(own, "detection_rate", ".2f"),
                str(own["spells"]),
                warning,
                _with_interval(own, "false_alarms_per_hour", ".2f"),
                _text(own["precision"], ".2f"),
                _text(own["vus_pr"], ".2f"),
                f"{own['hours']:.1f}",
            ]
        )
    print_table(rows)
    print(f"alarm file: the score {report['alarm']!r}")
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"written to {folder}")


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _with_interval(own: Mapping[str, Any], name: str, form: str) -> str:
    interval, text = own["intervals"][name], _text(own[name], form)
    return f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else text


def draw(
    folder: pathlib.Path,
    series: Sequence[Series],
    methods: Mapping[str, Method],
    exported: str,
    split: str,
) -> None:
    """Draws early_warning.png: every method's curve, and the alarm over time.

    Args:
      folder: where to.
      series: of the split.
      methods: with their curves.
      exported: whose alarm is shown over time.
      split: which one.
    """
    shown = min(_TIMELINES, len(series))
    figure = Figure(figsize=(11, 4.5 + 1.7 * shown), layout="constrained")
    panels = figure.add_gridspec(1 + shown, 2, height_ratios=[3.2] + [1.2] * shown)
    left, right = (figure.add_subplot(panels[0, i]) for i in range(2))
    for name, method in methods.items():
        total = episodes.total(method.outcomes[split])
        points = _falling([own for _, own in method.curve.get(split, [])])
        (line,) = left.plot(
            [_number(own.false_alarms_per_hour) for own in points],
            [_number(own.detection_rate) for own in points],
            linewidth=1,
            label=name,
        )
        colour = line.get_color()
        detected = [_number(total.detection_rate)]
        left.plot([_number(total.false_alarms_per_hour)], detected, "o", color=colour)
        right.plot(
            [_number(own.detection_rate) for own in points],
            [_number(own.precision) for own in points],
            linewidth=1,
            color=colour,
        )
        right.plot(detected, [_number(total.precision)], "o", color=colour)
    left.set(xlabel="false alarms per hour", ylabel="episodes detected", ylim=(0, 1.02))
    right.set(xlabel="episodes detected", ylabel="precision of alarms", ylim=(0, 1.02))
    left.legend(fontsize="small")
    with fonts.readable(own.name for own in series[:shown]) as names:
        for row, own in enumerate(series[:shown]):
            axes = figure.add_subplot(panels[1 + row, :])
            shown_method = methods[exported]
            score = shown_method.scores[split][row]
            _draw_alarm(axes, own, score, shown_method.rule, names[own.name])
    axes.set_xlabel("time, s (at which the score is known)")
    figure.savefig(folder / "early_warning.png", dpi=_DPI)


def _falling(points: list[Tally]) -> list[Tally]:
    """Leaves out levels so low that the alarm is hardly ever off."""
    rates = [_number(own.detection_rate) for own in points]
    return points[int(np.nanargmax(rates)) :] if np.isfinite(rates).any() else []


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _draw_alarm(
    axes: Any,
    series: Series,
    scores: Float[ndarray, " N"],
    rule: AlarmRule,
    name: str,
) -> None:
    active = alarm_rule.follow(rule, series.ticks, scores)
    for onset, end in series.episodes:
        axes.axvspan(onset, end, color="tab:red", alpha=0.18, linewidth=0)
    axes.plot(series.at_s, scores, linewidth=0.8, color="tab:blue")
    axes.axhline(rule.raise_at, color="0.6", linestyle=":")
    top = max(1.0, float(scores.max()))
    axes.fill_between(
        series.at_s, 1.03 * top, 1.12 * top, where=active, color="tab:orange"
    )
    axes.set_title(
        f"{name}: score, alarm (orange), visible episodes (red)",
        fontsize="small",
    )
