"""From an operation to three electrode currents, as the data logger writes them.

The furnace is a star of three arcs with floating neutral at a stiff three-phase
supply. Reactance is constant; all variation is in the arc resistances. Resistances
are in milliohm, voltages in volts to neutral, currents in amperes.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Complex, Float, Int

from fmalign_jax.data.simulator.operation import ONSET_TAU_S, WARM_UP_S, Operation
from fmalign_jax.data.simulator.processes import (
    generator,
    ornstein_uhlenbeck,
    pulses,
    resonance,
    smooth_steps,
    white,
)
from fmalign_jax.data.simulator.profiles import FurnaceProfile

ROW_RATE_HZ = 2.0
ADC_CEILING_A = 14_000.0
ADC_STEP_A = ADC_CEILING_A / 4096

_STEP_S = 1 / ROW_RATE_HZ
_COMMON_SHARE = 0.45
"""Share of the arcs' variance that is common to all three."""
_DEGREES_OF_FREEDOM = 5.0
_ROW_UNEVEN_PROBABILITY = 0.0005


@dataclasses.dataclass(frozen=True)
class Supply:
    """Electrical traits of one furnace.

    Attributes:
      voltage_v: phase to neutral.
      reactance_mohm: of each phase.
      set_point_a: the current the controller holds.
      volatility_factor: loudness of the furnace.
      loudness: [3] loudness of its phases.
      gain: [3] of the current transformers.
    """

    voltage_v: float
    reactance_mohm: float
    set_point_a: float
    volatility_factor: float
    loudness: Float[np.ndarray, "3"]
    gain: Float[np.ndarray, "3"]


def draw_supply(profile: FurnaceProfile, furnace: int) -> Supply:
    """Draws the electrical traits of a furnace, by its number."""
    rng = generator(furnace, "supply")
    drawn = Supply(
        voltage_v=rng.uniform(68.0, 74.0),
        reactance_mohm=rng.uniform(2.7, 3.4),
        set_point_a=rng.uniform(8800.0, 9800.0),
        volatility_factor=math.exp(rng.normal(0, 0.15)),
        loudness=np.exp(rng.normal(0, 0.2, 3)),
        gain=rng.normal(1, 0.015, 3),
    )
    if not profile.furnace_spread:
        drawn = dataclasses.replace(
            drawn,
            voltage_v=71.0,
            reactance_mohm=3.05,
            set_point_a=9300.0,
            volatility_factor=1.0,
        )
    if not profile.phase_loudness:
        drawn = dataclasses.replace(drawn, loudness=np.ones(3), gain=np.ones(3))
    return drawn


def star_phasors(
    resistance_mohm: Float[np.ndarray, "N 3"],
    *,
    reactance_mohm: float,
    voltage_v: float,
) -> Complex[np.ndarray, "N 3"]:
    """Currents of three arcs in a star with floating neutral, in amperes; sum 0.

    Z_p = R_p + jX,  E_p = V exp(-2 pi j p / 3),  V_n = sum(E/Z) / sum(1/Z),
    I_p = (E_p - V_n) / Z_p.
    """
    admittance = 1e3 / (resistance_mohm + 1j * reactance_mohm)
    source = voltage_v * np.exp(-2j * np.pi * np.arange(3) / 3)
    neutral = (admittance @ source) / admittance.sum(axis=1)
    return (source - neutral[:, None]) * admittance


