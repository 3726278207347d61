"""Frames and masks: what is drawn, and that every visual confounder is a switch."""

import dataclasses

import numpy as np
import pytest

from fmalign_jax.data.simulator import renderer
from fmalign_jax.data.simulator.operation import operate
from fmalign_jax.data.simulator.processes import generator
from fmalign_jax.data.simulator.profiles import DEFAULT
from fmalign_jax.data.simulator.renderer import draw_weather, render
from fmalign_jax.data.simulator.shell import Spot, draw_shell, draw_spots

SECONDS = np.arange(0, 1800.0)
SPARSE = np.arange(0, 3600.0, 20.0)
CLEAR = dataclasses.replace(
    DEFAULT, light_changes=False, mist=False, puffs=False, plume=False, sparks=False
)

TESTED_ELSEWHERE = {  # in test_circuit.py and test_simulator.py
    *("precursor", "wander_spells", "weak_spells", "calm_smelting", "bursts"),
    *("feeding", "exhausting", "dips", "trips", "furnace_spread", "phase_loudness"),
    *("set_point_steps", "lead_jitter", "dark_spells", "spontaneous_spells"),
    *("missing_seconds", "uneven_rows", "clock_offset"),
}


def make(profile=DEFAULT, *, seed=1, duration_s=3600.0, **changes):
    profile = dataclasses.replace(profile, **changes)
    return operate(profile, duration_s=duration_s, seed=seed, furnace=seed)


def weather(time_s=SECONDS, **changes):
    operation = make(**changes)
    shell = draw_shell(operation.profile, operation.furnace)
    return draw_weather(operation, shell, time_s)


def total_spot_light(operation, time_s):
    """Light of the spots alone, over a black shell without mist."""
    scene = np.zeros((len(time_s), 64, 64, 3), np.float32)
    shell = draw_shell(operation.profile, operation.furnace)
    spots = draw_spots(operation, shell)
    renderer._add_spots(scene, spots, time_s, np.ones(len(time_s), np.float32))
    return scene


def test_frames_and_masks_are_images():
    frames, masks = render(make(), SPARSE)
    assert frames.shape == (len(SPARSE), 64, 64, 3)
    assert frames.dtype == masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 1}
    assert 40 < frames.mean() < 230
    # Light falls from the top.
    assert frames[:, :21].mean() > 1.05 * frames[:, 43:].mean()


def test_a_pixel_is_marked_exactly_while_the_state_is_visible():
    operation = make()
    _, masks = render(operation, SPARSE)
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), operation.visible(SPARSE))


def test_masks_cover_as_much_as_on_the_real_shell():
    areas = []
    for seed in range(6):
        _, masks = render(make(seed=seed), SPARSE)
        areas.append(masks.mean(axis=(1, 2)))
    areas = np.concatenate(areas)
    areas = areas[areas > 0]
    assert 0.003 < np.median(areas) < 0.012
    assert areas.max() < 0.05


def test_spot_grows_and_brightens_and_fades():
    spot = Spot(
        begin_s=100.0,
        end_s=400.0,
        labelled=True,
        centre_px=np.array([[40.0, 30.0]]),
        final_radius_px=np.array([4.0]),
        growth_s=40.0,
        peak=1.0,
    )
    time_s = np.array([101.0, 140.0, 390.0, 408.0])
    brightness = spot.brightness(time_s)
    # 1 - exp(-t/15) while it lasts, then to 5 % (e^-3) within 8 s.
    expected = [1 - np.exp(-1 / 15), 1 - np.exp(-40 / 15), 1, np.exp(-3)]
    np.testing.assert_allclose(brightness, expected, rtol=1e-6)
    core, halo = spot.core_and_halo(time_s)
    area = (core > renderer.MASK_LEVEL).sum(axis=(1, 2))
    # exp(-(r / R)^2) > .45 within .8936 R; R(t) = .8 + 3.2 (1 - exp(-t/40)).
    marked = 0.8936 * (0.8 + 3.2 * (1 - np.exp(-np.array([1, 40, 290]) / 40)))
    distance = np.hypot(*np.mgrid[-40:24, -30:34])
    np.testing.assert_array_equal(area[:3], [(distance < r).sum() for r in marked])
    assert core[2].max() == core[2, 40, 30]
    assert (halo >= core - 1e-6).all()


def test_spot_adds_light_where_the_mask_is():
    operation = make(CLEAR)
    time_s = np.arange(0, 3600.0, 5.0)
    shell = draw_shell(operation.profile, operation.furnace)
    spots = [spot for spot in draw_spots(operation, shell) if spot.end_s > 300]
    spot = next(s for s in spots if s.end_s - s.begin_s > 120 and s.begin_s > 50)
    frames, masks = render(operation, time_s)
    before = frames[time_s < spot.begin_s][-1].astype(float)
    late = np.flatnonzero(time_s < spot.end_s)[-1]
    gain = frames[late].astype(float) - before
    assert gain[masks[late] == 1].mean() > 20
    far = np.zeros((64, 64), bool)
    far[:16] = True
    assert abs(gain[far].mean()) < 6


