"""What a run needs before its first step."""

import logging

import flax.linen as nn
import numpy as np
import pytest
import tiny

from fmalign_jax import sweep
from fmalign_jax.config import component
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