def simulate_current(
    operation: Operation,
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M 3"]]:
    """Simulates the three currents at two rows a second.

    Returns:
      time_s float64 [M], true time of each row from the start of the recording;
      amperes float64 [M, 3], clipped at the ceiling and rounded as the logger does.
    """
    supply = draw_supply(operation.profile, operation.furnace)
    time_s = _row_times(operation)
    log_deviation = _log_resistance_deviation(operation, supply, time_s)
    base = _set_point_resistance(operation, supply, time_s)
    phasors = star_phasors(
        base[:, None] * np.exp(log_deviation),
        reactance_mohm=supply.reactance_mohm,
        voltage_v=supply.voltage_v,
    )
    amperes = _trip(operation, time_s, np.abs(phasors) * supply.gain)
    amperes = np.round(np.clip(amperes, 0, ADC_CEILING_A) / ADC_STEP_A) * ADC_STEP_A
    return time_s[time_s >= 0], amperes[time_s >= 0]


def simulate_volatility(operation: Operation) -> Float[np.ndarray, "M"]:
    """Returns the true relative noise of the arcs at the rows of `simulate_current`.

    What a detector would measure if the current told it without noise.
    """
    time_s = _row_times(operation)
    drop, _ = _state_marks(operation, time_s)
    supply = draw_supply(operation.profile, operation.furnace)
    return _volatility(operation, supply, time_s, drop)[time_s >= 0]


def _row_times(operation: Operation) -> Float[np.ndarray, "M"]:
    """True times of the rows, from the warm-up on; the recording begins at 0."""
    rows = round((operation.duration_s + WARM_UP_S) * ROW_RATE_HZ)
    return np.arange(rows) / ROW_RATE_HZ - WARM_UP_S


def log_rows(
    operation: Operation, rows: int
) -> tuple[Int[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Which rows the data logger writes, and when by its clock.

    Some seconds are missing, some have one row or three, and the clock is late by
    up to 2 s, each if the profile says so.

    Returns:
      positions int [K] of the simulated rows written, three rows repeating one;
      stamps float64 [K], seconds from the start of the recording.
    """
    profile = operation.profile
    rng = generator(operation.seed, "logger")
    seconds = math.ceil(rows / ROW_RATE_HZ)
    probability = rng.uniform(0.001, 0.002) * profile.missing_seconds
    missing = rng.uniform(size=seconds) < probability
    chance = rng.uniform(size=seconds)
    one = profile.uneven_rows & (chance < _ROW_UNEVEN_PROBABILITY)
    three = profile.uneven_rows & (chance > 1 - _ROW_UNEVEN_PROBABILITY)
    copies = np.ones((seconds, 2), int)
    copies[one, 1] = 0
    copies[three, 0] = 2
    copies[missing] = 0
    positions = np.repeat(np.arange(rows), copies.reshape(-1)[:rows])
    return positions, positions / ROW_RATE_HZ + clock_offset_s(operation)


def clock_offset_s(operation: Operation) -> float:
    """By how much the clock of the current is late, seconds."""
    drawn = generator(operation.seed, "clock").uniform(0, 2)
    return drawn * operation.profile.clock_offset


def _set_point_resistance(
    operation: Operation, supply: Supply, time_s: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """R0 in milliohm: (V / S)^2 = R0^2 + X^2, with S stepped every 15 min or so."""
    rng = generator(operation.seed, "set-point")
    steps = rng.poisson((operation.duration_s + WARM_UP_S) / 900.0)
    steps *= operation.profile.set_point_steps
    moment = np.sort(rng.uniform(time_s[0], time_s[-1], steps))
    level = np.append(0.0, rng.normal(0, 250.0, steps))
    set_point = supply.set_point_a + level[np.searchsorted(moment, time_s)]
    impedance_mohm = 1e3 * supply.voltage_v / set_point
    return np.sqrt(impedance_mohm**2 - supply.reactance_mohm**2)


def _log_resistance_deviation(
    operation: Operation, supply: Supply, time_s: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M 3"]:
    """rho_p - ln R0: the arcs' noise, swings and events, and the state's mark on it."""
    events = operation.events
    drop, wander = _state_marks(operation, time_s)
    scale = _volatility(operation, supply, time_s, drop)[:, None]
    rng = generator(operation.seed, "arcs")
    # The resonance needs a few periods to build up; the warm-up holds ten.
    fast = math.sqrt(0.70) * _arc_noise(rng, len(time_s), tau_s=0.7)
    own, common = (_heavy(rng, len(time_s), channels) for channels in (3, 1))
    swing = [
        resonance(x, period_s=6.0, quality=3.0, step_s=_STEP_S) for x in (own, common)
    ]
    fast = (fast + math.sqrt(0.30) * _mixed(*swing)) * supply.loudness
    slow = _arc_noise(rng, len(time_s), tau_s=10.0) * supply.loudness
    drift = ornstein_uhlenbeck(white(rng, len(time_s), 3), tau_s=240.0, step_s=_STEP_S)
    # Mean removed, two thirds of the variance remain: restore it.
    drift = (drift - drift.mean(axis=1, keepdims=True)) * math.sqrt(1.5)
    deviation = scale * fast + 0.35 * scale**2 * (fast**2 - 1)
    deviation += 0.05 * wander[:, None] * slow + (0.05 + 0.11 * drop[:, None]) * drift
    deviation += 0.06 * pulses(time_s, events["feeding"])[:, None]
    deviation += _exhausting(operation, time_s)[:, None]
    return deviation + _dips(operation, time_s)


def _state_marks(
    operation: Operation, time_s: Float[np.ndarray, "M"]
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
    """d(t), drop of log-volatility, and w(t), factor of wander."""
    spells = operation.spells
    spans = np.stack([spells.begin_s, spells.end_s], axis=1)[spells.precursor]
    drop = pulses(time_s, spans, spells.drop[spells.precursor])
    wander = 1 + pulses(time_s, spans, spells.wander[spells.precursor] - 1)
    return (
        smooth_steps(drop, tau_s=ONSET_TAU_S, step_s=_STEP_S),
        smooth_steps(wander, tau_s=ONSET_TAU_S, step_s=_STEP_S),
    )


def _volatility(
    operation: Operation,
    supply: Supply,
    time_s: Float[np.ndarray, "M"],
    drop: Float[np.ndarray, "M"],
) -> Float[np.ndarray, "M"]:
    """s(t), the relative noise of the arc resistance."""
    profile, events = operation.profile, operation.events
    rng = generator(operation.seed, "volatility")
    slow = ornstein_uhlenbeck(
        white(rng, len(time_s), 1),
        tau_s=profile.slow_volatility_tau_s,
        step_s=_STEP_S,
    )[:, 0]
    height = generator(operation.seed, "burst height").uniform(
        0.6, 1.4, len(events["bursts"])
    )
    exponent = profile.calm_smelting * profile.slow_volatility * slow - drop
    exponent += 0.75 * pulses(time_s, events["bursts"], height)
    exponent += 0.35 * pulses(time_s, events["feeding"])
    return profile.volatility * supply.volatility_factor * np.exp(exponent)


def _heavy(
    rng: np.random.Generator, steps: int, channels: int
) -> Float[np.ndarray, "M C"]:
    return white(rng, steps, channels, degrees_of_freedom=_DEGREES_OF_FREEDOM)


def _mixed(
    own: Float[np.ndarray, "M 3"], common: Float[np.ndarray, "M 1"]
) -> Float[np.ndarray, "M 3"]:
    return math.sqrt(1 - _COMMON_SHARE) * own + math.sqrt(_COMMON_SHARE) * common


def _arc_noise(
    rng: np.random.Generator, steps: int, *, tau_s: float
) -> Float[np.ndarray, "M 3"]:
    """Heavy-tailed noise of three arcs that share part of their variance."""
    own, common = (
        ornstein_uhlenbeck(_heavy(rng, steps, channels), tau_s=tau_s, step_s=_STEP_S)
        for channels in (3, 1)
    )
    return _mixed(own, common)


def _exhausting(
    operation: Operation, time_s: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """Gas breaking out swings all arcs by +-0.45 with a period of 4-8 s."""
    spans = operation.events["exhausting"]
    rng = generator(operation.seed, "exhausting period")
    period_s = rng.uniform(4.0, 8.0, len(spans))
    since = time_s - pulses(time_s, spans, spans[:, 0])
    frequency_hz = pulses(time_s, spans, 1 / period_s)
    active = pulses(time_s, spans) > 0.5
    return 0.45 * np.where(active, np.sin(2 * np.pi * frequency_hz * since), 0.0)


def _dips(
    operation: Operation, time_s: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M 3"]:
    """Arcs that lengthen for a second: one phase falls."""
    spans = operation.events["dips"]
    rng = generator(operation.seed, "dip depth")
    depth = rng.exponential(0.8, len(spans))
    phase = rng.integers(0, 3, len(spans))
    columns = [pulses(time_s, spans[phase == p], depth[phase == p]) for p in range(3)]
    return np.stack(columns, axis=1)


def _trip(
    operation: Operation,
    time_s: Float[np.ndarray, "M"],
    amperes: Float[np.ndarray, "M 3"],
) -> Float[np.ndarray, "M 3"]:
    """One or two phases at the ceiling, all to zero, a plateau; once or twice."""
    rng = generator(operation.seed, "trip phases")
    amperes = amperes.copy()
    parts = np.cumsum(operation.trip_parts_s, axis=1)
    for begin, edges in zip(operation.events["trips"][:, 0], parts, strict=True):
        part = np.searchsorted(begin + edges, time_s, side="right")
        part[time_s < begin] = len(edges)
        for repeat in (0, 3):
            struck = rng.permutation(3)[: rng.integers(1, 3)]
            amperes[np.ix_(part == repeat, struck)] = 2 * ADC_CEILING_A
            amperes[part == repeat + 1] = 0.0
            amperes[part == repeat + 2] *= rng.uniform(0.15, 0.6)
    return amperes
