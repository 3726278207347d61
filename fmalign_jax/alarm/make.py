"""From a run to an alarm: scores on every tick, and what a monitor needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.alarm import comparison, episodes, report
from fmalign_jax.alarm.alarm_file import AlarmSettings
from fmalign_jax.alarm.comparison import Candidate, Method, Scored
from fmalign_jax.alarm.model import AlarmModel
from fmalign_jax.alarm.taught import TaughtScore
from fmalign_jax.alarm.thresholds import Definition, Scores
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.evaluation import calibration, supervised, transfer
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import HEAD, VALIDATION, EvaluationSplits
from fmalign_jax.run.frozen_encoder import EncoderState
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.structs import is_normal
from fmalign_jax.systems.system import FUSED

LEAST_SHARE = 0.9  # of the episodes that "model" detects, for "taught" to be preferred
FEW_EPISODES = 8  # foreseen in validation; fewer do not say how early an alarm comes


def check_settings(config: ConfigDict, run: OpenedRun) -> None:
    """Refuses what no alarm can be made of."""
    for wrong, rule, remedy in (
        (
            config.target == FUSED,
            f"an alarm watches one modality alone: got target={FUSED!r}",
            "use --config.target=current",
        ),
        (
            config.standardise == "recording",
            "an alarm cannot wait for the whole recording: got standardise='recording'",
            "use --config.standardise=head",
        ),
        (
            config.head.kind == "neighbours",
            "a head of nearest neighbours cannot be exported: got head.kind="
            "'neighbours'",
            "use another kind",
        ),
        (
            run.config.data.windows != "sliding",
            "an alarm watches a continuous current: got a run whose windows are whole "
            "clips",
            "train with data.windows='sliding'",
        ),
    ):
        if wrong:
            raise ValueError(f"{rule}; {remedy}")
    if config.alarm not in ("", "model", "taught"):
        raise ValueError(
            f"alarm must be 'model' or 'taught'; got {config.alarm!r}; use one of them"
        )
    for name, least in (
        ("spread_s", 0),
        ("merge_gap_s", 0),
        ("min_spell_s", 0),
        ("clear_after_s", 0),
        ("false_alarms_per_hour", 0),
        ("levels", 2),
        ("rows", 1),
    ):
        if config[name] < least:
            raise ValueError(
                f"{name} must be at least {least}; got {config[name]}; correct it"
            )
    if not 0 <= config.hysteresis < 1 or min(config.raise_after_s, default=-1) < 0:
        raise ValueError(
            "hysteresis must lie in [0, 1) and raise_after_s hold one time or more, "
            f"none negative; got {config.hysteresis} and {config.raise_after_s}; "
            "correct them"
        )
    if min(config.recent_s, default=0) <= 0:
        raise ValueError(
            "recent_s must hold one time or more, each above 0; got "
            f"{config.recent_s}; correct it"
        )


def with_a_window_a_tick(run_config: ConfigDict) -> ConfigDict:
    """Returns the run's config with a window that ends at every tick."""
    changed = run_config.copy_and_resolve_references()
    changed.data.eval_stride_ticks = 1
    return changed


def abnormal_class(config: ConfigDict, splits: EvaluationSplits) -> int:
    """Returns the number of the class to be warned of.

    Raises:
      ValueError: there is no such class, or nothing that an alarm could be made of.
    """
    shape = splits.head.store.streams[config.target].value_shape
    if len(shape) > 1:
        raise ValueError(
            f"an alarm watches a sensor; got target={config.target!r}, whose samples "
            f"are {'x'.join(map(str, shape))}; use --config.target=NAME of a sensor"
        )
    if VALIDATION not in splits.by_name:
        raise ValueError(
            "the level of an alarm is chosen on a validation split; got none; give "
            "recordings with --config.validation_data=GLOB"
        )
    if config.abnormal in splits.classes:
        return splits.classes.index(config.abnormal)
    if config.abnormal or len(splits.classes) != 2:
        raise ValueError(
            f"abnormal must be one of the classes, {', '.join(splits.classes)}; got "
            f"{config.abnormal!r}; name the one to be warned of with --config.abnormal"
        )
    first, second = splits.classes
    if is_normal(second) and not is_normal(first):
        raise ValueError(
            "an alarm warns of the second of two classes, unless it is told of which; "
            f"got {first!r} and then {second!r}; give --config.abnormal={first}"
        )
    return 1


