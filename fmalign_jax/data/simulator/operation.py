"""What happens at a simulated furnace: semi-molten episodes, and events.

Nothing is measured or drawn here yet: `circuit` turns an `Operation` into currents,
`renderer` into frames. All times are seconds from the start of the recording.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from fmalign_jax.data.simulator.processes import generator, poisson_spans, pulses
from fmalign_jax.data.simulator.profiles import FurnaceProfile

ONSET_TAU_S = 10.0
"""Time constant with which the current takes on and loses the signs of an episode."""
WARM_UP_S = 60.0
"""Events and currents are simulated from so long before the recording."""

_HISTORY_S = 1200.0
_NORMAL_S = (85.0, 165.0)
_ABNORMAL_S = (90.0, 170.0)
_LEAD_SD_RECORDING_S = 8.0
_LEAD_SD_EVENT_S = 7.0
_UNPAIRED_SHARE = 0.025

# Mean interval in normal smelting, rate in an episode relative to it, length (s).
_EVENTS = {
    "bursts": (90.0, 0.45, (8.0, 35.0)),
    "exhausting": (600.0, 0.4, (8.0, 20.0)),
    "dips": (45.0, 0.15, (0.5, 2.0)),
    "trips": (2400.0, 2.5, (0.0, 0.0)),
    "puffs": (140.0, 1.0, (6.0, 45.0)),
    "sparks": (400.0, 1.0, (0.5, 4.0)),
}
_TRIP_PARTS_S = np.array([(4.0, 15.0), (3.0, 15.0), (3.0, 10.0)] * 2)
"""Lengths of ceiling, zero and plateau, and once more when a trip comes twice."""


@dataclasses.dataclass(frozen=True)
class Spells:
    """The semi-molten episodes of one recording; every field is an array over them.

    Attributes:
      begin_s, end_s: when the state holds; the current shows it from here on.
      seen_begin_s, seen_end_s: when it is visible on the shell.
      precursor: whether the current shows it (False for spontaneous ones).
      seen: whether it ever becomes visible (False for dark ones).
      kind: position in `FurnaceProfile.kinds`.
      drop: by how much the logarithm of the volatility falls.
      wander: factor on the slow swings.
    """

    begin_s: Float[np.ndarray, "n"]
    end_s: Float[np.ndarray, "n"]
    seen_begin_s: Float[np.ndarray, "n"]
    seen_end_s: Float[np.ndarray, "n"]
    precursor: Bool[np.ndarray, "n"]
    seen: Bool[np.ndarray, "n"]
    kind: Int[np.ndarray, "n"]
    drop: Float[np.ndarray, "n"]
    wander: Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One recording's worth of furnace operation.

    Attributes:
      seed: of this recording; every later draw starts from it.
      furnace: number of the furnace; recordings of one furnace share its traits.
      lead_s: half-point of the current's change to half-point of the visible one.
      events: begin and end [n, 2] by kind of event; kinds turned off are empty.
      trip_parts_s: [trips, 6] lengths of ceiling, zero, plateau, twice.
    """

    profile: FurnaceProfile
    seed: int
    furnace: int
    duration_s: float
    lead_s: float
    spells: Spells
    events: dict[str, Float[np.ndarray, "n 2"]]
    trip_parts_s: Float[np.ndarray, "trips 6"]

    def state(self, time_s: Float[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
        """e(t): whether the state holds and shows in the current."""
        return _inside(time_s, _state_spans(self.spells))

    def visible(self, time_s: Float[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
        """y(t): whether the state is visible on the shell."""
        spells = self.spells
        spans = np.stack([spells.seen_begin_s, spells.seen_end_s], axis=1)
        return _inside(time_s, spans[spells.seen])


def operate(
    profile: FurnaceProfile, *, duration_s: float, seed: int, furnace: int
) -> Operation:
    """Draws the episodes and events of one recording.

    Raises:
      ValueError: the duration or a seed is not usable.
    """
    if duration_s <= 0 or seed < 0 or furnace < 0:
        raise ValueError(
            "duration_s must be positive, seed and furnace at least 0; got "
            f"{duration_s}, {seed} and {furnace}; correct them"
        )
    rng = generator(seed, "spells")
    lead_s = rng.uniform(*profile.lead_s)
    lead_s += profile.lead_jitter * rng.normal(0, _LEAD_SD_RECORDING_S)
    spells = _draw_spells(profile, rng, duration_s=duration_s, lead_s=lead_s)
    spells = _spread_leads(spells, profile, generator(seed, "leads of episodes"))
    events = _draw_events(profile, seed, duration_s, _state_spans(spells))
    trip_parts_s = _draw_trip_parts(generator(seed, "trip parts"), events["trips"])
    events["trips"][:, 1] += trip_parts_s.sum(axis=1)
    return Operation(
        profile, seed, furnace, duration_s, lead_s, spells, events, trip_parts_s
    )


def _draw_spells(
    profile: FurnaceProfile,
    rng: np.random.Generator,
    *,
    duration_s: float,
    lead_s: float,
) -> Spells:
    span_s = duration_s + _HISTORY_S + profile.lead_s[1]
    count = math.ceil(span_s / (_NORMAL_S[0] + _ABNORMAL_S[0]))
    dwell = [
        shift + rng.exponential(mean, count) for shift, mean in (_NORMAL_S, _ABNORMAL_S)
    ]
    edges = np.cumsum(np.stack(dwell, axis=1)).reshape(count, 2)
    begin, end = edges.T - (_HISTORY_S + profile.lead_s[1])
    kinds = profile.kinds
    share = np.array([kind.share for kind in kinds])
    kind = rng.choice(len(kinds), count, p=share / share.sum())
    jitter = profile.lead_jitter * rng.normal(0, _LEAD_SD_EVENT_S, (2, count))
    # The current's change is half done ONSET_TAU_S ln 2 after the state's.
    delay = ONSET_TAU_S * math.log(2) + lead_s + jitter
    unpaired = rng.uniform(size=count)
    dark = profile.dark_spells & (unpaired < _UNPAIRED_SHARE)
    spontaneous = profile.spontaneous_spells & (unpaired > 1 - _UNPAIRED_SHARE)
    return Spells(
        begin_s=begin,
        end_s=end,
        seen_begin_s=begin + delay[0],
        seen_end_s=end + delay[1],
        precursor=profile.precursor & ~spontaneous,
        seen=~dark,
        kind=kind,
        drop=rng.uniform(*np.array([k.drop for k in kinds])[kind].T),
        wander=rng.uniform(*np.array([k.wander for k in kinds])[kind].T),
    )


def _spread_leads(
    spells: Spells, profile: FurnaceProfile, rng: np.random.Generator
) -> Spells:
    """Gives every episode a lead of its own; it lasts as long as before."""
    most_s = profile.lead_spread_s
    longer_s = rng.uniform(-most_s, most_s, len(spells.begin_s))
    return dataclasses.replace(
        spells,
        seen_begin_s=spells.seen_begin_s + longer_s,
        seen_end_s=spells.seen_end_s + longer_s,
    )


def _draw_events(
    profile: FurnaceProfile,
    seed: int,
    duration_s: float,
    state_spans: Float[np.ndarray, "n 2"],
) -> dict[str, Float[np.ndarray, "_ 2"]]:
    events = {}
    for name, (interval_s, factor, length_s) in _EVENTS.items():
        rng = generator(seed, name)
        most = max(1.0, factor)
        spans = poisson_spans(
            rng,
            begin_s=-WARM_UP_S,
            end_s=duration_s,
            interval_s=interval_s / most,
            length_s=length_s,
        )
        in_state = _inside(spans[:, 0], state_spans)
        keep = rng.uniform(size=len(spans)) * most < np.where(in_state, factor, 1.0)
        events[name] = spans[keep & getattr(profile, name)]
    events["feeding"] = _draw_feeding(generator(seed, "feeding"), duration_s)
    events["feeding"] = events["feeding"][: None if profile.feeding else 0]
    return events


def _draw_feeding(
    rng: np.random.Generator, duration_s: float
) -> Float[np.ndarray, "n 2"]:
    """The charge is fed every 120-420 s for 15-40 s, whatever the state."""
    count = math.ceil((duration_s + 2 * WARM_UP_S) / 120.0)
    begin = np.cumsum(rng.uniform(120.0, 420.0, count)) - 120.0 - WARM_UP_S
    spans = np.stack([begin, begin + rng.uniform(15.0, 40.0, count)], axis=1)
    return spans[begin < duration_s]


def _draw_trip_parts(
    rng: np.random.Generator, trips: Float[np.ndarray, "trips 2"]
) -> Float[np.ndarray, "trips 6"]:
    shortest, longest = _TRIP_PARTS_S.T
    parts = rng.uniform(shortest, longest, (len(trips), 6))
    twice = rng.uniform(size=len(trips)) < 0.5
    parts[:, 3:] *= twice[:, None]
    return parts


def _state_spans(spells: Spells) -> Float[np.ndarray, "m 2"]:
    return np.stack([spells.begin_s, spells.end_s], axis=1)[spells.precursor]


def _inside(
    time_s: Float[np.ndarray, "N"], spans: Float[np.ndarray, "n 2"]
) -> Bool[np.ndarray, "N"]:
    order = np.argsort(time_s, kind="stable")
    inside = np.empty(len(time_s), bool)
    inside[order] = pulses(time_s[order], spans) > 0.5
    return inside
