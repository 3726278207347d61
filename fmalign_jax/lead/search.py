"""From encoded clips to curves over leads, an estimate and a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.lead import (
    curves,
    indicators,
    layout as lead_layout,
    spells,
    statistics,
    window_leads,
)
from fmalign_jax.lead.curves import CANONICAL, LeadSums, Rows
from fmalign_jax.lead.indicators import INDICATORS, MODEL_FREE, MOTION
from fmalign_jax.lead.labels import Response
from fmalign_jax.lead.layout import Layout
from fmalign_jax.lead.tick_features import Clip
from fmalign_jax.progress import Bar

FOUND, NOT_FOUND, TOO_SHORT = "lead found", "no lead found", "too short to tell"
CANNOT_TELL = "cannot tell"
"""Something repeats, but the run may have memorised it at the lead of its training."""

FEW_UNITS = 8
"""Fewer stretches of time have too few events for a verdict."""

_MOST_BYTES = 400e6  # of the sums by lead and unit


class WrongPairing(NamedTuple):
    """What is kept of one wrong pairing.

    Attributes:
      curve: by indicator [L], of all recordings.
      alone: by indicator [R, L], of each recording.
    """

    curve: dict[str, Float[ndarray, " L"]]
    alone: dict[str, Float[ndarray, "R L"]]


def find_lead(
    clips: Sequence[Clip],
    config: ConfigDict,
    data: ConfigDict,
    *,
    trained_on: bool = False,
    response: Response | None = None,
) -> dict[str, Any]:
    """Makes curves, estimates and a verdict of encoded clips.

    Args:
      clips: of all recordings.
      config: of the search.
      data: the run's settings of data.
      trained_on: whether the run was trained on them.
      response: how late the reference's encoder responds, where that is known.

    Raises:
      ValueError: the clips are too short for the range.
    """
    window_s = data.window_ticks * data.tick_s
    layout = _layout(clips, config, data)
    kinds = {name: INDICATORS[name] for name in config.indicators}
    rows = indicators.make_rows(
        layout,
        list(kinds),
        window_ticks=data.window_ticks,
        dimensions=config.dimensions,
    )
    sums = curves.lead_sums(rows, kinds, layout.leads, unit_ticks=layout.unit_ticks)
    tried = {
        name: kind
        for name, kind in kinds.items()
        if name in (*_deciding(config), *config.chance_of)
    }
    wrong = wrong_pairings(layout, rows, tried, config, data.window_ticks)
    distinct = statistics.distinct_pairings(layout, guard_ticks=data.window_ticks)
    half_width_s = config.peak_half_width_s or window_s / statistics.PEAK_SHARE
    reading = Reading(
        half_width=max(1, round(half_width_s / data.tick_s)),
        response_s=config.response_windows * window_s,
        draws=config.bootstrap_draws,
        seed=config.seed,
        distinct=float(distinct.sum()),
    )
    units = layout.unit_recording()
    # A model may respond beside what a person sees; what moves is seen by both.
    exact = dataclasses.replace(reading, response_s=data.tick_s)
    whole = {
        name: (exact if name == MOTION else reading).describe(
            own, [w.curve[name] for w in wrong if name in w.curve], layout.lead_s, units
        )
        for name, own in sums.items()
    }
    filled = int((sums[config.indicator].pairs.max(axis=0) > 0).sum())
    memorised = trained_on and not data.draw_lead
    answer = conclude(whole, filled, config, window_s=window_s, memorised=memorised)
    late = None if answer["indicator"] in MODEL_FREE else response
    if late is not None:
        # The statistical interval, and that of the delay instead of a rule of thumb.
        best = whole[answer["indicator"]]
        if best is not None and answer["estimate_s"] is not None:
            answer |= corrected(best, late, layout.lead_s, recordings=len(layout.names))
    alone = {
        name: _describe_one(
            number,
            exact if answer["indicator"] == MOTION else reading,
            sums,
            wrong,
            layout,
            answer,
            distinct,
        )
        for number, name in enumerate(layout.names)
    }
    if late is not None:
        alone = {
            name: own and own | corrected(own, late, layout.lead_s, recordings=1)
            for name, own in alone.items()
        }
    found_spells = None
    raw = whole.get(CANONICAL)
    by_model = answer["verdict"] == FOUND and answer["indicator"] == CANONICAL
    if raw is not None and by_model:
        found_spells = spells.find_spells(
            layout,
            rows,
            sums[CANONICAL],
            lead_s=raw["estimate_s"],
            delay_s=0.0 if late is None else late.delay_s,
            window_ticks=data.window_ticks,
            tick_s=data.tick_s,
        )
    return {
        **answer,
        "spells": found_spells,
        "response": None if late is None else dataclasses.asdict(late),
        "indicators": whole,
        "per_recording": {n: own for n, own in alone.items() if own is not None},
        "reference": data.reference_stream,
        "leading": data.leading_stream,
        "lead_s": _plain(layout.lead_s),
        "tick_s": data.tick_s,
        "window_s": window_s,
        "unit_s": layout.unit_ticks * data.tick_s,
        "units": filled,
        "window_leads": window_leads.describe(
            layout,
            next(
                statistics.wrong_pairings(
                    layout, draws=1, guard_ticks=data.window_ticks, seed=config.seed
                ),
                None,
            ),
            window_ticks=data.window_ticks,
            tick_s=data.tick_s,
            estimate_s=answer["estimate_s"],
        ),
    }


def corrected(
    found: Mapping[str, Any],
    late: Response,
    lead_s: Float[ndarray, " L"],
    *,
    recordings: int,
) -> dict[str, Any]:
    """Returns an estimate less the delay of the reference's encoder.

    Its interval is the statistical one with the uncertainty of the delay on so many
    recordings, which is independent of it.

    Args:
      found: as from `Reading.describe`.
      late: the delay.
      lead_s: the leads; the interval ends where they do, less the delay.
      recordings: whose mean the estimate is.
    """
    estimate = found["estimate_s"]
    low, high = found["statistical_interval_s"]
    delay_error = late.error_s(recordings)
    moved = estimate - late.delay_s
    interval = [
        max(moved - np.hypot(estimate - low, delay_error), lead_s[0] - late.delay_s),
        min(moved + np.hypot(high - estimate, delay_error), lead_s[-1] - late.delay_s),
    ]
    return {"estimate_s": moved, "interval_s": [float(end) for end in interval]}


def _layout(clips: Sequence[Clip], config: ConfigDict, data: ConfigDict) -> Layout:
    """Lays the clips out, in units so long that the sums of all leads fit."""
    unit_s = config.unit_s or lead_layout.UNIT_WINDOWS * data.window_ticks * data.tick_s
    unit_ticks = max(1, round(unit_s / data.tick_s))

    def fits(layout: Layout) -> bool:
        needed = curves.sums_bytes(
            [INDICATORS[name] for name in config.indicators],
            leads=len(layout.leads),
            units=len(layout.unit_recording()),
            dimensions=max(config.dimensions, indicators.TABLE_CODES),
        )
        return needed <= _MOST_BYTES

    return lead_layout.layout_that_fits(
        clips,
        fits,
        tick_s=data.tick_s,
        least_s=config.least_lead_s,
        most_s=config.most_lead_s,
        unit_ticks=unit_ticks,
    )


def _deciding(config: ConfigDict) -> tuple[str, ...]:
    """Returns the indicators that estimate and verdict may depend on."""
    free = (config.model_free,) if config.model_free in config.indicators else ()
    return (config.indicator, config.evidence, *free)


def wrong_pairings(
    layout: Layout,
    rows: Rows,
    kinds: Mapping[str, str],
    config: ConfigDict,
    window_ticks: int,
) -> list[WrongPairing]:
    """Returns the curves of wrong pairings, draw by draw."""
    units = layout.unit_recording()
    members = [units == number for number in range(len(layout.names))]

    def curves_of(pairing: statistics.Rearrangement) -> WrongPairing:
        sums = curves.lead_sums(
            curves.rearranged(rows, *pairing),
            kinds,
            layout.leads,
            unit_ticks=layout.unit_ticks,
        )
        return WrongPairing(
            {name: own.curve() for name, own in sums.items()},
            {
                name: np.array([sums[name].chosen(own).curve() for own in members])
                for name in {*_deciding(config)}
            },
        )

    pairings = statistics.wrong_pairings(
        layout, draws=config.null_draws, guard_ticks=window_ticks, seed=config.seed
    )
    bar = Bar(pairings, "wrong pairings", total=config.null_draws)
    return [curves_of(pairing) for pairing in bar]


def _describe_one(
    number: int,
    reading: Reading,
    sums: Mapping[str, LeadSums],
    wrong: Sequence[WrongPairing],
    layout: Layout,
    answer: Mapping[str, Any],
    distinct: Float[ndarray, " S"],
) -> dict[str, Any] | None:
    """Returns the result of one recording; the chance is that of the evidence."""
    units = layout.unit_recording()
    own = units == number
    found = reading.describe(
        sums[answer["indicator"]].chosen(own), [], layout.lead_s, units[own]
    )
    if found is None:
        return None
    evidence = answer["evidence"]
    chance = _chance(
        sums[evidence].chosen(own).curve(),
        [w.alone[evidence][number] for w in wrong],
        float(distinct[layout.recording == number].sum()),
    )
    return found | {"chance": chance}


def _chance(
    curve: Float[ndarray, " L"], wrong: Sequence[ndarray], distinct: float
) -> float | None:
    """Returns how likely wrong pairings rise as far; None without any."""
    if not len(wrong) or np.isnan(curve).all():
        return None
    rises = statistics.rise(np.array([curve, *wrong]))
    return statistics.chance(rises[0], rises[1:], distinct=distinct)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a curve is read.

    Attributes:
      half_width: ticks on either side of the highest point for the parabola.
      response_s: added to the interval on either side.
      draws: of the bootstrap.
      seed: of the draws.
      distinct: wrong pairings that may count as independent.
    """

    half_width: int
    response_s: float
    draws: int
    seed: int
    distinct: float

    def describe(
        self,
        sums: LeadSums,
        wrong: Sequence[Float[ndarray, " L"]],
        lead_s: Float[ndarray, " L"],
        recording: Int[ndarray, " U"],
    ) -> dict[str, Any] | None:
        """Returns curve, estimate, interval and chance; None without any pair.

        Args:
          sums: of one indicator.
          wrong: the curves of wrong pairings.
          lead_s: the leads.
          recording: of each unit.
        """
        curve = sums.curve()
        if np.isnan(curve).all():
            return None
        weights = statistics.bootstrap_weights(
            recording, draws=self.draws, seed=self.seed
        )
        estimate, *drawn = statistics.peaks(
            np.concatenate([curve[None], sums.curves(weights)]),
            lead_s,
            half_width=self.half_width,
        )
        filled = int((sums.pairs.max(axis=0) > 0).sum())
        low, high = statistics.interval(np.array(drawn), estimate, units=filled)
        null = np.array(wrong)
        return {
            "curve": [None if np.isnan(value) else float(value) for value in curve],
            "estimate_s": float(estimate),
            "interval_s": [
                max(low - self.response_s, float(lead_s[0])),
                min(high + self.response_s, float(lead_s[-1])),
            ],
            "statistical_interval_s": [low, high],
            "at_edge": bool(np.nanargmax(curve) in (0, len(curve) - 1)),
            "chance": _chance(curve, wrong, self.distinct),
            "wrong_pairings": _plain(np.nanpercentile(null, statistics.LEVEL))
            if len(null)
            else None,
        }


