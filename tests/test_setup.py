"""What a run needs before its first step."""

import dataclasses
import logging

import flax.linen as nn
import numpy as np
import pytest
import tiny

from fmalign_jax import sweep
from fmalign_jax.config import component
from fmalign_jax.data import pipeline
from fmalign_jax.data.windows.tables import window_tables
from fmalign_jax.sweeps import data as sweep_data
from fmalign_jax.sweeps.vmapped import VmappedRuns
from fmalign_jax.training import setup, sharding
from fmalign_jax.training.state import make_trainer


@pytest.fixture
def config(tmp_path):
    config = tiny.tiny_config(tmp_path)
    config.data.batch_from = "recording"
    config.data.split.validation = 0.0
    return config


class Stop(Exception):
    """Raised where the first state would be made, with what it is made of."""


def stop(*arguments):
    raise Stop(*arguments)


def test_the_first_state_is_made_of_several_recordings(monkeypatch, config):
    """Scale and codes would otherwise be those of one furnace."""
    data = setup.load_data(config)
    trainer = make_trainer(config, steps_per_epoch=1, steps=1)
    monkeypatch.setattr(setup, "init_state", stop)
    with pytest.raises(Stop) as stopped:
        setup.first_state(trainer, data, sharding.make_mesh())
    batch = stopped.value.args[1]
    assert len(set(np.asarray(batch["recording"]).tolist())) > 1
    assert config.data.batch_from == "recording"


def test_so_are_those_of_a_sweep(monkeypatch, config):
    programs = VmappedRuns.__new__(VmappedRuns)
    programs.seeds = [0, 1]
    monkeypatch.setattr(VmappedRuns, "first_states", stop)
    data = sweep_data.load_data([config])
    with pytest.raises(Stop) as stopped:
        sweep.first_states(programs, data, config, sharding.one_device_mesh())
    for row in np.asarray(stopped.value.args[1]["recording"]):
        assert len(set(row.tolist())) > 1


def test_the_log_says_how_many_windows_each_recording_gives(config, caplog):
    caplog.set_level(logging.INFO)
    data = setup.load_data(config)
    counts = np.bincount(data.windows["train"].recording)
    for name, count in zip(data.store.names, counts, strict=True):
        assert f"{name} {count}" in caplog.text
    assert "share batches" not in caplog.text
    config.batch_size = int(counts.max()) + 1
    config.epochs = 20.0
    setup.load_data(config)
    assert f"fewer windows than a batch ({config.batch_size})" in caplog.text
    assert caplog.text.rstrip().endswith(", ".join(data.store.names))


class Labelled(nn.Module):
    """An objective that asks for labels."""

    labels = "L2"


def test_an_objective_with_labels_needs_labelled_recordings(tmp_path):
    config = tiny.tiny_config(tmp_path)
    config.objectives.told = component(f"{__name__}.Labelled", weight=1.0)
    assert len(setup.load_data(config).training)
    for file in (tmp_path / "raw").glob("*.npz"):
        arrays = dict(np.load(file))
        arrays["frame_label"] = np.full_like(arrays["frame_label"], -1)
        np.savez(file, **arrays)
    with pytest.raises(
        ValueError, match=r"labels \(L2\) needs labelled training windows; got none of"
    ):
        setup.load_data(config)
    config.objectives.told.weight = 0.0
    assert len(setup.load_data(config).training)


def test_with_shuffled_partners_training_sees_the_current_of_another_recording(config):
    config.data.split.validation_recordings = ("furnace_2",)
    plain = setup.load_data(config)
    config.data.shuffle_partners = True
    found = setup.load_data(config)

    def currents(data, split):
        index = data.windows[split]
        batch = pipeline.assemble(data.store, index, np.arange(len(index)))
        return batch["recording"], batch["streams"]

    recording, streams = currents(found, "train")
    assert set(recording.tolist()) == {0, 1}
    _, own = currents(plain, "train")
    half = len(recording) // 2  # both have the same windows
    np.testing.assert_array_equal(streams["video"], own["video"])
    np.testing.assert_array_equal(streams["current"][:half], own["current"][half:])
    np.testing.assert_array_equal(streams["current"][half:], own["current"][:half])
    for name, values in currents(plain, "validation")[1].items():
        np.testing.assert_array_equal(currents(found, "validation")[1][name], values)
    tables = window_tables(found.store, found.training)
    others = window_tables(plain.store, plain.training)["values"]["current"]
    assert tables["values"]["current"].shape == others.shape
    assert not np.array_equal(tables["values"]["current"], others)


def test_partners_of_one_recording_cannot_be_shuffled(config):
    config.data.shuffle_partners = True
    config.data.split.validation_recordings = ("furnace_1", "furnace_2")
    with pytest.raises(ValueError, match=r"two recordings or more; got 1"):
        setup.load_data(config)


def test_a_shorter_stream_begins_again(config):
    store = setup.load_data(config).store
    lengths = [len(t.streams["current"].time_s) for t in store.timelines()]
    other = store.exchanged("current", [2, 0])
    reader = other._readers["current"]
    short = dataclasses.replace(reader, lengths=np.array([4, *lengths[1:]]))
    samples = np.array([[1, 5]])
    first = store.gather("current", 0, np.array([1]))[0]
    np.testing.assert_array_equal(short.gather(2, samples), [[first, first]])
    np.testing.assert_array_equal(
        other.gather("current", 1, samples), store.gather("current", 1, samples)
    )
