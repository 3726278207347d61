"""The three-phase circuit, the logger, and the operation behind them."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.data.simulator import PROFILES, circuit
from fmalign_jax.data.simulator.circuit import (
    draw_supply,
    log_rows,
    simulate_current,
    star_phasors,
)
from fmalign_jax.data.simulator.operation import ONSET_TAU_S, operate
from fmalign_jax.data.simulator.profiles import DEFAULT

HOUR_S = 3600.0
resistances = st.lists(
    st.tuples(*[st.floats(0.05, 500.0)] * 3), min_size=1, max_size=5
).map(np.array)


def make(profile=DEFAULT, *, seed=1, duration_s=2 * HOUR_S, **changes):
    profile = dataclasses.replace(profile, **changes)
    return operate(profile, duration_s=duration_s, seed=seed, furnace=seed)


@settings(deadline=None, max_examples=25)
@given(resistances, st.floats(2.7, 3.4), st.floats(68.0, 74.0))
def test_star_solves_the_equations_of_the_circuit(resistance_mohm, reactance, voltage):
    phasors = star_phasors(resistance_mohm, reactance_mohm=reactance, voltage_v=voltage)
    for row, found in zip(resistance_mohm, phasors, strict=True):
        # Unknowns: three currents and the voltage of the neutral.
        matrix = np.zeros((4, 4), complex)
        matrix[:3, :3] = np.diag((row + 1j * reactance) / 1e3)
        matrix[:3, 3] = 1
        matrix[3, :3] = 1
        angle = np.radians([0.0, -120.0, -240.0])
        source = voltage * (np.cos(angle) + 1j * np.sin(angle))
        solution = np.linalg.solve(matrix, np.append(source, 0))
        np.testing.assert_allclose(found, solution[:3], rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(resistances)
def test_currents_of_a_floating_star_add_up_to_zero(resistance_mohm):
    phasors = star_phasors(resistance_mohm, reactance_mohm=3.0, voltage_v=71.0)
    assert np.abs(phasors.sum(axis=1)).max() < 1e-6


def test_balanced_star_carries_the_set_point():
    # |Z| = V / S: 71 V at 9.3 kA need 7.63 milliohm.
    resistance = math.sqrt((71e3 / 9300) ** 2 - 3.05**2)
    amperes = np.abs(
        star_phasors(np.full((1, 3), resistance), reactance_mohm=3.05, voltage_v=71.0)
    )
    np.testing.assert_allclose(amperes, 9300.0)


def test_lead_is_the_distance_of_the_half_points():
    operation = make(lead_jitter=False, dark_spells=False, spontaneous_spells=False)
    spells = operation.spells
    long = (spells.end_s - spells.begin_s > 150) & (spells.begin_s > 0)
    time_s = np.arange(0, operation.duration_s, 0.5)
    drop, _ = circuit._state_marks(operation, time_s)
    checked = 0
    for i in np.flatnonzero(long & (spells.end_s < operation.duration_s - 100)):
        middle = (spells.begin_s[i] + spells.end_s[i]) / 2
        risen = drop >= spells.drop[i] / 2
        around = (time_s > spells.begin_s[i] - 20) & (time_s < middle)
        rise_s = time_s[around & risen][0]
        fallen = (time_s > middle) & ~risen
        assert spells.seen_begin_s[i] - rise_s == pytest.approx(240, abs=1)
        fall_s = time_s[fallen][0]
        assert spells.seen_end_s[i] - fall_s == pytest.approx(240, abs=1)
        checked += 1
    assert checked >= 5


def test_lead_0_shows_current_and_video_together():
    operation = make(PROFILES["lead_0"], lead_jitter=False)
    delay = operation.spells.seen_begin_s - operation.spells.begin_s
    np.testing.assert_allclose(delay, ONSET_TAU_S * math.log(2))


def test_lead_may_differ_by_recording():
    leads = [
        make(seed=s, lead_s=(120.0, 300.0), lead_jitter=False).lead_s for s in range(40)
    ]
    assert 120 <= min(leads) < 160 < 260 < max(leads) <= 300


def test_visible_and_state_are_the_spells():
    operation = make()
    time_s = np.arange(0, HOUR_S, 7.0)
    spells = operation.spells
    for found, begin, end, counted in (
        (operation.state, spells.begin_s, spells.end_s, spells.precursor),
        (operation.visible, spells.seen_begin_s, spells.seen_end_s, spells.seen),
    ):
        expected = [any((begin[counted] <= t) & (t < end[counted])) for t in time_s]
        np.testing.assert_array_equal(found(time_s), expected)


def test_state_is_visible_about_half_of_the_time():
    seconds = np.arange(0, 3000.0, 5)
    share = np.mean(
        [make(seed=s, duration_s=3000.0).visible(seconds).mean() for s in range(60)]
    )
    assert 0.45 < share < 0.55


def test_spells_and_normal_stretches_last_minutes():
    operation = make(duration_s=50 * HOUR_S, lead_jitter=False)
    length = operation.spells.end_s - operation.spells.begin_s
    between = operation.spells.begin_s[1:] - operation.spells.end_s[:-1]
    assert length.min() >= 90
    assert between.min() >= 85
    assert length.mean() == pytest.approx(260, abs=30)
    assert between.mean() == pytest.approx(250, abs=30)


@pytest.mark.parametrize("profile", ["default", "hard", "easy"])
def test_change_from_row_to_row_is_smaller_in_the_state(profile):
    operation = make(PROFILES[profile])
    time_s, amperes = simulate_current(operation)
    change = np.abs(np.diff(amperes, axis=0)).mean(axis=1)
    state = operation.state(time_s[1:])
    assert np.median(change[state]) < 0.75 * np.median(change[~state])


def test_no_precursor_tells_nothing():
    with_spells = make(PROFILES["no_precursor"])
    assert not with_spells.state(np.arange(0, HOUR_S)).any()
    assert with_spells.visible(np.arange(0, HOUR_S)).any()
    # The same currents whatever the spells are like.
    other = make(PROFILES["no_precursor"], weak_spells=False)
    np.testing.assert_array_equal(
        simulate_current(with_spells)[1], simulate_current(other)[1]
    )


def test_ceilings_and_zeros_are_present():
    currents = np.concatenate([simulate_current(make(seed=s))[1] for s in range(5)])
    assert 1e-4 < (currents == 14_000).mean() < 0.05
    assert 1e-4 < (currents == 0).mean() < 0.05


EVENTS = ("bursts", "feeding", "exhausting", "dips", "trips")


@pytest.mark.parametrize("name", EVENTS)
def test_switch_removes_the_event_and_nothing_else(name):
    on, off = make(seed=3), make(seed=3, **{name: False})
    assert len(on.events[name]) > 0
    assert len(off.events[name]) == 0
    time_s, current = simulate_current(on)
    changed = (current != simulate_current(off)[1]).any(axis=1)
    assert changed.any()
    spans = on.events[name]
    during = ((time_s[:, None] >= spans[:, 0]) & (time_s[:, None] < spans[:, 1])).any(1)
    assert not (changed & ~during).any()


@pytest.mark.parametrize("name", ["bursts", "feeding", "exhausting", "dips", "trips"])
def test_events_happen_in_both_states(name):
    counts = np.zeros(2)
    for seed in range(20):
        operation = make(seed=seed)
        state = operation.state(operation.events[name][:, 0])
        counts += np.bincount(state.astype(int), minlength=2)
    assert counts.min() > 0
    # Rates in the state relative to normal smelting.
    expected = {"bursts": 0.45, "feeding": 1.0, "exhausting": 0.4, "dips": 0.15}
    expected = {**expected, "trips": 2.5}[name]
    assert counts[1] / counts[0] == pytest.approx(expected, rel=0.4)


def test_kinds_of_spell_are_switches():
    assert set(make(duration_s=20 * HOUR_S).spells.kind) == {0, 1, 2}
    without_weak = make(duration_s=20 * HOUR_S, weak_spells=False).spells
    assert without_weak.drop.min() >= DEFAULT.wander.drop[0]
    without_wander = make(duration_s=20 * HOUR_S, wander_spells=False).spells
    assert without_wander.wander.max() <= DEFAULT.weak.wander[1]
    deep = make(duration_s=20 * HOUR_S, weak_spells=False, wander_spells=False).spells
    assert deep.drop.min() >= DEFAULT.deep.drop[0]


def test_dark_and_spontaneous_spells_are_switches():
    spells = make(duration_s=60 * HOUR_S).spells
    for shown in (spells.seen, spells.precursor):
        assert 0.005 < 1 - shown.mean() < 0.05
    assert not (~spells.seen & ~spells.precursor).any()
    assert make(duration_s=60 * HOUR_S, dark_spells=False).spells.seen.all()
    honest = make(duration_s=60 * HOUR_S, spontaneous_spells=False).spells
    assert honest.precursor.all()


def test_lead_jitter_is_a_switch():
    def delays(**changes):
        spells = make(duration_s=60 * HOUR_S, **changes).spells
        return np.concatenate(
            [spells.seen_begin_s - spells.begin_s, spells.seen_end_s - spells.end_s]
        )

    assert delays().std() == pytest.approx(7, abs=0.8)
    assert delays(lead_jitter=False).std() < 1e-9
    by_recording = [make(seed=s, duration_s=60.0).lead_s for s in range(200)]
    assert np.std(by_recording) == pytest.approx(8, abs=1.5)


def test_every_episode_has_a_lead_of_its_own():
    profile = dataclasses.replace(PROFILES["wide_leads"], lead_jitter=False)
    spells = make(profile, duration_s=60 * HOUR_S).spells
    half_point_s = spells.begin_s + ONSET_TAU_S * np.log(2)
    lead_s = spells.seen_begin_s - half_point_s
    assert 180 <= lead_s.min() < 185
    assert 295 < lead_s.max() <= 300
    assert lead_s.std() == pytest.approx(120 / np.sqrt(12), rel=0.05)
    lasting_s = spells.seen_end_s - spells.seen_begin_s
    np.testing.assert_allclose(lasting_s, spells.end_s - spells.begin_s)


def test_calm_smelting_is_a_switch():
    quiet = dict.fromkeys((*EVENTS, "precursor", "trips", "set_point_steps"), False)

    def spread(**changes):
        _, amperes = simulate_current(make(**quiet, **changes))
        activity = np.log(np.abs(np.diff(amperes, axis=0)) + 1).mean(axis=1)
        return activity[: 120 * 119].reshape(-1, 120).mean(axis=1).std()

    assert spread(calm_smelting=False) < 0.6 * spread()


def test_furnace_spread_is_a_switch():
    spread = [draw_supply(DEFAULT, furnace) for furnace in range(30)]
    even = dataclasses.replace(DEFAULT, furnace_spread=False)
    same = [draw_supply(even, furnace) for furnace in range(30)]
    for name in ("voltage_v", "reactance_mohm", "set_point_a", "volatility_factor"):
        assert len({getattr(supply, name) for supply in spread}) == 30
        assert len({getattr(supply, name) for supply in same}) == 1


def test_phase_loudness_is_a_switch():
    even = draw_supply(dataclasses.replace(DEFAULT, phase_loudness=False), 3)
    np.testing.assert_array_equal([even.loudness, even.gain], 1)
    uneven = draw_supply(DEFAULT, 3)
    assert np.ptp(uneven.loudness) > 0.01
    assert np.ptp(uneven.gain) > 0.001


def test_set_point_steps_are_a_switch():
    def steps(**changes):
        operation = make(**changes)
        time_s = np.arange(0, operation.duration_s, 0.5)
        supply = draw_supply(operation.profile, operation.furnace)
        resistance = circuit._set_point_resistance(operation, supply, time_s)
        return np.count_nonzero(np.diff(resistance))

    assert 2 <= steps() <= 20
    assert steps(set_point_steps=False) == 0


def rows_per_second(operation):
    rows = 2 * round(operation.duration_s)
    row, stamp_s = log_rows(operation, rows)
    assert (np.diff(stamp_s) >= 0).all()
    counts = np.bincount(row // 2, minlength=rows // 2)
    return np.bincount(counts, minlength=4)


def test_logger_quirks_are_switches():
    duration_s = 20 * HOUR_S
    counts = rows_per_second(make(duration_s=duration_s))
    missing, one, _, three = counts / duration_s
    assert 0.0005 < missing < 0.003
    assert 0.0002 < one < 0.001
    assert 0.0002 < three < 0.001
    assert rows_per_second(make(duration_s=duration_s, missing_seconds=False))[0] == 0
    even = rows_per_second(make(duration_s=duration_s, uneven_rows=False))
    assert even[1] == even[3] == 0


def test_clock_offset_is_a_switch():
    offsets = [circuit.clock_offset_s(make(seed=s, duration_s=9.0)) for s in range(50)]
    assert 0 <= min(offsets) < 0.5 < 1.5 < max(offsets) <= 2
    operation = make(clock_offset=False)
    row, stamp_s = log_rows(operation, 100)
    np.testing.assert_array_equal(stamp_s, row / 2)
    late = make()
    shift = log_rows(late, 100)[1] - row / 2
    np.testing.assert_allclose(shift, circuit.clock_offset_s(late))


@pytest.mark.parametrize("wrong", [{"duration_s": 0.0}, {"seed": -1}, {"furnace": -1}])
def test_unusable_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        operate(DEFAULT, **{"duration_s": 10.0, "seed": 0, "furnace": 0, **wrong})