def model_scores(
    config: ConfigDict,
    model: AlarmModel,
    splits: EvaluationSplits,
    scored: Mapping[str, Scored],
    spec: WindowSpec,
    abnormal: int,
) -> list[Candidate]:
    """Returns, for each `recent_s` to choose from, the scores of the last ticks.

    Of the whole window alone, where features are not those of ticks.
    """
    wanted = (round(seconds / spec.tick_s) for seconds in config.recent_s)
    ticks = sorted({min(max(n, 1), spec.window_ticks) for n in wanted})
    if not model.encoder.system.slots_are_ticks:
        ticks = [spec.window_ticks]
    found = {
        name: model.probabilities(split, ticks)
        for name, split in splits.reported.items()
    }
    return [
        (
            {"recent_s": n * spec.tick_s},
            {
                name: scored[name].cut(probabilities[number][:, abnormal])
                for name, probabilities in found.items()
            },
        )
        for number, n in enumerate(ticks)
    ]


def calibrated_scores(
    config: ConfigDict,
    model: AlarmModel,
    splits: EvaluationSplits,
    scored: Mapping[str, Scored],
    candidates: Sequence[Candidate],
    lead_s: float,
    abnormal: int,
) -> list[Candidate]:
    """Returns the same scores, calibrated by the source as it becomes known.

    The abnormal class against all others, in each series by itself.
    """
    reference = {
        name: scored[name].cut(model.reference(split)[:, abnormal])
        for name, split in splits.reported.items()
    }

    def calibrated(name: str, scores: Scores) -> Scores:
        stride = splits.by_name[name].windows.window_ticks
        return [
            calibration.causal(
                _against_rest(own),
                _against_rest(known),
                series.at_s,
                known_after_s=lead_s,
                stride=stride,
            )[:, 1]
            for own, known, series in zip(
                scores, reference[name], scored[name].series, strict=True
            )
        ]

    return [
        (
            {**settings, "calibrate": config.calibrate},
            {name: calibrated(name, own) for name, own in scores.items()},
        )
        for settings, scores in candidates
    ]


def _against_rest(probability: Float[ndarray, " N"]) -> Float[ndarray, "N 2"]:
    return np.stack([1 - probability, probability], axis=1)


def better(methods: Mapping[str, Method]) -> str:
    """Returns the score whose alarm is exported where none is asked for.

    "taught", which warns earlier, unless it was not learnt or detects clearly fewer
    episodes of validation.
    """
    if "taught" not in methods:
        return "model"
    taught, model = (
        len(episodes.total(methods[name].outcomes[VALIDATION]).warning_s)
        for name in ("taught", "model")
    )
    return "taught" if taught >= LEAST_SHARE * model else "model"


def taught_scores(
    taught: TaughtScore, splits: EvaluationSplits, scored: Mapping[str, Scored]
) -> list[Candidate]:
    """Returns the scores of the head that the source taught."""
    found = {
        name: scored[name].cut(taught.probabilities(split))
        for name, split in splits.reported.items()
    }
    return [({"at_the_end": True}, found)]


def oracle_scores(
    config: ConfigDict,
    run: OpenedRun,
    frozen: EncoderState,
    splits: EvaluationSplits,
    scored: Mapping[str, Scored],
    abnormal: int,
) -> dict[str, list[Float[ndarray, " _"]]]:
    """Returns the scores of the target's encoder trained with its own labels."""
    known = splits.head.chosen(splits.head.known)
    trained = supervised.train(
        known,
        transfer.groups(known),
        run.config,
        config.target,
        frozen.statistics,
        HeadSpec(**config.head.to_dict()),
        classes=len(splits.classes),
        epochs=config.oracle_epochs,
        seed=config.seed,
    )
    return {
        name: list(scored[name].cut(trained.predict(split)[:, abnormal]))
        for name, split in splits.reported.items()
    }