def _plain(values: Float[ndarray, " n"]) -> list[float]:
    return [float(value) for value in values]


def conclude(
    whole: Mapping[str, Any],
    units: int,
    config: ConfigDict,
    *,
    window_s: float,
    memorised: bool,
) -> dict[str, Any]:
    """Returns the verdict, and the estimate if there is a lead.

    An indicator of the model may answer what the model memorised; on other recordings
    its encoders may be off by part of a window. One that asks no model is neither. So
    the model's answer counts where the run was not trained, and gives way to that of
    `model_free` if this is less than a window away and known more closely; where the
    run was trained, only the latter counts. Few stretches have few events, and one
    event matches any other at some lead.

    Args:
      whole: by indicator, as from `Reading.describe`.
      units: stretches of time with any pair.
      config: of the search.
      window_s: length of the run's windows.
      memorised: whether the run was trained on these recordings, at one lead.
    """
    model, evidence = whole[config.indicator], whole[config.evidence]
    found = _below(evidence["chance"], config.significance)
    answer = {"indicator": config.indicator, "evidence": config.evidence}
    free = whole.get(config.model_free)
    if free is not None and _below(free["chance"], config.model_free_significance):
        near = abs(free["estimate_s"] - model["estimate_s"]) <= window_s
        closer = np.ptp(free["interval_s"]) < np.ptp(model["interval_s"])
        if memorised or not found or (near and closer):
            answer = dict.fromkeys(answer, config.model_free)
            found, memorised = True, False
    best, chance = whole[answer["indicator"]], whole[answer["evidence"]]["chance"]
    verdict = NOT_FOUND
    if chance is None or units < FEW_UNITS:
        verdict = TOO_SHORT
    elif found:
        verdict = CANNOT_TELL if memorised else FOUND
    return {
        **answer,
        "chance": chance,
        "verdict": verdict,
        "estimate_s": best["estimate_s"] if verdict == FOUND else None,
        "interval_s": best["interval_s"] if verdict == FOUND else None,
    }


def _below(chance: float | None, significance: float) -> bool:
    return chance is not None and chance < significance
