"""Ticks of each modality by itself: windows, nearest centres, plain features, files."""

import dataclasses

import numpy as np
import pytest
import tiny
from hypothesis import given, settings, strategies as st

from fmalign_jax.data import dataset
from fmalign_jax.data.windows.index import nearest_windows
from fmalign_jax.lead import tick_features
from fmalign_jax.lead.tick_features import Clip, TickFeatures


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 6))
@settings(deadline=None)
def test_every_tick_takes_the_window_whose_centre_is_nearest(width, stride, count):
    start = np.arange(count) * stride
    ticks = int(start[-1]) + width + 2
    row, position = nearest_windows(start, width, ticks)
    centres = start + (width - 1) / 2
    for tick in range(ticks):
        covering = (start <= tick) & (tick < start + width)
        if not covering.any():
            assert row[tick] == -1
            continue
        assert covering[row[tick]]
        assert start[row[tick]] + position[tick] == tick
        nearest = np.abs(centres - tick)[covering].min()
        assert abs(centres[row[tick]] - tick) == nearest


def test_plain_features_of_frames_and_of_sensors():
    frames = np.zeros((2, 1, 10, 10, 1), np.uint8)
    frames[1, 0, 3, 4] = 200
    found = tick_features.plain_features(frames)
    np.testing.assert_allclose(found[0], 0)
    np.testing.assert_allclose(found[1, :2], [2, np.std([200] + [0] * 99)], rtol=1e-5)
    sensor = np.array([[[1.0, 5], [3, 5], [2, 5]]])
    np.testing.assert_allclose(
        tick_features.plain_features(sensor), [[2, 5, np.sqrt(1.5), 0]]
    )
    assert tick_features.plain_features(sensor[:, :1]).shape == (1, 2)


@given(st.integers(0, 1000), st.sampled_from([1, 4, 7]))
@settings(deadline=None, max_examples=20)
def test_centred_means_leave_unknown_ticks_out(seed, width):
    rng = np.random.default_rng(seed)
    values, known = rng.normal(size=(12, 2)), rng.uniform(size=12) < 0.7
    found = tick_features.centred_mean(values, known, width)
    for tick in range(12):
        near = slice(max(0, tick - width // 2), tick + width // 2 + 1)
        own = values[near][known[near]]
        expected = own.mean(axis=0) if len(own) else np.zeros(2)
        np.testing.assert_allclose(found[tick], expected, atol=1e-9)


def test_files_read_back(tmp_path):
    rng = np.random.default_rng(0)

    def features(n):
        return TickFeatures(
            start_s=1.5,
            known=rng.uniform(size=n) < 0.5,
            semantic=rng.normal(size=(n, 4)).astype(np.float32),
            code=rng.integers(0, 9, n).astype(np.int32),
            plain=rng.normal(size=(n, 2)).astype(np.float32),
            motion=rng.normal(size=(n, 3)).astype(np.float32),
        )

    clips = [Clip("heat", number, features(5), features(7)) for number in (0, 3)]
    tick_features.save(tmp_path / "heat.npz", clips)
    found = tick_features.load(tmp_path / "heat.npz", "heat")
    for one, other in zip(clips, found, strict=True):
        assert (one.recording, one.number) == (other.recording, other.number)
        for role in ("reference", "leading"):
            mine, theirs = getattr(one, role), getattr(other, role)
            for field in dataclasses.fields(TickFeatures):
                np.testing.assert_array_equal(
                    getattr(mine, field.name), getattr(theirs, field.name)
                )


@pytest.mark.parametrize("modality", ["video", "current"])
def test_windows_follow_the_clock_of_their_own_modality(tmp_path, modality):
    config = tiny.tiny_config(tmp_path)
    config.data.other_leads_s = (4.0,)  # the leads of a run do not enter
    store = dataset.open_dataset(config)
    windows = tick_features.lay_windows(store, config.data, modality, stride_ticks=3)
    assert set(windows.ticks.samples) == {modality}
    first = windows.ticks.samples[modality][0]
    clock = store.timelines()[0].streams[modality].time_s
    middle_s = (windows.ticks.start_s[0] + windows.ticks.end_s[0]) / 2
    assert clock[first].mean() == pytest.approx(middle_s)
    assert np.unique(np.diff(windows.start[windows.recording == 0])) == [3]
