"""The lead of each spell: when its state begins in the one modality and in the other.

Along the directions that correlate best, each modality has one score a tick. Two levels
of it, by 2-means, are the two states; the rarer one is a spell. Onsets of both
modalities are paired one to one where they lie a lead apart, up to a window. No label
is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import theilslopes

from fmalign_jax.lead.curves import CANONICAL, LeadSums, Rows
from fmalign_jax.lead.layout import Layout
from fmalign_jax.lead.tick_features import centred_mean

SMOOTH_WINDOWS = 1 / 3
"""Scores are means over this share of a window: a tick by itself is uncertain."""

LEAST_FOR_DRIFT = 6
"""Spells, below which a drift of the lead is not worked out."""

_HYSTERESIS = 0.15  # of the distance of the states, on either side of the middle
_BOUNDS = (0.25, 0.75)  # of the way from state to state, for the interval of an onset
_ROUNDS = 50  # of 2-means, at most


def find_spells(
    layout: Layout,
    rows: Rows,
    sums: LeadSums,
    *,
    lead_s: float,
    delay_s: float,
    window_ticks: int,
    tick_s: float,
) -> dict[str, Any]:
    """Returns the lead of every spell that both modalities show.

    Args:
      layout: of the rows.
      rows: with the values of `canonical`.
      sums: of `canonical`; its directions are used.
      lead_s: of all recordings, as found, before any correction.
      delay_s: of the reference's encoder, taken off every lead.
      window_ticks: ticks in a window.
      tick_s: length of a tick.

    Returns:
      `pairs`: recording, clip, onset in both modalities on the recording's clock, lead
      and its interval, from when the scores are a quarter of the way to when they are
      three quarters; `unpaired`, onsets by modality without a partner; `median_s`,
      `quartiles_s`; `drift_s_per_hour` with its 95 % interval (Theil and Sen), None for
      fewer than LEAST_FOR_DRIFT spells.
    """
    assert sums.directions is not None
    width = max(1, round(SMOOTH_WINDOWS * window_ticks))
    shape = (
        rows.reference[CANONICAL].shape[-1],
        rows.leading[CANONICAL].shape[-1],
    )
    left, _, right = np.linalg.svd(sums.directions.reshape(shape))
    onsets = {
        "reference": _onsets(
            np.asarray(rows.reference[CANONICAL]) @ left[:, 0],
            np.asarray(rows.reference_known),
            width,
        ),
        "leading": _onsets(
            np.asarray(rows.leading[CANONICAL]) @ right[0],
            np.asarray(rows.leading_known),
            width,
        ),
    }
    pairs: list[dict[str, Any]] = []
    unpaired = {"reference": 0, "leading": 0}
    for row, clip in enumerate(layout.clips):
        at = {
            role: getattr(clip, role).start_s
            + (onsets[role][row] - getattr(layout, f"{role}_at")[row]) * tick_s
            for role in onsets
        }
        found = paired(
            at["reference"][:, 1],
            at["leading"][:, 1],
            lead_s,
            within_s=window_ticks * tick_s,
        )
        for i, j in found:
            behind, ahead = at["reference"][i], at["leading"][j]
            pairs.append(
                {
                    "recording": clip.recording,
                    "clip": clip.number,
                    "leading_onset_s": float(ahead[1]),
                    "reference_onset_s": float(behind[1]),
                    "lead_s": float(behind[1] - ahead[1] - delay_s),
                    "interval_s": [
                        float(behind[0] - ahead[2] - delay_s),
                        float(behind[2] - ahead[0] - delay_s),
                    ],
                }
            )
        for role in unpaired:
            unpaired[role] += len(at[role]) - len(found)
    return {"pairs": pairs, "unpaired": unpaired, **_summary(pairs)}


def paired(
    reference_s: Float[ndarray, " n"],
    leading_s: Float[ndarray, " m"],
    lead_s: float,
    *,
    within_s: float,
) -> list[tuple[int, int]]:
    """Pairs onsets that are each other's nearest, a lead apart.

    Args:
      reference_s: onsets of the modality that follows.
      leading_s: onsets of the other.
      lead_s: how far they should be apart.
      within_s: how far a pair may be from that.
    """
    if not len(reference_s) or not len(leading_s):
        return []
    off = np.abs(reference_s[:, None] - leading_s - lead_s)
    partner, own = off.argmin(axis=1), off.argmin(axis=0)
    return [
        (i, int(j))
        for i, j in enumerate(partner)
        if own[j] == i and off[i, j] <= within_s
    ]


def _onsets(
    scores: Float[ndarray, "S n"], known: Bool[ndarray, "S n"], width: int
) -> list[Float[ndarray, "k 3"]]:
    """Returns where spells begin in each row: a quarter, half, three quarters there."""
    smooth = np.array(
        [
            centred_mean(own[:, None], seen, width)[:, 0]
            for own, seen in zip(scores, known, strict=True)
        ]
    )
    usual, rare = _two_levels(smooth[known])
    # 0 in the usual state, 1 in the rare one.
    share = (smooth - usual) / (rare - usual if rare != usual else 1.0)
    return [
        _rises(own, seen, _HYSTERESIS) for own, seen in zip(share, known, strict=True)
    ]


def _two_levels(values: Float[ndarray, " n"]) -> tuple[float, float]:
    """Returns the levels of the commoner and of the rarer state, by 2-means."""
    levels = np.percentile(values, [5, 95])
    for _ in range(_ROUNDS):
        upper = values > levels.mean()
        if upper.all() or not upper.any():
            break
        moved = np.array([values[~upper].mean(), values[upper].mean()])
        if np.array_equal(moved, levels):
            break
        levels = moved
    upper = values > levels.mean()
    low, high = levels.tolist()
    return (low, high) if upper.mean() < 0.5 else (high, low)


def _rises(
    share: Float[ndarray, " n"], known: Bool[ndarray, " n"], hysteresis: float
) -> Float[ndarray, "k 3"]:
    """Returns the places at which a share rises from 0 to 1, in ticks."""
    found, on, low = [], True, 0  # a spell that was there before has no onset
    seen = np.flatnonzero(known)
    for place in seen.tolist():
        value = share[place]
        if on and value < 0.5 - hysteresis:
            on = False
        elif not on and value > 0.5 + hysteresis:
            on = True
            found.append([_crossing(share, low, place, at) for at in (_BOUNDS[0], 0.5)])
            after = np.flatnonzero(share[place:] >= _BOUNDS[1])
            end = place + int(after[0]) if len(after) else place
            found[-1].append(_crossing(share, low, end, _BOUNDS[1]))
        if not on and value < _BOUNDS[0]:
            low = place
    return np.array(found, float).reshape(-1, 3)


def _crossing(share: Float[ndarray, " n"], begin: int, end: int, level: float) -> float:
    """Returns where a share last rises through a level, between two ticks."""
    below = np.flatnonzero(share[begin : end + 1] < level)
    if not len(below):
        return float(begin)
    last = begin + int(below[-1])
    if last >= end:
        return float(end)
    step = share[last + 1] - share[last]
    return last + float((level - share[last]) / step) if step > 0 else float(last)


def _summary(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    leads = np.array([pair["lead_s"] for pair in pairs])
    if not len(leads):
        return {"median_s": None, "quartiles_s": None, "drift_s_per_hour": None}
    drift = None
    if len(leads) >= LEAST_FOR_DRIFT:
        hours = np.array([pair["leading_onset_s"] for pair in pairs]) / 3600
        if np.ptp(hours) > 0:
            slope, _, low, high = theilslopes(leads, hours)
            drift = [float(slope), float(low), float(high)]
    return {
        "median_s": float(np.median(leads)),
        "quartiles_s": [float(q) for q in np.quantile(leads, [0.25, 0.75])],
        "drift_s_per_hour": drift,
    }


def table(pairs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Returns the pairs as rows of a CSV file, the header first."""
    header = ["recording", "clip", "leading_onset_s", "reference_onset_s", "lead_s"]
    cells = [
        [
            *(pair[key] for key in header[:2]),
            *(f"{pair[key]:.2f}" for key in header[2:]),
        ]
        + [f"{end:.2f}" for end in pair["interval_s"]]
        for pair in pairs
    ]
    return [[*header, "lead_least_s", "lead_most_s"], *cells]
