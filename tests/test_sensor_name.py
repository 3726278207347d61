"""A sensor that is no current keeps its own name, from the files to the summary."""

import json

import numpy as np
import pytest
import tiny

from fmalign_jax.config import default_config, rename_modality, shipped_config
from fmalign_jax.config.check import check_config
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.train import train


def _words(value):
    """Every key and every text of a config, however deep."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _words(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        yield value


def _sensor(path, **more):
    np.savez(path, sensor=np.ones((4, 2)), sensor_t=np.arange(4.0), **more)


def test_files_give_the_stream_the_name(tmp_path):
    _sensor(tmp_path / "a.npz", channel_names=np.array(["x", "y"]))
    plain = RecordingFiles(tmp_path)
    named = RecordingFiles(tmp_path, sensor_name="wrist")
    recording = named.read("a")
    assert set(recording.streams) == {"wrist"}
    assert recording.streams["wrist"].channel_names == ("x", "y")
    assert recording.taken[str(tmp_path / "a.npz")].startswith("streams 'wrist'")
    assert set(plain.read("a").streams) == {"current"}
    assert named.fingerprint() != plain.fingerprint()
    more = {"streams": np.array(["wrist"]), "wrist": np.ones(4), "wrist_t": np.ones(4)}
    _sensor(tmp_path / "a.npz", **more)
    with pytest.raises(ValueError, match="streams must have different names"):
        named.read("a")


@pytest.mark.parametrize("name", ["video", "", "a b", "1a", "../x"])
def test_names_that_are_none_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="sensor_name must be a word"):
        RecordingFiles(tmp_path, sensor_name=name)


@pytest.mark.parametrize(
    "name", [None, "recordings", "pretrain:recordings", "recordings:clips"]
)
def test_no_table_keeps_the_old_name(name):
    config = default_config() if name is None else shipped_config(name)
    config.data.path = config.data.prepared_dir = "current"  # folders keep theirs
    before = config.to_dict()
    rename_modality(config, "current", "wrist")
    after = config.to_dict()
    assert (after["data"].pop("path"), after["data"].pop("prepared_dir")) == (
        ("current",) * 2
    )
    words = list(_words(after))
    assert "current" not in words
    assert words.count("wrist") == list(_words(before)).count("current") - 2
    rename_modality(config, "wrist", "current")
    assert config.to_dict() == before


def test_only_a_modality_gets_a_new_name():
    for old, new in (("wrist", "arm"), ("current", "video")):
        with pytest.raises(ValueError, match="must be renamed to another name"):
            rename_modality(default_config(), old, new)


@pytest.mark.slow
def test_training_speaks_of_the_new_name(tmp_path):
    config = tiny.tiny_config(tmp_path)
    config.update_from_flattened_dict(tiny.LIGHT)
    config.max_steps = config.checkpoint_every_steps = 2
    config.data.options.sensor_name = "wrist"
    rename_modality(config, "current", "wrist")
    check_config(config)
    workdir = tmp_path / "run"
    train(config, workdir)
    text = (workdir / "summary.json").read_text()
    assert "wrist" in text
    assert "current" not in json.dumps(json.loads(text))
    assert "wrist" in (workdir / "metrics.jsonl").read_text()
