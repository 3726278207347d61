"""What a simulated furnace is like: its lead, its episodes, and every confounder.

A confounder makes the task realistic: it changes the current or the video and says
nothing about the state, or it hides a part of what they show of the state.
Each is a switch, so that its influence can be measured by turning it off.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

Interval = tuple[float, float]
"""Lower and upper end of a uniform distribution."""


@dataclasses.dataclass(frozen=True)
class SpellKind:
    """One form of the semi-molten state in the current.

    Attributes:
      share: how often an episode is of this kind, relative to the others.
      drop: how far the logarithm of the volatility falls.
      wander: factor on the slow swings (10 s) of the arcs.
    """

    share: float
    drop: Interval
    wander: Interval


@dataclasses.dataclass(frozen=True)
class FurnaceProfile:
    """Parameters of a simulated furnace. Immutable; vary by `dataclasses.replace`.

    Attributes:
      lead_s: how long the current is ahead of the video; one value is drawn for each
        recording, before the jitter that `lead_jitter` adds.
      lead_spread_s: by how much the lead of an episode may differ from that of its
        recording, either way, evenly drawn.
      precursor: whether the state shows in the current at all.
      deep, wander, weak: the three forms of a semi-molten episode.
      volatility: relative noise of the arc resistance in median normal smelting.
      slow_volatility: standard deviation of its slow logarithmic drift.
      slow_volatility_tau_s: how slow.
      wander_spells, weak_spells: whether these forms occur; else all are deep.
      calm_smelting: normal smelting is calm at times (the slow drift of volatility).
      bursts: loud bursts of 8-35 s, in both states.
      feeding: the charge is fed every few minutes, in both states.
      exhausting: gas breaks out and swings all currents.
      dips: one phase falls for a second.
      trips: over-current at the ceiling, all phases to zero, plateaus.
      furnace_spread: furnaces differ in voltage, reactance, set-point and loudness.
      phase_loudness: phases of one furnace differ in loudness and gain.
      set_point_steps: the operator changes the set-point every quarter of an hour.
      lead_jitter: the lead varies by recording (8 s) and by event (7 s).
      dark_spells: some episodes are never visible.
      spontaneous_spells: some are visible without an earlier sign in the current.
      light_changes: palette, flame and exposure vary.
      white_out: the palette includes a nearly white frame.
      mist: a varying veil of mist.
      puffs: dense puffs that hide the shell for up to 45 s.
      plume: a lit plume along one edge.
      static_dots: bright unlabelled dots that never move.
      sparks: short bright unlabelled dots.
      label_under_mist: masks are drawn even where dense mist hides the spot.
      missing_seconds: seconds without a row of current.
      uneven_rows: seconds with one or three rows of current instead of two.
      missing_frames: 0.5-2 % of the frames are lost.
      clock_offset: the clock of the current is 0-2 s late.
    """

    lead_s: Interval = (240.0, 240.0)
    lead_spread_s: float = 0.0
    precursor: bool = True
    deep: SpellKind = SpellKind(0.30, drop=(1.6, 3.0), wander=(0.3, 0.8))
    wander: SpellKind = SpellKind(0.40, drop=(0.9, 1.6), wander=(1.8, 3.2))
    weak: SpellKind = SpellKind(0.30, drop=(0.6, 1.2), wander=(0.8, 1.4))
    volatility: float = 0.165
    slow_volatility: float = 0.25
    slow_volatility_tau_s: float = 75.0

    wander_spells: bool = True
    weak_spells: bool = True
    calm_smelting: bool = True
    bursts: bool = True
    feeding: bool = True
    exhausting: bool = True
    dips: bool = True
    trips: bool = True
    furnace_spread: bool = True
    phase_loudness: bool = True
    set_point_steps: bool = True
    lead_jitter: bool = True
    dark_spells: bool = True
    spontaneous_spells: bool = True

    light_changes: bool = True
    white_out: bool = True
    mist: bool = True
    puffs: bool = True
    plume: bool = True
    static_dots: bool = True
    sparks: bool = True
    label_under_mist: bool = True

    missing_seconds: bool = True
    uneven_rows: bool = True
    missing_frames: bool = True
    clock_offset: bool = True

    @property
    def kinds(self) -> tuple[SpellKind, ...]:
        """The forms that occur."""
        optional = ((self.wander_spells, self.wander), (self.weak_spells, self.weak))
        return (self.deep, *(kind for occurs, kind in optional if occurs))


DEFAULT = FurnaceProfile()

PROFILES = {
    "default": DEFAULT,
    # Wander and weak episodes as noisy as the noisiest published panels.
    "hard": dataclasses.replace(
        DEFAULT,
        wander=dataclasses.replace(DEFAULT.wander, drop=(0.5, 1.0)),
        weak=dataclasses.replace(DEFAULT.weak, drop=(0.2, 0.6)),
    ),
    "easy": dataclasses.replace(DEFAULT, weak_spells=False),
    # Leads of 180 to 300 s, another one for each episode.
    "wide_leads": dataclasses.replace(DEFAULT, lead_spread_s=60.0),
    # Controls: nothing to find, and nothing to find ahead.
    "no_precursor": dataclasses.replace(DEFAULT, precursor=False),
    "lead_0": dataclasses.replace(DEFAULT, lead_s=(0.0, 0.0)),
}


def changed(name: str, changes: Mapping[str, Any]) -> FurnaceProfile:
    """Returns a profile with some fields set otherwise.

    Args:
      name: of a profile in PROFILES.
      changes: values by field; `lead_s` may be one number.

    Raises:
      ValueError: an unknown profile or field, or a value of another kind.
    """
    if name not in PROFILES:
        raise ValueError(
            f"the profile must be one of {sorted(PROFILES)}; got {name!r}; choose one"
        )
    known = {field.name for field in dataclasses.fields(FurnaceProfile)}
    if not set(changes) <= known:
        raise ValueError(
            f"changes must name fields of a profile; got {sorted(set(changes) - known)}"
            f"; choose from {sorted(known)}"
        )
    values = {key: _value(key, value) for key, value in changes.items()}
    return dataclasses.replace(PROFILES[name], **values)


def _value(key: str, value: Any) -> Any:
    """A value in the type of its field, which its default shows."""
    default = getattr(DEFAULT, key)
    if key == "lead_s":
        return _interval(value)
    fits = isinstance(value, type(default))
    if isinstance(default, float):
        fits = _is_finite(value) and value >= 0
    if not fits:
        raise ValueError(
            f"the change of {key} must be {_KINDS[type(default)]}; got {value!r}; such "
            f"as {default!r}"
        )
    return value


def _interval(value: Any) -> Interval:
    ends = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(ends) != 2 or not all(map(_is_finite, ends)) or ends[0] > ends[1]:
        raise ValueError(
            f"the change of lead_s must be seconds, or their least and most; got "
            f"{value!r}; use such as 240.0 or (180.0, 300.0)"
        )
    return float(ends[0]), float(ends[1])


def _is_finite(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)


_KINDS = {bool: "True or False", float: "a number from 0 on", SpellKind: "a SpellKind"}