def alarm_settings(
    config: ConfigDict,
    run: OpenedRun,
    splits: EvaluationSplits,
    spec: WindowSpec,
    definition: Definition,
    method: Method,
    abnormal: int,
) -> AlarmSettings:
    """Returns all that a monitor needs in addition to the program."""
    found = episodes.total(method.outcomes[VALIDATION])
    until, known_from = until_visible(found.warning_s, method, spec, definition)
    info = splits.head.store.streams[config.target]
    slots = spec.samples_per_tick[config.target]
    period_s = _period_s(splits.head, config.target)
    channels = info.value_shape[-1] if info.value_shape else 1
    return AlarmSettings(
        channels=info.channel_names or tuple(f"channel {i}" for i in range(channels)),
        unit=info.unit,
        tick_s=spec.tick_s,
        window_ticks=spec.window_ticks * spec.leads_read(config.target),
        samples_per_tick=slots,
        sample_period_s=period_s,
        max_gap_s=spec.max_gap_s or max(spec.tick_s / slots, 3 * period_s),
        rows=config.rows,
        abnormal=splits.classes[abnormal],
        raise_at=float(method.rule.raise_at),
        clear_at=float(method.rule.clear_at),
        raise_ticks=int(method.rule.raise_ticks),
        clear_ticks=int(method.rule.clear_ticks),
        lead_s=definition.lead_s,
        until_visible_s=until,
        until_visible_from=known_from,
        origin={
            "run": run.path.name,
            "step": run.step,
            "validation": report.counts(found),
        },
        value_range=value_range(splits, config.target, spec),
    )


def value_range(
    splits: EvaluationSplits, target: str, spec: WindowSpec
) -> tuple[tuple[float, float], ...]:
    """Returns the least and the greatest value of each channel.

    Of what the windows of the head and the validation split read.
    """
    channels = math.prod(splits.head.store.streams[target].value_shape)
    pieces = [
        piece.reshape(-1, channels)
        for name in (HEAD, VALIDATION)
        for piece in comparison.samples_of(splits.by_name[name], target, spec)
    ]
    low = np.min([piece.min(axis=0) for piece in pieces], axis=0)
    high = np.max([piece.max(axis=0) for piece in pieces], axis=0)
    return tuple(zip(map(float, low), map(float, high), strict=True))


def until_visible(
    warning_s: tuple[float, ...],
    method: Method,
    spec: WindowSpec,
    definition: Definition,
) -> tuple[tuple[float, float, float], str]:
    """Returns how long after an alarm the condition is visible: least, middle, most."""
    if len(warning_s) >= FEW_EPISODES:
        low, middle, high = np.quantile(warning_s, [0.05, 0.5, 0.95]).tolist()
        return (
            low,
            middle,
            high,
        ), f"{len(warning_s)} episodes of validation (5 - 95 %)"
    behind_s = (int(method.rule.raise_ticks) - 1) * spec.tick_s
    if not method.settings.get("at_the_end"):
        # Half of what the head receives must be in the episode before it detects it,
        # and it speaks of the middle of a range of leads.
        behind_s += method.settings["recent_s"] / 2
        if spec.lead_range_s:
            behind_s += (spec.lead_range_s[1] - spec.lead_range_s[0]) / 2
    middle = definition.lead_s - behind_s
    spread_s = definition.spread_s
    known_from = "the lead, less what the score and the alarm are behind"
    return (middle - spread_s, middle, middle + spread_s), known_from


def _period_s(split: LabelledWindows, stream: str) -> float:
    """Returns the usual distance between two samples of a stream."""
    timelines = split.store.timelines()
    steps = np.concatenate(
        [
            np.diff(timelines[number].streams[stream].time_s)
            for number in np.unique(split.windows.recording).tolist()
        ]
    )
    return float(np.median(steps[steps > 0]))