def test_fading_spot_is_no_longer_marked():
    operation = make(CLEAR)
    end_s = operation.spells.seen_end_s
    end_s = end_s[(end_s > 0) & (end_s < 3590)][0]
    time_s = end_s + np.array([1.0, 2.0])
    assert not render(operation, time_s)[1].any()
    assert total_spot_light(operation, time_s).max() > 20


def test_flicker_is_the_same_process_at_any_frame_rate():
    for step_s in (0.04, 1.0):
        time_s = np.arange(0, 20_000 * step_s, step_s)
        logarithm = np.log(weather(time_s, duration_s=20_000.0).flicker)
        assert logarithm.std() == pytest.approx(0.08, rel=0.1)
        centred = logarithm - logarithm.mean()
        correlation = (centred[1:] * centred[:-1]).mean() / centred.var()
        assert correlation == pytest.approx(np.exp(-step_s / 0.4), abs=0.05)


def test_every_switch_has_a_test():
    switches = {
        field.name
        for field in dataclasses.fields(DEFAULT)
        if isinstance(getattr(DEFAULT, field.name), bool)
    }
    here = {
        name.removeprefix("test_switch_")
        for name in globals()
        if name.startswith("test_switch_")
    }
    assert switches == here | TESTED_ELSEWHERE


def test_switch_light_changes():
    changing, steady = weather(), weather(light_changes=False)
    for name in ("colour", "flame", "exposure"):
        assert getattr(changing, name).std(axis=0).min() > 0.05
        assert getattr(steady, name).std(axis=0).max() < 1e-9


def test_switch_white_out():
    assert (weather().colour.min(axis=1) > 190).any()
    assert not (weather(white_out=False).colour.min(axis=1) > 190).any()


def test_switch_mist():
    assert weather().veil.std() > 0.03
    assert np.median(weather().veil) == pytest.approx(0.18, abs=0.06)
    assert not weather(mist=False).veil.any()


def test_switch_puffs():
    assert 0.65 < weather().puff.max() < 0.97
    assert not weather(puffs=False).puff.any()
    frames, without = (
        render(make(puffs=puffs), SECONDS[::4])[0] for puffs in (True, False)
    )
    hidden = weather().puff[::4] > 0.6
    contrast = frames.std(axis=(1, 2)).mean(axis=1)
    assert contrast[hidden].mean() < 0.6 * without.std(axis=(1, 2)).mean()


def test_switch_plume():
    assert any(draw_shell(DEFAULT, f).plume_strength > 0.3 for f in range(9))
    off = dataclasses.replace(DEFAULT, plume=False)
    assert not any(draw_shell(off, f).plume_strength for f in range(9))
    assert weather().plume.max() > 0
    assert not weather(plume=False).plume.any()


def test_switch_static_dots():
    counts = [draw_shell(DEFAULT, f).dots.max() > 0 for f in range(20)]
    assert 0 < sum(counts) < 20
    off = dataclasses.replace(DEFAULT, static_dots=False)
    assert not any(draw_shell(off, f).dots.any() for f in range(20))


def test_switch_sparks():
    operation = make(sparks=True)
    shell = draw_shell(operation.profile, 1)
    sparks = [spot for spot in draw_spots(operation, shell) if not spot.labelled]
    assert sparks
    assert max(spark.end_s - spark.begin_s for spark in sparks) <= 4
    without = draw_spots(make(sparks=False), shell)
    assert all(spot.labelled for spot in without)


def test_switch_label_under_mist():
    time_s = SECONDS[::2]
    hidden = weather(time_s).puff > 0.75
    _, masks = render(make(), time_s)
    _, seen = render(make(label_under_mist=False), time_s)
    assert masks[hidden].any()
    assert not seen[hidden].any()
    assert seen.any()
    assert (seen <= masks).all()


def test_switch_missing_frames():
    from fmalign_jax.data.simulator import simulate

    lossy = simulate(DEFAULT, duration_s=600.0, seed=1)
    assert 600 * 0.97 < len(lossy.frames) < 600
    assert len(lossy.frame_second) == len(lossy.masks) == len(lossy.frames)
    whole = dataclasses.replace(DEFAULT, missing_frames=False)
    assert len(simulate(whole, duration_s=600.0, seed=1).frames) == 600


def test_static_dots_and_sites_belong_to_the_furnace():
    first, second = draw_shell(DEFAULT, 5), draw_shell(DEFAULT, 5)
    np.testing.assert_array_equal(first.sites_px, second.sites_px)
    np.testing.assert_array_equal(first.albedo, second.albedo)
    for furnace in range(20):
        sites = draw_shell(DEFAULT, furnace).sites_px
        assert 1 <= len(sites) <= 3
        assert (sites[:, 0] >= 0.45 * 64).all()
        assert (sites[:, 0] <= 0.9 * 64).all()


def test_camera_noise_is_about_one_percent():
    scene = np.full((20, 64, 64, 3), 120.0, np.float32)
    frames = renderer._photograph(scene, generator(0, "noise")).astype(float)
    assert frames.std() / 255 == pytest.approx(0.012, rel=0.15)
