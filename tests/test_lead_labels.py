"""Labels in place of a modality: planted delays of a response."""

import dataclasses

import numpy as np
import pytest
import tiny
from test_lead_statistics import planted_clip

from fmalign_jax.config.commands import lead_config
from fmalign_jax.data import dataset
from fmalign_jax.lead import labels, tick_features
from fmalign_jax.lead.tick_features import Clip, TickFeatures


@pytest.fixture(scope="module")
def data(folder):
    return tiny.tiny_config(folder).data


@pytest.fixture(scope="module")
def store(folder):
    tiny.write_recordings(folder / "raw", seconds=400)
    return dataset.open_dataset(tiny.tiny_config(folder))


def _clips(store, data, delay_ticks, *, noise=0.3):
    """Clips whose features of the video follow its labels after a while."""
    ticks = tick_features.lay_windows(store, data, "video", stride_ticks=8).ticks
    rng = np.random.default_rng(0)
    clips = []
    for number, name in enumerate(store.names):
        own = ticks.recording == number
        level = np.roll(ticks.label[own], delay_ticks)[:, None] * np.ones(4)
        values = level + noise * rng.normal(size=(own.sum(), 4))
        values = values.astype(np.float32)
        part = TickFeatures(
            start_s=float(ticks.start_s[own][0]),
            known=np.ones(own.sum(), bool),
            semantic=values,
            code=None,
            plain=values,
            motion=values,
        )
        clips.append(Clip(name, 0, part, part))
    return clips


def _config():
    config = lead_config()
    config.bootstrap_draws = 100
    return config


@pytest.mark.parametrize("delay", [0, 3, -2])
def test_a_planted_delay_is_measured(store, data, delay):
    found = labels.response(_clips(store, data, delay), store, _config(), data)
    assert found.delay_s == pytest.approx(delay * data.tick_s, abs=0.5)
    low, high = found.interval_s
    assert low - 0.5 <= delay * data.tick_s <= high + 0.5
    assert found.recordings == len(store.names)


def test_features_that_know_nothing_of_the_labels_give_no_delay(store, data):
    clips = [
        dataclasses.replace(planted_clip(0, seed), recording=name)
        for seed, name in enumerate(store.names)
    ]
    assert labels.response(clips, store, _config(), data) is None


def test_labels_that_never_change_have_no_time(store, data, monkeypatch):
    lay = tick_features.lay_windows

    def constant(*args, **kwargs):
        windows = lay(*args, **kwargs)
        ticks = windows.ticks
        label = np.ones_like(ticks.label)
        return dataclasses.replace(
            windows, ticks=dataclasses.replace(ticks, label=label)
        )

    monkeypatch.setattr(labels, "lay_windows", constant)
    clips = _clips(store, data, 0)
    assert labels.with_labels(clips, store, data) == []
    assert labels.response(clips, store, _config(), data) is None
