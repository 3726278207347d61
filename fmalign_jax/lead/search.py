"""From encoded clips to curves over leads, an estimate and a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray
from tqdm import tqdm

from fmalign_jax.lead import curves, indicators, layout as lead_layout, statistics
from fmalign_jax.lead.curves import LeadSums, Rows
from fmalign_jax.lead.indicators import INDICATORS
from fmalign_jax.lead.layout import Layout
from fmalign_jax.lead.tick_features import Clip

FOUND, NOT_FOUND, TOO_SHORT = "lead found", "no lead found", "too short to tell"

FEW_UNITS = 8
"""Fewer stretches of time have too few events for a verdict."""

_UNIT_WINDOWS = 5
_PEAK_SHARE = 6  # of a window, on either side of the highest point


def find_lead(
    clips: Sequence[Clip], config: ConfigDict, data: ConfigDict
) -> dict[str, Any]:
    """Makes curves, estimates and a verdict of encoded clips.

    Args:
      clips: of all recordings.
      config: of the search.
      data: the run's settings of data.

    Raises:
      ValueError: the clips are too short for the range.
    """
    window_s = data.window_ticks * data.tick_s
    unit_s = config.unit_s or _UNIT_WINDOWS * window_s
    layout = lead_layout.layout(
        clips,
        tick_s=data.tick_s,
        least_s=config.least_lead_s,
        most_s=config.most_lead_s,
        unit_ticks=max(1, round(unit_s / data.tick_s)),
    )
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
        if name in (config.indicator, config.evidence, *config.chance_of)
    }
    wrong = wrong_pairings(layout, rows, tried, config, data.window_ticks)
    distinct = statistics.distinct_pairings(layout, guard_ticks=data.window_ticks)
    half_width_s = config.peak_half_width_s or window_s / _PEAK_SHARE
    reading = Reading(
        half_width=max(1, round(half_width_s / data.tick_s)),
        response_s=config.response_windows * window_s,
        draws=config.bootstrap_draws,
        seed=config.seed,
        distinct=float(distinct.sum()),
    )
    units = layout.unit_recording()
    whole = {
        name: reading.describe(
            own, [w[name] for w in wrong if name in w], layout.lead_s, units
        )
        for name, own in sums.items()
    }
    alone = {
        name: _describe_one(number, reading, sums, wrong, layout, config, distinct)
        for number, name in enumerate(layout.names)
    }
    filled = int((sums[config.indicator].pairs.max(axis=0) > 0).sum())
    return _conclude(whole, alone, filled, config) | {
        "reference": data.reference_stream,
        "leading": data.leading_stream,
        "lead_s": _plain(layout.lead_s),
        "tick_s": data.tick_s,
        "window_s": window_s,
        "unit_s": layout.unit_ticks * data.tick_s,
        "units": filled,
    }


def wrong_pairings(
    layout: Layout,
    rows: Rows,
    kinds: Mapping[str, str],
    config: ConfigDict,
    window_ticks: int,
) -> list[dict[str, LeadSums]]:
    """Returns the same sums of wrong pairings, draw by draw."""
    pairings = statistics.wrong_pairings(
        layout, draws=config.null_draws, guard_ticks=window_ticks, seed=config.seed
    )
    bar = tqdm(pairings, "wrong pairings", config.null_draws, disable=None)
    return [
        curves.lead_sums(
            curves.rearranged(rows, *pairing),
            kinds,
            layout.leads,
            unit_ticks=layout.unit_ticks,
        )
        for pairing in bar
    ]


def _describe_one(
    number: int,
    reading: Reading,
    sums: Mapping[str, LeadSums],
    wrong: Sequence[Mapping[str, LeadSums]],
    layout: Layout,
    config: ConfigDict,
    distinct: Float[ndarray, " S"],
) -> dict[str, Any] | None:
    """Returns the result of one recording; the chance is that of the evidence."""
    units = layout.unit_recording()
    own = units == number
    found = reading.describe(
        sums[config.indicator].chosen(own), [], layout.lead_s, units[own]
    )
    if found is None:
        return None
    chance = _chance(
        sums[config.evidence].chosen(own),
        [w[config.evidence].chosen(own) for w in wrong],
        float(distinct[layout.recording == number].sum()),
    )
    return found | {"chance": chance}


def _chance(sums: LeadSums, wrong: Sequence[LeadSums], distinct: float) -> float | None:
    """Returns how likely wrong pairings rise as far; None without any."""
    if not wrong:
        return None
    rises = statistics.rise(np.array([own.curve() for own in [sums, *wrong]]))
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
        wrong: Sequence[LeadSums],
        lead_s: Float[ndarray, " L"],
        recording: Int[ndarray, " U"],
    ) -> dict[str, Any] | None:
        """Returns curve, estimate, interval and chance; None without any pair.

        Args:
          sums: of one indicator.
          wrong: the same of wrong pairings.
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
        low, high = statistics.interval(np.array(drawn))
        null = np.array([own.curve() for own in wrong])
        return {
            "curve": [None if np.isnan(value) else float(value) for value in curve],
            "estimate_s": float(estimate),
            "interval_s": [low - self.response_s, high + self.response_s],
            "statistical_interval_s": [low, high],
            "at_edge": bool(np.nanargmax(curve) in (0, len(curve) - 1)),
            "chance": _chance(sums, wrong, self.distinct),
            "wrong_pairings": _plain(np.nanpercentile(null, statistics.LEVEL))
            if len(null)
            else None,
        }


def _plain(values: Float[ndarray, " n"]) -> list[float]:
    return [float(value) for value in values]


def _conclude(
    whole: Mapping[str, Any], alone: Mapping[str, Any], units: int, config: ConfigDict
) -> dict[str, Any]:
    """Returns the verdict, and the estimate if there is a lead.

    Few stretches have few events, and one event matches any other at some lead.
    """
    best, chance = whole[config.indicator], whole[config.evidence]["chance"]
    verdict = TOO_SHORT
    if chance is not None and units >= FEW_UNITS:
        verdict = FOUND if chance < config.significance else NOT_FOUND
    found = verdict == FOUND
    return {
        "indicator": config.indicator,
        "evidence": config.evidence,
        "chance": chance,
        "verdict": verdict,
        "estimate_s": best["estimate_s"] if found else None,
        "interval_s": best["interval_s"] if found else None,
        "indicators": whole,
        "per_recording": {n: own for n, own in alone.items() if own is not None},
    }
